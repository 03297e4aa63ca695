//! Every case, by subject.

mod bad_input;
mod containers;
mod crashes;
mod identity;
mod images;
mod joins;
mod kills;
mod logs;
mod networks;
mod paths;
mod sandboxes;
mod server;
mod strangers;
mod systemd;

use crate::case::Case;

/// All cases, in the order in which they are listed.
pub(crate) fn all() -> Vec<Case> {
    [
        identity::CASES,
        sandboxes::CASES,
        networks::CASES,
        containers::CASES,
        logs::CASES,
        images::CASES,
        bad_input::CASES,
        joins::CASES,
        crashes::CASES,
        kills::CASES,
        paths::CASES,
        server::CASES,
        systemd::CASES,
        strangers::CASES,
    ]
    .concat()
}
