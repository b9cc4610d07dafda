//! Model-specific and control registers: values stick, reserved bits fault, what does not exist
//! faults. Time stamps and CPUID go with them.

use crate::apic::{self, rdmsr_quiet};
use crate::boot::PML4;
use crate::cpu::{
    self, cr0, cr4, feature, is_amd, msr, rdmsr, rdtsc, set_cr0, set_cr3, set_cr4, wrmsr,
};
use crate::paging;
use crate::trap::{self, FINE, fault_of, vector::*};
use core::arch::asm;
use core::ptr::addr_of_mut;

const FAR: u64 = 1 << 63 | 1;

pub fn msrs() {
    const ADDRESS: u64 = 0x1234_5678_9abc;
    for (name, number, value) in [
        ("SYSENTER_CS", msr::SYSENTER_CS, 0x1234),
        ("SYSENTER_ESP", msr::SYSENTER_ESP, ADDRESS),
        ("SYSENTER_EIP", msr::SYSENTER_EIP, ADDRESS),
        ("STAR", msr::STAR, 0x1234_5678_9abc_def0),
        ("LSTAR", msr::LSTAR, ADDRESS),
        ("CSTAR", msr::CSTAR, ADDRESS),
        ("FMASK", msr::FMASK, 0xffff_ffff),
        ("FS_BASE", msr::FS_BASE, ADDRESS),
        ("GS_BASE", msr::GS_BASE, ADDRESS),
        ("KERNEL_GS_BASE", msr::KERNEL_GS_BASE, ADDRESS),
        ("PAT", 0x277, 0x0007_0106_0007_0406),
        ("MTRR_DEF_TYPE", 0x2ff, 0xc06),
        ("MTRR_PHYSBASE0", 0x200, 0x8000_0006),
        ("MTRR_PHYSMASK0", 0x201, 0xff_8000_0800),
        ("MTRR_FIX64K", 0x250, 0x0606_0606_0606_0606),
        ("TSC_AUX", msr::TSC_AUX, 0x1234_5678),
    ] {
        if number == msr::TSC_AUX && !feature::RDTSCP.offered() {
            continue;
        }
        let old = rdmsr(number);
        wrmsr(number, value);
        check_eq!(rdmsr(number), value, "{name} holds its value");
        wrmsr(number, old);
        check_eq!(rdmsr(number), old, "{name} is restored");
    }
    for (name, number) in [
        ("SYSENTER_ESP", msr::SYSENTER_ESP),
        ("SYSENTER_EIP", msr::SYSENTER_EIP),
        ("LSTAR", msr::LSTAR),
        ("CSTAR", msr::CSTAR),
        ("FS_BASE", msr::FS_BASE),
        ("GS_BASE", msr::GS_BASE),
        ("KERNEL_GS_BASE", msr::KERNEL_GS_BASE),
    ] {
        check_eq!(fault_of(|| wrmsr(number, FAR)), (GP, 0), "{name} refuses what is not canonical");
    }
    let efer = rdmsr(msr::EFER);
    for (name, number, value) in [
        ("EFER: a reserved bit", msr::EFER, efer | 1 << 1),
        ("EFER: LME with paging on", msr::EFER, efer & !0x100),
        ("PAT: type 2", 0x277, 0x0007_0406_0007_0402),
        ("PAT: type 8", 0x277, 0x0007_0406_0007_0408),
        ("MTRR_DEF_TYPE: type 2", 0x2ff, 0xc02),
        ("MTRR_DEF_TYPE: reserved bits", 0x2ff, 0x1c06),
        ("MTRR_PHYSBASE0: type 7", 0x200, 7),
        ("MTRR_FIX64K: type 2", 0x250, 2),
        ("MTRRCAP is read-only", 0xfe, 0),
        ("TSC_AUX: the upper half", msr::TSC_AUX, 1 << 32),
        ("a register that does not exist", 0x4000_1234, 0),
        ("another", 0xc000_1234, 0),
        ("yet another", 0x12345, 0),
    ] {
        check_eq!(fault_of(|| wrmsr(number, value)), (GP, 0), "{name}");
    }
    for number in [0x4000_1234, 0xc000_1234, 0x12345] {
        check_eq!(
            fault_of(|| rdmsr_quiet(number)),
            (GP, 0),
            "reading {number:#x}, which does not exist"
        );
    }
    check_eq!(rdmsr(msr::EFER), efer, "EFER is as it was");
    check_eq!(efer & 0x500, 0x500, "EFER.LMA shows long mode");
    wrmsr(msr::EFER, efer & !0x400);
    check_eq!(rdmsr(msr::EFER), efer, "and is not for writing");
    check_eq!(rdmsr(0x179) & 0x100, 0x100, "MCG_CAP: there is MCG_CTL");
    let banks = rdmsr(0x179) & 0xff;
    check!(banks > 0, "MCG_CAP: there are banks");
    for bank in 0..banks as u32 {
        let at = 0x400 + 4 * bank;
        check_eq!(fault_of(|| wrmsr(at + 1, 0)), FINE, "MC{bank}_STATUS can be cleared");
        check_eq!(
            fault_of(|| wrmsr(at + 1, 1)),
            (GP, 0),
            "a status takes nothing but zero: MC{bank}"
        );
        for value in [0, u64::MAX] {
            wrmsr(at, value);
            check_eq!(rdmsr(at), value, "MC{bank}_CTL holds {value:#x}");
        }
        for (register, name) in [(2, "ADDR"), (3, "MISC")] {
            for value in [0, 0xdead_beef] {
                wrmsr(at + register, value);
                check_eq!(rdmsr(at + register), value, "MC{bank}_{name} holds {value:#x}");
            }
        }
    }
    check_eq!(fault_of(|| rdmsr_quiet(0x400 + 4 * banks as u32)), (GP, 0), "a bank too many");
}

