//! What holds for any account files and any seccomp profile (see [`crate::fuzzing`]).

use crate::model::container::ContainerSecurity;

use super::accounts::{Accounts, MAX_ID};
use super::{seccomp_file, user};

/// Three texts with NUL between them: the image's `user`, passwd, group. A number stays the number that it is,
/// whatever the files say of it (CVE-2026-46680), and nobody gets an id out of range.
pub(crate) fn accounts(text: &str) {
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    let (asked, passwd, group) = (next(), next(), next());
    let accounts = Accounts { passwd, group };
    let Ok(found) = user::resolve(&ContainerSecurity::default(), asked, accounts) else {
        return;
    };
    assert!(found.additional_gids.contains(&found.gid));
    assert!(found.additional_gids.iter().all(|gid| *gid <= MAX_ID));
    let asked = asked.split(':').next().unwrap_or_default();
    if let Ok(number) = asked.parse::<u32>() {
        assert_eq!(found.uid, number);
    }
    // Blanks around a line are none of its content, as every reader of these files has it.
    let mut lines = passwd.split('\n').map(str::trim);
    let listed = lines.any(|line| line.starts_with(asked));
    assert!(
        found.uid != 0 || listed || matches!(asked, "" | "0"),
        "root by {asked:?}"
    );
}

/// A profile of the node is read or refused.
pub(crate) fn seccomp_profile(text: &str) {
    drop(seccomp_file::parse("/fuzz.json", text));
}
