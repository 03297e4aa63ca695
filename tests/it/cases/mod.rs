//! Every case, by subject.

mod backends;
mod bad_input;
mod checkpoints;
mod classes;
mod containers;
mod crashes;
mod devices;
mod diagnoses;
mod events;
mod hostile;
mod identity;
mod images;
mod installed;
mod joins;
mod kills;
mod logs;
mod metrics;
mod mirrors;
mod networks;
mod nri;
mod operations;
mod paths;
mod pause_images;
mod play;
mod registries;
mod reloads;
mod restores;
mod sandboxes;
mod server;
mod stats;
mod strangers;
mod systemd;
mod traces;
mod userns;
mod volumes;

use crate::case::Case;

/// The cases for the machine itself, and whether a case's pods must outlive it.
pub(crate) fn for_the_machine() -> Vec<(Case, bool)> {
    let cases = installed::CASES.iter();
    cases
        .map(|case| (*case, installed::keeps_pods(case)))
        .collect()
}

/// All cases that run on nodes of their own, in the order in which they are listed.
pub(crate) fn all() -> Vec<Case> {
    [
        identity::CASES,
        sandboxes::CASES,
        pause_images::CASES,
        networks::CASES,
        containers::CASES,
        checkpoints::CASES,
        restores::CASES,
        devices::CASES,
        classes::CASES,
        nri::CASES,
        diagnoses::CASES,
        logs::CASES,
        images::CASES,
        mirrors::CASES,
        metrics::CASES,
        traces::CASES,
        reloads::CASES,
        hostile::CASES,
        registries::CASES,
        bad_input::CASES,
        joins::CASES,
        crashes::CASES,
        events::CASES,
        operations::CASES,
        backends::CASES,
        kills::CASES,
        paths::CASES,
        server::CASES,
        stats::CASES,
        play::CASES,
        systemd::CASES,
        strangers::CASES,
        userns::CASES,
        volumes::CASES,
    ]
    .concat()
}
