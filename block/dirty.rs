//! Dirty bitmaps: what of a disk was written since.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::driver::{BitmapChange, BitmapInfo};
use crate::engine::block_on;
use crate::node::Node;
use crate::{Error, Result};

/// The longest name.
pub const MAX_NAME: usize = 1023;

/// A part of a bitmap.
#[derive(Clone, Debug)]
pub(crate) enum Chunk {
    Zeroes,
    Ones,
    Bytes(Vec<u8>),
}

/// A bit for each `granularity` bytes of a disk, in chunks that take memory when they must.
#[derive(Clone, Debug)]
pub(crate) struct Bits {
    granularity_bits: u8,
    /// Bytes of a chunk.
    chunk: u64,
    pub chunks: Vec<Chunk>,
}

impl Bits {
    /// All clear.
    pub fn new(granularity_bits: u8, chunk: u64) -> Self {
        Self { granularity_bits, chunk, chunks: Vec::new() }
    }

    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Bits of a chunk.
    fn chunk_bits(&self) -> u64 {
        self.chunk * 8
    }

    /// Makes a range of bytes dirty; returns whether anything in it was not.
    pub fn mark(&mut self, range: Range<u64>) -> bool {
        let mut changed = false;
        if range.is_empty() {
            return changed;
        }
        let mut bit = range.start >> self.granularity_bits;
        let end = ((range.end - 1) >> self.granularity_bits) + 1;
        let last = ((end - 1) / self.chunk_bits()) as usize;
        if self.chunks.len() <= last {
            self.chunks.resize(last + 1, Chunk::Zeroes);
        }
        while bit < end {
            let (index, first) = (bit / self.chunk_bits(), bit % self.chunk_bits());
            let count = (self.chunk_bits() - first).min(end - bit);
            changed |= self.mark_in_chunk(index as usize, first..first + count);
            bit += count;
        }
        changed
    }

    /// Sets bits of a chunk; one that is set as a whole takes no memory.
    fn mark_in_chunk(&mut self, index: usize, bits: Range<u64>) -> bool {
        let whole = bits == (0..self.chunk_bits());
        match &mut self.chunks[index] {
            Chunk::Ones => false,
            chunk if whole => {
                let old = std::mem::replace(chunk, Chunk::Ones);
                !matches!(old, Chunk::Bytes(bytes) if bytes.iter().all(|byte| *byte == 0xff))
            }
            chunk @ Chunk::Zeroes => {
                let mut bytes = vec![0; self.chunk as usize];
                set(&mut bytes, bits);
                *chunk = Chunk::Bytes(bytes);
                true
            }
            Chunk::Bytes(bytes) => set(bytes, bits),
        }
    }

    /// What is dirty of a disk of `len` bytes, in order.
    pub fn dirty(&self, len: u64) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut add = |bits: Range<u64>| {
            let start = bits.start << self.granularity_bits;
            let end = (bits.end << self.granularity_bits).min(len);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ if start < end => ranges.push(start..end),
                _ => {}
            }
        };
        for (index, chunk) in (0..).zip(&self.chunks) {
            let base = index * self.chunk_bits();
            match chunk {
                Chunk::Zeroes => {}
                Chunk::Ones => add(base..base + self.chunk_bits()),
                Chunk::Bytes(bytes) => {
                    for (first, byte) in (base..).step_by(8).zip(bytes) {
                        match byte {
                            0 => {}
                            0xff => add(first..first + 8),
                            _ => (0..8).filter(|bit| byte >> bit & 1 != 0).for_each(|bit| {
                                add(first + bit..first + bit + 1);
                            }),
                        }
                    }
                }
            }
        }
        ranges
    }
}

/// Sets bits; returns whether one of them was clear.
fn set(bytes: &mut [u8], bits: Range<u64>) -> bool {
    let mut changed = false;
    for (first, byte) in (0..).step_by(8).zip(bytes).skip((bits.start / 8) as usize) {
        if first >= bits.end {
            break;
        }
        let below = |bit: u64| 0xff_u8.checked_shl(bit.saturating_sub(first) as u32).unwrap_or(0);
        let mask = below(bits.start) & !below(bits.end);
        changed |= *byte & mask != mask;
        *byte |= mask;
    }
    changed
}

