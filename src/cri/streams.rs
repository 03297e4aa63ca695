//! What Exec, Attach and PortForward ask of the streaming server.

use crate::model::{Error, Result};
use crate::streaming::Asked;
use crate::wire::cri;

use super::Service;

/// Which streams a request of exec or of attach asks for: both have the same fields.
macro_rules! asked {
    ($request:expr) => {
        Asked {
            tty: $request.tty,
            stdin: $request.stdin,
            stdout: $request.stdout,
            stderr: $request.stderr,
        }
    };
}

impl Service {
    pub(super) fn exec_url(&self, request: cri::ExecRequest) -> Result<String> {
        let asked = asked!(request);
        let id = named("container_id", &request.container_id)?;
        self.streaming.exec(id, request.cmd, asked)
    }

    pub(super) fn attach_url(&self, request: &cri::AttachRequest) -> Result<String> {
        let asked = asked!(request);
        let id = named("container_id", &request.container_id)?;
        self.streaming.attach(id, asked)
    }

    pub(super) fn port_forward_url(&self, request: &cri::PortForwardRequest) -> Result<String> {
        let id = named("pod_sandbox_id", &request.pod_sandbox_id)?;
        self.streaming.port_forward(id, &request.port)
    }
}

/// An id that is given; an empty one is none.
fn named<'a>(field: &str, id: &'a str) -> Result<&'a str> {
    match id.is_empty() {
        true => Err(Error::invalid(format!("{field}: empty; name one"))),
        false => Ok(id),
    }
}
