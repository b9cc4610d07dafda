//! Operations on files of the host.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::vector::Vector;
use crate::{Error, Result};

/// One operation on a file.
#[derive(Debug)]
pub enum HostOp {
    /// Fill the memory from a position; beyond the end of the file there are zeroes.
    Read {
        /// Where from.
        at: u64,
        /// Where to.
        into: Vector,
        /// The host may have it in memory.
        cached: bool,
    },
    /// Store the memory at a position.
    Write {
        /// Where to.
        at: u64,
        /// What.
        from: Vector,
        /// The host takes one such request to a file at a time, as it does through its cache: others would
        /// only wait for it.
        in_turn: bool,
    },
    /// Make a range read as zeroes, keeping it allocated unless `unmap`.
    Zero {
        /// The first byte.
        at: u64,
        /// How many.
        len: u64,
        /// Whether the range may lose its place on the disk.
        unmap: bool,
    },
    /// What was written survives a power cut.
    Sync,
    /// A new length; with `allocate`, all of it has its place on the disk.
    Truncate {
        /// The new length.
        len: u64,
        /// Reserve the space that is added.
        allocate: bool,
    },
}

/// Does operations on files of the host, now or later.
pub trait HostIo: Send + Sync {
    /// Begins an operation. The file and the memory stay until it has ended, whoever still waits.
    fn submit(
        &self,
        file: Arc<File>,
        op: HostOp,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;
}

/// Does each operation while it is submitted.
pub struct Inline;

impl HostIo for Inline {
    fn submit(
        &self,
        file: Arc<File>,
        op: HostOp,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        Box::pin(std::future::ready(op.perform(&file)))
    }
}

impl HostOp {
    /// Does it if that takes no waiting: reads of what the host has in memory.
    pub(super) fn try_now(&self, file: &File) -> bool {
        let Self::Read { at, into, cached: true } = self else { return false };
        let whole = |got: std::io::Result<usize>| got.is_ok_and(|got| got == into.len());
        position(*at, 0).is_ok_and(|at| whole(into.read_ready(file.as_fd(), at)))
    }

    /// Does it, blocking.
    pub(super) fn perform(&self, file: &File) -> Result<()> {
        match self {
            Self::Read { at, into, .. } => read(file, *at, into),
            Self::Write { at, from, .. } => write(file, *at, from),
            Self::Zero { at, len, unmap } => zero(file, *at, *len, *unmap),
            Self::Sync => match file.sync_data() {
                // A special file that keeps nothing back.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                result => Ok(result?),
            },
            Self::Truncate { len, allocate } => truncate(file, *len, *allocate),
        }
    }
}

fn position(at: u64, done: usize) -> Result<i64> {
    let at = at.checked_add(done as u64).and_then(|at| i64::try_from(at).ok());
    at.ok_or_else(|| Error::from_errno(libc::EFBIG))
}

fn read(file: &File, at: u64, into: &Vector) -> Result<()> {
    let mut done = 0;
    while done < into.len() {
        let rest = into.slice(done, into.len() - done);
        match rest.read_once(file.as_fd(), position(at, done)?) {
            Ok(0) => {
                rest.fill(0);
                return Ok(());
            }
            Ok(got) => done += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn write(file: &File, at: u64, from: &Vector) -> Result<()> {
    let mut done = 0;
    while done < from.len() {
        let rest = from.slice(done, from.len() - done);
        match rest.write_once(file.as_fd(), position(at, done)?) {
            Ok(0) => return Err(Error::from_errno(libc::ENOSPC)),
            Ok(put) => done += put,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn zero(file: &File, at: u64, len: u64, unmap: bool) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let end = at.checked_add(len).ok_or_else(|| Error::from_errno(libc::EFBIG))?;
    let mode = match unmap {
        true => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        false => FallocateFlags::FALLOC_FL_ZERO_RANGE,
    };
    match fallocate(file, mode, position(at, 0)?, position(len, 0)?) {
        // Not every file system has it.
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => {
            let chunk = Vector::aligned(len.min(1 << 20) as usize);
            let mut done = 0;
            while done < len {
                let now = (len - done).min(chunk.len() as u64);
                write(file, at + done, &chunk.slice(0, now as usize))?;
                done += now;
            }
            return Ok(());
        }
        result => result?,
    }
    // Punching keeps the length.
    if unmap && file.metadata()?.len() < end {
        file.set_len(end)?;
    }
    Ok(())
}

/// What a file has from its beginning.
const FIRST_BLOCK: usize = 4096;

fn truncate(file: &File, len: u64, allocate: bool) -> Result<()> {
    let before = file.metadata()?.len();
    file.set_len(len)?;
    if before == 0 && len > 0 {
        // Who reads past the host's cache learns from the first block, if there is one, how requests
        // must be aligned. It can do without.
        let block = Vector::aligned(FIRST_BLOCK).slice(0, FIRST_BLOCK.min(len as usize));
        block.fill(0);
        let _ = write(file, 0, &block);
    }
    if allocate && len > before {
        let mode = FallocateFlags::empty();
        fallocate(file, mode, position(before, 0)?, position(len - before, 0)?)?;
    }
    Ok(())
}
