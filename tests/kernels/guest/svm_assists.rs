//! What exits tell of the instruction behind them, which PAUSE ends a guest, and VMLOAD and VMSAVE of
//! guests (APM vol. 2, 15.8.4, 15.14.4 and 15.33.1).

use crate::boot::sel;
use crate::cpu::{feature, msr, rdmsr, wrmsr};
use crate::svm::{
    NESTED, Pages, at, begins, code, ends, enter, get, guest, intercept, nested_tables, prepare,
    segment, set,
};
use crate::trap::vector::*;
use core::arch::{asm, naked_asm};
use core::ptr::{addr_of, addr_of_mut};

/// How many bytes of the instruction were fetched, and these.
const BYTES: usize = 0xd0;
const IS_MOV: u64 = 1 << 63;

pub fn run() {
    if !begins() {
        return;
    }
    if feature::DECODE_ASSISTS.offered() {
        registers();
        operands();
        bytes();
    } else {
        crate::tap::skip("decode assists");
    }
    pauses();
    virtual_blocks();
    ends();
}

type Guest = extern "C" fn();

macro_rules! guests {
    ($($name:ident $($line:literal),+;)*) => { $(guest!($name, $($line),+);)* };
}

guests! {
    reads_cr0 "mov r15, cr0";
    reads_cr3 "mov rbx, cr3";
    reads_cr8 "mov rdi, cr8";
    writes_cr0 "mov r12, cr0", "btc r12, 16", "mov cr0, r12";
    writes_cr4 "mov rsi, cr4", "mov cr4, rsi";
    smsws "smsw r9d";
    lmsws "smsw cx", "lmsw cx";
    cltss "clts";
    reads_dr7 "mov r8, dr7";
    writes_dr0 "mov dr0, r13";
    ints "int 0x93";
    invlpgs "mov rbx, 0x123456789000", "invlpg [rbx + 0x78]";
    invlpgas "mov rax, 0x7654321", "invlpga rax, ecx";
    reads "mov ecx, 0x6000040", "mov eax, [rcx]";
    reads_far "mov rcx, 0x700000000000", "mov rax, [rcx]";
    calls_far "mov rcx, 0x700000000000", "jmp rcx";
}

/// MOV of control and debug registers: which general register is meant.
fn registers() {
    let table: [(Guest, u64, u64, &str); 11] = [
        (reads_cr0, 0x00, IS_MOV | 15, "MOV from CR0"),
        (reads_cr3, 0x03, IS_MOV | 3, "MOV from CR3"),
        (reads_cr8, 0x08, IS_MOV | 7, "MOV from CR8"),
        (writes_cr0, 0x10, IS_MOV | 12, "MOV to CR0"),
        (writes_cr0, 0x65, IS_MOV | 12, "MOV to CR0, selectively"),
        (writes_cr4, 0x14, IS_MOV | 6, "MOV to CR4"),
        (smsws, 0x00, 0, "SMSW"),
        (lmsws, 0x10, 0, "LMSW"),
        (cltss, 0x10, 0, "CLTS"),
        (reads_dr7, 0x27, 8, "MOV from DR7"),
        (writes_dr0, 0x30, 13, "MOV to DR0"),
    ];
    for (guest, wanted, info, name) in table {
        prepare(guest);
        intercept(wanted);
        check_eq!(enter(), wanted, "{name} is intercepted");
        check_eq!(get(at::INFO1), info, "{name}: of which register");
        check_eq!(get(at::INFO2), 0, "{name}: and nothing else");
        check_eq!(get(BYTES) & 0xff, 0, "{name}: no bytes");
    }
}

/// What else instructions are asked for.
fn operands() {
    for (guest, wanted, info, name) in [
        (ints as Guest, code::SOFT_INT, 0x93, "INT n"),
        (invlpgs, 0x79, 0x1234_5678_9078, "INVLPG"),
        (invlpgas, 0x7a, 0x765_4321, "INVLPGA"),
    ] {
        prepare(guest);
        intercept(wanted);
        check_eq!(enter(), wanted, "{name} tells more");
        check_eq!(get(at::INFO1), info, "{name}: its operand");
    }
    // The segment's base counts, in 64-bit code that of FS and GS.
    prepare(invlpgs_gs);
    intercept(0x79);
    let old = rdmsr(msr::GS_BASE);
    wrmsr(msr::GS_BASE, 0x10_0000);
    enter();
    wrmsr(msr::GS_BASE, old);
    check_eq!(get(at::INFO1), 0x10_0040, "INVLPG through GS: its operand");
}

guest!(invlpgs_gs, "mov ebx, 0x40", "invlpg gs:[rbx]");

