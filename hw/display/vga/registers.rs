//! The registers of a VGA, and the ports that reach them (IBM VGA/XGA Technical Reference Manual,
//! "VGA Function").

use base::state::State;

use super::vbe::Vbe;

/// Indexed registers by their names in the manual.
#[allow(missing_docs)]
pub mod index {
    pub mod seq {
        pub const CLOCKING: usize = 1;
        pub const MAP_MASK: usize = 2;
        pub const FONTS: usize = 3;
        pub const MEMORY_MODE: usize = 4;
    }
    pub mod gfx {
        pub const SET_RESET: usize = 0;
        pub const ENABLE_SET_RESET: usize = 1;
        pub const COLOR_COMPARE: usize = 2;
        pub const ROTATE: usize = 3;
        pub const READ_MAP: usize = 4;
        pub const MODE: usize = 5;
        pub const MISC: usize = 6;
        pub const COLOR_DONT_CARE: usize = 7;
        pub const BIT_MASK: usize = 8;
    }
    pub mod crtc {
        pub const DISPLAY_END: usize = 0x01;
        pub const VERTICAL_TOTAL: usize = 0x06;
        pub const OVERFLOW: usize = 0x07;
        pub const SCAN_LINES: usize = 0x09;
        pub const CURSOR_START: usize = 0x0a;
        pub const CURSOR_END: usize = 0x0b;
        pub const START_HIGH: usize = 0x0c;
        pub const START_LOW: usize = 0x0d;
        pub const CURSOR_HIGH: usize = 0x0e;
        pub const CURSOR_LOW: usize = 0x0f;
        pub const RETRACE_END: usize = 0x11;
        pub const VERTICAL_DISPLAY_END: usize = 0x12;
        pub const OFFSET: usize = 0x13;
        pub const UNDERLINE: usize = 0x14;
        pub const MODE: usize = 0x17;
        pub const LINE_COMPARE: usize = 0x18;
    }
    pub mod attr {
        pub const MODE: usize = 0x10;
        pub const PLANES: usize = 0x12;
        pub const PANNING: usize = 0x13;
        pub const COLOR_SELECT: usize = 0x14;
    }
}

use index::{attr, crtc};

/// Bits of the indexed registers that hold what is written; beyond the tables nothing does.
const SEQ_BITS: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0x00, 0x00, 0xff];
const GFX_BITS: [u8; 16] =
    [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0];
/// Those before are the palette's.
const ATTR_BITS: [u8; 5] = [0xef, 0xff, 0x3f, 0x0f, 0x0f];
const PALETTE_BITS: u8 = 0x3f;
const MISC_BITS: u8 = 0xef;
const FEATURE_BITS: u8 = 0x10;

/// Number of registers of the attribute controller.
const ATTRS: usize = 0x15;
/// Index bit of the attribute controller: the screen is not blanked.
const SCREEN_ON: u8 = 0x20;
/// Miscellaneous output: the colour addresses of the CRT controller's ports.
const MISC_COLOR: u8 = 1;
/// Vertical retrace end: registers 0 to 7 are protected.
const PROTECT: u8 = 0x80;
/// The bit of the overflow register that is not: bit 8 of line compare.
const UNPROTECTED: u8 = 0x10;
/// Input status 1: display disabled, and vertical retrace.
const RETRACE: u8 = 0x09;

/// First and number of the ports, as boards place them.
pub const PORTS: [(u16, u64); 5] = [(0x3b4, 2), (0x3ba, 1), (0x3c0, 16), (0x3d4, 2), (0x3da, 1)];

/// What becomes of a port's write beyond the register itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The processor's window to memory may be another.
    Window,
}

