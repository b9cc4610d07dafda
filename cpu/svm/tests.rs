//! Guests of a few instructions under a host of two: VMRUN and HLT.

use super::intercept::{EventKind, event, exit};
use super::virq;
use super::vmcb::{control, save};
use crate::core::vector;
use crate::flags::bit;
use crate::interp::RunExit;
use crate::signals::request;
use crate::state::{attr, cr0, cr4, efer, gpr};
use crate::testing::Machine;

const TABLES: u64 = 0x1000;
const NESTED: u64 = 0x5000;
const HOST: u64 = 0x1_0000;
const GUEST: u64 = 0x2_0000;
const VMCB: u64 = 0x3_0000;
const IO_MAP: u64 = 0x4_0000;
const MSR_MAP: u64 = 0x4_4000;
const MARK: u64 = 0x1234_5678_9abc;

const PRESENT_ALL: u64 = 7;
const LARGE: u64 = 1 << 7;

/// Four-level tables at `root` that map the first gigabyte one to one.
fn identity(m: &Machine, root: u64) {
    m.poke(root, root + 0x1000 | PRESENT_ALL);
    m.poke(root + 0x1000, root + 0x2000 | PRESENT_ALL);
    for i in 0..512 {
        m.poke(root + 0x2000 + 8 * i, i << 21 | LARGE | PRESENT_ALL);
    }
}

fn set_field(m: &Machine, offset: usize, value: u64) {
    m.poke(VMCB + offset as u64, value);
}

fn field(m: &Machine, offset: usize) -> u64 {
    m.peek(VMCB + offset as u64)
}

fn intercept(m: &Machine, code: u64) {
    let at = VMCB + 4 * (code / 32);
    m.poke32(at, m.peek32(at) | 1 << (code % 32));
}

fn segment(m: &Machine, offset: usize, selector: u64, attributes: u64, limit: u64, base: u64) {
    set_field(m, offset, selector | attributes << 16 | limit << 32);
    set_field(m, offset + 8, base);
}

/// A host in long mode, about to run a guest that is in 64-bit mode at the beginning of `code`.
/// VMRUN and HLT are intercepted.
fn host(code: &[u8]) -> Machine {
    let mut m = Machine::new().long(0, TABLES);
    identity(&m, TABLES);
    m.state.msr.efer |= efer::SVME;
    m.state.rip = HOST;
    m.state.regs[gpr::RAX] = VMCB;
    m.state.regs[gpr::RSP] = 0x9000;
    m.ram.write(HOST, &[0x0f, 0x01, 0xd8, 0xf4]);
    m.ram.write(GUEST, code);
    intercept(&m, exit::VMRUN);
    intercept(&m, exit::HLT);
    set_field(&m, control::IO_MAP, IO_MAP);
    set_field(&m, control::MSR_MAP, MSR_MAP);
    set_field(&m, control::ASID, 1);
    segment(&m, save::CS, 8, 0xa9b, 0xffff_ffff, 0);
    for offset in [save::ES, save::SS, save::DS] {
        segment(&m, offset, 0x10, 0xc93, 0xffff_ffff, 0);
    }
    set_field(&m, save::EFER, efer::SVME | efer::LME | efer::LMA | efer::NXE);
    set_field(&m, save::CR0, cr0::PE | cr0::PG | cr0::WP | cr0::ET);
    set_field(&m, save::CR3, TABLES);
    set_field(&m, save::CR4, cr4::PAE);
    set_field(&m, save::RFLAGS, 2);
    set_field(&m, save::RIP, GUEST);
    set_field(&m, save::RSP, 0x8000);
    set_field(&m, save::RAX, MARK);
    m
}

/// The same, but the guest is in real mode with its code segment at [`GUEST`].
fn real_mode_host(code: &[u8]) -> Machine {
    let m = host(code);
    segment(&m, save::CS, GUEST >> 4, 0x09b, 0xffff, GUEST);
    for offset in [save::ES, save::SS, save::DS] {
        segment(&m, offset, 0, 0x093, 0xffff, 0);
    }
    set_field(&m, save::IDTR, 0x3ff << 32);
    set_field(&m, save::EFER, efer::SVME);
    set_field(&m, save::CR0, cr0::ET);
    set_field(&m, save::CR4, 0);
    set_field(&m, save::RIP, 0);
    m
}

