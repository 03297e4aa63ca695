//! The process of a container: arguments, environment, directory, and the same for an exec (contract: pods 3.5).

use oci_spec::runtime::{BoxBuilder, Process, Spec};

use crate::model::{
    Classify as _, ContainerConfig, Error, HostFacts, ImageDefaults, Kind, PodConfig, Result,
};

use super::lexical::clean;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MAX_ENTRIES: usize = 10_000;
const MAX_TOTAL_BYTES: usize = 1 << 20;
/// What the kernel takes as one argument or variable (`MAX_ARG_STRLEN`), its end mark included.
const MAX_ONE_BYTES: usize = 131_072;

/// The arguments: `command` replaces the image's entrypoint, and with either of command and args the image's cmd is
/// not used. Over protobuf an empty command is an absent one.
///
/// # Errors
/// `InvalidArgument` where nothing is left to run, or the list breaks a limit.
pub(super) fn args(
    command: &[String],
    args: &[String],
    image: &ImageDefaults,
) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    if command.is_empty() {
        let is_void = matches!(image.entrypoint.as_slice(), [only] if only.is_empty());
        if !is_void {
            all.extend_from_slice(&image.entrypoint);
        }
        all.extend_from_slice(if args.is_empty() { &image.cmd } else { args });
    } else {
        all.extend_from_slice(command);
        all.extend_from_slice(args);
    }
    if all.is_empty() {
        return Err(Error::invalid(
            "no command specified: neither the container nor its image names one",
        ));
    }
    check_limits("arguments", &all)?;
    Ok(all)
}

/// The environment of a workload container, lowest first: PATH, TERM, HOSTNAME, the image's, the container's. The last
/// value of a key wins at the key's first place; an entry of the image without `=` deletes its key.
///
/// # Errors
/// `InvalidArgument` on an empty key, a key with `=`, a NUL byte, or too much of it.
pub(super) fn env(
    config: &ContainerConfig,
    image: &ImageDefaults,
    pod: &PodConfig,
    host: &HostFacts,
) -> Result<Vec<String>> {
    let hostname = if pod.hostname.is_empty() {
        &host.hostname
    } else {
        &pod.hostname
    };
    let mut all = vec![PATH.to_owned()];
    if config.tty {
        all.push("TERM=xterm".into());
    }
    all.push(format!("HOSTNAME={hostname}"));
    all.extend(image.env.iter().cloned());
    for (key, value) in &config.envs {
        if key.is_empty() || key.contains('=') {
            return Err(Error::invalid(format!(
                "environment: {key:?} is no name of a variable"
            )));
        }
        all.push(format!("{key}={value}"));
    }
    check_limits("environment", &all)?;
    Ok(overlay(&all))
}

/// An image's own environment, for a pause image.
pub(super) fn image_env(image: &ImageDefaults) -> Result<Vec<String>> {
    check_limits("environment", &image.env)?;
    Ok(overlay(&image.env))
}

fn overlay(entries: &[String]) -> Vec<String> {
    let mut order: Vec<&str> = Vec::new();
    let mut latest: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    for entry in entries {
        match entry.split_once('=') {
            Some((key, _)) => {
                if latest.insert(key, entry).is_none() {
                    order.push(key);
                }
            }
            None => {
                if latest.remove(entry.as_str()).is_some() {
                    order.retain(|key| *key != entry.as_str());
                }
            }
        }
    }
    order
        .iter()
        .filter_map(|key| latest.get(key).map(ToString::to_string))
        .collect()
}

fn check_limits(what: &str, entries: &[String]) -> Result<()> {
    if entries.len() > MAX_ENTRIES {
        return Err(Error::invalid(format!(
            "{what}: {} entries, at most {MAX_ENTRIES} are accepted",
            entries.len()
        )));
    }
    let total: usize = entries.iter().map(String::len).sum();
    if total > MAX_TOTAL_BYTES {
        return Err(Error::invalid(format!(
            "{what}: {total} bytes, at most {MAX_TOTAL_BYTES} are accepted"
        )));
    }
    for entry in entries {
        if entry.len() >= MAX_ONE_BYTES {
            return Err(Error::invalid(format!(
                "{what}: one entry has {} bytes, the kernel takes less than {MAX_ONE_BYTES}",
                entry.len()
            )));
        }
        if entry.contains('\0') {
            return Err(Error::invalid(format!("{what}: an entry holds a NUL byte")));
        }
    }
    Ok(())
}

