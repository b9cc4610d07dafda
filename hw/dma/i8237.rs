//! The pair of 8237A DMA controllers with their page registers (Intel 8237A datasheet; PC/AT
//! technical reference).
//!
//! The first controller moves bytes (channels 0 to 3), the second words (channels 5 to 7; channel 4
//! is the cascade). A device asks through its [`DmaChannel`], and moves as much as it has at once.

use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, Dma, Region};
use base::state::State;

/// Channels of the pair.
pub const CHANNELS: usize = 8;

const CHANNEL_REGION: u32 = 0;
const CONTROL_REGION: u32 = 1;
const PAGE_REGION: u32 = 2;

/// Where the page registers are, and how many in a row.
const PAGE_PORTS: [(u64, u64); 4] = [(0x81, 3), (0x87, 1), (0x89, 3), (0x8f, 1)];
/// Port of each channel's page register.
const PAGE_PORT: [u64; CHANNELS] = [0x87, 0x83, 0x81, 0x82, 0x8f, 0x8b, 0x89, 0x8a];

/// Control registers by number. Reading the request register gives the mask.
mod reg {
    pub const STATUS_COMMAND: u64 = 0;
    pub const REQUEST: u64 = 1;
    pub const SINGLE_MASK: u64 = 2;
    pub const MODE: u64 = 3;
    pub const CLEAR_FLIP_FLOP: u64 = 4;
    pub const MASTER_CLEAR: u64 = 5;
    pub const CLEAR_MASK: u64 = 6;
    pub const WRITE_MASK: u64 = 7;
}

/// The controller is off.
const COMMAND_DISABLE: u8 = 1 << 2;
/// Sets, rather than clears, the channel's bit in the mask and request registers.
const SET_BIT: u8 = 1 << 2;

const MODE_AUTO: u8 = 1 << 4;
const MODE_DECREMENT: u8 = 1 << 5;

/// What a channel's mode lets a device do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Counts without touching memory.
    Verify,
    /// From the device to memory.
    ToMemory,
    /// From memory to the device.
    FromMemory,
}

/// Registers of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct ChannelState {
    base_address: u16,
    base_count: u16,
    address: u16,
    /// Transfers left, less one.
    count: u16,
    mode: u8,
    page: u8,
}

impl ChannelState {
    fn direction(&self) -> Option<Direction> {
        match self.mode >> 2 & 3 {
            0 => Some(Direction::Verify),
            1 => Some(Direction::ToMemory),
            2 => Some(Direction::FromMemory),
            _ => None,
        }
    }

    /// Counts one transfer; returns whether it was the last one.
    fn step(&mut self) -> bool {
        self.address = if self.mode & MODE_DECREMENT != 0 {
            self.address.wrapping_sub(1)
        } else {
            self.address.wrapping_add(1)
        };
        let (count, last) = self.count.overflowing_sub(1);
        self.count = count;
        if last && self.mode & MODE_AUTO != 0 {
            self.reload();
        }
        last
    }

    fn reload(&mut self) {
        (self.address, self.count) = (self.base_address, self.base_count);
    }
}

/// Registers of one controller.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct I8237State {
    channels: [ChannelState; 4],
    command: u8,
    /// Terminal counts in the low half, requests in the high one.
    status: u8,
    mask: u8,
    /// The high byte of an address or count comes next.
    high_byte: bool,
}

impl I8237State {
    fn at_reset() -> Self {
        I8237State {
            channels: Default::default(),
            command: 0,
            status: 0,
            mask: !0,
            high_byte: false,
        }
    }
}

/// One controller.
pub struct I8237 {
    /// Transfers are of words.
    wide: bool,
    st: I8237State,
}

/// The pair, with its regions and channels.
pub struct DmaPair {
    /// The controllers.
    pub controllers: [Shared<I8237>; 2],
    /// Regions and the ports to place them at.
    pub ports: Vec<(u64, Region)>,
    dma: Dma,
}

impl DmaPair {
    /// A pair of controllers that reaches memory by `dma`.
    pub fn create(dma: Dma) -> Self {
        let controllers =
            [false, true].map(|wide| device::share(|_| I8237 { wide, st: I8237State::at_reset() }));
        let mut ports = Vec::new();
        for (controller, (channels, control, spacing)) in
            controllers.iter().zip([(0x00, 0x08, 1), (0xc0, 0xd0, 2)])
        {
            let mut add = |region, name, at, size| {
                let region = device::region(controller, region, name, size, AccessSizes::BYTE);
                ports.push((at, region));
            };
            add(CHANNEL_REGION, "dma-chan", channels, 8 * spacing);
            add(CONTROL_REGION, "dma-cont", control, 8 * spacing);
        }
        for (at, count) in PAGE_PORTS {
            // Each run of page registers belongs to one controller.
            let controller = &controllers[usize::from(at >= 0x88)];
            let region = PAGE_REGION + (at - 0x80) as u32;
            let region = device::region(controller, region, "dma-page", count, AccessSizes::BYTE);
            ports.push((at, region));
        }
        DmaPair { controllers, ports, dma }
    }

