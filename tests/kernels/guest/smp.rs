//! Two processors: start-up, interrupts between them, atomic operations, memory order, and the
//! invalidation of each other's translations.

use crate::apic::{self, read, reg, write};
use crate::boot::{Stack, sel};
use crate::cpu::{self, msr, rdmsr, rdtsc};
use crate::paging::{self, DATA, P, Size, T, U, W, map};
use crate::trap::{self, Frame, Tss, load_idt, segment, set_descriptor, set_handler, vector::NMI};
use core::arch::{asm, global_asm};
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

#[unsafe(no_mangle)]
static mut AP_STACK: Stack<32768> = Stack([0; 32768]);
static mut AP_TRAPS: [Stack<8192>; 2] = [const { Stack([0; 8192]) }; 2];
static mut AP_TSS: Tss = Tss::new();
const AP_TSS_SELECTOR: u16 = 60 * 8;

const START: u64 = 0x9000;

global_asm!(
    r#"
    .globl ap_blob
    .code16
ap_blob:
    cli
    xor ax, ax
    mov ds, ax
    // LGDT of a 32-bit base.
    .byte 0x66, 0x0f, 0x01, 0x16
    .word (ap_gdt_pointer - ap_blob) + 0x9000
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long ap_protected
    .word 0x18
ap_gdt_pointer:
    .word 64 * 8 - 1
    .long GDT
    .globl ap_blob_end
ap_blob_end:
    .code32
ap_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, offset AP_STACK + 32768
    // Caches on, as on the boot processor.
    mov eax, offset PML4
    mov edx, 0x620
    mov ebp, offset ap_long
    jmp enter_long
    .code64
ap_long:
    lea rsp, [rip + AP_STACK + 32768]
    xor ebp, ebp
    call ap_main
"#
);

unsafe extern "C" {
    static ap_blob: u8;
    static ap_blob_end: u8;
}

/// What the second processor is to do (a `fn()`), and how often it was done.
static JOB: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);
static UP: AtomicU32 = AtomicU32::new(0);
/// Interrupts by processor: the low byte of the last vector, and how many.
static CAME: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static NMIS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

fn me() -> usize {
    usize::from(read(reg::ID) >> 24 != 0)
}

fn came(frame: &mut Frame) {
    let count = &CAME[me()];
    count.store((count.load(SeqCst) >> 8) + 1 << 8 | frame.vector, SeqCst);
    write(reg::EOI, 0);
}

fn nmi(_: &mut Frame) {
    NMIS[me()].fetch_add(1, SeqCst);
}

fn shoot(_: &mut Frame) {
    cpu::invlpg(T);
    CAME[me()].fetch_add(0x100, SeqCst);
    write(reg::EOI, 0);
}

#[unsafe(no_mangle)]
extern "C" fn ap_main() -> ! {
    unsafe {
        load_idt(4095);
        AP_TSS.ist[0] = addr_of_mut!(AP_TRAPS[0]) as u64 + 8192;
        AP_TSS.ist[1] = addr_of_mut!(AP_TRAPS[1]) as u64 + 8192;
        set_descriptor(AP_TSS_SELECTOR, segment(addr_of_mut!(AP_TSS) as u32, 103, 0x89));
        set_descriptor(AP_TSS_SELECTOR + 8, 0);
        asm!("ltr {:x}", in(reg) AP_TSS_SELECTOR);
    }
    write(reg::SVR, 0x1ff);
    UP.fetch_add(1, SeqCst);
    loop {
        match JOB.swap(0, SeqCst) {
            0 => unsafe { asm!("sti", "pause", "nop", "cli") },
            job => {
                let job: fn() = unsafe { core::mem::transmute(job) };
                job();
                DONE.fetch_add(1, SeqCst);
            }
        }
    }
}

/// Waits, with interrupts on, for up to three seconds.
pub fn wait(done: impl Fn() -> bool) -> bool {
    let start = rdtsc();
    while !done() {
        unsafe { asm!("sti", "pause", "nop", "cli") };
        if rdtsc().wrapping_sub(start) > 10_000_000_000 {
            return done();
        }
    }
    true
}

pub fn give(job: fn()) -> u32 {
    let before = DONE.load(SeqCst);
    JOB.store(job as usize, SeqCst);
    before
}

