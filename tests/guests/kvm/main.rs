//! A virtual machine monitor of a page: runs guests in real and in long mode on Linux's KVM, checks
//! what they compute, and says so. It is a guest's program, linked statically (see `nested.rs`).

use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::process::exit;

unsafe extern "C" {
    fn open(path: *const c_char, flags: c_int) -> c_int;
    fn close(file: c_int) -> c_int;
    fn ioctl(file: c_int, request: c_ulong, ...) -> c_int;
    fn mmap(at: *mut c_void, len: usize, protection: c_int, flags: c_int, file: c_int, offset: c_long) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
}

// The interface of KVM (Linux documentation: virt/kvm/api).
const CREATE_VM: c_ulong = 0xae01;
const GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
const GET_SUPPORTED_CPUID: c_ulong = 0xc008_ae05;
const CREATE_VCPU: c_ulong = 0xae41;
const SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
const RUN: c_ulong = 0xae80;
const SET_REGS: c_ulong = 0x4090_ae82;
const GET_SREGS: c_ulong = 0x8138_ae83;
const SET_SREGS: c_ulong = 0x4138_ae84;
const SET_CPUID2: c_ulong = 0x4008_ae90;
const EXIT_IO: u32 = 2;
const EXIT_HLT: u32 = 5;
const EXIT_MMIO: u32 = 6;

const READ_WRITE: c_int = 3;
const SHARED: c_int = 1;
const PRIVATE_ANONYMOUS: c_int = 0x22;

/// Memory of a guest.
const SIZE: usize = 32 << 20;
const CODE: usize = 0x1000;
const TABLES: usize = 0x10_0000;

#[repr(C)]
struct Slot {
    number: u32,
    flags: u32,
    physical: u64,
    size: u64,
    host: u64,
}

/// RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, RIP, RFLAGS.
type Registers = [u64; 18];
const RSP: usize = 6;
const RIP: usize = 16;
const RFLAGS: usize = 17;

// kvm_sregs: eight segments of 24 bytes, two tables of 16, control registers.
const CS: usize = 0;
const CR0: usize = 224;

std::arch::global_asm!(
    ".pushsection .rodata",
    // Sums 1 to 1000 and says so on port 0xe9; goes through a software interrupt.
    ".code16",
    "real_code:",
    // The vector's offset and segment.
    ".byte 0xc7, 0x06",
    ".word 0x100, (2f - real_code) + 0x1000",
    ".byte 0xc7, 0x06",
    ".word 0x102, 0",
    "xor ax, ax",
    "mov cx, 1000",
    "1: add ax, cx",
    "loop 1b",
    "int 0x40",
    "hlt",
    "2: mov dx, 0xe9",
    "out dx, ax",
    "iret",
    "real_code_end:",
    // Fills 24 MiB, sums them up, and tells the sum; CPUID and a device in between.
    ".code64",
    "long_code:",
    "mov rdi, 0x800000",
    "mov rcx, 0x300000",
    "mov rax, 0x1234567",
    "1: mov [rdi], rax",
    "imul rax, rax, 0x5851f42d",
    "add rax, 0x14057b7e",
    "add rdi, 8",
    "test edi, 0xfffff",
    "jnz 3f",
    "push rax",
    "push rcx",
    "xor eax, eax",
    "cpuid",
    "pop rcx",
    "pop rax",
    "3: dec rcx",
    "cmp rcx, 0x200000",
    "ja 1b",
    "mov rdi, 0x800000",
    "mov rcx, 0x100000",
    "xor ebx, ebx",
    "1: add rbx, [rdi]",
    "rol rbx, 3",
    "add rdi, 8",
    "loop 1b",
    "mov rdi, 0x40000000",
    "mov [rdi + 16], rbx",
    "mov eax, [rdi + 32]",
    "mov dx, 0xe9",
    "out dx, eax",
    "hlt",
    "long_code_end:",
    ".popsection",
);

unsafe extern "C" {
    static real_code: u8;
    static real_code_end: u8;
    static long_code: u8;
    static long_code_end: u8;
}

fn fail(what: &str) -> ! {
    println!("rhea-nested: {what}: {}", std::io::Error::last_os_error());
    exit(1);
}

fn checked(what: &str, result: c_int) -> c_int {
    if result < 0 { fail(what) } else { result }
}

struct Machine {
    vm: c_int,
    vcpu: c_int,
    memory: *mut u8,
    run: *mut u8,
    run_size: usize,
}

