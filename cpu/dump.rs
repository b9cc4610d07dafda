//! The state as text, in the layout that readers of QEMU's logs know.

use std::fmt;

use crate::flags::bit;
use crate::mode::Mode;
use crate::state::{CpuState, Segment, TableReg, attr, cr0, efer};

/// Shows the state on several lines.
#[derive(Clone, Copy)]
pub struct Dump<'a> {
    state: &'a CpuState,
    a20: bool,
    condition_codes: bool,
    floating_point: bool,
}

const REGISTERS: [(&str, usize); 16] = [
    ("AX", 0),
    ("BX", 3),
    ("CX", 1),
    ("DX", 2),
    ("SI", 6),
    ("DI", 7),
    ("BP", 5),
    ("SP", 4),
    ("R8 ", 8),
    ("R9 ", 9),
    ("R10", 10),
    ("R11", 11),
    ("R12", 12),
    ("R13", 13),
    ("R14", 14),
    ("R15", 15),
];

/// Flags by letter, from the highest.
const FLAGS: [(u64, char); 7] = [
    (bit::OF, 'O'),
    (bit::DF, 'D'),
    (bit::SF, 'S'),
    (bit::ZF, 'Z'),
    (bit::AF, 'A'),
    (bit::PF, 'P'),
    (bit::CF, 'C'),
];

impl<'a> Dump<'a> {
    /// General, segment, control and debug registers.
    pub fn new(state: &'a CpuState) -> Self {
        Dump { state, a20: true, condition_codes: false, floating_point: false }
    }

    /// With the A20 gate, which is the board's, as it is.
    pub fn a20(self, open: bool) -> Self {
        Dump { a20: open, ..self }
    }

    /// With where the arithmetic flags come from: from RFLAGS, always.
    pub fn condition_codes(self) -> Self {
        Dump { condition_codes: true, ..self }
    }

    /// With floating-point and vector registers.
    pub fn floating_point(self, shown: bool) -> Self {
        Dump { floating_point: shown, ..self }
    }

    /// Whether segments and tables are shown with 64 bits.
    fn is_long(&self) -> bool {
        self.state.msr.efer & efer::LMA != 0
    }

    fn segment(&self, f: &mut fmt::Formatter<'_>, name: &str, s: &Segment) -> fmt::Result {
        let digits = if self.is_long() { 16 } else { 8 };
        // The descriptor's upper doubleword.
        let scale = if s.attr & attr::GRANULAR != 0 { 12 } else { 0 };
        let flags = u32::from(s.attr) << 8 | s.limit >> scale & 0xf_0000;
        write!(f, "{name}={:04x} {:0digits$x} {:08x} {flags:08x}", s.selector, s.base, s.limit)?;
        if self.state.cr0 & cr0::PE != 0 && s.present() {
            write!(f, " DPL={} ", s.dpl())?;
            self.kind(f, s)?;
        }
        writeln!(f)
    }

