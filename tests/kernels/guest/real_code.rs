//! Real-mode code as boot loaders and DOS programs are made of it: what its instructions leave in
//! registers, where segments and privilege play no part and where they do (SDM vol. 3, chapter 21).

use crate::legacy::{Context, LOW, LOW_STACK, real, run_real};
use crate::trap::vector::*;

/// Runs code that must come to its end, and tells EAX, EBX, ECX and EDX.
fn gives(name: &str, code: &[u8], wanted: [u32; 4]) {
    let out = run_real(&real(code));
    check_eq!((out.what(), [out.eax, out.ebx, out.ecx, out.edx]), ((DONE, 0), wanted), "{name}");
}

/// The same, for the lower half of EAX alone.
fn leaves(name: &str, code: &[u8], wanted: u16) {
    let out = run_real(&real(code));
    check_eq!((out.what(), out.eax as u16), ((DONE, 0), wanted), "{name}");
}

pub fn run() {
    arithmetic();
    decimal();
    stack();
    addresses();
    far_pointers();
    flow();
    tables();
    interrupts();
}

fn arithmetic() {
    leaves("ADD wraps around", code!(16, "mov ax, 0xffff", "add ax, 2", "int 0x80"), 1);
    gives(
        "ADC of 32 bits",
        code!(16, "mov eax, 0xffffffff", "add eax, 1", "mov ebx, 7", "adc ebx, 0", "int 0x80"),
        [0, 8, 0, 0],
    );
    gives(
        "IMUL with three operands",
        code!(16, "mov bx, -3", "imul ax, bx, 100", "movsx eax, ax", "xor bx, bx", "int 0x80"),
        [-300i32 as u32, 0, 0, 0],
    );
    gives(
        "MUL fills DX",
        code!(16, "mov ax, 0x8000", "mov cx, 6", "mul cx", "int 0x80"),
        [0, 0, 6, 3],
    );
    gives(
        "IDIV of bytes",
        code!(16, "mov ax, -100", "mov cl, 7", "idiv cl", "int 0x80"),
        [0xfef2, 0, 7, 0],
    );
    gives(
        "DIV of quadwords",
        code!(16, "mov edx, 1", "xor eax, eax", "mov ecx, 3", "div ecx", "int 0x80"),
        [0x5555_5555, 0, 3, 1],
    );
    gives(
        "CBW, CWD, CWDE and CDQ",
        code!(16, "mov al, 0x80", "cbw", "cwd", "movzx ebx, dx", "cwde", "cdq", "int 0x80"),
        [0xffff_ff80, 0xffff, 0, 0xffff_ffff],
    );
    gives(
        "SHLD and SHRD",
        code!(
            16,
            "mov ax, 0x1234",
            "mov bx, 0xabcd",
            "shld ax, bx, 4",
            "mov cl, 8",
            "shrd bx, ax, cl",
            "int 0x80"
        ),
        [0x234a, 0x4aab, 8, 0],
    );
    gives(
        "BSWAP, BSF, BSR and BT",
        code!(
            16,
            "mov eax, 0x12345678",
            "bswap eax",
            "mov ecx, 0x00010100",
            "bsf bx, cx",
            "bsr edx, ecx",
            "int 0x80"
        ),
        [0x7856_3412, 8, 0x1_0100, 16],
    );
    leaves("LAHF", code!(16, "xor al, al", "mov ax, 0", "lahf", "int 0x80"), 0x4600);
    leaves("SAHF", code!(16, "mov ah, 0x95", "sahf", "lahf", "mov al, 0", "int 0x80"), 0x9700);
    gives(
        "CMPXCHG and XADD",
        code!(
            16,
            "mov ax, 5",
            "mov bx, 5",
            "mov cx, 9",
            "cmpxchg bx, cx",
            "mov dx, 1",
            "xadd bx, dx",
            "int 0x80"
        ),
        [5, 10, 9, 9],
    );
    leaves(
        "SALC",
        code!(16, "stc", ".byte 0xd6", "mov ah, al", "clc", ".byte 0xd6", "int 0x80"),
        0xff00,
    );
}

