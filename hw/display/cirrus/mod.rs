//! The CL-GD5446: a VGA with pixels of up to four bytes, a pointer and a blitter (CL-GD5446 Technical
//! Reference Manual), on the PCI bus (`cirrus-vga`) and on the ISA bus (`isa-cirrus-vga`).
//!
//! [`registers`] are data with the ports' side effects, [`memory`] the processor's ways to memory,
//! [`blitter`] one operation at a time, [`picture`] what is shown. The device connects them: a
//! store that finds the blitter waiting for what the processor is to send goes there, wherever it was
//! aimed at.

mod blitter;
mod memory;
mod picture;
mod plug;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, RamBlock, RamError, Region};

use super::vga::picture::Picture;
use super::vga::registers::PORTS;
use super::vga::{Overlay, Shows, WINDOW_SIZE, Window};
use crate::pci::PciDevice;
use blitter::{Blit, Trigger};
use memory::Target;
use registers::{Effect, Registers};

pub use plug::{CirrusProps, IsaCirrusProps, plug_isa, plug_pci};

/// Regions by which the device is called; ports are called by their number.
mod region {
    pub const WINDOW: u32 = 0;
    pub const APERTURE: u32 = 1;
    pub const BLITTER: u32 = 2;
    pub const MMIO: u32 = 3;
}

/// BAR 0: memory, and in the other half what goes to the blitter.
const APERTURE_SIZE: u64 = 32 << 20;
const BLITTER_AT: u64 = 16 << 20;
/// BAR 1: ports from 3C0h, and the blitter's registers.
const MMIO_SIZE: u64 = 0x1000;
const MMIO_BLITTER: u64 = 0x100;

/// Registers of the graphics controller, by their offset among the blitter's registers in memory.
#[rustfmt::skip]
const IN_MEMORY: &[(u32, usize)] = &[
    // Colours: background, foreground.
    (0x00, 0x00), (0x01, 0x10), (0x02, 0x12), (0x03, 0x14),
    (0x04, 0x01), (0x05, 0x11), (0x06, 0x13), (0x07, 0x15),
    // Width, height, pitches.
    (0x08, 0x20), (0x09, 0x21), (0x0a, 0x22), (0x0b, 0x23),
    (0x0c, 0x24), (0x0d, 0x25), (0x0e, 0x26), (0x0f, 0x27),
    // Addresses.
    (0x10, 0x28), (0x11, 0x29), (0x12, 0x2a),
    (0x14, 0x2c), (0x15, 0x2d), (0x16, 0x2e),
    // Left edge, mode, operation, mode extensions.
    (0x17, 0x2f), (0x18, 0x30), (0x1a, 0x32), (0x1b, 0x33),
    // The transparent colour and its mask; start and status.
    (0x1c, 0x34), (0x1d, 0x35), (0x20, 0x38), (0x21, 0x39), (0x40, 0x31),
];

/// What the processor has yet to send.
struct Awaited {
    blit: Blit,
    /// Bytes of a line, and lines that are left.
    len: usize,
    left: u32,
    drawn: u32,
    line: Vec<u8>,
}

/// The adapter.
pub struct Cirrus {
    memory: Arc<RamBlock>,
    has_blitter: bool,
    window: Option<Window>,
    aperture: Option<Window>,
    awaited: Option<Awaited>,
    st: Registers,
}

impl Cirrus {
    /// An adapter that is not connected to anything; `size` is a power of two.
    pub fn new(size: u32, has_blitter: bool) -> Result<Self, RamError> {
        let memory = Arc::new(RamBlock::anonymous("vga.vram", size.into())?);
        let (window, aperture, awaited) = (None, None, None);
        Ok(Cirrus { memory, has_blitter, window, aperture, awaited, st: Registers::default() })
    }

