//! Page faults while an event is being delivered, or returned from: on the IDT, on descriptors, on the
//! TSS, on stacks; in 64-bit and in 32-bit protected mode (SDM vol. 3, 6.8 to 6.15).

use crate::apic;
use crate::boot::{GDT, Table, sel};
use crate::cpu::{self, flag, invlpg};
use crate::legacy::{self, TSS32, Tss32};
use crate::paging::{P, Size, T, U, W, entry, map};
use crate::trap::{self, FINE, Outcome, Pointer, TSS, catch, enter, vector::*};
use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};

const ALL: u64 = P | W | U;
/// Where the two pages of [`window`] really are.
const FRAME: u64 = 0x620_0000;
/// The border between the two.
const BORDER: u64 = T + 0x1000;
const VECTOR: u64 = 0x90;

/// Maps two pages at `T`, of which one may be missing or read-only.
fn window(first: u64, second: u64) {
    map(Size::Small, ALL, ALL);
    for (index, flags) in [first, second].into_iter().enumerate() {
        let at = FRAME + index as u64 * 0x1000;
        unsafe { entry(1, index as u64).write_volatile(at | flags) };
        invlpg(T + index as u64 * 0x1000);
    }
}

/// Puts bytes where the window shows them at `linear`.
fn fill<T: ?Sized>(linear: u64, from: *const T, len: usize) {
    let at = (FRAME + linear - crate::paging::T) as *mut u8;
    unsafe { core::ptr::copy_nonoverlapping(from.cast(), at, len) };
}

pub fn run() {
    apic::prepare();
    trap::set_handler(VECTOR, None);
    trap::set_handler(DONE, None);
    tables();
    doubled();
    descriptors();
    task_state();
    stacks();
    returns();
    interrupts();
    legacy_tables();
    legacy_stacks();
    legacy_tasks();
    legacy::reset_tables();
    trap::load_tables();
}

/// A page fault without an error code but that of a supervisor's access, at `address`.
fn check_fault(name: &str, outcome: &Outcome, error: u64, address: u64, rip: u64) {
    check_eq!(outcome.what(), (PF, error), "{name}");
    check_eq!(outcome.cr2, address, "{name}: the address");
    check_eq!(outcome.frame.rip, rip, "{name}: at the instruction");
}

/// Runs with the IDT at `linear`, of which one page may be missing.
fn with_idt<R>(linear: u64, run: impl FnOnce() -> R) -> R {
    fill(linear, addr_of!(trap::IDT), 4096.min((T + 0x2000 - linear) as usize));
    let pointer = Pointer { limit: 4095, base: linear };
    unsafe { asm!("lidt [{}]", in(reg) &pointer) };
    let result = run();
    trap::load_idt(4095);
    result
}

fn int_from_kernel() -> Outcome {
    catch(|| unsafe { asm!("int 0x90") })
}

/// The address of the instruction whose outcome this is, told by what lies there.
fn is_at(outcome: &Outcome, code: [u8; 2]) -> bool {
    let at = outcome.frame.rip as *const [u8; 2];
    unsafe { at.read_unaligned() == code }
}

const INT_90: [u8; 2] = [0xcd, 0x90];

fn tables() {
    // The vectors from 128 on are in the second page.
    window(ALL, 0);
    let gate = BORDER + (VECTOR - 128) * 16;
    let kernel = with_idt(T + 0x800, int_from_kernel);
    check_eq!(kernel.what(), (PF, 0), "INT n whose gate is not mapped");
    check_eq!(kernel.cr2, gate, "CR2 tells of the gate");
    check!(is_at(&kernel, INT_90), "RIP is that of the INT");
    trap::set_gate(VECTOR, 0xee, sel::CODE64, 1, trap::stub(VECTOR));
    let user = with_idt(T + 0x800, || trap::user(crate::code!(64, "nop", "int 0x90")));
    check_fault("the same from ring 3", &user, 0, gate, trap::USER + 1);
    check_eq!(user.frame.cs, u64::from(sel::USER_CODE64), "it is ring 3's fault");
    check_eq!(user.frame.rsp, trap::USER_STACK, "whose stack pointer is as it was");
    // The gate itself may be on a page of users', or on one that may only be read.
    window(ALL, P);
    let what = with_idt(T + 0x800, int_from_kernel);
    check_eq!(what.what(), (VECTOR, 0), "a gate on a supervisor's page for reading");
    // A gate over the border of two pages.
    window(ALL, 0);
    let what = with_idt(BORDER - VECTOR * 16 - 8, int_from_kernel);
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER), "a gate that is half there");
    trap::usual_gate(VECTOR);
}

