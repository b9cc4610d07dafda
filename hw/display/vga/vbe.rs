//! Bochs' extension of a VGA: resolutions beyond it, as a framebuffer of packed pixels. Sixteen-bit
//! registers behind an index and a data port ("Bochs VBE Display API", the Bochs project's
//! documentation of `VBE_DISPI`).

use base::state::State;

use super::registers::Registers;
use super::registers::index::{crtc, gfx};

/// The index port; data follow, on either of the two ports behind it.
pub const INDEX_PORT: u64 = 0x1ce;
/// Ports there are.
pub const PORT_COUNT: u64 = 4;

/// Registers by index.
#[allow(missing_docs)]
pub mod index {
    pub const ID: u16 = 0;
    pub const WIDTH: u16 = 1;
    pub const HEIGHT: u16 = 2;
    pub const DEPTH: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRTUAL_WIDTH: u16 = 6;
    pub const VIRTUAL_HEIGHT: u16 = 7;
    pub const X: u16 = 8;
    pub const Y: u16 = 9;
    pub const MEMORY: u16 = 10;
    /// How many there are.
    pub const COUNT: u16 = 11;
}

/// Bits of the enable register.
#[allow(missing_docs)]
pub mod enable {
    pub const ENABLED: u16 = 0x01;
    pub const CAPABILITIES: u16 = 0x02;
    pub const DAC_8_BIT: u16 = 0x20;
    pub const KEEP_MEMORY: u16 = 0x80;
}

/// Interface versions that a guest may ask for.
const IDS: std::ops::RangeInclusive<u16> = 0xb0c0..=0xb0c5;
const MAX_WIDTH: u16 = 16000;
const MAX_HEIGHT: u16 = 12000;
const MAX_DEPTH: u16 = 32;
/// Memory that one bank shows.
pub const BANK_SIZE: u32 = 0x1_0000;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct Vbe {
    index: u16,
    #[state(reset = *IDS.end())]
    id: u16,
    /// Pixels in a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
    /// Bits of a pixel.
    pub depth: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    virtual_height: u16,
    x: u16,
    y: u16,
    /// Memory that banks show from, which a change of the mode may set apart from the register.
    pub bank_start: u32,
}

impl Vbe {
    /// Whether it shows its picture instead of the VGA's.
    pub fn is_enabled(&self) -> bool {
        self.enable & enable::ENABLED != 0
    }

    /// Whether colours of the DAC have eight bits rather than six.
    pub fn has_wide_dac(&self) -> bool {
        self.enable & enable::DAC_8_BIT != 0
    }

    /// Bytes from one row to the next.
    pub fn pitch(&self) -> u32 {
        pitch(self.virtual_width, self.depth)
    }

    /// Where the picture begins in memory.
    pub fn start(&self) -> u32 {
        u32::from(self.x) * u32::from(bits(self.depth)) / 8 + u32::from(self.y) * self.pitch()
    }

    /// The register that the index port selects.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Selects a register.
    pub fn select(&mut self, index: u16) {
        self.index = index;
    }

    /// The guest reads register `at` of an adapter with so much memory.
    pub fn read(&self, at: u16, memory: u32) -> u16 {
        let capabilities = self.enable & enable::CAPABILITIES != 0;
        match at {
            index::WIDTH if capabilities => MAX_WIDTH,
            index::HEIGHT if capabilities => MAX_HEIGHT,
            index::DEPTH if capabilities => MAX_DEPTH,
            index::ID => self.id,
            index::WIDTH => self.width,
            index::HEIGHT => self.height,
            index::DEPTH => self.depth,
            index::ENABLE => self.enable,
            index::BANK => self.bank,
            index::VIRTUAL_WIDTH => self.virtual_width,
            index::VIRTUAL_HEIGHT => self.virtual_height,
            index::X => self.x,
            index::Y => self.y,
            index::MEMORY => (memory / BANK_SIZE) as u16,
            _ => 0,
        }
    }

