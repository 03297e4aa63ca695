//! What one pull has learnt about authentication at one host: the challenge it answered, and the tokens it earned.
//! Nothing here outlives the pull, so no token can reach another caller.

use std::collections::{BTreeSet, HashMap};

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::Mutex;

use super::challenge::{self, Challenge};
use super::client::HostClients;
use super::credentials::Secret;
use super::token::{self, TokenRequest};
use crate::model::{Error, Kind, Result};

/// How a host wants to be spoken to.
#[derive(Clone)]
enum Learnt {
    Nothing,
    Basic,
    /// A fixed bearer token from the credentials.
    Static,
    Bearer {
        realm: String,
        service: Option<String>,
        scopes: BTreeSet<String>,
    },
}

struct State {
    learnt: Learnt,
    /// By scopes joined with a space.
    tokens: HashMap<String, token::Token>,
    /// Whether the last answer was a challenge that said `error=`.
    was_refused: bool,
}

/// Authentication state of one pull at one host.
pub(super) struct HostAuth {
    secret: Secret,
    scope: String,
    /// Held while a token is fetched, so that parallel requests fetch it once.
    state: Mutex<State>,
}

/// Where a challenge came from: the token endpoint's rules depend on it.
pub(super) struct Challenger<'a> {
    pub(super) clients: &'a HostClients,
    pub(super) url: &'a url::Url,
    pub(super) headers: &'a HeaderMap,
    /// No other host is left to ask.
    pub(super) is_last: bool,
}

impl HostAuth {
    pub(super) fn new(secret: Secret, repository: &str) -> Self {
        Self {
            secret,
            scope: format!("repository:{repository}:pull"),
            state: Mutex::new(State {
                learnt: Learnt::Nothing,
                tokens: HashMap::new(),
                was_refused: false,
            }),
        }
    }

    /// Whether the pull has credentials for this host.
    pub(super) fn has_secret(&self) -> bool {
        !matches!(self.secret, Secret::Anonymous)
    }

    /// The `Authorization` value for the next request, fetching a token where one is needed; `None` before any
    /// challenge.
    ///
    /// # Errors
    /// `Unauthenticated` and the like where the token endpoint refuses or may not be asked.
    pub(super) async fn authorization(&self, from: &Challenger<'_>) -> Result<Option<HeaderValue>> {
        let mut state = self.state.lock().await;
        let text = match (state.learnt.clone(), &self.secret) {
            (Learnt::Nothing, _) => return Ok(None),
            (Learnt::Static, Secret::RegistryToken(token)) => format!("Bearer {token}"),
            (Learnt::Basic, Secret::Password { username, password }) => {
                token::basic(username, password)
            }
            (
                Learnt::Bearer {
                    realm,
                    service,
                    mut scopes,
                },
                secret,
            ) => {
                scopes.insert(self.scope.clone());
                let key = scopes.iter().cloned().collect::<Vec<_>>().join(" ");
                let held = state.tokens.get(&key).filter(|token| token.is_fresh());
                let token = match held {
                    Some(token) => token.clone(),
                    None => {
                        let request = TokenRequest {
                            realm: &realm,
                            service: service.as_deref(),
                            scopes: &scopes,
                            secret,
                        };
                        let token = token::fetch(&request, from).await?;
                        state.tokens.insert(key, token.clone());
                        token
                    }
                };
                format!("Bearer {}", token.text())
            }
            (Learnt::Basic | Learnt::Static, _) => return Ok(None),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_malformed| {
            Error::new(
                Kind::Unauthenticated,
                "registry credentials: they hold bytes that no HTTP header may hold",
            )
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Learns from a 401's headers. `Ok` means that a retry makes sense.
    ///
    /// # Errors
    /// `Unauthenticated` where the host wants what we do not have, or refused what we showed twice.
    pub(super) async fn challenged(&self, headers: &HeaderMap, host: &str) -> Result<()> {
        let lines = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let challenges = challenge::parse(lines)?;
        let refuse = |why: &str| Err(Error::new(Kind::Unauthenticated, format!("{host}: {why}")));
        let find = |scheme: &str| challenges.iter().find(|found| found.scheme == scheme);
        let mut state = self.state.lock().await;
        if let Some(bearer) = find("bearer") {
            if bearer.param("error").is_some() {
                let is_second = state.was_refused;
                state.was_refused = true;
                state.tokens.clear();
                if is_second {
                    return refuse(
                        "the token was refused; the credentials do not allow this repository",
                    );
                }
            }
            return self.learn_bearer(&mut state, bearer, host);
        }
        if find("basic").is_some() {
            return match (&self.secret, &state.learnt) {
                (Secret::Password { password, .. }, _) if password.is_empty() => {
                    refuse("it wants user and password, and the password is empty")
                }
                (Secret::Password { .. }, Learnt::Basic) => refuse("user or password is wrong"),
                (Secret::Password { .. }, _) => {
                    state.learnt = Learnt::Basic;
                    Ok(())
                }
                _ => refuse("it wants user and password, and the pull has none for it"),
            };
        }
        refuse("it wants authentication of a kind that is not supported")
    }

    /// Forgets a refusal: the host accepted what we showed.
    pub(super) async fn accepted(&self) {
        self.state.lock().await.was_refused = false;
    }

    fn learn_bearer(&self, state: &mut State, bearer: &Challenge, host: &str) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(Kind::Unauthenticated, format!("{host}: {why}")));
        if let Secret::RegistryToken(_) = self.secret {
            if matches!(state.learnt, Learnt::Static) {
                return refuse("the registry token was refused");
            }
            state.learnt = Learnt::Static;
            return Ok(());
        }
        let Some(realm) = bearer.param("realm") else {
            return refuse("its Bearer challenge names no realm");
        };
        let scopes = bearer
            .param("scope")
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect();
        state.learnt = Learnt::Bearer {
            realm: realm.to_owned(),
            service: bearer.param("service").map(str::to_owned),
            scopes,
        };
        Ok(())
    }
}
