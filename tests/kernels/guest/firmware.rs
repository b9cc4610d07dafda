//! What a kernel finds that was loaded by the Multiboot protocol on a PC: registers, memory map,
//! modules, ACPI tables and the machine's configuration device; and suspend to RAM.

use crate::cpu::{self, inb, inl, inw, msr, outb, outl, outw, rdmsr};
use crate::trap;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The module that comes with the kernel.
const MODULE: &[u8] = b"NR_CPUS=2\nMACHINE=pc\n";

fn at<T: Copy>(address: u64) -> T {
    unsafe { (address as *const T).read_unaligned() }
}

fn bytes(address: u64, len: usize) -> &'static [u8] {
    unsafe { core::slice::from_raw_parts(address as *const u8, len) }
}

pub fn boot() {
    check_eq!(crate::magic(), 0x2bad_b002, "EAX holds the loader's magic number");
    let information = crate::information();
    let flags: u32 = at(information);
    check_eq!(
        flags & 0x24d,
        0x24d,
        "memory, command line, modules, memory map and loader are told"
    );
    check_eq!(at::<u32>(information + 4), 639, "KiB of lower memory");
    check!(at::<u32>(information + 8) > 100 << 10, "KiB of upper memory");
    memory_map(at::<u32>(information + 48).into(), at::<u32>(information + 44).into());
    check_eq!(at::<u32>(information + 20), 1, "there is one module");
    let module = u64::from(at::<u32>(information + 24));
    let (start, end): (u32, u32) = (at(module), at(module + 4));
    let text = bytes(start.into(), (end - start) as usize);
    check!(text == MODULE, "which is what was given");
    check_eq!(start & 0xfff, 0, "at the beginning of a page");
    check!(at::<u32>(module + 8) != 0, "and has a name");
    configuration();
    tables();
}

fn memory_map(mut entry: u64, len: u64) {
    let end = entry + len;
    let mut usable = 0;
    let mut top = 0;
    while entry < end {
        let (base, len, kind): (u64, u64, u32) = (at(entry + 4), at(entry + 12), at(entry + 20));
        if kind == 1 {
            usable += len;
            if base == 0x10_0000 {
                top = base + len;
            }
        }
        entry += u64::from(at::<u32>(entry)) + 4;
    }
    check!(top > 0x700_0000, "memory goes on from 1 MiB");
    check!(usable > 0x780_0000 && usable <= 0x800_0000, "nearly all of it is usable");
}

/// An item of the configuration device.
fn configured<const N: usize>(key: u16) -> [u8; N] {
    outw(0x510, key);
    core::array::from_fn(|_| inb(0x511))
}

fn configuration() {
    check!(configured(0) == *b"QEMU", "the configuration device is there");
    check_eq!(u32::from_le_bytes(configured(1)) & 1, 1, "and has the ordinary interface");
    check_eq!(u64::from_le_bytes(configured(3)), 128 << 20, "memory size");
    check_eq!(u16::from_le_bytes(configured(5)), 2, "number of processors");
    check!(u16::from_le_bytes(configured(0xf)) >= 2, "the most there may be");
}

fn sum(address: u64, len: usize) -> u8 {
    bytes(address, len).iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
}

/// The table with a signature, by way of the RSDP in the BIOS area.
fn find_table(signature: &[u8; 4]) -> Option<u64> {
    let rsdp = (0xe_0000..0x10_0000)
        .step_by(16)
        .find(|place| bytes(*place, 8) == b"RSD PTR " && sum(*place, 20) == 0)?;
    let root = u64::from(at::<u32>(rsdp + 16));
    let count = (at::<u32>(root + 4) - 36) / 4;
    (0..count)
        .map(|index| u64::from(at::<u32>(root + 36 + 4 * u64::from(index))))
        .find(|table| bytes(*table, 4) == signature)
}

fn tables() {
    for name in [b"FACP", b"APIC", b"HPET"] {
        let shown = core::str::from_utf8(name).unwrap_or("");
        let Some(table) = find_table(name) else {
            check!(false, "there is {shown}");
            continue;
        };
        check_eq!(sum(table, at::<u32>(table + 4) as usize), 0, "checksum of {shown}");
    }
    let Some(facp) = find_table(b"FACP") else { return };
    let facs = u64::from(at::<u32>(facp + 36));
    check!(bytes(facs, 4) == b"FACS", "the FACP leads to the FACS");
    check_eq!(facs & 63, 0, "which is aligned to 64 bytes");
    let timer: u32 = at(facp + 76);
    let before = inl(timer as u16);
    let start = cpu::rdtsc();
    while cpu::rdtsc() - start < 20_000_000 {}
    let passed = inl(timer as u16).wrapping_sub(before) & 0xff_ffff;
    check!(passed > 10_000, "the power-management timer counts");
    let Some(apic) = find_table(b"APIC") else { return };
    let (mut entry, end) = (apic + 44, apic + u64::from(at::<u32>(apic + 4)));
    let mut processors = 0;
    while entry < end {
        if at::<u8>(entry) == 0 && at::<u32>(entry + 4) & 1 != 0 {
            processors += 1;
        }
        entry += u64::from(at::<u8>(entry + 1));
    }
    check_eq!(processors, 2, "processors in the MADT");
}

