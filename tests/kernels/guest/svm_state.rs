//! What VMRUN refuses and loads, what an exit leaves behind, and how events get into a guest and out
//! of it (APM vol. 2, 15.5 to 15.21).

use crate::apic::{self, reg};
use crate::boot::sel;
use crate::cpu::{self, cr0, cr4, feature, flag, msr, rdmsr, wrmsr};
use crate::svm::{
    HOST_SAVE, IO_MAP, MSR_MAP, NESTED, VM_HSAVE_PA, VMCB, at, begins, code, ends, enter,
    enter_closed, get, guest, intercept, nested_tables, prepare, segment, set,
};
use crate::trap::{self, Frame, fault_of, vector::*};
use core::arch::{asm, naked_asm};
use core::ptr::addr_of;

guest!(nothing, "nop");

fn width() -> u32 {
    cpu::cpuid(0x8000_0008, 0)[0] & 0xff
}

pub fn run() {
    if !begins() {
        return;
    }
    refused();
    maps();
    canonical();
    exits();
    address_spaces();
    ports();
    last_branches();
    ends();
}

/// Runs a guest with one field changed.
fn with(change: impl FnOnce()) -> u64 {
    prepare(nothing);
    change();
    enter()
}

fn refused() {
    let bits = |offset: usize, bits: u64| with(|| set(offset, get(offset) | bits));
    for bit in [52, 57, 61, 62, 63, width()] {
        check_eq!(bits(at::CR3, 1 << bit), code::INVALID, "VMRUN refuses CR3: bit {bit}");
    }
    for bit in [16u32, 17, 40, 63] {
        check_eq!(bits(at::EFER, 1 << bit), code::INVALID, "VMRUN refuses EFER: bit {bit}");
    }
    // Bits 24 and 28 are PKS and LAM elsewhere.
    for bit in [13u32, 15, 24, 28, 32, 63] {
        check_eq!(bits(at::CR4, 1 << bit), code::INVALID, "VMRUN refuses CR4: bit {bit}");
    }
    for bit in 32..64 {
        check_eq!(bits(at::DR6, 1 << bit), code::INVALID, "VMRUN refuses DR6: bit {bit}");
        check_eq!(bits(at::DR7, 1 << bit), code::INVALID, "VMRUN refuses DR7: bit {bit}");
        check_eq!(bits(at::CR0, 1 << bit), code::INVALID, "VMRUN refuses CR0: bit {bit}");
    }
    let without = |offset: usize, bits: u64| with(|| set(offset, get(offset) & !bits));
    check_eq!(without(at::CR4, cr4::PAE), code::INVALID, "VMRUN refuses long mode without PAE");
    check_eq!(without(at::CR0, 1), code::INVALID, "VMRUN refuses long mode without protection");
    let both = with(|| segment(0x410, sel::CODE64, 0xe9b));
    check_eq!(both, code::INVALID, "VMRUN refuses a code segment of 64 and of 32 bits");
    let cached = with(|| set(at::CR0, get(at::CR0) | cr0::CD | cr0::NW));
    check_eq!(cached, code::VMMCALL, "CR0.NW with CD");
    for (event, name) in [
        (3 << 8 | NMI, "NMI as an exception"),
        (3 << 8 | 0x20, "an exception beyond 31"),
        (1 << 8 | 0x20, "kind 1"),
        (5 << 8 | 0x20, "kind 5"),
    ] {
        let exit = with(|| set(at::EVENT, 1 << 31 | event));
        check_eq!(exit, code::INVALID, "VMRUN refuses an event: {name}");
    }
    prepare(nothing);
    set(at::ASID, 0);
    set(at::RAX, 0x1234);
    set(at::INFO1, 7);
    enter();
    check_eq!(get(at::RAX), 0x1234, "a refused guest is as it was");
    check_eq!(get(at::RIP), nothing as *const () as u64, "and where it was");

    let beyond = 1 << width();
    let run_at = |at: u64| fault_of(|| unsafe { asm!("vmrun rax", in("rax") at) });
    check_eq!(run_at(beyond), (GP, 0), "VMRUN beyond the physical width");
    let load_at = |at: u64| fault_of(|| unsafe { asm!("vmload rax", in("rax") at) });
    check_eq!(load_at(beyond), (GP, 0), "VMLOAD beyond it");
    check_eq!(load_at(0x1008), (GP, 0), "VMLOAD of what is not aligned");
    let save_at = |at: u64| fault_of(|| unsafe { asm!("vmsave rax", in("rax") at) });
    check_eq!(save_at(0x1008), (GP, 0), "VMSAVE of what is not aligned");
    check_eq!(fault_of(|| wrmsr(VM_HSAVE_PA, beyond)), (GP, 0), "a host save area beyond it");
    wrmsr(VM_HSAVE_PA, addr_of!(HOST_SAVE) as u64);
}

