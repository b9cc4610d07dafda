//! Where translators go wrong: code that somebody else changes, code in odd places, limits, alignment
//! checks and debug traps inside of blocks. In both engines, with handlers for exceptions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::memory::{IoHandler, RamBlock, Region};

use super::generate::Rng;
use super::{CODE, DATA, END, Translator, compare, enter_32_bit_code, pair, random_start};
use crate::flags::bit;
use crate::interp::RunExit;
use crate::signals::request;
use crate::state::{Seg, Segment, TableReg, attr, cr0, gpr};
use crate::testbed::Testbed;

const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
/// Where exceptions lead to: 16 bytes each, a halt first.
const HANDLERS: u64 = 0x8000;
/// The stack of handlers.
const STACK: u64 = DATA + 0x1f00;

/// Code, data and a task state for privilege level 0, and what exceptions lead to.
fn with_handlers(bed: &mut Testbed) {
    let ram = &bed.ram;
    for (number, descriptor) in
        [0, 0x0020_9b00_0000_0000_u64, 0x00cf_9300_0000_ffff].into_iter().enumerate()
    {
        ram.write_uint(GDT + 8 * number as u64, 8, descriptor);
    }
    for vector in 0..32 {
        let handler = HANDLERS + 16 * vector;
        ram.write_uint(IDT + 16 * vector, 8, 0x8e00 << 32 | 8 << 16 | handler);
        ram.write_uint(IDT + 16 * vector + 8, 8, 0);
        ram.write_uint(handler, 1, 0xf4);
    }
    ram.write_uint(TSS + 4, 8, STACK);
    let state = &mut bed.cpu.state;
    state.gdtr = TableReg { base: GDT, limit: 0x17 };
    state.idtr = TableReg { base: IDT, limit: 0x1ff };
    state.tr = Segment { selector: 0x18, base: TSS, limit: 0x67, attr: 0x8b };
    state.regs[gpr::RSP] = STACK;
    state.flags.set(2);
}

/// The vector whose handler a processor has halted in.
fn vector(bed: &Testbed) -> u64 {
    (bed.cpu.state.rip - 1 - HANDLERS) / 16
}

/// Privilege level 3.
fn enter_user_mode(bed: &mut Testbed) {
    for seg in &mut bed.cpu.state.seg {
        seg.selector |= 3;
        seg.attr |= 3 << attr::DPL_SHIFT;
    }
    bed.cpu.update_mode();
}

#[test]
fn code_rewritten_by_another_processor_is_seen_after_serialisation() {
    const FUNCTION: u64 = 0x9000;
    const WRITER: u64 = 0xa000;
    const FLAG: u32 = DATA as u32;
    const ACK: u32 = DATA as u32 + 64;
    const TURNS: u32 = 400;
    let place = |opcode: &[u8], address: u32| [opcode, &address.to_le_bytes()].concat();
    let reader = [
        vec![0x31, 0xf6],                              // xor esi, esi
        place(&[0x8b, 0x0c, 0x25], FLAG),              // L: mov ecx, [FLAG]
        vec![0x39, 0xf1, 0x74, 0xf5],                  // cmp ecx, esi; je L
        vec![0x89, 0xce, 0x31, 0xc0],                  // mov esi, ecx; xor eax, eax
        vec![0x0f, 0xa2],                              // cpuid
        place(&[0xe8], (FUNCTION - CODE) as u32 - 24), // call FUNCTION
        vec![0x39, 0xf0, 0x75, 0x10],                  // cmp eax, esi; jne BAD
        place(&[0x89, 0x34, 0x25], ACK),               // mov [ACK], esi
        place(&[0x81, 0xfe], TURNS),                   // cmp esi, TURNS
        vec![0x75, 0xd7, 0xf4],                        // jne L; hlt
        vec![0xbf, 1, 0, 0, 0, 0xf4],                  // BAD: mov edi, 1; hlt
    ]
    .concat();
    let writer = [
        vec![0xb9, 1, 0, 0, 0],                          // mov ecx, 1
        place(&[0x89, 0x0c, 0x25], FUNCTION as u32 + 1), // L: mov [FUNCTION + 1], ecx
        place(&[0x89, 0x0c, 0x25], FLAG),                // mov [FLAG], ecx
        place(&[0x39, 0x0c, 0x25], ACK),                 // W: cmp [ACK], ecx
        vec![0x75, 0xf7, 0xff, 0xc1],                    // jne W; inc ecx
        place(&[0x81, 0xf9], TURNS + 1),                 // cmp ecx, TURNS + 1
        vec![0x75, 0xdf, 0xf4],                          // jne L; hlt
    ]
    .concat();
    let translator = Translator::new(4 << 20).unwrap();
    let mut bed = Testbed::new().unwrap();
    // mov eax, imm32; ret
    bed.ram.write(FUNCTION, &[0xb8, 0, 0, 0, 0, 0xc3]);
    bed.ram.write(CODE, &reader);
    bed.ram.write(WRITER, &writer);
    let mut other = bed.beside();
    for bed in [&mut bed, &mut other] {
        bed.cpu.translate_by(&translator);
        bed.cpu.state.regs[gpr::RSP] = STACK;
    }
    let ends = [bed.cpu.signals.clone(), other.cpu.signals.clone()];
    let writing = std::thread::spawn(move || other.run(WRITER));
    assert_eq!(bed.run(CODE), RunExit::Halted);
    let wrong = bed.cpu.state.regs[gpr::RDI];
    // The writer waits for ever if the reader has given up.
    if wrong != 0 {
        ends.iter().for_each(|signals| signals.post(request::STOP));
    }
    writing.join().unwrap();
    assert_eq!(wrong, 0, "old code in turn {}", bed.cpu.state.regs[gpr::RSI]);
    assert_eq!(bed.cpu.state.regs[gpr::RSI], u64::from(TURNS));
}

