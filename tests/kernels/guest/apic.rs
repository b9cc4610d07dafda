//! The local APIC (SDM vol. 3, chapter 12): modes, registers, priorities, timer, and interrupts
//! between processors.

use crate::cpu::{self, cr8, feature, flag, msr, rdmsr, rdtsc, set_cr8, wrmsr};
use crate::trap::{self, FINE, Frame, fault_of, vector::*};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

pub const BASE: u64 = 0xfee0_0000;
const ENABLED: u64 = 1 << 11;
const X2: u64 = 1 << 10;

/// Register offsets of the page.
pub mod reg {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR2: u32 = 0x310;
    pub const TIMER: u32 = 0x320;
    pub const THERMAL: u32 = 0x330;
    pub const PERF: u32 = 0x340;
    pub const LINT0: u32 = 0x350;
    pub const LINT1: u32 = 0x360;
    pub const ERROR: u32 = 0x370;
    pub const INITIAL: u32 = 0x380;
    pub const CURRENT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

pub fn read(register: u32) -> u32 {
    unsafe { ((BASE + u64::from(register)) as *const u32).read_volatile() }
}
pub fn write(register: u32, value: u32) {
    unsafe { ((BASE + u64::from(register)) as *mut u32).write_volatile(value) };
}
fn x2(register: u32) -> u32 {
    0x800 + register / 16
}

/// Vectors in the order they came, four to a word from the lowest byte.
static ORDER: AtomicU64 = AtomicU64::new(0);
static NMIS: AtomicU32 = AtomicU32::new(0);

fn came(frame: &mut Frame) {
    let _ = ORDER.fetch_update(SeqCst, SeqCst, |order| Some(order << 8 | frame.vector));
    write(reg::EOI, 0);
}
fn came_x2(frame: &mut Frame) {
    let _ = ORDER.fetch_update(SeqCst, SeqCst, |order| Some(order << 8 | frame.vector));
    wrmsr(x2(reg::EOI), 0);
}
fn nmi(_: &mut Frame) {
    NMIS.fetch_add(1, SeqCst);
}

/// Which interrupts came since the last look.
fn seen() -> u64 {
    ORDER.swap(0, SeqCst)
}

/// Lets interrupts in for a few instructions.
pub fn breathe() {
    unsafe { asm!("sti", "nop", "nop", "nop", "nop", "cli") };
}

/// Waits, with interrupts on, until `done`. Nothing depends on how long that takes: the limit only ends
/// a kernel that would wait forever.
pub fn wait(done: impl Fn() -> bool) -> bool {
    let start = rdtsc();
    while !done() {
        unsafe { asm!("sti", "pause", "nop", "cli") };
        if rdtsc().wrapping_sub(start) > 30_000_000_000 {
            return done();
        }
    }
    true
}

pub fn prepare() {
    for vector in 0x20..0x100 {
        trap::set_handler(vector, Some(came));
    }
    trap::set_handler(NMI, Some(nmi));
    write(reg::SVR, 0x1ff);
}

pub fn run() {
    trap::set_handler(DONE, None);
    prepare();
    registers();
    self_ipi();
    priorities();
    timer();
    errors();
    nmis();
    modes();
}

fn registers() {
    check_eq!(
        rdmsr(msr::APIC_BASE) & !0xff,
        BASE | ENABLED | 1 << 8,
        "IA32_APIC_BASE of the boot processor"
    );
    check_eq!(read(reg::ID) >> 24, cpu::cpuid(1, 0)[1] >> 24, "the ID is CPUID's");
    check_eq!(read(reg::VERSION) & 0xff, 0x14, "version 0x14");
    check!(read(reg::VERSION) >> 16 & 0xff >= 4, "at least five entries in the LVT");
    for (name, register, value, want) in [
        ("TPR", reg::TPR, 0xff, 0xff),
        ("LDR", reg::LDR, 0x12ff_ffff, 0x1200_0000),
        ("DFR", reg::DFR, 0x0123_4567, 0x0fff_ffff),
        ("DFR, flat", reg::DFR, 0xf000_0000, 0xffff_ffff),
        ("ICR2", reg::ICR2, 0x5500_0000, 0x5500_0000),
        ("timer", reg::TIMER, 0x0003_00ff, 0x0003_00ff),
        ("LINT0", reg::LINT0, 0x0001_a7ff, 0x0001_a7ff),
        ("LINT1", reg::LINT1, 0x0001_a7ff, 0x0001_a7ff),
        ("error", reg::ERROR, 0x0001_00ff, 0x0001_00ff),
        ("performance", reg::PERF, 0x0001_07ff, 0x0001_07ff),
        ("thermal", reg::THERMAL, 0x0001_07ff, 0x0001_07ff),
        ("divide", reg::DIVIDE, 0xffff_fff4, 0),
        ("divide", reg::DIVIDE, 0xb, 0xb),
    ] {
        write(register, value);
        check_eq!(read(register), want, "{name} holds its bits");
    }
    write(reg::TPR, 0);
    write(reg::LINT0, 0x0001_0000);
    write(reg::LINT1, 0x0001_0000);
    write(reg::VERSION, 0);
    check_eq!(read(reg::VERSION) & 0xff, 0x14, "the version is read-only");
    set_cr8(5);
    check_eq!(read(reg::TPR), 0x50, "CR8 is the task priority");
    write(reg::TPR, 0x73);
    check_eq!(cr8(), 7, "and shows its class");
    write(reg::TPR, 0);
    check_eq!(fault_of(|| set_cr8(16)), (GP, 0), "CR8 has four bits");
    // A disabled APIC masks its LVT.
    write(reg::TIMER, 0x40);
    write(reg::SVR, 0xff);
    check_eq!(read(reg::TIMER), 0x1_0040, "disabling by SVR masks the LVT");
    write(reg::TIMER, 0x41);
    check_eq!(read(reg::TIMER), 0x1_0041, "which stays so");
    write(reg::SVR, 0x1ff);
    check_eq!(read(reg::TIMER), 0x1_0041, "until software unmasks it");
}

/// ICR bits.
const ASSERT: u32 = 1 << 14;
const SELF: u32 = 1 << 18 | ASSERT;

fn self_ipi() {
    write(reg::ICR, SELF | 0x41);
    check_eq!(read(reg::IRR + 0x20) & 2, 2, "a self IPI waits in IRR");
    check_eq!(seen(), 0, "while interrupts are off");
    breathe();
    check_eq!(seen(), 0x41, "and comes when they are on");
    check_eq!(read(reg::IRR + 0x20) & 2, 0, "IRR is clear then");
    write(reg::ICR2, read(reg::ID));
    write(reg::ICR, ASSERT | 0x42);
    breathe();
    check_eq!(seen(), 0x42, "by physical destination");
    write(reg::LDR, 0x0100_0000);
    write(reg::DFR, !0);
    write(reg::ICR2, 0x0100_0000);
    write(reg::ICR, ASSERT | 0x843);
    breathe();
    check_eq!(seen(), 0x43, "by flat logical destination");
    write(reg::ICR2, 0x0200_0000);
    write(reg::ICR, ASSERT | 0x844);
    breathe();
    check_eq!(seen(), 0, "not for another logical destination");
    write(reg::DFR, 0x0fff_ffff);
    write(reg::LDR, 0x2400_0000);
    write(reg::ICR2, 0x2c00_0000);
    write(reg::ICR, ASSERT | 0x845);
    breathe();
    check_eq!(seen(), 0x45, "by cluster");
    write(reg::ICR2, 0x1c00_0000);
    write(reg::ICR, ASSERT | 0x846);
    breathe();
    check_eq!(seen(), 0, "not for another cluster");
    write(reg::DFR, !0);
    write(reg::LDR, 0x0100_0000);
    write(reg::ICR2, 0xff00_0000);
    write(reg::ICR, ASSERT | 0x47);
    breathe();
    check_eq!(seen(), 0x47, "by broadcast");
    write(reg::ICR, 2 << 18 | ASSERT | 0x48);
    breathe();
    check_eq!(seen(), 0x48, "all, including itself");
    write(reg::ICR, 3 << 18 | ASSERT | 0x49);
    breathe();
    check_eq!(seen(), 0, "all, excluding itself");
    write(reg::ICR, SELF | 0x4a);
    write(reg::ICR, SELF | 0x4a);
    breathe();
    check_eq!(seen(), 0x4a, "twice the same pending is once");
}

fn priorities() {
    for vector in [0x51, 0x31, 0x71, 0x61] {
        write(reg::ICR, SELF | vector);
    }
    breathe();
    check_eq!(seen(), 0x7161_5131, "the highest comes first");
    write(reg::TPR, 0x50);
    for vector in [0x51, 0x61] {
        write(reg::ICR, SELF | vector);
    }
    breathe();
    check_eq!(seen(), 0x61, "TPR holds its class and below back");
    check_eq!(read(reg::PPR), 0x50, "PPR is TPR");
    write(reg::TPR, 0x4f);
    breathe();
    check_eq!(seen(), 0x51, "lowering it lets them in");
    set_cr8(5);
    write(reg::ICR, SELF | 0x52);
    breathe();
    check_eq!(seen(), 0, "so does CR8");
    set_cr8(0);
    breathe();
    check_eq!(seen(), 0x52, "lowered");
    // One in service holds its class and below.
    fn nested(frame: &mut Frame) {
        write(reg::ICR, SELF | 0x65);
        write(reg::ICR, SELF | 0x78);
        let service = read(reg::ISR + 0x30);
        let ppr = read(reg::PPR);
        IN_SERVICE.store(u64::from(service) << 32 | u64::from(ppr), SeqCst);
        came(frame);
    }
    static IN_SERVICE: AtomicU64 = AtomicU64::new(0);
    trap::set_handler(0x64, Some(nested));
    write(reg::ICR, SELF | 0x64);
    breathe();
    check_eq!(IN_SERVICE.load(SeqCst), 0x10_0000_0060, "ISR and PPR while it is served");
    check_eq!(seen(), 0x64_7865, "then those that waited");
    trap::set_handler(0x64, Some(came));
    // STI; CLI lets nothing in.
    write(reg::ICR, SELF | 0x41);
    unsafe { asm!("sti", "cli") };
    check_eq!(seen(), 0, "nothing comes between STI and CLI");
    unsafe { asm!("sti", "mov {0:e}, ss", "mov ss, {0:e}", "cli", out(reg) _) };
    check_eq!(seen(), 0x41, "but before MOV SS, which comes after");
    write(reg::ICR, SELF | 0x41);
    unsafe { asm!("sti", "hlt", "cli") };
    check_eq!(seen(), 0x41, "STI; HLT wakes at once");
    breathe();
}

fn timer() {
    write(reg::DIVIDE, 0xb);
    write(reg::TIMER, 0x80_0000 | 0x1_0000);
    write(reg::TIMER, 0x50);
    write(reg::INITIAL, 10000);
    check!(read(reg::CURRENT) <= 10000, "the count begins at the initial one");
    check!(wait(|| ORDER.load(SeqCst) != 0), "one-shot: it comes");
    check_eq!(seen(), 0x50, "one-shot: its vector");
    check_eq!(read(reg::CURRENT), 0, "one-shot: the count stays at zero");
    check_eq!(read(reg::INITIAL), 10000, "one-shot: the initial count stays");
    write(reg::TIMER, 0x2_0051);
    write(reg::INITIAL, 100_000);
    check!(wait(|| ORDER.load(SeqCst) >= 0x51_5151), "periodic: it comes again and again");
    write(reg::INITIAL, 0);
    breathe();
    seen();
    check_eq!(read(reg::CURRENT), 0, "an initial count of zero stops it");
    write(reg::TIMER, 0x1_0052);
    write(reg::INITIAL, 1000);
    let start = rdtsc();
    while rdtsc() - start < 5_000_000 {}
    breathe();
    check_eq!(seen(), 0, "masked: nothing comes");
    write(reg::TIMER, 0x52);
    breathe();
    check_eq!(seen(), 0, "nor later");
    // Dividers.
    let (by2, by128) = (counted(0), counted(0xa));
    check!(by128 > 0 && by2 / by128 >= 48, "dividing by 128 is slower than by 2");
    write(reg::DIVIDE, 0xb);
    if feature::TSC_DEADLINE.offered() {
        write(reg::TIMER, 0x4_0053);
        unsafe { asm!("mfence") };
        check_eq!(rdmsr(msr::TSC_DEADLINE), 0, "deadline: none");
        wrmsr(msr::TSC_DEADLINE, rdtsc() + 1_000_000);
        check!(wait(|| ORDER.load(SeqCst) != 0), "deadline: it comes");
        check_eq!(seen(), 0x53, "deadline: its vector");
        check_eq!(rdmsr(msr::TSC_DEADLINE), 0, "deadline: zero when it has come");
        wrmsr(msr::TSC_DEADLINE, 1);
        check!(wait(|| ORDER.load(SeqCst) != 0), "a deadline in the past comes at once");
        seen();
        let far = rdtsc() + (1 << 40);
        wrmsr(msr::TSC_DEADLINE, far);
        check_eq!(rdmsr(msr::TSC_DEADLINE), far, "deadline: reads as armed");
        write(reg::INITIAL, 1000);
        check_eq!(read(reg::CURRENT), 0, "the initial count is ignored");
        wrmsr(msr::TSC_DEADLINE, 0);
        write(reg::TIMER, 0x1_0000);
        check_eq!(rdmsr(msr::TSC_DEADLINE), 0, "disarmed");
    } else {
        crate::tap::skip("TSC deadline");
    }
    write(reg::TIMER, 0x1_0000);
    changes();
}

/// How far the timer counts in 20 million ticks of the time stamp, with the given divider.
fn counted(divide: u32) -> u32 {
    const SPAN: u64 = 20_000_000;
    write(reg::DIVIDE, divide);
    loop {
        write(reg::INITIAL, !0);
        let begin = rdtsc();
        let count = read(reg::CURRENT);
        while rdtsc() - begin < SPAN {}
        let count = count - read(reg::CURRENT);
        // Unless a host has held it up between two looks.
        if rdtsc() - begin < SPAN + SPAN / 8 {
            write(reg::INITIAL, 0);
            return count;
        }
    }
}

/// Changes of the mode while the timer counts, and at its end.
fn changes() {
    const COUNT: u32 = 4_000_000;
    write(reg::DIVIDE, 0xb);
    write(reg::TIMER, 0x52);
    write(reg::INITIAL, COUNT);
    // With interrupts off: who sees the end finds the interrupt.
    while read(reg::CURRENT) != 0 {}
    check!(read(reg::IRR + 0x20) >> 18 & 1 == 1, "a count at zero has its interrupt pending");
    write(reg::TIMER, 0x2_0052);
    check_eq!(read(reg::CURRENT), 0, "from one-shot to periodic: an ended count stays at zero");
    breathe();
    check_eq!(seen(), 0x52, "and has come once");
    write(reg::INITIAL, COUNT);
    while read(reg::CURRENT) > COUNT / 2 {}
    write(reg::INITIAL, COUNT);
    check!(read(reg::CURRENT) != 0, "an initial count restarts it");
    let (periodic, left, came) = loop {
        while read(reg::IRR + 0x20) >> 18 & 1 == 0 {}
        let periodic = read(reg::CURRENT);
        write(reg::TIMER, 0x52);
        let left = read(reg::CURRENT);
        breathe();
        let came = seen();
        // Unless a host has held it up for so long that two interrupts have become one.
        if read(reg::CURRENT) != 0 {
            break (periodic, left, came);
        }
        write(reg::TIMER, 0x2_0052);
        write(reg::INITIAL, COUNT);
    };
    check!(periodic != 0, "periodic: counts on from the initial one");
    check!(left != 0 && left < COUNT, "from periodic to one-shot: counts on");
    check_eq!(came, 0x52, "the period that is over has come");
    while read(reg::CURRENT) != 0 {}
    breathe();
    check_eq!(seen(), 0x52, "and the last one comes");
    check_eq!(read(reg::CURRENT), 0, "where it stops");
    write(reg::INITIAL, 20_000);
    let start = rdtsc();
    while rdtsc() - start < 5_000_000 {}
    write(reg::INITIAL, 0);
    breathe();
    check_eq!(seen(), 0x52, "one that is due is not called off by a new count");
    write(reg::TIMER, 0x1_0000);
}

fn errors() {
    write(reg::ESR, 0);
    write(reg::ESR, 0);
    check_eq!(read(reg::ESR), 0, "no errors");
    write(reg::ERROR, 0x55);
    write(reg::ICR, SELF | 5);
    breathe();
    check_eq!(seen(), 0x55, "an illegal vector raises the error interrupt");
    check_eq!(read(reg::ESR), 0, "ESR shows nothing before it is written");
    write(reg::ESR, 0);
    check!(read(reg::ESR) & 0x60 != 0, "then what happened");
    write(reg::ESR, 0);
    check_eq!(read(reg::ESR), 0, "and nothing again");
    write(reg::ERROR, 0x1_0000);
}

fn nmis() {
    NMIS.store(0, SeqCst);
    write(reg::ICR2, read(reg::ID));
    write(reg::ICR, ASSERT | 4 << 8);
    unsafe { asm!("nop", "nop") };
    check_eq!(NMIS.load(SeqCst), 1, "an NMI to itself comes with interrupts off");
    // Blocked until IRET.
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    fn again(_: &mut Frame) {
        let before = NMIS.fetch_add(1, SeqCst);
        if before == 0 {
            write(reg::ICR, ASSERT | 4 << 8);
            unsafe { asm!("nop", "nop") };
            INSIDE.store(NMIS.load(SeqCst), SeqCst);
        }
    }
    trap::set_handler(NMI, Some(again));
    NMIS.store(0, SeqCst);
    write(reg::ICR, ASSERT | 4 << 8);
    unsafe { asm!("nop", "nop") };
    check_eq!(INSIDE.load(SeqCst), 1, "an NMI inside its handler waits");
    check_eq!(NMIS.load(SeqCst), 2, "and comes after IRET");
    // IRET lets NMIs in even if it faults.
    static FAULTED: AtomicU32 = AtomicU32::new(0);
    static mut GOOD: [u64; 5] = [0; 5];
    fn bad_return(frame: &mut Frame) {
        if NMIS.fetch_add(1, SeqCst) == 0 {
            write(reg::ICR, ASSERT | 4 << 8);
            unsafe { GOOD = [frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss] };
            // A code segment that is none.
            frame.cs = crate::boot::sel::DATA.into();
        }
    }
    fn mend(frame: &mut Frame) {
        FAULTED.store(NMIS.load(SeqCst), SeqCst);
        // IRET is about to be repeated. The second NMI came on the stack of the first.
        unsafe { *(frame.rsp as *mut [u64; 5]) = GOOD };
    }
    trap::set_handler(NMI, Some(bad_return));
    trap::set_handler(GP, Some(mend));
    NMIS.store(0, SeqCst);
    write(reg::ICR, ASSERT | 4 << 8);
    unsafe { asm!("nop", "nop") };
    check_eq!(NMIS.load(SeqCst), 2, "an IRET that faults is followed by the NMI that waits");
    check_eq!(FAULTED.load(SeqCst), 2, "before the handler of the fault begins");
    trap::set_handler(GP, None);
    trap::set_handler(NMI, Some(nmi));
}

fn modes() {
    let base = rdmsr(msr::APIC_BASE);
    check_eq!(
        fault_of(|| wrmsr(msr::APIC_BASE, base | 1 << 9)),
        (GP, 0),
        "reserved bits of IA32_APIC_BASE"
    );
    check_eq!(
        fault_of(|| wrmsr(msr::APIC_BASE, base | 1 << 52)),
        (GP, 0),
        "an address beyond the physical width"
    );
    // The page lies where the register says.
    const ELSEWHERE: u64 = 0xfed4_0000;
    let at = |address: u64| unsafe { (address as *const u32).read_volatile() };
    let version = read(reg::VERSION);
    wrmsr(msr::APIC_BASE, base & 0xfff | ELSEWHERE);
    check_eq!(at(ELSEWHERE + u64::from(reg::VERSION)), version, "its page can be elsewhere");
    check!(at(BASE + u64::from(reg::VERSION)) != version, "and is not where it was");
    wrmsr(msr::APIC_BASE, base);
    check_eq!(read(reg::VERSION), version, "until it is back");
    check_eq!(fault_of(|| rdmsr_quiet(0x802)), (GP, 0), "no x2APIC registers in xAPIC mode");
    wrmsr(msr::APIC_BASE, base & !ENABLED);
    check_eq!(cpu::cpuid(1, 0)[3] >> 9 & 1, 0, "CPUID shows no APIC when it is disabled");
    check_eq!(read(reg::VERSION), !0, "its page shows nothing then");
    write(reg::TPR, 0x50);
    check_eq!((read(reg::TPR), cr8()), (!0, 0), "and takes nothing");
    set_cr8(9);
    check_eq!(cr8(), 9, "CR8 is there all the same");
    set_cr8(0);
    check_eq!(
        fault_of(|| wrmsr(msr::APIC_BASE, base & !ENABLED | X2)),
        (GP, 0),
        "x2APIC without being enabled"
    );
    if feature::X2APIC.offered() {
        check_eq!(
            fault_of(|| wrmsr(msr::APIC_BASE, base | X2)),
            (GP, 0),
            "from disabled to x2APIC"
        );
    }
    wrmsr(msr::APIC_BASE, base);
    check_eq!(cpu::cpuid(1, 0)[3] >> 9 & 1, 1, "and one when it is on again");
    check_eq!(read(reg::SVR), 0xff, "SVR is as after power-up then");
    if !feature::X2APIC.offered() {
        return crate::tap::skip("x2APIC");
    }
    let id = read(reg::ID) >> 24;
    wrmsr(msr::APIC_BASE, base | X2);
    for vector in 0x20..0x100 {
        trap::set_handler(vector, Some(came_x2));
    }
    check_eq!(rdmsr(x2(reg::ID)), u64::from(id), "x2APIC: the ID");
    check_eq!(
        rdmsr(x2(reg::LDR)),
        u64::from(id >> 4 << 16 | 1 << (id & 15)),
        "x2APIC: LDR follows from it"
    );
    wrmsr(x2(reg::SVR), 0x1ff);
    wrmsr(x2(reg::SELF_IPI), 0x44);
    breathe();
    check_eq!(seen(), 0x44, "x2APIC: self IPI");
    wrmsr(x2(reg::ICR), u64::from(id) << 32 | u64::from(ASSERT | 0x45));
    breathe();
    check_eq!(seen(), 0x45, "x2APIC: by physical destination");
    wrmsr(x2(reg::ICR), rdmsr(x2(reg::LDR)) << 32 | u64::from(ASSERT | 0x846));
    breathe();
    check_eq!(seen(), 0x46, "x2APIC: by logical destination");
    wrmsr(x2(reg::ICR), 0xffff_ffff << 32 | u64::from(ASSERT | 0x47));
    breathe();
    check_eq!(seen(), 0x47, "x2APIC: by broadcast");
    for (name, number, value) in [
        ("writing the ID", reg::ID, 0),
        ("writing LDR", reg::LDR, 0),
        ("writing PPR", reg::PPR, 0),
        ("EOI other than zero", reg::EOI, 1),
        ("ESR other than zero", reg::ESR, 1),
        ("DFR", reg::DFR, 0),
        ("ICR2", reg::ICR2, 0),
        ("reserved bits of TPR", reg::TPR, 0x100),
        ("reserved bits of SVR", reg::SVR, 1 << 32),
        ("reserved bits of the divider", reg::DIVIDE, 0x10),
        ("reserved bits of self IPI", reg::SELF_IPI, 0x100),
        ("reserved bits of the timer", reg::TIMER, 1 << 20),
        ("writing the current count", reg::CURRENT, 0),
    ] {
        check_eq!(fault_of(|| wrmsr(x2(number), value)), (GP, 0), "x2APIC: {name}");
    }
    x2_registers();
    for (name, number) in
        [("DFR", reg::DFR), ("ICR2", reg::ICR2), ("EOI", reg::EOI), ("self IPI", reg::SELF_IPI)]
    {
        check_eq!(fault_of(|| rdmsr_quiet(x2(number))), (GP, 0), "x2APIC: reading {name}");
    }
    wrmsr(x2(reg::DIVIDE), 0xb);
    wrmsr(x2(reg::TIMER), 0x54);
    wrmsr(x2(reg::INITIAL), 1000);
    check!(wait(|| ORDER.load(SeqCst) != 0), "x2APIC: the timer comes");
    seen();
    wrmsr(x2(reg::TIMER), 0x1_0000);
    check_eq!(fault_of(|| wrmsr(msr::APIC_BASE, base)), (GP, 0), "from x2APIC to xAPIC");
    wrmsr(msr::APIC_BASE, base & !ENABLED);
    wrmsr(msr::APIC_BASE, base);
    check_eq!(rdmsr(msr::APIC_BASE), base, "by way of disabled");
    check_eq!(read(reg::ID) >> 24, id, "the page is back");
    let _ = (FINE, flag::IF);
}

/// Every number that an x2APIC register could have (SDM vol. 3, table 12-6).
fn x2_registers() {
    const READABLE: &[(u32, u32)] = &[
        (0x02, 0x03),
        (0x08, 0x08),
        (0x0a, 0x0a),
        (0x0d, 0x0d),
        (0x0f, 0x28),
        (0x30, 0x30),
        (0x32, 0x39),
        (0x3e, 0x3e),
    ];
    const WRITABLE: &[(u32, u32)] = &[
        (0x08, 0x08),
        (0x0b, 0x0b),
        (0x0f, 0x0f),
        (0x28, 0x28),
        (0x30, 0x30),
        (0x32, 0x38),
        (0x3e, 0x3f),
    ];
    let among =
        |ranges: &[(u32, u32)], n| ranges.iter().any(|(from, to)| (*from..=*to).contains(&n));
    let mut wrong = [!0; 2];
    for n in 0..0x100 {
        // Corrected machine checks have an entry of their own on some processors.
        if n == 0x2f {
            continue;
        }
        let number = 0x800 + n;
        let readable = fault_of(|| rdmsr_quiet(number)) == FINE;
        if readable != among(READABLE, n) {
            wrong[0] = n;
        }
        // Reserved in all of them but the ICR.
        let upper = fault_of(|| wrmsr(number, 1 << 40)) == FINE;
        if n != 0x30 && upper || !among(WRITABLE, n) && fault_of(|| wrmsr(number, 0)) == FINE {
            wrong[1] = n;
        }
    }
    check_eq!(wrong[0], !0, "x2APIC: what can be read");
    check_eq!(wrong[1], !0, "x2APIC: what can be written");
}

/// RDMSR whose value does not matter.
pub fn rdmsr_quiet(number: u32) {
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") _, out("edx") _) };
}
