mod area;
#[cfg(target_arch = "x86_64")]
mod silicon;
mod vector;
mod vex;

use super::RunExit;
use crate::flags::bit;
use crate::signals::request;
use crate::state::{Segment, gpr};
use crate::testbed::Testbed;

/// Runs `code` at 0x1000 until its HLT.
fn run(code: &[u8]) -> Testbed {
    let mut bed = Testbed::new().unwrap();
    bed.ram.write(0x1000, code);
    bed.cpu.state.regs[gpr::RSP] = 0x10_0000;
    let exit = bed.run(0x1000);
    assert_eq!(exit, RunExit::Halted, "{:?} at {:#x}", bed.cpu.fault, bed.cpu.state.rip);
    bed
}

#[test]
fn a_loop_counts() {
    // mov ecx, 5; add eax, ecx; dec ecx; jnz -6; hlt
    let bed = run(&[0xb9, 5, 0, 0, 0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0xf4]);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 15);
    assert_eq!(bed.cpu.state.rip, 0x100c);
}

const DB: u64 = 0x5000;
const UD: u64 = 0x5100;
const PF: u64 = 0x5200;
const NM: u64 = 0x5300;
const MF: u64 = 0x5400;
const GP: u64 = 0x5500;
const XM: u64 = 0x5600;
const GDT: u64 = 0x6000;
const IDT: u64 = 0x7000;
const STACK: usize = 0x10_0000;

/// A bed with handlers for some exceptions that just halt.
fn bed_with_handlers(code: &[u8]) -> Testbed {
    let mut bed = Testbed::new().unwrap();
    bed.ram.write(0x1000, code);
    bed.ram.write_uint(GDT + 8, 8, 0x00af_9b00_0000_ffff);
    bed.ram.write_uint(GDT + 16, 8, 0x00cf_9300_0000_ffff);
    for (vector, handler) in [(1, DB), (6, UD), (7, NM), (13, GP), (14, PF), (16, MF), (19, XM)] {
        let low = handler & 0xffff | 8 << 16 | 0x8e00 << 32;
        bed.ram.write_uint(IDT + vector * 16, 8, low);
        bed.ram.write(handler, &[0xf4]);
    }
    let state = &mut bed.cpu.state;
    (state.gdtr.base, state.gdtr.limit) = (GDT, 0xff);
    (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
    state.regs[gpr::RSP] = STACK as u64;
    bed
}

/// The instruction pointer that the last event pushed, which had an error code or not.
fn pushed_rip(bed: &Testbed, error_code: bool) -> u64 {
    bed.ram.read_uint(bed.cpu.state.regs[gpr::RSP] + if error_code { 8 } else { 0 }, 8)
}

#[test]
fn code_that_rewrites_the_next_instruction_runs_the_new_one() {
    // mov byte [rip+1], 7; mov al, 1; hlt
    let bed = run(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xf4]);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 7);
}

#[test]
fn code_that_rewrites_a_loop_it_has_run_runs_the_new_one() {
    // mov ecx, 3; L: mov al, 1; add dl, al; inc byte [L+1]; dec ecx; jnz L; hlt
    let bed = run(&[
        0xb9, 3, 0, 0, 0, 0xb0, 1, 0x00, 0xc2, 0xfe, 0x05, 0xf7, 0xff, 0xff, 0xff, 0xff, 0xc9,
        0x75, 0xf2, 0xf4,
    ]);
    assert_eq!(bed.cpu.state.regs[gpr::RDX] as u8, 1 + 2 + 3);
}

#[test]
fn code_rewritten_by_somebody_else_is_noticed() {
    let mut bed = run(&[0xb0, 1, 0xf4]);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 1);
    bed.ram.write(0x1001, &[9]);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 9);
    // A write beside the code leaves it as it is.
    bed.ram.write(0x1800, &[9]);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 9);
}

#[test]
fn an_instruction_across_pages_is_fetched_from_both() {
    let mut bed = bed_with_handlers(&[]);
    // mov eax, imm32, whose immediate lies in the next page
    bed.ram.write(0x1ffe, &[0xb8, 1, 2, 3, 4, 0xf4]);
    assert_eq!(bed.run(0x1ffe), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 0x0403_0201);
    bed.ram.write(0x2001, &[9]);
    assert_eq!(bed.run(0x1ffe), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 0x0409_0201);
    bed.ram.write(0x1fff, &[8]);
    assert_eq!(bed.run(0x1ffe), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 0x0409_0208);
}

#[test]
fn an_unknown_instruction_is_undefined_to_the_guest() {
    // inc eax; ud2
    let mut bed = bed_with_handlers(&[0xff, 0xc0, 0x0f, 0x0b]);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, UD + 1);
    assert_eq!(pushed_rip(&bed, false), 0x1002);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 1);
}

#[test]
fn a_faulting_repetition_stops_where_it_may_be_resumed() {
    // rep stosb up to the end of what is mapped
    let mut bed = bed_with_handlers(&[0xf3, 0xaa, 0xf4]);
    let end = 1 << 30;
    bed.cpu.state.regs[gpr::RDI] = end - 0x100;
    bed.cpu.state.regs[gpr::RCX] = 0x300;
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, PF + 1);
    assert_eq!(bed.cpu.state.cr2, end);
    assert_eq!(pushed_rip(&bed, true), 0x1000);
    assert_eq!(bed.cpu.state.regs[gpr::RDI], end);
    assert_eq!(bed.cpu.state.regs[gpr::RCX], 0x200);
}

