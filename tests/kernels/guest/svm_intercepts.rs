//! Whatever a host may intercept, one by one: instructions, registers, exceptions and task switches, with
//! where the guest stands and what the exit tells (APM vol. 2, 15.7 to 15.14).

use crate::boot::{PDS, sel};
use crate::cpu::{self, cr0, cr4, feature, flag, msr, rdmsr};
use crate::legacy::{self, IDT32, TSS32};
use crate::svm::{
    NESTED, SVME, VMCB, at, begins, code, ends, enter, get, guest, intercept, prepare,
};
use crate::svm::{segment, set};
use crate::trap::{self, vector::*};
use core::arch::{asm, naked_asm};
use core::ptr::addr_of;

pub fn run() {
    if !begins() {
        return;
    }
    instructions();
    debug_registers();
    exceptions();
    modes();
    ends();
    legacy::reset_tables();
    trap::load_tables();
}

/// Hardware task switches, each of which the host may intercept, whatever causes it.
pub fn tasks() {
    if !begins() {
        return;
    }
    task_switches();
    ends();
    legacy::reset_tables();
    trap::load_tables();
}

/// Guests of one instruction each.
macro_rules! one {
    ($($name:ident $($line:literal),+;)*) => { $(guest!($name, $($line),+);)* };
}

one! {
    reads_cr0 "mov rax, cr0";
    reads_cr2 "mov rax, cr2";
    reads_cr3 "mov rax, cr3";
    reads_cr4 "mov rax, cr4";
    reads_cr8 "mov rax, cr8";
    writes_cr0 "mov cr0, rax";
    writes_cr2 "mov cr2, rax";
    writes_cr3 "mov cr3, rax";
    writes_cr4 "mov cr4, rax";
    writes_cr8 "mov cr8, rax";
    smsws "smsw eax";
    lmsws "lmsw ax";
    cltss "clts";
    sidts "sidt [rsp - 16]";
    sgdts "sgdt [rsp - 16]";
    sldts "sldt eax";
    strs "str eax";
    lidts "lidt [rsp - 16]";
    lgdts "lgdt [rsp - 16]";
    lldts "lldt ax";
    ltrs "ltr ax";
    rdtscs "rdtsc";
    rdpmcs "rdpmc";
    pushfs "pushfq";
    popfs "popfq";
    cpuids "cpuid";
    rsms "rsm";
    irets "iretq";
    ints "int 0x81";
    invds "invd";
    hlts "hlt";
    invlpgs "invlpg [rax]";
    invlpgas "invlpga rax, ecx";
    vmruns "vmrun rax";
    vmloads "vmload rax";
    vmsaves "vmsave rax";
    stgis "stgi";
    clgis "clgi";
    rdtscps "rdtscp";
    icebps ".byte 0xf1";
    wbinvds "wbinvd";
    monitors "monitor";
    mwaits "mwait";
    xsetbvs "xsetbv";
    reads_port "in al, 0x70";
    reads_msr "rdmsr";
    nothing "nop";
}

type Guest = extern "C" fn();