/// Code as a device shows it, byte by byte.
struct Shown(&'static [u8]);

impl IoHandler for Shown {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let byte = |at: u64| u64::from(self.0.get((offset + at) as usize).copied().unwrap_or(0xf4));
        (0..u64::from(size)).fold(0, |value, at| value | byte(at) << (8 * at))
    }
    fn write(&self, _: u64, _: u8, _: u64) {}
}

/// L: inc byte [rip+D]; dec ecx; jnz L; hlt; D lies behind it.
const COUNTS: &[u8] = &[0xfe, 0x05, 5, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xf4, 7];

#[test]
fn code_in_rom_runs_and_stays_what_it_is() {
    let rom = Arc::new(RamBlock::anonymous("rom", 4096).unwrap());
    rom.write(0, COUNTS);
    let mut bed = Testbed::with_region(Region::rom(rom.clone()), END - 4096).unwrap();
    bed.translate().unwrap();
    bed.cpu.state.regs[gpr::RCX] = 100;
    assert_eq!(bed.run(END - 4096), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RCX], 0);
    let mut now = vec![0; COUNTS.len()];
    rom.read(0, &mut now);
    assert_eq!(now, COUNTS);
}

#[test]
fn code_in_a_device_is_fetched_and_run() {
    let device = Region::io("code", 4096, Arc::new(Shown(COUNTS)));
    let mut bed = Testbed::with_region(device, END - 4096).unwrap();
    bed.translate().unwrap();
    bed.cpu.state.regs[gpr::RCX] = 100;
    assert_eq!(bed.run(END - 4096), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RCX], 0);
}

#[test]
fn jumps_between_ram_and_rom_agree() {
    // dec ecx; jz +5; jmp back to CODE; hlt
    let back = (CODE as i64 - (END as i64 - 4096 + 9)) as i32;
    let code = [&[0xff, 0xc9, 0x74, 5, 0xe9][..], &back.to_le_bytes(), &[0xf4]].concat();
    let rom = Arc::new(RamBlock::anonymous("rom", 4096).unwrap());
    rom.write(0, &code);
    let mut bed = Testbed::with_region(Region::rom(rom), END - 4096).unwrap();
    bed.translate().unwrap();
    // inc eax; jmp to the ROM
    let there = (END as i64 - 4096 - (CODE as i64 + 7)) as i32;
    bed.ram.write(CODE, &[&[0xff, 0xc0, 0xe9][..], &there.to_le_bytes()].concat());
    bed.cpu.state.regs[gpr::RCX] = 50;
    bed.cpu.state.regs[gpr::RAX] = 0;
    assert_eq!(bed.run(CODE), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 50);
}

/// 16-bit code with segments of `limit`.
fn enter_16_bit_code(bed: &mut Testbed, limit: u32) {
    let state = &mut bed.cpu.state;
    for seg in &mut state.seg {
        *seg = Segment { selector: 16, base: 0, limit, attr: 0x93 };
    }
    state.seg[Seg::Cs as usize] = Segment { selector: 8, base: 0, limit, attr: 0x9b };
    state.regs[..16].fill(0);
    bed.cpu.update_mode();
}