    /// The channel for a device; `None` for the cascade and for numbers beyond 7.
    pub fn channel(&self, n: usize) -> Option<DmaChannel> {
        (n < CHANNELS && n != 4).then(|| DmaChannel {
            controller: self.controllers[n / 4].clone(),
            dma: self.dma.clone(),
            n: n % 4,
        })
    }
}

impl I8237 {
    fn page_channel(&self, port: u64) -> Option<usize> {
        let channel = PAGE_PORT.iter().position(|&at| at == port)?;
        (usize::from(self.wide) == channel / 4).then_some(channel % 4)
    }

    /// The high byte after the low one, for addresses and counts alike.
    fn flip(&mut self) -> u32 {
        self.st.high_byte = !self.st.high_byte;
        if self.st.high_byte { 0 } else { 8 }
    }

    fn read_channel(&mut self, register: u64) -> u8 {
        let channel = &self.st.channels[(register >> 1 & 3) as usize];
        let value = if register & 1 == 0 { channel.address } else { channel.count };
        (value >> self.flip()) as u8
    }

    fn write_channel(&mut self, register: u64, value: u8) {
        let shift = self.flip();
        let channel = &mut self.st.channels[(register >> 1 & 3) as usize];
        let base =
            if register & 1 == 0 { &mut channel.base_address } else { &mut channel.base_count };
        *base = *base & !(0xff << shift) | u16::from(value) << shift;
        // Base and current registers are written together, byte by byte.
        channel.reload();
    }

    fn write_control(&mut self, register: u64, value: u8) {
        let st = &mut self.st;
        let channel = value & 3;
        match register {
            reg::STATUS_COMMAND => st.command = value,
            reg::REQUEST if value & SET_BIT != 0 => st.status |= 0x10 << channel,
            reg::REQUEST => st.status &= !(0x10 << channel),
            reg::SINGLE_MASK if value & SET_BIT != 0 => st.mask |= 1 << channel,
            reg::SINGLE_MASK => st.mask &= !(1 << channel),
            reg::MODE => st.channels[usize::from(channel)].mode = value,
            reg::CLEAR_FLIP_FLOP => st.high_byte = false,
            reg::MASTER_CLEAR => {
                st.high_byte = false;
                st.mask = !0;
                st.status = 0;
                st.command = 0;
            }
            reg::CLEAR_MASK => st.mask = 0,
            reg::WRITE_MASK => st.mask = value,
            _ => {}
        }
    }

    fn ready(&self, n: usize) -> bool {
        self.st.command & COMMAND_DISABLE == 0 && self.st.mask & 1 << n == 0
    }

    /// The memory address of a channel's next transfer. The page does not count along.
    fn address(&self, n: usize) -> u64 {
        let channel = &self.st.channels[n];
        let (page, address) = (u64::from(channel.page), u64::from(channel.address));
        if self.wide { (page & 0xfe) << 16 | address << 1 } else { page << 16 | address }
    }

    /// Moves as many transfers as fit into `len` bytes and the count; `each` is told the memory
    /// address and the piece of the buffer.
    fn transfer(
        &mut self,
        n: usize,
        len: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>),
    ) -> Transfer {
        let width = if self.wide { 2 } else { 1 };
        let mut done = Transfer::default();
        while self.ready(n) && done.bytes + width <= len && !done.terminal_count {
            each(self.address(n), done.bytes..done.bytes + width);
            done.bytes += width;
            done.terminal_count = self.st.channels[n].step();
        }
        if done.terminal_count {
            self.st.status |= 1 << n;
            if self.st.channels[n].mode & MODE_AUTO == 0 {
                self.st.mask |= 1 << n;
            }
        }
        done
    }
}

impl Device for I8237 {
    fn read(&mut self, region: u32, offset: u64, _: u8) -> u64 {
        let register = offset >> u32::from(self.wide);
        let value = match region {
            CHANNEL_REGION => self.read_channel(register),
            CONTROL_REGION => match register {
                reg::STATUS_COMMAND => {
                    let status = self.st.status;
                    self.st.status &= 0xf0;
                    status
                }
                reg::REQUEST => self.st.mask,
                _ => 0,
            },
            _ => {
                let channel = self.page_channel(0x80 + u64::from(region - PAGE_REGION) + offset);
                channel.map_or(0, |channel| self.st.channels[channel].page)
            }
        };
        value.into()
    }