fn instructions() {
    let table: &[(Guest, u64, u64, &str)] = &[
        (reads_cr0, 0x00, 3, "MOV from CR0"),
        (reads_cr2, 0x02, 3, "MOV from CR2"),
        (reads_cr3, 0x03, 3, "MOV from CR3"),
        (reads_cr4, 0x04, 3, "MOV from CR4"),
        (reads_cr8, 0x08, 4, "MOV from CR8"),
        (writes_cr0, 0x10, 3, "MOV to CR0"),
        (writes_cr2, 0x12, 3, "MOV to CR2"),
        (writes_cr3, 0x13, 3, "MOV to CR3"),
        (writes_cr4, 0x14, 3, "MOV to CR4"),
        (writes_cr8, 0x18, 4, "MOV to CR8"),
        (smsws, 0x00, 3, "SMSW"),
        (lmsws, 0x10, 3, "LMSW"),
        (cltss, 0x10, 2, "CLTS"),
        (lmsws, 0x65, 3, "LMSW, selectively"),
        (sidts, 0x66, 5, "SIDT"),
        (sgdts, 0x67, 5, "SGDT"),
        (sldts, 0x68, 3, "SLDT"),
        (strs, 0x69, 3, "STR"),
        (lidts, 0x6a, 5, "LIDT"),
        (lgdts, 0x6b, 5, "LGDT"),
        (lldts, 0x6c, 3, "LLDT"),
        (ltrs, 0x6d, 3, "LTR"),
        (rdtscs, 0x6e, 2, "RDTSC"),
        (rdpmcs, 0x6f, 2, "RDPMC"),
        (pushfs, 0x70, 1, "PUSHF"),
        (popfs, 0x71, 1, "POPF"),
        (cpuids, 0x72, 2, "CPUID"),
        (rsms, 0x73, 2, "RSM"),
        (irets, 0x74, 2, "IRET"),
        (ints, 0x75, 2, "INT n"),
        (invds, 0x76, 2, "INVD"),
        (hlts, 0x78, 1, "HLT"),
        (invlpgs, 0x79, 3, "INVLPG"),
        (invlpgas, 0x7a, 3, "INVLPGA"),
        (vmruns, 0x80, 3, "VMRUN"),
        (nothing, 0x81, 3, "VMMCALL"),
        (vmloads, 0x82, 3, "VMLOAD"),
        (vmsaves, 0x83, 3, "VMSAVE"),
        (stgis, 0x84, 3, "STGI"),
        (clgis, 0x85, 3, "CLGI"),
        (rdtscps, 0x87, 3, "RDTSCP"),
        (icebps, 0x88, 1, "INT1"),
        (wbinvds, 0x89, 2, "WBINVD"),
        (monitors, 0x8a, 3, "MONITOR"),
        (mwaits, 0x8b, 3, "MWAIT"),
        (xsetbvs, 0x8d, 3, "XSETBV"),
    ];
    for &(guest, wanted, len, name) in table {
        let start = guest as *const () as u64 + u64::from(wanted == code::VMMCALL);
        prepare(guest);
        intercept(wanted);
        set(at::CR4, get(at::CR4) | cr4::OSXSAVE);
        set(at::RAX, 0x1234_0000);
        check_eq!(enter(), wanted, "{name} is intercepted");
        check_eq!(get(at::RIP), start, "{name}: before it is executed");
        check_eq!(get(at::RAX), 0x1234_0000, "{name}: with nothing changed");
        if feature::NRIP_SAVE.offered() {
            check_eq!(get(at::NEXT_RIP), start + len, "{name}: what comes next");
        }
        let quiet = [get(at::INFO1), get(at::INFO2), get(at::INT_INFO)];
        let decoded = wanted < 0x40 || matches!(wanted, 0x65 | 0x75 | 0x79 | 0x7a);
        check!(decoded || quiet == [0; 3], "{name}: no more is told");
    }
    // Others of their kind are none of the host's business.
    for (guest, other, name) in [
        (reads_cr4 as Guest, 0x14, "reading is not writing"),
        (writes_cr4, 0x04, "writing is not reading"),
        (reads_cr3, 0x02, "CR3 is not CR2"),
    ] {
        prepare(guest);
        set(at::RAX, cpu::cr4());
        intercept(other);
        check_eq!(enter(), code::VMMCALL, "{name}");
    }
    prepare(reads_port);
    intercept(code::IO);
    unsafe { crate::svm::IO_MAP.0[0x70 / 8] = 1 };
    check_eq!(enter(), code::IO, "IN is intercepted");
    check_eq!(get(at::INFO1) & 0xffff_01ff, 0x70 << 16 | 0x11, "which port, and how");
    check_eq!(get(at::INFO2), reads_port as *const () as u64 + 2, "and what comes next");
    // RCX is 0, which the map begins with; numbers that no map has are always intercepted.
    prepare(reads_msr);
    intercept(code::MSR);
    unsafe { crate::svm::MSR_MAP.0[0] = 2 };
    check_eq!(enter(), code::VMMCALL, "an MSR that only may not be written");
    prepare(reads_msr);
    intercept(code::MSR);
    unsafe { crate::svm::MSR_MAP.0[0] = 1 };
    check_eq!(enter(), code::MSR, "one that may not be read");
    check_eq!(get(at::INFO1), 0, "which is told");
    if feature::NRIP_SAVE.offered() {
        let next = reads_msr as *const () as u64 + 2;
        check_eq!(get(at::NEXT_RIP), next, "with what comes next");
    }
}

