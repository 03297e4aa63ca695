//! `podwright image du`: what images take on disk, and what removing each would give back.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::listing::{self, Listing};
use super::{pull, table};
use crate::model::Result;
use crate::wire::admin::{ImageUsage, ShowDiskUsageRequest, ShowDiskUsageResponse};

/// Prints the table.
pub(super) fn run(args: &listing::Args) -> Result<ExitCode> {
    let listing = Listing {
        what: "ask for the disk usage",
        object,
        shown,
    };
    listing.print(args, async |mut admin| {
        admin.show_disk_usage(ShowDiskUsageRequest::default()).await
    })
}

/// A line an image, then what all of it takes.
fn shown(usage: &ShowDiskUsageResponse) -> String {
    let head = ["IMAGE", "ID", "BLOBS", "UNPACKED", "FREED BY REMOVAL", ""];
    let rows = usage.images.iter().map(|image| {
        [
            image.names.first().cloned().unwrap_or_else(|| "-".into()),
            pull::short(&image.id),
            table::bytes(image.blobs),
            table::bytes(image.layers),
            table::bytes(image.own),
            if image.pinned { "pinned" } else { "" }.into(),
        ]
    });
    let images = table::render(head, rows);
    let orphans = format!(
        "{} layers of no image: containers hold them, or containerd collects them next",
        usage.orphan_count
    );
    let totals = [
        (usage.blobs, "blobs, each once"),
        (usage.layers, "layers of images, each once"),
        (usage.writable, "writable snapshots"),
        (usage.orphans, orphans.as_str()),
    ];
    let totals = totals.map(|(bytes, what)| format!("{}  {what}\n", table::bytes(bytes)));
    format!("{images}\n{}", totals.concat())
}

fn object(usage: &ShowDiskUsageResponse) -> Value {
    let image = |image: &ImageUsage| {
        json!({
            "id": image.id,
            "names": image.names,
            "blobs": image.blobs,
            "layers": image.layers,
            "own": image.own,
            "pinned": image.pinned,
        })
    };
    let images: Vec<Value> = usage.images.iter().map(image).collect();
    json!({
        "images": images,
        "blobs": usage.blobs,
        "layers": usage.layers,
        "orphans": usage.orphans,
        "orphan_count": usage.orphan_count,
        "writable": usage.writable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_an_image_and_the_totals() {
        let usage = ShowDiskUsageResponse {
            images: vec![ImageUsage {
                id: "sha256:0123456789abcdef".into(),
                names: vec!["a.b/c:v1".into()],
                blobs: 1 << 20,
                layers: 3 << 20,
                own: 2 << 20,
                pinned: true,
            }],
            blobs: 1 << 20,
            layers: 3 << 20,
            orphans: 512,
            orphan_count: 2,
            writable: 0,
        };

        assert_eq!(
            shown(&usage),
            "IMAGE     ID            BLOBS    UNPACKED  FREED BY REMOVAL\n\
             a.b/c:v1  0123456789ab  1.0 MiB  3.0 MiB   2.0 MiB           pinned\n\
             \n\
             1.0 MiB  blobs, each once\n\
             3.0 MiB  layers of images, each once\n\
             0 B  writable snapshots\n\
             512 B  2 layers of no image: containers hold them, or containerd collects them next\n"
        );
        assert_eq!(object(&usage)["images"][0]["own"], 2 << 20);
    }
}