pub fn finished(before: u32) -> bool {
    wait(|| DONE.load(SeqCst) != before)
}

const ASSERT: u32 = 1 << 14;

pub fn send(destination: u32, command: u32) {
    write(reg::ICR2, destination << 24);
    write(reg::ICR, ASSERT | command);
}

pub fn start_up() -> bool {
    let before = UP.load(SeqCst);
    send(1, 5 << 8);
    let start = rdtsc();
    while rdtsc() - start < 10_000_000 {}
    send(1, 6 << 8 | (START >> 12) as u32);
    wait(|| UP.load(SeqCst) != before)
}

/// How many interrupts, and how many NMIs, the second processor has taken.
pub fn taken() -> [u64; 2] {
    [CAME[1].load(SeqCst) >> 8, NMIS[1].load(SeqCst).into()]
}

/// Gets everything ready for [`start_up`], if there is a second processor.
pub fn begins() -> bool {
    if cpu::cpuid(1, 0)[1] >> 16 & 0xff < 2 {
        crate::tap::skip("one processor only");
        return false;
    }
    apic::prepare();
    for vector in 0x20..0x100 {
        set_handler(vector, Some(came));
    }
    set_handler(NMI, Some(nmi));
    set_handler(0xe0, Some(shoot));
    unsafe {
        let start = &raw const ap_blob;
        let len = &raw const ap_blob_end as usize - start as usize;
        core::ptr::copy_nonoverlapping(start, START as *mut u8, len);
    }
    true
}

pub fn run() {
    if !begins() {
        return;
    }
    send(1, 6 << 8 | 0x9);
    check!(UP.load(SeqCst) == 0 || UP.load(SeqCst) == 1, "a start-up IPI");
    let up = start_up();
    check!(up, "INIT and start-up begin the second processor");
    if !up {
        return;
    }
    identity();
    interrupts();
    nmis();
    atomics();
    order();
    shootdown();
    again();
}

static SEEN: AtomicU64 = AtomicU64::new(0);

fn identity() {
    let before =
        give(|| SEEN.store(rdmsr(msr::APIC_BASE) | u64::from(read(reg::ID)) << 32, SeqCst));
    finished(before);
    let seen = SEEN.load(SeqCst);
    check_eq!(seen as u32 & 0x900, 0x800, "it is not the boot processor");
    check_eq!(seen >> 56, 1, "its APIC ID is 1");
    let before = give(|| {
        SEEN.store(u64::from(cpu::cpuid(1, 0)[1] >> 24), SeqCst);
    });
    finished(before);
    check_eq!(SEEN.load(SeqCst), 1, "as CPUID says");
    let before = give(|| SEEN.store(cpu::cr0(), SeqCst));
    finished(before);
    check_eq!(SEEN.load(SeqCst) & 0x6000_0000, 0, "its caches are on");
}

fn count(cpu: usize) -> u64 {
    CAME[cpu].load(SeqCst) >> 8
}

