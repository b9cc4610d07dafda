//! Memory operands that are a device's: every kind of instruction does with the memory of pc-testdev
//! what it does with RAM, within a page, across pages, and across the border between the two.

use crate::cpu::{self, cr4, feature, invlpg, outl, set_cr4};
use crate::paging::{self, DATA, P, Size, T, U, W, map};
use crate::trap::{self, Frame, enter};

/// Memory of pc-testdev, reached like a device's registers.
const DEVICE: u64 = 0xff00_0000;
/// A port of pc-testdev that holds what is written.
const PORT: u16 = 0xe0;
const PAGE: u64 = 0x1000;

/// Bytes around the operand that are compared: so many before it, and all in all.
const BEFORE: usize = 32;
const COMPARED: usize = 640;

/// What a piece of code left behind.
#[derive(Clone, Copy, PartialEq)]
struct Left {
    /// RAX, RCX, RDX, RSI and RDI, the last two from the operand.
    registers: [u64; 5],
    flags: u64,
    fault: (u64, u64),
    memory: [u8; COMPARED],
}

/// A piece of code by name. It finds the operand at RBX and RDI, RAM at RSI, and small numbers in RAX,
/// RCX and RDX.
struct Piece {
    name: &'static str,
    code: &'static [u8],
    /// KVM emulates it as well.
    common: bool,
}

fn contents(i: usize) -> u8 {
    (i as u8).wrapping_mul(37) ^ 0x5a
}

/// Runs `code` on the operand at `place`.
fn run_at(code: &[u8], place: u64) -> Left {
    let first = (place - BEFORE as u64) as *mut u8;
    outl(PORT, 0x8877_6655);
    for i in 0..COMPARED {
        unsafe { first.add(i).write_volatile(contents(i)) };
    }
    let mut frame: Frame = trap::kernel_frame(code.as_ptr() as u64);
    (frame.rax, frame.rcx, frame.rdx) = (0x1234_5678_9abc_def0, 5, 3);
    (frame.rbx, frame.rdi, frame.rsi) = (place, place, SOURCE + 0x40);
    for i in 0..0x400 {
        unsafe { ((SOURCE + i) as *mut u8).write_volatile(contents(7 * i as usize)) };
    }
    let done = enter(&frame);
    let f = &done.frame;
    // In some, RSI goes through the operand as well.
    let rsi = if f.rsi.wrapping_sub(place) < PAGE { f.rsi - place } else { f.rsi };
    let mut memory = [0; COMPARED];
    for (i, byte) in memory.iter_mut().enumerate() {
        *byte = unsafe { first.add(i).read_volatile() };
    }
    Left {
        registers: [f.rax, f.rcx, f.rdx, rsi, f.rdi.wrapping_sub(place)],
        flags: f.rflags,
        fault: done.what(),
        memory,
    }
}

/// RAM that string instructions read.
const SOURCE: u64 = DATA + 0x8000;

macro_rules! pieces {
    ($($common:literal $name:literal: $($line:literal),+;)*) => {
        [$(Piece { name: $name, common: $common, code: code!(64, $($line,)+ "int 0x80") }),*]
    };
}

