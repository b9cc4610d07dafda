//! What test kernels ask of a machine: ports and memory that hold what is written, and ports that
//! move ISA interrupts.

use std::sync::Arc;

use base::irq::IrqLine;
use base::memory::{AccessSizes, IoHandler, Region};
use parking_lot::Mutex;

use crate::isa::IsaBus;

/// Four ports that hold bytes; what is wider is put together of them.
const HOLDING_PORTS: u64 = 0xe0;
/// Takes the address of a page to be mapped anew. No page is ever mapped but when it is used.
const FLUSH_PORTS: u64 = 0xe4;
/// The holding ports once more.
const BYTE_PORTS: u64 = 0xe8;
/// One port an ISA interrupt; its level is what is written.
const INTERRUPT_PORTS: u64 = 0x2000;
/// As many as an I/O APIC has inputs.
const INTERRUPTS: u64 = 24;
/// Memory that holds what is written, and is reached as a device is.
const MEMORY: u64 = 0xff00_0000;
const MEMORY_SIZE: usize = 0x1_0000;

/// Bytes behind ports or memory.
struct Bytes(Mutex<Box<[u8]>>);

impl Bytes {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Bytes(Mutex::new(vec![0; len].into())))
    }
}

impl IoHandler for Bytes {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let bytes = self.0.lock();
        let mut value = [0; 8];
        let range = offset as usize..offset as usize + usize::from(size);
        if let (Some(from), Some(to)) = (bytes.get(range), value.get_mut(..size.into())) {
            to.copy_from_slice(from);
        }
        u64::from_le_bytes(value)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        let mut bytes = self.0.lock();
        let range = offset as usize..offset as usize + usize::from(size);
        if let (Some(to), Some(from)) =
            (bytes.get_mut(range), value.to_le_bytes().get(..size.into()))
        {
            to.copy_from_slice(from);
        }
    }
    fn sizes(&self) -> AccessSizes {
        AccessSizes::UP_TO_DWORD
    }
}

struct Flush;

impl IoHandler for Flush {
    fn read(&self, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, _: u64, _: u8, _: u64) {}
    fn sizes(&self) -> AccessSizes {
        AccessSizes::UP_TO_DWORD
    }
}

struct Interrupts(Vec<IrqLine>);

impl IoHandler for Interrupts {
    fn read(&self, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, offset: u64, _: u8, value: u64) {
        if let Some(line) = self.0.get(offset as usize) {
            line.set(value != 0);
        }
    }
    fn sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

/// Plugs the device in.
pub fn plug(bus: &IsaBus) {
    let held = Bytes::new(4);
    let lines = (0..INTERRUPTS).map(|n| bus.irq(n as u32)).collect();
    let region = |name, size, handler| Region::io(name, size, handler);
    bus.place(&region("pc-testdev-ioport", 4, held.clone()), HOLDING_PORTS);
    bus.place(&region("pc-testdev-flush-page", 4, Arc::new(Flush)), FLUSH_PORTS);
    bus.place(&region("pc-testdev-ioport-byte", 4, held), BYTE_PORTS);
    let interrupts = Arc::new(Interrupts(lines));
    bus.place(&region("pc-testdev-irq-line", INTERRUPTS, interrupts), INTERRUPT_PORTS);
    let memory = Region::io("pc-testdev-iomem", MEMORY_SIZE as u64, Bytes::new(MEMORY_SIZE));
    bus.place_memory(&memory, MEMORY);
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::irq::{FnSink, IrqSink};
    use base::memory::AddressSpace;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn it_holds_bytes_and_moves_interrupts() {
        let (ports, memory) = (Region::container("io", 1 << 16), Region::container("pci", 1 << 64));
        let (io, mem) =
            (AddressSpace::new("io", ports.clone()), AddressSpace::new("mem", memory.clone()));
        let levels = Arc::new(AtomicU32::new(0));
        let seen = levels.clone();
        let inputs: Arc<dyn IrqSink> = Arc::new(FnSink(move |n: u32, level: bool| {
            seen.store(u32::from(level) << n, Ordering::Relaxed);
        }));
        plug(&IsaBus::new(ports, memory, &inputs));
        io.write_uint(0xe0, 4, 0x4433_2211);
        io.write_uint(0xea, 2, 0xaabb);
        assert_eq!((io.read_uint(0xe0, 4), io.read_uint(0xe9, 1)), (0xaabb_2211, 0x22));
        mem.write_uint(MEMORY + 0x28, 8, 0x1122_3344_5566_7788);
        assert_eq!(mem.read_uint(MEMORY + 0x2c, 4), 0x1122_3344);
        assert_eq!(mem.read_uint(MEMORY + 0x2b, 2), 0x4455);
        io.write_uint(INTERRUPT_PORTS + 5, 1, 1);
        assert_eq!(levels.load(Ordering::Relaxed), 1 << 5);
        io.write_uint(INTERRUPT_PORTS + 5, 1, 0);
        assert_eq!(levels.load(Ordering::Relaxed), 0);
        io.write_uint(INTERRUPT_PORTS + 20, 1, 1);
        assert_eq!(io.read_uint(INTERRUPT_PORTS, 1), 0);
    }
}