impl Machine {
    fn new(kvm: c_int, code: &[u8]) -> Self {
        unsafe {
            let vm = checked("KVM_CREATE_VM", ioctl(kvm, CREATE_VM, 0));
            let memory =
                mmap(std::ptr::null_mut(), SIZE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0).cast::<u8>();
            std::ptr::copy_nonoverlapping(code.as_ptr(), memory.add(CODE), code.len());
            let slot =
                Slot { number: 0, flags: 0, physical: 0, size: SIZE as u64, host: memory as u64 };
            checked("KVM_SET_USER_MEMORY_REGION", ioctl(vm, SET_USER_MEMORY_REGION, &slot));
            let vcpu = checked("KVM_CREATE_VCPU", ioctl(vm, CREATE_VCPU, 0));
            let run_size = checked("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, GET_VCPU_MMAP_SIZE, 0));
            let run_size = run_size as usize;
            let run = mmap(std::ptr::null_mut(), run_size, READ_WRITE, SHARED, vcpu, 0).cast();
            // Features as the kernel offers them: a count, padding, and entries of 40 bytes.
            let mut cpuid = vec![0u32; 2 + 10 * 256];
            cpuid[0] = 256;
            checked("KVM_GET_SUPPORTED_CPUID", ioctl(kvm, GET_SUPPORTED_CPUID, cpuid.as_mut_ptr()));
            checked("KVM_SET_CPUID2", ioctl(vcpu, SET_CPUID2, cpuid.as_ptr()));
            Machine { vm, vcpu, memory, run, run_size }
        }
    }

    fn start(&self, long: bool) {
        let mut sregs = [0u8; 312];
        let mut regs: Registers = [0; 18];
        (regs[RIP], regs[RSP], regs[RFLAGS]) = (CODE as u64, 0x8000, 2);
        unsafe {
            checked("KVM_GET_SREGS", ioctl(self.vcpu, GET_SREGS, sregs.as_mut_ptr()));
            let put = |sregs: &mut [u8], at: usize, value: u64| {
                sregs[at..at + 8].copy_from_slice(&value.to_le_bytes());
            };
            for segment in 0..6 {
                put(&mut sregs, CS + 24 * segment, 0);
                sregs[CS + 24 * segment + 12..][..2].fill(0);
            }
            if long {
                for segment in 0..6 {
                    let at = CS + 24 * segment;
                    sregs[at + 8..at + 12].fill(0xff);
                    // Selector, type, present, DPL, D/B, S, L, G.
                    let code = segment == 0;
                    let selector = if code { 8 } else { 16 };
                    let kind = if code { 11 } else { 3 };
                    sregs[at + 12..at + 20].copy_from_slice(&[
                        selector, 0, kind, 1, 0, u8::from(!code), 1, u8::from(code),
                    ]);
                    sregs[at + 20] = 1;
                }
                let tables = self.memory.add(TABLES).cast::<u64>();
                *tables = TABLES as u64 + 0x1003;
                *tables.add(512) = TABLES as u64 + 0x2003;
                *tables.add(513) = 0x4000_0083;
                for page in 0..512 {
                    *tables.add(1024 + page) = (page as u64) << 21 | 0x83;
                }
                put(&mut sregs, CR0, 0x8000_0033);
                put(&mut sregs, CR0 + 16, TABLES as u64);
                put(&mut sregs, CR0 + 24, 0x620);
                // CR8, then EFER.
                put(&mut sregs, CR0 + 40, 0x500);
            }
            checked("KVM_SET_SREGS", ioctl(self.vcpu, SET_SREGS, sregs.as_ptr()));
            checked("KVM_SET_REGS", ioctl(self.vcpu, SET_REGS, regs.as_ptr()));
        }
    }

    fn field<T: Copy>(&self, at: usize) -> T {
        unsafe { self.run.add(at).cast::<T>().read_unaligned() }
    }

    /// Runs until HLT; what was written to the port and to the device.
    fn run(&self) -> (u64, u64) {
        let (mut port, mut device) = (0, 0);
        loop {
            checked("KVM_RUN", unsafe { ioctl(self.vcpu, RUN, 0) });
            match self.field::<u32>(8) {
                EXIT_IO => {
                    let data = self.field::<u64>(40) as usize;
                    port = match self.field::<u8>(33) {
                        2 => self.field::<u16>(data).into(),
                        _ => self.field::<u32>(data).into(),
                    };
                }
                EXIT_MMIO if self.field::<u8>(52) != 0 => {
                    device = self.field(40);
                    assert_eq!(self.field::<u64>(32), 0x4000_0010);
                }
                EXIT_MMIO => unsafe { self.run.add(40).cast::<u32>().write(0xcafe_f00d) },
                EXIT_HLT => return (port, device),
                reason => fail(&format!("exit {reason}")),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        unsafe {
            munmap(self.run.cast(), self.run_size);
            munmap(self.memory.cast(), SIZE);
            close(self.vcpu);
            close(self.vm);
        }
    }
}

/// What the guest in long mode computes.
fn wanted() -> u64 {
    let (mut word, mut sum) = (0x0123_4567u64, 0u64);
    for _ in 0..0x10_0000 {
        sum = sum.wrapping_add(word).rotate_left(3);
        word = word.wrapping_mul(0x5851_f42d).wrapping_add(0x1405_7b7e);
    }
    sum
}

fn main() {
    let code = |start: *const u8, end: *const u8| unsafe {
        std::slice::from_raw_parts(start, end.offset_from(start) as usize)
    };
    let real = code(&raw const real_code, &raw const real_code_end);
    let long = code(&raw const long_code, &raw const long_code_end);
    let kvm = checked("/dev/kvm", unsafe { open(c"/dev/kvm".as_ptr(), 2) });
    let wanted = wanted();
    for round in 1..=20 {
        let machine = Machine::new(kvm, real);
        machine.start(false);
        let (port, _) = machine.run();
        if port != 500_500 & 0xffff {
            fail(&format!("round {round}: real mode says {port:#x}"));
        }
        let machine = Machine::new(kvm, long);
        machine.start(true);
        let said = machine.run();
        if said != (0xcafe_f00d, wanted) {
            fail(&format!("round {round}: long mode says {said:x?}, not {wanted:#x}"));
        }
        println!("rhea-nested: round {round}");
    }
    println!("rhea-nested: all guests are right");
}