one! {
    reads_dr0 "mov rax, dr0";
    reads_dr1 "mov rax, dr1";
    reads_dr2 "mov rax, dr2";
    reads_dr3 "mov rax, dr3";
    reads_dr6 "mov rax, dr6";
    reads_dr7 "mov rax, dr7";
    writes_dr0 "mov dr0, rax";
    writes_dr1 "mov dr1, rax";
    writes_dr2 "mov dr2, rax";
    writes_dr3 "mov dr3, rax";
    writes_dr6 "mov dr6, rax";
    writes_dr7 "mov dr7, rax";
}

fn debug_registers() {
    let table: [(u64, Guest, Guest); 6] = [
        (0, reads_dr0, writes_dr0),
        (1, reads_dr1, writes_dr1),
        (2, reads_dr2, writes_dr2),
        (3, reads_dr3, writes_dr3),
        (6, reads_dr6, writes_dr6),
        (7, reads_dr7, writes_dr7),
    ];
    for (number, reads, writes) in table {
        for (guest, base, name) in [(reads, 0x20, "read"), (writes, 0x30, "written")] {
            prepare(guest);
            intercept(base + number);
            check_eq!(enter(), base + number, "DR{number} is {name}");
            prepare(guest);
            for other in (base..base + 8).filter(|other| *other != base + number) {
                intercept(other);
            }
            check_eq!(enter(), code::VMMCALL, "only DR{number} is {name}");
        }
    }
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", in(reg) 0u64);
    }
}

one! {
    divides "xor ecx, ecx", "div ecx";
    undefined "ud2";
    waits "fnop";
    loads_fs "mov fs, eax";
    loads_ss "mov ss, eax";
    far "mov rcx, 0x8000000000000000", "mov al, [rcx]";
    divides_x87 "fninit", "mov word ptr [rsp - 8], 0x37b", "fldcw [rsp - 8]", "fld1", "fldz",
        "fdivp st(1), st", "fwait";
    divides_sse "mov dword ptr [rsp - 8], 0x1d80", "ldmxcsr [rsp - 8]", "mov eax, 1",
        "cvtsi2ss xmm0, eax", "xorps xmm1, xmm1", "divss xmm0, xmm1";
}

fn exceptions() {
    const BAD: u16 = sel::FREE;
    trap::set_descriptor(BAD, trap::segment(0, 0xfffff, 0xc013));
    let table: &[(Guest, u64, u64, u64, &str)] = &[
        (divides, DE, 0, 2, "#DE"),
        (undefined, UD, 0, 0, "#UD"),
        (waits, NM, 0, 0, "#NM"),
        (loads_fs, NP, BAD as u64, 0, "#NP"),
        (loads_ss, SS, BAD as u64, 0, "#SS"),
        (far, GP, 0, 10, "#GP"),
    ];
    for &(guest, vector, error, offset, name) in table {
        prepare(guest);
        set(at::RAX, BAD.into());
        if vector == NM {
            set(at::CR0, get(at::CR0) | cr0::TS);
        }
        intercept(code::EXCEPTION + vector);
        check_eq!(enter(), code::EXCEPTION + vector, "{name} is intercepted");
        check_eq!(get(at::INFO1), error, "{name}: its error code");
        check_eq!(get(at::RIP), guest as *const () as u64 + offset, "{name}: where");
        check_eq!(get(at::INT_INFO), 0, "{name}: while nothing was being delivered");
        if feature::NRIP_SAVE.offered() {
            check_eq!(get(at::NEXT_RIP), 0, "{name}: no instruction comes next");
        }
    }
    for (guest, vector, name) in [(divides_x87 as Guest, MF, "#MF"), (divides_sse, 19, "#XF")] {
        prepare(guest);
        intercept(code::EXCEPTION + vector);
        check_eq!(enter(), code::EXCEPTION + vector, "{name} is intercepted");
    }
    unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &0x1f80u32) };
}

