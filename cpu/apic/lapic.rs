//! The shell around one chip: lock, timer, mailbox, neighbours.

use std::sync::{Arc, OnceLock, Weak};

use base::clock::{ClockKind, Clocks, Timer};
use base::interrupt::{ApicMessage, DeliveryMode, DestinationMode, IntAck, Trigger};
use base::irq::IrqSink;
use base::trace_event;
use parking_lot::Mutex;

use super::core::{ApicCore, ApicState, Ipi, Outcome, Recipients};
use super::fabric::ApicFabric;
use super::regs::{lvt, reg};
use super::timer::{Moment, Now};
use crate::bus::{ApicPage, TimeStamp};
use crate::signals::{Signals, request};

/// MSR number of the first x2APIC register.
const X2APIC_MSR: u32 = 0x800;
const TSC_DEADLINE_MSR: u32 = 0x6e0;

/// What the timer goes by.
struct Time {
    clocks: Clocks,
    tsc: Arc<dyn TimeStamp>,
}

impl Now for Time {
    fn now(&self) -> Moment {
        Moment {
            ns: self.clocks.now_virtual(),
            ticks: self.tsc.ticks(),
            frequency: self.tsc.frequency(),
        }
    }
}

/// The local APIC of one processor.
///
/// Whatever changes the chip happens under its lock and ends with the mailbox saying whether an
/// interrupt waits, so that bit and registers never disagree. Nobody else is called with the lock
/// held but the mailbox and the timer queue.
pub struct LocalApic {
    id: u32,
    core: Mutex<ApicCore>,
    timer: Timer,
    time: Time,
    signals: Arc<Signals>,
    others: Weak<ApicFabric>,
    pic: OnceLock<Arc<dyn IntAck>>,
}

impl LocalApic {
    /// The APIC of the processor whose mailbox is `signals`, on the bus.
    pub fn new(
        id: u32,
        boot: bool,
        signals: Arc<Signals>,
        fabric: &Arc<ApicFabric>,
        clocks: &Clocks,
        tsc: Arc<dyn TimeStamp>,
    ) -> Arc<Self> {
        let apic = Arc::new_cyclic(|me: &Weak<LocalApic>| {
            let me = me.clone();
            let timer = clocks.timer(ClockKind::Virtual, move || {
                if let Some(apic) = me.upgrade() {
                    apic.timer_expired();
                }
            });
            LocalApic {
                id,
                core: Mutex::new(ApicCore::new(id, boot)),
                timer,
                time: Time { clocks: clocks.clone(), tsc },
                signals,
                others: Arc::downgrade(fabric),
                pic: OnceLock::new(),
            }
        });
        fabric.add(apic.clone());
        apic
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Connects the interrupt-acknowledge cycle of the 8259 pair, once.
    pub fn connect_pic(&self, pic: Arc<dyn IntAck>) {
        // The wiring of a machine does not change: a second connection is the same one again.
        let _ = self.pic.set(pic);
    }

    /// Does `change` to the chip and tells the mailbox of the result.
    fn change<R>(&self, change: impl FnOnce(&mut ApicCore) -> R) -> R {
        let mut core = self.core.lock();
        let result = change(&mut core);
        let posted = self.signals.pending() & request::INTR != 0;
        match core.interrupt_pending() {
            true if !posted => self.signals.post(request::INTR),
            false if posted => {
                self.signals.take(request::INTR);
            }
            _ => {}
        }
        result
    }

    /// As [`Self::change`], for changes that concern the timer.
    fn change_timer<R>(&self, change: impl FnOnce(&mut ApicCore) -> R) -> R {
        self.change(|core| {
            let result = change(core);
            match core.timer_expiry(&self.time) {
                Some(at) => self.timer.set(at),
                None => self.timer.cancel(),
            }
            result
        })
    }

    fn timer_expired(&self) {
        self.change_timer(|core| core.run_timer(&self.time));
    }

    /// Takes the interrupt that the processor is about to deliver; `None` if it has gone.
    pub fn take_interrupt(&self) -> Option<u8> {
        let external = self.change(|core| {
            let external = core.external_pending();
            core.take_external();
            external
        });
        // The 8259 has its own lock, and lowers its output while it answers.
        match self.pic.get() {
            Some(pic) if external => Some(pic.acknowledge()),
            _ => self.change(ApicCore::take_interrupt),
        }
    }

    /// RESET of the processor.
    pub fn reset(&self) {
        self.change_timer(ApicCore::reset);
    }

    /// INIT of the processor.
    pub fn init(&self) {
        self.change_timer(ApicCore::init);
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.core.lock().base()
    }

    /// A register as an onlooker sees it; zero if there is none of this number.
    pub(super) fn peek(&self, number: u32) -> u32 {
        self.core.lock().register(number, &self.time).unwrap_or(0)
    }

    /// The vector of the last start-up IPI.
    pub fn sipi_vector(&self) -> u8 {
        self.core.lock().sipi_vector()
    }

    /// What a snapshot saves.
    pub fn state(&self) -> ApicState {
        self.core.lock().state().clone()
    }

    /// Takes over saved state.
    pub fn set_state(&self, state: ApicState) {
        self.change_timer(|core| core.set_state(state));
    }

    /// Accepts `message` if `wanted` says so.
    pub(super) fn offer(
        &self,
        message: &ApicMessage,
        wanted: impl FnOnce(&ApicCore) -> bool,
    ) -> bool {
        self.change(|core| {
            let taken = wanted(core);
            if taken {
                self.request(core.accept(message.delivery, message.vector, message.trigger));
            }
            taken
        })
    }

    fn request(&self, bits: u32) {
        if bits & request::INIT != 0 {
            // What came before INIT is void; a start-up IPI counts only after it.
            self.signals.take(request::SIPI | request::STARTING);
        }
        let beside = if bits & request::SIPI != 0 { request::STARTING } else { 0 };
        if bits != 0 {
            self.signals.post(bits | beside);
        }
    }

    /// Whether another processor was told to start and has not fetched its first instructions yet.
    pub fn others_start(&self) -> bool {
        let starts = |apic: &Arc<LocalApic>| {
            apic.id != self.id && apic.signals.pending() & request::STARTING != 0
        };
        self.others.upgrade().is_some_and(|others| others.apics().iter().any(starts))
    }

    /// Looks at the chip.
    pub(super) fn look<R>(&self, look: impl FnOnce(&ApicCore) -> R) -> R {
        look(&self.core.lock())
    }

    fn finish(&self, outcome: Outcome) {
        let Some(others) = self.others.upgrade() else { return };
        match outcome {
            Outcome::Done => {}
            Outcome::Broadcast(vector) => others.broadcast_eoi(vector),
            // Not only vectors: the manual allows no others here, but QEMU and KVM send them, and
            // test programs count on it.
            Outcome::Send(Ipi { recipients: Recipients::Myself, message }) => {
                self.offer(&message, |_| true);
            }
            Outcome::Send(ipi) => {
                others.send_ipi(&ipi, self.id);
                if ipi.message.delivery == DeliveryMode::StartUp {
                    self.signals.post(request::LET_START);
                }
            }
        }
    }

    fn write_register(
        &self,
        number: u32,
        write: impl FnOnce(&mut ApicCore) -> Option<Outcome>,
    ) -> bool {
        const TIMER_ENTRY: u32 = reg::LVT + lvt::TIMER as u32;
        let outcome = match number {
            TIMER_ENTRY | reg::INITIAL_COUNT | reg::DIVIDE => self.change_timer(write),
            _ => self.change(write),
        };
        match outcome {
            Some(outcome) => {
                self.finish(outcome);
                true
            }
            None => false,
        }
    }
}

impl ApicPage for LocalApic {
    /// Registers are doublewords at multiples of 16; parts of one may be read.
    fn read(&self, offset: u32, size: u8) -> u32 {
        if offset & 0xc != 0 {
            return 0;
        }
        let register = offset >> 4 & 0xff;
        let value = self.change(|core| core.read(register, &self.time));
        trace_event!(apic_register_read, "register {register:#04x} = {value:#x}");
        let value = value >> (8 * (offset & 3));
        match size {
            1 => value & 0xff,
            2 => value & 0xffff,
            _ => value,
        }
    }