    fn write(&mut self, region: u32, offset: u64, _: u8, value: u64) {
        let (register, value) = (offset >> u32::from(self.wide), value as u8);
        match region {
            CHANNEL_REGION => self.write_channel(register, value),
            CONTROL_REGION => self.write_control(register, value),
            _ => {
                let channel = self.page_channel(0x80 + u64::from(region - PAGE_REGION) + offset);
                if let Some(channel) = channel {
                    self.st.channels[channel].page = value;
                }
            }
        }
    }

    fn reset(&mut self) {
        self.st = I8237State::at_reset();
    }
}

/// What a device moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that were moved.
    pub bytes: usize,
    /// The count ran out with the last of them.
    pub terminal_count: bool,
}

/// A device's end of a channel. Calls may be made with the device's lock held.
#[derive(Clone)]
pub struct DmaChannel {
    controller: Shared<I8237>,
    dma: Dma,
    n: usize,
}

impl DmaChannel {
    /// Raises or lowers the device's request, which the guest sees in the status register.
    pub fn set_request(&self, request: bool) {
        let bit = 0x10 << self.n;
        let status = &mut self.controller.lock().st.status;
        *status = if request { *status | bit } else { *status & !bit };
    }

    /// Which way the guest has programmed the channel, if it lets it run.
    pub fn direction(&self) -> Option<Direction> {
        let controller = self.controller.lock();
        let ready = controller.ready(self.n);
        controller.st.channels[self.n].direction().filter(|_| ready)
    }

    /// The device gives `data`; it reaches memory if the mode says so.
    pub fn write(&self, data: &[u8]) -> Transfer {
        let mut controller = self.controller.lock();
        let store = controller.st.channels[self.n].direction() == Some(Direction::ToMemory);
        controller.transfer(self.n, data.len(), |at, piece| {
            if store {
                self.dma.write(at, &data[piece]);
            }
        })
    }

