//! A function's configuration space: bytes, which of them the guest may change, BARs, capabilities.
//!
//! Pure data: the shell in `function.rs` turns changes into moved regions.

use base::memory::AccessSizes;

/// Offsets in the standard header (PCI 3.0, 6.1) and bits of its registers.
#[allow(missing_docs)]
pub mod reg {
    pub const VENDOR: usize = 0x00;
    pub const DEVICE: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION: usize = 0x08;
    pub const PROG_IF: usize = 0x09;
    pub const SUBCLASS: usize = 0x0a;
    pub const CACHE_LINE: usize = 0x0c;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BAR0: usize = 0x10;
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub const SUBSYSTEM: usize = 0x2e;
    pub const ROM: usize = 0x30;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;

    pub const COMMAND_IO: u16 = 1;
    pub const COMMAND_MEMORY: u16 = 1 << 1;
    pub const COMMAND_MASTER: u16 = 1 << 2;
    pub const COMMAND_SERR: u16 = 1 << 8;
    pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
    pub const STATUS_INTERRUPT: u16 = 1 << 3;
    pub const STATUS_CAPABILITIES: u16 = 1 << 4;
    /// Error bits, cleared by writing one.
    pub const STATUS_ERRORS: u16 = 0xf900;
    pub const MULTIFUNCTION: u8 = 0x80;
}

/// What a function is: the constant part of its header.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class, subclass and programming interface: 0xCCSSPP.
    pub class: u32,
    /// Subsystem vendor and subsystem ids; bridges have none.
    pub subsystem: Option<(u16, u16)>,
    /// INTx pin: 0 for none, 1 for INTA#.
    pub interrupt_pin: u8,
}

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
}

/// A base address register.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Size in bytes, a power of two.
    pub size: u64,
}

/// Number of the expansion ROM's register among the BARs.
pub const ROM_BAR: usize = 6;

const SIZE: usize = 256;

/// The configuration space of one function.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    write_one_to_clear: [u8; SIZE],
    bars: [Option<Bar>; 7],
    next_capability: usize,
}

impl ConfigSpace {
    /// A header as after power-up.
    pub fn new(identity: &Identity) -> Self {
        let mut space = ConfigSpace {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            write_one_to_clear: [0; SIZE],
            bars: [None; 7],
            next_capability: 0x40,
        };
        space.set_u16(reg::VENDOR, identity.vendor);
        space.set_u16(reg::DEVICE, identity.device);
        space.bytes[reg::REVISION] = identity.revision;
        space.bytes[reg::PROG_IF..reg::PROG_IF + 3]
            .copy_from_slice(&identity.class.to_le_bytes()[..3]);
        if let Some((vendor, id)) = identity.subsystem {
            space.set_u16(reg::SUBSYSTEM_VENDOR, vendor);
            space.set_u16(reg::SUBSYSTEM, id);
        }
        space.bytes[reg::INTERRUPT_PIN] = identity.interrupt_pin;
        let command = reg::COMMAND_IO
            | reg::COMMAND_MEMORY
            | reg::COMMAND_MASTER
            | reg::COMMAND_SERR
            | reg::COMMAND_INTX_DISABLE;
        space.allow_u16(reg::COMMAND, command);
        space.write_one_to_clear[reg::STATUS + 1] = (reg::STATUS_ERRORS >> 8) as u8;
        space.writable[reg::CACHE_LINE] = 0xff;
        space.writable[reg::INTERRUPT_LINE] = 0xff;
        space
    }

    /// Declares BAR `number` (0 to 5, or [`ROM_BAR`]).
    pub fn add_bar(&mut self, number: usize, bar: Bar) {
        debug_assert!(bar.size.is_power_of_two());
        let at = Self::bar_offset(number);
        let mask = !(bar.size - 1);
        let kind = match bar.kind {
            BarKind::Io => 1,
            BarKind::Memory32 { prefetchable } => u32::from(prefetchable) << 3,
            BarKind::Memory64 { prefetchable } => 4 | u32::from(prefetchable) << 3,
        };
        if number == ROM_BAR {
            self.allow_u32(at, mask as u32 | 1);
        } else {
            self.set_u32(at, kind);
            self.allow_u32(at, mask as u32 & !0xf | if kind == 1 { mask as u32 & 0xc } else { 0 });
            if matches!(bar.kind, BarKind::Memory64 { .. }) {
                self.allow_u32(at + 4, (mask >> 32) as u32);
            }
        }
        self.bars[number] = Some(bar);
    }