#[test]
fn limits_of_16_bit_segments_hold() {
    // inc ax; mov [bx], ax; hlt
    let code = [0x40, 0x89, 0x07, 0xf4];
    for (limit, bx, exit) in [
        (0xffff, 0x4000, RunExit::Halted),
        (0x4001, 0x4000, RunExit::Halted),
        (0x4000, 0x4000, RunExit::Shutdown),
        (0xffff, 0xffff, RunExit::Shutdown),
        // Code ends at the limit, or one byte beyond.
        (0x1003, 0x800, RunExit::Halted),
        (0x1002, 0x800, RunExit::Shutdown),
    ] {
        let got = compare(&mut pair(), &code, |bed| {
            enter_16_bit_code(bed, limit);
            bed.cpu.state.regs[gpr::RBX] = bx;
        });
        assert_eq!(got, exit, "{limit:#x} {bx:#x}");
    }
}

#[test]
fn limits_of_the_stack_and_of_data_hold_in_32_bit_code() {
    // inc eax; mov [edi], eax; push eax; pop ebx; hlt
    let code = [0x40, 0x89, 0x07, 0x50, 0x5b, 0xf4];
    for (seg, limit, exit) in [
        (Seg::Ds, !0, RunExit::Halted),
        (Seg::Ds, DATA as u32 + 0x803, RunExit::Halted),
        (Seg::Ds, DATA as u32 + 0x802, RunExit::Shutdown),
        (Seg::Ss, DATA as u32 + 0xbff, RunExit::Halted),
        (Seg::Ss, DATA as u32 + 0xbfe, RunExit::Shutdown),
        (Seg::Cs, 0x1005, RunExit::Halted),
        (Seg::Cs, 0x1004, RunExit::Shutdown),
    ] {
        let got = compare(&mut pair(), &code, |bed| {
            bed.cpu.state.regs[..16].fill(0);
            bed.cpu.state.regs[gpr::RDI] = DATA + 0x800;
            bed.cpu.state.regs[gpr::RSP] = DATA + 0xc00;
            enter_32_bit_code(bed, 0, !0);
            bed.cpu.state.seg[seg as usize].limit = limit;
        });
        assert_eq!(got, exit, "{seg:?} {limit:#x}");
    }
}

#[test]
fn alignment_is_checked_where_it_is_asked_for() {
    // inc ecx; mov eax, [rdi]; inc ecx; add [rdi+4], eax; hlt, which is not for user code
    let code = [0xff, 0xc1, 0x8b, 0x07, 0xff, 0xc1, 0x01, 0x47, 4, 0xf4];
    for (checked, rdi, expected) in
        [(true, DATA, 13), (true, DATA + 1, 17), (true, DATA + 4, 13), (false, DATA + 1, 13)]
    {
        let mut beds = pair();
        let exit = compare(&mut beds, &code, |bed| {
            with_handlers(bed);
            enter_user_mode(bed);
            bed.cpu.state.regs[gpr::RDI] = rdi;
            bed.cpu.state.regs[gpr::RCX] = 0;
            if checked {
                bed.cpu.state.cr0 |= cr0::AM;
                bed.cpu.state.flags.set(2 | bit::AC);
            }
        });
        assert_eq!((exit, vector(&beds[1])), (RunExit::Halted, expected), "{checked} {rdi:#x}");
        let faulted = expected == 17;
        assert_eq!(beds[1].cpu.state.regs[gpr::RCX], if faulted { 1 } else { 2 });
    }
}