/// The registers of a VGA.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct Registers {
    /// Miscellaneous output.
    pub misc: u8,
    /// Feature control.
    pub feature: u8,
    seq_index: u8,
    /// Sequencer.
    pub seq: [u8; 8],
    gfx_index: u8,
    /// Graphics controller.
    pub gfx: [u8; 16],
    crtc_index: u8,
    /// CRT controller. Those beyond 18h hold what is written, without effect.
    #[state(reset = [0; 256])]
    pub crtc: [u8; 256],
    attr_index: u8,
    /// Whether the attribute controller's port expects data.
    attr_data: bool,
    /// Attribute controller.
    pub attr: [u8; ATTRS],
    dac_read: u8,
    dac_write: u8,
    /// Which of the three colours comes next.
    dac_step: u8,
    /// What the DAC was last asked to do: 3 to read, 0 to write.
    dac_state: u8,
    /// Colours of the entry that is being written.
    dac_entry: [u8; 2],
    /// Which bits of a colour's number reach the DAC.
    #[state(reset = 0xff)]
    pub dac_mask: u8,
    /// Colours of the DAC: red, green, blue.
    #[state(reset = [[0; 3]; 256])]
    pub dac: [[u8; 3]; 256],
    /// Whether input status 1 last told of a retrace: who waits for it to come or go finds that it
    /// does.
    retrace: bool,
    /// What was last read from the four planes.
    pub latch: u32,
    /// Bochs' extension.
    pub vbe: Vbe,
}

impl Registers {
    /// Whether the attribute controller lets the picture through.
    pub fn screen_on(&self) -> bool {
        self.attr_index & SCREEN_ON != 0
    }

    /// What the attribute controller's port was last told to select.
    pub fn attribute_index(&self) -> u8 {
        self.attr_index
    }

    /// Whether the attribute controller's port expects data rather than an index.
    pub fn expects_attribute(&self) -> bool {
        self.attr_data
    }

    /// Whether the CRT controller answers at this port now: monochrome and colour adapters have it at
    /// different ones.
    pub fn answers(&self, port: u16) -> bool {
        match port {
            0x3b0..=0x3bf => self.misc & MISC_COLOR == 0,
            0x3d0..=0x3df => self.misc & MISC_COLOR != 0,
            _ => true,
        }
    }

    /// The guest reads a port.
    pub fn read(&mut self, port: u16) -> u8 {
        if !self.answers(port) {
            return 0xff;
        }
        match port {
            0x3c0 if !self.attr_data => self.attr_index,
            0x3c1 => self.attr.get(usize::from(self.attr_index & 0x1f)).copied().unwrap_or(0),
            0x3c4 => self.seq_index,
            0x3c5 => self.seq[usize::from(self.seq_index & 7)],
            0x3c6 => self.dac_mask,
            0x3c7 => self.dac_state,
            0x3c8 => self.dac_write,
            0x3c9 => {
                let (index, step) = self.next_read();
                self.dac[usize::from(index)][step]
            }
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.gfx_index,
            0x3cf => self.gfx[usize::from(self.gfx_index & 15)],
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => self.crtc[usize::from(self.crtc_index)],
            0x3ba | 0x3da => {
                self.attr_data = false;
                self.retrace = !self.retrace;
                if self.retrace { RETRACE } else { 0 }
            }
            _ => 0,
        }
    }

    /// The guest writes a port.
    pub fn write(&mut self, port: u16, value: u8) -> Effect {
        if !self.answers(port) {
            return Effect::None;
        }
        match port {
            0x3c0 => self.write_attribute(value),
            0x3c2 => self.misc = value & MISC_BITS,
            0x3c4 => self.seq_index = value & 7,
            0x3c5 => {
                let at = usize::from(self.seq_index & 7);
                self.seq[at] = value & SEQ_BITS[at];
                return Effect::Window;
            }
            0x3c6 => self.dac_mask = value,
            0x3c7 => {
                self.dac_read = value;
                self.dac_step = 0;
                self.dac_state = 3;
            }
            0x3c8 => {
                self.dac_write = value;
                self.dac_step = 0;
                self.dac_state = 0;
            }
            0x3c9 => {
                if let Some((index, color)) = self.next_written(value) {
                    self.dac[usize::from(index)] = color;
                }
            }
            0x3ce => self.gfx_index = value & 15,
            0x3cf => {
                let at = usize::from(self.gfx_index & 15);
                self.gfx[at] = value & GFX_BITS[at];
                self.impose_vbe();
                return Effect::Window;
            }
            0x3b4 | 0x3d4 => self.crtc_index = value,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.feature = value & FEATURE_BITS,
            _ => {}
        }
        Effect::None
    }

