//! A host path that never answers stays the trouble of the pod that asked for it.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, patient};
use crate::pods::{pod, sleeper};

pub(super) const CASES: &[Case] = &[Case::new("paths.a_hung_one_holds_up_no_other_pod", |node| {
    Box::pin(hung(node))
})
.unless(|| {
    let lacks = !Path::new("/dev/fuse").exists();
    lacks.then(|| String::from("there is no /dev/fuse here"))
})];

/// A FUSE mount whose server never answers anything, until it is dropped.
struct Hung<'p> {
    server: File,
    path: &'p Path,
}

impl<'p> Hung<'p> {
    fn at(path: &'p Path) -> Outcome<Self> {
        fs::create_dir(path)?;
        let server = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            server.as_raw_fd()
        );
        mount(
            Some("hung"),
            path,
            Some("fuse"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?;
        Ok(Self { server, path })
    }

    fn end(self) -> Outcome {
        drop(self.server);
        Ok(umount2(self.path, MntFlags::MNT_DETACH)?)
    }
}

async fn hung(node: &Node) -> Outcome {
    let path = node.home.join("hung");
    let hung = Hung::at(&path)?;
    let stuck_config = pod(node, "stuck");
    let stuck_pod = node.run_pod(&stuck_config).await?;
    let mut stuck = sleeper("c");
    stuck.mounts.push(cri::Mount {
        host_path: path.join("below").display().to_string(),
        container_path: String::from("/data"),
        ..Default::default()
    });
    let attempt = node.run(&stuck_pod, &stuck_config, &stuck);
    let attempt = tokio::time::timeout(Duration::from_secs(2), attempt).await;
    ensure(attempt.is_err(), || format!("it did not hang: {attempt:?}"))?;

    let began = Instant::now();
    let config = pod(node, "free");
    let free = node.run_pod(&config).await?;
    node.run(&free, &config, &sleeper("c")).await?;
    let listed = node.pods(cri::PodSandboxFilter::default()).await?;
    let took = began.elapsed();
    let operations = node.cli(&["ops"]).await?;

    hung.end()?;
    let shown = operations.lines().find(|line| line.contains("path call"));
    ensure(
        shown.is_some_and(|line| line.contains("hung/below")),
        || operations.clone(),
    )?;
    ensure(took < patient(Duration::from_secs(3)), || {
        format!("it took {took:?}")
    })?;
    ensure(listed.len() == 2, || format!("{listed:?}"))
}
