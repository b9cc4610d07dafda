//! AMD's virtualization (APM vol. 2, chapter 15): guests of a few instructions, in this kernel's own
//! address space or behind nested tables that map it one to one.

use crate::apic;
use crate::boot::{PML4, Stack, Table, sel};
use crate::cpu::{self, cr0, feature, msr, rdmsr, wrmsr};
use crate::trap::{self, fault_of, vector::*};
use core::arch::{asm, naked_asm};
use core::ptr::{addr_of, addr_of_mut};

pub const SVME: u64 = 1 << 12;
const VM_CR: u32 = 0xc001_0114;
pub const VM_HSAVE_PA: u32 = 0xc001_0117;

#[repr(C, align(4096))]
pub struct Pages<const N: usize>(pub [u8; N]);

pub static mut VMCB: Pages<4096> = Pages([0; 4096]);
pub static mut HOST_SAVE: Pages<4096> = Pages([0; 4096]);
pub static mut IO_MAP: Pages<12288> = Pages([0; 12288]);
pub static mut MSR_MAP: Pages<8192> = Pages([0; 8192]);
pub static mut GUEST_STACK: Stack<16384> = Stack([0; 16384]);
pub static mut NESTED: [Table; 7] = [const { Table([0; 512]) }; 7];

/// Offsets in the VMCB.
pub mod at {
    pub const ASID: usize = 0x58;
    pub const TSC_OFFSET: usize = 0x50;
    pub const VIRQ: usize = 0x60;
    pub const SHADOW: usize = 0x68;
    pub const CODE: usize = 0x70;
    pub const INFO1: usize = 0x78;
    pub const INFO2: usize = 0x80;
    pub const INT_INFO: usize = 0x88;
    pub const NESTED: usize = 0x90;
    pub const EVENT: usize = 0xa8;
    pub const NESTED_CR3: usize = 0xb0;
    pub const NEXT_RIP: usize = 0xc8;
    pub const GDTR: usize = 0x460;
    pub const IDTR: usize = 0x480;
    pub const EFER: usize = 0x4d0;
    pub const CR4: usize = 0x548;
    pub const CR3: usize = 0x550;
    pub const CR0: usize = 0x558;
    pub const DR7: usize = 0x560;
    pub const DR6: usize = 0x568;
    pub const RFLAGS: usize = 0x570;
    pub const RIP: usize = 0x578;
    pub const RSP: usize = 0x5d8;
    pub const RAX: usize = 0x5f8;
    pub const CR2: usize = 0x640;
    pub const PAT: usize = 0x668;
}

/// Exit codes.
pub mod code {
    pub const CR3_READ: u64 = 0x003;
    pub const CR4_WRITE: u64 = 0x014;
    pub const DR7_READ: u64 = 0x027;
    pub const EXCEPTION: u64 = 0x040;
    pub const INTR: u64 = 0x060;
    pub const NMI: u64 = 0x061;
    pub const VINTR: u64 = 0x064;
    pub const CR0_SELECTIVE: u64 = 0x065;
    pub const CPUID: u64 = 0x072;
    pub const SOFT_INT: u64 = 0x075;
    pub const IRET: u64 = 0x074;
    pub const HLT: u64 = 0x078;
    pub const IO: u64 = 0x07b;
    pub const MSR: u64 = 0x07c;
    pub const SHUTDOWN: u64 = 0x07f;
    pub const VMRUN: u64 = 0x080;
    pub const VMMCALL: u64 = 0x081;
    pub const NPF: u64 = 0x400;
    pub const INVALID: u64 = !0;
}

pub fn set(offset: usize, value: u64) {
    unsafe { addr_of_mut!(VMCB).cast::<u8>().add(offset).cast::<u64>().write_volatile(value) };
}
pub fn get(offset: usize) -> u64 {
    unsafe { addr_of!(VMCB).cast::<u8>().add(offset).cast::<u64>().read_volatile() }
}
pub fn intercept(code: u64) {
    let offset = code as usize / 64 * 8;
    set(offset, get(offset) | 1 << (code % 64));
}

fn table_register(store: &str) -> (u64, u64) {
    let mut bytes = [0u8; 10];
    unsafe {
        match store {
            "gdt" => asm!("sgdt [{}]", in(reg) &mut bytes),
            _ => asm!("sidt [{}]", in(reg) &mut bytes),
        }
    }
    let limit = u16::from_le_bytes([bytes[0], bytes[1]]);
    let mut base = [0; 8];
    base.copy_from_slice(&bytes[2..]);
    (u64::from_le_bytes(base), limit.into())
}

