//! Real registries that want to know who asks: passwords, certificates, tokens.

mod desk;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use podwright::wire::cri::AuthConfig;
use tokio::net::TcpListener;
use tonic::Code;

use super::images::{find, pull, pull_with, remove};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images;
use crate::node::{Node, registry};
use crate::pods::fails;
use desk::{Notes, PASSWORD, REFRESH, Role};

pub(super) const CASES: &[Case] = &[
    Case::new("registry.each_pull_shows_its_own_password", |node| {
        Box::pin(basic(node))
    })
    .needs(&["docker-registry"]),
    Case::new(
        "registry.a_password_goes_to_its_own_registry_alone",
        |node| {
            Box::pin(beside(node, Role::Greedy, |node, notes| {
                Box::pin(greedy(node, notes))
            }))
        },
    )
    .needs(&["docker-registry"]),
    Case::new(
        "registry.a_private_authority_and_a_client_certificate",
        |node| Box::pin(certified(node)),
    )
    .needs(&["docker-registry"]),
    Case::new("registry.tokens_are_fetched_for_who_asks", |node| {
        Box::pin(beside(node, Role::Tokens, |node, notes| {
            Box::pin(tokens(node, notes))
        }))
    })
    .needs(&["docker-registry"]),
    Case::new("registry.no_password_leaves_tls_for_a_token", |node| {
        Box::pin(beside(node, Role::Tokens, |node, notes| {
            Box::pin(downgraded(node, notes))
        }))
    })
    .needs(&["docker-registry"]),
];

/// What a case does while a server of [`desk`] stands by.
type Beside = for<'a> fn(&'a Node, &'a Notes) -> BoxFuture<'a, Outcome>;

const REPOSITORY: &str = "team/app";
const APP: &str = "127.0.0.1:5000/team/app:1";
/// Where the server of [`desk`] listens.
const DESK: &str = "127.0.0.1:5001";
/// alice, with the password [`PASSWORD`].
const USERS: &str = "alice:$2b$04$mac5Iscza1BquDoIZOeWeemZhbnQF/1OWM9MH8QRz/q6EoOACKjWm\n";
const CA: &str = include_str!("../../../../src/registry/tests/tls/ca.pem");
const CERTIFICATE: &str = include_str!("../../../../src/registry/tests/tls/cert.pem");
const KEY: &str = include_str!("../../../../src/registry/tests/tls/key.pem");
/// A certificate that is its own authority, and its key.
const CLIENT: &str = include_str!("keys/client.pem");

fn user(username: &str, password: &str) -> AuthConfig {
    AuthConfig {
        username: username.into(),
        password: password.into(),
        ..Default::default()
    }
}

fn filled(node: &Node) -> Outcome {
    let archive = images::archive("busybox");
    registry::fill(&registry::storage(node), &archive, REPOSITORY, "1")
}

async fn beside(node: &Node, role: Role, work: Beside) -> Outcome {
    let notes = Notes::default();
    let listener = TcpListener::bind(DESK).await?;
    tokio::select! {
        ended = desk::serve(listener, role, notes.clone()) => ended,
        ended = work(node, &notes) => ended,
    }
}

/// The registry's settings that make it ask for the password of [`USERS`].
fn with_passwords(node: &Node) -> Outcome<String> {
    let users = node.home.join("users");
    fs::write(&users, USERS)?;
    Ok(format!(
        "auth:\n  htpasswd:\n    realm: shelf\n    path: {}\n",
        users.display()
    ))
}

/// Refused with this code and words, no secret among them, whether the image is here or not.
async fn refused(
    node: &Node,
    image: &str,
    auth: Option<AuthConfig>,
    code: Code,
    words: &str,
) -> Outcome {
    let who = format!("{auth:?}");
    let ended = pull_with(node, image, auth).await;
    let said = fails(&who, ended, code)?;
    ensure(said.contains(words) && !said.contains("S3cret"), || {
        format!("{who}: {said}")
    })
}

