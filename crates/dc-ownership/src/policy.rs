//! What is declared of a global name or a kind of global grains: what it survives, where it may live, what it prefers.

use std::time::Duration;

use dc_core::{DataCenter, DataCenterSelector, Invalid};
use serde::{Deserialize, Serialize};

use crate::ids::GroupId;

/// The greatest loss that something survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loss {
    /// It ends with its node: the name is free again. Not for grains.
    Nothing,
    /// When its node is lost, another node of the same datacenter has it. The default.
    #[default]
    Node,
    /// When its datacenter is lost, another one has it.
    DataCenter,
}

/// What happens when a loss that is survived has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnLoss {
    /// It moves, once its owner has been silent for the lease and this much longer. The default, with no grace.
    Relocate {
        /// Beyond the lease. Gives a datacenter that comes back soon the time to.
        grace: Duration,
    },
    /// It waits for its own datacenter to come back.
    Wait,
    /// It stays until an operator moves it.
    Operator,
}

impl Default for OnLoss {
    fn default() -> Self {
        Self::Relocate { grace: Duration::ZERO }
    }
}

/// Whether it goes back when a better place is there again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failback {
    /// It stays where it is until it is moved. The default.
    #[default]
    Manual,
    /// It moves back by itself, as in a drain: one by one, at a bounded rate.
    Automatic,
}

/// What goes first while the store cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// One in the world: the owner stops when its lease ends. The default.
    #[default]
    Strict,
    /// Always served: the owner goes on while the store is away. **Gives up "one in the world"**: an owner that only
    /// it cannot reach the store serves beside its successor until it hears of it.
    Available,
}

/// What is declared of a global name, or of a kind of global grains.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The greatest loss that it survives.
    #[serde(default)]
    pub survives: Loss,
    /// What happens then.
    #[serde(default)]
    pub on_loss: OnLoss,
    /// Whether it goes back.
    #[serde(default)]
    pub failback: Failback,
    /// What goes first while the store is away.
    #[serde(default)]
    pub strictness: Strictness,
    /// Where it may live at all (jurisdiction). Never left.
    #[serde(default)]
    pub within: DataCenterSelector,
    /// Where it goes when its datacenter is lost, among those; without it, anywhere among those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_to: Option<DataCenterSelector>,
    /// Where it lives by preference, among those `within`; others only while none of these is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<DataCenterSelector>,
}

impl Policy {
    /// Checks what can be checked of it alone.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        self.within.check()?;
        self.failover_to.as_ref().map_or(Ok(()), DataCenterSelector::check)?;
        self.prefer.as_ref().map_or(Ok(()), DataCenterSelector::check)?;
        if let OnLoss::Relocate { grace } = self.on_loss
            && grace > Duration::from_secs(86_400)
        {
            return Err(Invalid::new("grace", format!("{grace:?}"), "must be at most a day"));
        }
        Ok(())
    }

    /// Whether it may live in `dc`.
    pub fn allows(&self, dc: &DataCenter) -> bool {
        self.within.matches(dc)
    }

    /// Whether it may go to `dc` when its own datacenter is lost.
    pub fn may_fail_over_to(&self, dc: &DataCenter) -> bool {
        self.survives == Loss::DataCenter
            && self.allows(dc)
            && self.failover_to.as_ref().is_none_or(|selector| selector.matches(dc))
    }

    /// Whether `dc` is among those it prefers; without a preference, all are.
    pub fn prefers(&self, dc: &DataCenter) -> bool {
        self.prefer.as_ref().is_none_or(|selector| selector.matches(dc))
    }

    /// The placement group of kinds with this policy. Equal policies have equal groups, on every node.
    pub fn group(&self) -> GroupId {
        // A policy is plain data: maps have text keys, so JSON takes it.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let hash = |salt: u8| {
            let salted: Vec<u8> = std::iter::once(salt).chain(text.iter().copied()).collect();
            u128::from(dc_core::snapshot::hash::mix(dc_core::snapshot::hash::fnv(&salted)))
        };
        GroupId(hash(0) << 64 | hash(1))
    }
}