fn decimal() {
    leaves("DAA", code!(16, "mov al, 0x79", "add al, 0x35", "daa", "mov ah, 0", "int 0x80"), 0x14);
    leaves("DAS", code!(16, "mov al, 0x35", "sub al, 0x47", "das", "mov ah, 0", "int 0x80"), 0x88);
    leaves("AAA", code!(16, "mov ax, 0x0009", "add al, 8", "aaa", "int 0x80"), 0x0107);
    leaves("AAS", code!(16, "mov ax, 0x0205", "sub al, 9", "aas", "int 0x80"), 0x0106);
    leaves("AAM", code!(16, "mov al, 63", "aam", "int 0x80"), 0x0603);
    leaves("AAD", code!(16, "mov ax, 0x0603", "aad", "int 0x80"), 63);
    leaves(
        "AAM of another base",
        code!(16, "mov al, 0x5a", ".byte 0xd4, 0x10", "int 0x80"),
        0x050a,
    );
    let out = run_real(&real(code!(16, "mov al, 5", ".byte 0xd4, 0x00")));
    check_eq!(out.vector, DE as u32, "AAM by zero");
}

fn stack() {
    gives(
        "PUSHA and POPA",
        code!(16, "mov ax, 1", "mov bx, 2", "pusha", "mov ax, 7", "mov bx, 7", "popa", "int 0x80"),
        [1, 2, 0, 0],
    );
    gives(
        "PUSHAD keeps all 32 bits",
        code!(16, "mov eax, 0x12345678", "pushad", "xor eax, eax", "popad", "int 0x80"),
        [0x1234_5678, 0, 0, 0],
    );
    gives(
        "PUSH of a sign-extended byte",
        code!(16, ".byte 0x6a, 0xff", "pop ax", ".byte 0x66, 0x6a, 0x80", "pop ebx", "int 0x80"),
        [0xffff, 0xffff_ff80, 0, 0],
    );
    gives(
        "ENTER and LEAVE",
        code!(
            16,
            "mov bp, 0x7777",
            "mov bx, sp",
            "enter 16, 0",
            "mov cx, sp",
            "sub bx, cx",
            "leave",
            "mov ax, bp",
            "xor cx, cx",
            "int 0x80"
        ),
        [0x7777, 18, 0, 0],
    );
    gives(
        "POP of a segment register",
        code!(16, "push 0x3456", "pop es", "mov ax, es", "push fs", "pop bx", "int 0x80"),
        [0x3456, LOW_STACK >> 4, 0, 0],
    );
    gives(
        "PUSHFD and POPFD",
        code!(
            16,
            "push 0x00200203",
            ".byte 0x66, 0x9d",
            ".byte 0x66, 0x9c",
            "pop eax",
            "and eax, 0x200fff",
            "int 0x80"
        ),
        [0x203, 0, 0, 0],
    );
    gives(
        "POP into memory by SP",
        code!(
            16,
            "push 0x1111",
            "push 0x2222",
            "mov ebx, esp",
            "pop word ptr [esp]",
            "pop ax",
            "xor ebx, ebx",
            "int 0x80"
        ),
        [0x2222, 0, 0, 0],
    );
}