/// The bytes that the block has, and the number of them.
fn noted() -> (usize, [u8; 15]) {
    let mut bytes = [0; 15];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (get(BYTES + 1 + i) & 0xff) as u8;
    }
    ((get(BYTES) & 0xff) as usize, bytes)
}

fn code_at(address: u64) -> [u8; 15] {
    unsafe { (address as *const [u8; 15]).read_volatile() }
}

static mut LAST: Pages<4096> = Pages([0; 4096]);

/// The instruction whose access to data was refused, by the guest's tables or the host's.
fn bytes() {
    prepare(reads_far);
    intercept(code::EXCEPTION + PF);
    check_eq!(enter(), code::EXCEPTION + PF, "a page fault of data");
    check_eq!(noted(), (15, code_at(get(at::RIP))), "comes with the instruction");
    prepare(calls_far);
    intercept(code::EXCEPTION + PF);
    check_eq!(enter(), code::EXCEPTION + PF, "a page fault of a fetch");
    check_eq!(noted(), (0, [0; 15]), "comes without");

    // At the end of a page behind which there is none: as much as there is.
    let page = addr_of_mut!(LAST) as u64;
    let start = page + 4096 - 2;
    unsafe { (start as *mut [u8; 2]).write_volatile([0x8b, 0x01]) };
    let copy = short_tables(page);
    prepare(reads_far);
    set(at::CR3, copy);
    set(at::RIP, 0x4000_0000 + 4096 - 2);
    intercept(code::EXCEPTION + PF);
    check_eq!(enter(), code::EXCEPTION + PF, "a page fault at the end of the code");
    check_eq!(get(at::INFO2), 0, "of the operand");
    let (count, bytes) = noted();
    check_eq!((count, &bytes[..2]), (2, &[0x8b, 0x01][..]), "comes with what there is");
    check_eq!(get(at::CR2), 0, "and what there is not leaves no trace");

    if !feature::NPT.offered() {
        return crate::tap::skip("nested paging");
    }
    let entry = nested(reads);
    unsafe { *entry = 0 };
    check_eq!(enter(), code::NPF, "a nested page fault");
    check_eq!(get(at::INFO1), 1 << 32 | 4, "its error code is as ever");
    check_eq!(noted(), (15, code_at(reads as *const () as u64 + 5)), "comes with the instruction");
    // The next exit of another kind does not.
    nested(cltss);
    intercept(0x10);
    check_eq!(enter(), 0x10, "an exit of another kind");
    check_eq!(noted().0, 0, "has none");
}

/// Tables that have nothing but the page `page`, at 1 GiB, and a supervisor's first page that is not
/// there; the address of the first.
fn short_tables(page: u64) -> u64 {
    const ALL: u64 = 7;
    unsafe {
        let table = |i: usize| addr_of!(NESTED[i]) as u64;
        for i in 0..4 {
            NESTED[i].0.fill(0);
        }
        NESTED[0].0[0] = table(1) | ALL;
        NESTED[1].0[1] = table(2) | ALL;
        NESTED[2].0[0] = table(3) | ALL;
        NESTED[3].0[0] = page | ALL;
        table(0)
    }
}

/// A guest behind tables that map one to one; the entry of the page its data is in.
fn nested(guest: Guest) -> *mut u64 {
    let entry = nested_tables();
    prepare(guest);
    set(at::NESTED, 1);
    set(at::NESTED_CR3, addr_of!(NESTED) as u64);
    set(at::ASID, 1 | 1 << 32);
    entry
}

const PAUSE: u64 = 0x77;
/// The threshold, then the count.
const FILTER: usize = 0x38;

/// Pauses for ever, and counts.
#[unsafe(naked)]
extern "C" fn pauses_often() {
    naked_asm!("xor eax, eax", "2:", "pause", "inc eax", "cmp eax, 1000", "jb 2b", "vmmcall")
}

/// The same, with some work between.
#[unsafe(naked)]
extern "C" fn pauses_now_and_then() {
    naked_asm!(
        "xor eax, eax",
        "2:",
        "pause",
        "mov r8d, eax",
        "rdtsc",
        "mov r9d, eax",
        "3:",
        "rdtsc",
        "sub eax, r9d",
        "cmp eax, 100000",
        "jb 3b",
        "mov eax, r8d",
        "inc eax",
        "cmp eax, 100",
        "jb 2b",
        "vmmcall"
    )
}