fn doubled() {
    // The gates from 14 on are not there.
    window(ALL, 0);
    let idt = BORDER - 14 * 16;
    let what = with_idt(idt, int_from_kernel);
    check_eq!(what.what(), (DF, 0), "#PF whose own gate is not mapped, after INT n");
    check!(is_at(&what, INT_90), "the double fault is at the INT");
    check_eq!(what.cr2, BORDER, "CR2 is that of the last fault");
    let nowhere = 0x12_3456_7890_u64;
    let load = || unsafe { asm!("mov rax, [{}]", in(reg) nowhere, out("rax") _) };
    let what = with_idt(idt, || catch(load));
    check_eq!((what.what(), what.cr2), ((DF, 0), BORDER), "the same after a load from nowhere");
    // All before #DF are not there.
    window(0, ALL);
    let idt = BORDER - 8 * 16;
    let what = with_idt(idt, || catch(|| unsafe { asm!("ud2") }));
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER - 2 * 16), "#UD without a gate's page");
    let divide =
        || unsafe { asm!("div {0}", in(reg) 0u64, inout("rax") 1u64 => _, inout("rdx") 0u64 => _) };
    let what = with_idt(idt, || catch(divide));
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER - 8 * 16), "#DE without one");
    let what = with_idt(idt, || catch(|| unsafe { asm!("int3") }));
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER - 5 * 16), "#BP without one");
    // A contributory exception, then one more.
    window(ALL, 0);
    let load = || unsafe { asm!("mov rax, [{}]", in(reg) 1_u64 << 63, out("rax") _) };
    let what = with_idt(BORDER - 13 * 16, || catch(load));
    check_eq!(what.what(), (DF, 0), "#GP, #PF and #PF, none with a gate");
    trap::set_gate(GP, 0x8e, sel::DATA, 1, trap::stub(GP));
    check_eq!(trap::fault_of(load), (DF, 0), "#GP through a gate to data");
    trap::set_gate(PF, 0x8e, sel::DATA, 1, trap::stub(PF));
    let far = || unsafe { asm!("mov rax, [{}]", in(reg) nowhere, out("rax") _) };
    check_eq!(trap::fault_of(far), (DF, 0), "#PF through a gate to data");
    trap::usual_gate(GP);
    trap::usual_gate(PF);
}

/// Runs with the GDT at `linear`.
fn with_gdt<R>(linear: u64, run: impl FnOnce() -> R) -> R {
    fill(linear, addr_of!(GDT), 256);
    let pointer = Pointer { limit: 0xfff, base: linear };
    let usual = Pointer { limit: 511, base: addr_of!(GDT) as u64 };
    unsafe { asm!("lgdt [{}]", in(reg) &pointer) };
    let result = run();
    unsafe { asm!("lgdt [{}]", in(reg) &usual) };
    result
}

fn descriptors() {
    // Selectors from 0x100 on are in the second page.
    let gdt = BORDER - 0x100;
    window(ALL, 0);
    trap::set_gate(VECTOR, 0x8e, 0x120, 1, trap::stub(VECTOR));
    let what = with_gdt(gdt, int_from_kernel);
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER + 0x20), "the code segment's descriptor");
    check!(is_at(&what, INT_90), "RIP is that of the INT");
    // There, but not accessed so far, and not to be written.
    let fresh = trap::segment(0, 0xfffff, 0xa09a);
    window(ALL, ALL);
    fill(BORDER + 0x20, &fresh, 8);
    window(ALL, P);
    let what = with_gdt(gdt, int_from_kernel);
    check_eq!(
        (what.what(), what.cr2 & !7),
        ((PF, 3), BORDER + 0x20),
        "a descriptor that cannot be marked"
    );
    window(ALL, ALL);
    let what = with_gdt(gdt, int_from_kernel);
    check_eq!((what.what(), what.frame.cs), ((VECTOR, 0), sel::CODE64.into()), "one that can");
    let now = unsafe { ((FRAME + 0x1020) as *const u64).read_volatile() };
    check_eq!(now, fresh | 1 << 40, "is marked");
    trap::usual_gate(VECTOR);

    window(ALL, 0);
    let load = || unsafe { asm!("mov fs, {:x}", in(reg) 0x130u16) };
    let what = with_gdt(gdt, || catch(load));
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER + 0x30), "a data segment's descriptor");
    let what = with_gdt(gdt, || {
        let code = crate::code!(64, "mov eax, 0x133", "mov fs, eax");
        trap::user(code)
    });
    check_fault("from ring 3", &what, 0, BORDER + 0x30, trap::USER + 5);
    let jump = || unsafe { asm!("push 0x120", "push 0", "retfq") };
    let what = with_gdt(gdt, || catch(jump));
    check_eq!((what.what(), what.cr2), ((PF, 0), BORDER + 0x20), "RETF to a descriptor");
}

