//! A chain of buffers that the driver made available, and the descriptors it is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::memory::Dma;

use super::RingError;

/// Bytes of a descriptor, in rings of either layout and in indirect tables.
pub(super) const DESCRIPTOR: u64 = 16;
/// More buffers than this are in no chain that a driver has a use for.
pub(super) const MAX_BUFFERS: usize = 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A run of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The first byte.
    pub addr: u64,
    /// How many.
    pub len: u32,
}

/// A descriptor; of a split ring, `id` is the next one's number, of a packed one, the buffer's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub buffer: Buffer,
    pub flags: u16,
    pub id: u16,
}

impl Descriptor {
    pub fn read(mem: &Dma, table: u64, index: u16, packed: bool) -> Result<Self, RingError> {
        let mut bytes = [0; DESCRIPTOR as usize];
        let at = table.checked_add(u64::from(index) * DESCRIPTOR).ok_or(RingError::Memory)?;
        read(mem, at, &mut bytes)?;
        Ok(Self::parse(&bytes, packed))
    }

    fn parse(bytes: &[u8; DESCRIPTOR as usize], packed: bool) -> Self {
        let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, x0, x1, y0, y1] = *bytes;
        let (x, y) = (u16::from_le_bytes([x0, x1]), u16::from_le_bytes([y0, y1]));
        let (flags, id) = if packed { (y, x) } else { (x, y) };
        let addr = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        Descriptor { buffer: Buffer { addr, len }, flags, id }
    }

    pub fn has_next(&self) -> bool {
        self.flags & NEXT != 0
    }

    pub fn is_indirect(&self) -> bool {
        self.flags & INDIRECT != 0
    }
}

/// Copies from guest memory, all of it or none.
pub(super) fn read(mem: &Dma, at: u64, into: &mut [u8]) -> Result<(), RingError> {
    if mem.read(at, into) { Ok(()) } else { Err(RingError::Memory) }
}

