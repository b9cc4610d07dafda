//! Control transfers and events against hand-built tables.

use crate::core::{Trap, vector};
use crate::flags::bit;
use crate::state::{Seg, Segment, TableReg, attr, cr0, cr4, efer, gpr};
use crate::testing::{Machine, descriptor, gate};

const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const TSS2: u64 = 0xb000;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x18 | 3;
const DATA3: u16 = 0x20 | 3;
const CONFORMING: u16 = 0x28;
const TSS_SEL: u16 = 0x30;
const TSS2_SEL: u16 = 0x40;
const GATE: u16 = 0x50;
const LDT: u16 = 0x60;
const CODE64: u16 = 0x70;
const NOT_PRESENT: u16 = 0x78;

fn flat(kind: u16, dpl: u16, size: u16) -> u64 {
    let present = attr::PRESENT | attr::S | attr::GRANULAR;
    descriptor(0, 0xf_ffff, present | kind | dpl << attr::DPL_SHIFT | size)
}

fn tables(m: &mut Machine) {
    let put = |selector: u16, value| m.poke(GDT + u64::from(selector & 0xfff8), value);
    put(CODE0, flat(0xa, 0, attr::BIG));
    put(DATA0, flat(2, 0, attr::BIG));
    put(CODE3, flat(0xa, 3, attr::BIG));
    put(DATA3, flat(2, 3, attr::BIG));
    put(CONFORMING, flat(0xe, 0, attr::BIG));
    put(TSS_SEL, descriptor(TSS as u32, 0x1067, attr::PRESENT | 9));
    put(TSS2_SEL, descriptor(TSS2 as u32, 0x67, attr::PRESENT | 9 | 3 << attr::DPL_SHIFT));
    put(LDT, descriptor(0xc000, 0xff, attr::PRESENT | 2));
    put(CODE64, flat(0xa, 0, attr::LONG));
    put(NOT_PRESENT, flat(2, 0, attr::BIG) & !(u64::from(attr::PRESENT) << 40));
    m.state.gdtr = TableReg { base: GDT, limit: 0xff };
    m.state.idtr = TableReg { base: IDT, limit: 0x7ff };
    m.state.tr = Segment { selector: TSS_SEL, base: TSS, limit: 0x1067, attr: 0x8b };
    m.poke32(TSS + 4, 0x7000);
    m.poke32(TSS + 8, DATA0.into());
    m.poke32(TSS + 0x64, 0x68 << 16);
    for i in 0..0x1f0 {
        m.poke(TSS + 0x68 + i * 8, u64::MAX);
    }
    m.state.regs[gpr::RSP] = 0x6000;
    m.state.rip = 0x1000;
}

fn protected(cpl: u8) -> Machine {
    let mut m = Machine::new().protected(cpl);
    tables(&mut m);
    if cpl == 3 {
        m.state.seg[Seg::Ss as usize].selector = DATA3;
    }
    m
}

/// 64-bit mode with the first 1 GiB mapped onto itself.
fn long(cpl: u8) -> Machine {
    let mut m = Machine::new().long(cpl, 0x1000);
    m.poke(0x1000, 0x2000 | 7);
    m.poke(0x2000, 0x3000 | 7);
    for i in 0..512 {
        m.poke(0x3000 + 8 * i, i << 21 | 0x87);
    }
    tables(&mut m);
    m.poke(TSS + 4, 0x7008);
    m.poke(TSS + 0x24, 0x7800);
    m
}

fn idt32(m: &Machine, vector: u8, value: u64) {
    m.poke(IDT + 8 * u64::from(vector), value);
}

fn idt64(m: &Machine, vector: u8, selector: u16, offset: u64, dpl: u16, ist: u32) {
    m.poke(IDT + 16 * u64::from(vector), gate(selector, offset as u32, 0xe, dpl, ist));
    m.poke(IDT + 16 * u64::from(vector) + 8, offset >> 32);
}