pub fn segment(offset: usize, selector: u16, attributes: u64) {
    set(offset, u64::from(selector) | attributes << 16 | 0xffff_ffff << 32);
    set(offset + 8, 0);
}

/// A guest that is like this kernel, about to execute `code`. VMRUN and VMMCALL are intercepted.
pub fn prepare(code: extern "C" fn()) {
    unsafe {
        VMCB.0.fill(0);
        IO_MAP.0.fill(0);
        MSR_MAP.0.fill(0);
    }
    intercept(code::VMRUN);
    intercept(code::VMMCALL);
    set(0x40, addr_of!(IO_MAP) as u64);
    set(0x48, addr_of!(MSR_MAP) as u64);
    set(at::ASID, 1);
    segment(0x410, sel::CODE64, 0xa9b);
    for offset in [0x400, 0x420, 0x430] {
        segment(offset, sel::DATA, 0xc93);
    }
    for (offset, table) in [(0x460, "gdt"), (0x480, "idt")] {
        let (base, limit) = table_register(table);
        set(offset, limit << 32);
        set(offset + 8, base);
    }
    set(at::EFER, rdmsr(msr::EFER));
    set(at::CR0, cpu::cr0());
    set(at::CR3, cpu::cr3());
    set(at::CR4, cpu::cr4());
    set(at::DR6, 0xffff_0ff0);
    set(at::DR7, 0x400);
    set(at::RFLAGS, 2);
    set(at::RIP, code as *const () as u64);
    set(at::RSP, addr_of!(GUEST_STACK) as u64 + 16384 - 8);
    set(at::PAT, 0x0007_0406_0007_0406);
}

/// Runs the guest until it exits; the exit code.
pub fn enter() -> u64 {
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "clgi",
            "vmrun rax",
            "stgi",
            "pop rbp",
            "pop rbx",
            inout("rax") addr_of!(VMCB) as u64 => _,
            inout("rcx") 0u64 => _, inout("rdx") 0u64 => _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    get(at::CODE)
}

fn run_guest(code: extern "C" fn()) -> u64 {
    prepare(code);
    enter()
}

/// A guest of these instructions, and VMMCALL.
macro_rules! guest {
    ($name:ident, $($line:literal),*) => {
        #[unsafe(naked)]
        pub extern "C" fn $name() {
            naked_asm!($($line,)* "vmmcall", "ud2")
        }
    };
}

pub(crate) use guest;

guest!(nothing, "nop");
guest!(calls_cpuid, "xor eax, eax", "cpuid");
guest!(halts, "hlt");
guest!(undefined, "ud2");
guest!(reads_cr3, "mov rax, cr3");
guest!(writes_cr4, "mov rax, cr4", "mov cr4, rax");
guest!(reads_dr7, "mov rax, dr7");
guest!(toggles_ts, "mov rax, cr0", "xor rax, 8", "mov cr0, rax");
guest!(toggles_wp, "mov rax, cr0", "xor rax, 0x10000", "mov cr0, rax");
guest!(reads_tsc, "rdtsc", "shl rdx, 32", "or rax, rdx");
guest!(writes_port, "mov dx, 0x7e", "mov al, 5", "out dx, al");
guest!(reads_star, "mov ecx, 0xc0000081", "rdmsr");
guest!(interrupts, "int 0x81");
guest!(writes_low, "mov ecx, 0x6000040", "mov dword ptr [rcx], 7");
guest!(reads_low, "mov ecx, 0x6000040", "mov eax, [rcx]");
guest!(opens, "sti", "nop", "nop", "cli");
guest!(faults, "mov rcx, 0x700000000000", "mov [rcx], al");

/// Begins a kernel, if it can be run.
pub fn begins() -> bool {
    let offered = feature::SVM.offered();
    if offered {
        apic::prepare();
        turn_on();
    } else {
        crate::tap::skip("SVM");
    }
    offered
}

pub fn ends() {
    wrmsr(msr::EFER, rdmsr(msr::EFER) & !SVME);
}

/// Turns virtualization on.
pub fn turn_on() {
    wrmsr(msr::EFER, rdmsr(msr::EFER) | SVME);
    wrmsr(VM_HSAVE_PA, addr_of!(HOST_SAVE) as u64);
}