#[test]
fn overlapping_repetitions_go_by_element() {
    // rep movsb one byte upwards spreads the first byte
    let mut bed = bed_with_handlers(&[0xf3, 0xa4, 0xf4]);
    bed.ram.write(0x2000, &[7, 1, 2, 3]);
    bed.cpu.state.regs[gpr::RSI] = 0x2000;
    bed.cpu.state.regs[gpr::RDI] = 0x2001;
    bed.cpu.state.regs[gpr::RCX] = 0x1800;
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    let mut bytes = vec![0; 0x1802];
    bed.ram.read(0x2000, &mut bytes);
    assert!(bytes[..0x1801].iter().all(|byte| *byte == 7));
    assert_eq!(bytes[0x1801], 0);
}

#[test]
fn the_trap_flag_stops_after_one_instruction() {
    // inc eax; inc eax; hlt
    let mut bed = bed_with_handlers(&[0xff, 0xc0, 0xff, 0xc0, 0xf4]);
    bed.cpu.state.flags.set(bit::TF);
    bed.cpu.update_mode();
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, DB + 1);
    assert_eq!(pushed_rip(&bed, false), 0x1002);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 1);
    assert_ne!(bed.cpu.state.dr[6] & 1 << 14, 0);
}

#[test]
fn an_instruction_breakpoint_stops_before_it() {
    // inc eax; inc eax; hlt
    let mut bed = bed_with_handlers(&[0xff, 0xc0, 0xff, 0xc0, 0xf4]);
    bed.cpu.state.dr[0] = 0x1002;
    bed.cpu.state.dr[7] = 0x401;
    bed.cpu.update_mode();
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, DB + 1);
    assert_eq!(pushed_rip(&bed, false), 0x1002);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 1);
    assert_ne!(bed.cpu.state.dr[6] & 1, 0);
}

#[test]
fn interrupts_wait_for_the_instruction_after_sti() {
    // sti; inc eax; inc eax; hlt
    let mut bed = bed_with_handlers(&[0xfb, 0xff, 0xc0, 0xff, 0xc0, 0xf4]);
    bed.cpu.signals.post(request::INTR);
    assert_eq!(bed.run(0x1000), RunExit::Signal);
    assert_eq!(bed.cpu.state.rip, 0x1003);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 1);
}

#[test]
fn a_signal_ends_an_endless_loop() {
    let mut bed = bed_with_handlers(&[0xeb, 0xfe]);
    let signals = bed.cpu.signals.clone();
    let poster = std::thread::spawn(move || signals.post(request::STOP));
    assert_eq!(bed.run(0x1000), RunExit::Signal);
    assert_eq!(bed.cpu.state.rip, 0x1000);
    poster.join().unwrap();
}

/// Real mode at 0x1000, as after RESET.
fn real_mode(code: &[u8]) -> Testbed {
    let mut bed = Testbed::new().unwrap();
    bed.cpu.reset();
    bed.ram.write(0x1000, code);
    for seg in &mut bed.cpu.state.seg {
        *seg = Segment::real(0);
    }
    bed.cpu.state.regs[gpr::RSP] = 0x9_8000;
    bed.cpu.update_mode();
    bed
}

#[test]
fn real_mode_wraps_the_stack_and_keeps_upper_halves() {
    // mov sp, 2; push cs; push 0x1234; pop dx; push esp; pop ebx; call +1; hlt; pop cx; hlt
    let mut bed = real_mode(&[
        0xbc, 2, 0, 0x0e, 0x68, 0x34, 0x12, 0x5a, 0x66, 0x54, 0x66, 0x5b, 0xe8, 1, 0, 0xf4, 0x59,
        0xf4,
    ]);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    let regs = &bed.cpu.state.regs;
    assert_eq!(regs[gpr::RDX] as u16, 0x1234);
    assert_eq!(regs[gpr::RBX], 0x9_0000);
    assert_eq!(regs[gpr::RSP], 0x9_0000);
    assert_eq!(regs[gpr::RCX], 0x100f);
    assert_eq!(bed.cpu.state.rip, 0x1012);
}

#[test]
fn real_mode_segments_have_bases_and_limits() {
    // mov ax, 0x200; mov ds, ax; mov al, [0x10]; mov bx, 0xffff; mov cx, [bx]
    let mut bed =
        real_mode(&[0xb8, 0, 2, 0x8e, 0xd8, 0xa0, 0x10, 0, 0xbb, 0xff, 0xff, 0x8b, 0x0f, 0xf4]);
    bed.ram.write(0x2010, &[0x42]);
    // Vector 13 leads to a HLT at 0x5000.
    bed.ram.write(13 * 4, &[0, 0x50, 0, 0]);
    bed.ram.write(0x5000, &[0xf4]);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX] as u8, 0x42);
    assert_eq!(bed.cpu.state.rip, 0x5001);
    assert_eq!(bed.cpu.fault.vector, crate::vector::GP);
}

#[test]
fn a_displacement_beyond_32_bits_of_the_block_is_not_lost() {
    // nop; nop; lea rax, [rip+0x7fffffff]; lea rbx, [rip-0x80000000]; hlt
    let bed = run(&[
        0x90, 0x90, 0x48, 0x8d, 0x05, 0xff, 0xff, 0xff, 0x7f, 0x48, 0x8d, 0x1d, 0, 0, 0, 0x80, 0xf4,
    ]);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 0x1009 + 0x7fff_ffff);
    assert_eq!(bed.cpu.state.regs[gpr::RBX], 0x1010_u64.wrapping_sub(0x8000_0000));
}
