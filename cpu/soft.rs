//! The software processor as an engine: between stretches of guest code it looks at the requests of
//! others and turns them into interrupts, resets and sleep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::clock::Clocks;

use crate::accel::TcgProps;
use crate::apic::LocalApic;
use crate::bus::TimeStamp;
use crate::icount::{Counted, Icount};
use crate::interp::RunExit;
use crate::signals::request;
use crate::state::CpuState;
use crate::svm::exit;
use crate::turns::{InTurn, Turns};
use crate::vcpu::{Engine, Exit};
use crate::{Cpu, Trap};

/// A time-stamp counter that follows the virtual clock, a tick a nanosecond.
pub struct VirtualTsc(pub Clocks);

impl TimeStamp for VirtualTsc {
    fn ticks(&self) -> u64 {
        self.0.now_virtual() as u64
    }
    fn frequency(&self) -> u64 {
        base::clock::SECOND as u64
    }
}

/// What the processors of a machine run on.
#[derive(Default)]
pub struct Software {
    /// The turn, where processors run one at a time.
    turns: Option<Arc<Turns>>,
    /// What instructions are counted by, if they are; sees to turns too.
    icount: Option<Arc<Icount>>,
    one_insn_per_block: bool,
    /// What the guest's random numbers follow from, if they are to be the same in every run.
    seed: Option<u64>,
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    translator: Translation,
}

/// The translator that processors share, made with the first of them.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[derive(Default)]
struct Translation {
    /// Bytes of its code cache; without, guest code is interpreted.
    size: Option<usize>,
    /// Every block is executed by the interpreter too.
    check: bool,
    made: std::sync::OnceLock<Option<Arc<crate::jit::Translator>>>,
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
impl Translation {
    fn get(&self) -> Option<&Arc<crate::jit::Translator>> {
        let make = if self.check {
            crate::jit::Translator::in_lock_step
        } else {
            crate::jit::Translator::new
        };
        let make = || match make(self.size?) {
            Ok(translator) => Some(translator),
            Err(error) => {
                base::warn_report!("guest code is interpreted: {error}");
                None
            }
        };
        self.made.get_or_init(make).as_ref()
    }
}

impl Software {
    /// The translator, or the interpreter where it is asked for, instructions are counted, or the host
    /// knows nothing else.
    pub fn new(props: &TcgProps, icount: Option<Arc<Icount>>, seed: Option<u64>) -> Self {
        // What one processor stores between two runs of a block would be lost on another.
        let turns = (props.thread == "single" || props.check).then(Arc::default);
        #[allow(unused_mut)] // Without a translator.
        let mut software = Software {
            turns,
            icount,
            one_insn_per_block: props.one_insn_per_tb,
            seed,
            ..Software::default()
        };
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if !props.interp && software.icount.is_none() {
            software.translator.check = props.check;
            software.translator.size = Some(match props.tb_size {
                0 => crate::jit::DEFAULT_SIZE,
                mib => (mib as usize) << 20,
            });
        }
        software
    }

    /// Tells what the translator has made, if there is one, or how the counter of instructions goes.
    pub fn translator_report(&self) -> Option<Arc<dyn Fn() -> String + Send + Sync>> {
        if let Some(icount) = self.icount.clone() {
            let one_insn = if self.one_insn_per_block { "on" } else { "off" };
            let settings = format!("Accelerator settings:\none-insn-per-tb: {one_insn}\n\n");
            return Some(Arc::new(move || settings.clone() + &icount.report()));
        }
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if let Some(translator) = self.translator.get().cloned() {
            let one_insn_per_block = self.one_insn_per_block;
            return Some(Arc::new(move || translator.report().text(one_insn_per_block)));
        }
        None
    }

