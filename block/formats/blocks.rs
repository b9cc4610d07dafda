//! Disks made of large blocks, each somewhere in the file or nowhere, by one table.
//!
//! A new block goes to the end of the file. Its entry is written with the next flush, after what the
//! block holds has reached the disk: a power cut leaves lost blocks at worst.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::driver::{CheckReport, Driver, Extent, Io, Preallocation, Repair, ZeroFlags};
use crate::lock::RwLock;
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// What is special about a format.
pub(super) trait Layout: Send + Sync {
    fn name(&self) -> &'static str;

    /// The disk's length.
    fn len(&self) -> u64;

    /// Bytes of a block.
    fn block(&self) -> u64;

    /// Whether the size of a block is told.
    fn tells_block(&self) -> bool {
        true
    }

    /// Whether the format could have something below the image that shows where it has nothing.
    fn shows_below(&self) -> bool {
        false
    }

    /// Whether it is told where blocks are, and which there are.
    fn tells_places(&self) -> bool {
        true
    }

    /// Whether the file may have holes where blocks are: it is asked.
    fn has_holes(&self) -> bool {
        false
    }

    /// The disk is about to be changed.
    fn begin_change<'a>(&'a self, _file: &'a Node) -> Io<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Checks the table, and mends what it may; what it changes is stored afterwards.
    fn check<'a>(
        &'a self,
        _file: &'a Node,
        _state: &'a mut State,
        _repair: Repair,
    ) -> Io<'a, CheckReport> {
        Box::pin(std::future::ready(Err(Error::from_errno(libc::ENOTSUP))))
    }

    /// What stands in front of a block's data in the file.
    fn lead(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Writes entries of the table, and what else depends on them; `end` is where the blocks end.
    fn store<'a>(
        &'a self,
        file: &'a Node,
        table: &'a [Option<u64>],
        changed: &'a BTreeSet<usize>,
        end: u64,
    ) -> Io<'a, ()>;
}

/// What changes about an image.
pub(super) struct State {
    /// Where the data of each block is.
    pub(super) table: Vec<Option<u64>>,
    /// Entries that are not in the file yet.
    pub(super) changed: BTreeSet<usize>,
    /// Where the next block goes.
    pub(super) end: u64,
}

/// An open image.
pub(super) struct Blocks<L> {
    file: Arc<Node>,
    layout: L,
    state: RwLock<State>,
}

impl<L: Layout> Blocks<L> {
    /// An image with its table; new blocks go to `end`.
    pub(super) fn new(file: Arc<Node>, layout: L, table: Vec<Option<u64>>, end: u64) -> Self {
        let state = RwLock::new(State { table, changed: BTreeSet::new(), end });
        Self { file, layout, state }
    }

    /// The parts of a range that are in one block: (offset in the range, block, offset in it, length).
    fn parts(&self, at: u64, len: u64) -> impl Iterator<Item = (u64, usize, u64, u64)> {
        let block = self.layout.block();
        let mut done = 0;
        std::iter::from_fn(move || {
            let here = at + done;
            let part = (block - here % block).min(len - done);
            let found = (done, (here / block) as usize, here % block, part);
            done += part;
            (part > 0).then_some(found)
        })
    }

    async fn read_blocks(&self, at: u64, into: Vector) -> Result<()> {
        let state = self.state.read().await;
        for (done, block, inside, len) in self.parts(at, into.len() as u64) {
            let part = into.slice(done as usize, len as usize);
            match state.table.get(block).copied().flatten() {
                Some(data) => self.file.driver().read(data + inside, part).await?,
                None => part.fill(0),
            }
        }
        Ok(())
    }

    async fn write_blocks(&self, at: u64, from: Vector) -> Result<()> {
        self.layout.begin_change(&self.file).await?;
        for (done, block, inside, len) in self.parts(at, from.len() as u64) {
            let part = from.slice(done as usize, len as usize);
            let place = self.state.read().await.table.get(block).copied().flatten();
            let data = match place {
                Some(data) => data,
                None => self.place(block).await?,
            };
            self.file.write(data + inside, part).await?;
        }
        Ok(())
    }

    /// Gives a block its place, unless somebody just has.
    async fn place(&self, block: usize) -> Result<u64> {
        let mut state = self.state.write().await;
        let entry = state.table.get(block).copied();
        let entry = entry.ok_or_else(|| Error::from_errno(libc::EIO))?;
        if let Some(data) = entry {
            return Ok(data);
        }
        let (start, lead) = (state.end, self.layout.lead());
        let data = start + lead.len() as u64;
        let end = data + self.layout.block();
        // Nothing that was there, such as a trailer, may show.
        let old_end = self.file.len()?;
        if old_end > start {
            self.file.write_zeroes(start, old_end.min(end) - start, ZeroFlags::default()).await?;
        }
        if old_end < end {
            self.file.truncate(end, Preallocation::Off).await?;
        }
        if !lead.is_empty() {
            self.file.write(start, Vector::from(&lead[..])).await?;
        }
        state.end = end;
        state.table[block] = Some(data);
        state.changed.insert(block);
        Ok(data)
    }