fn with_tss<R>(linear: u64, run: impl FnOnce() -> R) -> R {
    fill(linear, addr_of!(TSS), size_of::<trap::Tss>());
    let limit = size_of::<trap::Tss>() as u32 - 1;
    trap::set_descriptor(sel::TSS64, trap::segment(linear as u32, limit, 0x89));
    trap::set_descriptor(sel::TSS64 + 8, linear >> 32);
    unsafe { asm!("ltr {:x}", in(reg) sel::TSS64) };
    let result = run();
    trap::load_tables();
    result
}

fn task_state() {
    // RSP0 is in the first page, the interrupt stacks are in the second.
    let tss = BORDER - 0x10;
    window(0, ALL);
    trap::set_gate(VECTOR, 0xee, sel::CODE64, 0, trap::stub(VECTOR));
    let code = crate::code!(64, "nop", "int 0x90");
    let user = with_tss(tss, || trap::user(code));
    check_fault("a TSS that is not mapped", &user, 0, tss + 4, trap::USER + 1);
    let kernel = with_tss(tss, int_from_kernel);
    check_eq!(kernel.what(), (VECTOR, 0), "ring 0 needs no stack from it");
    window(ALL, ALL);
    let user = with_tss(tss, || trap::user(code));
    check_eq!(user.what(), (VECTOR, 0), "once it is mapped, nor does ring 3 fault");
    let usual = unsafe { TSS.rsp[0] };
    for (rsp, what, address, name) in [
        (BORDER + 0x80, (PF, 2), BORDER + 0x78, "an inner stack that is not mapped"),
        (1 << 63, (SS, 0), 0, "an inner stack that is not canonical"),
    ] {
        window(ALL, 0);
        unsafe { TSS.rsp[0] = rsp };
        cpu::set_cr2(0);
        let user = trap::user(code);
        check_eq!(user.what(), what, "{name}");
        check_eq!(user.cr2, address, "{name}: the address");
        check_eq!(user.frame.rip, trap::USER + 1, "{name}: at the INT");
        check_eq!(user.frame.rsp, trap::USER_STACK, "{name}: the stack pointer is as it was");
    }
    // The frame begins where it can be written, and goes on where it cannot.
    window(0, ALL);
    unsafe { TSS.rsp[0] = BORDER + 16 };
    let user = trap::user(code);
    check_fault("a stack that ends midway", &user, 2, BORDER - 8, trap::USER + 1);
    window(P, ALL);
    let user = trap::user(code);
    check_fault("one that is for reading there", &user, 3, BORDER - 8, trap::USER + 1);
    unsafe { TSS.rsp[0] = usual };
    trap::usual_gate(VECTOR);
}