/// Runs until the host halts; the exit code.
fn run(m: &mut Machine) -> u64 {
    loop {
        match m.run_interp() {
            RunExit::Halted if !m.state.svm.guest => break,
            RunExit::Signal if m.signals.pending() & m.signal_mask & request::VIRQ != 0 => {
                m.take_virtual_event().unwrap();
            }
            other => panic!("{other:?}, rip {:#x}", m.state.rip),
        }
    }
    assert_eq!(m.state.rip, HOST + 4, "the host went on behind VMRUN");
    assert_eq!(m.state.regs[gpr::RAX], VMCB);
    assert_eq!(m.state.regs[gpr::RSP], 0x9000);
    assert!(!m.state.svm.gif);
    field(m, control::EXIT_CODE)
}

#[test]
fn a_guest_runs_until_something_is_intercepted() {
    // inc rax; mov rbx, rax; hlt
    let mut m = host(&[0x48, 0xff, 0xc0, 0x48, 0x89, 0xc3, 0xf4]);
    assert_eq!(run(&mut m), exit::HLT);
    assert_eq!(field(&m, save::RAX), MARK + 1);
    assert_eq!(m.state.regs[gpr::RBX], MARK + 1, "other registers are the host's to exchange");
    assert_eq!(field(&m, save::RIP), GUEST + 6);
    assert_eq!(field(&m, control::NEXT_RIP), GUEST + 7);
    assert_eq!(m.ram.read_uint(VMCB + save::CPL as u64, 1), 0);
}

#[test]
fn instructions_are_intercepted_before_they_do_anything() {
    for (code, bytes) in [
        (exit::CPUID, &[0x0f, 0xa2][..]),
        (exit::RDTSC, &[0x0f, 0x31]),
        (exit::RDTSCP, &[0x0f, 0x01, 0xf9]),
        (exit::PUSHF, &[0x9c]),
        (exit::POPF, &[0x9d]),
        (exit::SOFT_INT, &[0xcd, 0x80]),
        (exit::ICEBP, &[0xf1]),
        (exit::WBINVD, &[0x0f, 0x09]),
        (exit::INVD, &[0x0f, 0x08]),
        (exit::PAUSE, &[0xf3, 0x90]),
        (exit::INVLPG, &[0x0f, 0x01, 0x38]),
        (exit::VMMCALL, &[0x0f, 0x01, 0xd9]),
        (exit::VMRUN, &[0x0f, 0x01, 0xd8]),
        (exit::STGI, &[0x0f, 0x01, 0xdc]),
        (exit::IRET, &[0x48, 0xcf]),
        (exit::READ_CR0 + 3, &[0x0f, 0x20, 0xd8]),
        (exit::WRITE_CR0 + 4, &[0x0f, 0x22, 0xe0]),
        (exit::READ_DR0 + 7, &[0x0f, 0x21, 0xf8]),
        (exit::READ_GDTR, &[0x0f, 0x01, 0x03]),
        (exit::WRITE_IDTR, &[0x0f, 0x01, 0x1b]),
        (exit::READ_TR, &[0x0f, 0x00, 0xc8]),
        (exit::XSETBV, &[0x0f, 0x01, 0xd1]),
    ] {
        let mut m = host(bytes);
        m.state.regs[gpr::RBX] = 0x7000;
        set_field(&m, save::CR4, cr4::PAE | cr4::OSXSAVE);
        intercept(&m, code);
        assert_eq!(run(&mut m), code, "{bytes:x?}");
        assert_eq!(field(&m, save::RIP), GUEST, "{bytes:x?}");
        assert_eq!(field(&m, control::NEXT_RIP), GUEST + bytes.len() as u64, "{bytes:x?}");
        assert_eq!(field(&m, save::RAX), MARK, "{bytes:x?}");
    }
}