/// The working directory: the container's, the image's (counted from `/`), or `/`.
///
/// # Errors
/// `InvalidArgument` where the request's is relative, or where it leads through a process's open files: an OCI runtime
/// that leaks a descriptor would start the process outside its root (CVE-2024-21626).
pub(super) fn cwd(asked: &str, image: &ImageDefaults) -> Result<String> {
    let cwd = match (asked, image.working_dir.as_str()) {
        ("", "") => String::from("/"),
        ("", relative) if !relative.starts_with('/') => format!("/{relative}"),
        ("", absolute) => absolute.to_owned(),
        (asked, _) => asked.to_owned(),
    };
    if !cwd.starts_with('/') || cwd.contains('\0') {
        return Err(Error::invalid(format!(
            "working directory {cwd:?}: want an absolute path"
        )));
    }
    // Without `..` it can be judged: that of a link in /proc is not the directory that the letters say.
    let cwd = if cwd.split('/').any(|part| part == "..") {
        clean(&cwd)
    } else {
        cwd
    };
    let mut parts = cwd.split('/').filter(|part| !matches!(*part, "" | "."));
    let leads_out = |part| matches!(part, "fd" | "cwd" | "root" | "map_files" | "task");
    if parts.next() == Some("proc") && parts.nth(1).is_some_and(leads_out) {
        return Err(Error::invalid(format!(
            "working directory {cwd:?}: it leads through a process's files"
        )));
    }
    Ok(cwd)
}

/// Whether `command` can be an exec's.
///
/// # Errors
/// `InvalidArgument` on an empty command or one beyond a limit.
pub fn check_command(command: &[String]) -> Result<()> {
    if command.is_empty() {
        return Err(Error::invalid("exec: no command given"));
    }
    check_limits("arguments", command)
}

/// The process of an exec: the container's own user, environment, directory, capabilities and labels, another command.
/// One with a terminal of its own is told which kind that is.
///
/// # Errors
/// `InvalidArgument` on an empty command or one beyond a limit; `Internal` where the spec holds no process.
pub fn exec(spec: &Spec, command: &[String], tty: bool) -> Result<Process> {
    check_command(command)?;
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| Error::internal("exec: the container's spec has no process"))?;
    if tty {
        let mut env = process.env().clone().unwrap_or_default();
        env.push("TERM=xterm".into());
        process.set_env(Some(overlay(&env)));
    }
    process
        .set_args(Some(command.to_vec()))
        .set_terminal(tty.then_some(true));
    Ok(process)
}

