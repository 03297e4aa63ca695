//! Plugins that come late, and those that the node starts itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use podwright::nri::messages::api;
use podwright::wire::{Message, cri};

use crate::case::Outcome;
use crate::ensure;
use crate::node::{self, Node, layout};
use crate::plugin::{Answer, Plugin};
use crate::pods::{pod, shell, sleeper};

pub(super) async fn late(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod_id = node.run_pod(&config).await?;
    let runs = node.run(&pod_id, &config, &sleeper("runs")).await?;
    let created = node.create(&pod_id, &config, &sleeper("created")).await?;
    let ended = node
        .run(&pod_id, &config, &shell("ended", "exit 0"))
        .await?;
    node.until_exited(&ended).await?;
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = || {
        let told = Arc::clone(&told);
        let slow: Answer = Arc::new(move |bytes| {
            let told = Arc::clone(&told);
            Box::pin(async move {
                // A container is being created meanwhile, and must not be lost.
                tokio::time::sleep(Duration::from_secs(3)).await;
                if let Ok(mut told) = told.lock() {
                    *told = bytes;
                }
                Ok(Vec::new())
            })
        });
        vec![("Synchronize", slow)]
    };
    for restart in [false, true] {
        if restart {
            node.podwright.kill().await?;
            node.podwright.start().await?;
            node.until_ready().await?;
        }
        let plugin = Plugin::join("10", "late", tell()).await?;
        let mut more = sleeper("meanwhile");
        more.metadata.get_or_insert_default().attempt = u32::from(restart);
        let meanwhile = node.create(&pod_id, &config, &more).await?;

        let all = told.lock().map(|told| told.clone()).unwrap_or_default();
        let all = api::SynchronizeRequest::decode(&*all)?;
        let pods: Vec<&str> = all.pods.iter().map(|pod| &*pod.id).collect();
        let ids: Vec<&str> = all.containers.iter().map(|one| &*one.id).collect();
        ensure(pods == [&*pod_id], || format!("{pods:?}"))?;
        ensure(
            ids.contains(&&*runs) && ids.contains(&&*created) && !ids.contains(&&*ended),
            || format!("{ids:?}"),
        )?;
        let heard = plugin.heard();
        let of = |method: &str| {
            let one = heard.iter().find(|one| one.method == method);
            one.and_then(|one| one.container.as_ref())
                .map(|container| container.id.clone())
        };
        ensure(of("CreateContainer").as_ref() == Some(&meanwhile), || {
            format!("{:?}", plugin.events())
        })?;
        node.remove(&meanwhile).await?;
        plugin.leave();
    }
    Ok(())
}

/// Has podwright start the plugins of `dir`; answers where its settings are.
async fn use_plugins(node: &Node, dir: &Path, configs: &Path) -> Outcome<PathBuf> {
    let settings = layout::podwright_config(&node.home);
    let text = fs::read_to_string(&settings)?;
    fs::write(
        &settings,
        format!(
            "{text}[nri]\nplugin_dir = \"{}\"\nplugin_config_dir = \"{}\"\n",
            dir.display(),
            configs.display()
        ),
    )?;
    node.podwright.stop().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    Ok(settings)
}

pub(super) async fn launched(node: &Node) -> Outcome {
    let (dir, configs) = (node.home.join("plugins"), node.home.join("plugin-configs"));
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(&configs)?;
    let (notes, environment) = (node.home.join("heard"), node.home.join("environment"));
    let program = std::env::current_exe()?;
    let script = |role: &str| {
        format!(
            "#!/bin/sh\nenv > {}\n{}={role} exec {} <&3 3<&-\n",
            environment.display(),
            node::ROLE,
            program.display()
        )
    };
    let executable = |name: &str, text: &str| -> Outcome {
        let path = dir.join(name);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(
            path,
            fs::Permissions::from_mode(0o755),
        )?)
    };
    executable("10-own", &script("plugin"))?;
    executable("20-broken", "#!/bin/sh\nexit 1\n")?;
    executable("misnamed", "#!/bin/sh\n")?;
    fs::write(configs.join("own.conf"), notes.display().to_string())?;
    let settings = use_plugins(node, &dir, &configs).await?;

    let config = pod(node, "p");
    let pod_id = node.run_pod(&config).await?;
    let id = node.run(&pod_id, &config, &sleeper("c")).await?;
    let said = node.ask(&id, "echo $LAUNCHED").await?;
    ensure(said == "yes", || said.clone())?;
    let told = fs::read_to_string(&environment)?;
    let mut told: Vec<&str> = told
        .lines()
        .filter(|line| !line.starts_with("PWD="))
        .collect();
    told.sort_unstable();
    let wanted = [
        "NRI_PLUGIN_IDX=10",
        "NRI_PLUGIN_NAME=own",
        "NRI_PLUGIN_SOCKET=3",
    ];
    ensure(told == wanted, || format!("{told:?}"))?;
    let info = verbose(node).await?;
    ensure(
        info.contains("\"name\":\"own\"") && info.contains("\"launched\":true"),
        || info.clone(),
    )?;
    let report = node
        .cli(&["doctor", "--config", &settings.to_string_lossy()])
        .await?;
    ensure(report.contains("misnamed"), || report.clone())?;
    let log = node.podwright.log();
    ensure(log.contains("misnamed"), || {
        "nothing was said of it".to_owned()
    })?;
    node.stop(&id, 5).await?;
    until_file(&notes, "StopContainer").await?;
    ensure(children(node).await? == 1, || {
        "there is not one plugin".to_owned()
    })?;
    // Nothing of it is left when the server goes, nor in the survey at the end of the case.
    let without = fs::read_to_string(&settings)?.replace("[nri]\n", "[nri]\nenabled = false\n");
    fs::write(&settings, without)?;
    node.podwright.stop().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    ensure(!Path::new(crate::plugin::SOCKET).exists(), || {
        "the socket is still there".to_owned()
    })
}

/// How many processes podwright has started and not taken note of the end of.
async fn children(node: &Node) -> Outcome<usize> {
    let pid = node.podwright.pid().await?;
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&*pid.to_string()) {
            count += 1;
        }
    }
    Ok(count)
}

async fn verbose(node: &Node) -> Outcome<String> {
    let request = cri::StatusRequest { verbose: true };
    let reply = node.cri.runtime.clone().status(request).await?;
    let info = reply.into_inner().info;
    Ok(info.get("nri").cloned().unwrap_or_default())
}

async fn until_file(path: &Path, text: &str) -> Outcome {
    for _ in 0..200 {
        if fs::read_to_string(path).unwrap_or_default().contains(text) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{} does not say {text:?}", path.display()).into())
}