/// A 32-bit guest without paging that executes `code`.
fn prepare_32(code: &[u8]) {
    prepare(nothing);
    set(at::EFER, SVME);
    set(at::CR0, 0x31);
    set(at::CR4, 0x600);
    set(at::RIP, code.as_ptr() as u64);
    segment(0x410, sel::CODE32, 0xc9b);
    set(at::IDTR, 2047 << 32);
    set(at::IDTR + 8, addr_of!(IDT32) as u64);
    // The task register.
    segment(0x490, sel::TSS32, 0x08b);
    set(0x490, get(0x490) & 0xffff_ffff | 103 << 32);
    set(0x498, addr_of!(TSS32) as u64);
}

/// Enters the guest with what VMLOAD takes from the block.
fn enter_loaded() -> u64 {
    unsafe {
        asm!("vmsave rax", in("rax") addr_of!(NESTED) as u64);
        asm!("vmload rax", in("rax") addr_of!(VMCB) as u64);
        let exit = enter();
        asm!("vmload rax", in("rax") addr_of!(NESTED) as u64);
        exit
    }
}

const TASK_SWITCH: u64 = 0x7d;

fn task_switches() {
    const RETURN: u64 = 1 << 36;
    const JUMP: u64 = 1 << 38;
    const HAS_ERROR: u64 = 1 << 44;
    const RESUME: u64 = 1 << 48;
    const OTHER: u16 = sel::FREE;
    const GATE: u16 = sel::FREE + 8;
    let ready = || {
        legacy::reset_tables();
        trap::set_descriptor(OTHER, trap::segment(addr_of!(TSS32) as u32, 103, 0x89));
        trap::set_descriptor(GATE, u64::from(OTHER) << 16 | 0x85 << 40);
        unsafe { TSS32.link = OTHER.into() };
    };
    let jump = crate::code!(32, ".byte 0xea", ".long 0", ".word 0x60", "nop");
    let jump_gate = crate::code!(32, ".byte 0xea", ".long 0", ".word 0x68", "nop");
    let call = crate::code!(32, ".byte 0x9a", ".long 0", ".word 0x60", "nop");
    let iret = crate::code!(32, "iretd", "nop");
    for (code, flags, info, name) in [
        (jump, 0, JUMP, "JMP to a TSS"),
        (jump_gate, 0, JUMP, "JMP to a task gate"),
        (call, 0, 0, "CALL of a TSS"),
        (iret, flag::NT, RETURN, "IRET to another task"),
    ] {
        ready();
        prepare_32(code);
        set(at::RFLAGS, 2 | flags);
        intercept(TASK_SWITCH);
        check_eq!(enter_loaded(), TASK_SWITCH, "{name} is intercepted");
        check_eq!(get(at::INFO1) & 0xffff, u64::from(OTHER), "{name}: to which task");
        check_eq!(get(at::INFO2), info, "{name}: by what");
        check_eq!(get(at::RIP), code.as_ptr() as u64, "{name}: before it is executed");
        check_eq!(get(at::INT_INFO), 0, "{name}: no event");
    }
    // Events through a task gate.
    let undefined = crate::code!(32, "ud2");
    let software = crate::code!(32, "int 0x90");
    let faults = crate::code!(32, "mov eax, 0x7ff8", "mov fs, eax");
    for (code, vector, offset, info, event, name) in [
        (undefined, UD, 0, RESUME, 3 << 8 | UD, "#UD"),
        (software, 0x90, 0, 0, 4 << 8 | 0x90, "INT n"),
        (faults, GP, 5, RESUME | HAS_ERROR | 0x7ff8, 3 << 8 | GP | 1 << 11 | 0x7ff8 << 32, "#GP"),
    ] {
        ready();
        legacy::set_gate(vector as u32, 0x85, OTHER, 0);
        prepare_32(code);
        intercept(TASK_SWITCH);
        check_eq!(enter_loaded(), TASK_SWITCH, "{name} through a task gate is intercepted");
        check_eq!(get(at::INFO1) & 0xffff, u64::from(OTHER), "{name}: to which task");
        check_eq!(get(at::INFO2), info, "{name}: with which error code");
        check_eq!(get(at::RIP), code.as_ptr() as u64 + offset, "{name}: where");
        check_eq!(get(at::INT_INFO), 1 << 31 | event, "{name}: which event");
    }
}

