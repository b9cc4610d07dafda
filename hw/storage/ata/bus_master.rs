//! One channel of a bus master (Programming Interface for Bus Master IDE Controller, 1.0): its registers,
//! and the descriptors that say where in memory data go.

use base::memory::Dma;
use base::state::State;

/// Bits of the command register.
mod command {
    pub const START: u8 = 1;
    pub const WRITE_TO_MEMORY: u8 = 1 << 3;
}

/// Bits of the status register.
mod status {
    pub const ACTIVE: u8 = 1;
    pub const ERROR: u8 = 1 << 1;
    pub const INTERRUPT: u8 = 1 << 2;
    pub const DRIVES_CAN_DMA: u8 = 3 << 5;
}

/// A table of descriptors lies within 64 KiB, of which each takes eight bytes.
const TABLE: u32 = 0x1_0000;
const DESCRIPTOR: u32 = 8;
/// In a descriptor: it is the last.
const LAST: u16 = 1 << 15;

/// How far the descriptors have been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub struct Cursor {
    /// Bytes of the table that have been read.
    read: u32,
    /// What is left of the present descriptor.
    at: u32,
    left: u32,
    /// It is the last one.
    last: bool,
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct BusMasterState {
    command: u8,
    status: u8,
    table: u32,
    cursor: Cursor,
}

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub len: usize,
}

/// The channel.
pub struct BusMaster {
    dma: Dma,
    st: BusMasterState,
}

impl BusMaster {
    /// A channel that reaches memory by `dma`.
    pub fn new(dma: Dma) -> Self {
        BusMaster { dma, st: BusMasterState::default() }
    }

    /// Memory.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// The registers.
    pub fn state(&self) -> &BusMasterState {
        &self.st
    }

    /// Takes on saved registers.
    pub fn set_state(&mut self, state: BusMasterState) {
        self.st = state;
    }

    /// Back to the state after power-up.
    pub fn reset(&mut self) {
        self.st = BusMasterState::default();
    }

    /// Reads a byte register. Wide accesses to them go nowhere.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0, 1) => self.st.command.into(),
            (2, 1) => self.st.status.into(),
            _ => u64::MAX,
        }
    }

    /// Writes a byte register.
    pub fn write(&mut self, offset: u64, size: u8, value: u8) {
        let st = &mut self.st;
        match (offset, size) {
            (0, 1) => {
                let value = value & (command::START | command::WRITE_TO_MEMORY);
                if (st.command ^ value) & command::START != 0 {
                    st.status &= !status::ACTIVE;
                    if value & command::START != 0 {
                        st.status |= status::ACTIVE;
                        st.cursor = Cursor::default();
                    }
                }
                st.command = value;
            }
            (2, 1) => {
                let cleared = value & (status::INTERRUPT | status::ERROR);
                let kept = st.status & !status::DRIVES_CAN_DMA & !cleared;
                st.status = kept | value & status::DRIVES_CAN_DMA;
            }
            _ => {}
        }
    }

    /// Reads the table's address.
    pub fn read_table(&self, offset: u64) -> u64 {
        u64::from(self.st.table) >> (8 * (offset & 3))
    }

    /// Writes the table's address, or a part of it.
    pub fn write_table(&mut self, offset: u64, size: u8, value: u32) {
        let mask = u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)));
        let shift = 8 * (offset & 3) as u32;
        let new = (value & mask) << shift;
        self.st.table = (self.st.table & !(mask << shift) | new) & !3;
    }

    /// Whether the guest has started it and there is memory left.
    pub fn is_active(&self) -> bool {
        self.st.status & status::ACTIVE != 0
    }

    /// The drive has interrupted.
    pub fn note_interrupt(&mut self) {
        self.st.status |= status::INTERRUPT;
    }

    /// The memory for the next `len` bytes, as far as there is, and how far the descriptors are used
    /// then.
    pub fn gather(&self, len: usize) -> (Vec<Span>, Cursor) {
        let mut cursor = self.st.cursor;
        let mut spans = Vec::new();
        let mut wanted = len;
        while wanted > 0 && (cursor.left > 0 || self.next_descriptor(&mut cursor)) {
            let count = wanted.min(cursor.left as usize);
            spans.push(Span { at: cursor.at.into(), len: count });
            wanted -= count;
            cursor.at = cursor.at.wrapping_add(count as u32);
            cursor.left -= count as u32;
        }
        (spans, cursor)
    }

    fn next_descriptor(&self, cursor: &mut Cursor) -> bool {
        if cursor.last || cursor.read >= TABLE {
            return false;
        }
        let mut bytes = [0; DESCRIPTOR as usize];
        // What is not memory reads as zeroes here: memory from address 0 on, and there is no end to it.
        if !self.dma.read(self.st.table.wrapping_add(cursor.read).into(), &mut bytes) {
            bytes.fill(0);
        }
        let [a, b, c, d, low, high, flags_low, flags] = bytes;
        let count = u16::from_le_bytes([low, high]) & !1;
        cursor.read += DESCRIPTOR;
        cursor.at = u32::from_le_bytes([a, b, c, d]);
        cursor.left = if count == 0 { 0x1_0000 } else { count.into() };
        cursor.last = u16::from_le_bytes([flags_low, flags]) & LAST != 0;
        true
    }

    /// A transfer has used the descriptors up to here.
    pub fn pass(&mut self, cursor: Cursor) {
        self.st.cursor = cursor;
        if cursor.last && cursor.left == 0 {
            self.end();
        }
    }

    /// Nothing moves any more.
    pub fn end(&mut self) {
        self.st.status &= !status::ACTIVE;
    }
}