fn maps() {
    let beyond = 1u64 << width();
    for (field, intercepted, name) in [(0x48, code::MSR, "MSR map"), (0x40, code::IO, "port map")] {
        let run = |base: u64| {
            with(|| {
                intercept(intercepted);
                set(field, base);
            })
        };
        let good = if field == 0x48 { addr_of!(MSR_MAP) as u64 } else { addr_of!(IO_MAP) as u64 };
        check_eq!(run(beyond), code::INVALID, "VMRUN refuses a {name}: beyond the physical width");
        check_eq!(
            run(beyond - 0x1000),
            code::INVALID,
            "VMRUN refuses a {name}: a page of it within"
        );
        check_eq!(run(beyond - 0x4000), code::VMMCALL, "{name}: all of it within");
        check_eq!(run(good | 0xfff), code::VMMCALL, "{name}: the lower bits are ignored");
    }
}

/// An address whose upper bits are not those of its highest one in use.
const WILD: u64 = 0xaaaa_0000_0000_0000;

fn extended(address: u64) -> u64 {
    let unused = 64 - (cpu::cpuid(0x8000_0008, 0)[0] >> 8 & 0xff);
    ((address << unused) as i64 >> unused) as u64
}

/// Takes the block through VMLOAD and VMSAVE.
fn load_and_save() {
    unsafe {
        // The kernel's own are put back at once.
        asm!(
            "vmsave rax",
            "xchg rax, rcx",
            "vmload rax",
            "vmsave rax",
            "xchg rax, rcx",
            "vmload rax",
            inout("rax") addr_of!(NESTED) as u64 => _,
            inout("rcx") addr_of!(VMCB) as u64 => _,
        );
    }
}

fn canonical() {
    for (offset, name) in [(0x408, "ES"), (0x438, "DS"), (0x468, "GDTR"), (0x488, "IDTR")] {
        let wanted = extended(get_after(nothing, offset, WILD | 0x1234));
        check_eq!(get(offset), wanted, "VMRUN makes the base of {name} canonical");
    }
    for (offset, name) in
        [(0x448, "FS"), (0x458, "GS"), (0x478, "LDTR"), (0x498, "TR"), (0x620, "KERNEL_GS_BASE")]
    {
        prepare(nothing);
        set(offset, WILD | 0x5678);
        load_and_save();
        check_eq!(
            get(offset),
            extended(WILD | 0x5678),
            "VMLOAD makes the base of {name} canonical"
        );
    }
}

/// Runs `guest` with a field of the block set; what the field was.
fn get_after(guest: extern "C" fn(), offset: usize, value: u64) -> u64 {
    prepare(guest);
    set(offset, value);
    enter();
    value
}

guest!(writes_cr8, "mov eax, 5", "mov cr8, rax", "mov rax, cr8");
guest!(reads_dr6, "mov rax, dr6");
guest!(writes_dr7, "mov eax, 0x401", "mov dr7, rax");
guest!(leaves_paging, "mov rax, cr3", "mov cr3, rax", "mov rax, cr0");
guest!(pauses, "mov ecx, 5", "2: pause", "loop 2b");
guest!(rsms, "rsm");