#[test]
fn test_load_segment_checks() {
    let mut m = protected(3);
    let gp = |selector: u16| (vector::GP, Some(u32::from(selector & 0xfffc)));
    m.load_seg(Seg::Ds, DATA3).unwrap();
    assert_eq!(m.state.seg[Seg::Ds as usize].limit, u32::MAX);
    // The accessed bit was set in the table.
    assert_ne!(m.peek(GDT + 0x20) >> 40 & 1, 0);
    assert_eq!(m.fault_of(|c| c.load_seg(Seg::Ds, DATA0)), gp(DATA0));
    assert_eq!(m.fault_of(|c| c.load_seg(Seg::Ds, 0x100)), gp(0x100));
    assert_eq!(m.fault_of(|c| c.load_seg(Seg::Ds, TSS_SEL)), gp(TSS_SEL));
    assert_eq!(m.fault_of(|c| c.load_seg(Seg::Ss, 0)), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.load_seg(Seg::Ds, 0xc)), gp(0xc));
    m.load_seg(Seg::Es, 0).unwrap();
    assert_eq!(m.fault_of(|c| c.lin(Seg::Es, 0, 1, false)), (vector::GP, Some(0)));
    let mut m = protected(0);
    assert_eq!(
        m.fault_of(|c| c.load_seg(Seg::Ds, NOT_PRESENT)),
        (vector::NP, Some(NOT_PRESENT.into()))
    );
    assert_eq!(
        m.fault_of(|c| c.load_seg(Seg::Ss, NOT_PRESENT)),
        (vector::SS, Some(NOT_PRESENT.into()))
    );
    m.load_seg(Seg::Ss, DATA0).unwrap();
    assert!(m.state.interrupt_shadow);
}

#[test]
fn test_limits() {
    let mut m = protected(0);
    let data = attr::PRESENT | attr::S | 3 | attr::BIG;
    m.state.seg[Seg::Ds as usize] = Segment { selector: 8, base: 0x100, limit: 0xfff, attr: data };
    m.update_mode();
    assert_eq!(m.lin(Seg::Ds, 0xffc, 4, true), Ok(0x10fc));
    assert_eq!(m.fault_of(|c| c.lin(Seg::Ds, 0xffd, 4, true)), (vector::GP, Some(0)));
    // Expand-down: what is above the limit.
    m.state.seg[Seg::Ds as usize].attr = data | 4;
    m.update_mode();
    assert_eq!(m.lin(Seg::Ds, 0x1000, 4, true), Ok(0x1100));
    assert_eq!(m.fault_of(|c| c.lin(Seg::Ds, 0xfff, 1, true)), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.lin(Seg::Ds, 0xffff_ffff, 2, true)), (vector::GP, Some(0)));
    // Code is not writable.
    assert_eq!(m.fault_of(|c| c.lin(Seg::Cs, 0, 1, true)), (vector::GP, Some(0)));
    assert!(m.mode.flat_read & 2 != 0 && m.mode.flat_write & 2 == 0);
}

#[test]
fn test_real_mode_interrupt_and_iret() {
    let mut m = Machine::new();
    m.state.idtr = TableReg { base: 0, limit: 0x3ff };
    m.poke32(0x21 * 4, 0x1234_5678);
    m.state.regs[gpr::RSP] = 0x1000;
    m.state.rip = 0x77;
    m.set_flag(bit::IF | bit::CF, true);
    m.soft_int(0x21).unwrap();
    assert_eq!((m.state.seg[1].selector, m.state.rip), (0x1234, 0x5678));
    assert!(!m.flag(bit::IF) && m.flag(bit::CF));
    assert_eq!(m.state.regs[gpr::RSP], 0xffa);
    assert_eq!(m.peek(0xffa) & 0xffff_ffff, 0xf000_0077);
    m.iret(2).unwrap();
    assert_eq!((m.state.seg[1].base, m.state.rip), (0xf0000, 0x77));
    assert!(m.flag(bit::IF));
    // Beyond the table.
    m.state.idtr.limit = 0x80;
    assert_eq!(m.fault_of(|c| c.soft_int(0x21)).0, vector::GP);
}