    /// Registers are written as a whole; anything else is without effect.
    fn write(&self, offset: u32, size: u8, value: u32) {
        if offset & 0xf == 0 && size == 4 {
            let number = offset >> 4 & 0xff;
            trace_event!(apic_register_write, "register {number:#04x} = {value:#x}");
            self.write_register(number, |core| Some(core.write(number, value, &self.time)));
        }
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        if index == TSC_DEADLINE_MSR {
            return Some(self.change(|core| core.tsc_deadline(&self.time)));
        }
        let number = index.checked_sub(X2APIC_MSR)?;
        self.change(|core| core.read_msr(number, &self.time))
    }

    fn write_msr(&self, index: u32, value: u64) -> bool {
        if index == TSC_DEADLINE_MSR {
            self.change_timer(|core| core.set_tsc_deadline(value, &self.time));
            return true;
        }
        let Some(number) = index.checked_sub(X2APIC_MSR) else { return false };
        self.write_register(number, |core| core.write_msr(number, value, &self.time))
    }

    fn send_ipi(&self, id: u32, command: u32) -> bool {
        let Some(fabric) = self.others.upgrade() else { return false };
        fabric.deliver_to(
            id,
            ApicMessage {
                destination: id,
                mode: DestinationMode::Physical,
                delivery: DeliveryMode::from_bits(command >> 8),
                vector: command as u8,
                level: true,
                trigger: Trigger::Edge,
            },
        )
    }

    fn set_base(&self, value: u64) {
        self.change_timer(|core| core.set_base(value));
    }

    fn set_tsc_offset(&self, offset: u64) {
        self.change_timer(|core| core.set_tsc_offset(offset));
    }

    fn tpr(&self) -> u8 {
        self.core.lock().tpr() >> 4
    }

    fn set_tpr(&self, class: u8) {
        self.change(|core| core.set_tpr(class << 4));
    }
}

/// LINT0 (input 0: the 8259's output) and LINT1 (input 1: NMI).
impl IrqSink for LocalApic {
    fn set_irq(&self, n: u32, level: bool) {
        self.change(|core| self.request(core.set_lint(n as usize, level)));
    }
}
