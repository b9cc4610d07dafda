//! How devices reach guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::flat::FlatRange;
use super::space::AddressSpace;

/// A device's access to guest memory. It reaches RAM and ROM only: an access that would end at a
/// device's registers is dropped and counted, so that no device is ever re-entered. PCI devices
/// share the handle's switch with their bus-master bit.
#[derive(Clone)]
pub struct Dma {
    space: AddressSpace,
    enabled: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Dma {
    /// A handle that always works.
    pub fn new(space: AddressSpace) -> Self {
        Dma { space, enabled: Arc::new(AtomicBool::new(true)), dropped: Arc::default() }
    }

    /// Lets accesses through or stops them, for all clones of the handle.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    /// Whether accesses are let through.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// How many accesses were dropped because they did not aim at memory.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The address space, while accesses are let through.
    pub(super) fn space(&self) -> Option<&AddressSpace> {
        self.enabled.load(Ordering::Acquire).then_some(&self.space)
    }

    /// Copies bytes from guest memory; what is not memory reads as ones. Returns whether all of it
    /// was memory.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let all =
            self.access(addr, buf.len(), |at, range, piece| match range.and_then(FlatRange::ram) {
                Some((block, _, _)) => block.read(at, &mut buf[piece]),
                None => buf[piece].fill(0xff),
            });
        if !self.enabled.load(Ordering::Acquire) {
            buf.fill(0xff);
        }
        all
    }

    /// Copies bytes to guest memory; what is not writable memory is dropped. Returns whether all of
    /// it was memory.
    pub fn write(&self, addr: u64, buf: &[u8]) -> bool {
        self.access(addr, buf.len(), |at, range, piece| {
            if let Some((block, _, true)) = range.and_then(FlatRange::ram) {
                block.write(at, &buf[piece]);
            }
        })
    }

    /// Reads a little-endian number; missing bytes are ones.
    pub fn read_uint(&self, addr: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes[..usize::from(size.min(8))]);
        u64::from_le_bytes(bytes)
    }

    /// Writes a little-endian number.
    pub fn write_uint(&self, addr: u64, size: u8, value: u64) {
        self.write(addr, &value.to_le_bytes()[..usize::from(size.min(8))]);
    }

    fn access(
        &self,
        addr: u64,
        len: usize,
        mut each: impl FnMut(u64, Option<&FlatRange>, std::ops::Range<usize>),
    ) -> bool {
        if !self.enabled.load(Ordering::Acquire) {
            return false;
        }
        let mut all = true;
        self.space.view().pieces(addr, len, |at, range, piece| {
            all &= range.is_some_and(|range| range.ram().is_some());
            each(at, range, piece);
        });
        if !all {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        all
    }
}