fn stacks() {
    trap::set_gate(VECTOR, 0x8e, sel::CODE64, 0, trap::stub(VECTOR));
    let run = |rsp: u64| {
        let mut frame = trap::kernel_frame(int_at());
        frame.rsp = rsp;
        enter(&frame)
    };
    window(ALL, 0);
    let what = run(BORDER + 0x105);
    check_fault("a stack of ring 0 that is not mapped", &what, 2, BORDER + 0xf8, int_at());
    check_eq!(what.frame.rsp, BORDER + 0x105, "with the stack pointer as it was");
    window(0, ALL);
    let what = run(BORDER + 0x18);
    check_fault("one that ends midway", &what, 2, BORDER - 8, int_at());
    check_eq!(what.frame.rsp, BORDER + 0x18, "with the stack pointer as it was");
    // The same for an exception: it is the page fault's handler that must succeed.
    trap::set_gate(UD, 0x8e, sel::CODE64, 0, trap::stub(UD));
    let undefined = crate::code!(64, "ud2");
    window(ALL, 0);
    let mut frame = trap::kernel_frame(undefined.as_ptr() as u64);
    frame.rsp = BORDER + 0x40;
    let what = enter(&frame);
    check_fault("#UD without a stack", &what, 2, BORDER + 0x38, frame.rip);
    check!(what.frame.rflags & flag::RF != 0, "restarts with RF");
    trap::set_gate(PF, 0x8e, sel::CODE64, 0, trap::stub(PF));
    let what = enter(&frame);
    check_eq!(what.what(), (DF, 0), "#PF without a stack, either");
    check_eq!(what.frame.rip, frame.rip, "is a double fault where it began");
    trap::usual_gate(PF);
    trap::usual_gate(UD);
    trap::usual_gate(VECTOR);
}

/// INT 0x90, at an address that is known.
#[inline(never)]
fn int_at() -> u64 {
    crate::code!(64, "int 0x90").as_ptr() as u64
}

fn returns() {
    let iret = crate::code!(64, "iretq").as_ptr() as u64;
    let retf = crate::code!(64, "retfq").as_ptr() as u64;
    let ret = crate::code!(64, "ret").as_ptr() as u64;
    for (rip, name) in [(iret, "IRET"), (retf, "RETF"), (ret, "RET")] {
        window(ALL, 0);
        let mut frame = trap::kernel_frame(rip);
        frame.rsp = BORDER;
        let what = enter(&frame);
        check_fault(name, &what, 0, BORDER, rip);
        check_eq!(what.frame.rsp, BORDER, "{name}: the stack pointer is as it was");
    }
    // What IRET returns to is in the first page, how it does that in the second.
    window(ALL, 0);
    let image = [crate::code!(64, "int 0x80").as_ptr() as u64, sel::CODE64.into()];
    fill(BORDER - 16, &image, 16);
    let mut frame = trap::kernel_frame(iret);
    frame.rsp = BORDER - 16;
    let what = enter(&frame);
    check_fault("IRET, midway", &what, 0, BORDER, iret);
    check_eq!(what.frame.cs, u64::from(sel::CODE64), "IRET, midway: CS is as it was");
    // Its target's segment is not mapped.
    let image = [0, 0x120, 2, BORDER - 0x100, 0];
    fill(BORDER - 0x300, &image, 40);
    frame.rsp = BORDER - 0x300;
    let what = with_gdt(BORDER - 0x100, || enter(&frame));
    check_fault("IRET to a descriptor that is not mapped", &what, 0, BORDER + 0x20, iret);
    check_eq!(what.frame.rsp, BORDER - 0x300, "the stack pointer is as it was");
}

fn interrupts() {
    const SELF: u32 = 1 << 18;
    // An interrupt from outside whose gate is not mapped.
    window(ALL, 0);
    let send = || {
        apic::write(apic::reg::ICR, SELF | VECTOR as u32);
        unsafe { asm!("sti", "nop", "nop", "cli") };
    };
    let what = with_idt(T + 0x800, || catch(send));
    check_eq!(
        (what.what(), what.cr2),
        ((PF, 0), BORDER + (VECTOR - 128) * 16),
        "an interrupt whose gate is not mapped"
    );
    check!(what.frame.rflags & flag::IF != 0, "interrupts were on");
    let in_service = apic::read(apic::reg::ISR + 0x10 * (VECTOR as u32 / 32));
    check_eq!(in_service >> (VECTOR % 32) & 1, 1, "it was accepted");
    apic::write(apic::reg::EOI, 0);
    check_eq!(catch(|| unsafe { asm!("sti", "nop", "cli") }).what(), FINE, "and is gone");
    // One that has no gate at all.
    trap::set_gate(VECTOR, 0x0e, sel::CODE64, 1, trap::stub(VECTOR));
    check_eq!(catch(send).what(), (NP, VECTOR * 8 + 3), "an interrupt whose gate is not present");
    apic::write(apic::reg::EOI, 0);
    trap::usual_gate(VECTOR);
}

