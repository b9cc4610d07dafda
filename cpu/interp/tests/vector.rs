//! x87, MMX and SSE as far as the interpreter itself is concerned: operands and state areas.

use super::{GP, MF, NM, UD, XM, bed_with_handlers, pushed_rip};
use crate::interp::RunExit;
use crate::state::{cr0, cr4};

const AREA: u64 = 0x8000;

#[test]
fn x87_operands_come_from_and_go_to_memory() {
    // fld1; fadd dword [0x8000]; fimul word [0x8008]; fstp qword [0x8010]; fnstsw ax; hlt
    let code = [
        0xd9, 0xe8, 0xd8, 0x04, 0x25, 0, 0x80, 0, 0, 0xde, 0x0c, 0x25, 8, 0x80, 0, 0, 0xdd, 0x1c,
        0x25, 0x10, 0x80, 0, 0, 0xdf, 0xe0, 0xf4,
    ];
    let mut bed = bed_with_handlers(&code);
    bed.cpu.state.x87.fninit();
    bed.ram.write(AREA, &2.5_f32.to_le_bytes());
    bed.ram.write(AREA + 8, &(-4_i16).to_le_bytes());
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(f64::from_bits(bed.ram.read_uint(AREA + 0x10, 8)), -14.0);
    assert_eq!(bed.cpu.state.regs[0] as u16, 0);
    let x87 = &bed.cpu.state.x87;
    assert_eq!((x87.fip, x87.fdp, x87.fop), (0x1010, AREA + 0x10, 0x51c));
}

#[test]
fn a_task_switch_makes_the_fpu_unavailable() {
    for code in [&[0xd9, 0xe8, 0xf4][..], &[0x0f, 0x28, 0xc1, 0xf4], &[0x0f, 0x6f, 0xc1, 0xf4]] {
        let mut bed = bed_with_handlers(code);
        bed.cpu.state.cr0 |= cr0::TS;
        bed.cpu.update_mode();
        bed.run(0x1000);
        assert_eq!(bed.cpu.state.rip, NM + 1, "{code:02x?}");
    }
}

#[test]
fn an_unmasked_exception_waits_for_the_next_instruction() {
    // fninit; fldcw [0x8000]; fld1; fldz; fdivp; nop; wait; hlt
    let code = [
        0xdb, 0xe3, 0xd9, 0x2c, 0x25, 0, 0x80, 0, 0, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90,
        0x9b, 0xf4,
    ];
    let mut bed = bed_with_handlers(&code);
    bed.ram.write_uint(AREA, 2, 0x37b);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, MF + 1);
    assert_eq!(pushed_rip(&bed, false), 0x1010);
}

#[test]
fn vector_moves_take_the_right_parts() {
    // movdqu xmm0, [0x8000]; movq xmm1, xmm0; movhps [0x8020], xmm0; movss xmm2, [0x8000];
    // movlhps xmm3, xmm0; movq rax, xmm0; movd xmm4, eax; movq mm5, rax; movq2dq xmm6, mm5; hlt
    let bed = {
        let mut bed = bed_with_handlers(&[
            0xf3, 0x0f, 0x6f, 0x04, 0x25, 0, 0x80, 0, 0, 0xf3, 0x0f, 0x7e, 0xc8, 0x0f, 0x17, 0x04,
            0x25, 0x20, 0x80, 0, 0, 0xf3, 0x0f, 0x10, 0x14, 0x25, 0, 0x80, 0, 0, 0x0f, 0x16, 0xd8,
            0x66, 0x48, 0x0f, 0x7e, 0xc0, 0x66, 0x0f, 0x6e, 0xe0, 0x48, 0x0f, 0x6e, 0xe8, 0xf3,
            0x0f, 0xd6, 0xf5, 0xf4,
        ]);
        bed.cpu.state.x87.fninit();
        for vector in &mut bed.cpu.state.vec {
            vector.0[0] = u128::MAX;
        }
        bed.ram.write(AREA, &0x1111_2222_3333_4444_5555_6666_7777_8888_u128.to_le_bytes());
        assert_eq!(bed.run(0x1000), RunExit::Halted);
        bed
    };
    let xmm = |n: u8| bed.cpu.state.vec[usize::from(n)].0[0];
    assert_eq!(xmm(1), 0x5555_6666_7777_8888);
    assert_eq!(bed.ram.read_uint(AREA + 0x20, 8), 0x1111_2222_3333_4444);
    assert_eq!(xmm(2), 0x7777_8888);
    assert_eq!(xmm(3), 0x5555_6666_7777_8888_ffff_ffff_ffff_ffff);
    assert_eq!(xmm(4), 0x7777_8888);
    assert_eq!(xmm(6), 0x5555_6666_7777_8888);
    assert_eq!(bed.cpu.state.x87.abridged_tags(), 0xff);
}

#[test]
fn aligned_moves_fault_on_other_addresses() {
    // movaps xmm0, [0x8001]
    let mut bed = bed_with_handlers(&[0x0f, 0x28, 0x04, 0x25, 1, 0x80, 0, 0, 0xf4]);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, GP + 1);
}