fn modes() {
    legacy::reset_tables();
    let call = crate::code!(32, "mov eax, 0x11223344", ".byte 0x0f, 0x01, 0xd9");
    prepare_32(call);
    check_eq!(enter_loaded(), code::VMMCALL, "a 32-bit guest");
    check_eq!(get(at::RAX), 0x1122_3344, "runs");
    check_eq!(get(at::RIP), call.as_ptr() as u64 + 5, "and stops where it should");
    check_eq!(get(at::EFER), SVME, "in its own mode");
    check!(rdmsr(msr::EFER) >> 10 & 1 == 1, "the host is in long mode again");
    // The same with paging, of the old kind.
    static mut DIRECTORY: crate::boot::Table = crate::boot::Table([0; 512]);
    let directory = &raw mut DIRECTORY;
    for i in 0..1024 {
        unsafe { directory.cast::<u32>().add(i).write((i as u32) << 22 | 0x87) };
    }
    prepare_32(call);
    set(at::CR0, 0x31 | cr0::PG);
    set(at::CR4, 0x600 | cr4::PSE);
    set(at::CR3, directory as u64);
    check_eq!(enter_loaded(), code::VMMCALL, "a 32-bit guest with paging");
    check_eq!(get(at::RAX), 0x1122_3344, "runs, too");
    for nested in [false, true] {
        if !nested || feature::NPT.offered() {
            three_levels(call, nested);
        }
    }
    // Compatibility mode.
    prepare(nothing);
    set(at::RIP, call.as_ptr() as u64);
    segment(0x410, sel::CODE32, 0xc9b);
    check_eq!(enter(), code::VMMCALL, "a guest in compatibility mode");
    check_eq!(get(at::RAX), 0x1122_3344, "runs as well");
    // Real mode.
    let call =
        crate::code!(16, "mov ax, 0x1234", "mov bx, cs", "add ax, bx", ".byte 0x0f, 0x01, 0xd9");
    legacy::to_low(call);
    prepare_32(call);
    set(at::CR0, 0x30);
    set(at::RIP, 0);
    let low = legacy::LOW as u64;
    for offset in [0x400, 0x410, 0x420, 0x430] {
        set(offset, low >> 4 | if offset == 0x410 { 0x9b } else { 0x93 } << 16 | 0xffff << 32);
        set(offset + 8, low);
    }
    check_eq!(enter_loaded(), code::VMMCALL, "a guest in real mode");
    check_eq!(get(at::RAX) & 0xffff, 0x1234 + (low >> 4), "runs like the others");
    check_eq!(get(at::RIP), call.len() as u64 - 3, "and stops where it should");
    // From one mode to the next, without an exit.
    for nested in [false, true] {
        if nested && !feature::NPT.offered() {
            continue;
        }
        prepare(goes_through_all);
        if nested {
            crate::svm::nested_tables();
            set(at::NESTED, 1);
            set(at::NESTED_CR3, addr_of!(NESTED) as u64);
            set(at::ASID, 1 | 1 << 32);
        }
        check_eq!(enter(), code::VMMCALL, "a guest that leaves long mode, nested {nested}");
        check_eq!(get(at::RAX), 3, "runs real-mode, v86 and 32-bit code, nested {nested}");
    }
    prepare(hides_xsave);
    check_eq!(enter(), code::VMMCALL, "a guest that clears CR4.OSXSAVE");
    check_eq!(get(at::RAX) >> 27 & 1, 0, "does not see it in CPUID");
    check_eq!(cpu::cr4() & cr4::OSXSAVE, 0, "which the host had not set, either");
    let old = cpu::cr4();
    cpu::set_cr4(old | cr4::OSXSAVE);
    prepare(hides_xsave);
    enter();
    check_eq!(get(at::RAX) >> 27 & 1, 0, "nor when the host has");
    check_eq!(cpu::cpuid(1, 0)[2] >> 27 & 1, 1, "who sees it again");
    cpu::set_cr4(old);
}