/// Page tables of 32-bit paging that map 4 GiB one to one, but for two pages; these are at
/// [`WINDOW32`].
static mut DIRECTORY: Table = Table([0; 512]);
static mut LEAVES: Table = Table([0; 512]);
const WINDOW32: u32 = 0x3f_e000;
const BORDER32: u32 = WINDOW32 + 0x1000;

/// A context with paging on, whose window has these two pages.
fn paged(context: legacy::Context, first: u32, second: u32) -> legacy::Context {
    unsafe {
        let directory = addr_of_mut!(DIRECTORY).cast::<u32>();
        let leaves = addr_of_mut!(LEAVES).cast::<u32>();
        for i in 0..1024 {
            directory.add(i).write((i as u32) << 22 | 0x87);
            leaves.add(i).write((i as u32) << 12 | 7);
        }
        directory.write(leaves as u32 | 7);
        for (i, flags) in [first, second].into_iter().enumerate() {
            let index = (WINDOW32 >> 12) as usize + i;
            leaves.add(index).write((index as u32) << 12 | flags);
        }
        legacy::Context {
            cr0: context.cr0 | (cpu::cr0::PG | cpu::cr0::WP) as u32,
            cr3: directory as u32,
            cr4: context.cr4 | cpu::cr4::PSE as u32,
            ..context
        }
    }
}

#[repr(C, packed)]
struct Pointer32 {
    limit: u16,
    base: u32,
}

/// A copy of something in the window, which is not mapped elsewhere.
fn fill32<T: ?Sized>(at: u32, from: *const T, len: usize) {
    unsafe { core::ptr::copy_nonoverlapping(from.cast::<u8>(), at as *mut u8, len) };
}

fn legacy_tables() {
    legacy::reset_tables();
    let idt = BORDER32 - 0x80 * 8 - 0x10 * 8;
    fill32(idt, addr_of!(legacy::IDT32), 2048);
    let pointer = Pointer32 { limit: 2047, base: idt };
    let code = crate::code!(32, "lidt [ebx]", "int 0x90");
    let at = |code: &[u8]| code.as_ptr() as u32;
    let mut context = paged(legacy::ring0(code), 7, 0);
    context.ebx = &raw const pointer as u32;
    let out = legacy::run(&context);
    check_eq!((out.what(), out.cr2), ((PF, 0), BORDER32), "32-bit: INT n whose gate is not mapped");
    check_eq!(out.eip, at(code) + 3, "32-bit: EIP is that of the INT");
    // The gate of #PF is not there, either.
    let idt = BORDER32 - 14 * 8;
    fill32(idt, addr_of!(legacy::IDT32), 2048);
    let pointer = Pointer32 { limit: 2047, base: idt };
    context.ebx = &raw const pointer as u32;
    let out = legacy::run(&context);
    check_eq!((out.what(), out.cr2), ((DF, 0), BORDER32), "32-bit: nor that of #PF");
    // Descriptors.
    let gdt = BORDER32 - 0x100;
    fill32(gdt, addr_of!(GDT), 256);
    let pointer = Pointer32 { limit: 0xfff, base: gdt };
    legacy::set_gate(0x90, 0x8e, 0x120, legacy::stub(0x90));
    let code = crate::code!(32, "lgdt [ebx]", "int 0x90");
    let mut context = paged(legacy::ring0(code), 7, 0);
    context.ebx = &raw const pointer as u32;
    let out = legacy::run(&context);
    check_eq!((out.what(), out.cr2), ((PF, 0), BORDER32 + 0x20), "32-bit: a descriptor");
    check_eq!(out.eip, at(code) + 3, "32-bit: EIP is that of the INT");
    legacy::usual_gate(0x90);
}

/// A task of its own takes vector `vector`: it needs no stack of what it interrupts.
static mut HANDLER: Tss32 = Tss32::new();
const HANDLER_SELECTOR: u16 = sel::FREE + 0x20;

