//! The accept loop: survives every error of accept, turns strangers away, and keeps the number of connections bounded by
//! closing the one that has been idle longest.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::sockets::Admission;
use crate::sys::sockets::{AFTER_ERROR, is_passing};

/// How long a full house waits for a connection to end by itself before it closes the idlest one.
const FULL_HOUSE: Duration = Duration::from_millis(200);

/// Accepts connections for ever. Each item is a connection to serve; there are no errors among them, because the
/// loop above this one would take an error for its end.
pub(super) fn connections(
    listener: UnixListener,
    admission: Admission,
    limit: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    let house = House {
        listener,
        admission,
        seats: Arc::new(Semaphore::new(limit)),
        guests: Arc::default(),
    };
    futures::stream::unfold(house, |house| async move {
        let next = house.next().await;
        Some((Ok(next), house))
    })
}

struct House {
    listener: UnixListener,
    admission: Admission,
    seats: Arc<Semaphore>,
    guests: Arc<Guests>,
}

impl House {
    async fn next(&self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if self.may_enter(&stream) => {
                    // A seat only once somebody knocks: a full house that nobody wants to enter stays as it is.
                    return Connection::new(stream, self.seat().await, &self.guests);
                }
                Ok(_stranger) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed; trying again");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    /// A free seat. While there is none, the guest who has been silent longest is shown out.
    async fn seat(&self) -> OwnedSemaphorePermit {
        loop {
            let seat = Arc::clone(&self.seats).acquire_owned();
            match tokio::time::timeout(FULL_HOUSE, seat).await {
                Ok(Ok(seat)) => return seat,
                // The semaphore is never closed; a full house makes room.
                Ok(Err(_)) | Err(_) => self.guests.close_idlest(),
            }
        }
    }

    fn may_enter(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if self.admission.admits(peer.uid(), peer.gid()) => true,
            Ok(peer) => {
                tracing::warn!(
                    uid = peer.uid(),
                    pid = peer.pid(),
                    "connection refused: neither root nor of the group"
                );
                false
            }
            Err(error) => {
                tracing::warn!(%error, "connection refused: the peer's credentials cannot be read");
                false
            }
        }
    }
}

/// Who is connected, and since when each is silent.
#[derive(Debug, Default)]
struct Guests {
    next: AtomicU64,
    present: Mutex<BTreeMap<u64, Arc<Guest>>>,
}

#[derive(Debug)]
struct Guest {
    last_heard: Mutex<Instant>,
    leave: CancellationToken,
}

impl Guests {
    fn enter(&self) -> (u64, Arc<Guest>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let guest = Arc::new(Guest {
            last_heard: Mutex::new(Instant::now()),
            leave: CancellationToken::new(),
        });
        self.with(|present| present.insert(number, Arc::clone(&guest)));
        (number, guest)
    }

    fn close_idlest(&self) {
        let idlest = self.with(|present| {
            present
                .values()
                .filter(|guest| !guest.leave.is_cancelled())
                .min_by_key(|guest| guest.last_heard())
                .cloned()
        });
        if let Some(guest) = idlest {
            tracing::warn!(idle = ?guest.last_heard().elapsed(), "too many connections: closing the idlest one");
            guest.leave.cancel();
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<u64, Arc<Guest>>) -> T) -> T {
        work(&mut self.present.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Guest {
    fn last_heard(&self) -> Instant {
        *self
            .last_heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        *self
            .last_heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// An accepted connection. It ends like one that its client closed when the house needs its seat.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    number: u64,
    guest: Arc<Guest>,
    guests: Arc<Guests>,
    _seat: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: UnixStream, seat: OwnedSemaphorePermit, guests: &Arc<Guests>) -> Self {
        let (number, guest) = guests.enter();
        Self {
            stream,
            leaving: Box::pin(guest.leave.clone().cancelled_owned()),
            number,
            guest,
            guests: Arc::clone(guests),
            _seat: seat,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.guests.with(|present| present.remove(&self.number));
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.leaving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(())); // nothing read: the end of the stream
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.guest.heard();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn listener(dir: &tempfile::TempDir) -> (UnixListener, std::path::PathBuf) {
        let path = dir.path().join("p.sock");
        (UnixListener::bind(&path).unwrap(), path)
    }

    #[tokio::test]
    async fn an_accepted_connection_carries_bytes_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&dir);
        let mut incoming = Box::pin(connections(listener, Admission::default(), 4));
        let mut client = UnixStream::connect(&path).await.unwrap();
        let mut server = incoming.next().await.unwrap().unwrap();

        client.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut heard).await.unwrap();

        assert_eq!(&heard, b"pong");
    }

    #[tokio::test]
    async fn a_full_house_closes_the_idlest_connection_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (listener, path) = listener(&dir);
        let mut incoming = Box::pin(connections(listener, Admission::default(), 2));
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..2 {
            clients.push(UnixStream::connect(&path).await.unwrap());
            servers.push(incoming.next().await.unwrap().unwrap());
        }
        clients[0].write_all(b"x").await.unwrap();
        servers[0].read_u8().await.unwrap();
        let idle = servers.pop().unwrap();
        // Stands for the HTTP server, which drops a connection at the end of its stream.
        let until_closed = async move {
            let mut idle = idle;
            idle.read_to_end(&mut Vec::new()).await.map(drop)
        };

        clients.push(UnixStream::connect(&path).await.unwrap());
        let (third, closed) = tokio::join!(incoming.next(), until_closed);

        third.unwrap().unwrap();
        closed.unwrap();
    }
}
