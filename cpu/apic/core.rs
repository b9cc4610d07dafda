//! The chip itself: registers and priorities.

use base::interrupt::{ApicMessage, BROADCAST, DeliveryMode, DestinationMode, Trigger};
use base::state::{State, StateError};

use super::regs::{VERSION, apic_base, esr, icr, lvt, reg, svr};
use super::timer::{Mode, Moment, Now, TimerState};
use super::vectors::Vectors;
use crate::signals::request;

/// Everything that a snapshot saves.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(version = 1, reset, check)]
pub struct ApicState {
    #[state(reset = 0xfee0_0000 | apic_base::ENABLED)]
    base: u64,
    tpr: u8,
    ldr: u32,
    #[state(reset = !0)]
    dfr: u32,
    #[state(reset = 0xff)]
    svr: u32,
    esr: u32,
    /// Errors since the ESR was last written.
    errors: u32,
    icr: u64,
    #[state(reset = [lvt::MASKED; lvt::COUNT])]
    lvt: [u32; lvt::COUNT],
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    timer: TimerState,
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
    /// A message told that the 8259 has an interrupt.
    external: bool,
    /// Vector of the last start-up IPI.
    sipi: u8,
}

impl ApicState {
    fn check(&self) -> Result<(), StateError> {
        let lowest_real = |set: &Vectors| set.word(0) & 0xffff == 0;
        if !lowest_real(&self.irr) || !lowest_real(&self.isr) {
            return Err(StateError::invalid("vectors below 16 are never accepted"));
        }
        if self.base & (apic_base::ENABLED | apic_base::X2APIC) == apic_base::X2APIC {
            return Err(StateError::invalid("x2APIC mode without the APIC being enabled"));
        }
        Ok(())
    }
}

/// Whom an interprocessor interrupt goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Recipients {
    Destination,
    Myself,
    All,
    Others,
}

/// An interprocessor interrupt on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// Who gets it.
    pub recipients: Recipients,
    /// What they get.
    pub message: ApicMessage,
}

/// What is left for the shell to do after a register was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Done,
    /// Send this to the other local APICs.
    Send(Ipi),
    /// Tell the I/O APICs of the end of a level-triggered interrupt.
    Broadcast(u8),
}

/// One local APIC.
#[derive(Clone, Debug)]
pub struct ApicCore {
    id: u32,
    st: ApicState,
}

impl ApicCore {
    /// The APIC of the processor with this APIC ID, as after power-up.
    pub fn new(id: u32, bsp: bool) -> Self {
        let mut core = ApicCore { id, st: ApicState::default() };
        if bsp {
            core.st.base |= apic_base::BSP;
        }
        core.clear();
        core
    }

    /// RESET.
    pub fn reset(&mut self) {
        self.st.base = ApicState::default().base | self.st.base & apic_base::BSP;
        self.st.timer.tsc_offset = 0;
        self.clear();
    }

    /// INIT: as RESET, but mode and base address stay.
    pub fn init(&mut self) {
        self.clear();
    }

