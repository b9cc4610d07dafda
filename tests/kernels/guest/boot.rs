//! From the loader's 32-bit entry to 64-bit Rust, and the tables all modes share.

use core::arch::global_asm;

/// Selectors of the GDT below. Their order is what SYSRET wants: 32-bit code, stack, 64-bit code.
pub mod sel {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE32: u16 = 0x18;
    pub const CODE16: u16 = 0x20;
    pub const DATA16: u16 = 0x28;
    pub const USER_CODE32: u16 = 0x33;
    pub const USER_DATA: u16 = 0x3b;
    pub const USER_CODE64: u16 = 0x43;
    pub const TSS64: u16 = 0x48;
    pub const TSS32: u16 = 0x58;
    /// From here on the slots are the tests' own.
    pub const FREE: u16 = 0x60;
}

pub const GDT_ENTRIES: usize = 64;

#[repr(C, align(16))]
pub struct Gdt(pub [u64; GDT_ENTRIES]);

const fn gdt() -> Gdt {
    let mut table = [0; GDT_ENTRIES];
    table[1] = 0x00af_9b00_0000_ffff;
    table[2] = 0x00cf_9300_0000_ffff;
    table[3] = 0x00cf_9b00_0000_ffff;
    table[4] = 0x0000_9b00_0000_ffff;
    table[5] = 0x0000_9300_0000_ffff;
    table[6] = 0x00cf_fb00_0000_ffff;
    table[7] = 0x00cf_f300_0000_ffff;
    table[8] = 0x00af_fb00_0000_ffff;
    Gdt(table)
}

#[unsafe(no_mangle)]
pub static mut GDT: Gdt = gdt();

/// A page of page-table entries.
#[repr(C, align(4096))]
pub struct Table(pub [u64; 512]);

/// The identity map of the lowest 4 GiB, in 2 MiB pages.
#[unsafe(no_mangle)]
pub static mut PML4: Table = Table([0; 512]);
#[unsafe(no_mangle)]
pub static mut PDPT: Table = Table([0; 512]);
#[unsafe(no_mangle)]
pub static mut PDS: [Table; 4] = [const { Table([0; 512]) }; 4];

#[repr(C, align(16))]
pub struct Stack<const N: usize>(pub [u8; N]);
#[unsafe(no_mangle)]
pub static mut BOOT_STACK: Stack<65536> = Stack([0; 65536]);
#[unsafe(no_mangle)]
pub static mut LEGACY_STACK: Stack<16384> = Stack([0; 16384]);

global_asm!(
    r#"
    .section .multiboot, "a"
    .balign 4
multiboot_header:
    .long 0x1badb002, 0x00010003, -(0x1badb002 + 0x00010003)
    .long multiboot_header, image_start, image_end, bss_end, start

    .section .text.boot, "ax"
    .code32
    .globl start
start:
    cli
    cld
    mov esp, offset BOOT_STACK + 65536
    // Popped as one quadword.
    push eax
    push ebx
    // Everything writable and for supervisors; the regions for user code are set up later.
    mov dword ptr [PML4], offset PDPT + 7
    mov eax, offset PDS + 7
    mov edi, offset PDPT
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 2b
    mov eax, 0x83
    mov edi, offset PDS
    mov ecx, 2048
2:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 2b
    mov eax, offset PML4
    mov edx, 0x620
    mov ebp, offset boot_long
    jmp enter_long
    .code64
boot_long:
    pop rbx
    mov edi, ebx
    shr rbx, 32
    mov esi, ebx
    lea rsp, [rip + BOOT_STACK + 65536]
    xor ebp, ebp
    call rust_main
4:  hlt
    jmp 4b

    // From 32-bit code without paging to 64-bit code at EBP, with CR3 = EAX and CR4 = EDX.
    .code32
    .globl enter_long
enter_long:
    mov cr3, eax
    mov cr4, edx
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x901
    wrmsr
    lgdt [gdt_pointer]
    mov eax, 0x80010033
    mov cr0, eax
    mov eax, offset enter_long_code
    push 0x08
    push eax
    retf
    .code64
enter_long_code:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov ebp, ebp
    jmp rbp

    .balign 8
    .globl gdt_pointer
gdt_pointer:
    .word 64 * 8 - 1
    .quad GDT
"#
);

// The compiler calls these by name.

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    core::arch::asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _);
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        return memcpy(to, from, count);
    }
    core::arch::asm!("std", "rep movsb", "cld", inout("rcx") count => _,
        inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
        inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _);
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    core::arch::asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8);
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for i in 0..count {
        let (x, y) = (a.add(i).read_volatile(), b.add(i).read_volatile());
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    memcmp(a, b, count)
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    while text.add(len).read_volatile() != 0 {
        len += 1;
    }
    len
}

/// The precompiled core library names it; nothing here unwinds.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}
