//! Who a container's process is (contract: pods 3.8; CVE-2026-46680, CVE-2024-40635, CVE-2023-25173).

use std::collections::BTreeSet;

use oci_spec::runtime::Spec;

use crate::model::container::ContainerSecurity;
use crate::model::pod::PodSecurity;
use crate::model::security::SupplementalGroupsPolicy as Policy;
use crate::model::{Error, Result};

use super::accounts::{Accounts, MAX_ID, id};

/// What the kernel takes (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// The ids that a process starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, sorted, the primary one among them.
    pub additional_gids: Vec<u32>,
}

/// A user or group as text names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOrId {
    /// By number.
    Id(u32),
    /// By a name of the image's account files.
    Name(String),
}

/// The `user` of an image, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// The part before the colon.
    pub user: NameOrId,
    /// The part after it, if there is one.
    pub group: Option<NameOrId>,
}

impl ImageUser {
    /// Reads `user[:group]`; `None` where the text is empty.
    ///
    /// # Errors
    /// `InvalidArgument` on a number that is none, or not in its only spelling: looked up as a name it could be
    /// mapped to root by the image's own passwd.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if text.is_empty() {
            return Ok(None);
        }
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let bad = || {
            let shown: String = text.chars().take(64).collect();
            Error::invalid(format!(
                "user {shown:?} of the image: want user or user:group, each a name or a number from 0 to {MAX_ID}"
            ))
        };
        Ok(Some(Self {
            user: name_or_id(user).ok_or_else(bad)?,
            group: group
                .map(|group| name_or_id(group).ok_or_else(bad))
                .transpose()?,
        }))
    }
}

fn name_or_id(text: &str) -> Option<NameOrId> {
    if let Some(id) = id(text) {
        return Some(NameOrId::Id(id));
    }
    let mut bytes = text.bytes();
    let first = bytes.next()?;
    let looks_like_number = first == b'+'
        || first == b'-'
        || text.bytes().all(|b| b.is_ascii_digit())
        || (first == b'0'
            && text
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b"xX_".contains(&b)));
    let is_name = text.len() <= 255
        && text
            .chars()
            .all(|c| !c.is_control() && !c.is_whitespace() && c != ':' && c != ',');
    (is_name && !looks_like_number).then(|| NameOrId::Name(text.to_owned()))
}

/// The ids of a workload container's process.
///
/// # Errors
/// `InvalidArgument` on a group without a user, a name that the image does not have, an id out of range, too many
/// groups, or account files beyond their limits.
pub fn resolve(
    security: &ContainerSecurity,
    image_user: &str,
    accounts: Accounts<'_>,
) -> Result<ProcessUser> {
    accounts.check()?;
    let has_user = security.run_as_user.is_some() || !security.run_as_username.is_empty();
    if security.run_as_group.is_some() && !has_user {
        return Err(Error::invalid(
            "run_as_group needs run_as_user or run_as_username",
        ));
    }
    let (user, group) = if !security.run_as_username.is_empty() {
        let named = name_or_id(&security.run_as_username);
        let user = named.filter(|named| matches!(named, NameOrId::Name(_)));
        let user = user.ok_or_else(|| {
            Error::invalid(format!(
                "run_as_username {:?}: it is no name of a user",
                security.run_as_username
            ))
        })?;
        (user, security.run_as_group.map(NameOrId::Id))
    } else if let Some(uid) = security.run_as_user {
        (NameOrId::Id(uid), security.run_as_group.map(NameOrId::Id))
    } else {
        match ImageUser::parse(image_user)? {
            Some(ImageUser { user, group }) => (user, group),
            None => (NameOrId::Id(0), Some(NameOrId::Id(0))),
        }
    };
    let found = look_up(&user, accounts)?;
    let gid = match group {
        Some(NameOrId::Id(gid)) => gid,
        Some(NameOrId::Name(name)) => accounts
            .groups()
            .find(|known| known.name == name)
            .map(|known| known.gid)
            .ok_or_else(|| Error::invalid(format!("group {name:?}: the image has none of it")))?,
        None => found.gid,
    };
    check_range(found.uid)?;
    check_range(gid)?;

    let mut gids = BTreeSet::from([gid]);
    if security.supplemental_groups_policy == Policy::Merge
        && let Some(name) = found.name
    {
        let listed = accounts
            .groups()
            .filter(|group| group.name != name && group.lists(name));
        gids.extend(listed.map(|group| group.gid));
    }
    for extra in &security.supplemental_groups {
        check_range(*extra)?;
        gids.insert(*extra);
    }
    if gids.len() > MAX_GROUPS {
        return Err(Error::invalid(format!(
            "{} supplemental groups: the kernel takes {MAX_GROUPS}",
            gids.len()
        )));
    }
    Ok(ProcessUser {
        uid: found.uid,
        gid,
        additional_gids: gids.into_iter().collect(),
    })
}

