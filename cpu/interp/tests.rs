use super::RunExit;
use crate::state::gpr;
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