fn exits() {
    for (guest, wanted, name) in [
        (writes_cr8 as extern "C" fn(), 0x18, "MOV to CR8"),
        (leaves_paging, 0x13, "MOV to CR3"),
        (reads_dr6, 0x26, "MOV from DR6"),
        (writes_dr7, 0x37, "MOV to DR7"),
        (rsms, 0x73, "RSM outside of SMM"),
    ] {
        prepare(guest);
        intercept(wanted);
        check_eq!(enter(), wanted, "{name} is intercepted");
    }
    prepare(rsms);
    intercept(code::EXCEPTION + UD);
    check_eq!(enter(), code::EXCEPTION + UD, "RSM outside of SMM is undefined otherwise");

    cpu::set_dr7(0x401);
    prepare(writes_dr7);
    set(at::DR7, 0x400);
    enter();
    check_eq!(get(at::DR7), 0x401, "DR7 is the guest's");
    check_eq!(cpu::dr7(), 0x400, "and disabled for the host");

    prepare(writes_cr8);
    set(at::VIRQ, 1 << 24);
    enter();
    check_eq!(get(at::RAX), 5, "CR8 is the guest's");
    check_eq!(get(at::VIRQ) & 0xff, 5, "with virtual masking");
    check_eq!(cpu::cr8(), 0, "and not the host's");

    prepare(pauses);
    intercept(0x77);
    check_eq!(enter(), 0x77, "PAUSE is intercepted");
    if cpu::cpuid(0x8000_000a, 0)[3] >> 10 & 1 != 0 {
        prepare(pauses);
        intercept(0x77);
        set(0x38, get(0x38) & 0x0000_ffff_ffff_ffff | 20 << 48);
        check_eq!(enter(), code::VMMCALL, "but not before the filter has counted down");
    }
}

guest!(reads_far, "mov ecx, 0x6000040", "mov eax, [rcx]");
guest!(reads_twice, "mov ecx, 0x6000040", "mov eax, [rcx]", "out 0x80, al", "mov eax, [rcx]");
const DATA: u64 = 0x600_0000;

/// A translation is kept until it is told to go, and is nobody else's.
fn address_spaces() {
    if !feature::NPT.offered() {
        return crate::tap::skip("nested paging");
    }
    let place = |page: u64| (DATA + page * 4096 + 0x40) as *mut u32;
    unsafe {
        place(0).write_volatile(0x11);
        place(1).write_volatile(0x22);
    }
    let entry = nested_tables();
    let start = |asid: u64, flush: u64| {
        prepare(reads_far);
        set(at::NESTED, 1);
        set(at::NESTED_CR3, addr_of!(NESTED) as u64);
        set(at::ASID, asid | flush << 32);
        enter();
        get(at::RAX) & 0xffff_ffff
    };
    check_eq!(start(1, 0), 0x11, "a guest");
    unsafe { entry.write_volatile(DATA + 0x1000 | 7) };
    check_eq!(start(2, 1), 0x22, "another, after its page has moved");
    check_eq!(start(1, 3), 0x22, "the first, its translations forgotten");
    unsafe { entry.write_volatile(DATA | 7) };
    check_eq!(start(2, 3), 0x11, "the other, likewise");
    check_eq!(start(1, 7), 0x11, "the first, but for global pages");
    check_eq!(unsafe { place(0).read_volatile() }, 0x11, "the host sees its own");
    unsafe { entry.write_volatile(DATA + 0x1000 | 7) };
    check_eq!(start(3, 0), 0x22, "a number that was never used");
    // Between two guests, the host uses the same linear address.
    check_eq!(unsafe { place(0).read_volatile() }, 0x11, "which the host does not see");

    // The page moves while the guest is stopped in the middle.
    unsafe { entry.write_volatile(DATA | 7) };
    prepare(reads_twice);
    intercept(code::IO);
    unsafe { IO_MAP.0[0x80 / 8] = 1 };
    set(at::NESTED, 1);
    set(at::NESTED_CR3, addr_of!(NESTED) as u64);
    set(at::ASID, 1 | 1 << 32);
    check_eq!(enter(), code::IO, "stopped");
    check_eq!(get(at::RAX) & 0xffff_ffff, 0x11, "after the first look");
    unsafe { entry.write_volatile(DATA + 0x1000 | 7) };
    set(at::RIP, get(at::INFO2));
    set(at::ASID, 1 | 3 << 32);
    check_eq!(enter_with_rcx(DATA + 0x40), code::VMMCALL, "goes on");
    check_eq!(get(at::RAX) & 0xffff_ffff, 0x22, "and sees the page where it is now");
}

/// Runs the guest with a value in RCX.
fn enter_with_rcx(rcx: u64) -> u64 {
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
            inout("rcx") rcx => _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    get(at::CODE)
}