struct Found<'a> {
    uid: u32,
    gid: u32,
    name: Option<&'a str>,
}

fn look_up<'a>(user: &NameOrId, accounts: Accounts<'a>) -> Result<Found<'a>> {
    match user {
        NameOrId::Id(uid) => {
            let known = accounts.users().find(|known| known.uid == *uid);
            Ok(Found {
                uid: *uid,
                gid: known.as_ref().map_or(0, |known| known.gid),
                name: known.map(|known| known.name),
            })
        }
        NameOrId::Name(name) => {
            let known = accounts.users().find(|known| known.name == name);
            let known = known.ok_or_else(|| {
                Error::invalid(format!("user {name:?}: the image has none of it"))
            })?;
            Ok(Found {
                uid: known.uid,
                gid: known.gid,
                name: Some(known.name),
            })
        }
    }
}

fn check_range(id: u32) -> Result<()> {
    if id <= MAX_ID {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "user or group id {id} is outside 0..={MAX_ID}"
    )))
}

/// The ids of a spec's process, as ContainerStatus reports them.
pub fn effective(spec: &Spec) -> ProcessUser {
    let Some(process) = spec.process() else {
        return ProcessUser::default();
    };
    let user = process.user();
    ProcessUser {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
    }
}

/// The ids of a pause process: those of the pod, else its image's. With a user, the pod's supplemental groups do not
/// apply to it (nothing in it uses them).
pub(super) fn of_pause(
    security: &PodSecurity,
    image_user: Option<&ProcessUser>,
) -> Result<(u32, u32, Option<Vec<u32>>)> {
    let (uid, gid) = match (security.run_as_user, security.run_as_group, image_user) {
        (None, Some(_), _) => {
            return Err(Error::invalid("run_as_group needs run_as_user"));
        }
        (Some(uid), gid, _) => (uid, gid.unwrap_or(0)),
        (None, None, Some(user)) => (user.uid, user.gid),
        (None, None, None) => {
            for gid in &security.supplemental_groups {
                check_range(*gid)?;
            }
            let groups = &security.supplemental_groups;
            return Ok((0, 0, (!groups.is_empty()).then(|| groups.clone())));
        }
    };
    check_range(uid)?;
    check_range(gid)?;
    Ok((uid, gid, Some(vec![gid])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:\nnobody:x:65534:65533::/:\n\
                          99999999999999:x:0:0::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:root\nweb:x:1000:web\nstaff:x:50000:web,root\nlog:x:4:web\n";

    fn accounts() -> Accounts<'static> {
        Accounts {
            passwd: PASSWD,
            group: GROUP,
        }
    }

    fn run(security: &ContainerSecurity, image_user: &str) -> Result<(u32, u32, Vec<u32>)> {
        resolve(security, image_user, accounts())
            .map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn the_image_decides_where_the_request_does_not() {
        let none = ContainerSecurity::default();
        for (image, want) in [
            ("", (0, 0, vec![0, 50_000])),
            ("0", (0, 0, vec![0, 50_000])),
            ("web", (1000, 1000, vec![4, 1000, 50_000])),
            ("1000", (1000, 1000, vec![4, 1000, 50_000])),
            ("web:log", (1000, 4, vec![4, 50_000])),
            ("1000:7", (1000, 7, vec![4, 7, 50_000])),
            ("4242", (4242, 0, vec![0])),
            ("4242:staff", (4242, 50_000, vec![50_000])),
        ] {
            assert_eq!(run(&none, image).unwrap(), want, "{image}");
        }
    }

    #[test]
    fn the_request_beats_the_image_and_a_name_beats_a_number() {
        let security = |name: &str, uid, gid| ContainerSecurity {
            run_as_username: name.into(),
            run_as_user: uid,
            run_as_group: gid,
            ..ContainerSecurity::default()
        };

        let by_name = run(&security("nobody", Some(1000), None), "web").unwrap();
        let with_group = run(&security("", Some(1001), Some(1002)), "web:log").unwrap();
        let primary = run(&security("", Some(1000), None), "").unwrap();

        assert_eq!(by_name, (65_534, 65_533, vec![65_533]));
        assert_eq!(with_group, (1001, 1002, vec![1002]));
        assert_eq!(primary, (1000, 1000, vec![4, 1000, 50_000]));
        assert!(run(&security("ghost", None, None), "").is_err());
        let alone = run(&security("", None, Some(1)), "web").unwrap_err();
        assert_eq!(alone.kind(), Kind::InvalidArgument);
    }

    #[test]
    fn strict_groups_leave_the_images_out_and_keep_the_primary_one() {
        let security = |policy| ContainerSecurity {
            run_as_user: Some(1000),
            supplemental_groups: vec![1234, 1234, 4],
            supplemental_groups_policy: policy,
            ..ContainerSecurity::default()
        };

        let merged = run(&security(Policy::Merge), "").unwrap();
        let strict = run(&security(Policy::Strict), "").unwrap();

        assert_eq!(merged.2, [4, 1000, 1234, 50_000]);
        assert_eq!(strict.2, [4, 1000, 1234]);
    }

    #[test]
    fn numbers_that_are_none_never_become_names_or_root() {
        for image in [
            "99999999999999",
            "0x0",
            "0X0",
            "+0",
            "-0",
            "-1",
            "00",
            "01000",
            " 0",
            "0 ",
            "2147483648",
            "4294967295",
            "4294967296",
            "1:99999999999",
            "1:2147483648",
            "1:-1",
            "web:",
            ":web",
            "web:log:x",
            "web\n",
            "ghost",
            "web:ghost",
            ":",
        ] {
            let error = run(&ContainerSecurity::default(), image).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{image:?}");
        }
        for uid in [2_147_483_648, u32::MAX] {
            for security in [
                ContainerSecurity {
                    run_as_user: Some(uid),
                    ..ContainerSecurity::default()
                },
                ContainerSecurity {
                    run_as_user: Some(1),
                    run_as_group: Some(uid),
                    ..ContainerSecurity::default()
                },
                ContainerSecurity {
                    supplemental_groups: vec![uid],
                    ..ContainerSecurity::default()
                },
            ] {
                assert!(run(&security, "").is_err(), "{uid}");
            }
        }
    }

    #[test]
    fn a_group_file_cannot_make_more_groups_than_the_kernel_takes() {
        let lines = |count: usize| -> String {
            (1..=count)
                .map(|gid| format!("g{gid}:x:{gid}:root\n"))
                .collect()
        };
        let run = |group: &str| {
            let accounts = Accounts {
                passwd: PASSWD,
                group,
            };
            resolve(&ContainerSecurity::default(), "", accounts)
        };

        assert!(run(&lines(MAX_GROUPS - 1)).is_ok());
        assert!(run(&lines(MAX_GROUPS)).is_err());
    }

    #[test]
    fn the_pause_process_takes_the_pods_ids() {
        let security = |user, group| PodSecurity {
            run_as_user: user,
            run_as_group: group,
            supplemental_groups: vec![5],
            ..PodSecurity::default()
        };

        assert_eq!(
            of_pause(&security(None, None), None).unwrap(),
            (0, 0, Some(vec![5]))
        );
        assert_eq!(
            of_pause(&security(Some(7), Some(8)), None).unwrap(),
            (7, 8, Some(vec![8]))
        );
        assert!(of_pause(&security(None, Some(8)), None).is_err());
        assert!(of_pause(&security(Some(u32::MAX), None), None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_of_an_image_reaches_root_by_accident(
            user in "[0-9+x:. \\-a-z]{1,12}",
            passwd in "([a-z0-9]{0,4}:x:[0-9-]{0,11}:[0-9]{0,3}\n){0,5}",
        ) {
            let accounts = Accounts { passwd: &passwd, group: "" };
            let named = user.split(':').next().unwrap_or_default();
            let said_root = named == "0" || accounts.users().any(|known| known.name == named && known.uid == 0);

            if let Ok(found) = resolve(&ContainerSecurity::default(), &user, accounts) {
                proptest::prop_assert!(found.uid != 0 || said_root, "{user:?} {passwd:?}");
                proptest::prop_assert!(found.additional_gids.contains(&found.gid));
            }
        }
    }
}