#[test]
fn test_interrupt_from_ring_3_and_back() {
    let mut m = protected(3);
    idt32(&m, 0x30, gate(CODE0, 0x4444, 0xe, 0, 0));
    m.set_flag(bit::IF, true);
    m.load_seg(Seg::Ds, DATA3).unwrap();
    assert_eq!(m.fault_of(|c| c.soft_int(0x30)), (vector::GP, Some(0x30 * 8 + 2)));
    m.deliver_interrupt(0x30).unwrap();
    assert_eq!((m.mode.cpl, m.state.rip, m.state.regs[gpr::RSP]), (0, 0x4444, 0x6fec));
    assert!(!m.flag(bit::IF));
    assert_eq!(m.peek32(0x6fec), 0x1000);
    assert_eq!(m.peek32(0x6ff0), 0xb);
    assert_eq!(m.peek32(0x6ff8), 0x6000);
    assert_eq!(m.peek32(0x6ffc), u32::from(DATA3));
    m.poke32(0x6ff0, CODE3.into());
    m.load_seg(Seg::Es, DATA0).unwrap();
    m.iret(4).unwrap();
    assert_eq!((m.mode.cpl, m.state.rip, m.state.regs[gpr::RSP]), (3, 0x1000, 0x6000));
    assert!(m.flag(bit::IF));
    // Segments too privileged for the caller are gone, others stay.
    assert!(!m.state.seg[Seg::Es as usize].present());
    assert!(m.state.seg[Seg::Ds as usize].present());
}

#[test]
fn test_fault_pushes_error_code_and_resume_flag() {
    let mut m = protected(0);
    idt32(&m, vector::GP, gate(CODE0, 0x5000, 0xf, 0, 0));
    m.set_flag(bit::IF, true);
    let trap = m.gp(0x18);
    assert_eq!(trap, Trap::Exception);
    m.deliver_fault().unwrap();
    assert_eq!(m.state.regs[gpr::RSP], 0x5ff0);
    assert_eq!(m.peek32(0x5ff0), 0x18);
    assert_ne!(m.peek32(0x5ffc) as u64 & bit::RF, 0);
    // A trap gate leaves IF alone.
    assert!(m.flag(bit::IF));
}

#[test]
fn test_double_and_triple_fault() {
    let mut m = protected(0);
    // #GP has no present gate: #NP during #GP is a double fault.
    idt32(&m, vector::DF, gate(CODE0, 0x6660, 0xe, 0, 0));
    idt32(&m, vector::GP, gate(CODE0, 0, 0xe, 0, 0) & !(u64::from(attr::PRESENT) << 40));
    m.gp(0);
    m.deliver_fault().unwrap();
    assert_eq!(m.state.rip, 0x6660);
    assert_eq!(m.peek32(m.state.regs[gpr::RSP]), 0);
    // And without a gate for #DF the processor shuts down.
    idt32(&m, vector::DF, 0);
    m.gp(0);
    assert_eq!(m.deliver_fault(), Err(Trap::Shutdown));
    assert!(m.shutdown);
}

#[test]
fn test_benign_events_do_not_double() {
    let mut m = protected(0);
    idt32(&m, vector::NP, gate(CODE0, 0x7770, 0xe, 0, 0));
    idt32(&m, 0x41, gate(CODE0, 0, 0xe, 0, 0) & !(u64::from(attr::PRESENT) << 40));
    m.deliver_interrupt(0x41).unwrap();
    assert_eq!(m.state.rip, 0x7770);
    // EXT and IDT bits of the error code.
    assert_eq!(m.peek32(m.state.regs[gpr::RSP]), 0x41 * 8 + 3);
}

#[test]
fn test_interrupts_in_64_bit_mode() {
    let mut m = long(3);
    idt64(&m, 0x40, CODE64, 0x12_3450, 3, 0);
    idt64(&m, 0x41, CODE64, 0x12_3460, 0, 1);
    m.state.seg[Seg::Ss as usize].selector = DATA3;
    m.soft_int(0x40).unwrap();
    assert_eq!((m.mode.cpl, m.mode.code_bits), (0, 64));
    assert_eq!(m.state.rip, 0x12_3450);
    // The new stack is aligned to 16 bytes, SS is null.
    assert_eq!(m.state.regs[gpr::RSP], 0x7000 - 40);
    assert_eq!(m.state.seg[Seg::Ss as usize].selector, 0);
    m.deliver_interrupt(0x41).unwrap();
    assert_eq!(m.state.regs[gpr::RSP], 0x7800 - 40);
    m.iret(8).unwrap();
    assert_eq!((m.mode.cpl, m.state.regs[gpr::RSP]), (0, 0x7000 - 40));
    m.poke(0x7000 - 32, (CODE64 | 3).into());
    assert_eq!(m.fault_of(|c| c.iret(8)), (vector::GP, Some(CODE64.into())));
    m.poke(0x7000 - 32, CODE3.into());
    m.iret(8).unwrap();
    assert_eq!((m.mode.cpl, m.mode.code_bits, m.mode.stack_bits), (3, 32, 32));
}

