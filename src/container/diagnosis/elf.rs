//! The two facts of an ELF file that decide whether it can start: its machine and its dynamic loader (System V ABI, "ELF
//! header" and "Program header").

/// The machine that this node runs.
pub(super) const NATIVE: u16 = if cfg!(target_arch = "x86_64") {
    0x3E
} else if cfg!(target_arch = "aarch64") {
    0xB7
} else {
    u16::MAX
};
/// A program header that names the loader.
const PT_INTERP: u32 = 3;

/// What of the header matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// `e_machine`.
    pub(super) machine: u16,
    is_64: bool,
    is_big: bool,
}

/// Numbers out of the head of a file, in its own byte order; `None` past the end of what was read.
impl Header {
    /// The header at the beginning of `head`; `None` where that is no ELF file.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let (is_64, is_big) = (*head.get(4)? == 2, *head.get(5)? == 2);
        let mut header = Self {
            machine: 0,
            is_64,
            is_big,
        };
        header.machine = u16::try_from(header.number(head, 18, 2)?).ok()?;
        Some(header)
    }

    /// The path of the dynamic loader; `None` where the program has none, or names it beyond `head`.
    pub(super) fn interpreter<'h>(&self, head: &'h [u8]) -> Option<&'h str> {
        let (table, size, count) = if self.is_64 {
            (32, 54, 56)
        } else {
            (28, 42, 44)
        };
        let word = if self.is_64 { 8 } else { 4 };
        let table = self.number(head, table, word)?;
        let size = self.number(head, size, 2)?;
        let count = self.number(head, count, 2)?;
        for index in 0..count {
            let at = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
            if self.number(head, at, 4)? != u64::from(PT_INTERP) {
                continue;
            }
            let (offset, length) = if self.is_64 { (8, 32) } else { (4, 16) };
            let offset = self.number(head, at.checked_add(offset)?, word)?;
            let length = self.number(head, at.checked_add(length)?, word)?;
            let end = usize::try_from(offset.checked_add(length)?).ok()?;
            let path = head.get(usize::try_from(offset).ok()?..end)?;
            return std::str::from_utf8(path)
                .ok()
                .map(|path| path.trim_end_matches('\0'));
        }
        None
    }

    fn number(&self, head: &[u8], at: usize, bytes: usize) -> Option<u64> {
        let raw = head.get(at..at.checked_add(bytes)?)?;
        let join = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        Some(if self.is_big {
            raw.iter().fold(0, join)
        } else {
            raw.iter().rev().fold(0, join)
        })
    }
}

/// The name of a machine by its number.
pub(super) fn machine(number: u16) -> String {
    let name = match number {
        0x03 => "x86",
        0x08 => "mips",
        0x15 => "ppc64",
        0x16 => "s390x",
        0x28 => "arm",
        0x3E => "x86_64",
        0xB7 => "aarch64",
        0xF3 => "riscv",
        0x102 => "loongarch",
        _ => return format!("machine {number:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A 64-bit program, little-endian, of a header, one program header and the loader's name.
    pub(in super::super) fn program(machine: u16, loader: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 3;
        bytes[72] = 64 + 56;
        bytes[96] = u8::try_from(loader.len() + 1).unwrap();
        bytes.extend_from_slice(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn machine_and_loader_are_read_in_both_byte_orders() {
        let little = program(0x3E, "/lib/ld.so");
        let header = Header::parse(&little).unwrap();
        assert_eq!(
            (header.machine, header.interpreter(&little)),
            (0x3E, Some("/lib/ld.so"))
        );

        let mut big = vec![0; 20];
        big[..6].copy_from_slice(b"\x7fELF\x02\x02");
        big[19] = 0x16;
        assert_eq!(Header::parse(&big).unwrap().machine, 0x16);
        assert_eq!(machine(0x16), "s390x");
        assert_eq!(machine(0x7777), "machine 0x7777");
    }

    #[test]
    fn a_header_that_lies_says_nothing() {
        let mut lies = program(0x3E, "/lib/ld.so");
        lies[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Header::parse(&lies).unwrap().interpreter(&lies), None);
        let mut long = program(0x3E, "/lib/ld.so");
        long[96..104].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Header::parse(&long).unwrap().interpreter(&long), None);
        assert_eq!(Header::parse(b"\x7fELF"), None);
        assert_eq!(Header::parse(b"#!/bin/sh"), None);
    }

    #[test]
    fn this_very_program_is_native() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let header = Header::parse(&own).unwrap();
        assert_eq!(header.machine, NATIVE);
        assert!(
            header
                .interpreter(&own)
                .is_none_or(|path| path.contains("ld"))
        );
    }
}
