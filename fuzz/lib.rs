//! Finds a target of the crate by its name, so that the programs of this folder are one line each.

/// Puts `data` to the target `name`.
///
/// # Panics
/// Where the target does not hold, which is what the fuzzer looks for; and where there is none of the name.
pub fn run(name: &str, data: &[u8]) {
    let target = podwright::fuzzing::TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no target {name}"));
    target.take(data);
}
