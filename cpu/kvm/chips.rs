//! The 8259 pair, the I/O APIC and the interval timer of the kernel: their registers, state and reset.
#![allow(unsafe_code)]
// Unsafe: the chips travel in a union, of which the bytes are read.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip, kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use super::error::KvmError;
use super::routes::PINS;
use super::vm::{Irqchip, KvmVm};

/// Registers of one of the 8259 pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelPic {
    /// Levels of the inputs.
    pub inputs: u8,
    /// Interrupts that were requested.
    pub irr: u8,
    /// Inputs that are masked.
    pub imr: u8,
    /// Interrupts in service.
    pub isr: u8,
    /// The input of the highest priority.
    pub highest: u8,
    /// The vector of input 0.
    pub vector_base: u8,
    /// Whether port 0 shows the interrupts in service.
    pub read_isr: bool,
    /// Whether the next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// The initialisation word that is expected next, or 0.
    pub expect: u8,
    /// Interrupts end as they are acknowledged.
    pub auto_eoi: bool,
    /// They are lowest in priority then.
    pub rotate_on_auto_eoi: bool,
    /// Special fully nested mode.
    pub special_nested: bool,
    /// A fourth initialisation word follows.
    pub needs_icw4: bool,
    /// Which inputs are level-triggered.
    pub elcr: u8,
}

impl KernelPic {
    /// From `struct kvm_pic_state`, which is bytes.
    fn parse(bytes: &[u8]) -> Self {
        let byte = |n: usize| bytes.get(n).copied().unwrap_or(0);
        let flag = |n| byte(n) != 0;
        KernelPic {
            inputs: byte(0),
            irr: byte(1),
            imr: byte(2),
            isr: byte(3),
            highest: byte(4),
            vector_base: byte(5),
            read_isr: flag(6),
            poll: flag(7),
            special_mask: flag(8),
            expect: byte(9),
            auto_eoi: flag(10),
            rotate_on_auto_eoi: flag(11),
            special_nested: flag(12),
            needs_icw4: flag(13),
            elcr: byte(14),
        }
    }
}

/// Registers of the I/O APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelIoapic {
    /// The index register.
    pub select: u8,
    /// Its number.
    pub id: u8,
    /// Interrupts that were requested.
    pub irr: u32,
    /// The redirection entries.
    pub entries: [u64; PINS as usize],
}

impl KernelIoapic {
    /// From `struct kvm_ioapic_state`: address, index, number, requests, filling, entries.
    fn parse(bytes: &[u8]) -> Self {
        const ENTRIES: usize = 24;
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let entry = |n: usize| {
            let at = ENTRIES + 8 * n;
            u64::from(word(at)) | u64::from(word(at + 4)) << 32
        };
        KernelIoapic {
            select: word(8) as u8,
            id: word(12) as u8,
            irr: word(16),
            entries: std::array::from_fn(entry),
        }
    }
}

impl KvmVm {
    /// The registers of one of the 8259 pair.
    pub fn pic(&self, primary: bool) -> Result<KernelPic, KvmError> {
        let chip = if primary { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
        Ok(KernelPic::parse(&bytes(&read_chip(&self.fd, chip)?)))
    }

    /// The registers of the I/O APIC.
    pub fn ioapic(&self) -> Result<KernelIoapic, KvmError> {
        Ok(KernelIoapic::parse(&bytes(&read_chip(&self.fd, KVM_IRQCHIP_IOAPIC)?)))
    }
}

fn bytes(chip: &kvm_irqchip) -> [u8; 512] {
    // SAFETY: the union has one member, whose bytes the kernel and `Default` have written.
    let bytes = unsafe { chip.chip.dummy };
    bytes.map(|byte| byte as u8)
}

fn read_chip(fd: &VmFd, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    fd.get_irqchip(&mut chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
    Ok(chip)
}

/// All that the kernel's controllers and interval timer remember, in the kernel's form.
#[derive(Clone, Default)]
pub struct ChipState {
    controllers: Vec<kvm_irqchip>,
    pub(super) timer: Option<kvm_pit_state2>,
}

impl ChipState {
    /// Reads what there is.
    pub(super) fn read(fd: &VmFd, controllers: bool, timer: bool) -> Result<Self, KvmError> {
        let all = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        let chosen = all.into_iter().filter(|_| controllers);
        let controllers = chosen.map(|chip| read_chip(fd, chip)).collect::<Result<_, _>>()?;
        let timer = timer.then(|| fd.get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2")));
        Ok(ChipState { controllers, timer: timer.transpose()? })
    }

    /// Puts it back; a counter goes on from its initial value.
    pub(super) fn write(&self, fd: &VmFd) -> Result<(), KvmError> {
        for chip in &self.controllers {
            fd.set_irqchip(chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))?;
        }
        match &self.timer {
            Some(timer) => fd.set_pit2(timer).map_err(KvmError::ioctl("KVM_SET_PIT2")),
            None => Ok(()),
        }
    }
}

impl KvmVm {
    /// The state of the kernel's 8259 pair, I/O APIC and interval timer. The processors must stand
    /// still.
    pub fn chips(&self) -> Result<ChipState, KvmError> {
        ChipState::read(&self.fd, self.irqchip == Irqchip::Kernel, self.pit)
    }

    /// Restores such a state. The processors must stand still.
    pub fn set_chips(&self, state: &ChipState) -> Result<(), KvmError> {
        state.write(&self.fd)
    }

    /// Resets these chips. The processors must stand still.
    pub fn reset_chips(&self) -> Result<(), KvmError> {
        self.set_chips(&self.fresh_chips)
    }
}