fn task_for(vector: u32) {
    unsafe {
        HANDLER = Tss32::new();
        HANDLER.eip = crate::code!(32, "pop edx", "mov ecx, 0x7777", "int 0x80").as_ptr() as u32;
        HANDLER.esp = legacy::ring0_stack_top() - 0x4000;
        HANDLER.cr3 = addr_of!(DIRECTORY) as u32;
        let descriptor = trap::segment(addr_of!(HANDLER) as u32, 103, 0x89);
        trap::set_descriptor(HANDLER_SELECTOR, descriptor);
    }
    legacy::set_gate(vector, 0x85, HANDLER_SELECTOR, 0);
}

fn interrupted() -> Tss32 {
    unsafe { core::ptr::read_volatile(addr_of!(TSS32)) }
}

fn legacy_stacks() {
    legacy::reset_tables();
    legacy::set_gate(0x90, 0xee, sel::CODE32, legacy::stub(0x90));
    task_for(PF as u32);
    let inner = crate::code!(32, "mov esp, ebx", "int 0x90");
    let user = crate::code!(32, "nop", "int 0x90");
    let rip = |code: &[u8], offset: u32| code.as_ptr() as u32 + offset;
    let mut context = paged(legacy::ring0(inner), 7, 0);
    context.ebx = BORDER32 + 0x100;
    let out = legacy::run(&context);
    check_eq!((out.what(), out.ecx), ((DONE, 0), 0x7777), "32-bit: a stack that is not mapped");
    check_eq!((out.edx, out.cr2), (2, BORDER32 + 0xfc), "32-bit: the error code and address");
    let old = interrupted();
    check_eq!((old.eip, old.esp), (rip(inner, 2), context.ebx), "32-bit: at the INT");
    task_for(PF as u32);
    context = paged(context, 0, 7);
    context.ebx = BORDER32 + 8;
    let out = legacy::run(&context);
    check_eq!((out.ecx, out.edx, out.cr2), (0x7777, 2, BORDER32 - 4), "32-bit: that ends midway");
    check_eq!(interrupted().esp, context.ebx, "32-bit: the stack pointer is as it was");

    unsafe { TSS32.esp0 = BORDER32 + 0x100 };
    task_for(PF as u32);
    let context = paged(legacy::ring3(&[]), 7, 0);
    let out = legacy::run(&legacy::Context { eip: trap::to_user(user) as u32, ..context });
    check_eq!(
        (out.ecx, out.edx, out.cr2),
        (0x7777, 2, BORDER32 + 0xfc),
        "32-bit: a stack for ring 3 that is not mapped"
    );
    let old = interrupted();
    check_eq!(
        (old.eip, old.cs as u16),
        (trap::USER as u32 + 1, sel::USER_CODE32),
        "32-bit: it is ring 3's fault"
    );
    check_eq!(old.esp, trap::USER_STACK as u32, "32-bit: with its stack pointer");
}

fn legacy_tasks() {
    legacy::reset_tables();
    // The TSS from which ring 3 takes its stack, ESP0 being in the first page.
    let tss = BORDER32 - 16;
    unsafe { fill32(tss, addr_of!(TSS32), 104) };
    trap::set_descriptor(sel::TSS32, trap::segment(tss, 103, 0x89));
    legacy::set_gate(0x90, 0xee, sel::CODE32, legacy::stub(0x90));
    legacy::set_gate(DF as u32, 0x8e, sel::CODE32, legacy::stub(DF as u32));
    let user = trap::to_user(crate::code!(32, "nop", "int 0x90"));
    let context = paged(legacy::ring3(&[]), 7, 7);
    let out = legacy::run(&legacy::Context { eip: user as u32, ..context });
    check_eq!(out.what(), (0x90, 0), "32-bit: a TSS across pages");
    // A task gate to a task whose TSS is not mapped.
    legacy::reset_tables();
    trap::set_descriptor(HANDLER_SELECTOR, trap::segment(BORDER32, 103, 0x89));
    legacy::set_gate(0x90, 0x85, HANDLER_SELECTOR, 0);
    let code = crate::code!(32, "int 0x90");
    let out = legacy::run(&paged(legacy::ring0(code), 7, 0));
    check_eq!(out.what().0, PF, "32-bit: a task that is not mapped");
    check_eq!(out.cr2 & !0xfff, BORDER32, "32-bit: its address");
    check_eq!((out.eip, out.tr), (code.as_ptr() as u32, sel::TSS32), "32-bit: in the old task");
}
