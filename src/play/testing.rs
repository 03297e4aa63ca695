//! What the tests of this room share.

use super::defaults::Plan;
use super::manifest;

/// The plan of a pod `web` with `spec`, whose lines stand at the left margin.
pub(super) fn plan(spec: &str) -> Plan {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n{indented}"
    );
    let mut manifest = manifest::parse(&text).unwrap();
    Plan::of(manifest.pods.remove(0)).unwrap()
}
