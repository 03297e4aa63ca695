//! Files with holes, as GNU tar writes them.

use std::io::BufRead;

use super::header::{BLOCK, Dialect, Header, number};
use super::{EntryKind, Tape, malformed};
use crate::model::Result;

/// Bytes of one piece's description.
const FIELD: usize = 24;
/// Descriptions in one block of its own.
const PER_BLOCK: usize = 21;
/// Pieces of one file.
const MAX_PIECES: usize = 65_536;

/// A part of a file that is there; what lies between is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image::apply) struct Piece {
    pub(in crate::image::apply) offset: u64,
    pub(in crate::image::apply) length: u64,
}

impl<R: BufRead> Tape<R> {
    /// The pieces of a GNU sparse file: some in its header, more in blocks after it.
    pub(super) fn old_sparse(&mut self, header: &Header) -> Result<EntryKind> {
        if header.dialect() != Dialect::Gnu {
            return Err(malformed("a sparse file in an archive of another dialect"));
        }
        let size = super::size_of(header.real_size())?;
        let mut pieces = Vec::new();
        let (fields, mut more) = header.sparse();
        add(&mut pieces, fields)?;
        while more {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(malformed("it ends within a sparse file"));
            }
            let fields = block.get(..FIELD * PER_BLOCK).unwrap_or_default();
            add(&mut pieces, fields)?;
            more = block.get(FIELD * PER_BLOCK).is_some_and(|flag| *flag != 0);
        }
        check(&pieces, size, self.left)?;
        Ok(EntryKind::File {
            size,
            pieces: Some(pieces),
        })
    }
}

fn add(pieces: &mut Vec<Piece>, fields: &[u8]) -> Result<()> {
    for field in fields.chunks_exact(FIELD) {
        if field.first() == Some(&0) {
            break; // no more in this block
        }
        let (offset, length) = field.split_at(FIELD / 2);
        let value = |field| super::size_of(number(field));
        pieces.push(Piece {
            offset: value(offset)?,
            length: value(length)?,
        });
        if pieces.len() > MAX_PIECES {
            return Err(malformed("a file with more holes than any"));
        }
    }
    Ok(())
}

/// Pieces come in order, do not overlap, lie within the file, and are as long together as what follows.
fn check(pieces: &[Piece], size: u64, stored: u64) -> Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for piece in pieces {
        let stop = piece.offset.checked_add(piece.length);
        match stop {
            Some(stop) if piece.offset >= end && stop <= size => end = stop,
            _ => return Err(malformed("the pieces of a sparse file")),
        }
        sum = sum.saturating_add(piece.length);
    }
    if sum != stored {
        return Err(malformed("a sparse file of another length than it says"));
    }
    Ok(())
}
