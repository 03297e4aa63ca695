//! The token server of a registry, and a server that only notes who shows it what.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use podwright::model::clock::{Clock as _, SystemClock};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{SignatureScheme, crypto::ring::sign};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::case::Outcome;

/// The certificate that the registry trusts tokens by.
pub(super) const SIGNER: &str = include_str!("keys/signer.pem");
const KEY: &[u8] = include_bytes!("keys/signer.key");
/// As the registry is told.
pub(super) const ISSUER: &str = "desk";
pub(super) const SERVICE: &str = "shelf";
/// What one may get with alice's password, with her refresh token or her bearer token.
pub(super) const PASSWORD: &str = "S3cret";
pub(super) const REFRESH: &str = "refresh-S3cret";

/// A request, as far as it matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) authorization: String,
    pub(super) body: String,
}

/// What a server was asked.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<Seen>>>);

impl Notes {
    pub(super) fn all(&self) -> Vec<Seen> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, seen: Seen) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(seen);
    }
}

/// Which of the two a server is.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// Hands out tokens: alice's allow to pull, bob's allow nothing, nobody's likewise.
    Tokens,
    /// Wants credentials for everything, in every way there is, and itself for a realm.
    Greedy,
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, role: Role, notes: Notes) -> Outcome {
    let own = listener.local_addr()?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        // A client that tries TLS first sends no head that could be read.
        let Ok(seen) = read(&mut stream).await else {
            continue;
        };
        let answer = match role {
            Role::Tokens => tokens(&seen)?,
            Role::Greedy => reply(
                "401 Unauthorized",
                &format!(
                    "WWW-Authenticate: Basic realm=\"r\"\r\nWWW-Authenticate: Bearer realm=\"http://{own}/token\"\r\n"
                ),
                "{}",
            ),
        };
        notes.add(seen);
        drop(stream.write_all(answer.as_bytes()).await);
    }
}

async fn read(stream: &mut TcpStream) -> Outcome<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head.len() > 16 << 10 {
            return Err("no head".into());
        }
    }
    let head = String::from_utf8(head)?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length = header("content-length").map_or(Ok(0), |text| text.parse())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let mut first = head.split(' ');
    Ok(Seen {
        method: first.next().unwrap_or_default().to_owned(),
        target: first.next().unwrap_or_default().to_owned(),
        authorization: header("authorization").unwrap_or_default(),
        body: String::from_utf8(body)?,
    })
}

/// What the token server answers: a form with a password or a refresh token, or a query with Basic.
fn tokens(seen: &Seen) -> Outcome<String> {
    let query = seen.target.split_once('?').map_or("", |(_, query)| query);
    let text = if seen.method == "POST" {
        &seen.body
    } else {
        query
    };
    let field = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    let is = |user: &str| {
        let basic = STANDARD.encode(format!("{user}:{PASSWORD}"));
        let by_form = field("username").as_deref() == Some(user)
            && field("password").as_deref() == Some(PASSWORD);
        by_form || seen.authorization == format!("Basic {basic}")
    };
    let is_nobody = seen.method == "GET" && seen.authorization.is_empty();
    let actions: &[&str] = if is("alice") || field("refresh_token").as_deref() == Some(REFRESH) {
        &["pull"]
    } else if is("bob") || is_nobody {
        &[]
    } else {
        return Ok(reply(
            "401 Unauthorized",
            "",
            "{\"details\":\"no such user\"}",
        ));
    };
    let token = token(actions)?;
    let body = json!({ "access_token": token, "token": token, "expires_in": 300 });
    Ok(reply("200 OK", "", &body.to_string()))
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A token for the repository `team/app`, signed as the registry expects it.
pub(super) fn token(actions: &[&str]) -> Outcome<String> {
    let certificate = CertificateDer::from_pem_slice(SIGNER.as_bytes())?;
    let (now, _) = SystemClock.now().parts();
    let access = match actions {
        [] => json!([]),
        actions => json!([{ "type": "repository", "name": "team/app", "actions": actions }]),
    };
    let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(&certificate)] });
    let claims = json!({
        "iss": ISSUER, "sub": "alice", "aud": SERVICE, "exp": now + 300, "nbf": now - 30,
        "iat": now, "jti": "1", "access": access,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let key = sign::any_supported_type(&PrivateKeyDer::from_pem_slice(KEY)?)?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .ok_or("the key is no RSA key")?;
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}