#[test]
fn debug_traps_come_inside_of_blocks() {
    // inc ecx; mov [rdi], ecx; inc ecx; mov eax, [rsi]; inc ecx; hlt
    let code = [0xff, 0xc1, 0x89, 0x0f, 0xff, 0xc1, 0x8b, 0x06, 0xff, 0xc1, 0xf4];
    let enabled = |kind: u64, length: u64| 1 | kind << 16 | length << 18;
    for (what, at, control, rcx) in [
        ("a store", DATA, enabled(1, 3), 1),
        ("a load", DATA + 0x40, enabled(3, 3), 2),
        ("an instruction", CODE + 8, enabled(0, 0), 2),
    ] {
        let mut beds = pair();
        // Translated once without, so that the block is there.
        for (armed, expected) in [(false, 3), (true, rcx), (false, 3)] {
            let exit = compare(&mut beds, &code, |bed| {
                with_handlers(bed);
                bed.cpu.state.regs[gpr::RCX] = 0;
                bed.cpu.state.regs[gpr::RDI] = DATA;
                bed.cpu.state.regs[gpr::RSI] = DATA + 0x40;
                bed.cpu.state.dr[0] = at;
                bed.cpu.state.dr[6] = 0xffff_0ff0;
                bed.cpu.state.dr[7] = 0x400 | if armed { control } else { 0 };
                bed.cpu.update_mode();
                bed.cpu.mmu.flush_all(&bed.cpu.bus);
            });
            assert_eq!(exit, RunExit::Halted);
            assert_eq!(beds[1].cpu.state.regs[gpr::RCX], expected, "{what}");
            assert_eq!(beds[0].cpu.state.dr[6], beds[1].cpu.state.dr[6], "{what}");
            assert_eq!(beds[1].cpu.state.dr[6] & 1, u64::from(armed), "{what}");
        }
    }
}

#[test]
fn single_steps_begin_inside_of_blocks() {
    // mov ecx, 5; pushfq; or dword [rsp], 0x100; popfq; inc ecx; inc ecx; hlt
    let code =
        [0xb9, 5, 0, 0, 0, 0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0xff, 0xc1, 0xff, 0xc1, 0xf4];
    let mut beds = pair();
    let exit = compare(&mut beds, &code, with_handlers);
    assert_eq!((exit, vector(&beds[1])), (RunExit::Halted, 1));
    assert_eq!(beds[1].cpu.state.regs[gpr::RCX], 6);
}

#[test]
fn arbitrary_bytes_agree_in_lock_step() {
    let mut bed = Testbed::new().unwrap();
    bed.check().unwrap();
    let mut rng = Rng(0x5eed_0000_1234_5678);
    let (signals, done) = (bed.cpu.signals.clone(), Arc::new(AtomicBool::new(false)));
    let ended = done.clone();
    // Takes it out of loops.
    let stopper = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            signals.post(request::STOP);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    for round in 0..4_000 {
        let mut code: Vec<u8> = (0..4 + rng.below(28)).map(|_| rng.next() as u8).collect();
        code.extend([0xf4; 16]);
        bed.ram.write(CODE, &code);
        random_start(&mut rng, DATA + 0x800)(&mut bed);
        with_handlers(&mut bed);
        enter_code_of(&mut bed, round % 3 != 0);
        bed.cpu.shutdown = false;
        bed.cpu.signals.take(request::STOP);
        let exit = bed.run(CODE);
        let failure = bed.cpu.failure.take().unwrap_or_default();
        assert_ne!(exit, RunExit::Failed, "{code:02x?}\n{failure}");
    }
    done.store(true, Ordering::Relaxed);
    stopper.join().unwrap();
}

/// Flat segments for 64-bit code (`long`) or 32-bit code, whatever was loaded before.
fn enter_code_of(bed: &mut Testbed, long: bool) {
    let fresh = Testbed::new().unwrap();
    let (state, start) = (&mut bed.cpu.state, &fresh.cpu.state);
    state.seg = start.seg;
    (state.cr0, state.cr3, state.cr4) = (start.cr0, start.cr3, start.cr4);
    (state.xcr0, state.dr, state.svm) = (start.xcr0, start.dr, start.svm.clone());
    state.msr = start.msr.clone();
    state.interrupt_shadow = false;
    if !long {
        enter_32_bit_code(bed, 0, !0);
    }
    bed.cpu.mmu.flush_all(&bed.cpu.bus);
    bed.cpu.update_mode();
}

#[test]
fn lock_step_notices_that_a_block_becomes_longer() {
    const END: u64 = CODE + 0x1000;
    let mut bed = Testbed::new().unwrap();
    bed.check().unwrap();
    bed.ram.write(END - 8, &[0x90; 7]);
    // mov al, 5, which goes on in the next page, and then std in its place; hlt
    for last in [[0xb0, 5, 0xf4], [0xfd, 0xf4, 0xf4]] {
        bed.ram.write(END - 1, &last);
        assert_eq!(bed.run(END - 8), RunExit::Halted, "{:?}", bed.cpu.failure);
    }
}