/// What a general instruction leaves in XMM registers has to be moved to where it is seen.
fn general() -> impl IntoIterator<Item = Piece> {
    pieces! {
        true "MOV from": "mov al, [rbx]", "mov cx, [rbx]", "mov edx, [rbx + 3]";
        true "MOV from a quadword": "mov rax, [rbx]";
        true "MOV to": "mov [rbx], al", "mov [rbx + 1], cx", "mov [rbx + 5], edx";
        true "MOV to a quadword": "mov [rbx], rax";
        true "MOV of an immediate": "mov byte ptr [rbx], 0x7f", "mov word ptr [rbx + 2], 0x1234",
            "mov dword ptr [rbx + 4], 0x12345678", "mov qword ptr [rbx + 8], -2";
        true "MOVZX": "movzx eax, byte ptr [rbx]", "movzx ecx, word ptr [rbx + 1]";
        true "MOVSX": "movsx rax, byte ptr [rbx]", "movsx ecx, word ptr [rbx + 1]",
            "movsxd rdx, dword ptr [rbx + 4]";
        true "XCHG": "xchg [rbx], al", "xchg [rbx + 2], rdx";
        true "ADD": "add [rbx], rax", "add al, [rbx]", "add dword ptr [rbx + 8], 0x12345678";
        true "OR": "or [rbx], ax", "or rcx, [rbx]", "or byte ptr [rbx], 8";
        true "ADC": "stc", "adc [rbx], eax", "adc rcx, [rbx]";
        true "SBB": "stc", "sbb [rbx], rax", "sbb ecx, [rbx]";
        true "AND": "and [rbx], rax", "and cx, [rbx]", "and byte ptr [rbx], 0x3c";
        true "SUB": "sub [rbx], rax", "sub cl, [rbx]", "sub word ptr [rbx], -3";
        true "XOR": "xor [rbx], rax", "xor rcx, [rbx]";
        true "CMP": "cmp [rbx], rax", "sete cl", "cmp edx, [rbx]", "setc dl";
        true "CMP with an immediate": "cmp byte ptr [rbx], 0x5a";
        true "TEST": "test [rbx], rax";
        true "INC and DEC": "inc byte ptr [rbx]", "dec dword ptr [rbx + 4]";
        true "NOT and NEG": "not qword ptr [rbx]", "neg word ptr [rbx + 8]";
        true "LOCK ADD": "lock add [rbx], rax";
        true "LOCK INC": "lock inc dword ptr [rbx]";
        true "SHL": "shl qword ptr [rbx], cl", "setc dl", "test eax, eax";
        true "SAR": "sar dword ptr [rbx], 1", "setc dl", "test eax, eax";
        true "ROL": "rol word ptr [rbx], 3", "setc dl", "test eax, eax";
        true "RCR": "stc", "rcr byte ptr [rbx], cl", "setc dl", "test eax, eax";
        true "SHLD": "shld [rbx], rax, cl", "setc dl", "test eax, eax";
        true "SHRD": "shrd [rbx], eax, 7", "setc dl", "test eax, eax";
        true "IMUL": "imul rdx, [rbx]", "imul eax, [rbx + 8], 1000", "setc cl", "test eax, eax";
        true "MUL": "mul qword ptr [rbx]", "setc cl", "test eax, eax";
        true "DIV": "mov byte ptr [rbx + 3], 0x77", "div dword ptr [rbx]", "test eax, eax";
        true "IDIV": "mov byte ptr [rbx + 7], 0x37", "idiv qword ptr [rbx]", "test eax, eax";
        true "DIV by zero": "mov word ptr [rbx], 0", "div word ptr [rbx]";
        true "BT beyond the operand": "mov eax, 100", "bt [rbx], eax", "setc cl";
        true "BTS before the operand": "mov rax, -37", "bts [rbx], rax";
        true "BTC of an immediate": "btc dword ptr [rbx], 17";
        true "LOCK BTR": "lock btr [rbx], rcx";
        true "BSF and BSR": "bsf rax, [rbx]", "bsr ecx, [rbx]", "setz dl", "test eax, eax";
        true "SETcc": "stc", "setc [rbx]", "setnc [rbx + 1]";
        true "CMOVcc that moves": "stc", "cmovc rax, [rbx]";
        true "CMOVcc that does not": "clc", "cmovc eax, [rbx]";
        true "CMPXCHG that differs": "cmpxchg [rbx], rdx";
        true "CMPXCHG that is equal": "mov eax, [rbx]", "lock cmpxchg [rbx], edx";
        true "CMPXCHG8B": "mov eax, [rbx]", "mov edx, [rbx + 4]", "mov rsi, rbx",
            "mov ebx, 0x11112222", "lock cmpxchg8b [rsi]";
        true "XADD": "xadd [rbx], rax", "lock xadd [rbx + 8], cl";
        true "PUSH": "push qword ptr [rbx]", "pop rax";
        true "PUSH of a word": "push word ptr [rbx]", "pop ax";
        true "POP": "push rax", "pop qword ptr [rbx]";
        false "a stack": "mov rsi, rsp", "lea rsp, [rbx + 16]", "push rax", "push 77", "pop rcx",
            "mov rsp, rsi";
        true "an indirect jump": "lea rax, [rip + 2f]", "mov [rbx], rax", "jmp [rbx]", "ud2", "2: mov [rbx], ecx",
            "xor eax, eax";
        true "LODS": "mov rsi, rbx", "lodsb", "lodsq";
        true "STOS": "rep stosb", "stosq";
        true "MOVS to": "rep movsb", "movsq";
        true "MOVS from": "xchg rsi, rdi", "mov rdx, rdi", "rep movsw", "mov rsi, [rdx]", "mov rdi, rbx";
        true "MOVS within": "mov rsi, rdi", "add rdi, 3", "rep movsb";
        true "MOVS backwards": "mov rsi, rdi", "add rdi, 16", "std", "rep movsd", "cld";
        true "SCAS": "mov al, [rbx + 3]", "repne scasb";
        true "CMPS": "mov rsi, rdi", "repe cmpsw", "cmpsb";
        true "INS": "mov edx, 0xe0", "rep insb", "insd";
        true "OUTS": "mov edx, 0xe0", "mov rsi, rbx", "mov ecx, 2", "rep outsd", "in eax, dx";
        true "SLDT and STR": "sldt [rbx]", "str [rbx + 2]";
        true "SMSW": "smsw [rbx]";
        true "SGDT": "sgdt [rbx]";
        true "LMSW": "mov word ptr [rbx], 0x33", "lmsw [rbx]", "smsw ax", "xor eax, eax";
        true "MOV of segments": "mov [rbx], ss", "mov es, [rbx]", "mov [rbx + 2], es";
        false "LAR": "mov word ptr [rbx], 8", "lar eax, [rbx]";
        false "MOVBE": "movbe [rbx], rax", "movbe ecx, [rbx + 3]";
        false "XLAT": "mov al, 4", "xlatb";
        false "MOVNTI": "movnti [rbx], rax";
        true "CLFLUSH": "clflush [rbx]";
        true "PREFETCH": "prefetcht0 [rbx]";
    }
}

