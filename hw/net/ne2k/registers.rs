//! The controller's registers: sixteen ports, of which the command chooses what they show.

use super::Ne2kState;

/// Command.
pub(super) mod cr {
    pub const STOP: u8 = 1 << 0;
    pub const TXP: u8 = 1 << 2;
    pub const REMOTE_READ: u8 = 1 << 3;
    pub const REMOTE_WRITE: u8 = 1 << 4;
    pub const NO_DMA: u8 = 1 << 5;
    pub const PAGE_SHIFT: u8 = 6;
}

/// Reasons for an interrupt: a frame came, one was sent, the data port is done; a reset.
pub(super) mod isr {
    pub const PRX: u8 = 1 << 0;
    pub const PTX: u8 = 1 << 1;
    pub const RDC: u8 = 1 << 6;
    pub const RST: u8 = 1 << 7;
}

pub(super) mod dcr {
    /// The data port is 16 bits wide.
    pub const WORDS: u8 = 1 << 0;
}

pub(super) mod tcr {
    pub const LOOPBACK: u8 = 3 << 1;
}

pub(super) mod tsr {
    pub const PTX: u8 = 1 << 0;
}

pub(super) mod rcr {
    pub const BROADCAST: u8 = 1 << 2;
    pub const MULTICAST: u8 = 1 << 3;
    pub const PROMISCUOUS: u8 = 1 << 4;
    pub const MONITOR: u8 = 1 << 5;
}

/// Status of a frame that came: it is right; it is for more than one.
pub(super) mod rsr {
    pub const PRX: u8 = 1 << 0;
    pub const PHY: u8 = 1 << 5;
}

/// What tells an RTL8029 from others, and its configuration.
const ID: [u8; 2] = [0x50, 0x43];
const CONFIG2: u8 = 0x40;
const CONFIG3: u8 = 0x40;

const LOW: u16 = 0x00ff;
const HIGH: u16 = 0xff00;

fn low(value: u16) -> u8 {
    value as u8
}

fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

impl Ne2kState {
    fn page(&self) -> u8 {
        self.command >> cr::PAGE_SHIFT
    }

    /// A register as the guest reads it.
    pub(super) fn read(&self, port: u8) -> u8 {
        match (self.page(), port) {
            (_, 0x0) => self.command,
            // Where the controller itself is in memory: it is never seen at work.
            (0, 0x3) => self.boundary,
            (0, 0x4) => self.sent,
            (0, 0x7) => self.status,
            (0, 0x8) => low(self.remote),
            (0, 0x9) => high(self.remote),
            (0, 0xa) => ID[0],
            (0, 0xb) => ID[1],
            (0, 0xc) => self.received,
            (1, 0x1..=0x6) => self.address[usize::from(port) - 1],
            (1, 0x7) => self.current,
            (1, 0x8..=0xf) => self.groups[usize::from(port) - 8],
            (2, 0x1) => self.start,
            (2, 0x2) => self.stop,
            (2, 0x4) => self.send_page,
            (2, 0xc) => self.receive_config,
            (2, 0xd) => self.transmit_config,
            (2, 0xe) => self.data_config,
            (2, 0xf) => self.mask,
            (3, 0x5) => CONFIG2,
            (3, 0x6) => CONFIG3,
            _ => 0,
        }
    }

    /// A register, other than the command, is written.
    pub(super) fn write(&mut self, port: u8, value: u8) {
        let (as_low, as_high) = (u16::from(value), u16::from(value) << 8);
        match (self.page(), port) {
            (0, 0x1) => self.start = value,
            (0, 0x2) => self.stop = value,
            (0, 0x3) => self.boundary = value,
            (0, 0x4) => self.send_page = value,
            (0, 0x5) => self.send_count = self.send_count & HIGH | as_low,
            (0, 0x6) => self.send_count = self.send_count & LOW | as_high,
            (0, 0x7) => self.status &= !(value & !isr::RST),
            (0, 0x8) => self.remote = self.remote & HIGH | as_low,
            (0, 0x9) => self.remote = self.remote & LOW | as_high,
            (0, 0xa) => self.remote_count = self.remote_count & HIGH | as_low,
            (0, 0xb) => self.remote_count = self.remote_count & LOW | as_high,
            (0, 0xc) => self.receive_config = value,
            (0, 0xd) => self.transmit_config = value,
            (0, 0xe) => self.data_config = value,
            (0, 0xf) => self.mask = value,
            (1, 0x1..=0x6) => self.address[usize::from(port) - 1] = value,
            (1, 0x7) => self.current = value,
            (1, 0x8..=0xf) => self.groups[usize::from(port) - 8] = value,
            _ => {}
        }
    }
}