    /// The declared BARs by number.
    pub fn bars(&self) -> &[Option<Bar>; 7] {
        &self.bars
    }

    fn bar_offset(number: usize) -> usize {
        if number == ROM_BAR { reg::ROM } else { reg::BAR0 + 4 * number }
    }

    /// Where the guest has put BAR `number`, if it is decoded now.
    pub fn bar_address(&self, number: usize) -> Option<u64> {
        let bar = self.bars.get(number).copied().flatten()?;
        let at = Self::bar_offset(number);
        let low = self.u32(at);
        let command = self.u16(reg::COMMAND);
        let mask = !(bar.size - 1);
        let (enabled, address, top) = match bar.kind {
            BarKind::Io => (reg::COMMAND_IO, u64::from(low & !3), 0xffff),
            BarKind::Memory32 { .. } => (reg::COMMAND_MEMORY, u64::from(low), 0xffff_ffff),
            BarKind::Memory64 { .. } => {
                (reg::COMMAND_MEMORY, u64::from(low) | u64::from(self.u32(at + 4)) << 32, u64::MAX)
            }
        };
        let rom_off = number == ROM_BAR && low & 1 == 0;
        let address = address & mask;
        let last = address.checked_add(bar.size - 1)?;
        // Address 0 and the very top mean "not placed yet" or "being sized".
        let placed = address != 0 && last < top;
        (command & enabled != 0 && !rom_off && placed).then_some(address)
    }

    /// Reserves a capability of `len` bytes and links it into the list. Returns its offset.
    pub fn add_capability(&mut self, id: u8, len: usize) -> usize {
        let at = self.next_capability;
        self.add_capability_at(id, at, len);
        at
    }

    /// As [`Self::add_capability`], at a given offset. The guest may write none of it yet.
    pub fn add_capability_at(&mut self, id: u8, at: usize, len: usize) {
        self.writable[at..at + len].fill(0);
        self.bytes[at] = id;
        self.bytes[at + 1] = self.bytes[reg::CAPABILITIES];
        self.bytes[reg::CAPABILITIES] = at as u8;
        self.bytes[reg::STATUS] |= reg::STATUS_CAPABILITIES as u8;
        self.next_capability = self.next_capability.max((at + len + 3) & !3);
    }

    /// Reads 1 to 4 bytes.
    pub fn read(&self, offset: usize, size: u8) -> u32 {
        (0..usize::from(size.min(4)))
            .rev()
            .fold(0, |value, i| value << 8 | self.bytes.get(offset + i).map_or(0xff, |&b| b.into()))
    }

    /// The guest writes 1 to 4 bytes: only what it may change changes.
    pub fn write(&mut self, offset: usize, size: u8, value: u32) {
        for i in 0..usize::from(size.min(4)) {
            let (at, new) = (offset + i, (value >> (8 * i)) as u8);
            if at < SIZE {
                let mask = self.writable[at];
                self.bytes[at] = self.bytes[at] & !mask | new & mask;
                self.bytes[at] &= !(new & self.write_one_to_clear[at]);
            }
        }
    }

