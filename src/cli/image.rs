//! `podwright image`: what people do with the images of a node and the hosts that they come from.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Server, du, export, listing, mirrors, prune, pull, pulls};
use crate::model::{Classify as _, Error, Kind, Result};
use crate::wire::admin::{ImportImageRequest, ImportImageResponse};

/// Bytes in one message.
const CHUNK: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Import an OCI image archive: a tar with an OCI layout, plain or gzipped.
    Import {
        /// The archive; `-` is standard input.
        file: PathBuf,
        /// Name the image so, in place of the names in the archive.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Export an image as an OCI image archive that Docker reads too.
    Export(export::Args),
    /// Pull an image as kubelet's pulls are done, and show how far each layer is.
    Pull(pull::Args),
    /// Show what is being pulled, how far it is, and how the last pulls ended.
    Pulls(listing::Args),
    /// Show what images take on disk, and what removing each would give back.
    Du(listing::Args),
    /// Give back what interrupted pulls hold, and images that nothing uses where asked for.
    Prune(prune::Args),
    /// Show the registry hosts that pulls have asked lately, mirrors and upstreams, and how they fare.
    Mirrors(listing::Args),
}

/// Runs the verb.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    let (file, name, server) = match args.verb {
        Verb::Import { file, name, server } => (file, name, server),
        Verb::Export(args) => return export::run(&args),
        Verb::Pull(args) => return pull::run(args),
        Verb::Pulls(args) => return pulls::run(&args),
        Verb::Du(args) => return du::run(&args),
        Verb::Prune(args) => return prune::run(&args),
        Verb::Mirrors(args) => return mirrors::run(&args),
    };
    let imported = super::runtime()?.block_on(import(&file, name, &server))?;
    for reference in &imported.references {
        super::print(&format!(
            "{} {}\n",
            imported.image_id,
            reference.escape_debug()
        ))?;
    }
    if imported.references.is_empty() {
        super::print(&format!("{}\n", imported.image_id))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(file: &Path, name: Option<String>, server: &Server) -> Result<ImportImageResponse> {
    let mut admin = server.admin().await?;
    let (pieces, stream) = mpsc::channel(2);
    let reading = read(file, name, pieces);
    let asking = admin.import_image(ReceiverStream::new(stream));
    // The reader's failure explains more than the broken request that follows from it.
    let (read, answered) = tokio::join!(reading, asking);
    read?;
    answered.map(tonic::Response::into_inner).map_err(|status| {
        Error::new(
            Kind::Unknown,
            format!("import {}: {}", file.display(), status.message()),
        )
    })
}

/// Sends the archive piece by piece. A server that stops listening has answered already.
async fn read(
    file: &Path,
    name: Option<String>,
    pieces: mpsc::Sender<ImportImageRequest>,
) -> Result<()> {
    let what = || format!("read {}", file.display());
    let mut archive: Box<dyn tokio::io::AsyncRead + Unpin> = if file == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        Box::new(
            tokio::fs::File::open(file)
                .await
                .classify(Kind::NotFound, what)?,
        )
    };
    let mut reference = name.unwrap_or_default();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut archive)
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .await
            .classify(Kind::Internal, what)?;
        let last = chunk.is_empty();
        let piece = ImportImageRequest {
            reference: std::mem::take(&mut reference),
            chunk,
        };
        if pieces.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}
