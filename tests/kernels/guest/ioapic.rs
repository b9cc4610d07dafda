//! The I/O APIC (82093AA): edges and levels, masks, polarity, destinations, and the end of
//! interrupts. Its inputs are moved through pc-testdev.

use crate::apic::{self, breathe, read, reg, write};
use crate::cpu::{self, inb, outb};
use crate::trap::{Frame, set_handler};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

const BASE: u64 = 0xfec0_0000;
/// Inputs that no other chip drives.
const A: u8 = 14;
const B: u8 = 15;
const VECTOR: u64 = 0x77;

const LEVEL: u64 = 1 << 15;
const LOW: u64 = 1 << 13;
const MASKED: u64 = 1 << 16;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;

fn get(register: u8) -> u32 {
    unsafe {
        (BASE as *mut u32).write_volatile(register.into());
        ((BASE + 0x10) as *const u32).read_volatile()
    }
}
fn put(register: u8, value: u32) {
    unsafe {
        (BASE as *mut u32).write_volatile(register.into());
        ((BASE + 0x10) as *mut u32).write_volatile(value);
    }
}
fn entry(pin: u8) -> u64 {
    u64::from(get(0x11 + 2 * pin)) << 32 | u64::from(get(0x10 + 2 * pin))
}
fn set_entry(pin: u8, value: u64) {
    put(0x11 + 2 * pin, (value >> 32) as u32);
    put(0x10 + 2 * pin, value as u32);
}
fn line(pin: u8, level: bool) {
    outb(0x2000 + u16::from(pin), level.into());
}

static CAME: AtomicU64 = AtomicU64::new(0);
/// What the handler does before the end of the interrupt: 1 lowers the line, 2 masks the pin.
static ACTION: AtomicU32 = AtomicU32::new(0);
static ENTRY: AtomicU64 = AtomicU64::new(0);

fn came(frame: &mut Frame) {
    let _ = CAME.fetch_update(SeqCst, SeqCst, |order| Some(order << 8 | frame.vector));
    ENTRY.store(entry(A), SeqCst);
    match ACTION.load(SeqCst) {
        1 => line(A, false),
        2 => set_entry(A, entry(A) | MASKED),
        _ => {}
    }
    write(reg::EOI, 0);
}

fn seen() -> u64 {
    breathe();
    CAME.swap(0, SeqCst)
}

pub fn run() {
    outb(0xe0, 0x5a);
    if inb(0xe0) != 0x5a {
        return crate::tap::skip("no pc-testdev");
    }
    apic::prepare();
    for vector in 0x70..0x80 {
        set_handler(vector, Some(came));
    }
    let id = u64::from(read(reg::ID) >> 24) << 56;
    registers();
    edges(id);
    levels(id);
    destinations(id);
    coprocessor(id);
    set_entry(A, MASKED);
    set_entry(B, MASKED);
}

fn registers() {
    check_eq!(get(1) >> 16 & 0xff, 23, "24 inputs");
    check!(matches!(get(1) & 0xff, 0x11 | 0x20), "version 0x11 or 0x20");
    put(0, 0xf5ff_ffff);
    check_eq!(get(0), 0x0500_0000, "the ID holds four bits");
    check_eq!(
        get(2) & 0x0f00_0000,
        if get(1) & 0xff == 0x11 { get(2) } else { get(2) & 0x0f00_0000 },
        "the arbitration ID can be read"
    );
    put(0, 0);
    let version = get(1);
    put(1, !version);
    check_eq!(get(1), version, "the version is read-only");
    set_entry(A, !0);
    check_eq!(entry(A) & 0xff00_0000_0001_afff, 0xff00_0000_0001_afff, "an entry holds its bits");
    check_eq!(entry(A) & (REMOTE_IRR | 1 << 12), 0, "but for those that are read-only");
    set_entry(A, MASKED);
}

fn edges(id: u64) {
    set_entry(A, id | VECTOR);
    check_eq!(seen(), 0, "edge: nothing at first");
    line(A, true);
    check_eq!(seen(), VECTOR, "edge: a rise");
    check_eq!(seen(), 0, "edge: a level is none");
    line(A, true);
    check_eq!(seen(), 0, "edge: the same once more is none");
    line(A, false);
    check_eq!(seen(), 0, "edge: a fall is none");
    check_eq!(read(reg::TMR + 0x30) >> (VECTOR & 31) & 1, 0, "edge: TMR is clear");
    line(A, true);
    line(A, false);
    line(A, true);
    line(A, false);
    check_eq!(seen(), VECTOR, "edge: two before it is served are one");
    set_entry(A, id | VECTOR | MASKED);
    line(A, true);
    check_eq!(seen(), 0, "edge: masked");
    line(A, false);
    line(A, true);
    line(A, false);
    set_entry(A, id | VECTOR);
    check_eq!(seen(), 0, "edge: those while masked are lost");
    set_entry(A, id | 0x71);
    set_entry(B, id | 0x72);
    line(A, true);
    line(B, true);
    check_eq!(seen(), 0x7271, "edge: two inputs, the higher vector first");
    line(A, false);
    line(B, false);
    set_entry(B, MASKED);
}

