//! Bytes between a client's stream and a socket in the pod, both ways, each ending by itself.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::channel::{Inlet, Outlet, Taken};

/// Bytes read at once.
const CHUNK: usize = 128 * 1024;

/// Copies both ways. The end of the client's input is told to the socket, and answers still come; the end of the
/// socket's output is told to the client, which may still send. A socket that breaks has ended: that is no failure of
/// the forward (kubernetes#74551). Answers once the client has everything that the socket had to say and has ended its
/// side, or is gone.
pub(super) async fn relay(
    socket: TcpStream,
    mut inlet: Inlet,
    outlet: &mut Outlet,
    told: impl AsyncFnOnce(),
) {
    let (mut from, mut to) = socket.into_split();
    let up = async {
        loop {
            match inlet.next().await {
                Taken::Bytes(bytes) => {
                    if to.write_all(&bytes).await.is_err() {
                        // Nobody reads it any more; what the client still sends is thrown away.
                        while let Taken::Bytes(_) = inlet.next().await {}
                        return Left::Ended;
                    }
                }
                Taken::End => {
                    // A socket that is gone is told nothing.
                    drop(to.shutdown().await);
                    return Left::Ended;
                }
                Taken::Gone => return Left::Gone,
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while let Ok(1..) = from.read_buf(&mut buffer).await {
            if outlet.send(buffer.split().freeze()).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
        outlet.finish().await;
        told().await;
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        left = &mut up => match left {
            Left::Ended => down.await,
            Left::Gone => {}
        },
        () = &mut down => {
            up.await;
        }
    }
}

/// How the client's side ended.
enum Left {
    /// It sends no more, and may still read.
    Ended,
    /// It wants nothing any more.
    Gone,
}