fn floating() -> impl IntoIterator<Item = Piece> {
    pieces! {
        false "FLD and FSTP of a single": "fninit", "fld dword ptr [rbx]", "fstp dword ptr [rbx + 8]";
        false "FLD and FSTP of a double": "fninit", "fld qword ptr [rbx]", "fstp qword ptr [rbx + 12]";
        false "FLD and FSTP of an extended": "fninit", "fld tbyte ptr [rbx]", "fstp tbyte ptr [rbx + 12]";
        false "FILD and FISTP": "fninit", "fild word ptr [rbx]", "fiadd dword ptr [rbx + 2]",
            "fistp qword ptr [rbx + 8]";
        false "FBLD and FBSTP": "fninit", "fld1", "fbstp [rbx]", "fbld [rbx]", "fistp dword ptr [rbx + 16]";
        false "FADD": "fninit", "fld1", "fadd dword ptr [rbx]", "fstp qword ptr [rbx + 8]";
        false "FNSTCW and FLDCW": "fninit", "fnstcw [rbx]", "fldcw [rbx]", "fnstsw [rbx + 2]";
        false "FNSTENV": "fninit", "fnstenv [rbx]";
        false "FXSAVE": "fninit", "fld1", "mov rsi, rbx", "add rsi, 15", "and rsi, -16", "fxsave [rsi]",
            "fxrstor [rsi]", "fstp qword ptr [rbx]", "xor esi, esi", "mov word ptr [rbx + 6], 0";
        false "LDMXCSR and STMXCSR": "stmxcsr [rbx]", "ldmxcsr [rbx]";
        false "MOVQ of MMX": "movq mm0, [rbx]", "paddb mm0, [rbx + 8]", "movq [rbx], mm0", "emms";
        false "MASKMOVQ": "movq mm0, rax", "maskmovq mm0, mm0", "emms";
        true "MOVUPS": "movups xmm0, [rbx]", "movups [rbx + 17], xmm0";
        true "MOVAPS": "movaps xmm0, [rbx]", "movaps [rbx + 16], xmm0";
        true "MOVDQU": "movdqu xmm0, [rbx + 1]", "movdqu [rbx], xmm0";
        true "MOVDQA": "movdqa xmm1, [rbx]", "movdqa [rbx + 32], xmm1";
        true "MOVUPD": "movupd xmm1, [rbx]", "movupd [rbx + 8], xmm1";
        false "MOVNTPS": "movups xmm0, [rbx + 8]", "movntps [rbx], xmm0";
        false "MOVNTDQ": "movups xmm0, [rbx + 8]", "movntdq [rbx], xmm0";
        false "LDDQU": "lddqu xmm0, [rbx]", "movq rax, xmm0";
        false "MOVD and MOVQ": "movd xmm0, dword ptr [rbx]", "movq xmm1, qword ptr [rbx + 4]",
            "movd dword ptr [rbx + 12], xmm1", "movq qword ptr [rbx + 16], xmm0";
        false "MOVSS and MOVSD": "movss xmm0, [rbx]", "movsd xmm1, [rbx + 4]", "movss [rbx + 16], xmm1",
            "movsd [rbx + 20], xmm0";
        false "MOVLPS and MOVHPS": "xorps xmm0, xmm0", "movlps xmm0, [rbx]", "movhps xmm0, [rbx + 9]",
            "movhps [rbx], xmm0", "movlps [rbx + 8], xmm0";
        false "PADDD": "movups xmm0, [rbx]", "paddd xmm0, [rbx]", "movups [rbx], xmm0";
        false "PSHUFB": "movups xmm0, [rbx]", "pshufb xmm0, [rbx]", "movq rax, xmm0";
        false "MULSD": "movsd xmm0, [rbx]", "mulsd xmm0, [rbx + 8]", "movq rax, xmm0";
        false "CVTSI2SD": "cvtsi2sd xmm0, dword ptr [rbx]", "movq rax, xmm0";
        false "CVTDQ2PD": "cvtdq2pd xmm0, [rbx]", "movups [rbx], xmm0";
        false "UCOMISS": "ucomiss xmm0, [rbx]";
        false "PINSRW and PEXTRW": "pinsrw xmm0, [rbx], 3", "pextrw [rbx + 4], xmm0, 3";
        false "PEXTRQ": "movups xmm0, [rbx]", "pextrq [rbx + 3], xmm0, 1", "pextrb [rbx], xmm0, 5";
        false "PTEST": "movups xmm0, [rbx]", "ptest xmm0, [rbx]";
        false "MASKMOVDQU": "movups xmm0, [rsi]", "movups xmm1, [rsi + 16]", "maskmovdqu xmm0, xmm1";
        false "CRC32": "crc32 eax, dword ptr [rbx]", "crc32 rcx, qword ptr [rbx + 4]";
        false "POPCNT": "popcnt rax, [rbx]";
        false "CMPXCHG16B": "mov rsi, rbx", "add rsi, 15", "and rsi, -16", "mov rax, [rsi]",
            "mov rdx, [rsi + 8]", "mov rbx, 5", "lock cmpxchg16b [rsi]", "xor esi, esi";
    }
}

