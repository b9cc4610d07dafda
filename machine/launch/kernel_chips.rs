//! Interrupt controllers that the kernel has instead of the board.

use cpu::kvm::{KvmError, KvmVm};
use hw::intc::i8259::ChipState;
use hw::intc::ioapic::IoapicState;

/// The registers of one of the kernel's 8259 pair.
fn pic(kvm: &KvmVm, primary: bool) -> Result<ChipState, KvmError> {
    let pic = kvm.pic(primary)?;
    Ok(ChipState {
        inputs: pic.inputs,
        irr: pic.irr,
        imr: pic.imr,
        isr: pic.isr,
        elcr: pic.elcr,
        vector_base: pic.vector_base,
        highest: pic.highest,
        read_isr: pic.read_isr,
        poll: pic.poll,
        special_mask: pic.special_mask,
        auto_eoi: pic.auto_eoi,
        rotate_on_auto_eoi: pic.rotate_on_auto_eoi,
        special_nested: pic.special_nested,
        expect: pic.expect,
        needs_icw4: pic.needs_icw4,
        single: false,
    })
}

fn ioapic(kvm: &KvmVm) -> Result<IoapicState, KvmError> {
    let ioapic = kvm.ioapic()?;
    Ok(IoapicState {
        id: ioapic.id,
        select: ioapic.select,
        inputs: ioapic.irr,
        irr: ioapic.irr,
        entries: ioapic.entries,
    })
}

/// What people read about one of the 8259 pair.
pub(super) fn report_pic(kvm: &KvmVm, primary: bool) -> String {
    pic(kvm, primary).map_or_else(unreadable, |pic| pic.report(primary))
}

/// What people read about the I/O APIC.
pub(super) fn report_ioapic(kvm: &KvmVm) -> String {
    ioapic(kvm).map_or_else(unreadable, |ioapic| ioapic.report())
}

fn unreadable(error: KvmError) -> String {
    format!("{error}\n")
}
