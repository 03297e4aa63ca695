//! The caller's credentials and the hosts they may be shown to. Nothing here prints a secret.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::model::{Error, Result};

/// A registry's answer to who is asking, as a pull request carries it. All strings may be empty.
#[derive(Clone, Default)]
pub struct AuthFields {
    /// User name; beats the other fields where not empty.
    pub username: String,
    /// Password of `username`.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// The registry that the credentials are for; empty means the reference's own.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// A bearer token to send as it is.
    pub registry_token: String,
}

impl fmt::Debug for AuthFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthFields(redacted)")
    }
}

/// Credentials of one pull, bound to a host.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    secret: Secret,
    server: Option<String>,
    /// The node's own secrets by canonical host, for a request that brings none.
    node: BTreeMap<String, Secret>,
}

/// What is shown to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Secret {
    /// Nothing.
    #[default]
    Anonymous,
    /// User and password; the password may be empty.
    Password { username: String, password: String },
    /// An OAuth2 refresh token, exchanged at the token endpoint.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl Secret {
    /// What tells it from others.
    fn parts(&self) -> [&str; 3] {
        match self {
            Self::Anonymous => ["anonymous", "", ""],
            Self::Password { username, password } => ["password", username, password],
            Self::IdentityToken(token) => ["identity", token, ""],
            Self::RegistryToken(token) => ["registry", token, ""],
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.secret {
            Secret::Anonymous => "anonymous",
            Secret::Password { .. } => "password",
            Secret::IdentityToken(_) => "identity token",
            Secret::RegistryToken(_) => "registry token",
        };
        write!(f, "Credentials({kind}, redacted)")
    }
}

impl Credentials {
    /// No credentials.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Reads the fields of a request: user and password first, then the identity token, the registry token, and
    /// `auth` last.
    ///
    /// # Errors
    /// `InvalidArgument` where `auth` is not base64 of `user:password`, or the server address is no URL or host.
    pub fn parse(fields: &AuthFields) -> Result<Self> {
        let secret = if !fields.username.is_empty() {
            Secret::Password {
                username: fields.username.clone(),
                password: fields.password.clone(),
            }
        } else if !fields.identity_token.is_empty() {
            Secret::IdentityToken(fields.identity_token.clone())
        } else if !fields.registry_token.is_empty() {
            Secret::RegistryToken(fields.registry_token.clone())
        } else if !fields.auth.is_empty() {
            decode_auth(&fields.auth)?
        } else {
            Secret::Anonymous
        };
        let server = match fields.server_address.trim() {
            "" => None,
            address => Some(server_host(address)?),
        };
        Ok(Self {
            secret,
            server,
            node: BTreeMap::new(),
        })
    }

    /// The node's own credentials: each secret for its host alone. The request brought none.
    pub(super) fn of_node(secrets: impl IntoIterator<Item = (String, Self)>) -> Self {
        let secrets = secrets.into_iter();
        Self {
            node: secrets
                .map(|(host, credentials)| (canonical(&host), credentials.secret))
                .collect(),
            ..Self::default()
        }
    }

    /// Whether the request brought nothing to show.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.secret, Secret::Anonymous)
    }

    /// A digest that tells equal credentials from others, for join keys. It reveals nothing worth having without the
    /// secret, but is kept out of messages all the same.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let server = self.server.as_deref().unwrap_or_default();
        let node = self.node.iter();
        let shown = node.map(|(host, secret)| (secret, host.as_str()));
        for (secret, host) in std::iter::once((&self.secret, server)).chain(shown) {
            for part in secret.parts().into_iter().chain([host]) {
                hash.update(part.len().to_be_bytes());
                hash.update(part.as_bytes());
            }
        }
        hash.finalize().into()
    }

    /// The secret as far as `host` (with port) may see it. Without a server address only the reference's own
    /// registry (`is_own`) may; with one, only that server.
    pub(super) fn for_host(&self, host: &str, is_own: bool) -> Secret {
        if let Some(secret) = self.node.get(&canonical(host)) {
            return secret.clone();
        }
        let allowed = match &self.server {
            None => is_own,
            Some(server) => canonical(server) == canonical(host),
        };
        if allowed {
            self.secret.clone()
        } else {
            Secret::Anonymous
        }
    }
}