pub fn control() {
    let (old0, old4) = (cpu::cr0(), cpu::cr4());
    let cr3 = cpu::cr3();
    for (name, value) in [
        ("PG without PE", old0 & !1),
        ("NW without CD", old0 & !cr0::CD | cr0::NW),
        ("the upper half", old0 | 1 << 32),
        ("paging off in 64-bit code", old0 & !cr0::PG),
    ] {
        check_eq!(fault_of(|| set_cr0(value)), (GP, 0), "CR0: {name}");
    }
    check_eq!(fault_of(|| set_cr0(old0 | 1 << 10)), FINE, "CR0: reserved bits of the lower half");
    check_eq!(cpu::cr0(), old0, "are ignored");
    check_eq!(fault_of(|| set_cr0(old0 & !0x10)), FINE, "CR0.ET cleared");
    check_eq!(cpu::cr0(), old0, "stays set");
    for (name, value) in [
        ("PAE off in long mode", old4 & !cr4::PAE),
        ("reserved bit 15", old4 | 1 << 15),
        ("reserved bit 31", old4 | 1 << 31),
        ("the upper half", old4 | 1 << 33),
    ] {
        check_eq!(fault_of(|| set_cr4(value)), (GP, 0), "CR4: {name}");
    }
    check_eq!(fault_of(|| set_cr3(1 << 52)), (GP, 0), "CR3: beyond the physical width");
    check_eq!(fault_of(|| set_cr3(cr3 | 0x18)), FINE, "CR3: PWT and PCD");
    check_eq!(cpu::cr3(), cr3 | 0x18, "stick");
    set_cr3(cr3);
    cpu::set_cr2(0xdead_beef_0000_1234);
    check_eq!(cpu::cr2(), 0xdead_beef_0000_1234, "CR2 takes anything");
    check_eq!(
        fault_of(|| unsafe { asm!("mov rax, cr1", out("rax") _) }),
        (UD, 0),
        "there is no CR1"
    );
    check_eq!(
        fault_of(|| unsafe { asm!("mov rax, cr5", out("rax") _) }),
        (UD, 0),
        "there is no CR5"
    );
    check_eq!(fault_of(|| unsafe { asm!("mov cr15, rax") }), (UD, 0), "there is no CR15");
    check_eq!(
        fault_of(|| unsafe { asm!("mov rax, dr8", out("rax") _) }),
        (UD, 0),
        "there is no DR8"
    );
    let word: u64;
    unsafe { asm!("smsw {}", out(reg) word) };
    check_eq!(word & 0xffff, old0 & 0xffff, "SMSW");
    unsafe { asm!("lmsw {:x}", in(reg) (old0 | cr0::TS) as u16 & !1) };
    check_eq!(cpu::cr0(), old0 | cr0::TS, "LMSW sets TS, and never clears PE");
    unsafe { asm!("clts") };
    check_eq!(cpu::cr0(), old0, "CLTS");
    let user = |code: &[u8]| trap::user(code).what();
    set_cr4(old4 | cr4::TSD);
    check_eq!(user(code!(64, "rdtsc", "int 0x80")), (GP, 0), "RDTSC in ring 3 with CR4.TSD");
    if feature::RDTSCP.offered() {
        check_eq!(user(code!(64, "rdtscp", "int 0x80")), (GP, 0), "RDTSCP in ring 3 with CR4.TSD");
    }
    check_eq!(
        fault_of(|| {
            rdtsc();
        }),
        FINE,
        "RDTSC in ring 0"
    );
    set_cr4(old4);
    check_eq!(user(code!(64, "rdtsc", "int 0x80")), (DONE, 0), "RDTSC in ring 3");
    check_eq!(
        user(code!(64, "xor ecx, ecx", "rdpmc", "int 0x80")),
        (GP, 0),
        "RDPMC in ring 3 without CR4.PCE"
    );
    let osxsave = || cpu::cpuid(1, 0)[2] >> 27 & 1;
    if feature::XSAVE.offered() {
        set_cr4(old4 & !cr4::OSXSAVE);
        check_eq!(osxsave(), 0, "CPUID shows no OSXSAVE");
        set_cr4(old4 | cr4::OSXSAVE);
        check_eq!(osxsave(), 1, "CPUID shows OSXSAVE");
        set_cr4(old4);
    }
}