const WAKE: u64 = 0x9000;
/// What is in memory before, in the middle of it and at its end.
static mut KEPT: [u64; 512] = [0; 512];
static SLEEPS: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
static mut SLEEP_RSP: u64 = 0;
/// What the waking code found: CR0, and CS.
#[unsafe(no_mangle)]
static mut WOKEN: [u32; 2] = [0; 2];

global_asm!(
    r#"
    .globl wake_blob
    .code16
wake_blob:
    cli
    mov ecx, cr0
    mov bx, cs
    xor ax, ax
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16
    .word (wake_gdt_pointer - wake_blob) + 0x9000
    mov eax, ecx
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long wake_protected
    .word 0x18
wake_gdt_pointer:
    .word 64 * 8 - 1
    .long GDT
    .globl wake_blob_end
wake_blob_end:
    .code32
wake_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov [WOKEN], ecx
    movzx ebx, bx
    mov [WOKEN + 4], ebx
    mov esp, offset LEGACY_STACK + 16384
    mov eax, offset PML4
    mov edx, 0x620
    mov ebp, offset wake_long
    jmp enter_long
    .code64
wake_long:
    mov rsp, [SLEEP_RSP]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

    // go_to_sleep(port, value): writes the sleep type, and comes back when the machine wakes.
    .globl go_to_sleep
go_to_sleep:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [SLEEP_RSP], rsp
    mov edx, edi
    mov eax, esi
    out dx, ax
2:  hlt
    jmp 2b
"#
);

unsafe extern "C" {
    static wake_blob: u8;
    static wake_blob_end: u8;
    fn go_to_sleep(port: u16, value: u16);
}

fn rtc(register: u8) -> u8 {
    outb(0x70, register);
    inb(0x71)
}

fn set_rtc(register: u8, value: u8) {
    outb(0x70, register);
    outb(0x71, value);
}

/// An alarm every second.
fn set_alarm() {
    for register in [1, 3, 5] {
        set_rtc(register, 0xff);
    }
    rtc(0xc);
    set_rtc(0xb, rtc(0xb) | 0x20);
}

pub fn sleep() {
    let Some(facp) = find_table(b"FACP") else {
        check!(false, "there is FACP");
        return;
    };
    let facs = u64::from(at::<u32>(facp + 36));
    let (events, control): (u32, u32) = (at(facp + 56), at(facp + 64));
    let len = unsafe { (&raw const wake_blob_end).offset_from(&raw const wake_blob) } as usize;
    unsafe {
        let code = core::slice::from_raw_parts(&raw const wake_blob, len);
        core::slice::from_raw_parts_mut(WAKE as *mut u8, len).copy_from_slice(code);
        for (i, word) in (*(&raw mut KEPT)).iter_mut().enumerate() {
            *word = 0x0123_4567_89ab_cdef_u64.rotate_left(i as u32);
        }
    }
    for turn in 1..=2 {
        unsafe { ((facs + 12) as *mut u32).write_volatile(WAKE as u32) };
        // Events that are over, and the clock's may wake.
        outw(events as u16, 0xffff);
        outw(events as u16 + 2, 1 << 10);
        set_alarm();
        SLEEPS.fetch_add(1, SeqCst);
        cpu::set_dr0(0x1234);
        unsafe { go_to_sleep(control as u16, 1 << 13 | 1 << 10) };
        trap::init();
        check_eq!(SLEEPS.load(SeqCst), turn, "slept and woke up: {turn}");
        let [cr0, cs] = unsafe { WOKEN };
        check_eq!(cr0 & 1 | cr0 & 1 << 31, 0, "woken in real mode: {turn}");
        check_eq!(cs, WAKE as u32 >> 4, "where the FACS says: {turn}");
        check_eq!(cpu::dr0(), 0, "the processor was reset: {turn}");
        let kept = unsafe { &*(&raw const KEPT) };
        let whole = kept
            .iter()
            .enumerate()
            .all(|(i, word)| *word == 0x0123_4567_89ab_cdef_u64.rotate_left(i as u32));
        check!(whole, "memory is as it was: {turn}");
        check_eq!(inw(events as u16) >> 15, 1, "the wake status is set: {turn}");
        check_eq!(inw(events as u16) >> 10 & 1, 1, "and that of the clock: {turn}");
        check_eq!(rdmsr(msr::APIC_BASE) >> 8 & 9, 9, "the boot processor's APIC is on: {turn}");
        check_eq!(u16::from_le_bytes(configured(5)), 2, "devices answer: {turn}");
        outl(0xe0, 0x1234_5678);
        check_eq!(inl(0xe0), 0x1234_5678, "whatever they are: {turn}");
    }
}