    /// An engine for a processor and its APIC.
    pub fn engine(&self, mut cpu: Cpu, apic: Arc<LocalApic>, boot: bool) -> Box<dyn Engine> {
        cpu.one_insn_per_block = self.one_insn_per_block;
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if let Some(translator) = self.translator.get() {
            cpu.translate_by(translator);
        }
        if let Some(seed) = self.seed {
            cpu.seed_random(seed, apic.id());
        }
        cpu.counter = self.icount.as_ref().map(|icount| icount.counter());
        let signals = cpu.signals.clone();
        let engine = SoftEngine::new(cpu, apic, boot);
        match (&self.icount, &self.turns) {
            (Some(icount), _) => Box::new(Counted::new(engine, signals, icount)),
            (None, Some(turns)) => Box::new(InTurn::new(engine, signals, turns.clone())),
            (None, None) => Box::new(engine),
        }
    }
}

/// A processor run by the translator or the interpreter.
pub struct SoftEngine {
    cpu: Cpu,
    apic: Arc<LocalApic>,
    /// The first processor starts by itself, the others wait for a start-up IPI.
    boot: bool,
    waiting_for_startup: bool,
    /// How long others may take to start, while some are let.
    patient_until: Option<Instant>,
}

/// How many instructions a processor has executed when its start-up code is not needed any more; more
/// than any such code has before it goes elsewhere.
const FIRST_INSTRUCTIONS: u32 = 64;
/// How long a processor waits for others to begin.
const LONGEST_START: Duration = Duration::from_secs(1);

impl SoftEngine {
    /// An engine for a processor and its APIC.
    fn new(cpu: Cpu, apic: Arc<LocalApic>, boot: bool) -> Self {
        let mut engine =
            SoftEngine { cpu, apic, boot, waiting_for_startup: !boot, patient_until: None };
        engine.reset();
        engine
    }

    /// Tells the log that the state is about to go, and what it was.
    fn log_reset(&self) {
        if base::log::enabled(base::log::CPU_RESET) {
            let state = self.cpu.dump().floating_point(true);
            base::log::write(format_args!("CPU Reset (CPU {})\n{state}", self.cpu.index));
        }
    }

    /// What wakes a processor that sleeps.
    fn wake_mask(&self) -> u32 {
        let always = request::RESET | request::STOP | request::FLUSH_TLB;
        if self.waiting_for_startup {
            return always | request::INIT | request::SIPI;
        }
        always | self.cpu.signal_mask
    }

    /// Serves what is pending. Returns whether guest code may run.
    fn serve_requests(&mut self) -> Result<bool, Exit> {
        let signals = self.cpu.signals.clone();
        let stops = signals.pending() & (request::STOP | request::YIELD) != 0;
        if stops || self.lets_others_start() {
            return Err(Exit::Attention);
        }
        if signals.take(request::FLUSH_TLB) != 0 {
            self.cpu.mmu.flush_all(&self.cpu.bus);
        }
        if signals.pending() & self.cpu.signal_mask & request::INIT != 0
            && self.cpu.intercepts(exit::INIT)
        {
            after_delivery(self.cpu.exit_between(exit::INIT))?;
        }
        if signals.take(request::INIT & self.cpu.signal_mask) != 0 {
            if self.cpu.redirects_init() {
                after_delivery(self.cpu.deliver_redirected_init())?;
            } else {
                self.cpu.init();
                self.apic.init();
                self.wait_for_startup();
            }
        }
        self.start_up();
        if self.waiting_for_startup {
            return Ok(false);
        }
        self.deliver_interrupts()?;
        Ok(true)
    }

    /// All but the boot processor begin by a start-up IPI; until then they show themselves as halted.
    fn wait_for_startup(&mut self) {
        self.waiting_for_startup = !self.boot;
        self.cpu.state.halted = self.waiting_for_startup;
    }

    /// Begins if a start-up IPI came, which counts only while one is waited for.
    fn start_up(&mut self) {
        let signals = self.cpu.signals.clone();
        if signals.pending() & (request::SIPI | request::STARTING) == 0 {
            return;
        }
        if signals.take(request::SIPI) != 0 && self.waiting_for_startup {
            self.waiting_for_startup = false;
            self.cpu.sipi(self.apic.sipi_vector());
            self.cpu.run_first(FIRST_INSTRUCTIONS);
        }
        signals.take(request::STARTING);
    }

    /// Whether others that this processor sent a start-up IPI are to begin before it goes on.
    ///
    /// Processors begin within microseconds. Firmware counts on that: when it wakes a machine up it
    /// puts back what was in the place of the start-up code as soon as it has sent the IPI. A thread
    /// of a busy host may take longer, but not for ever.
    fn lets_others_start(&mut self) -> bool {
        let signals = &self.cpu.signals;
        if signals.pending() & request::LET_START == 0 {
            return false;
        }
        let until = *self.patient_until.get_or_insert_with(|| Instant::now() + LONGEST_START);
        if self.apic.others_start() && Instant::now() < until {
            std::thread::yield_now();
            return true;
        }
        signals.take(request::LET_START);
        self.patient_until = None;
        false
    }