/// How much memory a part of a bitmap takes that is not in an image.
const CHUNK: u64 = 4096;

/// A bitmap that is gone with the program.
struct Temporary {
    enabled: bool,
    bits: Bits,
}

/// A bitmap of a node, by its name.
enum Kind {
    Temporary(Temporary),
    /// The image keeps it.
    Stored,
}

/// A bitmap of a node, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// What images know of their own.
    pub info: BitmapInfo,
    /// The image keeps it.
    pub persistent: bool,
    /// Dirty bytes.
    pub count: u64,
}

/// The bitmaps of a node beside those of its image, and the order in which all were made.
#[derive(Default)]
pub(crate) struct Bitmaps {
    made: Mutex<Vec<(String, Kind)>>,
    recording: AtomicBool,
}

impl Bitmaps {
    /// A range of bytes was changed.
    pub fn note(&self, range: Range<u64>) {
        if !self.recording.load(Ordering::Acquire) {
            return;
        }
        for (_, kind) in self.made.lock().iter_mut() {
            if let Kind::Temporary(Temporary { enabled: true, bits }) = kind {
                bits.mark(range.clone());
            }
        }
    }
}

/// A bitmap that is not there.
pub fn missing(name: &str) -> Error {
    Error::new(libc::ENOENT, format!("Dirty bitmap '{name}' not found"))
}

/// Refuses what no new bitmap can be like.
pub fn check_new(name: &str, granularity: Option<u64>) -> Result<()> {
    let refused = |size: u64| !size.is_power_of_two() || !(512..=1 << 31).contains(&size);
    Err(Error::invalid(match name {
        "" => "Bitmap name cannot be empty".to_owned(),
        _ if granularity.is_some_and(refused) => {
            "Granularity must be power of 2 and at least 512".to_owned()
        }
        _ if name.len() > MAX_NAME => format!("Bitmap name too long: {name}"),
        _ => return Ok(()),
    }))
}

impl Node {
    /// All bitmaps, newest first.
    pub fn dirty_bitmaps(&self) -> Result<Vec<Bitmap>> {
        let stored = self.driver().bitmaps().map(|bitmaps| bitmaps.list()).unwrap_or_default();
        let made = self.bitmaps.made.lock();
        let len = self.len()?;
        let count = |ranges: Vec<Range<u64>>| {
            ranges.iter().map(|range| range.end - range.start).sum::<u64>()
        };
        let of_image = |info: &BitmapInfo| {
            let dirty = self.driver().bitmaps().map(|bitmaps| bitmaps.dirty(&info.name));
            let count = dirty.and_then(Result::ok).map_or(0, count);
            Bitmap { info: info.clone(), persistent: true, count }
        };
        let old = stored.iter().filter(|info| !made.iter().any(|(name, _)| *name == info.name));
        let mut all: Vec<Bitmap> = old.map(of_image).collect();
        all.extend(made.iter().filter_map(|(name, kind)| match kind {
            Kind::Stored => stored.iter().find(|info| info.name == *name).map(of_image),
            Kind::Temporary(Temporary { enabled, bits }) => Some(Bitmap {
                info: BitmapInfo {
                    name: name.clone(),
                    granularity: bits.granularity(),
                    enabled: *enabled,
                    inconsistent: false,
                },
                persistent: false,
                count: count(bits.dirty(len)),
            }),
        }));
        all.reverse();
        Ok(all)
    }

    /// The bitmap of a name.
    pub fn dirty_bitmap(&self, name: &str) -> Result<Bitmap> {
        let all = self.dirty_bitmaps()?;
        all.into_iter().find(|bitmap| bitmap.info.name == name).ok_or_else(|| missing(name))
    }

