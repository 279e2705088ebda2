//! What may be written in `#[remote(..)]`, and the errors for what may not.

use proc_macro2::Span;
use syn::{DeriveInput, Error, LitStr, Path, Result};

/// The attributes of one type, as far as they were given.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) name: Option<LitStr>,
    pub(crate) krate: Option<Path>,
    pub(crate) codec: Option<Path>,
    pub(crate) reply: Option<Path>,
}

impl Attributes {
    /// Reads every `#[remote(..)]` of `input`; `keys` are the ones that the derive knows.
    pub(crate) fn read(input: &DeriveInput, keys: &[&str]) -> Result<Self> {
        if !input.generics.params.is_empty() {
            let text =
                "generic types have no single wire name: derive it on a concrete type, or implement the trait by hand";
            return Err(Error::new_spanned(&input.generics, text));
        }
        let mut found = Self::default();
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("remote")) {
            attribute.parse_nested_meta(|meta| {
                let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                if !keys.contains(&key.as_str()) {
                    return Err(meta.error(format!("unknown key, expected one of: {}", keys.join(", "))));
                }
                match key.as_str() {
                    "name" => set(&mut found.name, checked_name(meta.value()?.parse()?)?, meta.path.clone()),
                    "crate" => {
                        let path = meta.value()?.parse::<LitStr>()?.parse()?;
                        set(&mut found.krate, path, meta.path.clone())
                    }
                    "codec" => set(&mut found.codec, meta.value()?.parse()?, meta.path.clone()),
                    _ => set(&mut found.reply, meta.value()?.parse()?, meta.path.clone()),
                }
            })?;
        }
        Ok(found)
    }
}

fn set<T>(place: &mut Option<T>, value: T, at: Path) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new_spanned(at, "given twice")),
    }
}

/// A wire name obeys the rule of all names: 1 to 63 bytes, no control characters, no blank at either end.
fn checked_name(name: LitStr) -> Result<LitStr> {
    match name_rule(&name.value()) {
        None => Ok(name),
        Some(rule) => Err(Error::new(name.span(), format!("wire name {:?} {rule}", name.value()))),
    }
}

fn name_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 63 {
        Some("must be 1 to 63 bytes")
    } else if name.chars().any(char::is_control) {
        Some("must not hold control characters")
    } else if name.trim() != name {
        Some("must not begin or end with a blank")
    } else {
        None
    }
}

/// The bare name of a type as its wire name.
pub(crate) fn bare_name(input: &DeriveInput) -> Result<LitStr> {
    let name = input.ident.to_string();
    let name = name.trim_start_matches("r#");
    match name_rule(name) {
        None => Ok(LitStr::new(name, Span::call_site())),
        Some(rule) => {
            Err(Error::new(input.ident.span(), format!("wire name {name:?} {rule}: set #[remote(name = \"..\")]")))
        }
    }
}