#[test]
fn test_nmi_is_blocked_until_iret() {
    let mut m = protected(0);
    idt32(&m, vector::NMI, gate(CODE0, 0x3330, 0xe, 0, 0));
    m.poke32(0x5ff8, 0);
    m.state.seg[1].selector = CODE0;
    m.deliver_nmi().unwrap();
    assert!(m.state.nmi_blocked);
    assert_eq!(m.signal_mask & crate::signals::request::NMI, 0);
    m.iret(4).unwrap();
    assert!(!m.state.nmi_blocked);
    assert_eq!(m.state.rip, 0x1000);
}

#[test]
fn test_far_call_through_a_gate_copies_parameters() {
    let mut m = protected(3);
    let at = GDT + u64::from(GATE);
    m.poke(at, gate(CODE0, 0x8880, 0xc, 3, 2));
    m.poke32(0x6000, 0xaaaa);
    m.poke32(0x6004, 0xbbbb);
    m.far_call(GATE | 3, 0, 4).unwrap();
    assert_eq!((m.mode.cpl, m.state.rip), (0, 0x8880));
    assert_eq!(m.state.regs[gpr::RSP], 0x7000 - 24);
    let frame: Vec<u32> = (0..6).map(|i| m.peek32(0x7000 - 24 + 4 * i)).collect();
    assert_eq!(frame, [0x1000, 0xb, 0xaaaa, 0xbbbb, 0x6000, DATA3.into()]);
    m.poke32(0x7000 - 20, CODE3.into());
    m.far_ret(4, 8).unwrap();
    assert_eq!((m.mode.cpl, m.state.regs[gpr::RSP]), (3, 0x6008));
    // A jump through the gate cannot change the privilege level.
    assert_eq!(m.fault_of(|c| c.far_jmp(GATE | 3, 0, 4)), (vector::GP, Some(CODE0.into())));
}

#[test]
fn test_far_jumps() {
    let mut m = protected(3);
    m.far_jmp(CONFORMING, 0x1234, 4).unwrap();
    assert_eq!((m.mode.cpl, m.state.seg[1].selector), (3, CONFORMING | 3));
    assert_eq!(m.fault_of(|c| c.far_jmp(CODE0, 0, 4)), (vector::GP, Some(CODE0.into())));
    assert_eq!(m.fault_of(|c| c.far_jmp(DATA3, 0, 4)), (vector::GP, Some(0x20)));
    assert_eq!(m.fault_of(|c| c.far_jmp(0, 0, 4)), (vector::GP, Some(0)));
    let mut m = long(0);
    m.far_jmp(CODE0, 0x4_0000, 4).unwrap();
    assert_eq!(m.mode.code_bits, 32);
    m.far_jmp(CODE64, 0x5_0000, 4).unwrap();
    assert_eq!(m.mode.code_bits, 64);
}

#[test]
fn test_task_switch_and_return() {
    let mut m = protected(0);
    m.state.seg[1].selector = CODE0;
    m.poke32(TSS2 + 0x20, 0x2000);
    m.poke32(TSS2 + 0x24, 0x202);
    m.poke32(TSS2 + 0x28, 0x1111);
    m.poke32(TSS2 + 0x38, 0x5000);
    for (i, selector) in [DATA0, CODE0, DATA0, DATA0, 0, 0].into_iter().enumerate() {
        m.poke32(TSS2 + 0x48 + 4 * i as u64, selector.into());
    }
    m.poke32(TSS2 + 0x60, LDT.into());
    m.state.regs[gpr::RAX] = 0x9999;
    m.far_call(TSS2_SEL, 0, 4).unwrap();
    assert_eq!((m.state.rip, m.state.regs[gpr::RAX]), (0x2000, 0x1111));
    assert_eq!((m.state.tr.selector, m.state.ldtr.base), (TSS2_SEL, 0xc000));
    assert!(m.flag(bit::NT) && m.state.cr0 & cr0::TS != 0);
    assert_eq!(m.peek32(TSS2) & 0xffff, u32::from(TSS_SEL));
    assert_eq!(m.peek32(TSS + 0x28), 0x9999);
    // Both are busy: no way back but IRET.
    assert_eq!(m.fault_of(|c| c.far_jmp(TSS2_SEL, 0, 4)), (vector::GP, Some(TSS2_SEL.into())));
    // The outgoing task must be marked busy for the return.
    m.poke(GDT + u64::from(TSS_SEL), descriptor(TSS as u32, 0x1067, attr::PRESENT | 0xb));
    m.iret(4).unwrap();
    assert_eq!((m.state.rip, m.state.regs[gpr::RAX]), (0x1000, 0x9999));
    assert!(!m.flag(bit::NT));
    assert_eq!(m.peek(GDT + u64::from(TSS2_SEL)) >> 40 & 2, 0);
}