async fn basic(node: &Node) -> Outcome {
    const NO: Code = Code::Unauthenticated;
    filled(node)?;
    let registry = registry::serve(node, &with_passwords(node)?).await?;
    let wrong = || Some(user("alice", "wrong-S3cret"));
    refused(node, APP, None, NO, "the pull has none for it").await?;
    refused(node, APP, wrong(), NO, "user or password is wrong").await?;
    ensure(find(node, APP).await?.is_none(), || {
        "it is there".to_owned()
    })?;

    let alice = user("alice", PASSWORD);
    let for_server = |address: &str| AuthConfig {
        server_address: address.into(),
        ..alice.clone()
    };
    let encoded = AuthConfig {
        auth: STANDARD.encode(format!("alice:{PASSWORD}")),
        ..Default::default()
    };
    let good = [
        alice.clone(),
        encoded,
        for_server(registry::ADDRESS),
        for_server(&format!("http://{}/v1/", registry::ADDRESS)),
    ];
    let mut ids = Vec::new();
    for auth in good {
        ids.push(pull_with(node, APP, Some(auth)).await?);
    }
    ids.dedup();
    ensure(ids.len() == 1, || format!("{ids:?}"))?;

    // It is here now: alice's, and still nobody else's.
    let token = AuthConfig {
        identity_token: PASSWORD.into(),
        ..Default::default()
    };
    let bearer = AuthConfig {
        registry_token: PASSWORD.into(),
        ..Default::default()
    };
    refused(node, APP, None, NO, "the pull has none for it").await?;
    refused(node, APP, wrong(), NO, "user or password is wrong").await?;
    refused(node, APP, Some(user("bob", PASSWORD)), NO, "wrong").await?;
    for other in [for_server("other.example"), token, bearer] {
        refused(node, APP, Some(other), NO, "the pull has none for it").await?;
    }

    let file = node.home.join("registries.json");
    let auth = STANDARD.encode(format!("alice:{PASSWORD}"));
    fs::write(
        &file,
        format!(
            "{{\"auths\": {{\"{}/team\": {{\"auth\": \"{auth}\"}}}}}}",
            registry::ADDRESS
        ),
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    node.configure(&format!("credentials_file = {file:?}"))
        .await?;
    pull(node, APP).await?;
    // What a pull brings, be it empty, is not mended by the node's own.
    refused(
        node,
        APP,
        Some(AuthConfig::default()),
        NO,
        "the pull has none for it",
    )
    .await?;

    let log = node.podwright.log();
    ensure(!log.contains(PASSWORD) && !log.contains(&auth), || {
        "a secret is in the log".to_owned()
    })?;
    remove(node, APP).await?;
    registry.stop().await
}

/// A mirror before the registry asks for credentials, and gets none unless it is trusted with them.
async fn greedy(node: &Node, notes: &Notes) -> Outcome {
    filled(node)?;
    let registry = registry::serve(node, &with_passwords(node)?).await?;
    registry::mirrors("127.0.0.1:5000", &[&format!("http://{DESK}")])?;
    let alice = || Some(user("alice", PASSWORD));
    pull_with(node, APP, alice()).await?;

    let seen = notes.all();
    let leaks = |seen: &[desk::Seen]| {
        let shows =
            |one: &&desk::Seen| !one.authorization.is_empty() || one.body.contains(PASSWORD);
        seen.iter().filter(shows).count()
    };
    ensure(!seen.is_empty() && leaks(&seen) == 0, || {
        format!("{seen:?}")
    })?;
    remove(node, APP).await?;

    // The other way round: the registry stands before an upstream as its mirror.
    let mirrored = "mirrored.example/team/app:1";
    registry::mirrors("mirrored.example", &[])?;
    refused(
        node,
        mirrored,
        alice(),
        Code::Unauthenticated,
        "the pull has none for it",
    )
    .await?;
    node.configure(&format!("trusted_mirrors = [\"{}\"]", registry::ADDRESS))
        .await?;
    pull_with(node, mirrored, alice()).await?;
    ensure(leaks(&notes.all()) == 0, || format!("{:?}", notes.all()))?;
    remove(node, mirrored).await?;
    registry.stop().await
}

/// The registry's settings for TLS; they begin in its table `http`.
fn with_tls(node: &Node, is_strict: bool) -> Outcome<String> {
    let path = |name: &str| node.home.join(name).display().to_string();
    let (certificate, key, client) = (path("cert.pem"), path("key.pem"), path("client-ca.pem"));
    fs::write(&certificate, CERTIFICATE)?;
    fs::write(&key, KEY)?;
    fs::write(&client, CLIENT)?;
    let clients = if is_strict {
        format!("    clientcas: [{client}]\n")
    } else {
        String::new()
    };
    Ok(format!(
        "  tls:\n    certificate: {certificate}\n    key: {key}\n{clients}"
    ))
}

/// Has the registry's own name lead to it by TLS, with these settings.
fn trusting(settings: &str) -> Outcome {
    let address = registry::ADDRESS;
    let text = format!("server = \"https://{address}\"\n{settings}");
    let folder = registry::hosts(address, &text)?;
    fs::write(folder.join("ca.pem"), CA)?;
    Ok(fs::write(folder.join("client.pem"), CLIENT)?)
}

async fn certified(node: &Node) -> Outcome {
    filled(node)?;
    let lax = registry::serve(node, &with_tls(node, false)?).await?;
    trusting("")?;
    refused(node, APP, None, Code::Unknown, "certificate").await?;
    trusting("ca = \"ca.pem\"\n")?;
    pull(node, APP).await?;
    remove(node, APP).await?;
    lax.stop().await?;

    let strict = registry::serve(node, &with_tls(node, true)?).await?;
    // TLS 1.3 tells of a missing certificate only once the request is on its way.
    refused(node, APP, None, Code::Unknown, "RegistryUnavailable").await?;
    trusting("ca = \"ca.pem\"\nclient = \"client.pem\"\n")?;
    pull(node, APP).await?;
    remove(node, APP).await?;
    strict.stop().await
}

/// The registry's settings that make it want tokens of [`DESK`].
fn with_tokens(node: &Node) -> Outcome<String> {
    let signer = node.home.join("signer.pem");
    fs::write(&signer, desk::SIGNER)?;
    Ok(format!(
        "auth:\n  token:\n    realm: http://{DESK}/token\n    service: {}\n    issuer: {}\n    rootcertbundle: {}\n",
        desk::SERVICE,
        desk::ISSUER,
        signer.display()
    ))
}

async fn tokens(node: &Node, notes: &Notes) -> Outcome {
    const NO: Code = Code::Unauthenticated;
    filled(node)?;
    let registry = registry::serve(node, &with_tokens(node)?).await?;
    refused(node, APP, None, NO, "").await?;
    refused(
        node,
        APP,
        Some(user("alice", "wrong-S3cret")),
        NO,
        "credentials are right",
    )
    .await?;

    let identity = |token: &str| AuthConfig {
        identity_token: token.into(),
        ..Default::default()
    };
    let bearer = |token: &str| AuthConfig {
        registry_token: token.into(),
        ..Default::default()
    };
    let own = desk::token(&["pull"])?;
    for auth in [user("alice", PASSWORD), identity(REFRESH), bearer(&own)] {
        pull_with(node, APP, Some(auth)).await?;
    }

    // It is here now. Who may not have it is refused all the same, bob with a token that is good for nothing.
    let seen = notes.all().len();
    refused(node, APP, None, NO, "").await?;
    refused(
        node,
        APP,
        Some(user("bob", PASSWORD)),
        NO,
        "do not allow this repository",
    )
    .await?;
    refused(
        node,
        APP,
        Some(identity("stale-S3cret")),
        NO,
        "credentials are right",
    )
    .await?;
    refused(
        node,
        APP,
        Some(bearer("forged-S3cret")),
        NO,
        "registry token was refused",
    )
    .await?;
    let since = notes.all().split_off(seen);
    let asks = |one: &desk::Seen| {
        let text = format!("{}{}", one.target, one.body);
        text.contains("repository%3Ateam%2Fapp%3Apull") && text.contains(desk::SERVICE)
    };
    ensure(since.len() >= 3 && since.iter().all(asks), || {
        format!("{since:?}")
    })?;
    let log = node.podwright.log();
    let secrets = [PASSWORD, own.as_str()];
    ensure(!secrets.iter().any(|secret| log.contains(secret)), || {
        "a secret is in the log".to_owned()
    })?;
    remove(node, APP).await?;
    registry.stop().await
}

/// A registry that speaks TLS and names a realm without it.
async fn downgraded(node: &Node, notes: &Notes) -> Outcome {
    filled(node)?;
    let settings = format!("{}{}", with_tls(node, false)?, with_tokens(node)?);
    let registry = registry::serve(node, &settings).await?;
    trusting("ca = \"ca.pem\"\n")?;
    let alice = Some(user("alice", PASSWORD));
    refused(node, APP, alice, Code::PermissionDenied, "plain http").await?;
    let seen = notes.all();
    ensure(seen.is_empty(), || format!("{seen:?}"))?;
    registry.stop().await
}
