//! From entries of a layer to files in its snapshot, the way containerd does it.

use std::fs::File;
use std::io::{BufRead, Seek as _, SeekFrom, Write as _};

use super::tape::{Entry, EntryKind, Piece, Tape};
use crate::model::{Error, Kind, Result};
use crate::sys::errno::SysContext as _;
use crate::sys::layer_tree::{self as tree, Attributes, LayerTree, Node, Place};

/// Marks that a name of the layers below is gone.
const WHITEOUT: &[u8] = b".wh.";
/// Names that AUFS kept for itself.
const AUFS: &[u8] = b".wh..wh.";
/// Marks that all other names of a directory are gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bytes that directories' names may take until their times are set.
const MAX_DIRECTORIES: usize = 16 << 20;
/// The disk is looked at whenever this much was written.
const LOOK_EVERY: u64 = 64 << 20;
/// What a layer leaves free, or a twentieth of the disk where that is less.
const RESERVE: u64 = 1 << 30;

/// How whiteouts are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// As overlayfs has them.
    Overlay,
    /// There is nothing below: what they name is removed.
    Remove,
}

/// What one layer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries: u64,
}

/// A layer that is being laid out.
pub(super) struct Laying<'a> {
    tree: LayerTree,
    whiteouts: Whiteouts,
    limits: Limits,
    /// Asked between entries and blocks.
    is_cancelled: &'a dyn Fn() -> bool,
    /// Directories and the times they get once nothing is put into them any more.
    directories: Vec<(Vec<u8>, Times)>,
    held: usize,
    written: u64,
}

type Times = ((i64, i64), (i64, i64));

impl<'a> Laying<'a> {
    pub(super) fn new(
        tree: LayerTree,
        whiteouts: Whiteouts,
        limits: Limits,
        is_cancelled: &'a dyn Fn() -> bool,
    ) -> Self {
        Self {
            tree,
            whiteouts,
            limits,
            is_cancelled,
            directories: Vec::new(),
            held: 0,
            written: 0,
        }
    }