/// How long a million instructions take; with `-icount` that is known exactly.
pub fn count() {
    let (before, after): (u32, u32);
    unsafe {
        asm!(
            "rdtsc",
            "mov {before:e}, eax",
            "2: dec ecx",
            "jnz 2b",
            "rdtsc",
            before = out(reg) before, out("eax") after, out("edx") _,
            inout("ecx") 499_999 => _,
        );
    }
    let ticks = after.wrapping_sub(before);
    say!("# {ticks} ticks");
    check!(ticks > 0, "time goes on");
}

pub fn tsc() {
    let (a, b) = (rdtsc(), rdtsc());
    // What firmware took is as much with counted instructions.
    say!("# began at {a}");
    check!(b >= a, "time does not run backwards");
    let old = rdtsc();
    wrmsr(msr::TSC, 1 << 40);
    check!(rdtsc() - (1 << 40) < 1 << 32, "TSC can be set");
    check!(rdmsr(msr::TSC) >= 1 << 40, "and read as a register");
    if feature::TSC_ADJUST.offered() {
        wrmsr(msr::TSC_ADJUST, 0);
        let before = rdtsc();
        wrmsr(msr::TSC_ADJUST, 1 << 42);
        check_eq!(rdmsr(msr::TSC_ADJUST), 1 << 42, "TSC_ADJUST holds its value");
        check!(rdtsc() - before >= 1 << 42, "which is added");
        wrmsr(msr::TSC_ADJUST, 0);
        check!(rdtsc() - before < 1 << 40, "and taken away");
        let now = rdtsc();
        wrmsr(msr::TSC, now + (1 << 42));
        let adjust = rdmsr(msr::TSC_ADJUST);
        check!(
            adjust <= 1 << 42 && adjust > (1 << 42) - (1 << 32),
            "setting TSC adds to TSC_ADJUST"
        );
        wrmsr(msr::TSC, now);
        wrmsr(msr::TSC_ADJUST, 0);
    } else {
        crate::tap::skip("TSC_ADJUST");
    }
    wrmsr(msr::TSC, old);
    if feature::RDTSCP.offered() {
        wrmsr(msr::TSC_AUX, 0x1234_5678);
        let (low, high, aux): (u32, u32, u32);
        unsafe { asm!("rdtscp", out("eax") low, out("edx") high, out("ecx") aux) };
        check_eq!(aux, 0x1234_5678, "RDTSCP: TSC_AUX");
        check!((u64::from(high) << 32 | u64::from(low)) >= old, "RDTSCP: the time");
    }
    if feature::RDPID.offered() {
        wrmsr(msr::TSC_AUX, 0x4321);
        let id: u64;
        unsafe { asm!("rdpid {}", out(reg) id) };
        check_eq!(id, 0x4321, "RDPID");
    }
    wrmsr(msr::TSC_AUX, 0);
}

/// Says some random numbers, so that runs can be compared.
pub fn random() {
    if !feature::RDRAND.offered() {
        return crate::tap::skip("RDRAND");
    }
    let numbers: [(u64, u8); 4] = core::array::from_fn(|_| {
        let (number, carry): (u64, u8);
        unsafe { asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) carry) };
        (number, carry)
    });
    check!(numbers.iter().all(|(_, carry)| *carry == 1), "RDRAND has numbers");
    check!(numbers.windows(2).all(|two| two[0] != two[1]), "which differ");
    for (number, _) in numbers {
        say!("# number {number:016x}");
    }
}

