//! A blob as one sequence of bytes, which may come in several pieces at once.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Inner;
use super::ahead::{Ahead, Piece};
use super::range::Want;
use super::stream::Stream;
use crate::model::{Descriptor, Error, Result};

/// A blob on its way. The reader sees one unbroken sequence of bytes, and checks the digest.
pub struct Blob {
    repository: Arc<Inner>,
    descriptor: Arc<Descriptor>,
    /// Up to here bytes were handed out.
    offset: u64,
    front: Option<Front>,
    ahead: Ahead,
    hedges: Arc<AtomicU32>,
    flow: Flow,
    /// The place in the list of the host that the last bytes came from.
    host: Option<usize>,
    permit: Option<OwnedSemaphorePermit>,
}

/// How fast bytes come from the network, counted from the first on: how long a host takes to begin says nothing of it.
#[derive(Debug, Default)]
struct Flow {
    has_begun: bool,
    bytes: u64,
    waited: Duration,
}

impl Flow {
    /// So many bytes tell the rate.
    const SAMPLE: u64 = 512 << 10;

    fn came(&mut self, waited: Duration, bytes: u64) {
        if std::mem::replace(&mut self.has_begun, true) {
            self.waited = self.waited.saturating_add(waited);
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Whether so many bytes a second come; `None` while that cannot be told.
    fn is_at_least(&self, rate: Option<u64>) -> Option<bool> {
        let Some(rate) = rate else {
            return Some(false);
        };
        let took = self.waited.as_micros().max(1);
        (self.bytes >= Self::SAMPLE)
            .then(|| u128::from(self.bytes) * 1_000_000 / took >= u128::from(rate))
    }
}

/// Where the next bytes come from.
enum Front {
    Stream(Box<Stream>, u64),
    Piece(Piece),
}

impl Blob {
    pub(super) fn new(repository: &Arc<Inner>, descriptor: Descriptor, offset: u64) -> Self {
        let descriptor = Arc::new(descriptor);
        let hedges = Arc::default();
        Self {
            ahead: Ahead::new(repository, &descriptor, offset, &hedges),
            repository: Arc::clone(repository),
            descriptor,
            offset,
            front: None,
            hedges,
            flow: Flow::default(),
            host: None,
            permit: None,
        }
    }

    /// The next bytes, or `None` after the last. Dropping the future loses nothing; time that the reader takes
    /// between calls does not count against the host, if it spends it in [`Self::meanwhile`].
    ///
    /// # Errors
    /// The most telling failure of all hosts, once none can go on.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.permit.is_none() {
            let downloads = Arc::clone(&self.repository.downloads);
            self.permit = downloads.acquire_owned().await.ok();
        }
        while self.offset < self.descriptor.size {
            if self.front.is_none() {
                self.front = Some(self.begin());
            }
            let Some(front) = &mut self.front else {
                continue;
            };
            let began = Instant::now();
            let read = match select(pin!(front.next()), pin!(self.ahead.drive())).await {
                Either::Left((read, _)) => read?,
                Either::Right((never, _)) => match never {},
            };
            if let Some((bytes, host)) = read {
                self.offset = self.offset.saturating_add(length(&bytes));
                self.host = host.or(self.host);
                self.flow.came(began.elapsed(), length(&bytes));
                self.learn();
                return Ok(Some(bytes));
            }
            if let Some(Front::Piece(piece)) = self.front.take()
                && self.offset < piece.end
            {
                self.ahead.failed();
                self.front = Some(self.stream(piece.end));
            }
        }
        Ok(None)
    }

    /// Fetches ahead while the reader is busy with what it has; never ends. Dropping the future loses nothing.
    pub async fn meanwhile(&mut self) -> Infallible {
        self.ahead.drive().await
    }

    /// The host that delivers now, as host and port; empty between two.
    pub fn host(&self) -> &str {
        let endpoint = self.host.and_then(|at| self.repository.endpoints.get(at));
        endpoint.map_or("", |endpoint| endpoint.host().authority.as_str())
    }

    fn begin(&mut self) -> Front {
        match self.ahead.next() {
            Some(piece) => Front::Piece(piece),
            None => {
                let end = self.ahead.front(self.offset);
                self.stream(end)
            }
        }
    }

    fn stream(&self, end: u64) -> Front {
        let want = Want {
            start: self.offset,
            end,
            is_ahead: false,
            is_all: false,
        };
        let stream = Stream::new(
            &self.repository,
            &self.descriptor,
            want,
            self.host,
            &self.hedges,
        );
        Front::Stream(Box::new(stream), end)
    }

    /// What the front's bytes tell about pieces.
    fn learn(&mut self) {
        match &self.front {
            Some(Front::Stream(stream, end)) if stream.end() > *end => self.ahead.end(),
            Some(Front::Stream(stream, _)) if !stream.is_in_parts() => {}
            _ => {
                let enough = self.repository.settings.enough_rate;
                self.ahead.works(self.host, self.flow.is_at_least(enough));
            }
        }
    }
}

impl Front {
    async fn next(&mut self) -> Result<Option<(Bytes, Option<usize>)>, Error> {
        Ok(match self {
            Self::Stream(stream, _) => {
                let bytes = stream.next().await?;
                bytes.map(|bytes| (bytes, stream.host()))
            }
            Self::Piece(piece) => piece.next().await.map(|part| (part.bytes, part.host)),
        })
    }
}

fn length(chunk: &Bytes) -> u64 {
    u64::try_from(chunk.len()).unwrap_or(u64::MAX)
}
