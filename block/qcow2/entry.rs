//! Entries of L2 tables (docs/interop/qcow2, "Cluster mapping", "Extended L2 Entries").

use super::header::Header;
use crate::{Error, Result};

/// Bits of an L1 or L2 entry that hold an offset.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The refcount of what this points to is exactly one.
pub const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3, plain entries).
pub const ZERO: u64 = 1;

/// Subclusters of a cluster that has an extended entry.
const SUBCLUSTERS: u32 = 32;
/// All of them stored.
const ALL_STORED: u64 = 0xffff_ffff;
/// What is looked at for anything at all, before its entries are.
const NOTHING: [u8; 512] = [0; 512];
/// All of them zeroes.
pub const ALL_ZERO: u64 = ALL_STORED << 32;

/// An entry of an L2 table. A plain one has no bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where the cluster is, with flags.
    pub word: u64,
    /// Which subclusters are stored (low half) and which are zeroes (high half).
    pub bitmap: u64,
}

/// What a subcluster (without extended entries: a cluster) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the backing file, or nowhere.
    Unallocated,
    /// Zeroes, whatever is stored.
    Zero,
    /// Stored as it is.
    Data,
    /// Stored compressed, with its whole cluster.
    Compressed,
}

/// What decides how entries read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// Entries may say that a cluster is zeroes.
    pub zero_flag: bool,
    /// Entries have bitmaps of subclusters.
    pub extended: bool,
    /// Data is in another file, at the guest's offsets.
    pub data_file: bool,
}

impl Entry {
    /// A plain entry, or one without subclusters.
    pub const fn plain(word: u64) -> Self {
        Self { word, bitmap: 0 }
    }

    /// Whether the cluster's place in the file is the entry's alone.
    pub fn is_copied(self) -> bool {
        self.word & COPIED != 0 && self.word & COMPRESSED == 0
    }

    /// The place that it names, whether or not a cluster can be there.
    pub fn place(self) -> u64 {
        self.word & OFFSET_MASK
    }

    /// Whether it is a compressed cluster.
    pub fn is_compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }
}

