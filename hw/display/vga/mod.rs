//! The VGA, with Bochs' extension: what all adapters of this kind share.
//!
//! [`registers::Registers`] are pure data with the ports' side effects. [`planes`] has the processor's
//! ways to memory, [`picture`] what is shown of it, [`text`] and [`graphics`] draw that on the
//! console's surface, on the console's thread. The device itself only connects them, and moves the
//! window in the first megabyte: where the guest sees memory as it lies, the window *is* memory and
//! costs no exit; otherwise each access goes through the planes' logic.

mod graphics;
mod head;
mod overlay;
pub mod picture;
mod planes;
pub mod registers;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod text;
pub mod vbe;
mod window;

use std::sync::Arc;

use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, RamBlock, RamError, Region};

pub use head::{Head, Shows};
pub use overlay::Overlay;
use picture::Picture;
pub use planes::{PLANAR_SIZE, WINDOW_SIZE, WINDOW_START};
use registers::{Effect, PORTS, Registers};
pub use window::{Place, Window};

use super::edid::Edid;

/// Regions by which a device that is a VGA is called; ports are called by their number.
pub mod region {
    /// The window in the first megabyte.
    pub const WINDOW: u32 = 0;
    /// The ports of Bochs' extension.
    pub const VBE: u32 = 1;
    /// The registers in memory.
    pub const MMIO: u32 = 2;
    /// The first that is a port.
    pub const FIRST_PORT: u32 = 0x3b0;
}

/// Parts of the registers in memory ("PCI VGA with Bochs VBE", the specification of QEMU's `VGA`).
mod mmio {
    use std::ops::Range;

    pub const EDID: Range<u64> = 0..0x400;
    /// Ports 3C0h to 3DFh.
    pub const PORTS: Range<u64> = 0x400..0x420;
    pub const VBE: Range<u64> = 0x500..0x516;
    /// Size of what follows, and the order of bytes.
    pub const EXTENDED: Range<u64> = 0x600..0x608;
    pub const EXTENDED_SIZE: u32 = 8;
    pub const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;
    pub const BIG_ENDIAN: u32 = 0xbebe_bebe;
}

/// Size of the registers in memory.
pub const MMIO_SIZE: u64 = 0x1000;

/// What a VGA is made with.
pub struct VgaConfig {
    /// Bytes of memory, a power of two.
    pub memory: u32,
    /// The monitor, if it can be asked what it is.
    pub edid: Option<Edid>,
    /// Whether there are registers beyond those of VGA and Bochs.
    pub extended: bool,
    /// Whether there is a VGA besides Bochs' extension.
    pub legacy: bool,
}

/// A VGA.
pub struct Vga {
    cfg: VgaConfig,
    memory: Arc<RamBlock>,
    window: Option<Window>,
    edid: Vec<u8>,
    big_endian: bool,
    st: Registers,
}

impl Vga {
    /// A VGA that is not connected to anything.
    pub fn new(cfg: VgaConfig) -> Result<Self, RamError> {
        let memory = Arc::new(RamBlock::anonymous("vga.vram", cfg.memory.into())?);
        let edid = cfg.edid.as_ref().map(Edid::bytes).unwrap_or_default();
        Ok(Vga { cfg, memory, window: None, edid, big_endian: false, st: Registers::default() })
    }

    fn apply(&mut self, effect: Effect) {
        if effect == Effect::Window {
            self.move_window();
        }
    }

    fn move_window(&mut self) {
        if let Some(window) = &mut self.window {
            window.show(self.st.direct_window());
        }
    }

    fn read_port(&mut self, port: u16) -> u8 {
        self.st.read(port)
    }

    fn write_port(&mut self, port: u16, value: u8) {
        let effect = self.st.write(port, value);
        self.apply(effect);
    }

    fn write_vbe(&mut self, at: u16, value: u16) {
        let effect = self.st.write_vbe(at, value, self.cfg.memory);
        self.memory.fill(0, effect.clear.into(), 0);
        self.move_window();
    }

