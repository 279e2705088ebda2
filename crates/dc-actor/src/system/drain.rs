//! Draining this datacenter: the operator's intent written, and how far it is (P8, G5).

use std::{cmp::Ordering, fmt, sync::Arc, time::Duration};

use dc_controlplane::wall_ms;
use dc_core::{Intent, IntentKind, Version};

use super::node::Node;
use crate::error::Error;

/// Who drains, and why, for the next person on call: it is kept with the intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainOptions {
    by: String,
    why: String,
}

impl Default for DrainOptions {
    fn default() -> Self {
        Self { by: "ActorSystem::drain".into(), why: String::new() }
    }
}

impl DrainOptions {
    /// Who says so. Default: this library.
    #[must_use]
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.by = who.into();
        self
    }

    /// Why. Default: nothing.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
}

/// How far a drain is, as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainProgress {
    /// Names and slots of grains that other datacenters own by now, of those that this one had when it began.
    pub moved: usize,
    /// What this datacenter still owns.
    pub left: usize,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// This datacenter owns nothing global. It stays drained until an operator says otherwise (P8).
    Drained,
    /// Somebody wrote another intent: what is still here stays, and everything has exactly one owner.
    Aborted,
}

/// A drain of this datacenter. Dropping it changes nothing: the intent stands, and the drain goes on.
pub struct Drain {
    node: Arc<Node>,
    options: DrainOptions,
    first: usize,
    told: Option<DrainProgress>,
    /// Which write the intent is: one that the table shows at this version or a later one has taken its place.
    written: Version,
    /// The table has shown that it is to be drained.
    seen: bool,
}

/// How often it is counted.
const LOOK: Duration = Duration::from_millis(50);

impl Drain {
    /// Writes the intent. From then on every node of this datacenter hands over what it owns, also where this one ends.
    pub(super) async fn begin(node: Arc<Node>, options: DrainOptions) -> Result<Self, Error> {
        if let Some(global) = node.try_global() {
            // What is owned is counted once it is known; without it the drain is begun all the same.
            let _ = tokio::time::timeout(node.options().ask_timeout, global.ownership.until_ready()).await;
        }
        let first = Self::owned(&node);
        let written = write(&node, &options, IntentKind::Drain).await?;
        Ok(Self { node, options, first, told: None, written, seen: false })
    }

    fn owned(node: &Node) -> usize {
        node.try_global().map_or(0, |global| global.ownership.owned_by(node.data_center().id()))
    }

    /// How far it is now.
    pub fn progress(&self) -> DrainProgress {
        let left = Self::owned(&self.node);
        DrainProgress { moved: self.first.saturating_sub(left), left }
    }

    /// The next change of its progress; `None` once it has ended, see [`outcome`](Self::outcome). Cancel-safe.
    pub async fn next(&mut self) -> Option<DrainProgress> {
        loop {
            let now = self.progress();
            if self.told != Some(now) {
                self.told = Some(now);
                return Some(now);
            }
            if self.ended(now) {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether it has ended, of which `now` has been told.
    fn ended(&mut self, now: DrainProgress) -> bool {
        match self.wanted() {
            Some(true) => now.left == 0 && self.node.try_global().is_none_or(|global| global.ownership.ready()),
            Some(false) => true,
            None => false,
        }
    }

    /// Whether this drain stands, as far as the table shows; `None` where it does not show the intent yet, or has lost
    /// sight of the own record: neither undoes a drain.
    fn wanted(&mut self) -> Option<bool> {
        let table = self.node.table().snapshot();
        let entry = table.get(self.node.data_center().id())?;
        if matches!(entry.wanted(), IntentKind::Drain | IntentKind::Out) {
            self.seen = true;
            return Some(true);
        }
        let undone = match entry.intent_version() {
            Some(shown) => shown.partial_cmp(&self.written) != Some(Ordering::Less),
            // The store has lost it.
            None => self.seen,
        };
        undone.then_some(false)
    }

    /// Waits until it has ended, one way or the other. Cancel-safe.
    pub async fn outcome(&mut self) -> DrainOutcome {
        while self.next().await.is_some() {}
        if self.wanted() == Some(false) { DrainOutcome::Aborted } else { DrainOutcome::Drained }
    }

    /// Undoes it: writes that this datacenter is to serve. What is being handed over is settled, the rest stays, and
    /// what has moved comes back only as its failback says.
    ///
    /// # Errors
    ///
    /// As [`ActorSystem::drain`](crate::ActorSystem::drain).
    pub async fn abort(&self) -> Result<(), Error> {
        write(&self.node, &self.options, IntentKind::Serve).await.map(drop)
    }
}

async fn write(node: &Node, options: &DrainOptions, want: IntentKind) -> Result<Version, Error> {
    let intent = Intent { at_ms: wall_ms(), ..Intent::new(want, &options.by, &options.why) };
    intent.check()?;
    let written = node.plane().set_intent(node.data_center().id(), &intent).await;
    let written = written.map_err(|error| Error::OwnershipUnavailable {
        what: format!("the intent of {}", node.data_center().id()),
        reason: error.to_string(),
    })?;
    if !node.table().is_watching() {
        // Nobody tells of it: this node need not wait for the next list.
        node.table().refresh();
    }
    Ok(written)
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("of", self.node.data_center().id()).field("progress", &self.progress()).finish()
    }
}