#[test]
fn test_task_gate_pushes_the_error_code() {
    let mut m = protected(0);
    m.state.seg[1].selector = CODE0;
    idt32(&m, vector::DF, gate(TSS2_SEL, 0, 5, 0, 0));
    m.poke32(TSS2 + 0x20, 0x2000);
    m.poke32(TSS2 + 0x38, 0x5000);
    for (i, selector) in [DATA0, CODE0, DATA0, DATA0, 0, 0].into_iter().enumerate() {
        m.poke32(TSS2 + 0x48 + 4 * i as u64, selector.into());
    }
    m.gp(0);
    m.deliver_fault().unwrap();
    assert_eq!((m.state.rip, m.state.regs[gpr::RSP]), (0x2000, 0x4ffc));
    assert_eq!(m.state.tr.selector, TSS2_SEL);
}

fn v86(iopl: u64) -> Machine {
    let mut m = protected(0);
    m.state.regs[gpr::RSP] = 0x5000;
    let flags = bit::VM | bit::IF | iopl << 12 | 2;
    let frame = [0x100, 0x2000, flags as u32, 0x800, 0x3000, 1, 2, 3, 4];
    for (i, value) in frame.into_iter().enumerate() {
        m.poke32(0x5000 + 4 * i as u64, value);
    }
    m.iret(4).unwrap();
    assert!(m.mode.v86);
    m
}

#[test]
fn test_v86_mode_and_its_interrupts() {
    let mut m = v86(0);
    assert_eq!((m.state.seg[1].base, m.state.seg[2].base), (0x2_0000, 0x3_0000));
    assert_eq!((m.mode.cpl, m.mode.code_bits), (3, 16));
    assert_eq!(m.fault_of(|c| c.soft_int(0x21)), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.cli()), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.flags_to_push(2)), (vector::GP, Some(0)));
    idt32(&m, 0x30, gate(CODE0, 0x4440, 0xe, 0, 0));
    m.deliver_interrupt(0x30).unwrap();
    assert!(!m.mode.v86 && m.mode.cpl == 0);
    assert_eq!(m.state.regs[gpr::RSP], 0x7000 - 36);
    assert_eq!(m.peek32(0x7000 - 4), 4);
    assert_eq!(m.state.seg[Seg::Ds as usize].selector, 0);
    m.iret(4).unwrap();
    assert!(m.mode.v86);
    assert_eq!(m.state.seg[Seg::Gs as usize].selector, 4);
}

#[test]
fn test_v86_extensions_redirect_interrupts() {
    let mut m = v86(0);
    m.state.cr4 |= cr4::VME;
    // The map follows at 0x88; the redirection bits lie in the 32 bytes before.
    m.poke32(TSS + 0x64, 0x88 << 16);
    for i in 0..4 {
        m.poke(TSS + 0x68 + 8 * i, 0);
    }
    m.poke32(0x21 * 4, 0x4000_0010);
    m.soft_int(0x21).unwrap();
    assert!(m.mode.v86);
    assert_eq!((m.state.seg[1].base, m.state.rip), (0x4_0000, 0x10));
    // The pushed image shows VIF as IF, and IOPL 3.
    let flags = m.peek(0x3_0000 + m.state.regs[gpr::RSP] + 4) as u16;
    assert_eq!(flags as u64 & bit::IOPL, bit::IOPL);
    assert_eq!(flags as u64 & bit::IF, 0);
    m.sti().unwrap();
    assert!(m.flag(bit::VIF));
    m.cli().unwrap();
    assert!(!m.flag(bit::VIF) && m.flag(bit::IF));
    // With the bit set, and IOPL below 3, it is a fault.
    m.poke(TSS + 0x68, u64::MAX);
    assert_eq!(m.fault_of(|c| c.soft_int(0x21)), (vector::GP, Some(0)));
}

