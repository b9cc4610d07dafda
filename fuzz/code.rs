//! Arbitrary bytes as guest code, in each mode.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use cpu::interp::RunExit;
use cpu::signals::{Signals, request};
use cpu::state::{Seg, Segment, TableReg, attr, cr0, cr4, efer};
use cpu::testbed::{RAM, Testbed};

/// Where code goes.
const CODE: u64 = 0x8000;
/// Where the stack, the descriptor tables and the task state lie.
const STACK: u64 = 0x7000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
/// What interrupt gates lead to: a halt.
const HANDLER: u64 = 0x4000;
const HLT: u8 = 0xf4;
/// A loop that ends by itself is not waited for any longer.
const PATIENCE: Duration = Duration::from_millis(3);
/// Pieces of code of one input.
const MOST_PIECES: usize = 16;

/// Flags a guest may begin with: not TF, which it can set itself, and VM by the mode only.
const FLAGS: u64 = 0x24_0ed5;
const VM: u64 = 1 << 17;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Mode {
    Real,
    Protected16,
    Protected32,
    Virtual8086,
    Long,
    Compatibility,
}

/// Pieces of code, and the state they run from.
#[derive(Arbitrary, Debug)]
pub struct Code<'a> {
    mode: Mode,
    user: bool,
    paging: bool,
    flags: u64,
    cr0: u64,
    cr4: u64,
    regs: [u32; 16],
    descriptors: [u64; 4],
    /// Each piece runs where the one before it ended in a halt, a triple fault or a loop.
    pieces: Vec<&'a [u8]>,
}

/// Takes a processor out of a loop if it is not told in time that it has left. It does not fall behind:
/// each message keeps a whole translator.
struct Watchdog(SyncSender<Option<Arc<Signals>>>);

impl Watchdog {
    fn start() -> Self {
        let (sender, receiver) = sync_channel::<Option<Arc<Signals>>>(1);
        std::thread::spawn(move || {
            while let Ok(message) = receiver.recv() {
                let Some(signals) = message else { continue };
                match receiver.recv_timeout(PATIENCE) {
                    Err(RecvTimeoutError::Timeout) => {
                        signals.post(request::STOP);
                        let _ = receiver.recv();
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(_) => {}
                }
            }
        });
        Watchdog(sender)
    }

    fn run(&self, bed: &mut Testbed, rip: u64) -> RunExit {
        let signals = bed.cpu.signals.clone();
        let alive = self.0.send(Some(signals.clone())).is_ok();
        let exit = bed.run(rip);
        // Had it been late, its post belongs to this run.
        let told = self.0.send(None).is_ok();
        assert!(alive && told, "the watchdog died");
        signals.take(!0);
        exit
    }
}

fn descriptor(kind: u64) -> u64 {
    // Base 0, limit 4 GiB.
    0x008f_0000_0000_ffff | kind << 40
}

impl Code<'_> {
    fn cpl(&self) -> u16 {
        match self.mode {
            Mode::Real => 0,
            Mode::Virtual8086 => 3,
            _ if self.user => 3,
            _ => 0,
        }
    }