guest!(outs, "mov dx, 0xe0", "mov esi, 0x6000000", "mov ecx, 3", "rep outsw");
guest!(ins, "mov dx, 0xe1", "mov edi, 0x6000000", "insb");
guest!(reads_wide, "mov dx, 0x4fff", "in eax, dx");
guest!(reads_last, "mov dx, 0xffff", "in ax, dx");

fn ports() {
    const STRING: u64 = 1 << 2;
    const REPEATED: u64 = 1 << 3;
    let run = |guest, port: usize| {
        prepare(guest);
        intercept(code::IO);
        unsafe { IO_MAP.0[port / 8] = 1 << (port % 8) };
        enter()
    };
    check_eq!(run(outs, 0xe1), code::IO, "REP OUTSW, by its second port");
    let form = get(at::INFO1) & !(7 << 10);
    check_eq!(form, 0xe0 << 16 | 1 << 9 | 1 << 5 | REPEATED | STRING, "how, and where");
    check_eq!(get(at::INFO1) >> 10 & 7, 3, "through DS");
    check_eq!(run(ins, 0xe1), code::IO, "INSB");
    let form = get(at::INFO1) & !(7 << 10);
    check_eq!(form, 0xe1 << 16 | 1 << 9 | 1 << 4 | STRING | 1, "how, and where from");
    check_eq!(run(reads_wide, 0x5002), code::IO, "a doubleword, by its last port");
    check_eq!(run(reads_wide, 0x5003), code::VMMCALL, "not by the one behind");
    check_eq!(run(reads_last, 0x1_0000), code::IO, "a word at the end, by the bit behind");
}

const LBR: u64 = 1;
const LAST_BRANCH: [u32; 2] = [0x1db, 0x1dc];
const OWN_BRANCHES: usize = 0xb8;
const DEBUGCTL: usize = 0x670;
const BRANCH: [usize; 2] = [0x678, 0x680];

/// Jumps while DEBUGCTL is `control`, then clears that; where from and to.
fn jump(control: u64) -> [u64; 2] {
    let (from, to): (u64, u64);
    unsafe {
        asm!(
            "lea {}, [rip + 740f]",
            "lea {}, [rip + 750f]",
            "wrmsr",
            "740: jmp 750f",
            "nop",
            "750:",
            "xor eax, eax",
            "wrmsr",
            out(reg) from, out(reg) to, inout("eax") control as u32 => _, in("edx") 0,
            in("ecx") msr::DEBUGCTL
        );
    }
    [from, to]
}

// Tells DEBUGCTL, and records a jump.
guest!(
    branches,
    "mov ecx, 0x1d9",
    "rdmsr",
    "mov r15, rax",
    "mov eax, 1",
    "xor edx, edx",
    "wrmsr",
    "jmp 3f",
    "nop",
    "3: xor eax, eax",
    "wrmsr",
    "mov rax, r15"
);

/// The last branch, as AMD's processors record it, and as guests have it for themselves.
fn last_branches() {
    if !cpu::is_amd() || cpu::cpuid(0x8000_000a, 0)[3] >> 1 & 1 == 0 {
        return crate::tap::skip("last branches");
    }
    let recorded = || LAST_BRANCH.map(rdmsr);
    let host = jump(LBR);
    check_eq!(recorded(), host, "the last branch");
    jump(0);
    check_eq!(recorded(), host, "none is recorded when that is off");
    check_eq!(rdmsr(msr::DEBUGCTL), 0, "as DEBUGCTL tells");

    let start = branches as *const () as u64;
    prepare(branches);
    wrmsr(msr::DEBUGCTL, LBR);
    check_eq!(enter(), code::VMMCALL, "a guest with the host's DEBUGCTL");
    check_eq!(get(at::RAX) & 0xffff_ffff, LBR, "which it sees");
    check_eq!(rdmsr(msr::DEBUGCTL), 0, "and changes");
    let seen = recorded();
    let inside = start..start + 40;
    check!(inside.contains(&seen[0]) && seen[1] == seen[0] + 3, "its branch is the last");

    let host = jump(LBR);
    prepare(branches);
    wrmsr(msr::DEBUGCTL, 2);
    set(OWN_BRANCHES, 1);
    set(DEBUGCTL, 0);
    check_eq!(enter(), code::VMMCALL, "a guest with its own DEBUGCTL");
    check_eq!(get(at::RAX) & 0xffff_ffff, 0, "which is what the block says");
    check_eq!(rdmsr(msr::DEBUGCTL), 2, "does not change the host's");
    wrmsr(msr::DEBUGCTL, 0);
    check_eq!(get(DEBUGCTL), 0, "but its own");
    check_eq!(BRANCH.map(get), seen, "and has its own last branch");
    check_eq!(recorded(), host, "which the host does not see");
}