    /// What kind of segment it is.
    fn kind(&self, f: &mut fmt::Formatter<'_>, s: &Segment) -> fmt::Result {
        let letter = |bit: u16, letter: char| if s.attr & bit != 0 { letter } else { '-' };
        let big = s.attr & attr::BIG != 0;
        let (first, second) = (attr::EXPAND_DOWN_OR_CONFORMING, attr::WRITABLE_OR_READABLE);
        const ACCESSED: u16 = 1;
        if s.attr & attr::S == 0 {
            let tss = if self.is_long() { "TSS64" } else { "TSS32" };
            return match s.attr & 0xf {
                1 => write!(f, "TSS16-avl"),
                2 => write!(f, "LDT"),
                3 => write!(f, "TSS16-busy"),
                9 => write!(f, "{tss}-avl"),
                0xb => write!(f, "{tss}-busy"),
                _ => write!(f, "Reserved"),
            };
        }
        let accessed = letter(ACCESSED, 'A');
        if s.attr & attr::CODE != 0 {
            let width = match s.attr & attr::LONG != 0 {
                true => 64,
                false if big => 32,
                false => 16,
            };
            let (conforming, readable) = (letter(first, 'C'), letter(second, 'R'));
            return write!(f, "CS{width} [{conforming}{readable}{accessed}]");
        }
        let width = if big || self.is_long() { "  " } else { "16" };
        write!(f, "DS{width} [{}{}{accessed}]", letter(first, 'E'), letter(second, 'W'))
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, name: &str, t: &TableReg) -> fmt::Result {
        let digits = if self.is_long() { 16 } else { 8 };
        writeln!(f, "{name}=     {:0digits$x} {:08x}", t.base, t.limit)
    }
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.state;
        let mode = Mode::of(s);
        let wide = mode.code_bits == 64;
        let (letter, digits, count) = if wide { ("R", 16, 16) } else { ("E", 8, 8) };
        let mask = if wide { !0 } else { 0xffff_ffff };
        for (n, (name, register)) in REGISTERS.iter().enumerate().take(count) {
            let letter = if n < 8 { letter } else { "" };
            let end = if n % 4 == 3 { '\n' } else { ' ' };
            write!(f, "{letter}{name}={:0digits$x}{end}", s.regs[*register] & mask)?;
        }
        let flags = s.flags.get();
        let letters: String =
            FLAGS.map(|(bit, letter)| if flags & bit != 0 { letter } else { '-' }).iter().collect();
        writeln!(
            f,
            "{letter}IP={:0digits$x} {letter}FL={flags:08x} [{letters}] CPL={} II={} A20={} SMM={} HLT={}",
            s.rip & mask,
            mode.cpl,
            u8::from(s.interrupt_shadow),
            u8::from(self.a20),
            u8::from(s.smm),
            u8::from(s.halted)
        )?;
        for (name, segment) in ["ES ", "CS ", "SS ", "DS ", "FS ", "GS "].iter().zip(&s.seg) {
            self.segment(f, name, segment)?;
        }
        self.segment(f, "LDT", &s.ldtr)?;
        self.segment(f, "TR ", &s.tr)?;
        self.table(f, "GDT", &s.gdtr)?;
        self.table(f, "IDT", &s.idtr)?;
        let address = if self.is_long() { 16 } else { 8 };
        let (cr0, cr2, cr3, cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
        writeln!(f, "CR0={cr0:08x} CR2={cr2:0address$x} CR3={cr3:0address$x} CR4={cr4:08x}")?;
        for n in 0..4 {
            write!(f, "DR{n}={:016x} ", s.dr[n])?;
        }
        writeln!(f, "\nDR6={:016x} DR7={:016x}", s.dr[6], s.dr[7])?;
        if self.condition_codes {
            let source = flags & (bit::OF | bit::SF | bit::ZF | bit::AF | bit::PF | bit::CF);
            writeln!(f, "CCS={source:0digits$x} CCD={:0digits$x} CCO=EFLAGS", 0)?;
        }
        writeln!(f, "EFER={:016x}", s.msr.efer)?;
        if self.floating_point { floating_point(f, s, count) } else { Ok(()) }
    }
}

/// Shows the floating-point registers and as many vector registers.
fn floating_point(f: &mut fmt::Formatter<'_>, s: &CpuState, vectors: usize) -> fmt::Result {
    let x87 = &s.x87;
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
    for (n, register) in s.vec.iter().take(vectors).enumerate() {
        let low = register.0[0];
        write!(f, "XMM{n:02}={:016x} {:016x}{}", (low >> 64) as u64, low as u64, end(n))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Seg;

    /// As QEMU 10.0 shows a processor after RESET, but for what models differ in.
    #[test]
    fn real_mode_is_shown_with_32_bits() {
        let state = CpuState::at_reset(0x663);
        let text = Dump::new(&state).condition_codes().to_string();
        let expected = "\
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000663
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0000 00000000 0000ffff 00009300
CS =f000 ffff0000 0000ffff 00009b00
SS =0000 00000000 0000ffff 00009300
DS =0000 00000000 0000ffff 00009300
FS =0000 00000000 0000ffff 00009300
GS =0000 00000000 0000ffff 00009300
LDT=0000 00000000 0000ffff 00008200
TR =0000 00000000 0000ffff 00008b00
GDT=     00000000 0000ffff
IDT=     00000000 0000ffff
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 
DR6=00000000ffff0ff0 DR7=0000000000000400
CCS=00000000 CCD=00000000 CCO=EFLAGS
EFER=0000000000000000
";
        assert_eq!(text, expected);
    }

    #[test]
    fn segments_are_described_in_protected_mode() {
        let mut state = CpuState::at_reset(0);
        state.cr0 |= cr0::PE;
        let segment = |attr| Segment { selector: 0x10, base: 0, limit: u32::MAX, attr };
        state.seg[Seg::Cs as usize] = segment(0xc0fb);
        state.seg[Seg::Ds as usize] = segment(0xc093);
        state.seg[Seg::Es as usize] = Segment { limit: 0xffff, ..segment(0x0097) };
        state.seg[Seg::Gs as usize] = Segment::default();
        let text = Dump::new(&state).to_string();
        for line in [
            "CS =0010 00000000 ffffffff 00cffb00 DPL=3 CS32 [-RA]\n",
            "DS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\n",
            "ES =0010 00000000 0000ffff 00009700 DPL=0 DS16 [EWA]\n",
            "GS =0000 00000000 00000000 00000000\n",
            "TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        state.msr.efer |= efer::LMA;
        state.seg[Seg::Cs as usize] = segment(0xa09b);
        let text = Dump::new(&state).floating_point(true).to_string();
        for line in [
            "RIP=000000000000fff0 RFL=00000002 [-------] CPL=0",
            "CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\n",
            "TR =0000 0000000000000000 0000ffff 00008b00 DPL=0 TSS64-busy\n",
            "XMM14=0000000000000000 0000000000000000 XMM15=",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