    fn set_up(&self, bed: &mut Testbed) {
        let long = matches!(self.mode, Mode::Long | Mode::Compatibility);
        self.tables(bed, long);
        let cpl = self.cpl();
        let state = &mut bed.cpu.state;
        for (reg, value) in state.regs.iter_mut().zip(self.regs) {
            *reg = value.into();
        }
        state.regs[4] = STACK;
        let fpu = cr0::TS | cr0::EM | cr0::MP | cr0::NE | cr0::AM | cr0::WP;
        state.cr0 = cr0::ET | self.cr0 & fpu;
        let extensions = cr4::VME | cr4::PVI | cr4::TSD | cr4::DE | cr4::UMIP | cr4::SMAP;
        state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | self.cr4 & extensions;
        if !matches!(self.mode, Mode::Real) {
            state.cr0 |= cr0::PE;
        }
        if long {
            // Page tables are the testbed's.
            state.cr0 |= cr0::PG;
            state.cr4 |= cr4::PAE;
        } else {
            state.msr.efer = efer::NXE;
            if self.paging && !matches!(self.mode, Mode::Real) {
                state.cr0 |= cr0::PG;
                state.cr4 |= cr4::PSE;
                state.cr3 = 0x5000;
            }
        }
        state.gdtr = TableReg { base: GDT, limit: 0xff };
        state.idtr =
            TableReg { base: if state.cr0 & cr0::PE != 0 { IDT } else { 0 }, limit: 0xfff };
        let vm = if let Mode::Virtual8086 = self.mode { VM } else { 0 };
        state.flags.set(self.flags & FLAGS & !VM | vm | 2);
        state.tr = Segment { selector: 0x40, base: TSS, limit: 0x20ff, attr: 0x8b };
        let dpl = cpl << attr::DPL_SHIFT;
        let common = attr::PRESENT | attr::S | dpl;
        let (code, size) = match self.mode {
            Mode::Long => (attr::LONG | attr::GRANULAR, attr::BIG | attr::GRANULAR),
            Mode::Protected32 | Mode::Compatibility => {
                (attr::BIG | attr::GRANULAR, attr::BIG | attr::GRANULAR)
            }
            _ => (0, 0),
        };
        let limit = if size == 0 { 0xffff } else { u32::MAX };
        let real = matches!(self.mode, Mode::Real | Mode::Virtual8086);
        for seg in &mut state.seg {
            let selector = if real { 0 } else { 0x10 | cpl };
            *seg = Segment { selector, base: 0, limit, attr: common | size | 3 };
        }
        if !real {
            state.seg[Seg::Cs as usize] =
                Segment { selector: 8 | cpl, base: 0, limit, attr: common | code | 0xb };
        }
        bed.cpu.shutdown = false;
        bed.cpu.mmu.flush_all(&bed.cpu.bus);
        bed.cpu.update_mode();
    }

    fn tables(&self, bed: &Testbed, long: bool) {
        let ram = &bed.ram;
        let size = match self.mode {
            Mode::Long => 0x20_u64 << 48,
            Mode::Protected32 | Mode::Compatibility => 0x40 << 48,
            _ => 0,
        };
        let dpl = u64::from(self.cpl()) << 5;
        ram.write_uint(GDT + 8, 8, descriptor(0x9b | dpl) | size);
        ram.write_uint(GDT + 0x10, 8, descriptor(0x93 | dpl) | size);
        ram.write_uint(
            GDT + 0x18,
            8,
            descriptor(0x9b) | if long { 0x20 << 48 } else { 0x40 << 48 },
        );
        ram.write_uint(GDT + 0x20, 8, descriptor(0x93) | 0x40 << 48);
        for (n, &value) in (0..).zip(&self.descriptors) {
            ram.write_uint(GDT + 0x28 + 8 * n, 8, value);
        }
        // Interrupt gates to the halt; real mode's table lies at address 0.
        for vector in 0..256 {
            let gate = 0x8e00_0018_4000 & 0xffff | 0x18 << 16 | 0x8e00_u64 << 32;
            if long {
                ram.write_uint(IDT + 16 * vector, 8, gate);
                ram.write_uint(IDT + 16 * vector + 8, 8, 0);
            } else {
                ram.write_uint(IDT + 8 * vector, 8, gate);
            }
            ram.write_uint(4 * vector, 4, HANDLER);
        }
        ram.write_uint(HANDLER, 1, HLT.into());
        // Stacks of the inner level: SP0 and SS0, or RSP0.
        if long {
            ram.write_uint(TSS + 4, 8, STACK - 0x800);
        } else {
            ram.write_uint(TSS + 4, 8, (STACK - 0x800) | 0x20 << 32);
        }
        ram.write_uint(TSS + 0x66, 2, 0x68);
        // Paging without PAE: 4 MiB pages onto themselves.
        for n in 0..1024 {
            ram.write_uint(0x5000 + 4 * n, 4, n << 22 | 0x87);
        }
    }
}

impl Code<'_> {
    /// Runs the pieces one after the other; `ended` is told how.
    pub fn run(&self, bed: &mut Testbed, mut ended: impl FnMut(&Testbed, RunExit)) {
        static WATCHDOG: OnceLock<Watchdog> = OnceLock::new();
        let watchdog = WATCHDOG.get_or_init(Watchdog::start);
        for piece in self.pieces.iter().take(MOST_PIECES) {
            self.set_up(bed);
            let end = CODE + piece.len().min((RAM - CODE) as usize / 2) as u64;
            bed.ram.write(CODE, &piece[..(end - CODE) as usize]);
            bed.ram.write(end, &[HLT; 16]);
            let exit = watchdog.run(bed, CODE);
            ended(bed, exit);
        }
    }
}