    /// The device takes bytes; they come from memory if the mode says so, and are ones otherwise.
    pub fn read(&self, buf: &mut [u8]) -> Transfer {
        let mut controller = self.controller.lock();
        let fetch = controller.st.channels[self.n].direction() == Some(Direction::FromMemory);
        controller.transfer(self.n, buf.len(), |at, piece| {
            if fetch {
                self.dma.read(at, &mut buf[piece]);
            } else {
                buf[piece].fill(0xff);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::memory::{AddressSpace, RamBlock};
    use proptest::prelude::*;

    use super::*;

    struct Bed {
        ports: AddressSpace,
        memory: AddressSpace,
        pair: DmaPair,
    }

    fn bed() -> Bed {
        let ram = RamBlock::anonymous("ram", 0x10_0000).unwrap();
        let memory = AddressSpace::new("memory", Region::ram(Arc::new(ram)));
        let io = Region::container("io", 1 << 16);
        let pair = DmaPair::create(Dma::new(memory.clone()));
        pair.ports.iter().for_each(|(at, region)| io.add(region, *at, 0));
        Bed { ports: AddressSpace::with_unassigned("I/O", io, 0xff), memory, pair }
    }

    impl Bed {
        fn outb(&self, port: u64, value: u8) {
            self.ports.write_uint(port, 1, value.into());
        }
        fn inb(&self, port: u64) -> u8 {
            self.ports.read_uint(port, 1) as u8
        }
        fn program(&self, mode: u8, address: u32, count: u16) {
            self.outb(0x0c, 0);
            self.outb(0x0b, mode | 2);
            [address, address >> 8].iter().for_each(|&byte| self.outb(0x04, byte as u8));
            [count, count >> 8].iter().for_each(|&byte| self.outb(0x05, byte as u8));
            self.outb(0x81, (address >> 16) as u8);
            self.outb(0x0a, 2);
        }
    }

    /// Values read from QEMU 10.0.2.
    #[test]
    fn registers_after_power_up() {
        let bed = bed();
        for port in [0x00, 0x08, 0x0a, 0x0d, 0x0f, 0x81, 0x8f, 0xc0, 0xc1, 0xd0, 0xd4, 0xdf] {
            assert_eq!(bed.inb(port), 0, "{port:#x}");
        }
        for port in [0x09, 0xd2, 0xd3, 0x80, 0x84, 0x86, 0x88, 0x8c] {
            assert_eq!(bed.inb(port), 0xff, "{port:#x}");
        }
    }

    /// Values read from QEMU 10.0.2.
    #[test]
    fn the_flip_flop_is_shared_and_masks_work() {
        let bed = bed();
        for (port, value) in [(0x0c, 0), (0x04, 0x34), (0x04, 0x12), (0x05, 0x78), (0x05, 0x56)] {
            bed.outb(port, value);
        }
        assert_eq!([0x04, 0x05, 0x04, 0x05].map(|port| bed.inb(port)), [0x34, 0x56, 0x34, 0x56]);
        for (port, value, mask) in
            [(0x0a, 2, 0xfb), (0x0e, 0, 0x00), (0x0a, 6, 0x04), (0x0f, 5, 0x05), (0x0d, 0, 0xff)]
        {
            bed.outb(port, value);
            assert_eq!(bed.inb(0x09), mask, "{port:#x}");
        }
        bed.outb(0x09, 6);
        assert_eq!((bed.inb(0x08), bed.inb(0x08)), (0x40, 0x40));
        bed.outb(0x89, 0x19);
        assert_eq!(
            (bed.inb(0x89), bed.pair.controllers[1].lock().st.channels[2].page),
            (0x19, 0x19)
        );
    }

    #[test]
    fn a_transfer_ends_at_the_terminal_count() {
        let bed = bed();
        let channel = bed.pair.channel(2).unwrap();
        assert_eq!(channel.direction(), None, "masked");
        bed.program(0x44, 0x2_1000, 3);
        assert_eq!(channel.direction(), Some(Direction::ToMemory));
        assert_eq!(channel.write(&[1, 2]), Transfer { bytes: 2, terminal_count: false });
        assert_eq!(channel.write(&[3, 4, 5]), Transfer { bytes: 2, terminal_count: true });
        assert_eq!(bed.memory.read_uint(0x2_1000, 8), 0x0403_0201);
        assert_eq!((bed.inb(0x08), bed.inb(0x08)), (0x04, 0), "reading clears");
        assert_eq!(channel.write(&[6]), Transfer::default(), "masked by itself");
    }

    #[test]
    fn auto_mode_starts_over_and_addresses_may_count_down() {
        let bed = bed();
        bed.memory.write_uint(0x3000, 4, 0xdead_beef);
        let channel = bed.pair.channel(2).unwrap();
        bed.program(0x58 | MODE_DECREMENT, 0x3003, 3);
        for _ in 0..2 {
            let mut buf = [0; 4];
            assert!(channel.read(&mut buf).terminal_count);
            assert_eq!(buf, [0xde, 0xad, 0xbe, 0xef]);
        }
    }

    #[test]
    fn the_page_does_not_count() {
        let bed = bed();
        bed.program(0x44, 0x1_ffff, 1);
        bed.pair.channel(2).unwrap().write(&[7, 8]);
        assert_eq!((bed.memory.read_uint(0x1_ffff, 1), bed.memory.read_uint(0x1_0000, 1)), (7, 8));
    }

    #[test]
    fn the_second_controller_moves_words() {
        let bed = bed();
        for (port, value) in [
            (0xd8, 0),
            (0xd6, 0x45),
            (0xc4, 0x00),
            (0xc4, 0x08),
            (0xc6, 1),
            (0xc6, 0),
            (0x8b, 0x05),
            (0xd4, 1),
        ] {
            bed.outb(port, value);
        }
        let done = bed.pair.channel(5).unwrap().write(&[1, 2, 3, 4, 5]);
        assert_eq!(done, Transfer { bytes: 4, terminal_count: true });
        assert_eq!(bed.memory.read_uint(0x4_1000, 8), 0x0403_0201);
        assert!(bed.pair.channel(4).is_none() && bed.pair.channel(8).is_none());
    }

    proptest! {
        #[test]
        fn any_access_is_survived(
            accesses in prop::collection::vec((0u64..0xe0, any::<u8>(), 0usize..64), 1..60)
        ) {
            let bed = bed();
            for (port, value, len) in accesses {
                bed.outb(port, value);
                bed.inb(port);
                for n in 0..CHANNELS {
                    if let Some(channel) = bed.pair.channel(n) {
                        prop_assert!(channel.write(&vec![value; len]).bytes <= len);
                        prop_assert!(channel.read(&mut vec![0; len]).bytes <= len);
                    }
                }
            }
            for controller in &bed.pair.controllers {
                controller.lock().reset();
                prop_assert_eq!(&controller.lock().st, &I8237State::at_reset());
            }
        }
    }
}