#[test]
fn ports_and_msrs_go_by_their_maps() {
    // in al, 0x60; out 0x61, ax; hlt
    let code = [0xe4, 0x60, 0x66, 0xe7, 0x61, 0xf4];
    let mut m = host(&code);
    intercept(&m, exit::IO);
    assert_eq!(run(&mut m), exit::HLT, "no bit is set");
    assert_eq!(m.ports.writes.lock().len(), 1);

    let mut m = host(&code);
    intercept(&m, exit::IO);
    m.ram.write_uint(IO_MAP + 0x62 / 8, 1, 1 << 2);
    assert_eq!(run(&mut m), exit::IO, "the second byte of the word is forbidden");
    assert_eq!(field(&m, control::EXIT_INFO1), 0x61 << 16 | 1 << 9 | 2 << 4);
    assert_eq!(field(&m, control::EXIT_INFO2), GUEST + 5);
    assert_eq!(field(&m, save::RIP), GUEST + 2);

    // rep outsb
    let mut m = host(&[0xf3, 0x6e]);
    m.state.regs[gpr::RCX] = 3;
    m.state.regs[gpr::RDX] = 0x10;
    intercept(&m, exit::IO);
    m.ram.write_uint(IO_MAP + 2, 1, 1);
    assert_eq!(run(&mut m), exit::IO);
    let ds = 3 << 10;
    assert_eq!(field(&m, control::EXIT_INFO1), 0x10 << 16 | ds | 1 << 9 | 1 << 4 | 3 << 2);

    // wrmsr
    let mut m = host(&[0x0f, 0x30, 0xf4]);
    m.state.regs[gpr::RCX] = 0xc000_0102;
    intercept(&m, exit::MSR);
    m.ram.write_uint(MSR_MAP + 0x800 + 0x102 / 4, 1, 1 << (0x102 % 4 * 2 + 1));
    assert_eq!(run(&mut m), exit::MSR);
    assert_eq!(field(&m, control::EXIT_INFO1), 1);
}

#[test]
fn an_intercepted_page_fault_leaves_cr2_alone() {
    // mov [rbx], eax
    let mut m = host(&[0x89, 0x03]);
    m.state.regs[gpr::RBX] = 0x5000_0000_0123 >> 12 << 12 | 0x123;
    set_field(&m, save::CR2, 7);
    intercept(&m, exit::EXCEPTION + u64::from(vector::PF));
    assert_eq!(run(&mut m), exit::EXCEPTION + u64::from(vector::PF));
    assert_eq!(field(&m, control::EXIT_INFO1), 2, "a supervisor's write");
    assert_eq!(field(&m, control::EXIT_INFO2), m.state.regs[gpr::RBX]);
    assert_eq!(field(&m, save::CR2), 7);
    assert_eq!(field(&m, control::EXIT_INT_INFO), 0);
}

#[test]
fn exits_tell_what_was_decoded() {
    let is_mov = 1 << 63;
    for (code, bytes, info) in [
        (exit::READ_CR0 + 3, &[0x41, 0x0f, 0x20, 0xdd][..], is_mov | 13),
        (exit::WRITE_CR0 + 4, &[0x0f, 0x22, 0xe6], is_mov | 6),
        (exit::READ_CR0, &[0x0f, 0x01, 0xe1], 0),
        (exit::WRITE_DR0 + 2, &[0x0f, 0x23, 0xd3], 3),
        (exit::SOFT_INT, &[0xcd, 0x93], 0x93),
        (exit::INVLPG, &[0x0f, 0x01, 0x7b, 0x10], 0x7010),
        (exit::CPUID, &[0x0f, 0xa2], 0),
    ] {
        let mut m = host(bytes);
        m.state.regs[gpr::RBX] = 0x7000;
        intercept(&m, code);
        assert_eq!(run(&mut m), code, "{bytes:x?}");
        assert_eq!(field(&m, control::EXIT_INFO1), info, "{bytes:x?}");
        assert_eq!(field(&m, control::INSTRUCTION), 0, "{bytes:x?}");
    }
    // mov [rbx], eax, two bytes before what is not mapped.
    let mut m = host(&[]);
    let last = (1 << 30) - 2;
    m.poke(TABLES + 0x2000 + 8 * 511, 0x20_0000 | LARGE | PRESENT_ALL);
    m.ram.write(0x40_0000 - 2, &[0x89, 0x03]);
    m.state.regs[gpr::RBX] = 1 << 40;
    set_field(&m, save::RIP, last);
    set_field(&m, save::CR2, 7);
    intercept(&m, exit::EXCEPTION + u64::from(vector::PF));
    assert_eq!(run(&mut m), exit::EXCEPTION + u64::from(vector::PF));
    assert_eq!(field(&m, control::EXIT_INFO2), 1 << 40);
    assert_eq!(field(&m, control::INSTRUCTION), 0x03_8902);
    assert_eq!(field(&m, save::CR2), 7);
}