#[test]
fn what_fxsave_and_xsave_write_is_read_back() {
    // store; clobber by fninit, movq xmm9, xmm1, ldmxcsr [0x7000]; restore
    for (store, restore) in [
        (
            &[0x48, 0x0f, 0xae, 0x04, 0x25, 0, 0x80, 0, 0],
            &[0x48, 0x0f, 0xae, 0x0c, 0x25, 0, 0x80, 0, 0],
        ),
        (
            &[0x48, 0x0f, 0xae, 0x24, 0x25, 0, 0x80, 0, 0],
            &[0x48, 0x0f, 0xae, 0x2c, 0x25, 0, 0x80, 0, 0],
        ),
    ] {
        let mut code = vec![0xd9, 0xeb];
        code.extend(store);
        code.extend([0xdb, 0xe3, 0xf3, 0x44, 0x0f, 0x7e, 0xc9]);
        code.extend([0x0f, 0xae, 0x14, 0x25, 0, 0x90, 0, 0]);
        code.extend(restore);
        code.push(0xf4);
        let mut bed = bed_with_handlers(&code);
        bed.cpu.state.x87.fninit();
        bed.cpu.state.vec[9].0[0] = 99;
        bed.cpu.state.vec[1].0[0] = 11;
        bed.ram.write_uint(0x9000, 4, 0x1f00);
        bed.cpu.state.regs[0] = 7;
        bed.cpu.state.regs[2] = 0;
        assert_eq!(bed.run(0x1000), RunExit::Halted, "{:?}", bed.cpu.fault);
        assert_eq!(bed.cpu.state.vec[9].0[0], 99);
        assert_eq!(bed.cpu.state.mxcsr, 0x1f80);
        let x87 = &bed.cpu.state.x87;
        assert_eq!((x87.abridged_tags(), x87.register(7).sig), (0x80, 0xc90f_daa2_2168_c235));
    }
}

#[test]
fn a_reserved_bit_of_mxcsr_is_refused() {
    // ldmxcsr [0x8000]
    let mut bed = bed_with_handlers(&[0x0f, 0xae, 0x14, 0x25, 0, 0x80, 0, 0, 0xf4]);
    bed.ram.write_uint(AREA, 4, 0x1_1f80);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, GP + 1);
    assert_eq!(bed.cpu.state.mxcsr, 0x1f80);
}

fn floats(lanes: [f32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |vector, lane| vector << 32 | u128::from(lane.to_bits()))
}

#[test]
fn an_unmasked_sse_exception_stops_before_any_result() {
    const ZE: u32 = 1 << 2;
    const ZM: u32 = ZE << 7;
    for (reported, handler) in [(true, XM), (false, UD)] {
        // divps xmm0, xmm1: one lane divides by zero, the others are inexact
        let mut bed = bed_with_handlers(&[0x0f, 0x5e, 0xc1, 0xf4]);
        let state = &mut bed.cpu.state;
        let dividend = floats([1.0; 4]);
        state.vec[0].0[0] = dividend;
        state.vec[1].0[0] = floats([3.0, 3.0, 0.0, 3.0]);
        state.mxcsr = 0x1f80 & !ZM;
        if !reported {
            state.cr4 &= !cr4::OSXMMEXCPT;
        }
        bed.cpu.update_mode();
        bed.run(0x1000);
        assert_eq!(bed.cpu.state.rip, handler + 1);
        assert_eq!(pushed_rip(&bed, false), 0x1000);
        assert_eq!(bed.cpu.state.vec[0].0[0], dividend);
        assert_eq!(bed.cpu.state.mxcsr, 0x1f80 & !ZM | ZE);
    }
}

#[test]
fn packed_floats_must_be_aligned_in_memory_and_scalar_ones_need_not() {
    // addss xmm0, [0x8001]; addps xmm0, [0x8001]
    let code =
        [0xf3, 0x0f, 0x58, 0x04, 0x25, 1, 0x80, 0, 0, 0x0f, 0x58, 0x04, 0x25, 1, 0x80, 0, 0, 0xf4];
    let mut bed = bed_with_handlers(&code);
    bed.ram.write(AREA + 1, &1.5_f32.to_le_bytes());
    bed.cpu.state.vec[0].0[0] = floats([2.0, 7.0, 7.0, 7.0]);
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, GP + 1);
    assert_eq!(pushed_rip(&bed, true), 0x1009);
    assert_eq!(bed.cpu.state.vec[0].0[0], floats([3.5, 7.0, 7.0, 7.0]));
}

#[test]
fn conversions_reach_mmx_registers() {
    // cvtpi2ps xmm0, mm1; cvttps2pi mm2, xmm3; cvtpd2pi mm4, xmm5; cvtpi2pd xmm6, [0x8000]; hlt
    let mut bed = bed_with_handlers(&[
        0x0f, 0x2a, 0xc1, 0x0f, 0x2c, 0xd3, 0x66, 0x0f, 0x2d, 0xe5, 0x66, 0x0f, 0x2a, 0x34, 0x25,
        0, 0x80, 0, 0, 0xf4,
    ]);
    let pair = |low: i32, high: i32| u64::from(high as u32) << 32 | u64::from(low as u32);
    let state = &mut bed.cpu.state;
    state.x87.fninit();
    state.x87.set_mmx(1, pair(-3, 1 << 24));
    state.vec[0].0[0] = floats([9.0; 4]);
    state.vec[3].0[0] = floats([-2.75, 1e10, 5.0, 5.0]);
    state.vec[5].0[0] = u128::from((-2.75_f64).to_bits()) << 64 | u128::from(2.5_f64.to_bits());
    bed.ram.write(AREA, &pair(-1, 6).to_le_bytes());
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    let state = &bed.cpu.state;
    assert_eq!(state.vec[0].0[0], floats([-3.0, 16_777_216.0, 9.0, 9.0]));
    assert_eq!(state.x87.mmx(2), pair(-2, i32::MIN));
    assert_eq!(state.x87.mmx(4), pair(2, -3));
    let expected = u128::from(6_f64.to_bits()) << 64 | u128::from((-1_f64).to_bits());
    assert_eq!(state.vec[6].0[0], expected);
    assert_eq!(state.x87.abridged_tags(), 0xff);
    // Inexact, and invalid for 1e10.
    assert_eq!(state.mxcsr, 0x1f80 | 0x21);
}
