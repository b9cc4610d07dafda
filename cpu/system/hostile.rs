//! Whatever tables and registers a guest sets up, system instructions neither panic nor half-happen.

use proptest::prelude::*;

use crate::core::Trap;
use crate::flags::bit;
use crate::state::{Seg, TableReg, cr0, cr4};
use crate::testing::Machine;

/// Registers that a fault must not change.
type Visible = (u64, [u64; 18], [crate::state::Segment; 6], u64, u64, u64);

fn visible(m: &Machine) -> Visible {
    let state = &m.state;
    (state.rip, state.regs, state.seg, state.flags.get(), state.cr0, state.cr4)
}

fn perform(m: &mut Machine, operation: u32, a: u64, b: u64) -> Result<(), Trap> {
    let selector = a as u16;
    let opsize = [2, 4, 8][(b % 3) as usize];
    let segs = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
    let seg = segs[(b % 6) as usize];
    match operation {
        0 if seg != Seg::Cs => m.load_seg(seg, selector),
        1 => m.far_jmp(selector, b, opsize),
        2 => m.far_call(selector, b, opsize),
        3 => m.far_ret(opsize, a as u16),
        4 => m.iret(opsize),
        5 => m.soft_int(a as u8),
        6 => m.int3(),
        7 => m.lldt(selector),
        8 => m.ltr(selector),
        9 => m.lar(selector).map(|_| ()),
        10 => m.lsl(selector).map(|_| ()),
        11 => m.verw(selector).map(|_| ()),
        12 => m.syscall(),
        13 => m.sysret(opsize),
        14 => m.sysenter(),
        15 => m.sysexit(opsize),
        16 => m.write_cr(b as u8 % 10, a),
        17 => m.write_dr(b as u8 % 10, a),
        18 => m.wrmsr((b % 0x300) as u32, a),
        19 => m.wrmsr(0xc000_0080 + (b % 0x90) as u32, a),
        20 => m.rdmsr((b % 0x900) as u32).map(|_| ()),
        21 => m.lin(seg, a, b as u32, b & 1 != 0).map(|_| ()),
        22 => m.io_in(a as u16, 4).map(|_| ()),
        23 => m.write_flags(a, opsize),
        24 => m.invpcid(b % 5, a),
        25 => m.lgdt(a, opsize),
        26 => m.load::<u64>(a).map(|_| ()),
        27 => m.store(a, b),
        28 => m.rmw(a, b & 1 != 0, |v: u32| v ^ 1).map(|_| ()),
        29 => m.xsetbv(0, a),
        _ => m.sti(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn test_faults_leave_no_trace(
        tables in proptest::collection::vec(any::<u64>(), 96),
        shape in 0..4,
        cpl in prop_oneof![Just(0u8), Just(3)],
        flags: u64,
        features: u64,
        operations in proptest::collection::vec((0u32..31, any::<u64>(), any::<u64>()), 1..12),
        small: bool,
    ) {
        let mut m = match shape {
            0 => Machine::new(),
            1 | 2 => Machine::new().protected(cpl),
            _ => {
                let m = Machine::new().long(cpl, 0x1000);
                m.poke(0x1000, 0x2007);
                m.poke(0x2000, 0x3007);
                for i in 0..512 {
                    m.poke(0x3000 + 8 * i, i << 21 | 0x87);
                }
                m
            }
        };
        // Tables full of anything, but mostly present and of small limits.
        for (i, value) in tables.iter().enumerate() {
            m.poke(0x8000 + 8 * i as u64, value | 1 << 47);
        }
        m.state.gdtr = TableReg { base: 0x8000, limit: 0xff };
        m.state.idtr = TableReg { base: 0x8100, limit: 0xff };
        m.state.tr.base = 0x8200;
        m.state.tr.limit = 0x67;
        m.state.regs[4] = 0x8180;
        m.state.cr4 |= features & (cr4::VME | cr4::PVI | cr4::SMAP | cr4::DE | cr4::UMIP);
        m.state.cr0 |= features & (cr0::AM | cr0::TS);
        let vm = if shape == 2 { bit::VM } else { 0 };
        m.state.flags.set(flags & !bit::VM | vm);
        m.update_mode();
        for (operation, a, b) in operations {
            // Small numbers name selectors and addresses that exist.
            let a = if small { a & 0x1ff } else { a };
            let before = visible(&m);
            let task = (m.state.tr, m.state.cr3);
            match perform(&mut m, operation, a, b) {
                Ok(()) => {}
                Err(Trap::Exception) => {
                    // A task switch may fault in the new task; nothing else may change a thing.
                    if task == (m.state.tr, m.state.cr3) {
                        prop_assert_eq!(before, visible(&m), "operation {}", operation);
                    }
                    match m.deliver_fault() {
                        Ok(()) | Err(Trap::Shutdown) => {}
                        Err(trap) => prop_assert!(false, "{:?}", trap),
                    }
                }
                Err(trap) => prop_assert!(false, "{:?}", trap),
            }
            if m.shutdown {
                break;
            }
        }
    }
}