#[test]
fn what_is_not_consistent_does_not_run() {
    type Spoil = fn(&Machine);
    let cases: [(&str, Spoil); 6] = [
        ("ASID 0", |m| set_field(m, control::ASID, 0)),
        ("VMRUN not intercepted", |m| m.poke32(VMCB + 0x10, 0)),
        ("SVME clear", |m| set_field(m, save::EFER, efer::LME | efer::LMA)),
        ("NW without CD", |m| {
            set_field(m, save::CR0, cr0::PE | cr0::PG | cr0::NW);
        }),
        ("DR7 above 32 bits", |m| set_field(m, save::DR7, 1 << 32)),
        ("a reserved kind of event", |m| set_field(m, control::EVENT, event::VALID | 1 << 8)),
    ];
    for (what, spoil) in cases {
        let mut m = host(&[0xf4]);
        spoil(&m);
        assert_eq!(run(&mut m), exit::INVALID, "{what}");
    }
}

#[test]
fn blocks_must_be_aligned_and_svm_be_on() {
    let mut m = host(&[0xf4]);
    m.state.regs[gpr::RAX] = VMCB + 8;
    assert_eq!(m.fault_of(|cpu| cpu.vmrun(64)), (vector::GP, Some(0)));
    m.state.msr.efer &= !efer::SVME;
    assert_eq!(m.fault_of(|cpu| cpu.vmrun(64)), (vector::UD, None));
}

#[test]
fn vmsave_and_vmload_move_what_vmrun_does_not() {
    let mut m = host(&[0xf4]);
    m.state.msr.lstar = 0x1111;
    m.state.msr.kernel_gs_base = 0x2222;
    m.state.tr.base = 0x3333;
    m.state.tr.attr = attr::PRESENT | attr::GRANULAR | 0xb;
    let tr = m.state.tr;
    m.vmsave(64).unwrap();
    m.state.msr.lstar = 0;
    m.state.msr.kernel_gs_base = 0;
    m.state.tr = Default::default();
    m.vmload(64).unwrap();
    assert_eq!((m.state.msr.lstar, m.state.msr.kernel_gs_base), (0x1111, 0x2222));
    assert_eq!(m.state.tr, tr);
}

#[test]
fn nested_tables_lie_below_the_guests() {
    // mov eax, [rbx]; mov [rcx], eax; hlt
    let code = [0x8b, 0x03, 0x89, 0x01, 0xf4];
    let bed = || {
        let mut m = host(&code);
        identity(&m, NESTED);
        // Guest-physical 2 MiB lies at 4 MiB; the third page is read-only.
        m.poke(NESTED + 0x2008, 4 << 20 | LARGE | PRESENT_ALL);
        m.poke(NESTED + 0x2010, 4 << 20 | LARGE | 5);
        set_field(&m, control::NESTED, 1);
        set_field(&m, control::NESTED_CR3, NESTED);
        m.poke(4 << 20, 0x0bad_cafe);
        m.state.regs[gpr::RBX] = 2 << 20;
        m.state.regs[gpr::RCX] = (2 << 20) + 64;
        m
    };
    let mut m = bed();
    assert_eq!(run(&mut m), exit::HLT);
    assert_eq!(m.peek32((4 << 20) + 64), 0x0bad_cafe);

    let mut m = bed();
    m.state.regs[gpr::RCX] = (4 << 20) + 8;
    assert_eq!(run(&mut m), exit::NESTED_FAULT);
    assert_eq!(field(&m, control::EXIT_INFO1), 0x1_0000_0007);
    assert_eq!(field(&m, control::EXIT_INFO2), (4 << 20) + 8);
    assert_eq!(field(&m, save::RIP), GUEST + 2);

    let mut m = bed();
    // Read first, so that the page is known when it is written to.
    m.state.regs[gpr::RBX] = 4 << 20;
    m.state.regs[gpr::RCX] = (4 << 20) + 8;
    assert_eq!(run(&mut m), exit::NESTED_FAULT);
    assert_eq!(field(&m, control::EXIT_INFO1), 0x1_0000_0007);

    let mut m = bed();
    m.poke(NESTED + 0x2010, 0);
    m.state.regs[gpr::RBX] = (4 << 20) + 0x1000;
    assert_eq!(run(&mut m), exit::NESTED_FAULT);
    assert_eq!(field(&m, control::EXIT_INFO1), 0x1_0000_0004);

    // The guest's own tables in a page that the host lets it only read.
    let mut m = bed();
    identity(&m, 4 << 20);
    set_field(&m, save::CR3, 4 << 20);
    assert_eq!(run(&mut m), exit::NESTED_FAULT);
    assert_eq!(field(&m, control::EXIT_INFO1), 0x2_0000_0007);

    // Code in a page that must not be executed.
    let mut m = bed();
    m.poke(NESTED + 0x2010, 0x40_0000 | LARGE | PRESENT_ALL | 1 << 63);
    set_field(&m, save::RIP, 4 << 20);
    assert_eq!(run(&mut m), exit::NESTED_FAULT);
    assert_eq!(field(&m, control::EXIT_INFO1), 0x1_0000_0015);
}