/// How many bytes some spans have.
pub fn total(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::memory::{AddressSpace, RamBlock, Region};
    use proptest::prelude::*;

    use super::*;

    const TABLE_AT: u32 = 0x8000;

    fn bus_master(descriptors: &[(u32, u16, bool)]) -> BusMaster {
        let ram = Arc::new(RamBlock::anonymous("ram", 0x10_0000).unwrap());
        for (index, &(at, len, last)) in descriptors.iter().enumerate() {
            let place = u64::from(TABLE_AT) + 8 * index as u64;
            ram.write_uint(place, 4, at.into());
            ram.write_uint(place + 4, 4, u64::from(len) | u64::from(last) << 31);
        }
        let mut bus_master = BusMaster::new(Dma::new(AddressSpace::new("m", Region::ram(ram))));
        bus_master.write_table(0, 4, TABLE_AT);
        bus_master.write(0, 1, command::START);
        bus_master
    }

    #[test]
    fn descriptors_are_used_in_order_and_in_parts() {
        let mut bus_master = bus_master(&[(0x1000, 6, false), (0x2000, 0, true)]);
        let (spans, cursor) = bus_master.gather(4);
        assert_eq!(spans, [Span { at: 0x1000, len: 4 }]);
        bus_master.pass(cursor);
        let (spans, cursor) = bus_master.gather(0x1_0002);
        assert_eq!(spans, [Span { at: 0x1004, len: 2 }, Span { at: 0x2000, len: 0x1_0000 }]);
        assert!(bus_master.is_active());
        bus_master.pass(cursor);
        assert!(!bus_master.is_active(), "all memory is used");
        assert_eq!(bus_master.gather(2).0, []);
    }

    #[test]
    fn the_table_ends_after_64_kib() {
        let bus_master = bus_master(&[(0x1000, 2, false); 8200]);
        assert_eq!(total(&bus_master.gather(1 << 20).0), 2 * 8192);
    }

    proptest! {
        #[test]
        fn never_more_than_was_asked_for(
            descriptors in prop::collection::vec((any::<u32>(), any::<u16>(), any::<bool>()), 0..20),
            lengths in prop::collection::vec(0..200_000usize, 0..10),
        ) {
            let mut bus_master = bus_master(&descriptors);
            for len in lengths {
                let (spans, cursor) = bus_master.gather(len);
                prop_assert!(total(&spans) <= len);
                bus_master.pass(cursor);
            }
        }
    }
}