    /// Index and data take turns at one port.
    fn write_attribute(&mut self, value: u8) {
        if !std::mem::replace(&mut self.attr_data, true) {
            self.attr_index = value & 0x3f;
            return;
        }
        self.attr_data = false;
        let at = usize::from(self.attr_index & 0x1f);
        let bits = match at {
            0..attr::MODE => PALETTE_BITS,
            attr::MODE..ATTRS => ATTR_BITS[at - attr::MODE],
            _ => return,
        };
        self.attr[at] = value & bits;
    }

    fn write_crtc(&mut self, value: u8) {
        let at = usize::from(self.crtc_index);
        if self.crtc[crtc::RETRACE_END] & PROTECT != 0 && at <= crtc::OVERFLOW {
            if at == crtc::OVERFLOW {
                self.crtc[at] = self.crtc[at] & !UNPROTECTED | value & UNPROTECTED;
            }
        } else {
            self.crtc[at] = value;
        }
        self.impose_vbe();
    }

    /// The colour, and which of its three levels, that the DAC's port tells next.
    pub fn next_read(&mut self) -> (u8, usize) {
        let place = (self.dac_read, usize::from(self.dac_step.min(2)));
        self.dac_step = (self.dac_step + 1) % 3;
        if self.dac_step == 0 {
            self.dac_read = self.dac_read.wrapping_add(1);
        }
        place
    }

    /// The DAC's port is told a level; when all three are there, they are a colour's.
    pub fn next_written(&mut self, value: u8) -> Option<(u8, [u8; 3])> {
        if let Some(level) = self.dac_entry.get_mut(usize::from(self.dac_step)) {
            *level = value;
            self.dac_step += 1;
            return None;
        }
        let ([red, green], index) = (self.dac_entry, self.dac_write);
        self.dac_step = 0;
        self.dac_write = index.wrapping_add(1);
        Some((index, [red, green, value]))
    }

    /// A number of more bits than one CRT controller register holds: `low`, and where in the overflow
    /// registers the others are.
    fn crtc_number(&self, low: usize, more: [(usize, u8); 2]) -> u32 {
        let bit = |(at, mask): (usize, u8)| u32::from(self.crtc[at] & mask != 0);
        u32::from(self.crtc[low]) | bit(more[0]) << 8 | bit(more[1]) << 9
    }

    /// The last line that is displayed.
    pub fn vertical_display_end(&self) -> u32 {
        let more = [(crtc::OVERFLOW, 0x02), (crtc::OVERFLOW, 0x40)];
        self.crtc_number(crtc::VERTICAL_DISPLAY_END, more)
    }

    /// The line after which the picture goes on from address 0.
    pub fn line_compare(&self) -> u32 {
        let more = [(crtc::OVERFLOW, 0x10), (crtc::SCAN_LINES, 0x40)];
        self.crtc_number(crtc::LINE_COMPARE, more)
    }

    /// The address that the picture starts at.
    pub fn start_address(&self) -> u32 {
        u32::from(self.crtc[crtc::START_HIGH]) << 8 | u32::from(self.crtc[crtc::START_LOW])
    }

    /// The address that the text cursor is at.
    pub fn cursor_address(&self) -> u32 {
        u32::from(self.crtc[crtc::CURSOR_HIGH]) << 8 | u32::from(self.crtc[crtc::CURSOR_LOW])
    }
}