    /// Delivers the one interrupt that comes first, if any (SDM vol. 3, table 6-2).
    fn deliver_interrupts(&mut self) -> Result<(), Exit> {
        let allowed = self.cpu.signal_mask;
        let signals = self.cpu.signals.clone();
        let waiting = signals.pending() & allowed;
        for (bit, code) in
            [(request::SMI, exit::SMI), (request::NMI, exit::NMI), (request::INTR, exit::INTR)]
        {
            // The event itself stays where it is, for the host.
            if waiting & bit != 0 && self.cpu.intercepts(code) {
                return after_delivery(self.cpu.exit_between(code));
            }
        }
        let delivered = if signals.take(request::SMI & allowed) != 0 {
            self.cpu.state.halted = false;
            self.cpu.enter_smm();
            Ok(())
        } else if allowed & request::NMI != 0 && signals.take_nmi() {
            self.cpu.state.halted = false;
            self.cpu.deliver_nmi()
        } else if signals.pending() & request::INTR & allowed != 0 {
            match self.apic.take_interrupt() {
                Some(vector) => {
                    self.cpu.state.halted = false;
                    self.cpu.deliver_interrupt(vector)
                }
                None => Ok(()),
            }
        } else if waiting & request::VIRQ != 0 {
            self.cpu.take_virtual_event()
        } else {
            Ok(())
        };
        after_delivery(delivered)
    }
}

/// A triple fault ends the run.
fn after_delivery(delivered: Result<(), Trap>) -> Result<(), Exit> {
    match delivered {
        Err(Trap::Shutdown) => Err(Exit::Shutdown),
        _ => Ok(()),
    }
}

impl Engine for SoftEngine {
    fn run(&mut self) -> Exit {
        loop {
            match self.serve_requests() {
                Ok(true) => {}
                Ok(false) => return Exit::Halted { wake: self.wake_mask() },
                Err(exit) => return exit,
            }
            match self.cpu.run() {
                RunExit::Signal => {}
                RunExit::Halted => return Exit::Halted { wake: self.wake_mask() },
                RunExit::Shutdown => {
                    base::log_item!(base::log::CPU_RESET, "Triple fault");
                    return Exit::Shutdown;
                }
                RunExit::Failed => {
                    return Exit::Failed(self.cpu.failure.take().unwrap_or_default());
                }
            }
        }
    }

    fn reset(&mut self) {
        self.log_reset();
        self.cpu.reset();
        self.apic.reset();
        self.cpu.state.msr.apic_base = self.apic.base();
        self.cpu.signals.take(request::AT_RESET);
        self.wait_for_startup();
    }

    fn with_state(&mut self, change: &mut dyn FnMut(&mut CpuState)) {
        change(&mut self.cpu.state);
        self.cpu.update_mode();
        self.cpu.mmu.flush_all(&self.cpu.bus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::ApicFabric;
    use crate::bus::ApicPage;
    use crate::testbed::Testbed;

    #[test]
    fn who_is_told_to_start_begins_before_the_teller_goes_on() {
        let (clocks, fabric) = (Clocks::new(), ApicFabric::new());
        let engine = |bed: Testbed, number: u32| {
            let tsc = Arc::new(VirtualTsc(clocks.clone()));
            let (signals, boot) = (bed.cpu.signals.clone(), number == 0);
            let apic = LocalApic::new(number, boot, signals, &fabric, &clocks, tsc);
            SoftEngine::new(bed.cpu, apic, boot)
        };
        let bed = Testbed::new().unwrap();
        // mov byte [0x9000], 1; hlt
        bed.ram.write(0x8000, &[0xc6, 0x06, 0x00, 0x90, 0x01, 0xf4]);
        let ram = bed.ram.clone();
        let mut second = engine(bed.beside(), 1);
        let mut first = engine(bed, 0);
        let command = |low: u32| {
            first.apic.write(0x310, 4, 1 << 24);
            first.apic.write(0x300, 4, low);
        };
        command(0x4500);
        command(0x4608);
        assert_eq!(first.serve_requests(), Err(Exit::Attention));
        assert_eq!(first.serve_requests(), Err(Exit::Attention));
        assert_eq!(second.serve_requests(), Ok(true));
        assert_eq!((ram.read_uint(0x9000, 1), second.cpu.state.halted), (1, true));
        assert_eq!(first.serve_requests(), Ok(true));
        // Who runs already is not waited for once it knows.
        first.apic.write(0x300, 4, 0x4608);
        assert_eq!(second.serve_requests(), Ok(true));
        assert_eq!(first.serve_requests(), Ok(true));
    }
}
