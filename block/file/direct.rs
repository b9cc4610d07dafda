//! Past the host's cache (`cache.direct`): what is not aligned as the disk needs it goes through memory
//! that is.

use std::fs::File;
use std::os::fd::AsFd;

use super::HostFile;
use crate::engine::HostOp;
use crate::lock::RwLock;
use crate::vector::{Scratch, Vector};
use crate::{Error, Result};

/// Every disk takes this.
const PAGE: u64 = 4096;
/// What most take.
const SECTOR: u64 = 512;
/// What goes through other memory at a time.
const PIECE: u64 = 1 << 20;

/// How a file must be reached that is open with `O_DIRECT`.
pub(super) struct Direct {
    /// What offsets, lengths and addresses are multiples of.
    block: u64,
    /// Who writes a part of a block is alone: the rest of it is read and written back.
    parts: RwLock<()>,
    /// Memory that is aligned.
    scratch: Scratch,
}

impl Direct {
    /// Finds out what a file's disk takes, by reading.
    pub(super) fn of(file: &File) -> Self {
        let memory = Vector::aligned(PAGE as usize).slice(SECTOR as usize, SECTOR as usize);
        // At the end of the file one learns nothing.
        let takes_sectors = memory.read_once(file.as_fd(), SECTOR as i64).is_ok_and(|got| got > 0);
        let block = if takes_sectors { SECTOR } else { PAGE };
        Self { block, parts: RwLock::new(()), scratch: Scratch::default() }
    }

    /// Refuses what is beyond the end of any file.
    fn check(at: u64, len: usize) -> Result<()> {
        const END: u64 = i64::MAX as u64 - PAGE;
        match at.checked_add(len as u64) {
            Some(end) if end <= END => Ok(()),
            _ => Err(Error::from_errno(libc::EFBIG)),
        }
    }

    fn is_whole(&self, at: u64, len: usize) -> bool {
        at.is_multiple_of(self.block) && (len as u64).is_multiple_of(self.block)
    }

    /// The blocks that a range touches: where they begin, and their length.
    fn blocks(&self, at: u64, len: u64) -> (u64, usize) {
        let start = at / self.block * self.block;
        (start, ((at + len).next_multiple_of(self.block) - start) as usize)
    }

    pub(super) async fn read(&self, host: &HostFile, at: u64, into: Vector) -> Result<()> {
        Self::check(at, into.len())?;
        if self.is_whole(at, into.len()) && into.is_aligned(self.block as usize) {
            return host.submit(HostOp::Read { at, into, cached: false }).await;
        }
        let mut done = 0;
        while done < into.len() {
            let now = ((into.len() - done) as u64).min(PIECE);
            let at = at + done as u64;
            let (start, len) = self.blocks(at, now);
            let memory = self.scratch.take(len);
            host.submit(HostOp::Read { at: start, into: memory.clone(), cached: false }).await?;
            let wanted = memory.slice((at - start) as usize, now as usize);
            into.copy(done, &wanted);
            done += now as usize;
        }
        Ok(())
    }

    pub(super) async fn write(&self, host: &HostFile, at: u64, from: Vector) -> Result<()> {
        Self::check(at, from.len())?;
        if !self.is_whole(at, from.len()) {
            let _alone = self.parts.write().await;
            return self.write_parts(host, at, from).await;
        }
        let _others = self.parts.read().await;
        let from = match from.is_aligned(self.block as usize) {
            true => from,
            false => {
                let memory = self.scratch.take(from.len());
                memory.copy(0, &from);
                memory
            }
        };
        host.submit(HostOp::Write { at, from, in_turn: false }).await
    }

    /// Writes whole blocks with these bytes in them. The file ends where it would have ended.
    async fn write_parts(&self, host: &HostFile, at: u64, from: Vector) -> Result<()> {
        let before = host.file().metadata()?.len();
        let mut done = 0;
        while done < from.len() {
            let now = ((from.len() - done) as u64).min(PIECE);
            let at = at + done as u64;
            let (start, len) = self.blocks(at, now);
            let memory = self.scratch.take(len);
            host.submit(HostOp::Read { at: start, into: memory.clone(), cached: false }).await?;
            memory.copy((at - start) as usize, &from.slice(done, now as usize));
            let write = HostOp::Write { at: start, from: memory, in_turn: false };
            host.submit(write).await?;
            done += now as usize;
        }
        let end = at + from.len() as u64;
        let (is_file, written) =
            (host.file().metadata()?.is_file(), self.blocks(at, from.len() as u64));
        if is_file && written.0 + written.1 as u64 > end.max(before) {
            let len = end.max(before);
            host.submit(HostOp::Truncate { len, allocate: false }).await?;
        }
        Ok(())
    }
}