    /// Makes the registers agree with each other and with the memory there is.
    fn settle(&mut self, memory: u32) {
        if !matches!(self.depth, 4 | 8 | 15 | 16 | 24 | 32) {
            self.depth = 8;
        }
        self.width = (self.width.min(MAX_WIDTH) & !7).max(8);
        self.virtual_width = self.virtual_width.min(MAX_WIDTH).max(self.width) & !7;
        let pitch = self.pitch().max(1);
        let rows = memory / pitch;
        self.height = self.height.min(MAX_HEIGHT).min(rows.min(u16::MAX.into()) as u16).max(1);
        self.virtual_height = rows as u16;
        self.x = self.x.min(MAX_WIDTH);
        self.y = self.y.min(MAX_HEIGHT);
        let size = u32::from(self.height) * pitch;
        if self.start().saturating_add(size) > memory {
            self.y = 0;
        }
        if self.start().saturating_add(size) > memory {
            self.x = 0;
        }
    }
}

fn bits(depth: u16) -> u16 {
    if depth == 15 { 16 } else { depth }
}

fn pitch(width: u16, depth: u16) -> u32 {
    u32::from(width) * u32::from(bits(depth)) / 8
}

/// What a write to one of the registers asks of the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VbeEffect {
    /// So much memory, from its start, is to become zero.
    pub clear: u32,
}

impl Registers {
    /// The guest writes register `at` of an adapter with so much memory.
    pub fn write_vbe(&mut self, at: u16, value: u16, memory: u32) -> VbeEffect {
        let mut effect = VbeEffect::default();
        let vbe = &mut self.vbe;
        match at {
            index::ID if IDS.contains(&value) => vbe.id = value,
            index::WIDTH => vbe.width = value,
            index::HEIGHT => vbe.height = value,
            index::DEPTH => vbe.depth = value,
            index::VIRTUAL_WIDTH => vbe.virtual_width = value,
            index::X => vbe.x = value,
            index::Y => vbe.y = value,
            index::BANK => {
                vbe.bank = value & (memory / BANK_SIZE).saturating_sub(1) as u16;
                vbe.bank_start = u32::from(vbe.bank) * BANK_SIZE;
            }
            index::ENABLE => {
                let was = vbe.is_enabled();
                vbe.enable = value;
                match (was, vbe.is_enabled()) {
                    (false, true) => {
                        vbe.virtual_width = 0;
                        (vbe.x, vbe.y) = (0, 0);
                        vbe.settle(memory);
                        if value & enable::KEEP_MEMORY == 0 {
                            effect.clear = u32::from(vbe.height) * vbe.pitch();
                        }
                    }
                    (_, false) => vbe.bank_start = 0,
                    (true, true) => {}
                }
            }
            _ => {}
        }
        if self.vbe.is_enabled() {
            self.vbe.settle(memory);
            self.impose_vbe();
        }
        effect
    }

    /// While the extension is enabled, VGA registers show a mode that comes closest to its own.
    pub(super) fn impose_vbe(&mut self) {
        if !self.vbe.is_enabled() {
            return;
        }
        let (gfx, crtc) = (&mut self.gfx, &mut self.crtc);
        let packed = self.vbe.depth != 4;
        gfx[gfx::MODE] = gfx[gfx::MODE] & !0x60 | if packed { 0x40 } else { 0 };
        // Graphics, in the 64 KiB at A0000h.
        gfx[gfx::MISC] = gfx[gfx::MISC] & !0x0c | 0x05;
        let last = u32::from(self.vbe.height) - 1;
        let bit = |n: u32, to: u8| if last >> n & 1 != 0 { to } else { 0 };
        crtc[crtc::MODE] |= 3;
        crtc[crtc::OFFSET] = (self.vbe.pitch() >> 3) as u8;
        crtc[crtc::DISPLAY_END] = ((self.vbe.width >> 3) - 1) as u8;
        crtc[crtc::VERTICAL_DISPLAY_END] = last as u8;
        // Line compare is out of reach: bits 8 and 9 of it are set with the low ones.
        crtc[crtc::OVERFLOW] = crtc[crtc::OVERFLOW] & !0x52 | bit(8, 0x02) | bit(9, 0x40) | 0x10;
        crtc[crtc::LINE_COMPARE] = 0xff;
        crtc[crtc::SCAN_LINES] = crtc[crtc::SCAN_LINES] & !0x9f | 0x40;
    }

    /// Bits of the sequencer's map mask and memory mode that are in force: packed pixels of the
    /// extension reach memory as they are.
    pub(super) fn memory_access(&self) -> (u8, u8) {
        use super::registers::index::seq;
        const CHAINED: u8 = 0x08;
        if self.vbe.is_enabled() && self.vbe.depth != 4 {
            (0x0f, CHAINED)
        } else {
            (self.seq[seq::MAP_MASK], self.seq[seq::MEMORY_MODE])
        }
    }
}