fn vectors() -> impl IntoIterator<Item = Piece> {
    pieces! {
        false "VMOVUPS": "vmovups ymm0, [rbx]", "vmovups [rbx + 33], ymm0";
        false "VMOVAPS": "vmovaps ymm0, [rbx]", "vmovaps [rbx + 32], ymm0";
        false "VADDPS": "vmovups ymm0, [rsi]", "vpaddb ymm0, ymm0, [rbx]", "vmovups [rbx], ymm0";
        false "VBROADCASTSS": "vbroadcastss ymm0, dword ptr [rbx]", "vmovups [rbx + 8], ymm0";
        false "VMASKMOVPS": "vmovups ymm1, [rsi]", "vmaskmovps ymm0, ymm1, [rbx]", "vmovups [rsi], ymm0",
            "vmaskmovps [rbx], ymm1, ymm1", "mov rax, [rsi]";
        false "VPGATHERDD": "vpxor ymm1, ymm1, ymm1", "vpcmpeqd ymm2, ymm2, ymm2", "vpsrld ymm1, ymm2, 27",
            "vpgatherdd ymm0, [rbx + ymm1], ymm2", "vmovups [rbx], ymm0";
        false "VEXTRACTI128": "vmovups ymm0, [rsi]", "vextracti128 [rbx], ymm0, 1";
        false "XSAVE": "mov rsi, rbx", "add rsi, 63", "and rsi, -64", "mov eax, 3", "xor edx, edx", "fninit",
            "xorps xmm1, xmm1",
            "mov ecx, 64", "lea rdi, [rsi + 512]", "push rax", "xor eax, eax", "rep stosb", "pop rax",
            "xsave [rsi]", "xrstor [rsi]", "xor esi, esi", "mov rdi, rbx";
    }
}

