//! Hyper-V's interface for guests (Microsoft's Hypervisor Top Level Functional Specification): what the
//! leaves say, and that the registers which they promise are there. A comment tells each leaf.

use crate::cpu::{cpuid, rdmsr, rdtsc, wrmsr};
use crate::paging::DATA;
use crate::trap::{FINE, fault_of, vector::GP};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

const LEAVES: u32 = 0x4000_0000;

/// Registers.
mod msr {
    pub const GUEST_OS_ID: u32 = 0x4000_0000;
    pub const HYPERCALL: u32 = 0x4000_0001;
    pub const VP_INDEX: u32 = 0x4000_0002;
    pub const RESET: u32 = 0x4000_0003;
    pub const VP_RUNTIME: u32 = 0x4000_0010;
    pub const TIME_REF_COUNT: u32 = 0x4000_0020;
    pub const REFERENCE_TSC: u32 = 0x4000_0021;
    pub const TSC_FREQUENCY: u32 = 0x4000_0022;
    pub const APIC_FREQUENCY: u32 = 0x4000_0023;
    pub const EOI: u32 = 0x4000_0070;
    pub const TPR: u32 = 0x4000_0072;
    pub const APIC_ASSIST: u32 = 0x4000_0073;
    pub const SCONTROL: u32 = 0x4000_0080;
    pub const SVERSION: u32 = 0x4000_0081;
    pub const SIEFP: u32 = 0x4000_0082;
    pub const SIMP: u32 = 0x4000_0083;
    pub const SINT0: u32 = 0x4000_0090;
    pub const STIMER0_CONFIG: u32 = 0x4000_00b0;
    pub const STIMER0_COUNT: u32 = 0x4000_00b1;
    pub const CRASH_P0: u32 = 0x4000_0100;
    pub const REENLIGHTENMENT: u32 = 0x4000_0106;
}

static RESULT: AtomicU64 = AtomicU64::new(0);

/// Reads a register; `None` after #GP.
fn read(number: u32) -> Option<u64> {
    (fault_of(|| RESULT.store(rdmsr(number), SeqCst)) == FINE).then(|| RESULT.load(SeqCst))
}

fn write(number: u32, value: u64) -> bool {
    let fault = fault_of(|| wrmsr(number, value));
    fault != (GP, 0)
}

/// A register that holds `value`, and then what it held before.
fn holds(number: u32, value: u64) -> bool {
    let old = read(number);
    let held = write(number, value) && read(number) == Some(value);
    held && old.is_some_and(|old| write(number, old))
}

pub fn run() {
    let highest = cpuid(LEAVES, 0)[0];
    if !(LEAVES..LEAVES + 0x1000).contains(&highest) {
        return crate::tap::skip("no hypervisor");
    }
    for first in [LEAVES, LEAVES + 0x100] {
        let [last, b, ..] = cpuid(first, 0);
        if b == 0 || last < first {
            continue;
        }
        for leaf in first..=last.min(first + 0x8f) {
            let [a, b, c, d] = cpuid(leaf, 0);
            if [a, b, c, d] != [0; 4] {
                say!("# leaf {leaf:08x}: {a:08x} {b:08x} {c:08x} {d:08x}");
            }
        }
    }
    if cpuid(LEAVES + 1, 0)[0] != u32::from_le_bytes(*b"Hv#1") {
        return crate::tap::skip("another hypervisor's interface");
    }
    let [features, _, _, more] = cpuid(LEAVES + 3, 0);
    let promised = |bit: u32| features >> bit & 1 != 0;
    // Registers that are there with the interface itself.
    check!(holds(msr::GUEST_OS_ID, 0x8100_0000_0000_0000), "the guest tells its name");
    wrmsr(msr::GUEST_OS_ID, 0x8100_0000_0000_0000);
    check!(write(msr::HYPERCALL, DATA | 1), "the page of hypercalls");
    check_eq!(read(msr::HYPERCALL), Some(DATA | 1), "is where the guest wants it");
    let code = unsafe { (DATA as *const u32).read_volatile() };
    check!(matches!(code & 0xff_ffff, 0xd9_010f | 0xc1_010f), "and calls the hypervisor");
    if promised(0) {
        let before = read(msr::VP_RUNTIME);
        check!(before.is_some() && read(msr::VP_RUNTIME) >= before, "the run time grows");
    }
    if promised(1) {
        let before = read(msr::TIME_REF_COUNT);
        let start = rdtsc();
        while rdtsc() - start < 1_000_000 {}
        check!(before.is_some() && read(msr::TIME_REF_COUNT) > before, "the reference time grows");
    }
    if promised(9) {
        check!(holds(msr::REFERENCE_TSC, 0), "the page of the reference time");
    }
    if promised(11) {
        check!(read(msr::TSC_FREQUENCY).is_some_and(|hz| hz > 100_000_000), "the TSC's frequency");
        check!(read(msr::APIC_FREQUENCY).is_some_and(|hz| hz > 1_000_000), "the APIC's frequency");
    }
    if promised(4) {
        check!(holds(msr::TPR, 0x30) && write(msr::EOI, 0), "the APIC's registers");
        check!(holds(msr::APIC_ASSIST, DATA + 0x1000 | 1), "the page of the APIC");
    }
    if promised(6) {
        check_eq!(read(msr::VP_INDEX), Some(0), "the first processor's number");
    }
    if promised(7) {
        check_eq!(read(msr::RESET), Some(0), "the register that resets");
    }
    if promised(2) {
        synthetic_interrupts();
    }
    if promised(3) {
        check!(holds(msr::STIMER0_COUNT, 12345), "a synthetic timer's count");
        check!(holds(msr::STIMER0_CONFIG, 1 << 16), "and its configuration");
    }
    if more >> 10 & 1 != 0 {
        check!(holds(msr::CRASH_P0, 0x1234_5678), "a parameter of a crash");
    }
    if promised(13) {
        check!(holds(msr::REENLIGHTENMENT, 0), "reenlightenment");
    }
    for (bit, number, name) in [
        (0, msr::VP_RUNTIME, "run time"),
        (2, msr::SCONTROL, "synthetic interrupts"),
        (11, msr::TSC_FREQUENCY, "frequencies"),
    ] {
        let there = read(number).is_some();
        say!("# {name}: promised {}, there {there}", promised(bit));
    }
}

fn synthetic_interrupts() {
    check_eq!(read(msr::SVERSION), Some(1), "synthetic interrupts: version 1");
    check_eq!(read(msr::SINT0).map(|value| value >> 16 & 1), Some(1), "masked at first");
    check!(holds(msr::SINT0, 0x1_0050), "with vectors");
    check!(holds(msr::SIMP, DATA + 0x2000 | 1), "a page of messages");
    check!(holds(msr::SIEFP, DATA + 0x3000 | 1), "and one of events");
    check!(holds(msr::SCONTROL, 1), "to be turned on");
}