pub(super) fn read_u16(mem: &Dma, at: u64) -> Result<u16, RingError> {
    let mut bytes = [0; 2];
    read(mem, at, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

pub(super) fn write(mem: &Dma, at: u64, bytes: &[u8]) -> Result<(), RingError> {
    if mem.write(at, bytes) { Ok(()) } else { Err(RingError::Memory) }
}

/// The buffers of a chain while they are collected.
#[derive(Default)]
pub(super) struct Buffers {
    list: Vec<Buffer>,
    readable: usize,
}

impl Buffers {
    pub fn add(&mut self, descriptor: &Descriptor) -> Result<(), RingError> {
        let Buffer { addr, len } = descriptor.buffer;
        if self.list.len() >= MAX_BUFFERS {
            return Err(RingError::TooLong);
        }
        if addr.checked_add(len.into()).is_none() {
            return Err(RingError::Memory);
        }
        if descriptor.flags & WRITE == 0 {
            if self.readable < self.list.len() {
                return Err(RingError::Order);
            }
            self.readable += 1;
        }
        self.list.push(descriptor.buffer);
        Ok(())
    }

    /// Adds what an indirect table holds. Tables of packed rings are plain lists (2.8.7).
    pub fn add_table(
        &mut self,
        mem: &Dma,
        table: &Descriptor,
        packed: bool,
    ) -> Result<(), RingError> {
        let len = u64::from(table.buffer.len);
        if len == 0 || len % DESCRIPTOR != 0 || table.has_next() {
            return Err(RingError::Table);
        }
        // Read once: what the driver changes meanwhile is not seen.
        let count = (len / DESCRIPTOR).min(MAX_BUFFERS as u64) as usize;
        let mut bytes = vec![0; count * DESCRIPTOR as usize];
        read(mem, table.buffer.addr, &mut bytes)?;
        let (entries, _) = bytes.as_chunks::<{ DESCRIPTOR as usize }>();
        if packed {
            if len / DESCRIPTOR > MAX_BUFFERS as u64 {
                return Err(RingError::TooLong);
            }
            for entry in entries {
                let descriptor = Descriptor::parse(entry, true);
                if descriptor.is_indirect() {
                    return Err(RingError::Table);
                }
                self.add(&descriptor)?;
            }
            return Ok(());
        }
        let mut at = 0;
        for _ in 0..count {
            let entry = entries.get(at).ok_or(RingError::Descriptor(at as u16))?;
            let descriptor = Descriptor::parse(entry, false);
            if descriptor.is_indirect() {
                return Err(RingError::Table);
            }
            self.add(&descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            at = descriptor.id.into();
        }
        Err(RingError::Loop)
    }

    pub fn finish(self, id: u16, slots: u16, place: u16) -> Found {
        Found { buffers: self, id, slots, place }
    }
}

/// What a ring has found.
pub(super) struct Found {
    pub buffers: Buffers,
    pub id: u16,
    pub slots: u16,
    pub place: u16,
}

/// Buffers that the driver made available. It gets them back by
/// [`VirtQueue::push`](super::VirtQueue::push); a chain that is dropped is lost to it.
pub struct Chain {
    buffers: Buffers,
    pub(super) id: u16,
    /// Descriptors of the ring that it takes up.
    pub(super) slots: u16,
    /// Where in the available ring it was found.
    pub(super) place: u16,
    /// The life of the queue that it belongs to.
    pub(super) life: u32,
    mem: Dma,
    _in_flight: InFlight,
}

impl Chain {
    pub(super) fn new(found: Found, life: u32, mem: &Dma, counter: &Arc<AtomicUsize>) -> Self {
        let Found { buffers, id, slots, place } = found;
        let _in_flight = InFlight::new(counter);
        Chain { buffers, id, slots, place, life, mem: mem.clone(), _in_flight }
    }

    /// What the device reads.
    pub fn readable(&self) -> &[Buffer] {
        &self.buffers.list[..self.buffers.readable]
    }

    /// What the device writes.
    pub fn writable(&self) -> &[Buffer] {
        &self.buffers.list[self.buffers.readable..]
    }

    /// Bytes that the device reads.
    pub fn readable_len(&self) -> u64 {
        total(self.readable())
    }

    /// Bytes that the device writes.
    pub fn writable_len(&self) -> u64 {
        total(self.writable())
    }

    /// Copies from what the device reads, from byte `at` on; returns whether all of it was there.
    pub fn read(&self, at: u64, into: &mut [u8]) -> bool {
        let mut done = 0;
        for part in cut(self.readable(), at, into.len() as u64) {
            let len = part.len as usize;
            if !self.mem.read(part.addr, &mut into[done..done + len]) {
                return false;
            }
            done += len;
        }
        done == into.len()
    }

    /// Copies to what the device writes, from byte `at` on; returns whether there was room for all
    /// of it.
    pub fn write(&self, at: u64, bytes: &[u8]) -> bool {
        let mut done = 0;
        for part in cut(self.writable(), at, bytes.len() as u64) {
            let len = part.len as usize;
            if !self.mem.write(part.addr, &bytes[done..done + len]) {
                return false;
            }
            done += len;
        }
        done == bytes.len()
    }

    /// The driver's memory.
    pub fn memory(&self) -> &Dma {
        &self.mem
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

/// The part of `buffers` that `len` bytes from byte `at` on are.
pub fn cut(buffers: &[Buffer], at: u64, len: u64) -> impl Iterator<Item = Buffer> + '_ {
    let (mut skip, mut left) = (at, len);
    buffers.iter().filter_map(move |buffer| {
        let inside = u64::from(buffer.len).saturating_sub(skip).min(left);
        let part = Buffer { addr: buffer.addr.wrapping_add(skip), len: inside as u32 };
        skip = skip.saturating_sub(buffer.len.into());
        left -= inside;
        (inside > 0).then_some(part)
    })
}

/// Counts a chain that the device has.
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        InFlight(counter.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