/// Two pages at `T`, then one at `T + 2 * PAGE` for what lies behind.
fn map_pages(pages: [u64; 3]) {
    map(Size::Small, P | W | U, P | W | U);
    for (i, page) in (0..).zip(pages) {
        unsafe { paging::entry(1, i).write_volatile(page | P | W | U) };
        invlpg(T + i * PAGE);
    }
}

pub fn run() {
    let on_kvm = cpu::cpuid(0x4000_0000, 0)[1] == u32::from_le_bytes(*b"KVMK");
    set_cr4(cpu::cr4() | cr4::OSFXSR);
    let ram = [DATA, DATA + PAGE, DATA + 2 * PAGE];
    let device = [DEVICE, DEVICE + PAGE, DEVICE + 2 * PAGE];
    let places: [(&str, [u64; 3], u64); 6] = [
        ("device", device, 0x100),
        ("device, unaligned", device, 0x103),
        ("device, across pages", device, PAGE - 3),
        ("device, other pages", [DEVICE + 5 * PAGE, DEVICE, DEVICE + 2 * PAGE], PAGE - 7),
        ("RAM, then device", [DATA, DEVICE, DEVICE + PAGE], PAGE - 3),
        ("device, then RAM", [DEVICE, DATA, DATA + PAGE], PAGE - 5),
    ];
    let compare = |piece: &Piece| {
        if on_kvm && !piece.common {
            return;
        }
        for (name, pages, offset) in places {
            // KVM refuses the one or the other across pages.
            if on_kvm && offset > 0x103 {
                continue;
            }
            map_pages(ram);
            let want = run_at(piece.code, T + offset);
            map_pages(pages);
            let got = run_at(piece.code, T + offset);
            let differs = got.memory.iter().zip(want.memory).position(|(a, b)| *a != b);
            crate::tap::report(
                format_args!("{}: {name}", piece.name),
                got == want,
                format_args!(
                    "{:x?} {:x} {:x?}, not {:x?} {:x} {:x?}; memory {differs:?}",
                    got.registers, got.flags, got.fault, want.registers, want.flags, want.fault
                ),
            );
        }
    };
    general().into_iter().for_each(|piece| compare(&piece));
    floating().into_iter().for_each(|piece| compare(&piece));
    if feature::XSAVE.offered() && feature::AVX.offered() {
        set_cr4(cpu::cr4() | cr4::OSXSAVE);
        unsafe { core::arch::asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0) };
        vectors().into_iter().for_each(|piece| compare(&piece));
    }
    tables();
}

/// Tables and the task register, loaded from a device.
fn tables() {
    map_pages([DEVICE, DEVICE + PAGE, DEVICE + 2 * PAGE]);
    let selector = crate::boot::sel::FREE + 0x40;
    trap::set_descriptor(selector, trap::segment(0x1_0000, 0xff, 0x82));
    trap::set_descriptor(selector + 8, 0);
    let at = T + PAGE - 1;
    unsafe {
        (at as *mut u16).write_unaligned(selector);
        let loaded: u16;
        core::arch::asm!("lldt [{0}]", "sldt {1:x}", in(reg) at, out(reg) loaded);
        check_eq!(loaded, selector, "LLDT");
        core::arch::asm!("lldt {0:x}", in(reg) 0);
        let tss = crate::boot::sel::TSS64;
        trap::set_descriptor(tss, trap::descriptor(tss) & !(2 << 40));
        (at as *mut u16).write_unaligned(tss);
        let task: u16;
        core::arch::asm!("ltr [{0}]", "str {1:x}", in(reg) at, out(reg) task);
        check_eq!(task, tss, "LTR");
        check!(trap::descriptor(tss) >> 41 & 1 == 1, "LTR: the descriptor is busy");
        core::arch::asm!("sgdt [{0}]", "lgdt [{0}]", "sidt [{0}]", "lidt [{0}]", in(reg) at - 4);
    }
    check!(true, "LGDT and LIDT");
}