    /// Lays out the whole archive.
    ///
    /// # Errors
    /// `Unimplemented` for what is better left to containerd; `Aborted` and `InvalidArgument` for a layer that is none;
    /// `ResourceExhausted` beyond a limit; `Cancelled`.
    pub(super) fn run<R: BufRead>(mut self, tape: &mut Tape<R>) -> Result<()> {
        let mut entries = 0_u64;
        while let Some(entry) = tape.next()? {
            self.check_cancelled()?;
            entries = entries.saturating_add(1);
            if entries > self.limits.entries {
                return Err(Error::exhausted(format!(
                    "a layer of more than {} entries",
                    self.limits.entries
                )));
            }
            self.entry(&entry, tape)?;
        }
        for (path, (atime, mtime)) in &self.directories {
            self.tree.restore_times_blocking(path, *atime, *mtime)?;
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        if (self.is_cancelled)() {
            return Err(Error::new(Kind::Cancelled, "nobody waits for this layer"));
        }
        Ok(())
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, tape: &mut Tape<R>) -> Result<()> {
        if entry.kind == EntryKind::Global {
            return Ok(());
        }
        let name = clean(&entry.name);
        if name.starts_with(AUFS) && name != OPAQUE {
            return Ok(());
        }
        let Some(place) = self.tree.place_blocking(&name)? else {
            return Ok(()); // the root itself, which is as containerd made it
        };
        if self.white_out(entry, &name, &place)? {
            return Ok(());
        }
        let attributes = attributes(entry)?;
        match &entry.kind {
            EntryKind::File { size, pieces } => {
                let file = match self.tree.create_blocking(&place) {
                    Err(error) if error.kind() == Kind::AlreadyExists => {
                        self.tree.remove_blocking(&place)?;
                        self.tree.create_blocking(&place)
                    }
                    created => created,
                }?;
                self.fill(&file, *size, pieces.as_deref(), tape)?;
                return self.tree.finish_blocking(&place, &file, &attributes);
            }
            EntryKind::Directory => self.directory(&place, &attributes)?,
            EntryKind::HardLink => {
                self.clear(&place)?;
                self.link(entry, &place)?;
            }
            EntryKind::Symlink => {
                self.clear(&place)?;
                self.tree
                    .make_blocking(&place, Node::Symlink(&entry.link))?;
            }
            EntryKind::Fifo | EntryKind::Character | EntryKind::Block => {
                self.clear(&place)?;
                self.tree.make_blocking(&place, special(entry)?)?;
            }
            EntryKind::Global => {}
            EntryKind::Unknown(flag) => {
                return Err(Error::new(
                    Kind::Aborted,
                    format!(
                        "an entry of kind {:?}, which no layer has",
                        char::from(*flag)
                    ),
                ));
            }
        }
        self.tree.dress_blocking(&place, &attributes)
    }

    /// Takes away what stands where something else is to stand.
    fn clear(&mut self, place: &Place) -> Result<()> {
        if self.tree.kind_blocking(place)?.is_some() {
            self.tree.remove_blocking(place)?;
        }
        Ok(())
    }

    /// Directories are merged with what is there; of anything else they take the place.
    fn directory(&mut self, place: &Place, attributes: &Attributes) -> Result<()> {
        let found = self.tree.kind_blocking(place)?;
        if found != Some(tree::Kind::Directory) {
            if found.is_some() {
                self.tree.remove_blocking(place)?;
            }
            self.tree.make_blocking(place, Node::Directory)?;
            if found == Some(tree::Kind::Whiteout) && self.whiteouts == Whiteouts::Overlay {
                // What was gone before stays gone.
                self.tree.make_opaque_blocking(place)?;
            }
        }
        let path = place.path();
        self.held = self
            .held
            .saturating_add(path.len())
            .saturating_add(size_of::<(Vec<u8>, Times)>());
        if self.held > MAX_DIRECTORIES {
            return Err(Error::unimplemented("a layer of too many directories"));
        }
        self.directories
            .push((path, (attributes.atime, attributes.mtime)));
        Ok(())
    }

    fn link(&mut self, entry: &Entry, place: &Place) -> Result<()> {
        let target = entry.link.strip_prefix(b"/").unwrap_or(&entry.link);
        if clean(target).starts_with(AUFS) {
            return Err(Error::unimplemented("a layer with AUFS' own hard links"));
        }
        if self.tree.link_blocking(target, place)? {
            return Ok(());
        }
        // It may be meant for a file of a layer below.
        Err(Error::unimplemented(format!(
            "a hard link to {:?}, which is not in this layer",
            String::from_utf8_lossy(target)
        )))
    }

    /// Whether the entry was a whiteout; then it is done.
    fn white_out(&mut self, entry: &Entry, name: &[u8], place: &Place) -> Result<bool> {
        let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if base == OPAQUE {
            if self.whiteouts == Whiteouts::Overlay {
                self.tree.make_holder_opaque_blocking(place)?;
            }
            return Ok(true);
        }
        let Some(hidden) = base.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        let hidden = place
            .beside(hidden)
            .map_err(|error| Error::new(Kind::Aborted, "a whiteout of nothing").caused_by(error))?;
        match self.whiteouts {
            Whiteouts::Remove => self.tree.remove_blocking(&hidden)?,
            Whiteouts::Overlay => {
                let (uid, gid) = owners(entry)?;
                self.tree.white_out_blocking(&hidden, uid, gid)?;
            }
        }
        Ok(true)
    }

    /// Writes a file's content.
    fn fill<R: BufRead>(
        &mut self,
        mut file: &File,
        size: u64,
        pieces: Option<&[Piece]>,
        tape: &mut Tape<R>,
    ) -> Result<()> {
        let what = || "write a file of the layer".to_owned();
        let Some(pieces) = pieces else {
            return self.copy(file, size, tape);
        };
        for piece in pieces {
            file.seek(SeekFrom::Start(piece.offset)).sys(what)?;
            self.copy(file, piece.length, tape)?;
        }
        file.set_len(size).sys(what)?;
        file.flush().sys(what)
    }

    fn copy<R: BufRead>(
        &mut self,
        mut file: &File,
        mut length: u64,
        tape: &mut Tape<R>,
    ) -> Result<()> {
        while length > 0 {
            self.check_cancelled()?;
            let bytes = tape.data(length)?;
            let count = bytes.len();
            if count == 0 {
                return Err(Error::new(
                    Kind::Aborted,
                    "a file of the layer ends too early",
                ));
            }
            file.write_all(bytes)
                .sys(|| "write a file of the layer".to_owned())?;
            tape.consume(count);
            length = length.saturating_sub(count as u64);
            self.account(count as u64)?;
        }
        Ok(())
    }

    /// A layer never fills the disk to the last.
    fn account(&mut self, bytes: u64) -> Result<()> {
        self.written = self.written.saturating_add(bytes);
        if self.written < LOOK_EVERY {
            return Ok(());
        }
        self.written = 0;
        let (free, whole) = self.tree.room_blocking()?;
        let reserve = RESERVE.min(whole / 20);
        if free < reserve {
            return Err(Error::exhausted(format!(
                "the disk of the snapshots has {free} bytes left, and a layer leaves {reserve}; remove images or enlarge it"
            )));
        }
        Ok(())
    }
}

fn special(entry: &Entry) -> Result<Node<'static>> {
    let number = |number: i64, most: u32| {
        let number = u32::try_from(number).ok().filter(|number| *number <= most);
        number.ok_or_else(|| Error::new(Kind::Aborted, "a device number that no device has"))
    };
    // As many bits as the kernel has.
    let (major, minor) = entry.device;
    Ok(match entry.kind {
        EntryKind::Character => Node::Character(number(major, 0xfff)?, number(minor, 0xf_ffff)?),
        EntryKind::Block => Node::Block(number(major, 0xfff)?, number(minor, 0xf_ffff)?),
        _ => Node::Fifo,
    })
}

fn owners(entry: &Entry) -> Result<(u32, u32)> {
    let id = |id: i64| {
        let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| Error::new(Kind::Aborted, "an owner that no file can have"))
    };
    Ok((id(entry.uid)?, id(entry.gid)?))
}

fn attributes(entry: &Entry) -> Result<Attributes> {
    let (uid, gid) = owners(entry)?;
    Ok(Attributes {
        uid,
        gid,
        mode: entry.mode,
        atime: entry.atime,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
    })
}

/// The name without `.`, without empty components, and with `..` taken back by the name before it; what would lead out
/// of the root ends there.
pub(super) fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
