//! The token endpoint of a Bearer challenge. The challenge is hostile: it names the place where the credentials would
//! go, so that place is checked first (the class of CVE-2026-48978).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use url::{Host, Url};

use super::auth::Challenger;
use super::body;
use super::credentials::Secret;
use super::endpoint::without_credentials;
use super::failure::{send_error, shown};
use crate::model::{Error, Kind, Result};

const CLIENT_ID: &str = "containerd-client";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const LIMIT: Duration = Duration::from_secs(30);
const MAX_REPLY: u64 = 1024 * 1024;
const MAX_TOKEN: usize = 64 * 1024;

/// A bearer token and how long it lasts.
#[derive(Clone)]
pub(super) struct Token {
    text: String,
    expires: Option<Instant>,
}

impl Token {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

/// What to ask the endpoint.
pub(super) struct TokenRequest<'a> {
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: &'a BTreeSet<String>,
    pub(super) secret: &'a Secret,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

/// Fetches a token: an OAuth2 POST where there is a secret, else and as a fallback a GET.
///
/// # Errors
/// `PermissionDenied` for a realm that may not be asked, `Unauthenticated` where it gives no token, `Unavailable`
/// where it does not answer.
pub(super) async fn fetch(request: &TokenRequest<'_>, from: &Challenger<'_>) -> Result<Token> {
    let has_secret = !matches!(request.secret, Secret::Anonymous);
    let realm = checked_realm(request.realm, from.url, has_secret)?;
    let client = from.clients.to(from.url, &realm, from.is_last, false)?;
    if has_secret {
        let response = send(post(&client, request, from, &realm), &realm).await?;
        let status = response.status();
        let is_password = matches!(request.secret, Secret::Password { .. });
        let fall_back = matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND
        ) || (status == StatusCode::METHOD_NOT_ALLOWED && is_password);
        if !fall_back {
            let reply = reply(response, &realm).await?;
            return token(reply.access_token, reply.expires_in, &realm);
        }
    }
    let reply = reply(
        send(get(&client, request, from, &realm), &realm).await?,
        &realm,
    )
    .await?;
    let text = if reply.access_token.is_empty() {
        reply.token
    } else {
        reply.access_token
    };
    token(text, reply.expires_in, &realm)
}

/// The value of a Basic `Authorization` header.
pub(super) fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

/// Parses the realm and decides whether it may be asked on behalf of the registry at `registry`.
fn checked_realm(realm: &str, registry: &Url, has_secret: bool) -> Result<Url> {
    let denied = |why: &str| {
        Error::new(
            Kind::PermissionDenied,
            format!("{}: its token realm {why}", shown(registry)),
        )
    };
    let mut url = Url::parse(realm).map_err(|_malformed| denied("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(denied("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(denied("carries a user name"));
    }
    url.set_fragment(None);
    let is_same_host = url.host() == registry.host();
    if is_private(&url) && !is_same_host {
        return Err(denied(
            "is a private address that is not the registry's own",
        ));
    }
    let is_plain = url.scheme() == "http";
    if has_secret && is_plain && registry.scheme() == "https" {
        return Err(denied("is plain http while the registry speaks https"));
    }
    if has_secret && is_plain && !is_same_host {
        return Err(denied("is plain http on another host"));
    }
    Ok(url)
}

/// Whether a URL's host is literally an address that only means something nearby.
fn is_private(url: &Url) -> bool {
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        Some(Host::Domain(name)) => {
            return name == "localhost" || name.ends_with(".localhost");
        }
        None => return true,
    };
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
        }
    }
}

fn post(
    client: &Client,
    request: &TokenRequest<'_>,
    from: &Challenger<'_>,
    realm: &Url,
) -> RequestBuilder {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    match request.secret {
        Secret::Password { username, password } => {
            form.append_pair("grant_type", "password")
                .append_pair("username", username)
                .append_pair("password", password);
        }
        Secret::IdentityToken(token) => {
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token);
        }
        Secret::Anonymous | Secret::RegistryToken(_) => {}
    }
    if let Some(service) = request.service {
        form.append_pair("service", service);
    }
    form.append_pair("client_id", CLIENT_ID);
    let scopes: Vec<&str> = request.scopes.iter().map(String::as_str).collect();
    form.append_pair("scope", &scopes.join(" "));
    client
        .post(realm.clone())
        .headers(extra_headers(from, realm))
        .header(CONTENT_TYPE, FORM)
        .header(ACCEPT, "application/json")
        .body(form.finish())
}