    async fn settle(&self) -> Result<()> {
        let mut state = self.state.write().await;
        if !state.changed.is_empty() {
            self.file.flush().await?;
            let State { table, changed, end } = &*state;
            self.layout.store(&self.file, table, changed, *end).await?;
            state.changed.clear();
        }
        self.file.flush().await
    }

    async fn find(&self, at: u64, len: u64) -> Result<Extent> {
        if !self.layout.tells_places() {
            return Ok(Extent { len, data: true, allocated: true, ..Extent::default() });
        }
        let state = self.state.read().await;
        let mut found: Option<(Option<u64>, u64)> = None;
        for (_, block, inside, part) in self.parts(at, len) {
            let place = state.table.get(block).copied().flatten().map(|data| data + inside);
            match &mut found {
                None => found = Some((place, part)),
                Some((first, run)) if first.map(|first| first + *run) == place => *run += part,
                Some(_) => break,
            }
        }
        let (place, run) = found.unwrap_or((None, len));
        drop(state);
        let there = place.is_some();
        let (mut run, mut zero) = (run, !there);
        if let Some(place) = place.filter(|_| self.layout.has_holes()) {
            let below = self.file.driver().status(place, run).await?;
            (run, zero) = (below.len, below.zero);
        }
        Ok(Extent {
            len: run,
            data: there,
            zero,
            allocated: there || !self.layout.shows_below(),
            offset: place,
            ..Extent::default()
        })
    }
}

impl<L: Layout> Driver for Blocks<L> {
    fn name(&self) -> &'static str {
        self.layout.name()
    }

    fn len(&self) -> Result<u64> {
        Ok(self.layout.len())
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(self.read_blocks(at, into))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(self.write_blocks(at, from))
    }

    fn write_zeroes(&self, at: u64, len: u64, _flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(write_plain_zeroes(self, at, len))
    }

    fn discard(&self, _at: u64, _len: u64) -> Io<'_, ()> {
        // A hint; no block is ever given back.
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(self.settle())
    }

    fn truncate(&self, _len: u64, _preallocation: Preallocation) -> Io<'_, ()> {
        let text = "Image format driver does not support resize";
        Box::pin(std::future::ready(Err(Error::unsupported(text))))
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(self.find(at, len))
    }

    fn check(&self, repair: Repair) -> Io<'_, CheckReport> {
        Box::pin(async move {
            let report = {
                let mut state = self.state.write().await;
                self.layout.check(&self.file, &mut state, repair).await?
            };
            if repair != Repair::Nothing {
                self.settle().await?;
            }
            Ok(report)
        })
    }

    fn tells_state(&self) -> bool {
        self.layout.tells_block()
    }

    fn cluster_size(&self) -> Option<u64> {
        self.layout.tells_block().then(|| self.layout.block())
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}

/// Writes zeroes as data, for formats that know no other ones: what was written has its place.
pub(super) async fn write_plain_zeroes(image: &dyn Driver, at: u64, len: u64) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let zeroes = Vector::zeroed(len.min(PIECE) as usize);
    let mut done = 0;
    while done < len {
        let now = (len - done).min(PIECE);
        image.write(at + done, zeroes.slice(0, now as usize)).await?;
        done += now;
    }
    Ok(())
}

/// Reads a table of 32-bit entries, which must be inside the file: that bounds what it may claim.
/// `complaint` says otherwise.
pub(super) async fn read_table(
    file: &Node,
    at: u64,
    entries: u64,
    order: fn([u8; 4]) -> u32,
    complaint: &str,
) -> Result<Vec<u32>> {
    let end = entries.checked_mul(4).and_then(|bytes| bytes.checked_add(at));
    if end.is_none_or(|end| end > file.len().unwrap_or(0).next_multiple_of(4096)) {
        return Err(Error::invalid(complaint));
    }
    let bytes = file.read_bytes(at, entries as usize * 4).await?;
    Ok(bytes.chunks_exact(4).map(|entry| order(super::bytes::field(entry, 0))).collect())
}

/// Writes the 512-byte pieces of a table of 32-bit entries that have changed.
pub(super) async fn write_table(
    file: &Node,
    at: u64,
    entries: usize,
    changed: &BTreeSet<usize>,
    entry: impl Fn(usize) -> [u8; 4],
) -> Result<()> {
    let pieces: BTreeSet<usize> = changed.iter().map(|index| index / 128).collect();
    for piece in pieces {
        let range = piece * 128..((piece + 1) * 128).min(entries);
        let bytes: Vec<u8> = range.flat_map(&entry).collect();
        file.write(at + piece as u64 * 512, Vector::from(&bytes[..])).await?;
    }
    Ok(())
}
