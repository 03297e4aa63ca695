//! What a run has seen, held against the table, and the lines that it prints.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::Outcome;
use crate::compare::{self, Difference};
use crate::table::Table;
use crate::{descriptor, say};

/// Names a request, or its beginning, to compare only that; the table's unused entries are no failure then.
pub(crate) const ONLY: &str = "PODWRIGHT_PARITY_ONLY";
/// How many pairs of values and names of requests are printed of one place.
const PAIRS_SHOWN: usize = 5;

/// What a run has seen.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) requests: usize,
    differences: Vec<Difference>,
    /// The requests that both servers refused.
    refused: Vec<String>,
    pub(crate) seconds: f32,
}

impl Tally {
    /// Notes where the two trees differ. Of what only one server made there is nothing to compare but that.
    pub(crate) fn add(&mut self, request: &str, ours: Value, theirs: Value) {
        let is_refused = |tree: &Value| tree.get("refused").is_some();
        if is_refused(&ours) && is_refused(&theirs) {
            self.refused.push(request.to_owned());
        }
        let brief = |tree: Value| {
            if is_refused(&tree) {
                tree
            } else {
                json!({"refused": null})
            }
        };
        let found = if is_refused(&ours) == is_refused(&theirs) {
            compare::trees(request, &ours, &theirs)
        } else {
            compare::trees(request, &brief(ours), &brief(theirs))
        };
        self.differences.extend(found);
    }
}

/// Prints what is new, and the last line; fails where anything is new or the table says too much.
pub(crate) fn print(tally: Tally) -> Outcome {
    let mut table = Table::read()?;
    let fields = descriptor::count()?;
    let new = table.sift(tally.differences);
    // The same place in many requests is one difference.
    let mut places: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for difference in &new {
        places.entry(&difference.path).or_default().push(difference);
    }
    for (path, differences) in &places {
        show(path, differences);
    }
    let refused = tally.refused.len();
    let unexpected = table.sift_refusals(tally.refused);
    for request in &unexpected {
        say(&format!(
            "{request}: both servers refuse it, so that it shows nothing"
        ));
    }
    say(&format!(
        "parity: {refused} requests refused by both, all but {} for a reason that is known",
        unexpected.len()
    ));
    let unused = if std::env::var_os(ONLY).is_some() {
        Vec::new()
    } else {
        table.unused()
    };
    for entry in &unused {
        say(&format!(
            "tests/parity/accepted.toml: nothing differs any more as in: {entry}; remove it"
        ));
    }
    say(&format!(
        "parity: {} requests, {fields} fields, {} differences accepted, {} new ({:.0} s)",
        tally.requests,
        table.len(),
        places.len() + unexpected.len(),
        tally.seconds
    ));
    if places.is_empty() && unexpected.is_empty() && unused.is_empty() {
        return Ok(());
    }
    Err("there are new differences, or entries without any".into())
}

/// One place, each pair of values that it has, and in which requests.
fn show(path: &str, differences: &[&Difference]) {
    let mut values: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for difference in differences {
        let pair = (difference.ours.as_str(), difference.theirs.as_str());
        values.entry(pair).or_default().push(&difference.request);
    }
    say(path);
    for ((ours, theirs), requests) in values.iter().take(PAIRS_SHOWN) {
        let shown: Vec<&str> = requests.iter().take(PAIRS_SHOWN).copied().collect();
        let (count, shown) = (requests.len(), shown.join(", "));
        say(&format!(
            "    podwright  {ours}\n    containerd {theirs}\n        in {count}: {shown}"
        ));
    }
    if values.len() > PAIRS_SHOWN {
        say(&format!(
            "    and {} other pairs of values",
            values.len() - PAIRS_SHOWN
        ));
    }
}
