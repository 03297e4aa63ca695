//! `podwright image prune`: gives back what interrupted pulls hold, and images that nothing uses where asked for.

use std::process::ExitCode;
use std::time::Duration;

use super::{Server, table};
use crate::model::Result;
use crate::wire::admin::{Amount, PruneImagesRequest, PruneImagesResponse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tell what would go, and leave it.
    #[arg(long)]
    dry_run: bool,
    /// Remove images too that are not pinned and that no container is made of.
    #[arg(long)]
    unused: bool,
    /// Leave what is younger (as `90s`, `30m`, `12h`): pulls by their beginning, images by their last use. Without this
    /// flag no interrupted pull is left, and images are that were pulled or asked for in the last ten minutes.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    older_than: Option<Duration>,
    #[command(flatten)]
    server: Server,
}

/// A whole number and its unit.
fn span(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no span such as 90s, 30m or 12h");
    let unit = text.char_indices().next_back().ok_or_else(bad)?;
    let seconds = match unit.1 {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number = text.get(..unit.0).unwrap_or_default();
    let number: u64 = number.parse().map_err(|_no_number| bad())?;
    let seconds = number.checked_mul(seconds).ok_or_else(bad)?;
    Ok(Duration::from_secs(seconds))
}

/// Prints what was given back.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let request = PruneImagesRequest {
        dry_run: args.dry_run,
        unused: args.unused,
        older_than_s: args.older_than.map(|span| span.as_secs()),
    };
    let reply = args.server.ask("prune images", async |mut admin| {
        admin.prune_images(request).await
    })?;
    super::print(&shown(&reply, args.dry_run))?;
    Ok(ExitCode::SUCCESS)
}

/// A line an image that went, then what it comes to.
fn shown(reply: &PruneImagesResponse, dry_run: bool) -> String {
    let mut out: String = reply
        .images
        .iter()
        .map(|name| format!("image {}\n", name.escape_debug()))
        .collect();
    let amounts = [
        (&reply.ingests, "incomplete blobs"),
        (&reply.blobs, "blobs"),
        (&reply.layers, "unpacked layers"),
    ];
    let zero = Amount::default();
    let amounts = amounts.map(|(amount, what)| (amount.as_ref().unwrap_or(&zero), what));
    if reply.pulls > 0 {
        out.push_str(&format!("{} interrupted pulls\n", reply.pulls));
    }
    for (amount, what) in amounts.iter().filter(|(amount, _)| amount.count > 0) {
        out.push_str(&format!(
            "{} {what}: {}\n",
            amount.count,
            table::bytes(amount.bytes)
        ));
    }
    let total = amounts
        .iter()
        .fold(0_u64, |sum, (amount, _)| sum.saturating_add(amount.bytes));
    let verb = if dry_run {
        "would be given back"
    } else {
        "given back"
    };
    out.push_str(&format!("{} {verb}\n", table::bytes(total)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_is_told_line_by_line_and_in_all() {
        let amount = |count, bytes| Some(Amount { count, bytes });
        let reply = PruneImagesResponse {
            pulls: 1,
            ingests: amount(2, 1 << 20),
            blobs: amount(0, 0),
            layers: amount(1, 1 << 20),
            images: vec!["a.b/c:v1".into()],
        };

        assert_eq!(
            shown(&reply, false),
            "image a.b/c:v1\n\
             1 interrupted pulls\n\
             2 incomplete blobs: 1.0 MiB\n\
             1 unpacked layers: 1.0 MiB\n\
             2.0 MiB given back\n"
        );
        assert_eq!(
            shown(&PruneImagesResponse::default(), true),
            "0 B would be given back\n"
        );
    }

    #[test]
    fn a_span_is_a_number_with_a_unit() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "h", "5", "-1s", "1 h", "18446744073709551615d"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
