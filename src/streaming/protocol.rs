//! Which protocol a client and we speak: pure rules over the headers of its request (contract B4, B12, B13).

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::tokens::Path;
use super::websocket::Coding;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: HeaderValue = HeaderValue::from_static("SPDY/3.1");
/// The subprotocol whose messages carry a SPDY connection.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const FORWARD: &str = "portforward.k8s.io";

/// Generations of the remote command protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// Its error stream is of no use.
    V1,
    /// Errors are text.
    V2,
    /// Terminals can be resized.
    V3,
    /// The end is told as a JSON status.
    V4,
    /// A WebSocket client can end its input.
    V5,
}

impl Version {
    /// Whether the client opens a stream for the terminal's size.
    pub(super) fn has_resize(self) -> bool {
        self >= Self::V3
    }

    /// Whether the end is told as a JSON object rather than as text.
    pub(super) fn has_status(self) -> bool {
        self >= Self::V4
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    /// A remote command over SPDY.
    Spdy(Version),
    /// A remote command over WebSocket.
    WebSocket(Version, Coding),
    /// Port-forward over SPDY.
    SpdyForward,
    /// Port-forward over SPDY, in WebSocket messages.
    Tunnel,
    /// Port-forward over WebSocket channels.
    WebSocketForward(Coding),
}

/// An answer that is not 101.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Headers beside the text; a name may come several times.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            text: text.into(),
        }
    }
}

/// The protocols of remote commands over SPDY. The fifth is the fourth there.
const COMMANDS: [(&str, Version); 5] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
    ("v5.channel.k8s.io", Version::V5),
];

/// The subprotocols of remote commands over WebSocket. All have the channel for the terminal's size; what differs is
/// how the end is told, and whether input can be ended.
const COMMAND_CHANNELS: [(&str, Version, Coding); 5] = [
    ("v5.channel.k8s.io", Version::V5, Coding::Binary),
    ("v4.channel.k8s.io", Version::V4, Coding::Binary),
    ("v4.base64.channel.k8s.io", Version::V4, Coding::Base64),
    ("channel.k8s.io", Version::V3, Coding::Binary),
    ("base64.channel.k8s.io", Version::V3, Coding::Base64),
];

const FORWARD_CHANNELS: [(&str, Agreed); 3] = [
    (TUNNEL, Agreed::Tunnel),
    (
        "v4.channel.k8s.io",
        Agreed::WebSocketForward(Coding::Binary),
    ),
    (
        "v4.base64.channel.k8s.io",
        Agreed::WebSocketForward(Coding::Base64),
    ),
];

/// Agrees with a client on a protocol, and on the headers of the answer that says so.
pub(super) fn agree(
    path: Path,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Agreed, HeaderMap), Refusal> {
    if method != Method::GET && method != Method::POST {
        let text = format!("method {method}: not one of GET and POST");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    match contains(headers, &CONNECTION, "upgrade") && contains(headers, &UPGRADE, "websocket") {
        true => web_socket(path, method, headers),
        false => spdy(path, headers),
    }
}

fn spdy(path: Path, headers: &HeaderMap) -> Result<(Agreed, HeaderMap), Refusal> {
    let offered = listed(headers, &STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("{STREAM_PROTOCOL}: the header is missing; name the protocols that you speak"),
        ));
    }
    let known: Vec<(&str, Agreed)> = match path {
        Path::PortForward => vec![(FORWARD, Agreed::SpdyForward)],
        Path::Exec | Path::Attach => COMMANDS
            .map(|(name, version)| (name, Agreed::Spdy(version)))
            .into(),
    };
    let Some((name, agreed)) = first_common(&offered, &known) else {
        let text = format!("none of the protocols {offered:?} is spoken here");
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, text);
        for (name, _) in known {
            let name = HeaderValue::from_static(name);
            refusal.headers.push((ACCEPTED_PROTOCOLS, name));
        }
        return Err(refusal);
    };
    if !(contains(headers, &CONNECTION, "upgrade") && contains(headers, &UPGRADE, "spdy/3.1")) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "the request asks for no upgrade to SPDY/3.1 or websocket",
        ));
    }
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, SPDY);
    answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok((agreed, answer))
}

fn web_socket(
    path: Path,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Agreed, HeaderMap), Refusal> {
    if method != Method::GET {
        let text = "a WebSocket is opened with GET";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        let text = format!("{SEC_WEBSOCKET_KEY}: the header is missing");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    };
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut refusal = Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("{SEC_WEBSOCKET_VERSION}: not 13"),
        );
        let version = HeaderValue::from_static("13");
        refusal.headers.push((SEC_WEBSOCKET_VERSION, version));
        return Err(refusal);
    }
    let (name, agreed) = subprotocol(path, &listed(headers, &SEC_WEBSOCKET_PROTOCOL))?;
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(name) = name {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_impossible| Refusal::new(StatusCode::BAD_REQUEST, "an unusable key"))?;
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok((agreed, answer))
}

/// The subprotocol for what a client offers; a client that offers none means the oldest.
fn subprotocol(path: Path, offered: &[&str]) -> Result<(Option<&'static str>, Agreed), Refusal> {
    let known: Vec<(&str, Agreed)> = match path {
        Path::PortForward => FORWARD_CHANNELS.into(),
        Path::Exec | Path::Attach => COMMAND_CHANNELS
            .map(|(name, version, coding)| (name, Agreed::WebSocket(version, coding)))
            .into(),
    };
    if offered.is_empty() {
        let oldest = match path {
            Path::PortForward => Agreed::WebSocketForward(Coding::Binary),
            Path::Exec | Path::Attach => Agreed::WebSocket(Version::V3, Coding::Binary),
        };
        return Ok((None, oldest));
    }
    let (name, agreed) = first_common(offered, &known).ok_or_else(|| {
        let text = format!("none of the subprotocols {offered:?} is spoken here");
        Refusal::new(StatusCode::FORBIDDEN, text)
    })?;
    Ok((Some(name), agreed))
}