    /// A byte register.
    pub fn u8(&self, offset: usize) -> u8 {
        self.bytes[offset & 0xff]
    }
    /// A word register.
    pub fn u16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }
    /// A doubleword register.
    pub fn u32(&self, offset: usize) -> u32 {
        self.read(offset, 4)
    }
    /// The device sets a byte, whatever the guest may change.
    pub fn set_u8(&mut self, offset: usize, value: u8) {
        self.bytes[offset & 0xff] = value;
    }
    /// The device sets a word.
    pub fn set_u16(&mut self, offset: usize, value: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }
    /// The device sets a doubleword.
    pub fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    /// Lets the guest change these bits of a byte.
    pub fn allow_u8(&mut self, offset: usize, mask: u8) {
        self.writable[offset & 0xff] = mask;
    }
    /// Lets the guest change these bits of a word.
    pub fn allow_u16(&mut self, offset: usize, mask: u16) {
        self.writable[offset..offset + 2].copy_from_slice(&mask.to_le_bytes());
    }
    /// Lets the guest change these bits of a doubleword.
    pub fn allow_u32(&mut self, offset: usize, mask: u32) {
        self.writable[offset..offset + 4].copy_from_slice(&mask.to_le_bytes());
    }
    /// Lets the guest write all registers behind the header, as on functions whose every bit is a
    /// setting. To be called before capabilities are added.
    pub fn allow_device_registers(&mut self) {
        self.writable[0x40..].fill(0xff);
    }
    /// Lets the guest clear these bits of a byte by writing ones.
    pub fn allow_clear(&mut self, offset: usize, mask: u8) {
        self.write_one_to_clear[offset & 0xff] = mask;
    }
}

/// Sizes that registers in BARs accept unless a device says otherwise.
pub const BAR_SIZES: AccessSizes = AccessSizes::UP_TO_DWORD;

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity = Identity {
            vendor: 0x1234,
            device: 0x5678,
            revision: 3,
            class: 0x020000,
            subsystem: Some((0x1af4, 0x1100)),
            interrupt_pin: 1,
        };
        let mut space = ConfigSpace::new(&identity);
        space.add_bar(0, Bar { kind: BarKind::Io, size: 0x20 });
        space.add_bar(
            1,
            Bar { kind: BarKind::Memory64 { prefetchable: true }, size: 0x2_0000_0000 },
        );
        space
            .add_bar(ROM_BAR, Bar { kind: BarKind::Memory32 { prefetchable: false }, size: 0x800 });
        space
    }

    #[test]
    fn identity_is_read_only() {
        let mut space = space();
        space.write(0, 4, 0);
        assert_eq!(space.u32(0), 0x5678_1234);
        assert_eq!(space.u32(8), 0x0200_0003);
    }

    #[test]
    fn sizing_a_bar_shows_its_size() {
        let mut space = space();
        for bar in 0..3 {
            space.write(reg::BAR0 + 4 * bar, 4, !0);
        }
        assert_eq!(space.u32(0x10), 0xffff_ffe1);
        assert_eq!(space.u32(0x14), 0x0000_000c);
        assert_eq!(space.u32(0x18), 0xffff_fffe);
        space.write(reg::ROM, 4, 0xffff_f800);
        assert_eq!(space.u32(reg::ROM), 0xffff_f800);
    }

    #[test]
    fn a_bar_decodes_only_when_enabled_and_placed() {
        let mut space = space();
        space.write(0x10, 4, 0xc000);
        assert_eq!(space.bar_address(0), None);
        space.write(reg::COMMAND, 2, 3);
        assert_eq!(space.bar_address(0), Some(0xc000));
        assert_eq!(space.bar_address(1), None, "not placed");
        space.write(0x18, 4, 0x4);
        assert_eq!(space.bar_address(1), Some(0x4_0000_0000));
        space.write(reg::ROM, 4, 0xfeb0_0000);
        assert_eq!(space.bar_address(ROM_BAR), None, "ROM decoding is off");
        space.write(reg::ROM, 4, 0xfeb0_0001);
        assert_eq!(space.bar_address(ROM_BAR), Some(0xfeb0_0000));
    }

    #[test]
    fn status_errors_clear_by_writing_ones() {
        let mut space = space();
        space.set_u16(reg::STATUS, 0xf900);
        space.write(reg::STATUS, 2, 0x8000);
        assert_eq!(space.u16(reg::STATUS), 0x7900);
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = space();
        let first = space.add_capability(0x05, 10);
        let second = space.add_capability(0x11, 12);
        assert_eq!((first, second), (0x40, 0x4c));
        assert_eq!(space.u8(reg::CAPABILITIES), 0x4c);
        assert_eq!(space.u8(0x4d), 0x40);
        assert_eq!(space.u8(0x41), 0);
        assert_ne!(space.u16(reg::STATUS) & reg::STATUS_CAPABILITIES, 0);
    }
}
