//! Our own log lines: text or JSON on standard error, one event a line whatever bytes it carries, the level changeable
//! while we run.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use crate::config::{LogFormat, settings};
use crate::model::{Classify as _, Kind, Result};

/// Changes the level of a running process.
#[derive(Clone, Debug)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Filters by `level` from now on.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no filter.
    pub(super) fn set(&self, level: &str) -> Result<()> {
        self.0
            .reload(filter(level)?)
            .classify(Kind::Internal, || "change the log level".into())
    }
}

/// A level without a target is ours: of the crates that we are made of, warnings are enough, unless they are named.
fn filter(level: &str) -> Result<EnvFilter> {
    let ours = |part: &str| match part.trim() {
        named if named.contains('=') => named.to_owned(),
        bare @ ("off" | "error") => bare.to_owned(),
        bare => format!("warn,podwright={bare}"),
    };
    let directives: Vec<String> = level.split(',').map(ours).collect();
    EnvFilter::try_new(directives.join(",")).classify(Kind::InvalidArgument, || {
        format!("diagnostics.level {level:?}")
    })
}

/// Installs the process's logger, and a panic hook that writes to it.
///
/// # Errors
/// `InvalidArgument` for a bad level, `Internal` where a logger is installed already.
pub(super) fn install(settings: &settings::Diagnostics) -> Result<Level> {
    let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
    let lines = match settings.format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(OneLine(io::stderr))
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .classify(Kind::Internal, || "install the logger".into())?;
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, ?backtrace, "panic");
    }));
    Ok(Level(handle))
}

/// Makes writers that keep an event on its line.
struct OneLine<M>(M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = Escaping<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Escaping(self.0.make_writer())
    }
}

/// Writes each event, handed over whole, with its control characters spelled out: what a tenant puts into a name can
/// neither forge a line nor talk to the operator's terminal.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(escaped(event).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escaped(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    let (line, end) = match text.strip_suffix('\n') {
        Some(line) => (line, "\n"),
        None => (text.as_ref(), ""),
    };
    let mut out = String::with_capacity(text.len());
    for c in line.chars() {
        if c.is_control() {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out + end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_an_event_are_spelled_out() {
        let event = "pod \"a\nINFO forged\u{1b}[2J\u{9b}1m\u{7f}\"\n".as_bytes();

        assert_eq!(
            escaped(event),
            "pod \"a\\u{a}INFO forged\\u{1b}[2J\\u{9b}1m\\u{7f}\"\n"
        );
    }

    #[test]
    fn a_bare_level_is_ours_and_others_are_heard_when_named() {
        assert_eq!(filter("debug").unwrap().to_string(), "podwright=debug,warn");
        assert_eq!(filter("off").unwrap().to_string(), "off");
        assert_eq!(
            filter("info,h2=trace").unwrap().to_string(),
            "podwright=info,h2=trace,warn"
        );
    }

    #[test]
    fn every_level_that_the_configuration_accepts_is_a_filter() {
        for level in ["off", "info", "info,podwright::network=debug"] {
            filter(level).unwrap();
        }
    }
}