#[test]
fn test_syscall_and_sysret() {
    let mut m = long(3);
    m.state.msr.star = 0x0013_0008 << 32;
    m.state.msr.lstar = 0x9_0000;
    m.state.msr.fmask = bit::IF | bit::DF;
    m.set_flag(bit::IF, true);
    m.syscall().unwrap();
    assert_eq!((m.mode.cpl, m.state.rip, m.state.regs[gpr::RCX]), (0, 0x9_0000, 0x1000));
    assert!(!m.flag(bit::IF) && m.state.regs[11] & bit::IF != 0);
    assert_eq!((m.state.seg[1].selector, m.state.seg[2].selector), (8, 0x10));
    m.sysret(8).unwrap();
    assert_eq!((m.mode.cpl, m.mode.code_bits, m.state.rip), (3, 64, 0x1000));
    assert_eq!((m.state.seg[1].selector, m.state.seg[2].selector), (0x23, 0x1b));
    assert!(m.flag(bit::IF));
    assert_eq!(m.fault_of(|c| c.sysret(8)), (vector::GP, Some(0)));
    m.state.msr.efer &= !efer::SCE;
    assert_eq!(m.fault_of(|c| c.syscall()), (vector::UD, None));
}

#[test]
fn test_sysenter_and_sysexit() {
    let mut m = protected(3);
    assert_eq!(m.fault_of(|c| c.sysenter()), (vector::GP, Some(0)));
    m.state.msr.sysenter_cs = 8;
    m.state.msr.sysenter_eip = 0xcafe;
    m.state.msr.sysenter_esp = 0x6ff0;
    m.sysenter().unwrap();
    assert_eq!((m.mode.cpl, m.state.rip, m.state.regs[gpr::RSP]), (0, 0xcafe, 0x6ff0));
    m.state.regs[gpr::RDX] = 0x1234;
    m.state.regs[gpr::RCX] = 0x5678;
    m.sysexit(4).unwrap();
    assert_eq!((m.mode.cpl, m.state.rip, m.state.regs[gpr::RSP]), (3, 0x1234, 0x5678));
    assert_eq!((m.state.seg[1].selector, m.state.seg[2].selector), (0x1b, 0x23));
}

#[test]
fn test_control_register_checks() {
    let mut m = protected(0);
    let gp = (vector::GP, Some(0));
    assert_eq!(m.fault_of(|c| c.write_cr(0, cr0::PG)), gp);
    assert_eq!(m.fault_of(|c| c.write_cr(0, cr0::PE | cr0::NW)), gp);
    assert_eq!(m.fault_of(|c| c.write_cr(4, 1 << 31)), gp);
    assert_eq!(m.fault_of(|c| c.write_cr(4, cr4::PCIDE)), gp);
    assert_eq!(m.fault_of(|c| c.write_cr(8, 16)), gp);
    assert_eq!(m.fault_of(|c| c.write_cr(1, 0)), (vector::UD, None));
    assert_eq!(m.read_cr(8), Ok(3));
    m.lmsw(0xe).unwrap();
    assert_eq!(m.state.cr0 & 0xf, 0xf);
    m.clts().unwrap();
    assert!(!m.mode.task_switched);
    // Long mode needs PAE before PG.
    m.wrmsr(0xc000_0080, efer::LME).unwrap();
    assert_eq!(m.fault_of(|c| c.write_cr(0, cr0::PE | cr0::PG)), gp);
    m.write_cr(4, cr4::PAE).unwrap();
    m.write_cr(0, cr0::PE | cr0::PG).unwrap();
    assert_ne!(m.state.msr.efer & efer::LMA, 0);
    assert!(m.mode.long);
    m.write_cr(0, cr0::PE).unwrap();
    assert_eq!(m.state.msr.efer & efer::LMA, 0);
    let mut m = protected(3);
    assert_eq!(m.fault_of(|c| c.read_cr(0)), gp);
    assert_eq!(m.fault_of(|c| c.hlt()), gp);
}

#[test]
fn test_debug_registers() {
    let mut m = protected(0);
    m.write_dr(7, !0 >> 32 & !(1 << 13)).unwrap();
    assert_eq!(m.read_dr(7), Ok(0xffff_0fff));
    assert_eq!(m.read_dr(4), m.read_dr(6));
    m.state.cr4 |= cr4::DE;
    assert_eq!(m.fault_of(|c| c.read_dr(4)), (vector::UD, None));
    m.write_dr(7, 1 << 13).unwrap();
    assert_eq!(m.fault_of(|c| c.read_dr(0)), (vector::DB, None));
    assert_ne!(m.state.dr[6] & 1 << 13, 0);
    assert!(m.read_dr(0).is_ok());
}