#[test]
fn events_are_injected() {
    // The handler of vector 20h: mov bl, 5; hlt
    let bed = || {
        let mut m = real_mode_host(&[0xb3, 1, 0xf4]);
        m.ram.write(GUEST + 0x100, &[0xb3, 5, 0xf4]);
        m.poke32(0x20 * 4, (GUEST as u32 >> 4) << 16 | 0x100);
        m.state.regs[gpr::RBX] = 0;
        m
    };
    let mut m = bed();
    set_field(&m, control::EVENT, event::VALID | 0x20);
    assert_eq!(run(&mut m), exit::HLT);
    assert_eq!(m.state.regs[gpr::RBX], 5);
    assert_eq!(m.ram.read_uint(0x8000 - 6, 2), 0, "returns to where the guest stands");
    assert_eq!(field(&m, control::EVENT) & event::VALID, 0);

    let mut m = bed();
    let kind = (EventKind::Software as u64) << event::KIND_SHIFT;
    set_field(&m, control::EVENT, event::VALID | kind | 0x20);
    set_field(&m, control::NEXT_RIP, 2);
    assert_eq!(run(&mut m), exit::HLT);
    assert_eq!(m.ram.read_uint(0x8000 - 6, 2), 2, "returns behind the instruction");

    // An interrupt whose delivery is intercepted tells which one it was.
    let mut m = bed();
    set_field(&m, save::IDTR, 0x10 << 32);
    set_field(&m, control::EVENT, event::VALID | 0x20);
    intercept(&m, exit::EXCEPTION + u64::from(vector::GP));
    assert_eq!(run(&mut m), exit::EXCEPTION + u64::from(vector::GP));
    assert_eq!(field(&m, control::EXIT_INT_INFO), event::VALID | 0x20);
}

#[test]
fn virtual_interrupts_wait_for_the_guests_flag_and_tpr() {
    // sti; nop; nop; mov bl, 1; hlt
    let bed = |word: u64| {
        let mut m = real_mode_host(&[0xfb, 0x90, 0x90, 0xb3, 1, 0xf4]);
        m.ram.write(GUEST + 0x100, &[0xb3, 5, 0xf4]);
        m.poke32(0x30 * 4, (GUEST as u32 >> 4) << 16 | 0x100);
        m.state.regs[gpr::RBX] = 0;
        let pending = virq::PENDING | virq::MASKING | 0x30 << virq::VECTOR_SHIFT;
        set_field(&m, control::VIRQ, pending | word);
        m
    };
    let mut m = bed(4 << virq::PRIORITY_SHIFT);
    assert_eq!(run(&mut m), exit::HLT);
    assert_eq!(m.state.regs[gpr::RBX], 5);
    assert_eq!(field(&m, control::VIRQ) & virq::PENDING, 0);
    assert_eq!(m.ram.read_uint(0x8000 - 6, 2), 2, "one instruction after STI");

    let mut m = bed(4 << virq::PRIORITY_SHIFT | 4);
    assert_eq!(run(&mut m), exit::HLT);
    assert_eq!(m.state.regs[gpr::RBX], 1, "the TPR holds it back");
    assert_ne!(field(&m, control::VIRQ) & virq::PENDING, 0);

    let mut m = bed(4 << virq::PRIORITY_SHIFT);
    intercept(&m, exit::VINTR);
    assert_eq!(run(&mut m), exit::VINTR);
    assert_eq!(field(&m, save::RIP), 2);
    assert_ne!(field(&m, save::RFLAGS) & bit::IF, 0);
}

#[test]
fn a_triple_fault_is_the_hosts_to_see() {
    // ud2 without a table of vectors
    let mut m = real_mode_host(&[0x0f, 0x0b]);
    set_field(&m, save::IDTR, 0);
    intercept(&m, exit::SHUTDOWN);
    assert_eq!(run(&mut m), exit::SHUTDOWN);
}