static mut SEEN: [u64; 4] = [0; 4];

/// Notes which vector came, its error code, the address it returns to, and how often.
fn note(frame: &mut Frame) {
    unsafe { SEEN = [frame.vector, frame.error, frame.rip, SEEN[3] + 1] };
}

fn note_and_acknowledge(frame: &mut Frame) {
    note(frame);
    apic::write(reg::EOI, 0);
}

fn seen() -> [u64; 4] {
    unsafe { core::mem::take(&mut SEEN) }
}

guest!(breaks, "int3");
guest!(traps, ".byte 0xf1");
guest!(software, "int 0x81");
guest!(opens, "sti", "nop", "nop", "cli");
guest!(shadowed, "nop", "nop");
guest!(halts_open, "sti", "hlt", "cli");
guest!(steps, "nop", "nop");
guest!(divides, "xor ecx, ecx", "div ecx");

pub fn events() {
    if !begins() {
        return;
    }
    injected();
    software_events();
    interrupted();
    stepped();
    closed();
    own_flag();
    ends();
}

fn injected() {
    let start = nothing as *const () as u64;
    for (kind, vector, error, name) in [
        (0u64, 0x61u64, None, "an interrupt"),
        (2, NMI, None, "an NMI"),
        (3, DE, None, "#DE"),
        (3, GP, Some(0x1230u64), "#GP with an error code"),
        (3, UD, None, "#UD"),
    ] {
        trap::set_handler(vector, Some(note));
        prepare(nothing);
        let error_bits = error.map_or(0, |error| 1 << 11 | error << 32);
        set(at::EVENT, 1 << 31 | kind << 8 | vector | error_bits);
        check_eq!(enter(), code::VMMCALL, "injected: {name}");
        check_eq!(seen(), [vector, error.unwrap_or(0), start, 1], "comes as it should: {name}");
        trap::set_handler(vector, None);
    }
    // No gate for it, and the exception that follows is intercepted.
    prepare(nothing);
    set(at::IDTR, 0x1f << 32);
    set(at::EVENT, 1 << 31 | 3 << 8 | GP | 1 << 11 | 0x88 << 32);
    intercept(code::EXCEPTION + DF);
    check_eq!(enter(), code::EXCEPTION + DF, "#GP without a gate is #DF");
    check_eq!(get(at::INFO1), 0, "with error code 0");
    check_eq!(get(at::INT_INFO) & 0xff, GP, "and it is told what was being delivered");
    // What is injected is not intercepted itself.
    trap::set_handler(DE, Some(note));
    prepare(nothing);
    intercept(code::EXCEPTION + DE);
    set(at::EVENT, 1 << 31 | 3 << 8 | DE);
    check_eq!(enter(), code::VMMCALL, "an injected exception is not intercepted");
    check_eq!(seen()[3], 1, "but comes");
    prepare(divides);
    intercept(code::EXCEPTION + DE);
    check_eq!(enter(), code::EXCEPTION + DE, "one that arises is");
    check_eq!(get(at::RIP), divides as *const () as u64 + 2, "with the guest at its instruction");
    trap::set_handler(DE, None);
}