fn addresses() {
    gives(
        "a segment override",
        code!(
            16,
            "mov ax, 0x2800",
            "mov es, ax",
            "mov word ptr [0x100], 0x1111",
            "mov word ptr es:[0x100], 0x2222",
            "mov ax, [0x100]",
            "mov bx, es:[0x100]",
            "int 0x80"
        ),
        [0x1111, 0x2222, 0, 0],
    );
    gives(
        "BP, EBP and ESP go by SS",
        code!(
            16,
            "mov ax, 0x2800",
            "mov ds, ax",
            "mov word ptr ss:[0x200], 0x3333",
            "mov word ptr [0x200], 0x4444",
            "mov bp, 0x200",
            "mov ax, [bp]",
            "mov ebp, 0x200",
            "mov bx, [ebp]",
            "xchg esp, ebp",
            "mov cx, [esp]",
            "xchg esp, ebp",
            "mov si, bp",
            "mov dx, [esi]",
            "int 0x80"
        ),
        [0x3333, 0x3333, 0x3333, 0x4444],
    );
    gives(
        "32-bit addresses with an index",
        code!(
            16,
            "mov dword ptr [0x340], 0x55667788",
            "mov ebx, 0x300",
            "mov esi, 0x10",
            "mov eax, [ebx + esi * 4]",
            "lea cx, [bx + si + 2]",
            "lea edx, [ebx + esi * 8 - 1]",
            "int 0x80"
        ),
        [0x5566_7788, 0x300, 0x312, 0x37f],
    );
    gives(
        "a 16-bit address wraps around",
        code!(
            16,
            "mov word ptr [0x10], 0x4321",
            "mov bx, 0xfff0",
            "mov ax, [bx + 0x20]",
            "int 0x80"
        ),
        [0x4321, 0xfff0, 0, 0],
    );
    gives(
        "XLAT by another segment",
        code!(
            16,
            "mov ax, 0x2800",
            "mov es, ax",
            "mov byte ptr es:[0x405], 0x99",
            "mov bx, 0x400",
            "mov ax, 5",
            ".byte 0x26, 0xd7",
            "int 0x80"
        ),
        [0x99, 0x400, 0, 0],
    );
    gives(
        "MOVS from another segment",
        code!(
            16,
            "mov ax, 0x2800",
            "mov fs, ax",
            "mov dword ptr fs:[0x500], 0xcafef00d",
            "mov si, 0x500",
            "mov di, 0x600",
            ".byte 0x64, 0x66, 0xa5",
            "mov eax, [0x600]",
            "movzx ebx, si",
            "movzx ecx, di",
            "int 0x80"
        ),
        [0xcafe_f00d, 0x504, 0x604, 0],
    );
    gives(
        "REP STOSW and REPNE SCASW",
        code!(
            16,
            "mov di, 0x700",
            "mov cx, 8",
            "mov ax, 7",
            "rep stosw",
            "mov word ptr [0x708], 9",
            "mov di, 0x700",
            "mov cx, 8",
            "mov ax, 9",
            "repne scasw",
            "mov bx, di",
            "int 0x80"
        ),
        [9, 0x70a, 3, 0],
    );
}

fn far_pointers() {
    for (name, code) in [
        (
            "LDS",
            code!(16, "mov dword ptr [0], 0x26001234", "lds ax, [0]", "mov bx, ds", "int 0x80"),
        ),
        (
            "LES",
            code!(16, "mov dword ptr [0], 0x26001234", "les ax, [0]", "mov bx, es", "int 0x80"),
        ),
        (
            "LFS",
            code!(16, "mov dword ptr [0], 0x26001234", "lfs ax, [0]", "mov bx, fs", "int 0x80"),
        ),
        (
            "LGS",
            code!(16, "mov dword ptr [0], 0x26001234", "lgs ax, [0]", "mov bx, gs", "int 0x80"),
        ),
        (
            "LSS",
            code!(
                16,
                "mov dword ptr [0], 0x26001234",
                "mov cx, ss",
                "lss ax, [0]",
                "mov bx, ss",
                "mov ss, cx",
                "xor cx, cx",
                "int 0x80"
            ),
        ),
    ] {
        gives(name, code, [0x1234, 0x2600, 0, 0]);
    }
    gives(
        "LES with 32 bits",
        code!(
            16,
            "mov dword ptr [0], 0x12345678",
            "mov word ptr [4], 0x2600",
            "les eax, [0]",
            "mov bx, es",
            "int 0x80"
        ),
        [0x1234_5678, 0x2600, 0, 0],
    );
    gives(
        "MOV of a segment register to 32 bits",
        code!(16, "mov eax, -1", "mov ebx, -1", ".byte 0x66, 0x8c, 0xd8", "mov bx, ds", "int 0x80"),
        [LOW_STACK >> 4, 0xffff_0000 | LOW_STACK >> 4, 0, 0],
    );
}

