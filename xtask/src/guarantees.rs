//! `cargo xtask guarantees`: each guarantee of `docs/guarantees.md` is borne by at least one test.
//!
//! A guarantee is a list item that starts with its number in bold: `- **P2 Fenced.** A write ..`.
//! A test bears it by its name: `fn p2_stale_write_is_refused`. A number whose item says
//! `(not yet)` right after the bold words needs no test so far, but may not have one either:
//! then the mark goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const LIST: &str = "docs/guarantees.md";
/// Where tests live.
const PLACES: [&str; 4] = ["crates", "tests", "examples", "simulation"];
const NOT_YET: &str = "(not yet)";

/// Compares the list with the names of the tests.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let list = std::fs::read_to_string(workspace.root.join(LIST)).with_context(|| format!("{LIST} cannot be read"))?;
    let promised = promised(&list);
    let mut borne = BTreeMap::new();
    for place in PLACES {
        collect(&workspace.root.join(place), &mut borne)?;
    }
    let faults = faults(&promised, &borne.keys().cloned().collect());
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    let later = promised.values().filter(|kept| !**kept).count();
    let tests: usize = borne.values().sum();
    println!("guarantees: {} kept and borne by {tests} tests, {later} not yet", promised.len() - later);
    Ok(())
}

/// Each number of the list, and whether it is kept already.
fn promised(list: &str) -> BTreeMap<String, bool> {
    list.lines()
        .filter_map(|line| {
            let (bold, rest) = line.trim_start().strip_prefix("- **")?.split_once("**")?;
            let number = bold.split([' ', '.', ':']).next()?;
            let is_later = bold.contains(NOT_YET) || rest.trim_start().starts_with(NOT_YET);
            is_number(number).then(|| (number.to_owned(), !is_later))
        })
        .collect()
}

/// One capital and digits.
fn is_number(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase()) && text.len() > 1 && chars.all(|c| c.is_ascii_digit())
}

/// How many functions below `dir` bear which number.
fn collect(dir: &Path, borne: &mut BTreeMap<String, usize>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, borne)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for number in numbers_in(&std::fs::read_to_string(&path)?) {
                *borne.entry(number).or_default() += 1;
            }
        }
    }
    Ok(())
}

/// The numbers that function names in a source file start with (`fn c2_c3_..` bears two);
/// comments do not count.
fn numbers_in(source: &str) -> Vec<String> {
    source
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
        .filter_map(|line| line.split_once("fn ")?.1.split(['(', '<']).next())
        .flat_map(|name| {
            let words = name.split_inclusive('_').filter_map(|word| word.strip_suffix('_'));
            words.map(str::to_ascii_uppercase).take_while(|word| is_number(word))
        })
        .collect()
}

fn faults(promised: &BTreeMap<String, bool>, borne: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    if promised.is_empty() {
        faults.push(format!("{LIST} lists no guarantee: items look like `- **P1 Versioned.** ..`"));
    }
    for (number, kept) in promised {
        match (kept, borne.contains(number)) {
            (true, false) => faults.push(format!(
                "{number} is borne by no test: name one `{}_what_it_claims`, or mark it {NOT_YET} in {LIST}",
                number.to_ascii_lowercase()
            )),
            (false, true) => faults.push(format!("{number} has a test but is marked {NOT_YET} in {LIST}")),
            _ => {}
        }
    }
    let unknown = borne.iter().filter(|number| !promised.contains_key(*number));
    faults.extend(unknown.map(|number| format!("tests name {number}, which {LIST} does not list")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "# Guarantees\n- **P1 Versioned.** Each write ..\n- **C2** A lease ..\n\
                          - **G5** (not yet) Draining ..\n- **Bold** words, no number\n";

    #[test]
    fn numbers_are_read_from_list_items() {
        let expected = [("C2", true), ("G5", false), ("P1", true)];
        assert_eq!(promised(LISTED), expected.map(|(number, kept)| (number.to_owned(), kept)).into());
    }

    #[test]
    fn names_of_functions_bear_numbers_and_comments_do_not() {
        let source = "    pub async fn p12_keeps_trying(h: &impl Harness) {\n// fn p2_x\nfn p_3() {}\nfn c2_c3_lease() {}\n\
                      fn l4() {}\n";
        assert_eq!(numbers_in(source), ["P12", "C2", "C3"]);
    }

    #[test]
    fn a_guarantee_without_a_test_is_a_fault_unless_marked() {
        let borne = BTreeSet::from(["P1".to_owned(), "X9".to_owned()]);
        let faults = faults(&promised(LISTED), &borne);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("C2 is borne by no test"), "{faults:?}");
        assert!(faults[1].starts_with("tests name X9"), "{faults:?}");
    }

    #[test]
    fn a_mark_that_is_out_of_date_is_a_fault() {
        let borne = BTreeSet::from(["P1", "C2", "G5"].map(str::to_owned));
        assert_eq!(faults(&promised(LISTED), &borne), ["G5 has a test but is marked (not yet) in docs/guarantees.md"]);
    }
}