fn software_events() {
    let next = |guest: extern "C" fn(), len: u64| guest as *const () as u64 + len;
    trap::set_handler(BP, Some(note));
    trap::set_handler(DB, Some(note));
    trap::set_handler(0x81, Some(note));
    prepare(breaks);
    check_eq!(enter(), code::VMMCALL, "INT3 in a guest");
    check_eq!(seen(), [BP, 0, next(breaks, 1), 1], "is the guest's");
    prepare(breaks);
    intercept(code::EXCEPTION + BP);
    check_eq!(enter(), code::EXCEPTION + BP, "INT3 is intercepted");
    check_eq!(get(at::RIP), next(breaks, 0), "at the instruction");
    if feature::NRIP_SAVE.offered() {
        check_eq!(get(at::NEXT_RIP), next(breaks, 1), "with what comes next");
    }
    prepare(traps);
    intercept(0x88);
    check_eq!(enter(), 0x88, "INT1 is intercepted");
    prepare(traps);
    check_eq!(enter(), code::VMMCALL, "INT1 in a guest");
    check_eq!(seen(), [DB, 0, next(traps, 1), 1], "is the guest's");
    prepare(software);
    check_eq!(enter(), code::VMMCALL, "INT n in a guest");
    check_eq!(seen(), [0x81, 0, next(software, 2), 1], "is the guest's");
    prepare(software);
    set(at::IDTR, 0x1ff << 32);
    intercept(code::EXCEPTION + GP);
    check_eq!(enter(), code::EXCEPTION + GP, "INT n without a gate");
    check_eq!(get(at::INT_INFO), 1 << 31 | 4 << 8 | 0x81, "is told with the exception");
    check_eq!(get(at::INFO1), 0x81 * 8 + 2, "whose error code names the gate");
    if feature::NRIP_SAVE.offered() {
        for (kind, vector, guest, len, name) in
            [(4u64, 0x81u64, software as extern "C" fn(), 2, "INT n"), (3, BP, breaks, 1, "INT3")]
        {
            prepare(guest);
            set(at::EVENT, 1 << 31 | kind << 8 | vector);
            set(at::NEXT_RIP, next(guest, len));
            check_eq!(enter(), code::VMMCALL, "{name} injected");
            check_eq!(seen(), [vector, 0, next(guest, len), 1], "{name}: returns behind it");
        }
    }
    trap::set_handler(BP, None);
    trap::set_handler(DB, None);
    trap::set_handler(0x81, None);
}

const VECTOR: u64 = 0x62;

fn send(how: u32) {
    apic::write(reg::ICR2, apic::read(reg::ID));
    apic::write(reg::ICR, 1 << 14 | how);
}

fn interrupted() {
    trap::set_handler(VECTOR, Some(note_and_acknowledge));
    trap::set_handler(NMI, Some(note));
    // Without virtual masking the guest's own flag is asked.
    prepare(opens);
    intercept(code::INTR);
    send(VECTOR as u32);
    check_eq!(enter(), code::INTR, "an interrupt, once the guest lets it in");
    check_eq!(get(at::RIP), opens as *const () as u64 + 2, "one instruction after STI");
    check_eq!(get(at::SHADOW) & 1, 0, "the shadow is over");
    apic::breathe();
    check_eq!(seen()[3], 1, "it is the host's");
    prepare(opens);
    send(VECTOR as u32);
    check_eq!(enter(), code::VMMCALL, "not intercepted");
    check_eq!(seen(), [VECTOR, 0, opens as *const () as u64 + 2, 1], "it is the guest's");

    prepare(shadowed);
    set(at::SHADOW, 1);
    set(at::RFLAGS, 2 | flag::IF);
    intercept(code::INTR);
    send(VECTOR as u32);
    check_eq!(enter(), code::INTR, "a guest in the shadow of STI");
    check_eq!(get(at::RIP), shadowed as *const () as u64 + 1, "gets on by one instruction");
    apic::breathe();
    seen();

    prepare(halts_open);
    send(VECTOR as u32);
    check_eq!(enter(), code::VMMCALL, "HLT is woken up from");
    check_eq!(seen()[3], 1, "by the guest's interrupt");

    prepare(nothing);
    intercept(code::NMI);
    unsafe { asm!("clgi") };
    send(4 << 8);
    check_eq!(enter_closed(), code::NMI, "an NMI is intercepted");
    check_eq!(get(at::RIP), nothing as *const () as u64, "before the guest");
    unsafe { asm!("stgi") };
    apic::breathe();
    check_eq!(seen()[0], NMI, "and is the host's");
    trap::set_handler(VECTOR, None);
    trap::set_handler(NMI, None);
}

/// Runs the guest with the host's TF set right before VMRUN; the address behind that.
fn enter_stepping() -> u64 {
    let behind;
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "clgi",
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "lea r12, [rip + 3f]",
            "popfq",
            "vmrun rax",
            "3: pushfq",
            "and qword ptr [rsp], ~0x100",
            "popfq",
            "stgi",
            "pop rbp",
            "pop rbx",
            inout("rax") addr_of!(VMCB) as u64 => _,
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") behind, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    behind
}