fn flow() {
    gives(
        "CALL and RET with an operand",
        code!(
            16,
            "push 1",
            "push 2",
            "call 721f",
            "jmp 722f",
            "721:",
            "mov ax, 5",
            "ret 4",
            "722:",
            "mov bx, sp",
            "int 0x80"
        ),
        [5, 0xff00, 0, 0],
    );
    gives(
        "CALL far by memory, and RETF",
        code!(
            16,
            "mov word ptr [0], 0x20",
            "mov word ptr [2], 0x1000",
            ".byte 0xff, 0x1e, 0, 0",
            "jmp 722f",
            ".fill 0x20, 1, 0x90",
            "mov ax, cs",
            "mov bx, 7",
            ".byte 0xcb",
            "722:",
            "int 0x80"
        ),
        [LOW >> 4, 7, 0, 0],
    );
    gives(
        "CALL far with 32 bits",
        code!(
            16,
            ".byte 0x66, 0x9a",
            ".long 0x20",
            ".word 0x1000",
            "jmp 722f",
            ".fill 0x30, 1, 0x90",
            "mov bx, 9",
            ".byte 0x66, 0xcb",
            "722:",
            "mov ax, sp",
            "int 0x80"
        ),
        [0xff00, 9, 0, 0],
    );
    gives(
        "JMP far to the same place by another segment",
        code!(
            16,
            ".byte 0xea",
            ".word 0x0120",
            ".word 0x0ff0",
            ".fill 0x40, 1, 0x90",
            "mov ax, cs",
            "int 0x80"
        ),
        [(LOW >> 4) - 0x10, 0, 0, 0],
    );
    gives(
        "JCXZ and JECXZ",
        code!(
            16,
            "mov ecx, 0x10000",
            "jcxz 721f",
            "mov ax, 1",
            "721:",
            "jecxz 722f",
            "mov bx, 2",
            "722:",
            "int 0x80"
        ),
        [0, 2, 0x1_0000, 0],
    );
    gives(
        "LOOPNE stops at a match",
        code!(16, "mov cx, 10", "721:", "inc ax", "cmp ax, 3", "loopne 721b", "int 0x80"),
        [3, 0, 7, 0],
    );
    gives(
        "a jump over all conditions",
        code!(
            16,
            "mov al, 0x80",
            "add al, 0x80",
            "jnc 722f",
            "jno 722f",
            "jnz 722f",
            "js 722f",
            "jl 721f",
            "jmp 722f",
            "721:",
            "jbe 723f",
            "722:",
            "mov bx, 1",
            "723:",
            "int 0x80"
        ),
        [0, 0, 0, 0],
    );
}

fn tables() {
    gives(
        "LGDT with 16 bits has a base of 24",
        code!(
            16,
            "sgdt [0]",
            "mov dword ptr [0x10], 0xff001234",
            "mov dword ptr [0x14], 0xffab",
            "mov word ptr [0x10], 0x7f",
            "mov dword ptr [0x12], 0xff123456",
            "lgdt [0x10]",
            "mov dword ptr [0x22], 0",
            "sgdt [0x20]",
            "mov eax, [0x22]",
            "mov bx, [0x20]",
            "and eax, 0xffffff",
            ".byte 0x66",
            "lgdt [0]",
            "int 0x80"
        ),
        [0x12_3456, 0x7f, 0, 0],
    );
    gives(
        "SIDT",
        code!(16, "sidt [0]", "mov ax, [0]", "mov ebx, [2]", "int 0x80"),
        [0x3ff, 0, 0, 0],
    );
    gives(
        "SMSW and LMSW",
        code!(
            16,
            "smsw bx",
            "mov ax, bx",
            "or ax, 8",
            "lmsw ax",
            "smsw ax",
            "clts",
            "smsw cx",
            "sub ax, bx",
            "sub cx, bx",
            "xor bx, bx",
            "int 0x80"
        ),
        [8, 0, 0, 0],
    );
    gives(
        "debug registers",
        code!(
            16,
            "mov eax, 0x12345678",
            "mov dr0, eax",
            "xor eax, eax",
            "mov ebx, dr0",
            "mov dr0, eax",
            "int 0x80"
        ),
        [0, 0x1234_5678, 0, 0],
    );
}

fn interrupts() {
    let out = run_real(&real(code!(
        16,
        "push 0",
        "push word ptr 0x246",
        "push word ptr 0",
        "push word ptr 0x1000",
        "push word ptr 0",
        "push word ptr 0x20",
        ".byte 0x66, 0xcf",
        ".fill 0x30, 1, 0x90",
        "int 0x80"
    )));
    check_eq!((out.what(), out.eflags & 0xfff), ((DONE, 0), 0x246), "IRET with 32 bits");
    let context =
        Context { eflags: 2, ..real(code!(16, "sti", "cli", "pushf", "pop ax", "int 0x80")) };
    let out = run_real(&context);
    check_eq!(out.eax & 0x200, 0, "STI and CLI");
    let out = run_real(&real(code!(16, "stc", "std", "int 0x80")));
    check_eq!(out.eflags & 0x401, 0x401, "INT pushes FLAGS");
}
