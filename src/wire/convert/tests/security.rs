use rstest::rstest;

use crate::model::security::{ApparmorProfile, Namespaces, SeccompProfile, SelinuxOptions};
use crate::wire::convert::security::{apparmor, seccomp};
use crate::wire::cri;

#[rstest]
#[case::message_wins(Some((0, "")), "unconfined", Ok(Some(SeccompProfile::RuntimeDefault)))]
#[case::neither(None, "", Ok(None))]
#[case::older_default(None, "runtime/default", Ok(Some(SeccompProfile::RuntimeDefault)))]
#[case::docker_default(None, "docker/default", Ok(Some(SeccompProfile::RuntimeDefault)))]
#[case::older_file(None, "localhost//p.json", Ok(Some(SeccompProfile::Localhost("/p.json".into()))))]
#[case::file(Some((2, "/p.json")), "", Ok(Some(SeccompProfile::Localhost("/p.json".into()))))]
#[case::prefixed_file(Some((2, "localhost//p.json")), "", Ok(Some(SeccompProfile::Localhost("/p.json".into()))))]
#[case::file_without_a_path(Some((2, "")), "", Err(()))]
#[case::path_without_the_type(Some((1, "/p.json")), "", Err(()))]
#[case::relative_file(Some((2, "p.json")), "", Err(()))]
#[case::unknown_type(Some((3, "")), "", Err(()))]
#[case::unknown_word(None, "strict", Err(()))]
#[case::older_file_without_a_path(None, "localhost/", Err(()))]
fn seccomp_comes_from_the_message_or_else_the_older_string(
    #[case] message: Option<(i32, &str)>,
    #[case] older: &str,
    #[case] want: Result<Option<SeccompProfile>, ()>,
) {
    let message = message.map(|(profile_type, localhost_ref)| cri::SecurityProfile {
        profile_type,
        localhost_ref: localhost_ref.into(),
    });

    assert_eq!(seccomp(message, older).map_err(drop), want);
}

#[test]
fn apparmor_takes_a_profile_by_name_in_both_spellings() {
    let named = Some(ApparmorProfile::Localhost("web".into()));
    let message = cri::SecurityProfile {
        profile_type: 2,
        localhost_ref: "web".into(),
    };

    assert_eq!(apparmor(None, "localhost/web").unwrap(), named);
    assert_eq!(apparmor(Some(message), "").unwrap(), named);
    assert_eq!(apparmor(None, "").unwrap(), None);
}

#[rstest]
fn selinux_levels(
    #[values(
        "",
        "s0",
        "s0-s1",
        "s0:c1",
        "s0:c1,c2",
        "s0-s0:c0.c1023",
        "s0:c1.c3,c9"
    )]
    good: &str,
    #[values(
        "x",
        "s",
        "s00",
        "s0:",
        "s0:c",
        "s0:c12345",
        "s0:c1,",
        "s0:c1-c2",
        "s0:c1:c2"
    )]
    bad: &str,
) {
    let option = |level: &str| cri::SeLinuxOption {
        level: level.into(),
        ..Default::default()
    };

    SelinuxOptions::try_from(option(good)).unwrap();
    SelinuxOptions::try_from(option(bad)).unwrap_err();
}

#[test]
fn a_user_namespace_needs_one_mapping_of_each_kind() {
    let mapping = cri::IdMapping {
        host_id: 1000,
        container_id: 0,
        length: 100_000,
    };
    let options = |mode: cri::NamespaceMode, uids: usize, gids: usize| cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: mode.into(),
            uids: vec![mapping; uids],
            gids: vec![mapping; gids],
        }),
        ..Default::default()
    };

    Namespaces::try_from(options(cri::NamespaceMode::Pod, 1, 1)).unwrap();
    Namespaces::try_from(options(cri::NamespaceMode::Node, 0, 0)).unwrap();
    for (mode, uids, gids) in [
        (cri::NamespaceMode::Pod, 2, 1),
        (cri::NamespaceMode::Pod, 1, 0),
        (cri::NamespaceMode::Node, 1, 1),
        (cri::NamespaceMode::Container, 1, 1),
        (cri::NamespaceMode::Target, 1, 1),
    ] {
        Namespaces::try_from(options(mode, uids, gids)).unwrap_err();
    }
}
