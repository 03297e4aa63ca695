//! Finds what a source file names: paths into the crate, paths into other crates, `unsafe`.
//!
//! It looks at use trees, inline paths, attributes and the tokens inside macros, since any of them makes an edge.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::table::CRATES;

/// A path that a file names. `crate` comes first where it leads into our own crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
}

/// All that one file names.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) mentions: Vec<Mention>,
    pub(crate) unsafe_lines: Vec<usize>,
    /// Ways around this scan: a renamed or globbed crate root, `#[path]`, `extern crate`.
    pub(crate) evasions: Vec<(usize, String)>,
}

/// Scans `source`, which is the module `module` (e.g. `["sandbox", "run"]`) of the crate.
pub(crate) fn scan(module: &[&str], source: &str) -> syn::Result<Found> {
    let file = syn::parse_file(source)?;
    let mut names = LocalNames::default();
    names.visit_file(&file);
    let mut scanner = Scanner {
        module: module.iter().map(ToString::to_string).collect(),
        local: names.0,
        found: Found::default(),
    };
    scanner.visit_file(&file);
    Ok(scanner.found)
}

/// Names that the file itself binds: an inline path beginning with one of them is no outside crate.
#[derive(Default)]
struct LocalNames(BTreeSet<String>);

impl<'ast> Visit<'ast> for LocalNames {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.0.insert(item.ident.to_string());
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for leaf in leaves(&item.tree) {
            // `use bytes;` binds the crate itself, so it stays one.
            if leaf.path.len() > 1 {
                self.0.insert(leaf.bound);
            }
        }
    }
}

struct Leaf {
    path: Vec<String>,
    bound: String,
    line: usize,
    renamed: bool,
    glob: bool,
}

fn leaves(tree: &syn::UseTree) -> Vec<Leaf> {
    let mut out = Vec::new();
    flatten(tree, &mut Vec::new(), &mut out);
    out
}

fn flatten(tree: &syn::UseTree, prefix: &mut Vec<String>, out: &mut Vec<Leaf>) {
    let mut leaf = |name: Option<&syn::Ident>, bound: String, renamed, glob, line| {
        let mut path = prefix.clone();
        path.extend(name.filter(|n| *n != "self").map(ToString::to_string));
        let bound = if bound == "self" {
            path.last().cloned().unwrap_or(bound)
        } else {
            bound
        };
        out.push(Leaf {
            path,
            bound,
            line,
            renamed,
            glob,
        });
    };
    match tree {
        syn::UseTree::Path(p) => {
            prefix.push(p.ident.to_string());
            flatten(&p.tree, prefix, out);
            prefix.pop();
        }
        syn::UseTree::Name(n) => leaf(
            Some(&n.ident),
            n.ident.to_string(),
            false,
            false,
            line_of(n.ident.span()),
        ),
        syn::UseTree::Rename(r) => leaf(
            Some(&r.ident),
            r.rename.to_string(),
            true,
            false,
            line_of(r.ident.span()),
        ),
        syn::UseTree::Glob(g) => leaf(None, String::from("*"), false, true, line_of(g.span())),
        syn::UseTree::Group(g) => {
            for item in &g.items {
                flatten(item, prefix, out);
            }
        }
    }
}

fn is_placed_crate(name: &str) -> bool {
    CRATES.iter().any(|(placed, _)| *placed == name)
}

fn line_of(span: proc_macro2::Span) -> usize {
    span.start().line
}

struct Scanner {
    module: Vec<String>,
    local: BTreeSet<String>,
    found: Found,
}

impl Scanner {
    /// Turns `self::`, `super::` and our own crate's name into a path from `crate`.
    fn absolute(&self, path: &[String]) -> Vec<String> {
        let mut at: Vec<String> = match path.first().map(String::as_str) {
            Some("crate" | "podwright") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return path.to_vec(),
        };
        for (position, segment) in path.iter().enumerate() {
            match segment.as_str() {
                "super" => {
                    at.pop();
                }
                "crate" | "podwright" | "self" if position == 0 => {}
                name => at.push(name.to_owned()),
            }
        }
        at.insert(0, String::from("crate"));
        at
    }

    fn mention(&mut self, path: &[String], line: usize) {
        let path = self.absolute(path);
        self.found.mentions.push(Mention { path, line });
    }

    fn inline(&mut self, path: &[String], line: usize) {
        let local = path
            .first()
            .is_some_and(|first| self.local.contains(first.as_str()));
        if path.len() > 1 && !local {
            self.mention(path, line);
        }
    }

    fn evasion(&mut self, line: usize, what: &str) {
        self.found.evasions.push((line, what.to_owned()));
    }

    fn tokens(&mut self, stream: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut line = 0;
        for token in stream {
            match token {
                TokenTree::Ident(ident) => {
                    if ident == "unsafe" {
                        self.found.unsafe_lines.push(line_of(ident.span()));
                    }
                    if colons != 2 {
                        self.inline(&std::mem::take(&mut path), line);
                        line = line_of(ident.span());
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    let from_root = self.absolute(&path) == ["crate"];
                    if colons == 2 && from_root && !path.is_empty() {
                        self.evasion(line, "a group right behind the crate root inside a macro");
                    }
                    self.inline(&std::mem::take(&mut path), line);
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.inline(&std::mem::take(&mut path), line);
                    colons = 0;
                }
            }
        }
        self.inline(&path, line);
    }
}

impl<'ast> Visit<'ast> for Scanner {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for leaf in leaves(&item.tree) {
            if self.absolute(&leaf.path) == ["crate"] && (leaf.glob || leaf.renamed) {
                self.evasion(leaf.line, "the crate root under another name");
            }
            if leaf.renamed && matches!(&leaf.path[..], [name] if is_placed_crate(name)) {
                self.evasion(leaf.line, "a crate under another name");
            }
            self.mention(&leaf.path, leaf.line);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.evasion(line_of(item.span()), "extern crate");
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if path.leading_colon.is_some() {
            self.mention(&segments, line_of(path.span()));
        } else {
            self.inline(&segments, line_of(path.span()));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.tokens(mac.tokens.clone());
        visit::visit_macro(self, mac);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("path") {
            self.evasion(line_of(attribute.span()), "#[path]");
        }
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_token_stream(&mut self, _: &'ast TokenStream) {}

    fn visit_expr_unsafe(&mut self, expr: &'ast syn::ExprUnsafe) {
        self.found.unsafe_lines.push(line_of(expr.span()));
        visit::visit_expr_unsafe(self, expr);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = signature.unsafety {
            self.found.unsafe_lines.push(line_of(token.span()));
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = item.unsafety {
            self.found.unsafe_lines.push(line_of(token.span()));
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        if let Some(token) = item.unsafety {
            self.found.unsafe_lines.push(line_of(token.span()));
        }
        visit::visit_item_foreign_mod(self, item);
    }
}