#[test]
fn test_msrs() {
    let mut m = protected(0);
    let gp = (vector::GP, Some(0));
    assert_eq!(m.fault_of(|c| c.rdmsr(0x1234_5678)), gp);
    assert_eq!(m.fault_of(|c| c.wrmsr(0x277, 2)), gp);
    m.wrmsr(0x277, 0x0007_0406_0007_0406).unwrap();
    assert_eq!(m.rdmsr(0xfe), Ok(0x508));
    m.wrmsr(0x200, 0x8000_0006).unwrap();
    m.wrmsr(0x201, 0xff_8000_0800).unwrap();
    assert_eq!(m.rdmsr(0x201), Ok(0xff_8000_0800));
    assert_eq!(m.fault_of(|c| c.wrmsr(0x201, 1 << 45)), gp);
    m.wrmsr(0x26f, 0x0606_0606_0606_0606).unwrap();
    assert_eq!(m.rdmsr(0x26f), Ok(0x0606_0606_0606_0606));
    assert_eq!(m.fault_of(|c| c.wrmsr(0x2ff, 2)), gp);
    assert_eq!(m.fault_of(|c| c.wrmsr(0xc000_0080, 1 << 5)), gp);
    assert_eq!(m.fault_of(|c| c.wrmsr(0xc000_0082, 1 << 60)), gp);
    m.wrmsr(0x10, 5).unwrap();
    assert_eq!(m.rdmsr(0x10), Ok(5));
    assert_eq!(m.rdtsc(), Ok(5));
    let adjust = m.state.msr.tsc_adjust;
    m.wrmsr(0x3b, adjust.wrapping_add(10)).unwrap();
    assert_eq!(m.rdtsc(), Ok(15));
    // x2APIC registers appear with the mode, which is entered through xAPIC only.
    assert_eq!(m.fault_of(|c| c.rdmsr(0x802)), gp);
    m.wrmsr(0x1b, 0xfee0_0c00).unwrap();
    assert_eq!(m.rdmsr(0x802), Ok(7));
    assert_eq!(m.fault_of(|c| c.wrmsr(0x1b, 0xfee0_0800)), gp);
    assert_eq!(m.rdmsr(0xc001_0015), Ok(0));
}

#[test]
fn test_port_permission() {
    let mut m = protected(3);
    // Ports 0x60 to 0x63 are free, their neighbours are not.
    m.ram.write_uint(TSS + 0x68 + 0xc, 1, 0xf0);
    assert_eq!(m.io_in(0x60, 4), Ok(0x5566_7788 ^ 0x60));
    assert_eq!(m.fault_of(|c| c.io_in(0x62, 4)), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.io_out(0xffff, 1, 0)), (vector::GP, Some(0)));
    m.set_flag(bit::IOPL, true);
    m.io_out(0x1234, 2, 0xbeef).unwrap();
    assert_eq!(*m.ports.writes.lock(), [(0x1234, 2, 0xbeef)]);
}

#[test]
fn test_popf_by_privilege() {
    let mut m = protected(3);
    m.write_flags(bit::IF | bit::IOPL | bit::CF | bit::TF, 4).unwrap();
    assert!(!m.flag(bit::IF) && !m.flag(bit::IOPL) && m.flag(bit::CF) && m.flag(bit::TF));
    let mut m = protected(0);
    m.write_flags(bit::IF | bit::IOPL | bit::VM | bit::RF, 4).unwrap();
    assert!(m.flag(bit::IF) && m.flag(bit::IOPL) && !m.flag(bit::VM) && !m.flag(bit::RF));
    assert_eq!(m.flags_to_push(4), Ok(bit::IF | bit::IOPL | 2));
    m.write_flags(0, 2).unwrap();
    m.sti().unwrap();
    assert!(m.state.interrupt_shadow);
    assert_eq!(m.signal_mask & crate::signals::request::INTR, 0);
}

