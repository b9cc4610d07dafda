//! What the VEX encoding changes, and what comparing with silicon has brought to light.

use super::{GP, PF, UD, XM, bed_with_handlers, pushed_rip, real_mode, run};
use crate::interp::RunExit;
use crate::state::{VecReg, gpr};
use crate::testbed::Testbed;

const AREA: u64 = 0x8000;
/// The first address that is not mapped.
const UNMAPPED: u64 = 1 << 30;
/// MXCSR bits.
const DE: u32 = 1 << 1;
const PE: u32 = 1 << 5;
const MASKED: u32 = 0x1f80;

fn dwords(lanes: [u32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |vector, lane| vector << 32 | u128::from(*lane))
}

fn floats(lanes: [f32; 4]) -> u128 {
    dwords(lanes.map(f32::to_bits))
}

fn set(bed: &mut Testbed, number: usize, low: u128, high: u128) {
    bed.cpu.state.vec[number] = VecReg([low, high, 0, 0]);
}

fn vector(bed: &Testbed, number: usize) -> [u128; 2] {
    let [low, high, ..] = bed.cpu.state.vec[number].0;
    [low, high]
}

#[test]
fn vex_clears_what_sse_keeps() {
    // vpaddd xmm0, xmm1, xmm1; paddd xmm2, xmm1; vpaddd ymm3, ymm1, ymm1; hlt
    let mut bed = bed_with_handlers(&[
        0xc5, 0xf1, 0xfe, 0xc1, 0x66, 0x0f, 0xfe, 0xd1, 0xc5, 0xf5, 0xfe, 0xd9, 0xf4,
    ]);
    for number in 0..4 {
        set(&mut bed, number, dwords([1, 2, 3, 4]), dwords([5, 6, 7, 8]));
    }
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    let sum = dwords([2, 4, 6, 8]);
    assert_eq!(vector(&bed, 0), [sum, 0]);
    assert_eq!(vector(&bed, 2), [sum, dwords([5, 6, 7, 8])]);
    assert_eq!(vector(&bed, 3), [sum, dwords([10, 12, 14, 16])]);
}

#[test]
fn vex_needs_xcr0_and_protected_mode() {
    // vpaddd xmm0, xmm1, xmm1
    let mut bed = bed_with_handlers(&[0xc5, 0xf1, 0xfe, 0xc1, 0xf4]);
    bed.cpu.state.xcr0 = 3;
    bed.cpu.update_mode();
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, UD + 1);
    // andn eax, eax, eax
    let mut bed = real_mode(&[0xc4, 0xe2, 0x78, 0xf2, 0xc0, 0xf4]);
    bed.ram.write(6 * 4, &[0, 0x50, 0, 0]);
    bed.ram.write(0x5000, &[0xf4]);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, 0x5001);
}

#[test]
fn aligned_moves_of_256_bits_want_32_bytes() {
    // vmovdqu ymm0, [0x8010]; vmovdqa ymm0, [0x8010]
    let mut bed = bed_with_handlers(&[
        0xc5, 0xfe, 0x6f, 0x04, 0x25, 0x10, 0x80, 0, 0, 0xc5, 0xfd, 0x6f, 0x04, 0x25, 0x10, 0x80,
        0, 0, 0xf4,
    ]);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, GP + 1);
    assert_eq!(pushed_rip(&bed, true), 0x1009);
}

#[test]
fn a_gather_that_faults_keeps_what_it_has() {
    // vpgatherdd xmm0, [rax+xmm1*4], xmm2
    let mut bed = bed_with_handlers(&[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x88, 0xf4]);
    bed.cpu.state.regs[gpr::RAX] = AREA;
    bed.ram.write_uint(AREA, 4, 0x1234);
    set(&mut bed, 0, dwords([9; 4]), 9);
    set(&mut bed, 1, dwords([0, 0, 1 << 28, 0]), 0);
    set(&mut bed, 2, dwords([!0, 0x3fb0_0000, !0, !0]), 7);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, PF + 1);
    assert_eq!(bed.cpu.state.cr2, UNMAPPED + AREA);
    assert_eq!(vector(&bed, 0), [dwords([0x1234, 9, 9, 9]), 9]);
    // Also an element that was not asked for is done.
    assert_eq!(vector(&bed, 2), [dwords([0, 0, !0, !0]), 7]);
    // The rest, from memory that exists.
    set(&mut bed, 1, 0, 0);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(vector(&bed, 0), [dwords([0x1234, 9, 0x1234, 0x1234]), 0]);
    assert_eq!(vector(&bed, 2), [0, 0]);
}

#[test]
fn masked_moves_touch_only_what_is_selected() {
    // vmaskmovps xmm0, xmm1, [rax]; vmaskmovps [rax], xmm1, xmm2
    let code = [0xc4, 0xe2, 0x71, 0x2c, 0x00, 0xc4, 0xe2, 0x71, 0x2e, 0x10, 0xf4];
    let mut bed = bed_with_handlers(&code);
    bed.cpu.state.regs[gpr::RAX] = UNMAPPED - 8;
    set(&mut bed, 0, u128::MAX, u128::MAX);
    set(&mut bed, 1, dwords([!0, 1 << 31, 0, 1]), 0);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, 0x100b);
    assert_eq!(vector(&bed, 0)[0] >> 64, 0);
    set(&mut bed, 1, dwords([!0, 0, !0, 0]), 0);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, PF + 1);
    assert_eq!(bed.cpu.state.cr2, UNMAPPED);
}