/// The first that the client names and we know: its order is its preference.
fn first_common(
    offered: &[&str],
    known: &[(&'static str, Agreed)],
) -> Option<(&'static str, Agreed)> {
    offered
        .iter()
        .find_map(|offer| known.iter().find(|(name, _)| name == offer).copied())
}

/// Every entry of a header that may be repeated and may hold lists.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .collect()
}

fn contains(headers: &HeaderMap, name: &HeaderName, part: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value
            .windows(part.len())
            .any(|window| window == part.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    const SPDY_UPGRADE: [(&str, &str); 2] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "spdy/3.1"),
    ];

    fn spdy_with(protocols: &[&'static str]) -> HeaderMap {
        let mut lines = SPDY_UPGRADE.to_vec();
        lines.extend(
            protocols
                .iter()
                .map(|name| ("x-stream-protocol-version", *name)),
        );
        headers(&lines)
    }

    fn ws_with(protocols: &[&'static str]) -> HeaderMap {
        let mut lines = vec![
            ("connection", "upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        lines.extend(
            protocols
                .iter()
                .map(|name| ("sec-websocket-protocol", *name)),
        );
        headers(&lines)
    }

    #[test]
    fn the_clients_order_decides() {
        for (offered, chosen, name) in [
            (
                &["v5.channel.k8s.io, v4.channel.k8s.io"][..],
                Version::V5,
                "v5.channel.k8s.io",
            ),
            (
                &[
                    "v9.channel.k8s.io",
                    "v3.channel.k8s.io",
                    "v4.channel.k8s.io",
                ],
                Version::V3,
                "v3.channel.k8s.io",
            ),
            (
                &["channel.k8s.io,v4.channel.k8s.io"],
                Version::V1,
                "channel.k8s.io",
            ),
        ] {
            let (agreed, answer) = agree(Path::Exec, &Method::POST, &spdy_with(offered)).unwrap();
            assert_eq!(agreed, Agreed::Spdy(chosen));
            assert_eq!(answer[STREAM_PROTOCOL], name);
        }
        let (agreed, answer) =
            agree(Path::PortForward, &Method::POST, &spdy_with(&[FORWARD])).unwrap();
        assert_eq!((agreed, &answer[UPGRADE]), (Agreed::SpdyForward, &SPDY));
    }

    #[test]
    fn what_is_missing_or_foreign_is_refused_with_what_would_do() {
        let status = |path, method: &Method, headers: &HeaderMap| {
            agree(path, method, headers).unwrap_err().status
        };
        assert_eq!(
            status(Path::Exec, &Method::PUT, &spdy_with(&["v4.channel.k8s.io"])),
            405
        );
        assert_eq!(status(Path::Exec, &Method::POST, &spdy_with(&[])), 400);
        assert_eq!(
            status(
                Path::Exec,
                &Method::POST,
                &headers(&[("x-stream-protocol-version", "v4.channel.k8s.io")])
            ),
            400
        );
        let refused = agree(Path::Attach, &Method::POST, &spdy_with(&["v9"])).unwrap_err();
        assert_eq!(refused.status, 403);
        assert_eq!(refused.headers.len(), COMMANDS.len());
        assert_eq!(
            status(
                Path::PortForward,
                &Method::POST,
                &spdy_with(&["v4.channel.k8s.io"])
            ),
            403
        );

        assert_eq!(status(Path::Exec, &Method::POST, &ws_with(&[])), 405);
        assert_eq!(status(Path::Exec, &Method::GET, &ws_with(&["v9"])), 403);
        assert_eq!(
            status(
                Path::PortForward,
                &Method::GET,
                &ws_with(&["channel.k8s.io"])
            ),
            403
        );
        let mut old = ws_with(&[]);
        old.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        let refused = agree(Path::Exec, &Method::GET, &old).unwrap_err();
        let version = HeaderValue::from_static("13");
        assert_eq!(refused.status, 400);
        assert_eq!(refused.headers, [(SEC_WEBSOCKET_VERSION, version)]);
        old.remove(SEC_WEBSOCKET_KEY);
        assert_eq!(status(Path::Exec, &Method::GET, &old), 400);
    }

    #[test]
    fn websockets_are_answered_with_the_chosen_subprotocol() {
        let (agreed, answer) =
            agree(Path::Exec, &Method::GET, &ws_with(&["v5.channel.k8s.io"])).unwrap();
        assert_eq!(agreed, Agreed::WebSocket(Version::V5, Coding::Binary));
        // The example of RFC 6455 section 1.3.
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");

        let (agreed, answer) = agree(Path::Exec, &Method::GET, &ws_with(&[])).unwrap();
        assert_eq!(agreed, Agreed::WebSocket(Version::V3, Coding::Binary));
        assert_eq!(answer.get(SEC_WEBSOCKET_PROTOCOL), None);

        let (agreed, _) = agree(Path::PortForward, &Method::GET, &ws_with(&[TUNNEL])).unwrap();
        assert_eq!(agreed, Agreed::Tunnel);
    }
}
