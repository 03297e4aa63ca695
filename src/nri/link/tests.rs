//! Both ends of a connection, and its bytes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream as Socket;

use super::*;

struct Echo;

impl Service for Echo {
    fn call(&self, method: &str, payload: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        let method = method.to_owned();
        Box::pin(async move {
            match method.as_str() {
                "Echo" => Ok(payload),
                "Refuse" => Err(Refusal::failed("no")),
                "Hang" => std::future::pending().await,
                other => Err(Refusal::unimplemented(other)),
            }
        })
    }
}

const LIMIT: Duration = Duration::from_secs(5);

fn pair(supervisor: &Supervisor) -> (Link, Link) {
    let (here, there) = Socket::pair().unwrap();
    let open = |socket, role| Link::open(socket, role, Arc::new(Echo), supervisor).unwrap();
    (open(here, Role::Runtime), open(there, Role::Plugin))
}

#[tokio::test]
async fn calls_go_both_ways_at_once_and_may_be_large() {
    let supervisor = Supervisor::new();
    let (runtime, plugin) = pair(&supervisor);
    let large = vec![9_u8; 3 << 20];

    let (one, other, small) = tokio::join!(
        runtime.call("Echo", large.clone(), LIMIT),
        plugin.call("Echo", large.clone(), LIMIT),
        plugin.call("Echo", Vec::new(), LIMIT),
    );

    assert!(one.unwrap() == large && other.unwrap() == large);
    assert_eq!(small.unwrap(), Vec::<u8>::new());
}

#[tokio::test]
async fn refusals_time_outs_and_a_closed_connection_are_told_apart() {
    let supervisor = Supervisor::new();
    let (runtime, plugin) = pair(&supervisor);
    let soon = Duration::from_millis(20);

    let refused = runtime.call("Refuse", Vec::new(), LIMIT).await;
    let unknown = runtime.call("Other", Vec::new(), LIMIT).await.unwrap_err();
    let late = runtime.call("Hang", Vec::new(), soon).await;
    let too_long = runtime.call("Echo", vec![0; 5 << 20], LIMIT).await;
    let (lost, ()) = tokio::join!(runtime.call("Hang", Vec::new(), LIMIT), async {
        tokio::time::sleep(soon).await;
        plugin.close();
    });

    assert_eq!(refused, Err(CallError::Refused(Refusal::failed("no"))));
    assert!(matches!(unknown, CallError::Refused(refusal) if refusal.is_unimplemented()));
    assert_eq!(late, Err(CallError::TimedOut(soon)));
    assert!(matches!(too_long, Err(CallError::Refused(refusal)) if refusal.code == 8));
    assert!(matches!(lost, Err(CallError::Lost(_))));
    runtime.closed().cancelled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_are_those_of_the_protocol() {
    let supervisor = Supervisor::new();
    let (here, mut there) = Socket::pair().unwrap();
    let link = Link::open(here, Role::Runtime, Arc::new(Echo), &supervisor).unwrap();
    let raw = tokio::task::spawn_blocking(move || {
        // A plugin calls first, on connection 2, in several pieces, beside noise on a connection that nobody knows.
        let request = Request {
            service: RUNTIME_SERVICE.to_owned(),
            method: "Echo".to_owned(),
            payload: b"hi".to_vec(),
            ..Request::default()
        }
        .encode_to_vec();
        let message = ttrpc::encode(1, ttrpc::REQUEST, &request).unwrap();
        there.write_all(&mux::framed(77, b"noise")).unwrap();
        for piece in message.chunks(7) {
            there.write_all(&mux::framed(mux::RUNTIME, piece)).unwrap();
        }
        // The answer to it and the runtime's own call come in either order.
        let mut frame = || {
            let mut header = [0_u8; 18];
            there.read_exact(&mut header).unwrap();
            let mut body = vec![0; usize::from(header[11])];
            there.read_exact(&mut body).unwrap();
            (header, body)
        };
        let mut both = [frame(), frame()];
        both.sort_by_key(|(header, _)| header[3]);
        // Its answer comes after one to a call that nobody made.
        let answer = Response {
            payload: b"yes".to_vec(),
            ..Response::default()
        }
        .encode_to_vec();
        for stream in [99, 1] {
            let frame = ttrpc::encode(stream, ttrpc::RESPONSE, &answer).unwrap();
            there.write_all(&mux::framed(mux::PLUGIN, &frame)).unwrap();
        }
        both
    });

    let answer = link.call("Configure", b"conf".to_vec(), LIMIT).await;
    let [(call, rest), (header, body)] = raw.await.unwrap();

    assert_eq!(answer, Ok(b"yes".to_vec()));
    assert_eq!((header[3], header[16]), (2, ttrpc::RESPONSE));
    assert_eq!(Response::decode(&*body).unwrap().payload, b"hi");
    let asked = Request::decode(&*rest).unwrap();
    assert_eq!((call[3], call[15], call[16]), (1, 1, ttrpc::REQUEST));
    assert_eq!(
        (
            asked.service.as_str(),
            asked.method.as_str(),
            &*asked.payload
        ),
        (PLUGIN_SERVICE, "Configure", &b"conf"[..])
    );
    assert_eq!(asked.timeout_nano, 5_000_000_000);
}