static mut STEPS: [u64; 8] = [0; 8];
static mut STEP_COUNT: usize = 0;

fn step(frame: &mut Frame) {
    unsafe {
        if STEP_COUNT < 8 {
            STEPS[STEP_COUNT] = frame.rip;
            STEP_COUNT += 1;
        }
    }
    cpu::set_dr6(0xffff_0ff0);
}

fn take_steps() -> usize {
    unsafe { core::mem::take(&mut STEP_COUNT) }
}

fn stepped() {
    trap::set_handler(DB, Some(step));
    prepare(steps);
    let behind = enter_stepping();
    check_eq!(get(at::CODE), code::VMMCALL, "VMRUN stepped over");
    let count = take_steps();
    check!(count >= 1, "a trap comes");
    check_eq!(unsafe { STEPS[0] }, behind, "behind VMRUN, after the exit");
    prepare(steps);
    set(at::RFLAGS, 2 | flag::TF);
    check_eq!(enter(), code::VMMCALL, "a guest that is stepped");
    check_eq!(take_steps(), 2, "takes a trap after each instruction");
    prepare(steps);
    set(at::RFLAGS, 2 | flag::TF);
    intercept(code::EXCEPTION + DB);
    check_eq!(enter(), code::EXCEPTION + DB, "which is intercepted");
    check_eq!(get(at::RIP), steps as *const () as u64 + 1, "behind the instruction");
    check_eq!(get(at::DR6) >> 14 & 1, 1, "and DR6 tells of it");
    trap::set_handler(DB, None);
}

/// While GIF is clear.
fn closed() {
    trap::set_handler(DB, Some(step));
    let watched = addr_of!(SEEN) as u64;
    cpu::set_dr0(watched);
    cpu::set_dr7(0xd_0402);
    unsafe {
        asm!("clgi", "mov [{}], rax", "stgi", in(reg) watched, inout("rax") 0u64 => _);
    }
    check_eq!(take_steps(), 0, "without GIF breakpoints are not met");
    unsafe { asm!("mov [{}], rax", in(reg) watched, inout("rax") 0u64 => _) };
    check_eq!(take_steps(), 1, "with it they are");
    cpu::set_dr7(0x400);
    trap::set_handler(DB, None);
    trap::set_handler(
        UD,
        Some(|frame| {
            note(frame);
            frame.rip += 2;
        }),
    );
    unsafe { asm!("clgi", "ud2", "stgi") };
    check_eq!(seen()[3], 1, "exceptions come as always");
    trap::set_handler(UD, None);
}

guest!(closes, "sti", "clgi", "nop", "nop", "mov eax, 1", "stgi", "nop", "nop", "mov eax, 2");

/// A guest with a global interrupt flag of its own.
fn own_flag() {
    const GIF: u64 = 1 << 9;
    const ENABLE: u64 = 1 << 25;
    const PENDING: u64 = 1 << 8 | 1 << 24 | 4 << 16 | VECTOR << 32;
    if cpu::cpuid(0x8000_000a, 0)[3] >> 16 & 1 == 0 {
        return crate::tap::skip("VGIF");
    }
    trap::set_handler(VECTOR, Some(note));
    prepare(nothing);
    set(at::RFLAGS, 2 | flag::IF);
    set(at::VIRQ, PENDING | ENABLE);
    check_eq!(enter(), code::VMMCALL, "a guest with its GIF clear");
    check_eq!(seen()[3], 0, "takes no virtual interrupt");
    prepare(nothing);
    set(at::RFLAGS, 2 | flag::IF);
    set(at::VIRQ, PENDING | ENABLE | GIF);
    check_eq!(enter(), code::VMMCALL, "a guest with it set");
    check_eq!(seen()[3], 1, "takes one");
    prepare(closes);
    set(at::VIRQ, ENABLE | GIF);
    check_eq!(enter(), code::VMMCALL, "CLGI and STGI of a guest");
    check_eq!(get(at::RAX), 2, "change its own flag");
    check_eq!(get(at::VIRQ) & GIF, GIF, "which the block shows");
    trap::set_handler(VECTOR, None);
}