    /// Makes a bitmap; by default of a cluster's granularity.
    pub fn add_dirty_bitmap(
        &self,
        name: &str,
        granularity: Option<u64>,
        enabled: bool,
        persistent: bool,
    ) -> Result<()> {
        if persistent && name.len() > MAX_NAME {
            let node = self.name();
            return Err(Error::invalid(format!(
                "Can't make bitmap '{name}' persistent in '{node}': Name length exceeds maximum \
                 ({MAX_NAME} characters)"
            )));
        }
        check_new(name, granularity)?;
        if self.dirty_bitmap(name).is_ok() {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        let kind = if persistent {
            let add = BitmapChange::Add { granularity, enabled };
            let Some(bitmaps) = self.driver().bitmaps() else {
                let text = format!(
                    "Can't store persistent bitmaps to {}: Operation not supported",
                    self.name()
                );
                return Err(Error::unsupported(text));
            };
            block_on(bitmaps.change(name, add)).map_err(|error| {
                let node = self.name();
                error.context(format!("Can't make bitmap '{name}' persistent in '{node}'"))
            })?;
            Kind::Stored
        } else {
            let usual = || self.driver().cluster_size().unwrap_or(65536).clamp(4096, 65536);
            let granularity = granularity.unwrap_or_else(usual);
            let bits = Bits::new(granularity.ilog2() as u8, CHUNK);
            Kind::Temporary(Temporary { enabled, bits })
        };
        self.bitmaps.made.lock().push((name.to_owned(), kind));
        self.count_recording();
        Ok(())
    }

    /// Changes a bitmap that is there.
    pub fn change_dirty_bitmap(&self, name: &str, change: BitmapChange) -> Result<()> {
        let mut made = self.bitmaps.made.lock();
        let found = made.iter().position(|(known, _)| known == name);
        if let Some(index) = found
            && let Kind::Temporary(Temporary { enabled, bits }) = &mut made[index].1
        {
            match change {
                BitmapChange::Add { .. } => {
                    return Err(Error::invalid(format!("Bitmap already exists: {name}")));
                }
                BitmapChange::Remove => drop(made.remove(index)),
                BitmapChange::Clear => bits.chunks.clear(),
                BitmapChange::Enable(on) => *enabled = on,
                BitmapChange::Merge(ranges) => ranges.into_iter().for_each(|range| {
                    bits.mark(range);
                }),
            }
            drop(made);
            self.count_recording();
            return Ok(());
        }
        drop(made);
        let bitmaps = self.driver().bitmaps().ok_or_else(|| missing(name))?;
        let removed = change == BitmapChange::Remove;
        block_on(bitmaps.change(name, change))?;
        if removed {
            self.bitmaps.made.lock().retain(|(known, _)| known != name);
        }
        Ok(())
    }

    fn count_recording(&self) {
        let records =
            |(_, kind): &(String, Kind)| matches!(kind, Kind::Temporary(made) if made.enabled);
        let recording = self.bitmaps.made.lock().iter().any(records);
        self.bitmaps.recording.store(recording, Ordering::Release);
    }

    /// What a bitmap has, in order.
    pub fn dirty_ranges(&self, name: &str) -> Result<Vec<Range<u64>>> {
        let len = self.len()?;
        for (known, kind) in self.bitmaps.made.lock().iter() {
            if let Kind::Temporary(Temporary { bits, .. }) = kind
                && known == name
            {
                return Ok(bits.dirty(len));
            }
        }
        self.driver().bitmaps().ok_or_else(|| missing(name))?.dirty(name)
    }

    /// Adds what a bitmap of a disk has, which is as long.
    pub fn merge_dirty_bitmap(&self, name: &str, from: &Node, source: &str) -> Result<()> {
        // What is wrong with the target comes first.
        self.change_dirty_bitmap(name, BitmapChange::Merge(Vec::new()))?;
        let dirty = from.dirty_ranges(source)?;
        let (len, source_len) = (self.len()?, from.len()?);
        if len != source_len {
            return Err(Error::invalid(format!(
                "Bitmaps are of different sizes (destination size is {len}, source size is \
                 {source_len}) and can't be merged"
            )));
        }
        self.change_dirty_bitmap(name, BitmapChange::Merge(dirty))
    }

    /// The digest of a bitmap's bits, in whole words of eight bytes, as tests compare it.
    pub fn dirty_bitmap_sha256(&self, name: &str) -> Result<String> {
        let bitmap = self.dirty_bitmap(name)?;
        let bits = self.len()?.div_ceil(bitmap.info.granularity);
        let mut bytes = vec![0_u8; (bits.div_ceil(64) * 8) as usize];
        for range in self.dirty_ranges(name)? {
            let size = bitmap.info.granularity;
            for bit in range.start / size..range.end.div_ceil(size) {
                bytes[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        }
        Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::driver::ZeroFlags;
    use crate::null::Null;
    use crate::vector::Vector;

    fn node(len: u64) -> std::sync::Arc<Node> {
        let null = Null::new("null-co", len, false, None);
        Node::new(Some(format!("n{len}")), "null-co://", false, Box::new(null), Vec::new())
    }

    #[test]
    fn what_changes_is_recorded_while_a_bitmap_is_enabled() {
        let node = node(1 << 20);
        node.add_dirty_bitmap("b", Some(512), true, false).unwrap();
        block_on(node.write(1000, Vector::zeroed(100))).unwrap();
        block_on(node.write_zeroes(4096, 1, ZeroFlags::default())).unwrap();
        node.change_dirty_bitmap("b", BitmapChange::Enable(false)).unwrap();
        block_on(node.write(65536, Vector::zeroed(100))).unwrap();
        assert_eq!(node.dirty_ranges("b").unwrap(), [512..1536, 4096..4608]);
        let bitmap = node.dirty_bitmap("b").unwrap();
        assert_eq!((bitmap.count, bitmap.persistent, bitmap.info.enabled), (1536, false, false));
        node.change_dirty_bitmap("b", BitmapChange::Remove).unwrap();
        assert!(node.dirty_bitmap("b").is_err());
    }

    #[test]
    fn bitmaps_of_disks_of_one_length_are_merged() {
        let (one, other, longer) = (node(1 << 20), node(1 << 20), node(2 << 20));
        for node in [&one, &other, &longer] {
            node.add_dirty_bitmap("b", None, true, false).unwrap();
        }
        block_on(other.write(0, Vector::zeroed(1))).unwrap();
        one.merge_dirty_bitmap("b", &other, "b").unwrap();
        assert_eq!(one.dirty_ranges("b").unwrap().first(), Some(&(0..65536)));
        assert!(one.merge_dirty_bitmap("b", &longer, "b").is_err());
    }

    /// So a guest that discards a whole disk costs no more than its chunks.
    #[test]
    fn chunks_that_are_set_as_a_whole_take_no_memory() {
        const LEN: u64 = 1 << 40;
        let mut bits = Bits::new(9, CHUNK);
        assert!(bits.mark(1000..LEN - 1000) && !bits.mark(2000..LEN - 2000));
        assert!(bits.mark(0..1000) && !bits.mark(0..LEN - 1000));
        let filled = bits.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Bytes(_))).count();
        let all = 0..LEN - 512;
        assert_eq!((bits.dirty(LEN).as_slice(), filled), (std::slice::from_ref(&all), 1));
    }

    proptest! {
        /// As a list of booleans has it.
        #[test]
        fn bits_are_where_bytes_were_marked(
            marks in proptest::collection::vec(
                (0_u64..2_000_000, prop_oneof![0_u64..5000, 0_u64..1_000_000]),
                0..20,
            ),
        ) {
            const LEN: u64 = 3_000_100;
            let mut bits = Bits::new(9, 64);
            let mut model = vec![false; LEN as usize];
            for (at, len) in marks {
                let fresh = bits.mark(at..at + len);
                let whole = at / 512 * 512..(at + len).next_multiple_of(512).min(LEN);
                let part = &mut model[whole.start as usize..whole.end as usize];
                let part = if len == 0 { &mut part[..0] } else { part };
                prop_assert_eq!(fresh, part.contains(&false));
                part.fill(true);
            }
            let mut found = vec![false; LEN as usize];
            for range in bits.dirty(LEN) {
                found[range.start as usize..range.end as usize].fill(true);
            }
            prop_assert_eq!(found, model);
        }
    }
}