fn get(
    client: &Client,
    request: &TokenRequest<'_>,
    from: &Challenger<'_>,
    realm: &Url,
) -> RequestBuilder {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = request.service {
            query.append_pair("service", service);
        }
        for scope in request.scopes {
            query.append_pair("scope", scope);
        }
    }
    let builder = client
        .get(url)
        .headers(extra_headers(from, realm))
        .header(ACCEPT, "application/json");
    let (username, secret) = match request.secret {
        Secret::Password { username, password } => (username.as_str(), password.as_str()),
        Secret::IdentityToken(token) => ("", token.as_str()),
        Secret::Anonymous | Secret::RegistryToken(_) => return builder,
    };
    let mut value = match HeaderValue::from_str(&basic(username, secret)) {
        Ok(value) => value,
        Err(_impossible_in_base64) => return builder,
    };
    value.set_sensitive(true);
    builder.header(AUTHORIZATION, value)
}

/// The headers configured for the registry's host go to its token endpoint as well, but a configured credential only
/// to the same origin.
fn extra_headers(from: &Challenger<'_>, realm: &Url) -> HeaderMap {
    if realm.origin() == from.url.origin() {
        from.headers.clone()
    } else {
        without_credentials(from.headers)
    }
}

async fn send(builder: RequestBuilder, realm: &Url) -> Result<Response> {
    match tokio::time::timeout(LIMIT, builder.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(send_error(error, realm).context("fetch a registry token")),
        Err(_elapsed) => Err(Error::unavailable(format!(
            "fetch a registry token from {}: no answer within {LIMIT:?}",
            shown(realm)
        ))),
    }
}

async fn reply(response: Response, realm: &Url) -> Result<Reply> {
    let status = response.status();
    let refused = |why: String| {
        Error::new(
            Kind::Unauthenticated,
            format!("fetch a registry token from {}: {why}", shown(realm)),
        )
    };
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Error::unavailable(format!(
            "fetch a registry token from {}: {status}",
            shown(realm)
        )));
    }
    if !(200..400).contains(&status.as_u16()) {
        return Err(refused(format!(
            "{status}; check that the credentials are right and allow this repository"
        )));
    }
    let bytes = tokio::time::timeout(LIMIT, body::read_all(response, MAX_REPLY, LIMIT))
        .await
        .map_err(|_elapsed| refused("its reply did not end in time".to_owned()))?
        .map_err(|failure| refused(failure.error.chain()))?;
    serde_json::from_slice(&bytes)
        .map_err(|_quotes_the_body| refused("its reply is no token in JSON".to_owned()))
}

fn token(text: String, expires_in: u64, realm: &Url) -> Result<Token> {
    let is_usable =
        !text.is_empty() && text.len() <= MAX_TOKEN && text.bytes().all(|b| b.is_ascii_graphic());
    if !is_usable {
        return Err(Error::new(
            Kind::Unauthenticated,
            format!(
                "fetch a registry token from {}: none in the reply",
                shown(realm)
            ),
        ));
    }
    let expires = (expires_in > 0)
        .then(|| Instant::now().checked_add(Duration::from_secs(expires_in)))
        .flatten();
    Ok(Token { text, expires })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://auth.tld/token", "https://reg.tld/", true, true)]
    #[case("http://auth.tld/token", "https://reg.tld/", true, false)]
    #[case("http://auth.tld/token", "http://reg.tld/", true, false)]
    #[case("http://reg.tld/token", "http://reg.tld/", true, true)]
    #[case("http://reg.tld/token", "https://reg.tld/", true, false)]
    #[case("http://auth.tld/token", "https://reg.tld/", false, true)]
    #[case("http://169.254.169.254/latest", "https://reg.tld/", false, false)]
    #[case("https://169.254.169.254/latest", "https://reg.tld/", false, false)]
    #[case("https://[::ffff:10.0.0.1]/t", "https://reg.tld/", false, false)]
    #[case("https://0x7f.1/t", "https://reg.tld/", false, false)]
    #[case("http://127.0.0.1:1/t", "https://reg.tld/", false, false)]
    #[case("http://[::1]/t", "https://reg.tld/", false, false)]
    #[case("http://localhost/t", "https://reg.tld/", false, false)]
    #[case("http://127.0.0.1:1/t", "http://127.0.0.1:2/", true, true)]
    #[case("https://10.0.0.1/t", "https://10.0.0.1/", true, true)]
    #[case("file:///etc/shadow", "https://reg.tld/", false, false)]
    #[case("gopher://auth.tld/", "https://reg.tld/", false, false)]
    #[case("https://u:p@auth.tld/", "https://reg.tld/", true, false)]
    #[case("not a url", "https://reg.tld/", false, false)]
    fn a_realm_is_asked_only_where_that_is_safe(
        #[case] realm: &str,
        #[case] registry: &str,
        #[case] has_secret: bool,
        #[case] allowed: bool,
    ) {
        let registry = Url::parse(registry).unwrap();
        assert_eq!(checked_realm(realm, &registry, has_secret).is_ok(), allowed);
    }
}