pub fn run() {
    if !feature::SVM.offered() {
        return crate::tap::skip("SVM");
    }
    apic::prepare();
    check_eq!(cpu::cpuid(0x8000_000a, 0)[0] & 0xff, 1, "revision");
    check!(cpu::cpuid(0x8000_000a, 0)[1] > 1, "there are address-space identifiers");
    let vmrun = || fault_of(|| unsafe { asm!("vmrun rax", in("rax") addr_of!(VMCB)) });
    check_eq!(vmrun(), (UD, 0), "VMRUN without EFER.SVME");
    wrmsr(msr::EFER, rdmsr(msr::EFER) | SVME);
    check_eq!(rdmsr(VM_CR) & 1 << 4, 0, "SVM is not disabled");
    wrmsr(VM_HSAVE_PA, addr_of!(HOST_SAVE) as u64);
    check_eq!(fault_of(|| wrmsr(VM_HSAVE_PA, 0x1234)), (GP, 0), "host save area, not aligned");
    let misaligned = || fault_of(|| unsafe { asm!("vmrun rax", in("rax") 0x1008u64) });
    check_eq!(misaligned(), (GP, 0), "VMRUN of a block that is not aligned");

    exits();
    invalid();
    permissions();
    exceptions();
    events();
    interrupts_from_outside();
    if feature::NPT.offered() {
        nested();
    } else {
        crate::tap::skip("nested paging");
    }
    wrmsr(msr::EFER, rdmsr(msr::EFER) & !SVME);
}

fn exits() {
    check_eq!(run_guest(nothing), code::VMMCALL, "VMMCALL comes back");
    check_eq!(get(at::RIP), nothing as *const () as u64 + 1, "at the instruction itself");
    if feature::NRIP_SAVE.offered() {
        check_eq!(get(at::NEXT_RIP), nothing as *const () as u64 + 4, "and tells the next one");
    }
    check_eq!(run_guest(calls_cpuid), code::VMMCALL, "CPUID runs in the guest");
    for (guest, wanted, name) in [
        (calls_cpuid as extern "C" fn(), code::CPUID, "CPUID"),
        (halts, code::HLT, "HLT"),
        (reads_cr3, code::CR3_READ, "MOV from CR3"),
        (writes_cr4, code::CR4_WRITE, "MOV to CR4"),
        (reads_dr7, code::DR7_READ, "MOV from DR7"),
        (interrupts, code::SOFT_INT, "INT n"),
        (toggles_wp, code::CR0_SELECTIVE, "MOV to CR0, selectively"),
    ] {
        prepare(guest);
        intercept(wanted);
        check_eq!(enter(), wanted, "{name} is intercepted");
    }
    prepare(toggles_ts);
    intercept(code::CR0_SELECTIVE);
    check_eq!(enter(), code::VMMCALL, "a change of CR0.TS is not interesting");
    check_eq!(get(at::CR0) & cr0::TS, cr0::TS, "but the guest's alone");
    check_eq!(cpu::cr0() & cr0::TS, 0, "not the host's");

    prepare(reads_tsc);
    set(at::TSC_OFFSET, 1 << 60);
    enter();
    check!(get(at::RAX) >> 60 == 1, "the guest's time stamps are offset");
    check!(cpu::rdtsc() >> 60 == 0, "and the host's are not");
}

fn invalid() {
    type Change = fn();
    let changes: [(Change, &str); 7] = [
        (|| set(at::ASID, 0), "ASID 0"),
        (|| set(0x10, get(0x10) & !1), "VMRUN not intercepted"),
        (|| set(at::EFER, get(at::EFER) & !SVME), "EFER.SVME clear"),
        (|| set(at::CR0, get(at::CR0) & !cr0::CD | cr0::NW), "CR0.NW without CD"),
        (|| set(at::CR0, get(at::CR0) | 1 << 32), "the upper half of CR0"),
        (|| set(at::DR7, 1 << 32), "the upper half of DR7"),
        (|| set(at::EVENT, 1 << 31 | 1 << 8), "a reserved kind of event"),
    ];
    for (change, name) in changes {
        prepare(nothing);
        change();
        check_eq!(enter(), code::INVALID, "VMRUN refuses {name}");
    }
}

fn permissions() {
    prepare(writes_port);
    intercept(code::IO);
    check_eq!(enter(), code::VMMCALL, "a port that the map allows");
    prepare(writes_port);
    intercept(code::IO);
    unsafe { IO_MAP.0[0x7e / 8] = 1 << (0x7e % 8) };
    check_eq!(enter(), code::IO, "a port that it does not");
    check_eq!(get(at::INFO1), 0x7e << 16 | 1 << 9 | 1 << 4, "which one, and how");
    check_eq!(get(at::INFO2), get(at::RIP) + 1, "and where to go on");

    prepare(reads_star);
    intercept(code::MSR);
    check_eq!(enter(), code::VMMCALL, "an MSR that the map allows");
    prepare(reads_star);
    intercept(code::MSR);
    unsafe { MSR_MAP.0[0x800 + 0x81 / 4] = 1 << (0x81 % 4 * 2) };
    check_eq!(enter(), code::MSR, "an MSR that it does not");
    check_eq!(get(at::INFO1), 0, "to be read");
}