/// A 32-bit guest with PAE, whose page-directory pointers VMRUN does not look at.
fn three_levels(call: &[u8], nested: bool) {
    static mut POINTERS: crate::boot::Table = crate::boot::Table([0; 512]);
    let pointers = &raw mut POINTERS;
    let run = |flags: u64| {
        unsafe {
            for i in 0..4 {
                (*pointers).0[i] = &raw const PDS[i] as u64 | flags;
            }
        }
        prepare_32(call);
        set(at::CR0, 0x31 | cr0::PG);
        set(at::CR4, 0x600 | cr4::PAE);
        set(at::CR3, pointers as u64);
        // The tables were made anew.
        set(at::ASID, 1 | 1 << 32);
        if nested {
            crate::svm::nested_tables();
            set(at::NESTED, 1);
            set(at::NESTED_CR3, addr_of!(NESTED) as u64);
        }
        intercept(code::EXCEPTION + PF);
        enter_loaded()
    };
    check_eq!(run(1), code::VMMCALL, "a 32-bit guest with PAE, nested {nested}");
    check_eq!(get(at::RAX), 0x1122_3344, "runs like the others, nested {nested}");
    check_eq!(run(0), code::EXCEPTION + PF, "its pointers are not there, nested {nested}");
    check_eq!(get(at::INFO1), 0, "the error code tells, nested {nested}");
    check_eq!(run(0x21), code::EXCEPTION + PF, "they have reserved bits, nested {nested}");
    check_eq!(get(at::INFO1), 9, "the error code tells of that, nested {nested}");
}

guest!(
    hides_xsave,
    "mov rax, cr4",
    "btr rax, 18",
    "mov cr4, rax",
    "mov eax, 1",
    "cpuid",
    "mov eax, ecx"
);

/// Counts the modes other than long that code runs in as it should.
extern "C" fn goes_through_all() {
    let mut count = 0u64;
    let real = legacy::run_real(&legacy::real(crate::code!(16, "mov ax, 0x1234", "int 0x80")));
    count += u64::from(real.eax == 0x1234);
    let v86 = legacy::run(&legacy::v86(crate::code!(16, "mov ax, 0x1235", "hlt")));
    count += u64::from(v86.eax & 0xffff == 0x1235 && v86.what() == (GP, 0));
    let flat = legacy::run(&legacy::ring0(crate::code!(32, "mov eax, 0x12345", "int 0x80")));
    count += u64::from(flat.eax == 0x12345);
    unsafe { asm!("vmmcall", in("rax") count) };
}