    fn size(&self) -> u32 {
        self.memory.len() as u32
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Window => self.move_windows(),
            Effect::Blitter(Trigger::Start) => self.start(),
            Effect::Blitter(Trigger::Reset) => self.stop(),
        }
    }

    /// Shows memory where an access would do nothing but reach it.
    fn move_windows(&mut self) {
        let size = self.size();
        let direct = self.awaited.is_none();
        if let Some(window) = &mut self.window {
            window.show(if direct { self.st.direct_window(size) } else { Vec::new() });
        }
        if let Some(aperture) = &mut self.aperture {
            aperture.show(self.st.direct_aperture(size).filter(|_| direct));
        }
    }

    fn start(&mut self) {
        let blit = if self.has_blitter { Blit::decode(&self.st.gfx) } else { None };
        let Some(blit) = blit else { return self.stop() };
        match blit.expects() {
            None => {
                blit.run(&self.memory);
                self.stop();
            }
            Some((len, left)) => {
                let line = Vec::with_capacity(len);
                self.awaited = Some(Awaited { blit, len, left, drawn: 0, line });
                blitter::set_busy(&mut self.st.gfx, true);
                self.move_windows();
            }
        }
    }

    fn stop(&mut self) {
        blitter::set_busy(&mut self.st.gfx, false);
        if self.awaited.take().is_some() {
            self.move_windows();
        }
    }

    /// The processor sends a byte.
    fn send(&mut self, value: u8) {
        let Some(awaited) = &mut self.awaited else { return };
        awaited.line.push(value);
        if awaited.line.len() == awaited.len {
            match awaited.blit.is_pattern() {
                true => awaited.blit.run_pattern(&self.memory, &awaited.line),
                false => awaited.blit.draw_line(&self.memory, awaited.drawn, &awaited.line),
            }
            awaited.line.clear();
            awaited.drawn += 1;
            awaited.left -= 1;
            if awaited.left == 0 {
                self.stop();
            }
        }
    }

    fn load(&mut self, target: Target, offset: u64) -> u8 {
        match target {
            Target::None => 0xff,
            Target::Planes => self.st.vga.read_memory(&self.memory, offset),
            Target::Memory(at) => self.memory.read_uint(at.into(), 1) as u8,
            Target::Register(at) => self.read_register(at),
        }
    }

    /// `sent` says that the blitter has waited for what the processor stores, perhaps for less than all
    /// of it.
    fn store(&mut self, target: Target, offset: u64, value: u8, sent: bool) {
        match target {
            Target::None => {}
            Target::Planes => self.st.vga.write_memory(&self.memory, offset, value),
            Target::Register(at) => self.write_register(at, value),
            Target::Memory(_) if sent => self.send(value),
            Target::Memory(at) => self.st.store(&self.memory, at, value),
        }
    }

    /// A register of the blitter, by its offset in memory.
    fn read_register(&self, at: u32) -> u8 {
        match IN_MEMORY.iter().find(|(offset, _)| *offset == at) {
            Some((_, index)) => self.st.read_gfx(*index),
            None => 0xff,
        }
    }

    fn write_register(&mut self, at: u32, value: u8) {
        if let Some((_, index)) = IN_MEMORY.iter().find(|(offset, _)| *offset == at) {
            let effect = self.st.write_gfx(*index, value);
            self.apply(effect);
        }
    }

    fn read_byte(&mut self, region: u32, offset: u64) -> u8 {
        let size = self.size();
        match region {
            region::WINDOW => self.load(self.st.in_window(offset, size), offset),
            region::APERTURE => self.load(self.st.in_aperture(offset, size), offset),
            region::BLITTER => 0xff,
            region::MMIO if offset >= MMIO_BLITTER => {
                self.read_register((offset - MMIO_BLITTER) as u32)
            }
            region::MMIO => self.st.read(0x3c0 + offset as u16),
            port => self.st.read(port as u16 + offset as u16),
        }
    }

    fn write_byte(&mut self, region: u32, offset: u64, value: u8, sent: bool) {
        let size = self.size();
        match region {
            region::WINDOW => self.store(self.st.in_window(offset, size), offset, value, sent),
            region::APERTURE => self.store(self.st.in_aperture(offset, size), offset, value, sent),
            region::BLITTER => self.send(value),
            region::MMIO if offset >= MMIO_BLITTER => {
                self.write_register((offset - MMIO_BLITTER) as u32, value);
            }
            region::MMIO => {
                let effect = self.st.write(0x3c0 + offset as u16, value);
                self.apply(effect);
            }
            port => {
                let effect = self.st.write(port as u16 + offset as u16, value);
                self.apply(effect);
            }
        }
    }
}

impl Device for Cirrus {
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64 {
        (0..u64::from(size)).map(|n| u64::from(self.read_byte(region, offset + n)) << (8 * n)).sum()
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        let sent = self.awaited.is_some();
        for n in 0..u64::from(size) {
            self.write_byte(region, offset + n, (value >> (8 * n)) as u8, sent);
        }
    }

    fn reset(&mut self) {
        self.st = Registers::default();
        self.awaited = None;
        self.move_windows();
    }
}

impl PciDevice for Cirrus {}

impl Shows for Cirrus {
    fn memory(&self) -> &Arc<RamBlock> {
        &self.memory
    }

    fn picture(&self) -> Picture {
        self.st.picture(self.size())
    }

    fn overlay(&self) -> Option<Overlay> {
        self.st.overlay(&self.memory)
    }
}

/// The regions of registers and memory.
struct Regions {
    /// Ports, by where they go.
    ports: Vec<(u64, Region)>,
    /// The window in the first megabyte.
    window: Region,
    /// BAR 0.
    aperture: Region,
    /// BAR 1.
    mmio: Region,
}

impl Regions {
    fn of(device: &Shared<Cirrus>) -> Self {
        let region =
            |number, name: &str, size, sizes| device::region(device, number, name, size, sizes);
        let port = |(at, size): (u16, u64)| {
            (u64::from(at), region(at.into(), "cirrus-io", size, AccessSizes::BYTE))
        };
        let ports = PORTS.into_iter().map(port).collect();
        let window = Region::container("cirrus-lowmem-container", WINDOW_SIZE.into());
        let low = region(region::WINDOW, "cirrus-low-memory", WINDOW_SIZE, AccessSizes::ANY);
        window.add(&low, 0, 0);
        let aperture = Region::container("cirrus-pci-bar0", APERTURE_SIZE.into());
        let size = device.lock().memory.len();
        let linear = region(region::APERTURE, "cirrus-linear-io", size, AccessSizes::ANY);
        aperture.add(&linear, 0, 0);
        let blitter = region(region::BLITTER, "cirrus-bitblt-mmio", size, AccessSizes::ANY);
        aperture.add(&blitter, BLITTER_AT, 0);
        let mmio = region(region::MMIO, "cirrus-mmio", MMIO_SIZE, AccessSizes::UP_TO_DWORD);
        let mut cirrus = device.lock();
        let memory = Region::ram(cirrus.memory.clone());
        cirrus.window = Some(Window::new(&window, &memory));
        cirrus.aperture = Some(Window::new(&aperture, &memory));
        cirrus.move_windows();
        drop(cirrus);
        Regions { ports, window, aperture, mmio }
    }
}