    fn clear(&mut self) {
        let timer = self.st.timer.cleared();
        let ApicState { base, lint, sipi, .. } = self.st;
        self.st = ApicState { base, lint, sipi, timer, ..ApicState::default() };
        if self.is_bsp() {
            // Virtual-wire mode: until firmware programs the APIC, the boot processor takes
            // interrupts from the 8259.
            self.st.lvt[lvt::LINT0] = (DeliveryMode::ExtInt as u32) << 8;
        }
        if self.x2apic() {
            self.st.ldr = self.x2apic_ldr();
        }
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The saved state.
    pub fn state(&self) -> &ApicState {
        &self.st
    }

    /// Replaces the state, as when a snapshot is loaded.
    pub fn set_state(&mut self, state: ApicState) {
        self.st = state;
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.st.base
    }

    /// IA32_APIC_BASE was written, with a value whose transition is allowed.
    pub fn set_base(&mut self, value: u64) {
        let bsp = self.st.base & apic_base::BSP;
        let before = self.st.base & (apic_base::ENABLED | apic_base::X2APIC);
        self.st.base = value & !apic_base::BSP | bsp;
        let after = value & (apic_base::ENABLED | apic_base::X2APIC);
        if before != after && after & apic_base::ENABLED == 0 {
            // Disabling loses everything; it comes back as after power-up (SDM vol. 3, 12.4.3).
            self.clear();
        }
        if self.x2apic() {
            self.st.ldr = self.x2apic_ldr();
        }
    }

    /// Whether this is the boot processor's.
    pub fn is_bsp(&self) -> bool {
        self.st.base & apic_base::BSP != 0
    }

    fn hardware_enabled(&self) -> bool {
        self.st.base & apic_base::ENABLED != 0
    }

    pub(super) fn x2apic(&self) -> bool {
        let both = apic_base::ENABLED | apic_base::X2APIC;
        self.st.base & both == both
    }

    fn software_enabled(&self) -> bool {
        self.hardware_enabled() && self.st.svr & svr::ENABLED != 0
    }

    /// Vector of the last start-up IPI.
    pub fn sipi_vector(&self) -> u8 {
        self.st.sipi
    }

    // Priorities (SDM vol. 3, 12.8.3).

    /// Task priority.
    pub fn tpr(&self) -> u8 {
        self.st.tpr
    }

    /// Sets the task priority.
    pub fn set_tpr(&mut self, value: u8) {
        self.st.tpr = value;
    }

    /// Processor priority: the higher class of the task and of the interrupt in service.
    pub fn ppr(&self) -> u8 {
        let serving = self.st.isr.highest().unwrap_or(0) & 0xf0;
        if self.st.tpr & 0xf0 >= serving { self.st.tpr } else { serving }
    }

    /// Arbitration priority, by which the receiver of a lowest-priority interrupt is found.
    pub fn apr(&self) -> u8 {
        let class = |vector: Option<u8>| vector.unwrap_or(0) & 0xf0;
        let (irr, isr) = (class(self.st.irr.highest()), class(self.st.isr.highest()));
        if self.st.tpr & 0xf0 >= irr && self.st.tpr & 0xf0 > isr {
            self.st.tpr
        } else {
            (self.st.tpr & 0xf0).max(irr).max(isr)
        }
    }

    /// Whether this processor already deals with `vector`, and so is the focus of it.
    pub fn is_focus(&self, vector: u8) -> bool {
        self.st.svr & svr::FOCUS_DISABLED == 0
            && (self.st.irr.contains(vector) || self.st.isr.contains(vector))
    }

    /// The interrupt that may be taken now.
    fn deliverable(&self) -> Option<u8> {
        let vector = self.st.irr.highest()?;
        (self.software_enabled() && vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// Whether the 8259's interrupt reaches the processor.
    pub fn external_pending(&self) -> bool {
        let entry = self.st.lvt[lvt::LINT0];
        let wired =
            entry & lvt::MASKED == 0 && DeliveryMode::from_bits(entry >> 8) == DeliveryMode::ExtInt;
        self.st.external || self.st.lint[0] && (!self.hardware_enabled() || wired)
    }

    /// Whether the processor should be interrupted, if it lets itself be.
    pub fn interrupt_pending(&self) -> bool {
        self.external_pending() || self.deliverable().is_some()
    }

    /// The processor asks the 8259 for its vector.
    pub fn take_external(&mut self) {
        self.st.external = false;
    }

    /// Takes the highest interrupt into service. `None`: there is nothing that priorities allow.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.st.irr.remove(vector);
        self.st.isr.insert(vector);
        Some(vector)
    }

    /// End of the interrupt in service. Returns the vector if I/O APICs are to be told.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.st.isr.highest()?;
        self.st.isr.remove(vector);
        for pin in 0..2 {
            let entry = &mut self.st.lvt[lvt::LINT0 + pin];
            if *entry & lvt::REMOTE_IRR != 0 && *entry as u8 == vector {
                *entry &= !lvt::REMOTE_IRR;
                // Still asserted: it comes again.
                if self.st.lint[pin] {
                    self.pin_fired(pin);
                }
            }
        }
        let broadcast = self.st.tmr.contains(vector) && self.st.svr & svr::NO_EOI_BROADCAST == 0;
        broadcast.then_some(vector)
    }

    // Acceptance of messages.

    /// Whether a message with this destination is for this APIC.
    pub fn is_selected(&self, destination: u32, mode: DestinationMode) -> bool {
        if !self.hardware_enabled() {
            return false;
        }
        if destination == BROADCAST {
            return true;
        }
        match mode {
            DestinationMode::Physical => destination == self.id,
            DestinationMode::Logical if self.x2apic() => {
                destination >> 16 == self.st.ldr >> 16 && destination & self.st.ldr & 0xffff != 0
            }
            DestinationMode::Logical if destination > 0xff => false,
            DestinationMode::Logical => {
                let mine = self.st.ldr >> 24;
                let flat = self.st.dfr >> 28 == 0xf;
                if flat {
                    mine & destination != 0
                } else {
                    mine >> 4 == destination >> 4 && mine & destination & 0xf != 0
                }
            }
        }
    }

    /// Whether lowest-priority messages may choose this APIC.
    pub fn arbitrates(&self) -> bool {
        self.software_enabled()
    }

    /// Accepts a message that selects this APIC. Returns requests for its processor, beside those
    /// that [`Self::interrupt_pending`] speaks of.
    pub fn accept(&mut self, delivery: DeliveryMode, vector: u8, trigger: Trigger) -> u32 {
        match delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.accept_vector(vector, trigger);
                0
            }
            DeliveryMode::Smi => request::SMI,
            DeliveryMode::Nmi => request::NMI,
            DeliveryMode::Init => request::INIT,
            DeliveryMode::StartUp => {
                self.st.sipi = vector;
                request::SIPI
            }
            DeliveryMode::ExtInt => {
                self.st.external = true;
                0
            }
            DeliveryMode::Reserved => 0,
        }
    }

    fn accept_vector(&mut self, vector: u8, trigger: Trigger) {
        if !self.software_enabled() {
            return;
        }
        if vector < 16 {
            self.error(esr::RECEIVED_ILLEGAL_VECTOR);
            return;
        }
        self.st.irr.insert(vector);
        self.st.tmr.set(vector, trigger == Trigger::Level);
    }

    fn error(&mut self, bits: u32) {
        self.st.errors |= bits;
        let entry = self.st.lvt[lvt::ERROR];
        // An illegal vector in the error entry itself is not reported through it again.
        if entry & lvt::MASKED == 0 && entry as u8 >= 16 {
            self.accept_vector(entry as u8, Trigger::Edge);
        }
    }

    // Local sources.

    /// LINT0 (`pin` 0) or LINT1 changed. Returns requests for the processor.
    pub fn set_lint(&mut self, pin: usize, level: bool) -> u32 {
        let pin = pin & 1;
        let rose = level && !self.st.lint[pin];
        self.st.lint[pin] = level;
        if !self.hardware_enabled() {
            // The pins are INTR and NMI of the processor.
            return if pin == 1 && rose { request::NMI } else { 0 };
        }
        if rose { self.pin_fired(pin) } else { 0 }
    }

    fn pin_fired(&mut self, pin: usize) -> u32 {
        let entry = self.st.lvt[lvt::LINT0 + pin];
        if entry & lvt::MASKED != 0 {
            return 0;
        }
        match DeliveryMode::from_bits(entry >> 8) {
            DeliveryMode::Fixed if entry & lvt::LEVEL != 0 => {
                if entry & lvt::REMOTE_IRR == 0 {
                    self.st.lvt[lvt::LINT0 + pin] |= lvt::REMOTE_IRR;
                    // The level is known here, no I/O APIC wants to hear of its end.
                    self.accept_vector(entry as u8, Trigger::Edge);
                }
                0
            }
            // Its level is what counts, and the vector comes from the 8259.
            DeliveryMode::ExtInt => 0,
            delivery => self.accept(delivery, entry as u8, Trigger::Edge),
        }
    }

    fn timer_mode(&self) -> Mode {
        Mode::of(self.st.lvt[lvt::TIMER])
    }

    /// When the timer wants attention.
    pub fn timer_expiry(&self, now: &impl Now) -> Option<i64> {
        self.st.timer.expiry(self.timer_mode(), &now.now())
    }

    /// Lets the timer fire if its time has come. Whoever looks at it or changes it calls this first:
    /// the host may be late to wake the timer, but the guest never sees that it has expired without
    /// the interrupt, and never calls off one that was due.
    pub fn run_timer(&mut self, now: &impl Now) {
        if self.st.timer.expire(self.timer_mode(), &now.now()) {
            let entry = self.st.lvt[lvt::TIMER];
            if entry & lvt::MASKED == 0 {
                self.accept_vector(entry as u8, Trigger::Edge);
            }
        }
    }

    /// The guest's time-stamp counter is this much ahead of the tick counter from now on.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.st.timer.tsc_offset = offset;
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&mut self, now: &impl Now) -> u64 {
        self.run_timer(now);
        if self.timer_mode() == Mode::TscDeadline { self.st.timer.deadline } else { 0 }
    }

    /// Writes IA32_TSC_DEADLINE; ignored in the other modes.
    pub fn set_tsc_deadline(&mut self, value: u64, now: &impl Now) {
        self.run_timer(now);
        if self.timer_mode() == Mode::TscDeadline {
            self.st.timer.set_deadline(value);
        }
    }

    // Registers.

    /// Reads register `number` of the page.
    pub fn read(&mut self, number: u32, now: &impl Now) -> u32 {
        let now = self.settle_timer(number, now);
        match self.register(number, &now) {
            Some(value) => value,
            None => {
                self.error(esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    pub(super) fn register(&self, number: u32, now: &impl Now) -> Option<u32> {
        let st = &self.st;
        Some(match number {
            reg::ID if self.x2apic() => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => st.tpr.into(),
            reg::APR => self.apr().into(),
            reg::PPR => self.ppr().into(),
            reg::EOI => 0,
            reg::LDR => st.ldr,
            reg::DFR => st.dfr,
            reg::SVR => st.svr,
            reg::ISR..=reg::ISR_LAST => st.isr.word(number - reg::ISR),
            reg::TMR..=reg::TMR_LAST => st.tmr.word(number - reg::TMR),
            reg::IRR..=reg::IRR_LAST => st.irr.word(number - reg::IRR),
            reg::ESR => st.esr,
            reg::ICR => st.icr as u32,
            reg::ICR_HIGH => (st.icr >> 32) as u32,
            reg::LVT..=reg::LVT_LAST => st.lvt[(number - reg::LVT) as usize],
            reg::INITIAL_COUNT => st.timer.initial,
            reg::CURRENT_COUNT => st.timer.current(self.timer_mode(), &now.now()),
            reg::DIVIDE => st.timer.divide,
            _ => return None,
        })
    }

    /// Before register `number` is accessed. Returns the moment of the access, if it is one of the
    /// timer's: time must not go on between its end and the look at it.
    fn settle_timer(&mut self, number: u32, now: &impl Now) -> Moment {
        const ENTRY: u32 = reg::LVT + lvt::TIMER as u32;
        if !matches!(number, ENTRY | reg::INITIAL_COUNT | reg::CURRENT_COUNT | reg::DIVIDE) {
            return Moment::default();
        }
        let now = now.now();
        self.run_timer(&now);
        now
    }

    /// Writes register `number` of the page.
    pub fn write(&mut self, number: u32, value: u32, now: &impl Now) -> Outcome {
        let now = self.settle_timer(number, now);
        match number {
            reg::TPR => self.st.tpr = value as u8,
            reg::EOI => {
                return self.end_of_interrupt().map_or(Outcome::Done, Outcome::Broadcast);
            }
            reg::LDR => self.st.ldr = value & 0xff00_0000,
            reg::DFR => self.st.dfr = value | 0x0fff_ffff,
            reg::SVR => self.set_svr(value),
            reg::ESR => self.st.esr = std::mem::take(&mut self.st.errors),
            reg::ICR => {
                self.st.icr = self.st.icr & !0xffff_ffff | u64::from(value & icr::WRITABLE);
                return self.send();
            }
            reg::ICR_HIGH => {
                let high = u64::from(value & 0xff00_0000) << 32;
                self.st.icr = self.st.icr & 0xffff_ffff | high;
            }
            reg::LVT..=reg::LVT_LAST => self.set_lvt((number - reg::LVT) as usize, value),
            reg::INITIAL_COUNT => {
                if self.timer_mode() != Mode::TscDeadline {
                    self.st.timer.set_initial(value, &now);
                }
            }
            reg::DIVIDE => self.st.timer.set_divide(value, self.timer_mode(), &now),
            // Read-only registers ignore writes.
            reg::ID
            | reg::VERSION
            | reg::APR
            | reg::PPR
            | reg::ISR..=reg::IRR_LAST
            | reg::CURRENT_COUNT => {}
            _ => self.error(esr::ILLEGAL_REGISTER),
        }
        Outcome::Done
    }

    fn set_svr(&mut self, value: u32) {
        self.st.svr = value & svr::WRITABLE;
        if self.st.svr & svr::ENABLED == 0 {
            // A disabled APIC keeps all its local sources masked (SDM vol. 3, 12.4.7.2).
            self.st.lvt.iter_mut().for_each(|entry| *entry |= lvt::MASKED);
        }
    }

    fn set_lvt(&mut self, index: usize, value: u32) {
        let kept = self.st.lvt[index] & lvt::REMOTE_IRR;
        let mut new = value & lvt::WRITABLE[index];
        if self.st.svr & svr::ENABLED == 0 {
            new |= lvt::MASKED;
        }
        if new & lvt::LEVEL != 0 {
            new |= kept;
        }
        if index == lvt::TIMER {
            let (old, mode) = (self.timer_mode(), Mode::of(new));
            self.st.timer.mode_changed(old, mode);
        }
        self.st.lvt[index] = new;
    }

    /// Carries out the command in the ICR.
    fn send(&mut self) -> Outcome {
        let low = self.st.icr as u32;
        let high = (self.st.icr >> 32) as u32;
        let destination =
            if self.x2apic() { high } else { ApicMessage::xapic_destination((high >> 24) as u8) };
        let delivery = DeliveryMode::from_bits(low >> 8);
        let vector = low as u8;
        let has_vector = matches!(delivery, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if has_vector && vector < 16 {
            self.error(esr::SEND_ILLEGAL_VECTOR);
            return Outcome::Done;
        }
        // INIT level de-assert synchronised arbitration IDs on processors long gone.
        let de_assert = low & (icr::LEVEL | icr::ASSERT) == icr::LEVEL;
        if delivery == DeliveryMode::Init && de_assert {
            return Outcome::Done;
        }
        let recipients = match low >> icr::SHORTHAND_SHIFT & 3 {
            0 => Recipients::Destination,
            1 => Recipients::Myself,
            2 => Recipients::All,
            _ => Recipients::Others,
        };
        let logical = low & icr::LOGICAL != 0;
        Outcome::Send(Ipi {
            recipients,
            message: ApicMessage {
                destination,
                mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
                delivery,
                vector,
                level: true,
                // Interprocessor interrupts are edges, whatever bit 15 says.
                trigger: Trigger::Edge,
            },
        })
    }

    // x2APIC (SDM vol. 3, 12.12).

    fn x2apic_ldr(&self) -> u32 {
        self.id >> 4 << 16 | 1 << (self.id & 15)
    }

    /// RDMSR of register `number`; `None` raises #GP.
    pub fn read_msr(&mut self, number: u32, now: &impl Now) -> Option<u64> {
        let now = self.settle_timer(number, now);
        match number {
            reg::ICR => Some(self.st.icr),
            reg::APR | reg::EOI | reg::DFR | reg::ICR_HIGH => None,
            _ => self.register(number, &now).map(u64::from),
        }
    }

    /// WRMSR of register `number`; `None` raises #GP.
    pub fn write_msr(&mut self, number: u32, value: u64, now: &impl Now) -> Option<Outcome> {
        let allowed = match number {
            reg::ICR => 0xffff_ffff_0000_0000 | u64::from(icr::WRITABLE),
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => svr::WRITABLE.into(),
            reg::LVT..=reg::LVT_LAST => {
                // Status bits that software writes back as it read them do not fault.
                u64::from(lvt::WRITABLE[(number - reg::LVT) as usize] | lvt::REMOTE_IRR | 1 << 12)
            }
            reg::INITIAL_COUNT => 0xffff_ffff,
            reg::DIVIDE => 0xb,
            _ => return None,
        };
        if value & !allowed != 0 {
            return None;
        }
        Some(match number {
            reg::ICR => {
                self.st.icr = value;
                self.send()
            }
            reg::SELF_IPI => {
                if value < 16 {
                    self.error(esr::SEND_ILLEGAL_VECTOR);
                } else {
                    self.accept_vector(value as u8, Trigger::Edge);
                }
                Outcome::Done
            }
            _ => self.write(number, value as u32, now),
        })
    }
}