/// Gives the terminal of `process` its size before it starts, so that the process never sees another one.
///
/// # Errors
/// `Internal` where the library refuses the numbers.
pub fn set_console_size(process: &mut Process, width: u16, height: u16) -> Result<()> {
    let size = BoxBuilder::default()
        .width(u64::from(width))
        .height(u64::from(height))
        .build()
        .classify(Kind::Internal, || "the size of a terminal".to_owned())?;
    process.set_console_size(Some(size));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::model::Kind;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entrypoint_and_cmd_give_way_as_the_contract_says() {
        for (entrypoint, cmd, command, given, want) in [
            (&["e"][..], &["c"][..], &[][..], &[][..], &["e", "c"][..]),
            (&["e"], &["c"], &[], &["a"], &["e", "a"]),
            (&["e"], &["c"], &["x"], &[], &["x"]),
            (&["e"], &["c"], &["x"], &["a"], &["x", "a"]),
            (&[""], &["c"], &[], &[], &["c"]),
            (&[""], &["c"], &[], &["a"], &["a"]),
            (&["", "e"], &[], &[], &[], &["", "e"]),
            (&[], &["c"], &[], &[], &["c"]),
            (&["e"], &[], &[], &[], &["e"]),
        ] {
            let image = ImageDefaults {
                entrypoint: strings(entrypoint),
                cmd: strings(cmd),
                ..ImageDefaults::default()
            };
            let got = args(&strings(command), &strings(given), &image).unwrap();
            assert_eq!(
                got,
                strings(want),
                "{entrypoint:?} {cmd:?} {command:?} {given:?}"
            );
        }
        let nothing = args(&[], &[], &ImageDefaults::default()).unwrap_err();
        assert_eq!(nothing.kind(), Kind::InvalidArgument);
    }

    #[test]
    fn later_variables_win_and_bare_names_delete() {
        let mut config = testing::container_config();
        config.tty = true;
        config.envs = vec![
            ("B".into(), "container".into()),
            ("A".into(), String::new()),
            ("PATH".into(), "/bin".into()),
        ];
        let image = ImageDefaults {
            env: strings(&["HOSTNAME=image", "B=image", "C=1", "C", "TERM", "D=a=b"]),
            ..ImageDefaults::default()
        };

        let all = env(&config, &image, &testing::pod_config(), &testing::host()).unwrap();

        assert_eq!(
            all,
            strings(&["PATH=/bin", "HOSTNAME=image", "B=container", "D=a=b", "A="])
        );
    }

    #[test]
    fn the_host_name_is_the_nodes_where_the_pod_has_none() {
        let mut pod = testing::pod_config();
        pod.hostname.clear();

        let all = env(
            &testing::container_config(),
            &ImageDefaults::default(),
            &pod,
            &testing::host(),
        )
        .unwrap();

        assert!(all.contains(&"HOSTNAME=node-1".to_owned()), "{all:?}");
    }

    #[test]
    fn hostile_variables_and_arguments_are_refused_at_the_limit() {
        let one = |len: usize| vec!["x".repeat(len)];
        let image = ImageDefaults::default();

        assert!(args(&one(MAX_ONE_BYTES - 1), &[], &image).is_ok());
        assert!(args(&one(MAX_ONE_BYTES), &[], &image).is_err());
        assert!(args(&strings(&["a\0b"]), &[], &image).is_err());
        assert!(args(&vec![String::new(); MAX_ENTRIES], &[], &image).is_ok());
        assert!(args(&vec![String::new(); MAX_ENTRIES + 1], &[], &image).is_err());
        assert!(args(&vec!["x".repeat(1 << 10); 1 << 10], &[], &image).is_ok());
        let mut too_much = vec!["x".repeat(1 << 10); 1 << 10];
        too_much.push("x".into());
        assert!(args(&too_much, &[], &image).is_err());
        for (key, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "\0")] {
            let mut config = testing::container_config();
            config.envs = vec![(key.into(), value.into())];
            let got = env(&config, &image, &testing::pod_config(), &testing::host());
            assert_eq!(got.unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn the_directory_is_the_containers_then_the_images_then_the_root() {
        let image = |dir: &str| ImageDefaults {
            working_dir: dir.into(),
            ..ImageDefaults::default()
        };

        assert_eq!(cwd("/a", &image("/b")).unwrap(), "/a");
        assert_eq!(cwd("", &image("/b")).unwrap(), "/b");
        assert_eq!(cwd("", &image("app")).unwrap(), "/app");
        assert_eq!(cwd("", &image("")).unwrap(), "/");
        assert_eq!(cwd("/proc/sys", &image("")).unwrap(), "/proc/sys");
        assert_eq!(cwd("/proc/self/root/../..", &image("")).unwrap(), "/proc");
        assert_eq!(
            cwd("/x/../proc/self/fd/8/../../..", &image("")).unwrap(),
            "/proc"
        );
        for bad in [
            "relative",
            "/proc/self/fd/7",
            "/proc/thread-self/cwd",
            "/x/../proc/self/fd/8",
            "//proc//1/./fd/3",
            "/a\0",
        ] {
            assert_eq!(
                cwd(bad, &image("")).unwrap_err().kind(),
                Kind::InvalidArgument,
                "{bad}"
            );
            if bad != "relative" {
                assert!(cwd("", &image(bad)).is_err(), "{bad}");
            }
        }
    }
}