fn exceptions() {
    prepare(undefined);
    intercept(code::EXCEPTION + UD);
    check_eq!(enter(), code::EXCEPTION + UD, "#UD is intercepted");
    prepare(faults);
    intercept(code::EXCEPTION + PF);
    set(at::CR2, 5);
    check_eq!(enter(), code::EXCEPTION + PF, "#PF is intercepted");
    check_eq!(get(at::INFO1), 2, "with its error code");
    check_eq!(get(at::INFO2), 0x7000_0000_0000, "and address");
    check_eq!(get(at::CR2), 5, "which is not in CR2");
    prepare(undefined);
    set(0x480, 0);
    intercept(code::SHUTDOWN);
    check_eq!(enter(), code::SHUTDOWN, "a triple fault is intercepted");
}

static mut SEEN: u64 = 0;

fn note(_: &mut trap::Frame) {
    unsafe { SEEN += 1 };
}

fn acknowledge(_: &mut trap::Frame) {
    unsafe { SEEN += 1 };
    apic::write(apic::reg::EOI, 0);
}

fn seen() -> u64 {
    unsafe { core::mem::take(&mut SEEN) }
}

fn events() {
    const VECTOR: u64 = 0x41;
    trap::set_handler(VECTOR, Some(note));
    prepare(nothing);
    set(at::EVENT, 1 << 31 | VECTOR);
    check_eq!(enter(), code::VMMCALL, "an injected interrupt returns");
    check_eq!(seen(), 1, "after the guest has seen it");
    check_eq!(get(at::EVENT) >> 31 & 1, 0, "and is not there any more");

    prepare(nothing);
    set(0x480, 0x1ff << 32);
    set(at::EVENT, 1 << 31 | VECTOR);
    intercept(code::EXCEPTION + GP);
    check_eq!(enter(), code::EXCEPTION + GP, "an interrupt without a gate");
    check_eq!(get(at::INT_INFO), 1 << 31 | VECTOR, "is told with the exception");

    const PENDING: u64 = 1 << 8 | 1 << 24 | 4 << 16 | VECTOR << 32;
    prepare(nothing);
    set(at::VIRQ, PENDING);
    enter();
    check_eq!(seen(), 0, "a virtual interrupt waits for IF");
    prepare(opens);
    set(at::VIRQ, PENDING);
    check_eq!(enter(), code::VMMCALL, "a guest that opens itself");
    check_eq!(seen(), 1, "sees the virtual interrupt");
    check_eq!(get(at::VIRQ) >> 8 & 1, 0, "once");
    prepare(opens);
    set(at::VIRQ, PENDING | 4);
    enter();
    check_eq!(seen(), 0, "its TPR keeps it away");
    prepare(opens);
    set(at::VIRQ, PENDING);
    intercept(code::VINTR);
    check_eq!(enter(), code::VINTR, "its arrival is intercepted");
    check_eq!(get(at::RIP), opens as *const () as u64 + 2, "one instruction after STI");
    trap::set_handler(VECTOR, None);
}

fn interrupts_from_outside() {
    const VECTOR: u64 = 0x52;
    const MASKING: u64 = 1 << 24;
    trap::set_handler(VECTOR, Some(acknowledge));
    let send = |how: u32| apic::write(apic::reg::ICR, 1 << 18 | how);
    let open = || unsafe { asm!("sti", "nop", "cli") };

    unsafe { asm!("clgi") };
    send(VECTOR as u32);
    open();
    check_eq!(seen(), 0, "without GIF no interrupt comes");
    unsafe { asm!("stgi") };
    open();
    check_eq!(seen(), 1, "with it, it does");

    // With IF set behind CLGI, as hosts do; the guest's own flag is clear.
    prepare(nothing);
    set(at::VIRQ, MASKING);
    intercept(code::INTR);
    send(VECTOR as u32);
    let exit = unsafe {
        asm!("clgi", "sti");
        let exit = enter_closed();
        asm!("cli", "stgi");
        exit
    };
    check_eq!(exit, code::INTR, "an interrupt is intercepted");
    check_eq!(get(at::RIP), nothing as *const () as u64, "before the guest did anything");
    check_eq!(seen(), 0, "and was not taken");
    open();
    check_eq!(seen(), 1, "it is the host's");

    prepare(nothing);
    intercept(code::NMI);
    unsafe { asm!("clgi") };
    // To this processor by number: the shorthand takes ordinary vectors only.
    apic::write(apic::reg::ICR2, apic::read(apic::reg::ID));
    apic::write(apic::reg::ICR, 1 << 14 | 4 << 8);
    let exit = enter_closed();
    check_eq!(exit, code::NMI, "an NMI is intercepted");
    trap::set_handler(NMI, Some(note));
    unsafe { asm!("stgi") };
    apic::breathe();
    check_eq!(seen(), 1, "and waits for GIF");
    trap::set_handler(NMI, None);
    trap::set_handler(VECTOR, None);
}