#[test]
fn test_looking_at_descriptors() {
    let mut m = protected(3);
    assert_eq!(m.lar(CODE3), Ok(Some(0x00c0_fa00)));
    assert_eq!(m.lar(CODE0), Ok(None));
    assert_eq!(m.lar(CONFORMING), Ok(Some(0x00c0_9e00)));
    assert_eq!(m.lsl(DATA3), Ok(Some(u32::MAX)));
    assert_eq!((m.verr(CODE3), m.verw(CODE3), m.verw(DATA3)), (Ok(true), Ok(false), Ok(true)));
    assert_eq!(m.lar(0x200), Ok(None));
    m.state.cr4 |= cr4::UMIP;
    assert_eq!(m.fault_of(|c| c.str()), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.ltr(TSS2_SEL)), (vector::GP, Some(0)));
    let mut m = protected(0);
    m.ltr(TSS2_SEL).unwrap();
    assert_eq!(m.fault_of(|c| c.ltr(TSS2_SEL)), (vector::GP, Some(TSS2_SEL.into())));
    m.lldt(LDT).unwrap();
    m.poke(0xc000, flat(2, 0, attr::BIG));
    m.load_seg(Seg::Fs, 4).unwrap();
    let mut m = Machine::new();
    assert_eq!(m.fault_of(|c| c.lar(8)), (vector::UD, None));
}

#[test]
fn test_smm_round_trip() {
    for mut m in [protected(0), long(3)] {
        m.state.msr.smbase = 0x3_0000;
        m.state.regs[15] = 0x1515;
        m.state.regs[gpr::RBX] = 0xb0b0;
        m.set_flag(bit::IF | bit::CF, true);
        let before = m.state.clone();
        m.enter_smm();
        assert!(m.state.smm && !m.mode.protected);
        assert_eq!((m.state.rip, m.state.seg[1].base, m.mode.code_bits), (0x8000, 0x3_0000, 16));
        assert_eq!(m.peek32(0x3_fefc), 0x2_0064);
        assert_eq!(m.peek(0x3_ff78), before.rip);
        assert_eq!(m.peek(0x3_ffe0), 0xb0b0);
        // The handler moves SMBASE.
        m.poke32(0x3_ff00, 0xa_0000);
        m.rsm().unwrap();
        assert!(!m.state.smm);
        assert_eq!(m.state.msr.smbase, 0xa_0000);
        assert_eq!(m.state.regs, before.regs);
        assert_eq!(m.state.seg, before.seg);
        assert_eq!(m.state.flags.get(), before.flags.get());
        assert_eq!((m.state.cr0, m.state.cr4, m.state.rip), (before.cr0, before.cr4, before.rip));
        assert_eq!(m.state.msr.efer, before.msr.efer);
        assert_eq!((m.state.tr, m.state.gdtr), (before.tr, before.gdtr));
        assert_eq!(m.fault_of(|c| c.rsm()), (vector::UD, None));
    }
}

#[test]
fn test_smm_of_32_bit_models() {
    let mut model = crate::testing::everything();
    model.features.set(crate::cpuid::feature::LM, false);
    let mut m = Machine::of(model).protected(0);
    tables(&mut m);
    let before = m.state.clone();
    m.enter_smm();
    assert_eq!(m.peek32(0x3_fefc), 0x2_0000);
    assert_eq!(m.peek32(0x3_fff0), 0x1000);
    m.rsm().unwrap();
    assert_eq!((m.state.seg, m.state.tr), (before.seg, before.tr));
    assert_eq!((m.state.rip, m.state.idtr), (before.rip, before.idtr));
    // A save area that makes no sense shuts the processor down.
    m.enter_smm();
    m.poke32(0x3_fffc, cr0::PG as u32);
    assert_eq!(m.rsm(), Err(Trap::Shutdown));
}

#[test]
fn test_debug_traps() {
    let mut m = protected(0);
    idt32(&m, vector::DB, gate(CODE0, 0x1110, 0xe, 0, 0));
    m.deliver_debug_traps().unwrap();
    assert_eq!(m.state.rip, 0x1000);
    m.set_flag(bit::TF, true);
    m.stepping = true;
    m.deliver_debug_traps().unwrap();
    assert_eq!(m.state.rip, 0x1110);
    assert!(!m.flag(bit::TF));
    assert_ne!(m.state.dr[6] & 1 << 14, 0);
    assert_eq!(m.peek32(0x5ffc) as u64 & bit::RF, 0);
}
