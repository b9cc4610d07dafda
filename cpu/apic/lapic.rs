//! One local APIC: its registers under a lock, its timer, and its processor's mailbox.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::clock::{ClockKind, Clocks, SECOND, Timer};
use base::interrupt::{ApicMessage, DeliveryMode, IntAck, Trigger};
use base::irq::IrqSink;
use parking_lot::Mutex;

use super::fabric::{ApicFabric, Shorthand};
use super::regs::{ApicState, VERSION, apic_base, esr, lvt, reg};
use crate::bus::{ApicPage, TimeStamp};
use crate::signals::{Signals, request};

const MODE_PERIODIC: u32 = 1;
const MODE_DEADLINE: u32 = 2;
const TSC_DEADLINE_MSR: u32 = 0x6e0;
const X2APIC_MSRS: u32 = 0x800;
/// The timer's input clock ticks once a nanosecond.
const TICK: i64 = 1;

/// A local APIC.
pub struct LocalApic {
    id: u32,
    boot: bool,
    signals: Arc<Signals>,
    fabric: Weak<ApicFabric>,
    clocks: Clocks,
    tsc: Arc<dyn TimeStamp>,
    timer: Timer,
    pic: OnceLock<Arc<dyn IntAck>>,
    sipi_vector: AtomicU8,
    st: Mutex<ApicState>,
}

/// What must happen once the registers' lock is released.
enum After {
    Nothing,
    Send(ApicMessage, Shorthand),
    EndOfInterrupt(u8),
}

impl LocalApic {
    /// The APIC of the processor whose mailbox is `signals`.
    pub fn new(
        id: u32,
        boot: bool,
        signals: Arc<Signals>,
        fabric: &Arc<ApicFabric>,
        clocks: &Clocks,
        tsc: Arc<dyn TimeStamp>,
    ) -> Arc<Self> {
        let base = Self::reset_base(boot);
        let apic = Arc::new_cyclic(|me: &Weak<LocalApic>| {
            let me = me.clone();
            let timer = clocks.timer(ClockKind::Virtual, move || {
                if let Some(apic) = me.upgrade() {
                    apic.timer_expired();
                }
            });
            LocalApic {
                id,
                boot,
                signals,
                fabric: Arc::downgrade(fabric),
                clocks: clocks.clone(),
                tsc,
                timer,
                pic: OnceLock::new(),
                sipi_vector: AtomicU8::new(0),
                st: Mutex::new(ApicState::at_reset(base, boot)),
            }
        });
        fabric.add(apic.clone());
        apic
    }

    fn reset_base(boot: bool) -> u64 {
        0xfee0_0000 | apic_base::ENABLED | u64::from(boot) << 8
    }

    /// IA32_APIC_BASE after RESET, for the processor's state.
    pub fn base_at_reset(&self) -> u64 {
        Self::reset_base(self.boot)
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.st.lock().base
    }

    /// APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Connects the 8259 pair that ExtINT interrupts are acknowledged at.
    pub fn connect_pic(&self, pic: Arc<dyn IntAck>) {
        // A second connection would be a mistake of the board; the first one stays.
        let _ = self.pic.set(pic);
    }

    /// RESET.
    pub fn reset(&self) {
        let mut st = self.st.lock();
        let lint = st.lint;
        *st = ApicState { lint, ..ApicState::at_reset(self.base_at_reset(), self.boot) };
        self.timer.cancel();
        self.update(&st);
    }

    /// INIT: as RESET, but the APIC stays as enabled as it was.
    pub fn init(&self) {
        let mut st = self.st.lock();
        let (base, lint) = (st.base, st.lint);
        *st = ApicState { base, lint, ..ApicState::at_reset(base, self.boot) };
        self.timer.cancel();
        self.update(&st);
    }

    /// The vector of the last start-up IPI.
    pub fn sipi_vector(&self) -> u8 {
        self.sipi_vector.load(Ordering::Acquire)
    }

    /// Takes the interrupt that the processor is about to deliver; `None` if it has gone.
    pub fn take_interrupt(&self) -> Option<u8> {
        let mut st = self.st.lock();
        if let Some(vector) = st.deliverable() {
            st.irr.clear(vector);
            st.isr.set(vector);
            self.update(&st);
            return Some(vector);
        }
        if !st.external_pending() {
            self.update(&st);
            return None;
        }
        st.external = false;
        // The 8259 drives LINT0 while it acknowledges.
        drop(st);
        let vector = self.pic.get().map(|pic| pic.acknowledge());
        self.update(&self.st.lock());
        vector
    }