fn interrupts() {
    let before = count(1);
    send(1, 0x61);
    check!(wait(|| count(1) == before + 1), "an interrupt to the other");
    check_eq!(CAME[1].load(SeqCst) & 0xff, 0x61, "with its vector");
    let (mine, before) = (count(0), give(|| send(0, 0x62)));
    check!(finished(before) && wait(|| count(0) == mine + 1), "and back");
    let (mine, other) = (count(0), count(1));
    write(reg::ICR, 3 << 18 | ASSERT | 0x63);
    check!(wait(|| count(1) == other + 1) && count(0) == mine, "to all but itself");
    write(reg::ICR, 2 << 18 | ASSERT | 0x64);
    check!(wait(|| count(1) == other + 2 && count(0) == mine + 1), "to all");
    let before = NMIS[1].load(SeqCst);
    send(1, 4 << 8);
    check!(wait(|| NMIS[1].load(SeqCst) == before + 1), "an NMI to the other");
    check_eq!(NMIS[0].load(SeqCst), 0, "and none here");
    // Asleep. From where it says so until HLT nothing can interrupt it: what comes early waits.
    static LIES_DOWN: AtomicU32 = AtomicU32::new(0);
    let other = count(1);
    let done = give(|| {
        LIES_DOWN.store(1, SeqCst);
        unsafe { asm!("sti", "hlt", "cli") }
    });
    check!(wait(|| LIES_DOWN.load(SeqCst) == 1), "a job that ends in HLT begins");
    let start = rdtsc();
    while rdtsc() - start < 10_000_000 {}
    send(1, 0x65);
    check!(finished(done) && count(1) == other + 1, "HLT is woken");
    // Logical destinations.
    write(reg::DFR, !0);
    write(reg::LDR, 1 << 24);
    finished(give(|| {
        write(reg::DFR, !0);
        write(reg::LDR, 2 << 24);
    }));
    let (mine, other) = (count(0), count(1));
    send(2, 1 << 11 | 0x66);
    check!(wait(|| count(1) == other + 1) && count(0) == mine, "by logical destination");
    send(3, 1 << 11 | 0x67);
    check!(
        wait(|| count(1) == other + 2 && count(0) == mine + 1),
        "to both by logical destination"
    );
    send(3, 1 << 11 | 1 << 8 | 0x68);
    let one = wait(|| count(1) + count(0) == other + 2 + mine + 1 + 1);
    check!(one, "to one of both by lowest priority");
    write(reg::TPR, 0xf0);
    let (mine, other) = (count(0), count(1));
    for _ in 0..5 {
        let before = count(1);
        send(3, 1 << 11 | 1 << 8 | 0x69);
        if !wait(|| count(1) != before) {
            break;
        }
    }
    check_eq!(
        (count(0) - mine, count(1) - other),
        (0, 5),
        "which is the one whose priority is lower"
    );
    write(reg::TPR, 0);
}

/// Two NMIs that come at the same time are two: one is served, the other held back (SDM vol. 3, 6.7.1).
fn nmis() {
    const ROUNDS: u64 = 500;
    fn other() {
        for round in 1..=ROUNDS {
            while TURN.load(SeqCst) < round {
                core::hint::spin_loop()
            }
            send(0, 4 << 8);
        }
    }
    NMIS[0].store(0, SeqCst);
    TURN.store(0, SeqCst);
    let before = give(other);
    let mut lost = false;
    for round in 1..=ROUNDS {
        TURN.store(round, SeqCst);
        send(0, 4 << 8);
        let start = rdtsc();
        while u64::from(NMIS[0].load(SeqCst)) < 2 * round && !lost {
            lost = rdtsc().wrapping_sub(start) > 5_000_000_000;
        }
    }
    finished(before);
    check!(!lost, "of two NMIs at the same time none is lost");
    TURN.store(0, SeqCst);
}

const ROUNDS: u64 = 20_000;
static COUNTER: AtomicU64 = AtomicU64::new(0);
static SPLIT: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

fn locked_increments() {
    // The second one straddles two cache lines.
    let split = &raw const SPLIT as u64;
    let split = (split + 63 & !63) + 60;
    for _ in 0..ROUNDS {
        unsafe {
            asm!("lock inc qword ptr [{}]", in(reg) &COUNTER);
            asm!("lock add qword ptr [{}], 1", in(reg) split);
        }
    }
}

fn exchanges() {
    let at = &raw const PAIR as u64;
    for _ in 0..ROUNDS {
        unsafe {
            asm!(
                "xchg rbx, {n}",
                "mov rax, [{at}]",
                "mov rdx, [{at} + 8]",
                "724:",
                "mov rbx, rax",
                "mov rcx, rdx",
                "add rbx, 1",
                "add rcx, 3",
                "lock cmpxchg16b [{at}]",
                "jnz 724b",
                "xchg rbx, {n}",
                n = inout(reg) 0u64 => _, at = in(reg) at,
                out("rax") _, out("rdx") _, out("rcx") _
            );
        }
    }
}

#[repr(C, align(16))]
struct Pair([AtomicU64; 2]);
static PAIR: Pair = Pair([AtomicU64::new(0), AtomicU64::new(0)]);

