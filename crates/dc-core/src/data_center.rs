//! What a datacenter is called and where it stands.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{DataCenterId, Invalid, invalid::check_name};

/// Labels of a datacenter, by key.
pub type Labels = BTreeMap<String, String>;

/// A datacenter: name, and optionally region, zone and labels. Holding one
/// proves that it is valid. Cheap to clone.
///
/// Name, region and zone: 1 to 63 bytes, no control characters, no blank at
/// either end. At most 64 labels; keys 1 to 63 of `A-Z a-z 0-9 . _ - /`,
/// values up to 255 bytes without control characters.
///
/// ```
/// use dc_core::DataCenter;
/// let dc = DataCenter::new("dc-1").region("us-east-1").label("tier", "edge").build()?;
/// assert_eq!(dc.name(), "dc-1");
/// assert_eq!(dc.zone(), None);
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "DataCenterBuilder", into = "DataCenterBuilder")]
pub struct DataCenter {
    id: DataCenterId,
    parts: Arc<DataCenterBuilder>,
}

impl DataCenter {
    /// Starts a datacenter of this name; [`DataCenterBuilder::build`] checks it.
    #[expect(clippy::new_ret_no_self, reason = "reads as what users mean: a datacenter, described step by step")]
    pub fn new(name: impl Into<String>) -> DataCenterBuilder {
        DataCenterBuilder { name: name.into(), ..DataCenterBuilder::default() }
    }

    /// The identity, made of name, region and zone.
    pub fn id(&self) -> &DataCenterId {
        &self.id
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// The region, where one was given.
    pub fn region(&self) -> Option<&str> {
        self.parts.region.as_deref()
    }

    /// The zone, where one was given.
    pub fn zone(&self) -> Option<&str> {
        self.parts.zone.as_deref()
    }

    /// The labels.
    pub fn labels(&self) -> &Labels {
        &self.parts.labels
    }
}

/// A datacenter that is being described; [`build`](Self::build) checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCenterBuilder {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
}

impl DataCenterBuilder {
    /// Sets the region.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the zone.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Adds a label; the last value given for a key stands.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Checks every rule that [`DataCenter`] states.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn build(self) -> Result<DataCenter, Invalid> {
        check_name("name", &self.name, 63)?;
        if let Some(region) = &self.region {
            check_name("region", region, 63)?;
        }
        if let Some(zone) = &self.zone {
            check_name("zone", zone, 63)?;
        }
        check_labels(&self.labels)?;
        let id = DataCenterId::from_parts(&self.name, self.region.as_deref(), self.zone.as_deref());
        Ok(DataCenter { id, parts: Arc::new(self) })
    }
}

fn check_labels(labels: &Labels) -> Result<(), Invalid> {
    if labels.len() > 64 {
        return Err(Invalid::new("labels", labels.len().to_string(), "must be at most 64"));
    }
    for (key, value) in labels {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        if key.is_empty() || key.len() > 63 || !key.bytes().all(legal) {
            return Err(Invalid::new("label key", key, "must be 1 to 63 letters, digits, `.`, `_`, `-` or `/`"));
        }
        if value.len() > 255 || value.chars().any(char::is_control) {
            let field = format!("label {key}");
            return Err(Invalid::new(field, value, "must be at most 255 bytes without control characters"));
        }
    }
    Ok(())
}

impl TryFrom<DataCenterBuilder> for DataCenter {
    type Error = Invalid;
    fn try_from(builder: DataCenterBuilder) -> Result<Self, Invalid> {
        builder.build()
    }
}

impl From<DataCenter> for DataCenterBuilder {
    fn from(dc: DataCenter) -> Self {
        Arc::unwrap_or_clone(dc.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let long = "x".repeat(64);
        for (builder, field) in [
            (DataCenter::new(""), "name"),
            (DataCenter::new(" dc"), "name"),
            (DataCenter::new(long.clone()), "name"),
            (DataCenter::new("dc").region("a\nb"), "region"),
            (DataCenter::new("dc").zone(""), "zone"),
            (DataCenter::new("dc").label("a b", "x"), "label key"),
            (DataCenter::new("dc").label("tier", "x\0"), "label tier"),
        ] {
            let err = builder.clone().build().expect_err(&format!("{builder:?}"));
            assert_eq!(err.field, field, "{builder:?}");
        }
    }

    #[test]
    fn an_invalid_datacenter_does_not_deserialize() {
        assert!(serde_json::from_str::<DataCenter>(r#"{"name":""}"#).is_err());
        let dc: DataCenter = serde_json::from_str(r#"{"name":"dc","unknown":1}"#).unwrap();
        assert_eq!(dc.name(), "dc");
    }
}