#[test]
fn a_store_that_faults_raises_no_floating_point_exception() {
    // vcvtps2ph [rax], xmm1, 4
    let mut bed = bed_with_handlers(&[0xc4, 0xe3, 0x79, 0x1d, 0x08, 0x04, 0xf4]);
    bed.cpu.state.regs[gpr::RAX] = UNMAPPED;
    bed.cpu.state.mxcsr = MASKED & !(PE << 7);
    set(&mut bed, 1, floats([1.0 / 3.0; 4]), 0);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, PF + 1);
    assert_eq!(bed.cpu.state.mxcsr, MASKED & !(PE << 7));
}

#[test]
fn a_dot_product_goes_step_by_step_in_all_lanes() {
    // vdpps ymm0, ymm1, ymm2, 0xff: the sums of the low lane are inexact, which is never found out,
    // because an operand of the high lane is denormal.
    let mut bed = bed_with_handlers(&[0xc4, 0xe3, 0x75, 0x40, 0xc2, 0xff, 0xf4]);
    bed.cpu.state.mxcsr = MASKED & !(DE << 7);
    set(&mut bed, 1, floats([1.0, 1e-20, 1.0, 1.0]), dwords([1; 4]));
    set(&mut bed, 2, floats([1.0; 4]), floats([1.0; 4]));
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, XM + 1);
    assert_eq!(bed.cpu.state.mxcsr, MASKED & !(DE << 7) | DE);
}

#[test]
fn an_exception_of_a_conversion_to_mmx_leaves_the_x87_registers_in_use() {
    // cvtpd2pi mm0, xmm1
    let mut bed = bed_with_handlers(&[0x66, 0x0f, 0x2d, 0xc1, 0xf4]);
    bed.cpu.state.x87.fninit();
    bed.cpu.state.mxcsr = 0;
    set(&mut bed, 1, u128::from(f64::INFINITY.to_bits()), 0);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, XM + 1);
    assert_eq!(bed.cpu.state.x87.abridged_tags(), 0xff);
}

#[test]
fn ffreep_frees_both_and_fneni_does_not_wait() {
    // fld1; fld1; fld1; ffreep st(2); hlt
    let bed = run(&[0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xe8, 0xd9, 0xe8, 0xdf, 0xc2, 0xf4]);
    assert_eq!(bed.cpu.state.x87.abridged_tags(), 0x40);
    // fninit; fldcw [0x8000]; fldz; fld1; fdivrp (divides by zero); fneni; fndisi; fnsetpm; hlt
    let mut bed = bed_with_handlers(&[
        0xdb, 0xe3, 0xd9, 0x2c, 0x25, 0, 0x80, 0, 0, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xdb,
        0xe0, 0xdb, 0xe1, 0xdb, 0xe4, 0xf4,
    ]);
    bed.ram.write_uint(AREA, 2, 0x37b);
    bed.run(0x1000);
    assert!(bed.cpu.state.x87.pending());
    assert_eq!(bed.cpu.state.rip, 0x1016);
}

#[test]
fn a_comparison_that_holds_adds() {
    // cmpbexadd [rax], ecx, edx
    let mut bed = bed_with_handlers(&[0xc4, 0xe2, 0x69, 0xe6, 0x08, 0xf4]);
    let regs = &mut bed.cpu.state.regs;
    (regs[gpr::RAX], regs[gpr::RCX], regs[gpr::RDX]) = (AREA, 7, 100);
    bed.ram.write_uint(AREA, 4, 5);
    bed.run(0x1000);
    assert_eq!(bed.ram.read_uint(AREA, 4), 105);
    assert_eq!(bed.cpu.state.regs[gpr::RCX], 5);
    assert!(bed.cpu.state.flags.arith.cf());
    bed.run(0x1000);
    assert_eq!(bed.ram.read_uint(AREA, 4), 105);
    assert_eq!(bed.cpu.state.regs[gpr::RCX], 105);
    assert!(!bed.cpu.state.flags.arith.cf());
}

#[test]
fn waiting_takes_no_time_and_no_reserved_bit() {
    // stc; umonitor rax; tpause ecx; umwait ecx; hlt
    let code = [0xf9, 0xf3, 0x0f, 0xae, 0xf0, 0x66, 0x0f, 0xae, 0xf1, 0xf2, 0x0f, 0xae, 0xf1, 0xf4];
    let mut bed = bed_with_handlers(&code);
    (bed.cpu.state.regs[gpr::RAX], bed.cpu.state.regs[gpr::RCX]) = (AREA, 1);
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, 0x100e);
    assert!(!bed.cpu.state.flags.arith.cf());
    bed.cpu.state.regs[gpr::RCX] = 2;
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, GP + 1);
    assert_eq!(pushed_rip(&bed, true), 0x1005);
}