fn atomics() {
    let before = give(locked_increments);
    locked_increments();
    check!(finished(before), "both have counted");
    check_eq!(COUNTER.load(SeqCst), 2 * ROUNDS, "locked increments");
    let split = (&raw const SPLIT as u64 + 63 & !63) + 60;
    check_eq!(unsafe { (split as *const u64).read_unaligned() }, 2 * ROUNDS, "across cache lines");
    let before = give(exchanges);
    exchanges();
    check!(finished(before), "both have exchanged");
    check_eq!(PAIR.0[0].load(SeqCst), 2 * ROUNDS, "CMPXCHG16B: the lower half");
    check_eq!(PAIR.0[1].load(SeqCst), 6 * ROUNDS, "CMPXCHG16B: the upper half");
}

static X: AtomicU64 = AtomicU64::new(0);
static Y: AtomicU64 = AtomicU64::new(0);
static R: AtomicU64 = AtomicU64::new(0);
static TURN: AtomicU64 = AtomicU64::new(0);
const TURNS: u64 = 1000;

/// Dekker's pattern: each stores to its own word, fences, and loads the other's.
fn order() {
    fn other() {
        for turn in 1..=TURNS {
            while TURN.load(Acquire) != 2 * turn - 1 {
                core::hint::spin_loop()
            }
            Y.store(turn, Relaxed);
            unsafe { asm!("mfence") };
            R.store(X.load(Relaxed), Relaxed);
            TURN.store(2 * turn, Release);
        }
    }
    let before = give(other);
    let mut wrong = 0;
    for turn in 1..=TURNS {
        TURN.store(2 * turn - 1, Release);
        X.store(turn, Relaxed);
        unsafe { asm!("mfence") };
        let seen = Y.load(Relaxed);
        while TURN.load(Acquire) != 2 * turn {
            core::hint::spin_loop()
        }
        if seen != turn && R.load(Relaxed) != turn {
            wrong += 1;
        }
    }
    finished(before);
    check_eq!(wrong, 0, "one of two that store and load behind a fence sees the other");
    // Messages: what was stored before the flag is there when the flag is.
    fn reader() {
        let mut wrong = 0;
        loop {
            let flag = Y.load(Relaxed);
            let data = X.load(Relaxed);
            if data < flag {
                wrong += 1;
            }
            if flag >= 1_000_000 + TURNS {
                break;
            }
        }
        R.store(wrong, SeqCst);
    }
    X.store(1_000_000, SeqCst);
    Y.store(1_000_000, SeqCst);
    let before = give(reader);
    for turn in 1..=TURNS {
        X.store(1_000_000 + turn, Relaxed);
        Y.store(1_000_000 + turn, Relaxed);
    }
    finished(before);
    check_eq!(R.load(SeqCst), 0, "stores are seen in their order");
}

fn shootdown() {
    unsafe {
        (DATA as *mut u64).write_volatile(1);
        ((DATA + 0x1000) as *mut u64).write_volatile(2);
    }
    map(Size::Small, P | W | U, P | W | U);
    fn look() {
        SEEN.store(unsafe { (T as *const u64).read_volatile() }, SeqCst);
    }
    finished(give(look));
    check_eq!(SEEN.load(SeqCst), 1, "the other sees a mapping");
    unsafe { paging::entry(1, 0).write_volatile(DATA + 0x1000 | P | W | U) };
    let before = count(1);
    send(1, 0xe0);
    check!(wait(|| count(1) != before), "it is told of a change");
    finished(give(look));
    check_eq!(SEEN.load(SeqCst), 2, "and sees it");
    // Code that the other has executed is changed.
    static mut CODE: [u8; 16] = [0xb8, 1, 0, 0, 0, 0xc3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fn execute() {
        let value: u64;
        unsafe { asm!("call {}", in(reg) addr_of_mut!(CODE), out("rax") value) };
        SEEN.store(value, SeqCst);
    }
    finished(give(execute));
    check_eq!(SEEN.load(SeqCst), 1, "the other executes code");
    unsafe { addr_of_mut!(CODE[1]).write_volatile(7) };
    finished(give(execute));
    check_eq!(SEEN.load(SeqCst), 7, "and the changed code");
}

fn again() {
    finished(give(|| cpu::set_cr2(0x1234)));
    check!(start_up(), "it can be started again");
    let before = give(|| SEEN.store(cpu::cr2(), SeqCst));
    check!(finished(before), "and works");
    check_eq!(SEEN.load(SeqCst), 0, "INIT has reset it");
    let _ = (sel::CODE64, trap::FINE);
}
