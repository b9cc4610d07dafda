//! The educational PCI device, for courses on drivers (QEMU's "EDU device" specification).

use std::sync::Arc;

use base::clock::{ClockKind, Clocks, Timer};
use base::device::{self, Device};
use base::interrupt::MsiSink;
use base::memory::AccessSizes;
use base::props::Props;
use base::state::State;

use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, Msi, PciBus, PciDevice, PciError, PciProps, PciWires, ids,
};

const BAR_SIZE: u64 = 1 << 20;
/// Registers from here on may be accessed by 64 bits.
const WIDE: u64 = 0x80;
/// Where the buffer is in the device's own address space.
const BUFFER: u64 = 0x40000;
const BUFFER_SIZE: usize = 4096;
/// How long a transfer takes.
const TRANSFER_TIME: i64 = 100_000_000;

mod reg {
    pub const IDENTIFICATION: u64 = 0x00;
    pub const LIVENESS: u64 = 0x04;
    pub const FACTORIAL: u64 = 0x08;
    pub const STATUS: u64 = 0x20;
    pub const INTERRUPTS: u64 = 0x24;
    pub const RAISE: u64 = 0x60;
    pub const ACKNOWLEDGE: u64 = 0x64;
    pub const DMA_SOURCE: u64 = 0x80;
    pub const DMA_DESTINATION: u64 = 0x88;
    pub const DMA_COUNT: u64 = 0x90;
    pub const DMA_COMMAND: u64 = 0x98;
}

/// Major and minor version, and the device's mark.
const IDENTIFICATION: u32 = 0x0100_00ed;
const STATUS_INTERRUPT: u32 = 0x80;
const FACTORIAL_DONE: u32 = 0x001;
const TRANSFER_DONE: u32 = 0x100;

const DMA_RUN: u64 = 1;
/// From the device to memory.
const DMA_TO_MEMORY: u64 = 1 << 1;
const DMA_INTERRUPT: u64 = 1 << 2;

const IDENTITY: Identity = Identity {
    vendor: ids::TEACHING,
    device: ids::TEACHING_EDU,
    revision: 0x10,
    class: 0x00ff00,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 1,
};

/// Properties of `edu`.
#[derive(Debug, Props)]
pub struct EduProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// Bits of an address that the device can drive.
    #[prop(default = (1 << 28) - 1, hide_default)]
    pub dma_mask: u64,
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct EduState {
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    dma_source: u64,
    dma_destination: u64,
    dma_count: u64,
    dma_command: u64,
    buffer: Vec<u8>,
}

impl EduState {
    fn at_reset() -> Self {
        EduState { buffer: vec![0; BUFFER_SIZE], ..EduState::default() }
    }
}

/// The device.
pub struct Edu {
    dma_mask: u64,
    wires: PciWires,
    msi: Msi,
    clocks: Clocks,
    transfer: Timer,
    st: EduState,
}

