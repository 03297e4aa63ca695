//! The documented default file and the reference, both from the table of keys.

use std::fmt::Write as _;

use serde_json::Value;

use super::file;
use super::keys::{KEYS, Key, Reload, TABLES};

const WIDTH: usize = 110;

const FILE_HEAD: &str = "\
# podwright's configuration, with every key at its default. A line that starts with `#` and a key is a default:
# remove the `#` to change it. Unknown keys and bad values are errors. `podwright config check` tells.
# Durations are whole numbers with h, m, s or ms: \"1m30s\". A key marked `live` follows a reload (SIGHUP), one marked
# `restart` the next start.
";

const REFERENCE_HEAD: &str = "\
# Configuration reference

`podwright serve --config FILE` reads a TOML file, `/etc/podwright/config.toml` unless told otherwise.
`podwright config default` prints a file with every key at its default, `podwright config check` reads one and names the
line, the key and the rule of everything that is wrong. Unknown keys are errors.

Durations are whole numbers with `h`, `m`, `s` or `ms`: `\"1m30s\"`. A *live* key follows a reload, a *restart* key the
next start. This page is generated from the same table as the default file.
";

/// The default file: every key documented, every default as a comment.
pub fn default_file() -> String {
    let defaults = serde_json::to_value(file::File::default()).unwrap_or_default();
    let mut out = FILE_HEAD.to_owned();
    for (table, about) in TABLES {
        out.push('\n');
        comment(&mut out, about);
        line(&mut out, &header(table));
        for key in KEYS.iter().filter(|key| key.table() == *table) {
            let when = match key.reload {
                Reload::Live => "live",
                Reload::Restart => "restart",
            };
            comment(&mut out, &format!("{} ({}; {when})", key.doc, key.kind));
            match default_of(key, &defaults) {
                Some(value) => line(&mut out, &format!("#{} = {value}", key.name())),
                None => line(
                    &mut out,
                    &format!("# Unset; for instance: {} = {}", key.name(), key.example),
                ),
            }
        }
        if *table == "runtimes.handlers.*" {
            line(&mut out, "");
            line(&mut out, "#[runtimes.handlers.crun]");
            line(&mut out, "#binary = \"crun\"");
        }
    }
    out
}

/// The reference for people, as Markdown.
pub fn reference() -> String {
    let defaults = serde_json::to_value(file::File::default()).unwrap_or_default();
    let mut out = REFERENCE_HEAD.to_owned();
    for (table, about) in TABLES {
        line(&mut out, &format!("\n## `{}`\n\n{about}\n", title(table)));
        line(
            &mut out,
            "| key | type | default | takes effect | meaning |",
        );
        line(&mut out, "|---|---|---|---|---|");
        for key in KEYS.iter().filter(|key| key.table() == *table) {
            let default =
                default_of(key, &defaults).map_or("unset".into(), |value| format!("`{value}`"));
            let when = match key.reload {
                Reload::Live => "live",
                Reload::Restart => "restart",
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let row = [key.kind, &default, when, key.doc].map(cell).join(" | ");
            line(&mut out, &format!("| `{}` | {row} |", key.name()));
        }
    }
    out
}

/// The default of `key` in TOML's notation; `None` where it is unset.
fn default_of(key: &Key, defaults: &Value) -> Option<String> {
    if key.path.contains("[]") {
        return None;
    }
    let path = key.path.replace('*', "runc");
    let value = path
        .split('.')
        .try_fold(defaults, |value, part| value.get(part))?;
    match value {
        Value::Null => None,
        // JSON and TOML write strings, numbers, booleans and flat lists of them alike.
        other => Some(other.to_string().replace("\",\"", "\", \"")),
    }
}

fn header(table: &str) -> String {
    match (table, table.strip_suffix("[]")) {
        ("runtimes.handlers.*", _) => "#[runtimes.handlers.runc]".into(),
        (_, Some(list)) => format!("# [[{list}]]"),
        (plain, None) => format!("[{plain}]"),
    }
}

fn title(table: &str) -> String {
    match (table, table.strip_suffix("[]")) {
        ("runtimes.handlers.*", _) => "[runtimes.handlers.NAME]".into(),
        (_, Some(list)) => format!("[[{list}]]"),
        (plain, None) => format!("[{plain}]"),
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Adds `text` as comment lines of at most [`WIDTH`] characters.
fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split(' ') {
        if width == 0 || width + word.len() + 1 > WIDTH {
            out.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        // Writing to a String cannot fail.
        if write!(out, " {word}").is_ok() {
            width += word.len() + 1;
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn in_repository(path: &str) -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(root.join(path)).unwrap()
    }

    /// `#key` and `#[table]` lines are defaults; `# text` lines are documentation.
    fn uncommented(text: &str) -> String {
        let enable = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(enable).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_default_file_changes_nothing_with_or_without_its_comment_signs() {
        let defaults = Config::default();
        for text in [default_file(), uncommented(&default_file())] {
            assert_eq!(
                Config::parse(&text).unwrap().effective(),
                defaults.effective()
            );
        }
    }

    #[test]
    fn the_shipped_file_is_the_rendered_one() {
        assert!(
            in_repository("deploy/config.toml") == default_file(),
            "run: podwright config default > deploy/config.toml"
        );
    }

    #[test]
    fn the_reference_is_the_rendered_one() {
        assert!(
            in_repository("docs/configuration.md") == reference(),
            "run: podwright config reference > docs/configuration.md"
        );
    }
}