fn levels(id: u64) {
    ACTION.store(1, SeqCst);
    set_entry(A, id | VECTOR | LEVEL);
    line(A, true);
    check_eq!(seen(), VECTOR, "level: high");
    check!(ENTRY.load(SeqCst) & REMOTE_IRR != 0, "level: remote IRR while it is served");
    check!(entry(A) & REMOTE_IRR == 0, "level: and not after");
    check_eq!(seen(), 0, "level: low again");
    check_eq!(read(reg::TMR + 0x30) >> (VECTOR & 31) & 1, 1, "level: TMR is set");
    // A line that stays up comes again after the end of the interrupt.
    static LEFT: AtomicU32 = AtomicU32::new(0);
    fn third_time(frame: &mut Frame) {
        if LEFT.fetch_sub(1, SeqCst) == 1 {
            line(A, false);
        }
        let _ = CAME.fetch_update(SeqCst, SeqCst, |order| Some(order << 8 | frame.vector));
        write(reg::EOI, 0);
    }
    set_handler(VECTOR, Some(third_time));
    LEFT.store(3, SeqCst);
    line(A, true);
    check_eq!(seen(), 0x777777, "level: again until it is low");
    set_handler(VECTOR, Some(came));
    // Raised while in service.
    set_entry(A, id | VECTOR | LEVEL | MASKED);
    line(A, true);
    check_eq!(seen(), 0, "level: masked");
    set_entry(A, id | VECTOR | LEVEL);
    check_eq!(seen(), VECTOR, "level: unmasked while it is high");
    line(A, true);
    line(A, false);
    check_eq!(seen(), VECTOR, "level: one that was accepted comes, though it is low by now");
    ACTION.store(2, SeqCst);
    line(A, true);
    check_eq!(seen(), VECTOR, "level: masked by its handler");
    check_eq!(seen(), 0, "level: comes no more");
    ACTION.store(1, SeqCst);
    set_entry(A, id | VECTOR | LEVEL);
    check_eq!(seen(), VECTOR, "level: and again when unmasked");
    // A change to edge while remote IRR is set clears it.
    ACTION.store(0, SeqCst);
    fn switch(frame: &mut Frame) {
        let old = entry(A);
        set_entry(A, old & !LEVEL);
        ENTRY.store(entry(A), SeqCst);
        set_entry(A, old);
        line(A, false);
        let _ = CAME.fetch_update(SeqCst, SeqCst, |order| Some(order << 8 | frame.vector));
        write(reg::EOI, 0);
    }
    set_handler(VECTOR, Some(switch));
    line(A, true);
    let vectors = seen();
    check!(vectors == VECTOR || vectors == 0x7777, "level: turned to edge and back");
    check!(ENTRY.load(SeqCst) & REMOTE_IRR == 0, "an edge has no remote IRR");
    set_handler(VECTOR, Some(came));
    ACTION.store(1, SeqCst);
    let _ = LOW;
    set_entry(A, MASKED);
}

fn destinations(id: u64) {
    ACTION.store(0, SeqCst);
    let pulse = || {
        line(A, true);
        line(A, false);
        seen()
    };
    set_entry(A, 0xff << 56 | VECTOR);
    check_eq!(pulse(), VECTOR, "to all");
    set_entry(A, (id ^ 0x0e << 56) | VECTOR);
    check_eq!(pulse(), 0, "to somebody else");
    write(reg::DFR, !0);
    write(reg::LDR, 0x0400_0000);
    set_entry(A, 0x04 << 56 | LOGICAL | VECTOR);
    check_eq!(pulse(), VECTOR, "by flat logical destination");
    set_entry(A, 0x08 << 56 | LOGICAL | VECTOR);
    check_eq!(pulse(), 0, "of somebody else");
    set_entry(A, 0x04 << 56 | LOGICAL | 1 << 8 | VECTOR);
    check_eq!(pulse(), VECTOR, "by lowest priority");
    set_entry(A, id | VECTOR);
    write(reg::TPR, 0x80);
    check_eq!(pulse(), 0, "held back by TPR");
    write(reg::TPR, 0);
    check_eq!(seen(), VECTOR, "and let in");
    write(reg::LDR, 0);
}

/// The way of the PC/AT: with CR0.NE clear, errors of the floating-point unit are an interrupt on
/// input 13, and a write to port 0xf0 makes it ignore them (SDM vol. 1, appendix D).
fn coprocessor(id: u64) {
    const INPUT: u8 = 13;
    set_handler(
        0x7d,
        Some(|frame| {
            came(frame);
            outb(0xf0, 0);
        }),
    );
    set_entry(INPUT, id | 0x7d);
    let old = cpu::cr0();
    cpu::set_cr0(old & !cpu::cr0::NE);
    let control: u16 = 0x37b;
    unsafe {
        asm!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", in(reg) &control);
        check_eq!(seen(), 0, "a floating-point error waits for the next instruction");
        asm!("sti", "fwait", "nop", "nop", "cli");
        check_eq!(CAME.swap(0, SeqCst), 0x7d, "and is an interrupt then");
        asm!("sti", "fwait", "nop", "fld1", "nop", "cli");
        check_eq!(seen(), 0, "that is ignored from then on");
        asm!("fnclex", "fninit");
    }
    cpu::set_cr0(old);
    set_entry(INPUT, MASKED);
}