/// Runs the guest with GIF clear before and after.
pub fn enter_closed() -> u64 {
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "vmrun rax",
            "pop rbp",
            "pop rbx",
            inout("rax") addr_of!(VMCB) as u64 => _,
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    get(at::CODE)
}

const ALL: u64 = 7;
const LARGE: u64 = 0x80;
/// The data that guests reach for.
const DATA: u64 = 0x600_0000;

/// Nested tables that map 4 GiB one to one; the entry for the 4 KiB page at [`DATA`].
pub fn nested_tables() -> *mut u64 {
    unsafe {
        let table = |i: usize| addr_of!(NESTED[i]) as u64;
        NESTED[0].0[0] = table(1) | ALL;
        for i in 0..4 {
            NESTED[1].0[i] = table(2 + i) | ALL;
            for j in 0..512 {
                NESTED[2 + i].0[j] = (i as u64) << 30 | (j as u64) << 21 | LARGE | ALL;
            }
        }
        NESTED[2].0[DATA as usize >> 21] = table(6) | ALL;
        for i in 0..512 {
            NESTED[6].0[i] = DATA + (i as u64) * 4096 | ALL;
        }
        addr_of_mut!(NESTED[6].0[0])
    }
}

fn nested() {
    const FINAL: u64 = 1 << 32;
    const WALK: u64 = 1 << 33;
    let start = |guest: extern "C" fn()| {
        let entry = nested_tables();
        prepare(guest);
        set(at::NESTED, 1);
        set(at::NESTED_CR3, addr_of!(NESTED) as u64);
        // The tables were made anew.
        set(at::ASID, 1 | 1 << 32);
        entry
    };
    start(writes_low);
    check_eq!(enter(), code::VMMCALL, "a guest behind tables that map one to one");
    check_eq!(
        unsafe { ((DATA + 0x40) as *const u32).read_volatile() },
        7,
        "writes where it should"
    );
    let entry = start(reads_low);
    unsafe { *entry = DATA + 0x1000 | ALL };
    unsafe { ((DATA + 0x1040) as *mut u32).write_volatile(0x77) };
    enter();
    check_eq!(get(at::RAX) & 0xffff_ffff, 0x77, "the nested tables translate");
    check_eq!(unsafe { *entry } & 0x20, 0x20, "and note the access");

    for (guest, value, error, name) in [
        (reads_low as extern "C" fn(), 0, FINAL | 4, "a page that is not there"),
        (reads_low, DATA | 3, FINAL | 5, "a supervisor's page"),
        (writes_low, DATA | 5, FINAL | 7, "writing a page for reading"),
        (reads_low, DATA | ALL | 1 << 51, FINAL | 0xd, "reserved bits"),
    ] {
        let entry = start(guest);
        unsafe { *entry = value };
        check_eq!(enter(), code::NPF, "nested fault: {name}");
        check_eq!(get(at::INFO1), error, "error code: {name}");
        check_eq!(get(at::INFO2), DATA + 0x40, "address: {name}");
    }

    // The guest's page tables in a page that may not be written.
    start(nothing);
    let root = addr_of!(PML4) as u64;
    unsafe {
        let entry = addr_of_mut!(NESTED[6].0);
        NESTED[2].0[root as usize >> 21] = addr_of!(NESTED[6]) as u64 | ALL;
        for i in 0..512 {
            (*entry)[i] = (root & !0x1f_ffff) + (i as u64) * 4096 | ALL;
        }
        (*entry)[root as usize >> 12 & 511] = root & !0xfff | 5;
    }
    check_eq!(enter(), code::NPF, "nested fault: the guest's own tables");
    check_eq!(get(at::INFO1), WALK | 7, "error code: the guest's own tables");
    check_eq!(get(at::INFO2) & !0xfff, root & !0xfff, "address: the guest's own tables");
}
