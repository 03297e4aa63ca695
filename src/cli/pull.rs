//! `podwright image pull`: the pull that the CRI does, with a bar for each layer.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tonic::Streaming;

use super::Server;
use crate::model::{Classify as _, Error, Kind, Result};
use crate::wire::admin::{Pull, PullImageRequest, PullImageResponse, PullLayer};

/// A longer password is a mistake.
const MAX_PASSWORD: u64 = 64 << 10;
/// Layers that get a bar; the rest share the last line.
const MAX_BARS: usize = 32;
const BAR: &str = "{prefix:14} [{bar:30}] {bytes:>10}/{total_bytes:<10} {msg}";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image: a name with an optional tag or digest.
    reference: String,
    /// Pull it for the snapshotter of this runtime handler.
    #[arg(long, value_name = "NAME", default_value = "")]
    runtime_handler: String,
    /// Show this user to the registry; the password comes on standard input.
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Print the id alone.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: Server,
}

/// Pulls, shows how far it is on standard error, and prints the image's id.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    let password = if args.password_stdin {
        password()?
    } else {
        String::new()
    };
    let mut view: Box<dyn View> = if args.quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars::default())
    } else {
        Box::new(Lines::default())
    };
    let what = format!("pull {}", args.reference.escape_debug());
    let request = PullImageRequest {
        reference: args.reference,
        runtime_handler: args.runtime_handler,
        username: args.username.unwrap_or_default(),
        password,
    };
    let id = super::runtime()?.block_on(async {
        let mut admin = args.server.admin().await?;
        let asked = admin.pull_image(request).await;
        let answers = asked.map_err(|status| refused(&what, &status))?;
        follow(answers.into_inner(), &mut *view, &what).await
    });
    view.end();
    super::print(&format!("{}\n", id?))?;
    Ok(ExitCode::SUCCESS)
}

async fn follow(
    mut answers: Streaming<PullImageResponse>,
    view: &mut dyn View,
    what: &str,
) -> Result<String> {
    loop {
        let answer = answers.message().await;
        match answer.map_err(|status| refused(what, &status))? {
            Some(answer) if !answer.image_id.is_empty() => return Ok(answer.image_id),
            Some(answer) => {
                if let Some(pull) = &answer.progress {
                    view.show(pull);
                }
            }
            None => {
                return Err(Error::internal(format!(
                    "{what}: the server gave no result"
                )));
            }
        }
    }
}

fn refused(what: &str, status: &tonic::Status) -> Error {
    let text = status.message();
    if text.contains("pull ") {
        return Error::new(Kind::Unknown, text.escape_debug().to_string());
    }
    Error::new(Kind::Unknown, format!("{what}: {}", text.escape_debug()))
}

/// The first line of standard input.
fn password() -> Result<String> {
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(MAX_PASSWORD);
    input
        .read_to_string(&mut text)
        .classify(Kind::InvalidArgument, || {
            "read the password from standard input".into()
        })?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::invalid("standard input: it holds no password"));
    }
    Ok(line.to_owned())
}

/// Shows how far a pull is.
trait View {
    /// Shows the news.
    fn show(&mut self, pull: &Pull);
    /// Takes down what a terminal shows.
    fn end(&mut self) {}
}

struct Silent;

impl View for Silent {
    fn show(&mut self, _pull: &Pull) {}
}

/// A line for each change of a layer's state, where nobody redraws.
#[derive(Default)]
struct Lines {
    states: Vec<String>,
}

impl Lines {
    /// The lines that `pull` adds.
    fn news(&mut self, pull: &Pull) -> Vec<String> {
        let mut news = Vec::new();
        for (at, layer) in pull.layers.iter().enumerate() {
            let state = told(layer);
            let before = self.states.get(at).map_or("", String::as_str);
            if state != before && layer.state != "waiting" {
                news.push(format!("{}: {state}", short(&layer.digest)));
            }
        }
        self.states = pull.layers.iter().map(told).collect();
        news
    }
}

impl View for Lines {
    fn show(&mut self, pull: &Pull) {
        for line in self.news(pull) {
            drop(writeln!(std::io::stderr().lock(), "{line}"));
        }
    }
}

/// A bar a layer.
#[derive(Default)]
struct Bars {
    screen: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl View for Bars {
    fn show(&mut self, pull: &Pull) {
        for (at, layer) in pull.layers.iter().enumerate().take(MAX_BARS) {
            if self.bars.len() <= at {
                let bar = self.screen.add(ProgressBar::new(layer.size));
                if let Ok(style) = ProgressStyle::with_template(BAR) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(short(&layer.digest));
                self.bars.push(bar);
            }
            if let Some(bar) = self.bars.get(at) {
                bar.set_position(layer.here);
                bar.set_message(told(layer));
            }
        }
    }

    fn end(&mut self) {
        for bar in &self.bars {
            bar.abandon();
        }
    }
}

/// A layer's state in words.
fn told(layer: &PullLayer) -> String {
    match (layer.state.as_str(), layer.host.as_str()) {
        ("fetching", "") => "asking".into(),
        ("fetching", host) => format!("from {}", host.escape_debug()),
        ("done", _) if layer.fetched == 0 => "was here".into(),
        (state, _) => state.escape_debug().to_string(),
    }
}

/// The first twelve digits of a digest.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(12).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(layers: &[(&str, &str, u64)]) -> Pull {
        let layers = layers.iter().map(|(state, host, fetched)| PullLayer {
            digest: "sha256:0123456789abcdef".into(),
            size: 9,
            here: *fetched,
            fetched: *fetched,
            state: (*state).into(),
            host: (*host).into(),
            last_byte_at: 0,
        });
        Pull {
            layers: layers.collect(),
            ..Pull::default()
        }
    }

    #[test]
    fn a_line_is_told_only_where_a_layers_state_changes() {
        let mut lines = Lines::default();

        let first = pull(&[("done", "", 0), ("fetching", "", 0), ("waiting", "", 0)]);
        assert_eq!(
            lines.news(&first),
            ["0123456789ab: was here", "0123456789ab: asking"]
        );
        let second = pull(&[
            ("done", "", 0),
            ("fetching", "a.b\x1b[2J", 4),
            ("waiting", "", 0),
        ]);
        assert_eq!(lines.news(&second), ["0123456789ab: from a.b\\u{1b}[2J"]);
        assert!(lines.news(&second).is_empty());
        let third = pull(&[("done", "", 0), ("done", "a.b", 9), ("fetching", "c", 1)]);
        assert_eq!(
            lines.news(&third),
            ["0123456789ab: done", "0123456789ab: from c"]
        );
    }
}
