//! Which datacenters a request is for (L1).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{DataCenter, DataCenterId, Invalid, invalid::check_name};

/// Where a selector starts: `Selector::name("dc-2").region("eu-west-1")`.
///
/// ```
/// use dc_core::{DataCenter, Selector};
/// let dc = DataCenter::new("dc-2").region("eu-west-1").label("tier", "core").build()?;
/// assert!(Selector::name("dc-2").matches(&dc));
/// assert!(Selector::region("eu-west-1").label("tier", "core").matches(&dc));
/// assert!(!Selector::name("dc-2").zone("az-a").matches(&dc));
/// assert!(Selector::any().matches(&dc));
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Selector(());

impl Selector {
    /// Matches every datacenter.
    pub fn any() -> DataCenterSelector {
        DataCenterSelector::default()
    }

    /// Matches datacenters of this name.
    pub fn name(name: impl Into<String>) -> DataCenterSelector {
        Self::any().name(name)
    }

    /// Matches datacenters in this region.
    pub fn region(region: impl Into<String>) -> DataCenterSelector {
        Self::any().region(region)
    }

    /// Matches datacenters in this zone.
    pub fn zone(zone: impl Into<String>) -> DataCenterSelector {
        Self::any().zone(zone)
    }

    /// Matches datacenters that carry this label.
    pub fn label(key: impl Into<String>, value: impl Into<String>) -> DataCenterSelector {
        Self::any().label(key, value)
    }

    /// Matches the one datacenter of this id.
    pub fn id(id: DataCenterId) -> DataCenterSelector {
        Self::any().id(id)
    }
}

/// What a datacenter must be to be chosen; what is left out matches anything.
///
/// Where it is stored, a condition that is not known is an error: passed over, it would match more than was meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataCenterSelector {
    /// The name, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The region, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The zone, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Labels that it must carry, each with this value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The id, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<DataCenterId>,
}

impl DataCenterSelector {
    /// Also asks for this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Also asks for this region.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Also asks for this zone.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Also asks for this label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Also asks for this id.
    #[must_use]
    pub fn id(mut self, id: DataCenterId) -> Self {
        self.id = Some(id);
        self
    }

    /// Whether `dc` is all that is asked for.
    pub fn matches(&self, dc: &DataCenter) -> bool {
        self.id.as_ref().is_none_or(|id| id == dc.id())
            && self.name.as_deref().is_none_or(|name| name == dc.name())
            && self.region.as_deref().is_none_or(|region| Some(region) == dc.region())
            && self.zone.as_deref().is_none_or(|zone| Some(zone) == dc.zone())
            && self.labels.iter().all(|(key, value)| dc.labels().get(key) == Some(value))
    }

    /// Checks that a datacenter could match at all, so that a typing error does not pass for "not found".
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        for (field, value) in
            [("selector name", &self.name), ("selector region", &self.region), ("selector zone", &self.zone)]
        {
            if let Some(value) = value {
                check_name(field, value, 63)?;
            }
        }
        Ok(())
    }
}

impl From<DataCenterId> for DataCenterSelector {
    fn from(id: DataCenterId) -> Self {
        Selector::id(id)
    }
}

impl From<&DataCenterId> for DataCenterSelector {
    fn from(id: &DataCenterId) -> Self {
        Selector::id(id.clone())
    }
}

impl From<&str> for DataCenterSelector {
    /// A datacenter's name.
    fn from(name: &str) -> Self {
        Selector::name(name)
    }
}

impl fmt::Display for DataCenterSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (field, value) in [("name", &self.name), ("region", &self.region), ("zone", &self.zone)] {
            parts.extend(value.as_ref().map(|value| format!("{field}={value}")));
        }
        parts.extend(self.id.as_ref().map(|id| format!("id={id}")));
        parts.extend(self.labels.iter().map(|(key, value)| format!("{key}={value}")));
        if parts.is_empty() { f.write_str("any datacenter") } else { f.write_str(&parts.join(" ")) }
    }
}