#[repr(C, align(64))]
struct Area([u8; 4096]);

fn xsetbv(index: u32, value: u64) -> (u64, u64) {
    fault_of(|| unsafe {
        asm!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
    })
}

fn xgetbv(index: u32) -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("xgetbv", in("ecx") index, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

pub fn xsave() {
    if !feature::XSAVE.offered() {
        return crate::tap::skip("XSAVE");
    }
    let old4 = cpu::cr4();
    let get = || fault_of(|| unsafe { asm!("xgetbv", in("ecx") 0, out("eax") _, out("edx") _) });
    set_cr4(old4 & !cr4::OSXSAVE);
    check_eq!(get(), (UD, 0), "XGETBV without CR4.OSXSAVE");
    check_eq!(xsetbv(0, 1), (UD, 0), "XSETBV without CR4.OSXSAVE");
    set_cr4(old4 | cr4::OSXSAVE);
    check_eq!(xgetbv(0), 1, "XCR0 begins as x87 only");
    let leaf = cpu::cpuid(13, 0);
    let all = u64::from(leaf[0]) | u64::from(leaf[3]) << 32;
    check_eq!(xsetbv(0, 0), (GP, 0), "XCR0 without x87");
    check_eq!(xsetbv(0, 5), (GP, 0), "XCR0 with AVX, without SSE");
    check_eq!(xsetbv(0, all | 1 << 62), (GP, 0), "XCR0 with what does not exist");
    check_eq!(xsetbv(1, 1), (GP, 0), "XCR1 is not for writing");
    check_eq!(
        trap::user(code!(64, "xor ecx, ecx", "xsetbv", "int 0x80")).what(),
        (GP, 0),
        "XSETBV in ring 3"
    );
    check_eq!(xsetbv(0, all), FINE, "XCR0 with all there is");
    check_eq!(xgetbv(0), all, "holds it");
    let size = cpu::cpuid(13, 0)[1];
    check!(size <= cpu::cpuid(13, 0)[2] && size >= 576, "CPUID tells the area's size");
    static mut AREA: Area = Area([0xaa; 4096]);
    let area = unsafe { &mut *addr_of_mut!(AREA) };
    let at = addr_of_mut!(AREA) as u64;
    let save = |at: u64, mask: u32| {
        fault_of(|| unsafe { asm!("xsave [{}]", in(reg) at, in("eax") mask, in("edx") 0) })
    };
    let restore = |at: u64, mask: u32| {
        fault_of(|| unsafe { asm!("xrstor [{}]", in(reg) at, in("eax") mask, in("edx") 0) })
    };
    check_eq!(save(at + 8, 3), (GP, 0), "XSAVE to what is not aligned");
    area.0[512..576].fill(0);
    check_eq!(save(at, 3), FINE, "XSAVE");
    check_eq!(area.0[512] & !3, 0, "XSTATE_BV has no more than was asked for");
    check!(area.0[576..].iter().all(|byte| *byte == 0xaa), "nothing else is written");
    check_eq!(restore(at, 3), FINE, "XRSTOR");
    area.0[512] |= 0x80;
    if all & 0x80 == 0 {
        check_eq!(restore(at, 3), (GP, 0), "XRSTOR of a component that is not enabled");
    }
    area.0[512] &= 3;
    area.0[520] = 1;
    check_eq!(restore(at, 3), (GP, 0), "XRSTOR with reserved bits of the header");
    area.0[520] = 0;
    area.0[27] = 0xff;
    check_eq!(restore(at, 3), (GP, 0), "XRSTOR of a bad MXCSR");
    area.0[27] = 0;
    unsafe { asm!("mov {0}, 0x1234", "movq xmm3, {0}", out(reg) _, out("xmm3") _) };
    area.0[512] = 0;
    let value: u64;
    unsafe {
        asm!("mov {1}, 0x1234", "movq xmm3, {1}", "xrstor [{2}]", "movq {0}, xmm3",
            out(reg) value, out(reg) _, in(reg) at, in("eax") 2, in("edx") 0, out("xmm3") _)
    };
    check_eq!(value, 0, "XRSTOR of the initial state");
    if feature::XSAVEOPT.offered() {
        let what =
            fault_of(|| unsafe { asm!("xsaveopt [{}]", in(reg) at, in("eax") 3, in("edx") 0) });
        check_eq!(what, FINE, "XSAVEOPT");
    }
    if feature::XGETBV1.offered() {
        check_eq!(xgetbv(1) & !xgetbv(0), 0, "XGETBV of XINUSE");
    } else {
        let one = fault_of(|| unsafe { asm!("xgetbv", in("ecx") 1, out("eax") _, out("edx") _) });
        check_eq!(one, (GP, 0), "XGETBV of XINUSE does not exist");
    }
    let xsavec = fault_of(|| unsafe { asm!("xsavec [{}]", in(reg) at, in("eax") 3, in("edx") 0) });
    check_eq!(
        xsavec,
        if feature::XSAVEC.offered() { FINE } else { (UD, 0) },
        "XSAVEC exists as CPUID says"
    );
    let xsaves = fault_of(|| unsafe { asm!("xsaves [{}]", in(reg) at, in("eax") 3, in("edx") 0) });
    check_eq!(
        xsaves,
        if feature::XSAVES.offered() { FINE } else { (UD, 0) },
        "XSAVES exists as CPUID says"
    );
    let ts = fault_of(|| unsafe {
        let (on, off) = (cpu::cr0() | cr0::TS, cpu::cr0());
        asm!("mov cr0, {0}", "xsave [{2}]", "mov cr0, {1}", in(reg) on, in(reg) off, in(reg) at, in("eax") 3, in("edx") 0)
    });
    set_cr0(cpu::cr0() & !cr0::TS);
    check_eq!(ts, (NM, 0), "XSAVE with CR0.TS");
    check_eq!(xsetbv(0, 1), FINE, "XCR0 back to x87");
    set_cr4(old4);
}

#[repr(C, align(64))]
struct Words([u64; 8]);

/// Instructions on memory that are neither loads nor stores, and compare-and-exchange.
pub fn memory() {
    let words = Words([0; 8]);
    let at = &raw const words as u64;
    for (name, what) in [
        ("CLFLUSH", fault_of(|| unsafe { asm!("clflush [{}]", in(reg) at) })),
        ("MFENCE", fault_of(|| unsafe { asm!("mfence") })),
        ("LFENCE", fault_of(|| unsafe { asm!("lfence") })),
        ("SFENCE", fault_of(|| unsafe { asm!("sfence") })),
        (
            "PREFETCHT0 of nothing",
            fault_of(|| unsafe { asm!("prefetcht0 [{}]", in(reg) 0x7777_7777_7000u64) }),
        ),
        (
            "PREFETCHW of nothing",
            fault_of(|| unsafe { asm!("prefetchw [{}]", in(reg) 0x7777_7777_7000u64) }),
        ),
        (
            "PREFETCHT0 of what is not canonical",
            fault_of(|| unsafe { asm!("prefetcht0 [{}]", in(reg) FAR) }),
        ),
        ("PAUSE", fault_of(|| unsafe { asm!("pause") })),
        ("INVD", fault_of(|| unsafe { asm!("wbinvd") })),
        ("INVLPG of what is not canonical", fault_of(|| cpu::invlpg(FAR))),
    ] {
        check_eq!(what, FINE, "{name}");
    }
    check_eq!(
        fault_of(|| unsafe { asm!("clflush [{}]", in(reg) 0x12_3456_7000u64) }),
        (PF, 0),
        "CLFLUSH of nothing"
    );
    check_eq!(
        fault_of(|| unsafe { asm!("clflush [{}]", in(reg) FAR) }),
        (GP, 0),
        "CLFLUSH of what is not canonical"
    );
    if feature::CLFLUSHOPT.offered() {
        check_eq!(
            fault_of(|| unsafe { asm!(".byte 0x66, 0x0f, 0xae, 0x38", in("rax") at) }),
            FINE,
            "CLFLUSHOPT"
        );
    }
    if feature::CLWB.offered() {
        check_eq!(
            fault_of(|| unsafe { asm!(".byte 0x66, 0x0f, 0xae, 0x30", in("rax") at) }),
            FINE,
            "CLWB"
        );
    }
    let mut pair = Words([1, 2, 3, 4, 5, 6, 7, 8]);
    let at = &raw mut pair as u64;
    let exchange = |at: u64, old: (u64, u64), new: (u64, u64)| {
        let (mut low, mut high) = old;
        let zero: u8;
        unsafe {
            asm!("xchg rbx, {n}", "lock cmpxchg16b [{at}]", "setz {z}", "xchg rbx, {n}",
                n = in(reg) new.0, at = in(reg) at, z = out(reg_byte) zero,
                in("rcx") new.1, inout("rax") low, inout("rdx") high)
        };
        (zero, low, high)
    };
    check_eq!(exchange(at, (1, 2), (11, 12)), (1, 1, 2), "CMPXCHG16B that matches");
    check_eq!((pair.0[0], pair.0[1]), (11, 12), "stores");
    check_eq!(exchange(at, (1, 2), (21, 22)), (0, 11, 12), "CMPXCHG16B that does not match loads");
    check_eq!((pair.0[0], pair.0[1]), (11, 12), "and stores nothing new");
    let odd = fault_of(|| {
        exchange(at + 8, (0, 0), (0, 0));
    });
    check_eq!(odd, (GP, 0), "CMPXCHG16B of what is not aligned");
    let (mut low, mut high) = (11u32, 0u32);
    let zero: u8;
    unsafe {
        asm!("xchg rbx, {n}", "lock cmpxchg8b [{at}]", "setz {z}", "xchg rbx, {n}",
            n = in(reg) 31u64, at = in(reg) at, z = out(reg_byte) zero,
            in("ecx") 32, inout("eax") low, inout("edx") high)
    };
    check_eq!((zero, low, high, pair.0[0]), (1, 11, 0, 32 << 32 | 31), "CMPXCHG8B");
    // A comparison that fails writes, too: read-only memory faults.
    let read_only = 0x10_0000u64;
    let register = fault_of(|| unsafe { asm!(".byte 0x0f, 0xc7, 0xc8") });
    check_eq!(register, (UD, 0), "CMPXCHG8B of a register");
    let _ = (read_only, is_amd());
}

/// VMCALL and VMMCALL, as KVM answers them.
pub fn hypercalls() {
    const SEND_IPI: u64 = 10;
    const UNKNOWN: u64 = -1000i64 as u64;
    if cpu::cpuid(1, 0)[2] >> 31 == 0 {
        return crate::tap::skip("no hypervisor");
    }
    let vmcall = code!(64, "vmcall", "int 0x80");
    let vmmcall = code!(64, "vmmcall", "int 0x80");
    for (name, code) in [("VMCALL", vmcall), ("VMMCALL", vmmcall)] {
        let call = |number, [b, c, d, si]: [u64; 4]| {
            let mut frame = trap::kernel_frame(code.as_ptr() as u64);
            (frame.rax, frame.rbx, frame.rcx, frame.rdx, frame.rsi) = (number, b, c, d, si);
            let done = trap::enter(&frame);
            check!(done.is(DONE, 0), "{name} is executed");
            done.frame.rax
        };
        check_eq!(call(!0, [0; 4]), UNKNOWN, "{name}: an unknown call");
        let nobody = u64::from(u32::MAX);
        check_eq!(call(SEND_IPI, [nobody, 0, nobody, 0]), 0, "{name}: an IPI to nobody");
        apic::prepare();
        trap::set_handler(DONE, None);
        let me = u64::from(apic::read(apic::reg::ID) >> 24);
        check_eq!(call(SEND_IPI, [1, 0, me, 0x61]), 1, "{name}: an IPI to one");
        check_eq!(apic::read(apic::reg::IRR + 0x30) & 2, 2, "{name}: which arrives");
        apic::breathe();
        let mut frame = trap::user_frame(code);
        frame.rax = 1;
        check_eq!(trap::enter(&frame).frame.rax, !0, "{name}: not for ring 3");
    }
    // The last instruction below the addresses that are not canonical.
    const LAST: u64 = 0x7fff_ffff_f000;
    unsafe {
        let all = paging::P | paging::W | paging::U;
        addr_of_mut!(PML4.0[255]).write_volatile(paging::table(3) | all);
        paging::entry(3, 511).write_volatile(paging::table(2) | all);
        paging::entry(2, 511).write_volatile(paging::table(1) | all);
        paging::entry(1, 511).write_volatile(paging::DATA | all);
        ((LAST + 0xffd) as *mut [u8; 3]).write_volatile([0x0f, 0x01, 0xc1]);
    }
    let mut frame = trap::kernel_frame(LAST + 0xffd);
    frame.rax = !0;
    let done = trap::enter(&frame);
    check!(done.is(GP, 0), "behind the last instruction is #GP");
    check_eq!(done.frame.rax, UNKNOWN, "which has been executed");
}