impl Edu {
    /// Plugs the device.
    pub fn plug(
        bus: &PciBus,
        props: &EduProps,
        msi: Arc<dyn MsiSink>,
        clocks: &Clocks,
    ) -> Result<(), PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        config.add_bar(0, Bar { kind: BarKind::Memory32 { prefetchable: false }, size: BAR_SIZE });
        let msi = Msi::add(&mut config, msi);
        bus.plug("edu", &props.pci, config, |wires| {
            let device = device::share(|me| Edu {
                dma_mask: props.dma_mask,
                wires,
                msi,
                clocks: clocks.clone(),
                transfer: device::timer(me, clocks, ClockKind::Virtual, Edu::transfer),
                st: EduState::at_reset(),
            });
            let region = device::region(&device, 0, "edu-mmio", BAR_SIZE, AccessSizes::ANY);
            (device, vec![(0, region)])
        })?;
        Ok(())
    }

    fn raise(&mut self, interrupts: u32) {
        self.st.interrupts |= interrupts;
        if self.st.interrupts == 0 {
            return;
        }
        if self.msi.enabled() {
            self.msi.send();
        } else {
            self.wires.intx.raise();
        }
    }

    fn acknowledge(&mut self, interrupts: u32) {
        self.st.interrupts &= !interrupts;
        if self.st.interrupts == 0 && !self.msi.enabled() {
            self.wires.intx.lower();
        }
    }

    fn running(&self) -> bool {
        self.st.dma_command & DMA_RUN != 0
    }

    /// The piece of the buffer that a transfer touches, if it lies inside.
    fn buffer(&mut self, at: u64) -> Option<&mut [u8]> {
        let start = usize::try_from(at.checked_sub(BUFFER)?).ok()?;
        let end = start.checked_add(usize::try_from(self.st.dma_count).ok()?)?;
        self.st.buffer.get_mut(start..end)
    }

    fn transfer(&mut self) {
        if !self.running() {
            return;
        }
        let dma = self.wires.dma.clone();
        let (source, destination) = (self.st.dma_source, self.st.dma_destination);
        let mask = self.dma_mask;
        // A transfer that leaves the buffer does not happen, but ends like any other.
        if self.st.dma_command & DMA_TO_MEMORY != 0 {
            if let Some(bytes) = self.buffer(source) {
                dma.write(destination & mask, bytes);
            }
        } else if let Some(bytes) = self.buffer(destination) {
            dma.read(source & mask, bytes);
        }
        self.st.dma_command &= !DMA_RUN;
        if self.st.dma_command & DMA_INTERRUPT != 0 {
            self.raise(TRANSFER_DONE);
        }
    }

    fn write_dma(&mut self, offset: u64, value: u64) {
        if self.running() {
            return;
        }
        match offset {
            reg::DMA_SOURCE => self.st.dma_source = value,
            reg::DMA_DESTINATION => self.st.dma_destination = value,
            reg::DMA_COUNT => self.st.dma_count = value,
            reg::DMA_COMMAND if value & DMA_RUN != 0 => {
                self.st.dma_command = value;
                self.transfer.set(self.clocks.now_virtual() + TRANSFER_TIME);
            }
            _ => {}
        }
    }
}

/// Modulo 2³², of which every factorial from 34 on is a multiple.
fn factorial(n: u32) -> u32 {
    (1..=n).take_while(|&i| i <= 34).fold(1, u32::wrapping_mul)
}

impl Device for Edu {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        if !(size == 4 || size == 8 && offset >= WIDE) {
            return u64::MAX;
        }
        match offset {
            reg::IDENTIFICATION => IDENTIFICATION.into(),
            reg::LIVENESS => self.st.liveness.into(),
            reg::FACTORIAL => self.st.factorial.into(),
            reg::STATUS => self.st.status.into(),
            reg::INTERRUPTS => self.st.interrupts.into(),
            reg::DMA_SOURCE => self.st.dma_source,
            reg::DMA_DESTINATION => self.st.dma_destination,
            reg::DMA_COUNT => self.st.dma_count,
            reg::DMA_COMMAND => self.st.dma_command,
            _ => u64::MAX,
        }
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        if !(size == 4 || size == 8 && offset >= WIDE) {
            return;
        }
        let word = value as u32;
        match offset {
            reg::LIVENESS => self.st.liveness = !word,
            reg::FACTORIAL => {
                self.st.factorial = factorial(word);
                if self.st.status & STATUS_INTERRUPT != 0 {
                    self.raise(FACTORIAL_DONE);
                }
            }
            reg::STATUS => self.st.status = word & STATUS_INTERRUPT,
            reg::RAISE => self.raise(word),
            reg::ACKNOWLEDGE => self.acknowledge(word),
            _ => self.write_dma(offset, value),
        }
    }

    fn reset(&mut self) {
        self.transfer.cancel();
        self.st = EduState::at_reset();
        self.wires.intx.lower();
    }
}

impl PciDevice for Edu {
    fn config_written(&mut self, config: &mut ConfigSpace, _: usize, _: u8) {
        self.msi.follow(config);
    }
}

#[cfg(test)]
mod tests;