fn decode_auth(auth: &str) -> Result<Secret> {
    let bad = || Error::invalid("registry credentials: auth is not the base64 of user:password");
    let bytes = STANDARD.decode(auth.trim()).map_err(|_malformed| bad())?;
    let text = String::from_utf8(bytes).map_err(|_not_text| bad())?;
    let (username, password) = text.split_once(':').ok_or_else(bad)?;
    Ok(Secret::Password {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    })
}

/// The `host[:port]` of a server address, which may be a URL or a bare host.
fn server_host(address: &str) -> Result<String> {
    let with_scheme = if address.contains("://") {
        address.to_owned()
    } else {
        format!("https://{address}")
    };
    let bad =
        || Error::invalid("registry credentials: server_address is neither a URL nor host[:port]");
    let url = url::Url::parse(&with_scheme).map_err(|_malformed| bad())?;
    let host = url.host_str().ok_or_else(bad)?;
    Ok(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// One name for the default registry's several, and no default port.
pub(super) fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    match host {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn with(fields: AuthFields) -> Credentials {
        Credentials::parse(&fields).unwrap()
    }

    fn user(server: &str) -> Credentials {
        with(AuthFields {
            username: "u".into(),
            password: "S3cret".into(),
            server_address: server.into(),
            ..AuthFields::default()
        })
    }

    #[test]
    fn auth_is_split_at_the_first_colon_and_loses_trailing_nuls() {
        let credentials = with(AuthFields {
            auth: STANDARD.encode("user:pa:ss\0\0"),
            ..AuthFields::default()
        });

        assert!(
            matches!(credentials.secret, Secret::Password { username, password }
                if username == "user" && password == "pa:ss")
        );
    }

    #[rstest]
    #[case("***")]
    #[case("bm9jb2xvbg==")]
    fn broken_auth_is_refused_without_being_quoted(#[case] auth: &str) {
        let fields = AuthFields {
            auth: auth.into(),
            ..AuthFields::default()
        };
        let error = Credentials::parse(&fields).unwrap_err();
        assert!(!error.chain().contains(auth));
    }

    #[rstest]
    #[case("", "registry.tld", true, true)]
    #[case("", "mirror.tld", false, false)]
    #[case("https://registry.tld/v1/", "registry.tld", true, true)]
    #[case("registry.tld:5000", "registry.tld:5000", true, true)]
    #[case("10.0.0.1:5000", "10.0.0.1:5000", true, true)]
    #[case("registry.tld", "registry.tld:5000", true, false)]
    #[case("mirror.tld", "mirror.tld", false, true)]
    #[case("https://index.docker.io/v1/", "registry-1.docker.io", true, true)]
    fn a_secret_is_shown_to_its_own_host_alone(
        #[case] server: &str,
        #[case] host: &str,
        #[case] is_own: bool,
        #[case] shown: bool,
    ) {
        let secret = user(server).for_host(host, is_own);
        assert_eq!(secret != Secret::Anonymous, shown);
    }

    #[test]
    fn debug_shows_no_secret_and_fingerprints_tell_secrets_apart() {
        let credentials = user("");
        assert!(!format!("{credentials:?}").contains("S3cret"));
        assert_eq!(credentials.fingerprint(), user("").fingerprint());
        assert_ne!(credentials.fingerprint(), user("h").fingerprint());
        assert_ne!(
            credentials.fingerprint(),
            Credentials::anonymous().fingerprint()
        );
    }

    impl fmt::Debug for Secret {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Secret")
        }
    }
}
