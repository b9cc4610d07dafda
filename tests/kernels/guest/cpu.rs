//! Instructions by name.

use core::arch::asm;

macro_rules! control_registers {
    ($($read:ident $write:ident $name:literal;)*) => {$(
        pub fn $read() -> u64 {
            let value;
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value) };
            value
        }
        pub fn $write(value: u64) {
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value) };
        }
    )*};
}

control_registers! {
    cr0 set_cr0 "cr0";
    cr2 set_cr2 "cr2";
    cr3 set_cr3 "cr3";
    cr4 set_cr4 "cr4";
    cr8 set_cr8 "cr8";
    dr0 set_dr0 "dr0";
    dr1 set_dr1 "dr1";
    dr2 set_dr2 "dr2";
    dr3 set_dr3 "dr3";
    dr6 set_dr6 "dr6";
    dr7 set_dr7 "dr7";
}

pub mod cr0 {
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

pub mod cr4 {
    pub const VME: u64 = 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const PKE: u64 = 1 << 22;
    pub const PKS: u64 = 1 << 24;
    pub const LAM_SUP: u64 = 1 << 28;
}

pub mod flag {
    pub const CF: u64 = 1;
    pub const ZF: u64 = 1 << 6;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
}

pub mod msr {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PKRS: u32 = 0x6e1;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const TSC_RATIO: u32 = 0xc000_0104;
}

pub fn outb(port: u16, value: u8) {
    unsafe { asm!("out dx, al", in("dx") port, in("al") value) };
}
pub fn outw(port: u16, value: u16) {
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value) };
}
pub fn outl(port: u16, value: u32) {
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value) };
}
pub fn inb(port: u16) -> u8 {
    let value;
    unsafe { asm!("in al, dx", in("dx") port, out("al") value) };
    value
}
pub fn inw(port: u16) -> u16 {
    let value;
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value) };
    value
}
pub fn inl(port: u16) -> u32 {
    let value;
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value) };
    value
}

pub fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}
pub fn wrmsr(number: u32, value: u64) {
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32)
    };
}

pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// A bit that CPUID may show: leaf, subleaf, register (0: EAX ...), bit.
pub struct Feature(u32, u32, usize, u32);

impl Feature {
    pub fn offered(&self) -> bool {
        let highest = cpuid(self.0 & 0x8000_0000, 0)[0];
        self.0 <= highest && cpuid(self.0, self.1)[self.2] >> self.3 & 1 != 0
    }
}

pub mod feature {
    use super::Feature;
    pub const VME: Feature = Feature(1, 0, 3, 1);
    pub const PCID: Feature = Feature(1, 0, 2, 17);
    pub const CX16: Feature = Feature(1, 0, 2, 13);
    pub const X2APIC: Feature = Feature(1, 0, 2, 21);
    pub const TSC_DEADLINE: Feature = Feature(1, 0, 2, 24);
    pub const XSAVE: Feature = Feature(1, 0, 2, 26);
    pub const AVX: Feature = Feature(1, 0, 2, 28);
    pub const RDRAND: Feature = Feature(1, 0, 2, 30);
    pub const FSGSBASE: Feature = Feature(7, 0, 1, 0);
    pub const TSC_ADJUST: Feature = Feature(7, 0, 1, 1);
    pub const SMEP: Feature = Feature(7, 0, 1, 7);
    pub const INVPCID: Feature = Feature(7, 0, 1, 10);
    pub const SMAP: Feature = Feature(7, 0, 1, 20);
    pub const CLFLUSHOPT: Feature = Feature(7, 0, 1, 23);
    pub const CLWB: Feature = Feature(7, 0, 1, 24);
    pub const UMIP: Feature = Feature(7, 0, 2, 2);
    pub const PKU: Feature = Feature(7, 0, 2, 3);
    pub const LA57: Feature = Feature(7, 0, 2, 16);
    pub const RDPID: Feature = Feature(7, 0, 2, 22);
    pub const PKS: Feature = Feature(7, 0, 2, 31);
    pub const LAM: Feature = Feature(7, 1, 0, 26);
    pub const XSAVEOPT: Feature = Feature(13, 1, 0, 0);
    pub const XSAVEC: Feature = Feature(13, 1, 0, 1);
    pub const XGETBV1: Feature = Feature(13, 1, 0, 2);
    pub const XSAVES: Feature = Feature(13, 1, 0, 3);
    pub const GBPAGES: Feature = Feature(0x8000_0001, 0, 3, 26);
    pub const RDTSCP: Feature = Feature(0x8000_0001, 0, 3, 27);
    pub const SVM: Feature = Feature(0x8000_0001, 0, 2, 2);
    pub const NPT: Feature = Feature(0x8000_000a, 0, 3, 0);
    pub const NRIP_SAVE: Feature = Feature(0x8000_000a, 0, 3, 3);
    pub const TSC_SCALE: Feature = Feature(0x8000_000a, 0, 3, 4);
    pub const DECODE_ASSISTS: Feature = Feature(0x8000_000a, 0, 3, 7);
    pub const PAUSE_FILTER: Feature = Feature(0x8000_000a, 0, 3, 10);
    pub const PAUSE_THRESHOLD: Feature = Feature(0x8000_000a, 0, 3, 12);
    pub const VIRTUAL_BLOCKS: Feature = Feature(0x8000_000a, 0, 3, 15);
    pub const VNMI: Feature = Feature(0x8000_000a, 0, 3, 25);
}

/// Whether CPUID names AMD.
pub fn is_amd() -> bool {
    cpuid(0, 0)[1] == u32::from_le_bytes(*b"Auth")
}

pub fn invlpg(linear: u64) {
    unsafe { asm!("invlpg [{}]", in(reg) linear) };
}