    fn read_vbe_port(&self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0, 2) => self.st.vbe.index().into(),
            (1 | 2, 2) => self.st.vbe.read(self.st.vbe.index(), self.cfg.memory).into(),
            _ => u64::MAX,
        }
    }

    fn write_vbe_port(&mut self, offset: u64, size: u8, value: u16) {
        match (offset, size) {
            (0, 2) => self.st.vbe.select(value),
            (1 | 2, 2) => self.write_vbe(self.st.vbe.index(), value),
            _ => {}
        }
    }

    fn read_mmio(&mut self, offset: u64, size: u8) -> u64 {
        let bytes = |mut byte: Box<dyn FnMut(u64) -> u8 + '_>| {
            (0..u64::from(size)).map(|n| u64::from(byte(n)) << (8 * n)).sum()
        };
        match offset {
            _ if mmio::EDID.contains(&offset) => {
                let edid = &self.edid;
                bytes(Box::new(move |n| edid.get((offset + n) as usize).copied().unwrap_or(0xff)))
            }
            _ if mmio::PORTS.contains(&offset) && self.cfg.legacy => {
                let port = 0x3c0 + (offset - mmio::PORTS.start) as u16;
                bytes(Box::new(move |n| self.read_port(port + n as u16)))
            }
            _ if mmio::VBE.contains(&offset) => {
                let at = (offset - mmio::VBE.start) / 2;
                let register = |at: u64| u64::from(self.st.vbe.read(at as u16, self.cfg.memory));
                register(at) | if size > 2 { register(at + 1) << 16 } else { 0 }
            }
            _ if mmio::EXTENDED.contains(&offset) && self.cfg.extended => {
                match offset - mmio::EXTENDED.start {
                    0..4 => mmio::EXTENDED_SIZE.into(),
                    _ if self.big_endian => mmio::BIG_ENDIAN.into(),
                    _ => mmio::LITTLE_ENDIAN.into(),
                }
            }
            _ => u64::MAX,
        }
    }

    fn write_mmio(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            _ if mmio::PORTS.contains(&offset) && self.cfg.legacy => {
                let port = 0x3c0 + (offset - mmio::PORTS.start) as u16;
                for n in 0..u16::from(size) {
                    self.write_port(port + n, (value >> (8 * n)) as u8);
                }
            }
            _ if mmio::VBE.contains(&offset) => {
                let at = ((offset - mmio::VBE.start) / 2) as u16;
                self.write_vbe(at, value as u16);
                if size > 2 {
                    self.write_vbe(at + 1, (value >> 16) as u16);
                }
            }
            _ if mmio::EXTENDED.contains(&offset) && self.cfg.extended => match value as u32 {
                mmio::LITTLE_ENDIAN => self.big_endian = false,
                mmio::BIG_ENDIAN => self.big_endian = true,
                _ => {}
            },
            _ => {}
        }
    }

    fn read_window(&mut self, offset: u64, size: u8) -> u64 {
        let byte = |n: u64| u64::from(self.st.read_memory(&self.memory, offset + n)) << (8 * n);
        (0..u64::from(size)).map(byte).sum()
    }

    fn write_window(&mut self, offset: u64, size: u8, value: u64) {
        for n in 0..u64::from(size) {
            self.st.write_memory(&self.memory, offset + n, (value >> (8 * n)) as u8);
        }
    }
}

impl Device for Vga {
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64 {
        match region {
            region::WINDOW => self.read_window(offset, size),
            region::VBE => self.read_vbe_port(offset, size),
            region::MMIO => self.read_mmio(offset, size),
            port => self.read_port((u64::from(port) + offset) as u16).into(),
        }
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        match region {
            region::WINDOW => self.write_window(offset, size, value),
            region::VBE => self.write_vbe_port(offset, size, value as u16),
            region::MMIO => self.write_mmio(offset, size, value),
            port => self.write_port((u64::from(port) + offset) as u16, value as u8),
        }
    }

    fn reset(&mut self) {
        self.st = Registers::default();
        self.big_endian = false;
        self.move_window();
    }
}

impl Shows for Vga {
    fn memory(&self) -> &Arc<RamBlock> {
        &self.memory
    }

    fn picture(&self) -> Picture {
        let on = match self.cfg.legacy {
            true => self.st.screen_on(),
            false => self.st.vbe.is_enabled(),
        };
        self.st.vbe_picture(self.cfg.memory, on, self.big_endian)
    }
}

/// The regions of a VGA's registers and memory.
pub struct VgaRegions {
    /// Ports, by where they go.
    pub ports: Vec<(u64, Region)>,
    /// The window in the first megabyte.
    pub window: Region,
    /// The registers in memory.
    pub mmio: Region,
    /// All memory.
    pub framebuffer: Region,
}

impl VgaRegions {
    /// The regions of `device`.
    pub fn of(device: &Shared<Vga>) -> Self {
        let sized =
            |number, name: &str, size, sizes| device::region(device, number, name, size, sizes);
        let mut ports: Vec<_> = PORTS
            .into_iter()
            .map(|(port, size)| {
                (u64::from(port), sized(port.into(), "vga", size, AccessSizes::BYTE))
            })
            .collect();
        let words = AccessSizes { min: 1, max: 2 };
        ports.push((vbe::INDEX_PORT, sized(region::VBE, "vbe", vbe::PORT_COUNT, words)));
        let window = Region::container("vga-lowmem", WINDOW_SIZE.into());
        window.add(&sized(region::WINDOW, "vga-lowmem", WINDOW_SIZE, AccessSizes::ANY), 0, 0);
        let mmio = sized(region::MMIO, "vga.mmio", MMIO_SIZE, AccessSizes::UP_TO_DWORD);
        let mut vga = device.lock();
        let framebuffer = Region::ram(vga.memory.clone());
        vga.window = Some(Window::new(&window, &framebuffer));
        drop(vga);
        VgaRegions { ports, window, mmio, framebuffer }
    }
}
