//! The far end of podwright's gates: it writes down every step that is reached, and can hold podwright at one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::case::Outcome;

/// Where podwright is told to ask.
const SOCKET: &str = "/run/gates.sock";

#[derive(Default)]
struct State {
    passed: Vec<String>,
    hold: Option<String>,
}

/// Gates as a case sees them. Dropping them lets every held step go on.
pub(crate) struct Gates {
    state: Arc<Mutex<State>>,
    held: Arc<Notify>,
    _listener: JoinSet<()>,
}

impl Gates {
    /// The environment with which podwright asks here.
    pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[("PODWRIGHT_GATE", SOCKET)];

    /// Begins to listen.
    pub(crate) fn listen() -> Outcome<Self> {
        let listener = UnixListener::bind(PathBuf::from(SOCKET))?;
        let state = Arc::new(Mutex::new(State::default()));
        let held = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state), Arc::clone(&held)));
        Ok(Self {
            state,
            held,
            _listener: tasks,
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The gates passed since the last call, each as `Operation.step before` or `Operation.step after`, in order.
    pub(crate) fn passed(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.passed))
    }

    /// Holds whoever comes to `gate` next.
    pub(crate) fn hold_at(&self, gate: &str) {
        self.with(|state| state.hold = Some(gate.to_owned()));
    }

    /// Holds nobody any more.
    pub(crate) fn let_pass(&self) {
        self.with(|state| state.hold = None);
    }

    /// Waits until somebody is held.
    pub(crate) async fn held(&self) {
        self.held.notified().await;
    }
}

async fn accept(listener: UnixListener, state: Arc<Mutex<State>>, held: Arc<Notify>) {
    let mut steps = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        steps.spawn(answer(stream, Arc::clone(&state), Arc::clone(&held)));
        while steps.try_join_next().is_some() {}
    }
}

async fn answer(stream: UnixStream, state: Arc<Mutex<State>>, held: Arc<Notify>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    let gate = line.trim_end();
    let hold = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.passed.push(gate.to_owned());
        state.hold.take_if(|wanted| wanted == gate).is_some()
    };
    if hold {
        held.notify_one();
        // The other end closes when its process is killed; nothing is ever said to it.
        line.clear();
        drop(stream.read_line(&mut line).await);
        return;
    }
    // A process that is gone needs no answer.
    drop(stream.write_all(b"go\n").await);
}
