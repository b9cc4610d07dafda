//! The XSAVE family.

use super::{GP, bed_with_handlers};
use crate::interp::RunExit;
use crate::state::gpr;
use crate::testbed::Testbed;

const AREA: u64 = 0x8000;
const HEADER: u64 = AREA + 512;
const COMPACTED: u64 = 1 << 63;

const XSAVE: [u8; 4] = [0x48, 0x0f, 0xae, 0x27];
const XSAVEOPT: [u8; 4] = [0x48, 0x0f, 0xae, 0x37];
const XSAVEC: [u8; 4] = [0x48, 0x0f, 0xc7, 0x27];
const XSAVES: [u8; 4] = [0x48, 0x0f, 0xc7, 0x2f];
const XRSTOR: [u8; 4] = [0x48, 0x0f, 0xae, 0x2f];
const XRSTORS: [u8; 4] = [0x48, 0x0f, 0xc7, 0x1f];

/// A processor with YMM3 in use and nothing else, about to execute `insn` on the area at RDI, for
/// these components.
fn bed(insn: [u8; 4], components: u64) -> Testbed {
    let mut code = insn.to_vec();
    code.push(0xf4);
    let mut bed = bed_with_handlers(&code);
    bed.cpu.state.x87 = Default::default();
    bed.cpu.state.vec[3].0[1] = 33;
    bed.cpu.state.regs[gpr::RDI] = AREA;
    bed.cpu.state.regs[gpr::RAX] = components;
    bed.ram.write(AREA, &[0x55; 1024]);
    bed.ram.write(HEADER, &[0; 64]);
    bed
}

fn execute(bed: &mut Testbed) {
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.rip, 0x1005, "{:?}", bed.cpu.fault);
}

fn refuse(bed: &mut Testbed) {
    bed.run(0x1000);
    assert_eq!(bed.cpu.state.rip, GP + 1);
}

/// Executes another instruction.
fn then(bed: &mut Testbed, insn: [u8; 4]) {
    bed.ram.write(0x1000, &insn);
}

#[test]
fn what_is_not_in_use_is_left_out() {
    let ymm3 = AREA + 576 + 48;
    for (insn, format, xmm_written) in [
        (XSAVE, 0, true),
        (XSAVEOPT, 0, false),
        (XSAVEC, COMPACTED | 7, false),
        (XSAVES, COMPACTED | 7, false),
    ] {
        let mut bed = bed(insn, 7);
        execute(&mut bed);
        assert_eq!(bed.ram.read_uint(HEADER, 8), 4, "{insn:02x?}");
        assert_eq!(bed.ram.read_uint(HEADER + 8, 8), format);
        assert_eq!(bed.ram.read_uint(ymm3, 8), 33);
        assert_eq!(bed.ram.read_uint(AREA + 160, 1) == 0, xmm_written, "{insn:02x?}");
        // MXCSR belongs to SSE in the compacted format only.
        let mxcsr = bed.ram.read_uint(AREA + 24, 4);
        assert_eq!(mxcsr, if format == 0 { 0x1f80 } else { 0x5555_5555 });
    }
}

#[test]
fn a_changed_mxcsr_saves_sse_in_the_compacted_format() {
    let mut bed = bed(XSAVEC, 7);
    bed.cpu.state.mxcsr = 0x1f00;
    execute(&mut bed);
    assert_eq!(bed.ram.read_uint(HEADER, 8), 6);
    assert_eq!(bed.ram.read_uint(AREA + 24, 4), 0x1f00);
}

#[test]
fn what_was_saved_is_restored_and_the_rest_is_cleared() {
    for (save, restore) in [(XSAVE, XRSTOR), (XSAVEC, XRSTOR), (XSAVES, XRSTORS)] {
        let mut bed = bed(save, 7);
        execute(&mut bed);
        bed.cpu.state.vec[3].0[1] = 0;
        bed.cpu.state.vec[5].0 = [1, 2, 0, 0];
        bed.cpu.state.x87.fld_constant(crate::fpu::x87::Constant::Pi);
        then(&mut bed, restore);
        execute(&mut bed);
        assert_eq!(bed.cpu.state.vec[3].0[1], 33);
        assert_eq!(bed.cpu.state.vec[5].0[..2], [0, 0]);
        assert_eq!(bed.cpu.state.x87, Default::default());
    }
}

#[test]
fn malformed_headers_are_refused() {
    let header = |present: u64, format: u64, rest: u64| {
        let bed = bed(XRSTOR, 7);
        bed.ram.write_uint(AREA + 24, 4, 0x1f80);
        bed.ram.write_uint(HEADER, 8, present);
        bed.ram.write_uint(HEADER + 8, 8, format);
        bed.ram.write_uint(HEADER + 24, 8, rest);
        bed
    };
    execute(&mut header(7, 0, 0));
    // The standard format does not look that far.
    execute(&mut header(7, 0, 1));
    execute(&mut header(6, COMPACTED | 6, 0));
    refuse(&mut header(7, COMPACTED | 6, 0));
    refuse(&mut header(8, 0, 0));
    refuse(&mut header(0, 1, 0));
    refuse(&mut header(0, COMPACTED | 8, 0));
    refuse(&mut header(7, COMPACTED | 7, 1));
    // XRSTORS knows the compacted format only.
    let mut bed = header(7, 0, 0);
    then(&mut bed, XRSTORS);
    refuse(&mut bed);
}

#[test]
fn xgetbv_tells_what_is_in_use() {
    // mov ecx, 1; xgetbv; hlt
    let mut bed = bed_with_handlers(&[0xb9, 1, 0, 0, 0, 0x0f, 0x01, 0xd0, 0xf4]);
    bed.cpu.state.x87 = Default::default();
    bed.cpu.state.vec[9].0[1] = 1;
    assert_eq!(bed.run(0x1000), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 4);
}
