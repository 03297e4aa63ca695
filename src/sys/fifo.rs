//! FIFOs between a shim and us: making and opening them, and copying without consuming (tee(2)).
//!
//! A shim keeps both ends of its output FIFOs open, so bytes that we have not consumed outlive us. We never hold a
//! write end of an output FIFO: its last writer leaving is how we learn of the end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, splice, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::model::{Classify, Error, Kind, Result};

/// Makes a FIFO that only root may open; one that is there already is taken as it is.
///
/// # Errors
/// `Internal` where the kernel refuses, or where something else has that name.
pub fn make(path: &Path) -> Result<()> {
    match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => open_checked(path, OFlag::O_PATH).map(drop),
        Err(e) => {
            Err(Error::internal(format!("make the fifo {path:?}")).caused_by(io::Error::from(e)))
        }
    }
}

/// Opens the write end of `path` for a process's input, without waiting for its reader.
///
/// # Errors
/// `Unavailable` while nobody reads it, `NotFound` where it does not exist, otherwise `Internal`.
pub fn open_writer(path: &Path) -> Result<OwnedFd> {
    open_checked(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK)
}

/// Holds an input FIFO open in both directions, so that the process sees no end of input between two writers and
/// opening does not depend on the reader. Nothing may be read through this descriptor.
///
/// # Errors
/// `NotFound` where it does not exist, otherwise `Internal`.
pub fn hold_open(path: &Path) -> Result<OwnedFd> {
    open_checked(path, OFlag::O_RDWR | OFlag::O_NONBLOCK)
}

fn open_checked(path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let fd = open(
        path,
        flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )
    .map_err(|e| {
        let kind = match e {
            Errno::ENOENT => Kind::NotFound,
            Errno::ENXIO => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Error::new(kind, format!("open the fifo {path:?}")).caused_by(io::Error::from(e))
    })?;
    let stat = fstat(&fd).classify(Kind::Internal, || format!("inspect {path:?}"))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO {
        Ok(fd)
    } else {
        Err(Error::internal(format!("{path:?} is not a fifo")))
    }
}

/// What tee(2) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teed {
    /// This many bytes from the front were copied.
    Bytes(usize),
    /// There is nothing, and a writer that may still write.
    Empty,
    /// There is nothing and no writer: either none has come yet, or the last one has left.
    NoWriter,
}

/// The read end of an output FIFO, non-blocking.
#[derive(Debug)]
pub struct ReadEnd(OwnedFd);

impl ReadEnd {
    /// Opens the read end; does not wait for a writer.
    ///
    /// # Errors
    /// `NotFound` where it does not exist, otherwise `Internal`.
    pub fn open(path: &Path) -> Result<Self> {
        open_checked(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map(Self)
    }

    /// The bytes that it holds at most.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn capacity(&self) -> io::Result<usize> {
        capacity_of(&self.0)
    }

    /// Asks for room for `bytes`; returns the capacity there is then, which may be less.
    ///
    /// # Errors
    /// What fcntl(2) says of the capacity; a refused growth is not an error.
    pub fn grow(&self, bytes: usize) -> io::Result<usize> {
        let now = self.capacity()?;
        if now >= bytes {
            return Ok(now);
        }
        resize(&self.0, bytes).or(Ok(now))
    }