impl Shape {
    /// The shape of an image's entries.
    pub fn of(header: &Header) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            zero_flag: header.version >= 3,
            extended: header.has_extended_l2(),
            data_file: header.has_data_file(),
        }
    }

    /// The cluster size in bytes.
    pub fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// The offset inside its cluster.
    pub fn in_cluster(self, at: u64) -> u64 {
        at & (self.cluster() - 1)
    }

    /// log2 of the size of what has a kind of its own.
    pub fn sub_bits(self) -> u32 {
        self.cluster_bits - if self.extended { SUBCLUSTERS.ilog2() } else { 0 }
    }

    /// The size of what has a kind of its own.
    pub fn sub(self) -> u64 {
        1 << self.sub_bits()
    }

    /// How many of them are in a cluster.
    pub fn subs(self) -> u32 {
        if self.extended { SUBCLUSTERS } else { 1 }
    }

    /// The number of the subcluster of an offset, in its cluster.
    pub fn sub_index(self, at: u64) -> u32 {
        (self.in_cluster(at) >> self.sub_bits()) as u32
    }

    /// Bytes of an entry.
    pub fn entry_size(self) -> usize {
        if self.extended { 16 } else { 8 }
    }

    /// Entries of a table.
    pub fn entries(self) -> u64 {
        self.cluster() / self.entry_size() as u64
    }

    /// Reads entry `index` of a table.
    pub fn get(self, table: &[u8], index: usize) -> Option<Entry> {
        let bytes = table.get(index * self.entry_size()..)?.get(..self.entry_size())?;
        let word = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let bitmap = bytes.get(8..16).and_then(|half| half.try_into().ok());
        Some(Entry { word, bitmap: bitmap.map_or(0, u64::from_be_bytes) })
    }

    /// The entries of a table that say anything.
    pub fn used(self, table: &[u8]) -> impl Iterator<Item = (usize, Entry)> {
        let size = self.entry_size();
        // Most is empty, in large images.
        let groups = table.chunks(NOTHING.len()).enumerate();
        let used = groups.filter(|(_, group)| **group != NOTHING[..group.len()]);
        used.flat_map(move |(number, group)| {
            let first = number * NOTHING.len() / size;
            let entries = (0..group.len() / size).filter_map(move |index| {
                let entry = self.get(group, index)?;
                Some((first + index, entry))
            });
            entries.filter(|(_, entry)| *entry != Entry::default())
        })
    }

    /// Sets entry `index` of a table.
    pub fn set(self, table: &mut [u8], index: usize, entry: Entry) {
        let size = self.entry_size();
        if let Some(bytes) = table.get_mut(index * size..(index + 1) * size) {
            bytes[..8].copy_from_slice(&entry.word.to_be_bytes());
            if self.extended {
                bytes[8..].copy_from_slice(&entry.bitmap.to_be_bytes());
            }
        }
    }

    /// The place that an entry has for its cluster, also when it reads as zeroes.
    pub fn host(self, entry: Entry) -> Result<Option<u64>> {
        if entry.is_compressed() {
            return Ok(None);
        }
        let host = entry.word & OFFSET_MASK;
        if self.in_cluster(host) != 0 {
            let text = format!("Cluster allocation offset {host:#x} unaligned");
            return Err(Error::new(libc::EIO, text));
        }
        Ok((host != 0 || self.data_file && entry.is_copied()).then_some(host))
    }

    /// What a subcluster is.
    pub fn kind(self, entry: Entry, sub: u32) -> Result<Kind> {
        if entry.is_compressed() {
            return Ok(Kind::Compressed);
        }
        let host = self.host(entry)?;
        if !self.extended {
            return Ok(match host {
                _ if self.zero_flag && entry.word & ZERO != 0 => Kind::Zero,
                Some(_) => Kind::Data,
                None => Kind::Unallocated,
            });
        }
        match (entry.bitmap >> sub & 1, entry.bitmap >> (32 + sub) & 1, host) {
            (0, 0, _) => Ok(Kind::Unallocated),
            (0, 1, _) => Ok(Kind::Zero),
            (1, 0, Some(_)) => Ok(Kind::Data),
            _ => Err(Error::new(libc::EIO, "Invalid bitmap of subclusters")),
        }
    }

    /// Whether the whole cluster reads as zeroes by what the entry says.
    pub fn is_zero(self, entry: Entry) -> bool {
        !entry.is_compressed()
            && if self.extended {
                entry.bitmap == ALL_ZERO
            } else {
                self.zero_flag && entry.word & ZERO != 0
            }
    }

    /// Whether the entry says nothing: no place, no zeroes.
    pub fn is_empty(self, entry: Entry) -> bool {
        entry.bitmap == 0 && entry.word & !COPIED == 0 && !(self.data_file && entry.is_copied())
    }

    /// An entry for a cluster that is zeroes and has a place, or none.
    pub fn zero(self, host: Option<u64>) -> Entry {
        let place = host.map_or(0, |host| host | COPIED);
        match self.extended {
            true => Entry { word: place, bitmap: ALL_ZERO },
            false => Entry::plain(place | ZERO),
        }
    }

    /// An entry for a cluster that is stored.
    pub fn data(self, host: u64) -> Entry {
        Entry { word: host | COPIED, bitmap: if self.extended { ALL_STORED } else { 0 } }
    }

    /// An entry for a cluster that has its place already. With subclusters, what is below shows until
    /// it is written; but who reads the data's file by itself finds all that the disk has.
    pub fn reserved(self, host: u64) -> Entry {
        let stored = self.data(host);
        Entry { bitmap: if self.data_file { stored.bitmap } else { 0 }, ..stored }
    }

    /// `old`, moved to `host` (its own, or a new place) with subclusters `first..=last` stored, and
    /// all that had been stored elsewhere, too.
    pub fn stored(self, old: Entry, host: u64, first: u32, last: u32) -> Entry {
        if !self.extended || old.is_compressed() {
            return self.data(host);
        }
        let count = last - first + 1;
        let touched = (ALL_STORED >> (SUBCLUSTERS - count)) << first;
        Entry { word: host | COPIED, bitmap: (old.bitmap | touched) & !(touched << 32) }
    }

    /// (place, bytes) of a compressed cluster; its last sector may go beyond its bytes.
    pub fn packed(self, entry: Entry) -> (u64, u64) {
        let split = 62 - (self.cluster_bits - 8);
        let host = entry.word & ((1 << split) - 1);
        let sectors = (entry.word & (COMPRESSED - 1)) >> split;
        (host, (sectors + 1) * 512 - (host & 511))
    }

    /// The entry of a compressed cluster.
    pub fn pack(self, host: u64, len: u64) -> Entry {
        let split = 62 - (self.cluster_bits - 8);
        let sectors = (host + len - 1) / 512 - host / 512;
        Entry::plain(COMPRESSED | sectors << split | host)
    }
}

/// As C's `%#x` has it: zero without a prefix.
pub(super) fn hex(number: u64) -> String {
    if number == 0 { "0".into() } else { format!("{number:#x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { cluster_bits: 16, zero_flag: true, extended: true, data_file: false };

    #[test]
    fn subclusters_have_kinds_of_their_own() {
        let entry = SHAPE.stored(SHAPE.zero(None), 0x50000, 3, 4);
        let kinds: Vec<_> = (0..6).map(|sub| SHAPE.kind(entry, sub).unwrap()).collect();
        use Kind::{Data, Zero};
        assert_eq!(kinds, [Zero, Zero, Zero, Data, Data, Zero]);
        assert_eq!(SHAPE.stored(entry, 0x50000, 0, 31), SHAPE.data(0x50000));
        let both = Entry { word: 0x50000, bitmap: 1 | 1 << 32 };
        assert!(SHAPE.kind(both, 0).is_err());
        let nowhere = Entry { word: 0, bitmap: 1 };
        assert!(SHAPE.kind(nowhere, 0).is_err());
    }

    #[test]
    fn entries_that_say_nothing_are_passed_over() {
        let mut table = vec![0; 2048];
        let used = [(0, SHAPE.data(0x50000)), (31, SHAPE.zero(None)), (100, SHAPE.data(0x60000))];
        used.iter().for_each(|&(index, entry)| SHAPE.set(&mut table, index, entry));
        assert!(SHAPE.used(&table).eq(used));
    }

    #[test]
    fn compressed_places_come_back() {
        for (host, len) in [(0x50000, 1), (0x50123, 5000), (0x501ff, 513)] {
            let (place, bytes) = SHAPE.packed(SHAPE.pack(host, len));
            assert_eq!(place, host);
            assert!(bytes >= len && bytes < len + 512 && (host + bytes) % 512 == 0);
        }
    }
}
