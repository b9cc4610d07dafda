# A guest that shows a film: eight frames of 1280 by 800 pixels, gradients that move under a little
# noise, over and over, as fast as it can. Multiboot; the standard VGA is at 00:02.0.
.intel_syntax noprefix
.code32
.text
.align 4
.long 0x1badb002, 0, -0x1badb002

.set WIDTH, 1280
.set HEIGHT, 800
.set FRAMES, 8
.set FILM, 0x1000000

.macro pci_address register
    mov eax, 0x80001000 + \register
    mov dx, 0xcf8
    out dx, eax
    mov dx, 0xcfc
.endm

.global _start
_start:
    cli
    cld
    mov esp, 0x90000
    # Decode I/O and memory.
    pci_address 4
    in eax, dx
    or eax, 3
    out dx, eax
    # The frame buffer.
    pci_address 0x10
    in eax, dx
    and eax, 0xfffffff0
    mov ebp, eax
    mov esi, offset mode
set_register:
    mov ax, [esi]
    cmp ax, 0xffff
    je draw
    mov dx, 0x1ce
    out dx, ax
    mov ax, [esi + 2]
    mov dx, 0x1cf
    out dx, ax
    add esi, 4
    jmp set_register

draw:
    mov edi, FILM
    xor ebx, ebx
frame:
    xor ecx, ecx
row:
    xor edx, edx
pixel:
    # Red: x + frame; green: y + frame; blue: (x + y) / 2.
    mov eax, edx
    add eax, ebx
    shl eax, 8
    add eax, ecx
    add eax, ebx
    shl eax, 8
    push ecx
    add ecx, edx
    shr ecx, 1
    and ecx, 0xff
    or eax, ecx
    pop ecx
    and eax, 0xfcfcfc
    # Two bits of noise, the same in each colour.
    imul esi, esi, 1664525
    add esi, 1013904223
    push edx
    mov edx, esi
    shr edx, 30
    imul edx, edx, 0x010101
    add eax, edx
    pop edx
    stosd
    inc edx
    cmp edx, WIDTH
    jb pixel
    inc ecx
    cmp ecx, HEIGHT
    jb row
    add ebx, 2
    cmp ebx, 2 * FRAMES
    jb frame

play:
    mov esi, FILM
    mov ebx, FRAMES
next:
    mov edi, ebp
    mov ecx, WIDTH * HEIGHT
    rep movsd
    dec ebx
    jnz next
    jmp play

.align 4
mode:
    # Disabled, size, depth, enabled with a linear frame buffer.
    .word 4, 0, 1, WIDTH, 2, HEIGHT, 3, 32, 4, 0x41, 0xffff