fn pauses() {
    let run = |guest: Guest, count: u64, threshold: u64| {
        prepare(guest);
        intercept(PAUSE);
        set(FILTER, threshold << 32 | count << 48);
        enter()
    };
    check_eq!(run(pauses_often, 0, 0), PAUSE, "PAUSE is intercepted");
    check_eq!(get(at::RAX), 0, "the first one");
    if !feature::PAUSE_FILTER.offered() {
        return crate::tap::skip("the PAUSE filter");
    }
    check_eq!(run(pauses_often, 10, 0), PAUSE, "PAUSE is intercepted when it has been counted");
    check!((9..=10).contains(&get(at::RAX)), "not before that");
    check_eq!(run(pauses_often, 2000, 0), code::VMMCALL, "never if it comes less often");
    if !feature::PAUSE_THRESHOLD.offered() {
        return crate::tap::skip("the threshold of the PAUSE filter");
    }
    // Three times as long as the work between takes at least.
    let short = 30_000;
    check_eq!(
        run(pauses_now_and_then, 10, short),
        code::VMMCALL,
        "PAUSEs far from each other begin anew"
    );
    check_eq!(run(pauses_now_and_then, 10, 0), PAUSE, "unless the threshold is 0");
    check_eq!(run(pauses_now_and_then, 0, short), PAUSE, "or there is nothing to count");
    check_eq!(get(at::RAX), 0, "then it is the first one");
}

const VMLOAD: u64 = 0x82;
const VMSAVE: u64 = 0x83;
const VIRTUAL: usize = 0xb8;
const STAR: usize = 0x600;
const DATA: u64 = 0x600_0000;
static mut BLOCK: Pages<4096> = Pages([0; 4096]);

guests! {
    loads "mov eax, 0x6000000", "vmload rax", "mov ecx, 0xc0000081", "rdmsr";
    saves "mov eax, 0x6000000", "vmsave rax";
    loads_badly "mov eax, 0x6000008", "vmload rax";
}

/// VMLOAD and VMSAVE of a guest, whose addresses the host's tables translate.
fn virtual_blocks() {
    if !feature::NPT.offered() || !feature::VIRTUAL_BLOCKS.offered() {
        return crate::tap::skip("virtual VMLOAD and VMSAVE");
    }
    const ALL: u64 = 7;
    let block = addr_of!(BLOCK) as u64;
    let field = (block + STAR as u64) as *mut u64;
    let old = rdmsr(msr::STAR);
    let start = |guest: Guest| {
        let entry = nested(guest);
        set(VIRTUAL, 2);
        unsafe {
            *entry = block | ALL;
            asm!("vmsave rax", in("rax") block);
        }
        entry
    };
    start(loads);
    unsafe { field.write_volatile(0x1234_5678_0000_0000) };
    check_eq!(enter(), code::VMMCALL, "VMLOAD of a guest");
    check_eq!(rdmsr(msr::STAR), 0x1234_5678_0000_0000, "loads from where its block is");
    wrmsr(msr::STAR, 0x2345_6789_0000_0000);
    start(saves);
    unsafe { field.write_volatile(0) };
    check_eq!(enter(), code::VMMCALL, "VMSAVE of a guest");
    let saved = unsafe { field.read_volatile() };
    check_eq!(saved, 0x2345_6789_0000_0000, "saves where its block is");
    wrmsr(msr::STAR, old);

    for (guest, flags, error, name) in [
        (loads as Guest, 0, 4, "VMLOAD of what is not there"),
        (saves, 0, 6, "VMSAVE of what is not there"),
        (saves, block | 5, 7, "VMSAVE to what is for reading"),
    ] {
        let entry = start(guest);
        unsafe { *entry = flags };
        check_eq!(enter(), code::NPF, "{name}");
        check_eq!(get(at::INFO1), 1 << 32 | error, "{name}: the error code");
        check_eq!(get(at::INFO2), DATA, "{name}: the address");
        check_eq!(get(at::RIP), guest as *const () as u64 + 5, "{name}: where");
    }
    for (guest, wanted, name) in [(loads as Guest, VMLOAD, "VMLOAD"), (saves, VMSAVE, "VMSAVE")] {
        start(guest);
        intercept(wanted);
        check_eq!(enter(), wanted, "{name} is intercepted first");
    }
    start(loads_badly);
    intercept(code::EXCEPTION + GP);
    check_eq!(enter(), code::EXCEPTION + GP, "a block of a guest that is not aligned");
    // Outside of long mode the host is asked.
    let call = crate::code!(32, "mov eax, 0x6000000", ".byte 0x0f, 0x01, 0xda", "nop");
    start(loads);
    set(at::EFER, crate::svm::SVME);
    set(at::CR0, 0x31);
    set(at::CR4, 0x600);
    set(at::RIP, call.as_ptr() as u64);
    segment(0x410, sel::CODE32, 0xc9b);
    check_eq!(enter(), VMLOAD, "VMLOAD of a 32-bit guest");
    check_eq!(get(at::RIP), call.as_ptr() as u64 + 5, "is the host's");
}
