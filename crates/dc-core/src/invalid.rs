//! The one error for a value that breaks a rule.

/// A value that was refused: which field, what was given, which rule it breaks.
///
/// ```
/// use dc_core::DataCenter;
/// let err = DataCenter::new("").build().unwrap_err();
/// assert_eq!(err.to_string(), "name \"\": must be 1 to 63 bytes long");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {rule}")]
pub struct Invalid {
    /// The field, as the user wrote it (`name`, `region`, `label tier`, ..).
    pub field: String,
    /// What was given, cut to 100 characters.
    pub value: String,
    /// The rule that it breaks, ready to print.
    pub rule: String,
}

impl Invalid {
    /// Says that `field` may not hold `value`, and why.
    pub fn new(field: impl Into<String>, value: impl AsRef<str>, rule: impl Into<String>) -> Self {
        let value = value.as_ref();
        let mut shown: String = value.chars().take(100).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { field: field.into(), value: shown, rule: rule.into() }
    }
}

/// Checks a human-given name: 1 to `max` bytes, no control characters, no blank at either end.
pub(crate) fn check_name(field: &str, value: &str, max: usize) -> Result<(), Invalid> {
    if value.is_empty() || value.len() > max {
        return Err(Invalid::new(field, value, format!("must be 1 to {max} bytes long")));
    }
    if value.chars().any(char::is_control) {
        return Err(Invalid::new(field, value, "must not contain control characters"));
    }
    if value.trim() != value {
        return Err(Invalid::new(field, value, "must not begin or end with white space"));
    }
    Ok(())
}