    /// Copies from its front into the empty `pipe`, consuming nothing.
    ///
    /// # Errors
    /// What tee(2) says.
    pub fn tee_into(&self, pipe: &Pipe) -> io::Result<Teed> {
        loop {
            match tee(
                &self.0,
                &pipe.write,
                pipe.capacity,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            ) {
                Ok(0) => return Ok(Teed::NoWriter),
                Ok(n) => return Ok(Teed::Bytes(n)),
                Err(Errno::EAGAIN) => return Ok(Teed::Empty),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Consumes `count` bytes, which a tee has shown to be there, into `null`.
    ///
    /// # Errors
    /// What splice(2) says; `UnexpectedEof` where fewer bytes were there.
    pub fn consume(&self, mut count: usize, null: &NullSink) -> io::Result<()> {
        while count > 0 {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(&self.0, None, &null.0, None, count, flags) {
                Ok(0) | Err(Errno::EAGAIN) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => count = count.saturating_sub(n),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for ReadEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<ReadEnd> for OwnedFd {
    fn from(end: ReadEnd) -> Self {
        end.0
    }
}

/// `/dev/null`, where consumed bytes go without being copied.
#[derive(Debug)]
pub struct NullSink(File);

impl NullSink {
    /// Opens it.
    ///
    /// # Errors
    /// `Internal` where it cannot be opened.
    pub fn open() -> Result<Self> {
        File::options()
            .write(true)
            .open("/dev/null")
            .map(Self)
            .classify(Kind::Internal, || "open /dev/null".to_owned())
    }
}

/// A pipe of our own: where teed bytes are read from.
#[derive(Debug)]
pub struct Pipe {
    read: File,
    write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    /// A pipe with room for about `bytes`, at least the kernel's default where more is refused.
    ///
    /// # Errors
    /// `ResourceExhausted` where no pipe is to be had.
    pub fn new(bytes: usize) -> Result<Self> {
        let out_of_pipes =
            || "make a pipe: raise LimitNOFILE or fs.pipe-user-pages-soft".to_owned();
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .classify(Kind::ResourceExhausted, out_of_pipes)?;
        let capacity = resize(&write, bytes)
            .or_else(|_refused| capacity_of(&write))
            .classify(Kind::Internal, || "size a pipe".to_owned())?;
        Ok(Self {
            read: read.into(),
            write,
            capacity,
        })
    }

    /// The bytes that it holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether it takes nothing more: its pages are used up, however few bytes they hold.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn is_full(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.write.as_fd(), PollFlags::POLLOUT)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? == 0)
    }

    /// Fills `buffer` from it.
    ///
    /// # Errors
    /// What read(2) says; `UnexpectedEof` where it holds less.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.read.read_exact(buffer)
    }
}

fn capacity_of(fd: impl AsFd) -> io::Result<usize> {
    let size = fcntl(fd, FcntlArg::F_GETPIPE_SZ)?;
    Ok(usize::try_from(size).unwrap_or(0))
}

fn resize(fd: impl AsFd, bytes: usize) -> io::Result<usize> {
    let wanted = nix::libc::c_int::try_from(bytes).unwrap_or(nix::libc::c_int::MAX);
    let size = fcntl(fd, FcntlArg::F_SETPIPE_SZ(wanted))?;
    Ok(usize::try_from(size).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn fifo(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("out");
        make(&path).unwrap();
        path
    }

    #[test]
    fn tee_copies_what_consume_then_takes() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        let end = ReadEnd::open(&path).unwrap();
        let mut pipe = Pipe::new(65536).unwrap();
        assert_eq!(end.tee_into(&pipe).unwrap(), Teed::NoWriter);
        let mut writer = File::from(open_writer(&path).unwrap());
        assert_eq!(end.tee_into(&pipe).unwrap(), Teed::Empty);

        writer.write_all(b"one\ntwo").unwrap();

        assert_eq!(end.tee_into(&pipe).unwrap(), Teed::Bytes(7));
        let mut seen = [0; 7];
        pipe.fill(&mut seen).unwrap();
        assert_eq!(&seen, b"one\ntwo");
        end.consume(4, &NullSink::open().unwrap()).unwrap();
        assert_eq!(end.tee_into(&pipe).unwrap(), Teed::Bytes(3));
    }

    #[test]
    fn a_pipe_of_few_bytes_in_many_pages_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        let end = ReadEnd::open(&path).unwrap();
        let source = Pipe::new(4096).unwrap();
        let writer = open_writer(&path).unwrap();
        for _ in 0..16 {
            nix::unistd::write(&source.write, b"x").unwrap();
            let moved = splice(&source.read, None, &writer, None, 1, SpliceFFlags::empty());
            assert_eq!(moved, Ok(1));
        }
        let mut pipe = Pipe::new(65536).unwrap();

        let teed = end.tee_into(&pipe).unwrap();

        assert_eq!(teed, Teed::Bytes(16));
        assert!(pipe.is_full().unwrap());
        pipe.fill(&mut [0; 16]).unwrap();
        assert!(!pipe.is_full().unwrap());
    }

    #[test]
    fn what_is_no_fifo_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(fifo(&dir), &link).unwrap();

        assert_eq!(make(&file).unwrap_err().kind(), Kind::Internal);
        assert_eq!(ReadEnd::open(&file).unwrap_err().kind(), Kind::Internal);
        assert_eq!(ReadEnd::open(&link).unwrap_err().kind(), Kind::Internal);
        let missing = dir.path().join("missing");
        assert_eq!(ReadEnd::open(&missing).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_writer_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);

        assert_eq!(open_writer(&path).unwrap_err().kind(), Kind::Unavailable);
        let _held = hold_open(&path).unwrap();
        assert!(open_writer(&path).is_ok());
    }
}