    /// Tells the processor whether there is something to deliver.
    fn update(&self, st: &ApicState) {
        if st.deliverable().is_some() || st.external_pending() {
            self.signals.post(request::INTR);
        } else {
            self.signals.take(request::INTR);
        }
    }

    /// Whether a message selects this APIC.
    pub(super) fn selected(&self, message: &ApicMessage) -> bool {
        self.st.lock().selected(self.id, message)
    }

    /// Priority by which lowest-priority delivery chooses.
    pub(super) fn priority(&self) -> u8 {
        self.st.lock().ppr()
    }

    /// A message for this APIC.
    pub(super) fn accept(&self, message: &ApicMessage) {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                let level = message.trigger == Trigger::Level;
                self.request(&mut self.st.lock(), message.vector, level);
            }
            DeliveryMode::Smi => self.signals.post(request::SMI),
            DeliveryMode::Nmi => self.signals.post(request::NMI),
            DeliveryMode::Init => self.signals.post(request::INIT),
            DeliveryMode::StartUp => {
                self.sipi_vector.store(message.vector, Ordering::Release);
                self.signals.post(request::SIPI);
            }
            DeliveryMode::ExtInt => {
                let mut st = self.st.lock();
                st.external = true;
                self.update(&st);
            }
            DeliveryMode::Reserved => {}
        }
    }

    /// Puts a vector into the request register.
    fn request(&self, st: &mut ApicState, vector: u8, level: bool) {
        if vector < 16 {
            self.error(st, esr::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        st.irr.set(vector);
        if level {
            st.tmr.set(vector);
        } else {
            st.tmr.clear(vector);
        }
        self.update(st);
    }

    fn error(&self, st: &mut ApicState, error: u32) {
        st.errors |= error;
        let entry = st.lvt[lvt::ERROR];
        // A bad vector in the error entry itself must not report itself for ever.
        if entry & lvt::MASKED == 0 && entry as u8 >= 16 {
            self.request(st, entry as u8, false);
        }
    }

    /// Fires an LVT entry.
    fn local_interrupt(&self, st: &mut ApicState, n: usize) {
        let entry = st.lvt[n];
        if entry & lvt::MASKED != 0 {
            return;
        }
        match DeliveryMode::from_bits(entry >> 8) {
            DeliveryMode::Fixed => self.request(st, entry as u8, false),
            DeliveryMode::Nmi => self.signals.post(request::NMI),
            DeliveryMode::Smi => self.signals.post(request::SMI),
            DeliveryMode::Init => self.signals.post(request::INIT),
            _ => self.update(st),
        }
    }

    // Timer.

    fn mode(st: &ApicState) -> u32 {
        st.lvt[lvt::TIMER] >> lvt::TIMER_MODE_SHIFT & 3
    }

    fn period(st: &ApicState) -> i64 {
        i64::from(st.timer_initial) * st.divisor() * TICK
    }

    fn current_count(&self, st: &ApicState) -> u32 {
        if Self::mode(st) == MODE_DEADLINE || st.timer_initial == 0 {
            return 0;
        }
        let passed = (self.clocks.now_virtual() - st.timer_start) / (st.divisor() * TICK);
        let initial = i64::from(st.timer_initial);
        let left = if Self::mode(st) == MODE_PERIODIC {
            initial - passed.rem_euclid(initial)
        } else {
            initial - passed
        };
        left.max(0) as u32
    }

    /// Arms the timer for its next expiry, if there is one.
    fn arm(&self, st: &ApicState) {
        let now = self.clocks.now_virtual();
        let next = match Self::mode(st) {
            MODE_DEADLINE if st.deadline != 0 => {
                let ticks = st.deadline.saturating_sub(self.tsc.ticks());
                let frequency = self.tsc.frequency().max(1);
                let wait = u128::from(ticks) * SECOND as u128 / u128::from(frequency);
                Some(now.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX)))
            }
            MODE_PERIODIC if st.timer_initial != 0 => {
                let period = Self::period(st);
                let passed = (now - st.timer_start).div_euclid(period);
                Some(st.timer_start + (passed + 1) * period)
            }
            0 if st.timer_initial != 0 => {
                Some(st.timer_start + Self::period(st)).filter(|&at| at > now)
            }
            _ => None,
        };
        match next {
            Some(at) => self.timer.set(at),
            None => self.timer.cancel(),
        }
    }

    fn timer_expired(&self) {
        let mut st = self.st.lock();
        match Self::mode(&st) {
            MODE_DEADLINE => {
                if st.deadline == 0 {
                    return;
                }
                if self.tsc.ticks() < st.deadline {
                    self.arm(&st);
                    return;
                }
                st.deadline = 0;
            }
            _ if st.timer_initial == 0 => return,
            _ => {}
        }
        self.local_interrupt(&mut st, lvt::TIMER);
        if Self::mode(&st) == MODE_PERIODIC {
            self.arm(&st);
        }
    }

    fn set_lvt(&self, st: &mut ApicState, n: usize, value: u32) {
        let old_mode = Self::mode(st);
        st.set_lvt(n, value);
        if n == lvt::TIMER && Self::mode(st) != old_mode {
            if old_mode == MODE_DEADLINE || Self::mode(st) == MODE_DEADLINE {
                // Switching to or from deadline mode disarms (SDM vol. 3, 12.5.4.1).
                st.deadline = 0;
                st.timer_initial = 0;
            }
            self.arm(st);
        }
        self.update(st);
    }

    // Registers.

    fn read_register(&self, register: u32) -> Option<u32> {
        let st = self.st.lock();
        Some(match register {
            reg::ID if st.x2apic() => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => st.tpr.into(),
            reg::APR if !st.x2apic() => st.ppr().into(),
            reg::PPR => st.ppr().into(),
            reg::LDR if st.x2apic() => ApicState::x2apic_ldr(self.id),
            reg::LDR => st.ldr,
            reg::DFR if !st.x2apic() => st.dfr,
            reg::SVR => st.svr,
            reg::ISR..reg::TMR => st.isr.word(register - reg::ISR),
            reg::TMR..reg::IRR => st.tmr.word(register - reg::TMR),
            reg::IRR..reg::ESR => st.irr.word(register - reg::IRR),
            reg::ESR => st.esr,
            reg::ICR_LOW => st.icr as u32,
            reg::ICR_HIGH => (st.icr >> 32) as u32,
            reg::LVT..=reg::LVT_LAST => {
                let n = (register - reg::LVT) as usize;
                let level = (lvt::LINT0..=lvt::LINT1).contains(&n) && st.lint[n - lvt::LINT0];
                let pending = level && st.lvt[n] & lvt::LEVEL != 0;
                st.lvt[n] | if pending { lvt::REMOTE_IRR } else { 0 }
            }
            reg::TIMER_INITIAL => st.timer_initial,
            reg::TIMER_CURRENT => self.current_count(&st),
            reg::TIMER_DIVIDE => st.timer_divide,
            _ => return None,
        })
    }

    /// Writes a register; `None` if there is none that can be written.
    fn write_register(&self, register: u32, value: u64) -> Option<()> {
        let after = self.set_register(register, value)?;
        match after {
            After::Nothing => {}
            After::Send(message, shorthand) => {
                if let Some(fabric) = self.fabric.upgrade() {
                    fabric.send(self, &message, shorthand);
                }
            }
            After::EndOfInterrupt(vector) => {
                if let Some(fabric) = self.fabric.upgrade() {
                    fabric.end_of_interrupt(vector);
                }
            }
        }
        Some(())
    }

    fn set_register(&self, register: u32, wide: u64) -> Option<After> {
        let mut st = self.st.lock();
        let st = &mut *st;
        let value = wide as u32;
        match register {
            reg::TPR => {
                st.tpr = value as u8;
                self.update(st);
            }
            reg::EOI => return Some(self.finish(st)),
            reg::LDR if !st.x2apic() => st.ldr = value & 0xff00_0000,
            reg::DFR if !st.x2apic() => st.dfr = value | 0x0fff_ffff,
            reg::SVR => {
                st.set_svr(value);
                self.update(st);
            }
            reg::ESR => st.esr = std::mem::take(&mut st.errors),
            reg::ICR_LOW => {
                st.icr = if st.x2apic() { wide } else { st.icr & !0xffff_ffff | u64::from(value) };
                // Messages leave at once: the delivery status never shows.
                st.icr &= !(1 << 12);
                return Some(self.send(st));
            }
            reg::ICR_HIGH if !st.x2apic() => {
                st.icr = st.icr & 0xffff_ffff | u64::from(value) << 32;
            }
            reg::LVT..=reg::LVT_LAST => self.set_lvt(st, (register - reg::LVT) as usize, value),
            reg::TIMER_INITIAL => {
                if Self::mode(st) != MODE_DEADLINE {
                    st.timer_initial = value;
                    st.timer_start = self.clocks.now_virtual();
                    self.arm(st);
                }
            }
            reg::TIMER_DIVIDE => {
                let left = self.current_count(st);
                st.timer_divide = value & 0xb;
                // The count goes on from where it is, at the new speed.
                let passed = i64::from(st.timer_initial - left.min(st.timer_initial));
                st.timer_start = self.clocks.now_virtual() - passed * st.divisor() * TICK;
                self.arm(st);
            }
            reg::SELF_IPI if st.x2apic() => self.request(st, value as u8, false),
            _ => return None,
        }
        Some(After::Nothing)
    }

    /// End of the highest interrupt in service.
    fn finish(&self, st: &mut ApicState) -> After {
        let Some(vector) = st.isr.highest() else { return After::Nothing };
        st.isr.clear(vector);
        self.update(st);
        if st.tmr.has(vector) && !st.suppresses_eoi() {
            After::EndOfInterrupt(vector)
        } else {
            After::Nothing
        }
    }

    fn send(&self, st: &mut ApicState) -> After {
        let fixed = matches!(
            DeliveryMode::from_bits(st.icr as u32 >> 8),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if fixed && (st.icr as u8) < 16 {
            self.error(st, esr::SEND_ILLEGAL_VECTOR);
            return After::Nothing;
        }
        match st.icr_message(st.icr) {
            Some(message) => After::Send(message, Shorthand::from_bits(st.icr as u32 >> 18)),
            None => After::Nothing,
        }
    }
}

