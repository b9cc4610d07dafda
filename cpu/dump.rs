//! The state as text, in the layout that readers of QEMU's logs know.

use std::fmt;

use crate::state::{CpuState, Segment, TableReg, efer};

/// Shows the state on several lines.
pub struct Dump<'a>(pub &'a CpuState);

const REGISTERS: [(&str, usize); 16] = [
    ("RAX", 0),
    ("RBX", 3),
    ("RCX", 1),
    ("RDX", 2),
    ("RSI", 6),
    ("RDI", 7),
    ("RBP", 5),
    ("RSP", 4),
    ("R8 ", 8),
    ("R9 ", 9),
    ("R10", 10),
    ("R11", 11),
    ("R12", 12),
    ("R13", 13),
    ("R14", 14),
    ("R15", 15),
];

fn segment(f: &mut fmt::Formatter<'_>, name: &str, s: &Segment) -> fmt::Result {
    // The descriptor's upper doubleword, with the limit's own bits left out.
    let flags = u32::from(s.attr) << 8;
    writeln!(f, "{name}={:04x} {:016x} {:08x} {flags:08x}", s.selector, s.base, s.limit)
}

fn table(f: &mut fmt::Formatter<'_>, name: &str, t: &TableReg) -> fmt::Result {
    writeln!(f, "{name}=     {:016x} {:08x}", t.base, t.limit)
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        for (n, (name, register)) in REGISTERS.iter().enumerate() {
            let end = if n % 4 == 3 { '\n' } else { ' ' };
            write!(f, "{name}={:016x}{end}", s.regs[*register])?;
        }
        let (smm, halted) = (u8::from(s.smm), u8::from(s.halted));
        writeln!(f, "RIP={:016x} RFL={:08x} SMM={smm} HLT={halted}", s.rip, s.flags.get())?;
        for (name, s) in ["ES ", "CS ", "SS ", "DS ", "FS ", "GS "].iter().zip(&s.seg) {
            segment(f, name, s)?;
        }
        segment(f, "LDT", &s.ldtr)?;
        segment(f, "TR ", &s.tr)?;
        table(f, "GDT", &s.gdtr)?;
        table(f, "IDT", &s.idtr)?;
        writeln!(f, "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x}", s.cr0, s.cr2, s.cr3, s.cr4)?;
        writeln!(f, "EFER={:016x}", s.msr.efer)
    }
}

/// Shows the floating-point and vector registers.
pub struct DumpFloatingPoint<'a>(pub &'a CpuState);

impl fmt::Display for DumpFloatingPoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, x87) = (self.0, &self.0.x87);
        let (status, top) = (x87.status(), x87.status() >> 11 & 7);
        writeln!(
            f,
            "FCW={:04x} FSW={status:04x} [ST={top}] FTW={:02x} MXCSR={:08x}",
            x87.control(),
            x87.abridged_tags(),
            s.mxcsr
        )?;
        let end = |n: usize| if n % 2 == 1 { '\n' } else { ' ' };
        for n in 0..8 {
            let register = x87.register(n as u8);
            let (significand, exponent) = (register.sig, register.sign_exp);
            write!(f, "FPR{n}={significand:016x} {exponent:04x}{}", end(n))?;
        }
        let vectors = if s.msr.efer & efer::LMA != 0 { 16 } else { 8 };
        for (n, register) in s.vec.iter().take(vectors).enumerate() {
            let low = register.0[0];
            write!(f, "XMM{n:02}={:016x} {:016x}{}", (low >> 64) as u64, low as u64, end(n))?;
        }
        Ok(())
    }
}
