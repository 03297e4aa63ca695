//! `podwright image export`: a local image as an archive.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tonic::Streaming;

use super::Server;
use crate::model::{Classify as _, Error, Kind, Result};
use crate::wire::admin::{ExportImageRequest, ExportImageResponse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image: a reference, an id or the beginning of one.
    reference: String,
    /// Where the archive goes; `-` is standard output.
    file: PathBuf,
    #[command(flatten)]
    server: Server,
}

/// Writes the archive. A file that could not be finished is removed.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    super::runtime()?.block_on(async {
        let mut admin = args.server.admin().await?;
        let request = ExportImageRequest {
            reference: args.reference.clone(),
        };
        let asked = admin.export_image(request).await;
        let pieces = asked.map_err(|status| refused(&args.reference, &status))?;
        let mut pieces = pieces.into_inner();
        if args.file == Path::new("-") {
            if std::io::stdout().is_terminal() {
                return Err(Error::invalid(
                    "standard output is a terminal: name a file for the archive",
                ));
            }
            return copy(args, &mut pieces, &mut tokio::io::stdout()).await;
        }
        let what = || format!("write {}", args.file.display());
        // An archive that is there already is never overwritten by half of another.
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&args.file)
            .await
            .classify(Kind::FailedPrecondition, what)?;
        let copied = copy(args, &mut pieces, &mut file).await;
        if copied.is_err() {
            tokio::fs::remove_file(&args.file)
                .await
                .classify(Kind::Internal, || {
                    format!("remove the unfinished {}", args.file.display())
                })?;
        }
        copied
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn copy(
    args: &Args,
    pieces: &mut Streaming<ExportImageResponse>,
    to: &mut (dyn AsyncWrite + Unpin + Send),
) -> Result<()> {
    let what = || format!("write {}", args.file.display());
    loop {
        let piece = pieces.message().await;
        match piece.map_err(|status| refused(&args.reference, &status))? {
            Some(piece) => to
                .write_all(&piece.chunk)
                .await
                .classify(Kind::Internal, what)?,
            None => return to.flush().await.classify(Kind::Internal, what),
        }
    }
}

fn refused(reference: &str, status: &tonic::Status) -> Error {
    let (reference, text) = (reference.escape_debug(), status.message().escape_debug());
    Error::new(Kind::Unknown, format!("export {reference}: {text}"))
}