impl ApicPage for LocalApic {
    fn read(&self, offset: u32, size: u8) -> u32 {
        // Registers are 32 bits wide and 16 bytes apart; the rest of the page reads as zero.
        let within = offset & 0xf;
        if within + u32::from(size) > 4 {
            return 0;
        }
        let value = self.read_register(offset >> 4).unwrap_or_else(|| {
            self.error(&mut self.st.lock(), esr::ILLEGAL_REGISTER);
            0
        });
        value >> (8 * within)
    }

    fn write(&self, offset: u32, _: u8, value: u32) {
        if offset & 0xf == 0 && self.write_register(offset >> 4, value.into()).is_none() {
            self.error(&mut self.st.lock(), esr::ILLEGAL_REGISTER);
        }
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        if index == TSC_DEADLINE_MSR {
            return Some(self.st.lock().deadline);
        }
        match index.checked_sub(X2APIC_MSRS)? {
            reg::ICR_LOW => Some(self.st.lock().icr),
            reg::ICR_HIGH | reg::EOI | reg::SELF_IPI => None,
            register => self.read_register(register).map(u64::from),
        }
    }

    fn write_msr(&self, index: u32, value: u64) -> bool {
        if index == TSC_DEADLINE_MSR {
            let mut st = self.st.lock();
            if Self::mode(&st) == MODE_DEADLINE {
                st.deadline = value;
                self.arm(&st);
            }
            return true;
        }
        let Some(register) = index.checked_sub(X2APIC_MSRS) else { return false };
        let reserved = match register {
            reg::ICR_LOW => 0,
            reg::EOI | reg::ESR => !0,
            reg::TPR | reg::SELF_IPI => !0xff,
            _ => !0xffff_ffff,
        };
        value & reserved == 0 && self.write_register(register, value).is_some()
    }

    fn set_base(&self, value: u64) {
        let mut st = self.st.lock();
        st.base = value;
        self.update(&st);
    }

    fn tpr(&self) -> u8 {
        self.st.lock().tpr >> 4
    }

    fn set_tpr(&self, class: u8) {
        let mut st = self.st.lock();
        st.tpr = class << 4;
        self.update(&st);
    }
}

/// The LINT pins.
impl IrqSink for LocalApic {
    fn set_irq(&self, n: u32, level: bool) {
        let mut st = self.st.lock();
        let Some(pin) = st.lint.get_mut(n as usize) else { return };
        let was_high = std::mem::replace(pin, level);
        let rose = level && !was_high;
        let is_external = n == 0 && {
            let mode = DeliveryMode::from_bits(st.lvt[lvt::LINT0] >> 8);
            !st.enabled() || mode == DeliveryMode::ExtInt
        };
        if rose && !is_external {
            self.local_interrupt(&mut st, lvt::LINT0 + n as usize);
        } else {
            self.update(&st);
        }
    }
}
