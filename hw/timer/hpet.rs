//! The high precision event timer (IA-PC HPET specification 1.0a): a 64-bit counter of 10 ns ticks
//! with three comparators.
//!
//! As with the 8254 nothing counts: the counter follows from the time on the virtual clock, and each
//! comparator waits for the moment at which it will match.

use std::sync::Arc;

use base::clock::{ClockKind, Clocks, Timer};
use base::device::{self, Device, Shared};
use base::irq::{IrqLine, IrqSink};
use base::memory::{AccessSizes, Region};
use base::state::State;
use parking_lot::Mutex;

/// Where the board places the registers.
pub const HPET_ADDRESS: u64 = 0xfed0_0000;
/// Size of the register block.
pub const HPET_SIZE: u64 = 0x400;

const TIMERS: usize = 3;
/// Nanoseconds per tick.
const TICK: i64 = 10;
/// A periodic comparator interrupts no more often than this many ticks: shorter periods are beyond
/// what any guest needs, and would keep the host busy.
const SHORTEST_PERIOD: u64 = 1_000;

mod reg {
    pub const CAPABILITIES: u64 = 0x00;
    pub const CONFIG: u64 = 0x10;
    pub const STATUS: u64 = 0x20;
    pub const COUNTER: u64 = 0xf0;
    pub const FIRST_TIMER: u64 = 0x100;
    pub const TIMER_STRIDE: u64 = 0x20;
    pub const TIMER_CONFIG: u64 = 0x00;
    pub const TIMER_COMPARATOR: u64 = 0x08;
    pub const TIMER_FSB_ROUTE: u64 = 0x10;
}

/// Period in femtoseconds; vendor 8086h, legacy routes, 64 bits, three timers, revision 1.
const CAPABILITIES: u64 = (10_000_000 << 32) | 0x8086_a201;

/// Bits of the configuration register.
const ENABLE: u64 = 1;
const LEGACY: u64 = 1 << 1;

/// Bits of a timer's configuration register.
mod timer {
    pub const LEVEL: u64 = 1 << 1;
    pub const INTERRUPT: u64 = 1 << 2;
    pub const PERIODIC: u64 = 1 << 3;
    pub const PERIODIC_CAPABLE: u64 = 1 << 4;
    pub const WIDE_CAPABLE: u64 = 1 << 5;
    pub const SET_ACCUMULATOR: u64 = 1 << 6;
    pub const NARROW: u64 = 1 << 8;
    pub const ROUTE_SHIFT: u64 = 9;
    pub const ROUTE: u64 = 0x1f << ROUTE_SHIFT;
    pub const FSB_ENABLE: u64 = 1 << 14;
    /// The interrupt that a timer may be routed to, in the upper half: 2.
    pub const ROUTES_CAPABLE: u64 = 1 << (32 + 2);
    pub const READ_ONLY: u64 = PERIODIC_CAPABLE | WIDE_CAPABLE | ROUTES_CAPABLE;
    pub const WRITABLE: u64 =
        LEVEL | INTERRUPT | PERIODIC | SET_ACCUMULATOR | NARROW | ROUTE | FSB_ENABLE;
    /// A change of these makes the comparator look at the counter anew.
    pub const REARMING: u64 = INTERRUPT | PERIODIC | NARROW;
    /// A match has consequences with one of these: it interrupts, or is noted in the status register.
    pub const HEARD: u64 = LEVEL | INTERRUPT;
}

/// Interrupts of the first two timers with legacy replacement.
const LEGACY_ROUTES: [u32; 2] = [0, 8];

/// Registers of one comparator.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct TimerState {
    config: u64,
    comparator: u64,
    period: u64,
    fsb_route: u64,
    /// Counter value at which the comparator matches next.
    target: Option<u64>,
}

impl TimerState {
    fn at_reset() -> Self {
        TimerState {
            config: timer::READ_ONLY,
            comparator: !0,
            period: 0,
            fsb_route: 0,
            target: None,
        }
    }

    fn has(&self, bit: u64) -> bool {
        self.config & bit != 0
    }

    fn truncate(&self, value: u64) -> u64 {
        if self.has(timer::NARROW) { value & 0xffff_ffff } else { value }
    }

    /// Waits for the comparator's value; one that the counter has passed matches at once.
    fn arm(&mut self, counter: u64) {
        let ahead = if self.has(timer::NARROW) {
            i64::from((self.comparator as u32).wrapping_sub(counter as u32) as i32)
        } else {
            self.comparator.wrapping_sub(counter) as i64
        };
        self.target = Some(counter.wrapping_add(ahead.max(0) as u64));
    }

    /// Goes on to the next match after one at or before `counter`.
    fn advance(&mut self, counter: u64) {
        if self.has(timer::PERIODIC) && self.period != 0 {
            let late = self.truncate(counter.wrapping_sub(self.comparator));
            // A comparator ahead of the counter was moved there since it matched.
            let ahead = late > self.truncate(!0) / 2;
            let steps = if ahead { 0 } else { late / self.period + 1 };
            let moved = self.comparator.wrapping_add(steps.wrapping_mul(self.period));
            self.comparator = self.truncate(moved);
            self.arm(counter);
            let soonest = counter.wrapping_add(SHORTEST_PERIOD.min(self.period));
            self.target = self.target.map(|target| target.max(soonest));
        } else if self.has(timer::NARROW) {
            // The low half of the counter comes round again.
            self.target = Some(counter.wrapping_add(1 << 32));
        } else {
            self.target = None;
        }
    }

    fn write_config(&mut self, value: u64) {
        self.config = value & timer::WRITABLE | timer::READ_ONLY;
        self.comparator = self.truncate(self.comparator);
        self.period = self.truncate(self.period);
    }

    /// In periodic mode only the period is set, unless the accumulator was asked for too.
    fn write_comparator(&mut self, merge: impl Fn(u64) -> u64) {
        if !self.has(timer::PERIODIC) || self.has(timer::SET_ACCUMULATOR) {
            self.comparator = self.truncate(merge(self.comparator));
        }
        if self.has(timer::PERIODIC) {
            self.period = self.truncate(merge(self.period));
        }
        self.config &= !timer::SET_ACCUMULATOR;
    }
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct HpetState {
    config: u64,
    status: u64,
    /// The counter when it was stopped last.
    counter: u64,
    /// When it was started, on the virtual clock.
    started: i64,
    timers: [TimerState; TIMERS],
}

impl HpetState {
    fn at_reset() -> Self {
        HpetState {
            config: 0,
            status: 0,
            counter: 0,
            started: 0,
            timers: std::array::from_fn(|_| TimerState::at_reset()),
        }
    }

    fn enabled(&self) -> bool {
        self.config & ENABLE != 0
    }

    fn counter(&self, now: i64) -> u64 {
        if !self.enabled() {
            return self.counter;
        }
        let ticks = now.saturating_sub(self.started).max(0) / TICK;
        self.counter.wrapping_add(ticks as u64)
    }

    /// The interrupt that a timer raises.
    fn route(&self, n: usize) -> u32 {
        match LEGACY_ROUTES.get(n) {
            Some(&irq) if self.config & LEGACY != 0 => irq,
            _ => ((self.timers[n].config & timer::ROUTE) >> timer::ROUTE_SHIFT) as u32,
        }
    }

    fn interrupts(&self, n: usize) -> bool {
        self.enabled() && self.timers[n].has(timer::INTERRUPT)
    }

    /// Interrupts that level-triggered timers hold high.
    fn held(&self) -> u32 {
        (0..TIMERS)
            .filter(|&n| self.interrupts(n) && self.status & 1 << n != 0)
            .fold(0, |held, n| held | 1 << self.route(n))
    }
}

/// Told whether the HPET replaces the 8254's and the real-time clock's interrupts.
pub type LegacyChanged = Box<dyn Fn(bool) + Send + Sync>;

/// The timer block.
pub struct Hpet {
    /// Global system interrupts, by number.
    lines: Vec<IrqLine>,
    legacy: LegacyChanged,
    matches: [Timer; TIMERS],
    clocks: Clocks,
    /// Levels of the lines.
    driven: u32,
    st: HpetState,
}

impl Hpet {
    /// The timer block and its registers, for [`HPET_ADDRESS`].
    pub fn create(
        lines: Vec<IrqLine>,
        legacy: LegacyChanged,
        clocks: &Clocks,
    ) -> (Shared<Self>, Region) {
        let hpet = device::share(|me| {
            let matched = |n| {
                device::timer(me, clocks, ClockKind::Virtual, move |hpet: &mut Hpet| {
                    hpet.matched(n)
                })
            };
            Hpet {
                lines,
                legacy,
                matches: std::array::from_fn(matched),
                clocks: clocks.clone(),
                driven: 0,
                st: HpetState::at_reset(),
            }
        });
        let registers = device::region(&hpet, 0, "hpet", HPET_SIZE, AccessSizes::ANY);
        (hpet, registers)
    }

    fn counter(&self) -> u64 {
        self.st.counter(self.clocks.now_virtual())
    }

    /// Waits on the clock for a timer's next match, unless nobody would hear of it.
    fn wait(&self, n: usize) {
        let heard = self.st.enabled() && self.st.timers[n].has(timer::HEARD);
        match self.st.timers[n].target.filter(|_| heard) {
            Some(target) => {
                let ticks = i64::try_from(target.wrapping_sub(self.st.counter)).unwrap_or(i64::MAX);
                self.matches[n].set(self.st.started.saturating_add(ticks.saturating_mul(TICK)));
            }
            None => self.matches[n].cancel(),
        }
    }

    fn arm(&mut self, n: usize) {
        if self.st.enabled() {
            let counter = self.counter();
            self.st.timers[n].arm(counter);
            self.wait(n);
        }
    }

    /// Lets matches pass that were due. Whether there were any.
    fn catch_up(&mut self, n: usize) -> bool {
        let counter = self.counter();
        let due = self.st.timers[n].target.is_some_and(|at| counter.wrapping_sub(at) as i64 >= 0);
        if !due || !self.st.enabled() {
            return false;
        }
        self.st.timers[n].advance(counter);
        true
    }

    /// The same, for a timer that nobody waits for on the clock.
    fn catch_up_unheard(&mut self, n: usize) {
        if !self.st.timers[n].has(timer::HEARD) {
            self.catch_up(n);
        }
    }

    fn matched(&mut self, n: usize) {
        // The callback may have been on its way when the timer was changed.
        if !self.catch_up(n) {
            return;
        }
        self.wait(n);
        if self.st.timers[n].has(timer::LEVEL) {
            self.st.status |= 1 << n;
            self.drive();
        } else if self.st.interrupts(n) {
            let route = self.st.route(n);
            if self.driven & 1 << route == 0
                && let Some(line) = self.lines.get(route as usize)
            {
                line.pulse();
            }
        }
    }

    /// Brings the lines to the levels that follow from the registers.
    fn drive(&mut self) {
        let held = self.st.held();
        let changed = held ^ std::mem::replace(&mut self.driven, held);
        for (n, line) in self.lines.iter().enumerate().take(32) {
            if changed & 1 << n != 0 {
                line.set(held & 1 << n != 0);
            }
        }
    }

    fn write_config(&mut self, value: u64) {
        (0..TIMERS).for_each(|n| self.catch_up_unheard(n));
        let now = self.clocks.now_virtual();
        let (old, new) = (self.st.config, value & (ENABLE | LEGACY));
        self.st.counter = self.st.counter(now);
        self.st.started = now;
        self.st.config = new;
        if (old ^ new) & LEGACY != 0 {
            (self.legacy)(new & LEGACY != 0);
        }
        for n in 0..TIMERS {
            if (old ^ new) & new & ENABLE != 0 {
                self.arm(n);
            } else {
                self.wait(n);
            }
        }
        self.drive();
    }

    fn write_timer(&mut self, n: usize, register: u64, merge: impl Fn(u64) -> u64) {
        self.catch_up_unheard(n);
        let timer = &mut self.st.timers[n];
        match register {
            reg::TIMER_CONFIG => {
                let old = timer.config;
                timer.write_config(merge(old));
                let changed = (old ^ timer.config) & timer::REARMING;
                if !timer.has(timer::LEVEL) {
                    self.st.status &= !(1 << n);
                }
                if changed != 0 {
                    self.arm(n);
                }
                self.drive();
            }
            reg::TIMER_COMPARATOR => {
                timer.write_comparator(merge);
                self.arm(n);
            }
            reg::TIMER_FSB_ROUTE => timer.fsb_route = merge(timer.fsb_route),
            _ => {}
        }
    }
}

/// The timer, and its register, that an offset belongs to.
fn timer_at(offset: u64) -> Option<(usize, u64)> {
    let n = (offset.checked_sub(reg::FIRST_TIMER)? / reg::TIMER_STRIDE) as usize;
    (n < TIMERS).then_some((n, offset % reg::TIMER_STRIDE))
}

/// Registers have 64 bits and are accessed whole or by halves; anything else goes nowhere. Returns
/// the register's offset and the half's first bit.
fn decode(offset: u64, size: u8) -> Option<(u64, u32)> {
    let aligned = matches!(size, 4 | 8) && offset.is_multiple_of(u64::from(size));
    aligned.then_some((offset & !7, 8 * (offset & 7) as u32))
}

impl Device for Hpet {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        let Some((register, shift)) = decode(offset, size) else { return 0 };
        let value = match register {
            reg::CAPABILITIES => CAPABILITIES,
            reg::CONFIG => self.st.config,
            reg::STATUS => self.st.status,
            reg::COUNTER => self.counter(),
            _ => match timer_at(register) {
                Some((n, reg::TIMER_CONFIG)) => self.st.timers[n].config,
                Some((n, reg::TIMER_COMPARATOR)) => {
                    self.catch_up_unheard(n);
                    self.st.timers[n].comparator
                }
                Some((n, reg::TIMER_FSB_ROUTE)) => self.st.timers[n].fsb_route,
                _ => 0,
            },
        };
        let half = value >> shift;
        if size == 4 { half & 0xffff_ffff } else { half }
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        let Some((register, shift)) = decode(offset, size) else { return };
        let mask = if size == 4 { 0xffff_ffff << shift } else { !0 };
        let merge = |old: u64| old & !mask | value << shift & mask;
        match register {
            reg::CONFIG => self.write_config(merge(self.st.config)),
            reg::STATUS => {
                self.st.status &= !merge(0);
                self.drive();
            }
            // The counter takes writes only while it stands.
            reg::COUNTER if !self.st.enabled() => self.st.counter = merge(self.st.counter),
            _ => {
                let Some((n, register)) = timer_at(register) else { return };
                // A narrow comparator has no upper half.
                let narrow = self.st.timers[n].has(timer::NARROW);
                if !(narrow && register == reg::TIMER_COMPARATOR && shift == 32) {
                    self.write_timer(n, register, merge);
                }
            }
        }
    }

    fn reset(&mut self) {
        self.st = HpetState::at_reset();
        self.matches.iter().for_each(Timer::cancel);
        self.drive();
        (self.legacy)(false);
    }
}

/// An interrupt wire that is cut while the HPET replaces its source.
pub struct LegacyGate {
    output: IrqLine,
    state: Mutex<GateState>,
}

#[derive(Default)]
struct GateState {
    cut: bool,
    level: bool,
}

impl LegacyGate {
    /// A wire that goes through to `output`.
    pub fn new(output: IrqLine) -> Arc<Self> {
        Arc::new(LegacyGate { output, state: Mutex::default() })
    }

    /// Cuts the wire, or connects it again.
    pub fn set_cut(&self, cut: bool) {
        let mut state = self.state.lock();
        state.cut = cut;
        self.output.set(state.level && !cut);
    }
}

impl IrqSink for LegacyGate {
    fn set_irq(&self, _: u32, level: bool) {
        let mut state = self.state.lock();
        state.level = level;
        if !state.cut {
            self.output.set(level);
        }
    }
}

/// What firmware is told of the HPETs through fw_cfg: how many there are, and of each of eight its
/// identification, its address, its smallest period and its page protection.
pub fn describe(present: bool) -> Vec<u8> {
    const PLACES: usize = 8;
    const PLACE_LEN: usize = 15;
    // A count that no machine has says that nothing is known.
    let mut bytes = vec![if present { 1 } else { 0xff }];
    if present {
        bytes.extend((CAPABILITIES as u32).to_le_bytes());
        bytes.extend(HPET_ADDRESS.to_le_bytes());
    }
    bytes.resize(1 + PLACES * PLACE_LEN, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use base::irq::FnSink;
    use proptest::prelude::*;

    use super::*;

    type Log = Arc<Mutex<Vec<(u32, bool)>>>;

    struct Bed {
        clocks: Clocks,
        hpet: Shared<Hpet>,
        log: Log,
        legacy: Arc<Mutex<bool>>,
    }

    fn bed() -> Bed {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let log = Log::default();
        let heard = log.clone();
        let sink: Arc<dyn IrqSink> =
            Arc::new(FnSink(move |n, level| heard.lock().push((n, level))));
        let lines = (0..24).map(|n| IrqLine::new(sink.clone(), n)).collect();
        let legacy = Arc::new(Mutex::new(false));
        let told = legacy.clone();
        let (hpet, _) = Hpet::create(lines, Box::new(move |on| *told.lock() = on), &clocks);
        Bed { clocks, hpet, log, legacy }
    }

    impl Bed {
        fn write(&self, offset: u64, value: u64) {
            self.hpet.lock().write(0, offset, 8, value);
        }
        fn read(&self, offset: u64) -> u64 {
            self.hpet.lock().read(0, offset, 8)
        }
        fn edges(&self, irq: u32) -> usize {
            self.log.lock().iter().filter(|&&event| event == (irq, true)).count()
        }
    }

    const ROUTE_2: u64 = 2 << timer::ROUTE_SHIFT;

    /// Values read from QEMU 10.0.2.
    #[test]
    fn registers_after_power_up() {
        let bed = bed();
        assert_eq!(bed.read(0), 0x0098_9680_8086_a201);
        assert_eq!([0x100, 0x120, 0x140].map(|at| bed.read(at)), [0x4_0000_0030; 3]);
        assert_eq!(bed.read(0x108), !0);
        assert_eq!([0x10, 0x20, 0xf0, 0x110, 0x160, 0x18].map(|at| bed.read(at)), [0; 6]);
        assert_eq!(bed.hpet.lock().read(0, 0, 2), 0, "only whole registers or halves");
    }

    /// Values read from QEMU 10.0.2.
    #[test]
    fn register_masks() {
        let bed = bed();
        bed.write(0x100, !0);
        assert_eq!(bed.read(0x100), 0x4_0000_7f7e);
        bed.write(0x10, !0);
        assert_eq!(bed.read(0x10), 3);
        bed.write(0x10, 0);
        bed.hpet.lock().write(0, 0xf4, 4, 0x1234_5678);
        assert_eq!(bed.read(0xf0), 0x1234_5678_0000_0000);
        bed.hpet.lock().write(0, 0xf0, 2, 0xabcd);
        assert_eq!(bed.read(0xf0), 0x1234_5678_0000_0000);
        bed.write(0x100, timer::NARROW);
        assert_eq!(bed.read(0x108), 0xffff_ffff);
    }

    /// Linux leaves it so when it has found a better timer: it must not wake anybody.
    #[test]
    fn a_periodic_timer_that_interrupts_nobody_goes_on_unseen() {
        let bed = bed();
        bed.write(0x100, timer::PERIODIC | timer::SET_ACCUMULATOR | timer::INTERRUPT | ROUTE_2);
        bed.write(0x108, 1000);
        bed.write(0x108, 1000);
        bed.write(0x10, ENABLE);
        bed.clocks.step_to(1_500 * TICK);
        assert_eq!((bed.edges(2), bed.read(0x108)), (1, 2000));
        bed.write(0x100, timer::PERIODIC | ROUTE_2);
        assert!(bed.hpet.lock().matches[0].deadline().is_none());
        bed.clocks.step_to(6_500 * TICK);
        assert_eq!((bed.edges(2), bed.read(0x108)), (1, 7000));
        bed.clocks.step_to(9_500 * TICK);
        bed.write(0x100, timer::PERIODIC | timer::INTERRUPT | ROUTE_2);
        assert_eq!(bed.edges(2), 1, "what passed unheard is not made up for");
        bed.clocks.step_to(10_500 * TICK);
        assert_eq!((bed.edges(2), bed.read(0x108)), (2, 11000));
    }

    #[test]
    fn a_periodic_write_sets_the_accumulator_only_when_asked() {
        let bed = bed();
        bed.write(0x100, timer::PERIODIC | timer::SET_ACCUMULATOR);
        bed.write(0x108, 0x4000);
        assert_eq!((bed.read(0x108), bed.read(0x100)), (0x4000, 0x4_0000_0038));
        bed.write(0x108, 0x5000);
        assert_eq!(bed.read(0x108), 0x4000);
        assert_eq!(bed.hpet.lock().st.timers[0].period, 0x5000);
        bed.write(0x100, timer::PERIODIC | timer::SET_ACCUMULATOR | timer::NARROW);
        bed.hpet.lock().write(0, 0x10c, 4, 5);
        assert_eq!((bed.read(0x108), bed.read(0x100)), (0x4000, 0x4_0000_0178));
    }

    #[test]
    fn the_counter_runs_while_enabled_and_cannot_be_set_then() {
        let bed = bed();
        bed.write(0xf0, 100);
        bed.write(0x10, ENABLE);
        bed.clocks.step_to(1_000);
        bed.write(0xf0, 0);
        assert_eq!(bed.read(0xf0), 200);
        bed.write(0x10, 0);
        bed.clocks.step_to(5_000);
        assert_eq!(bed.read(0xf0), 200);
    }

    #[test]
    fn one_shot_fires_once_and_at_once_when_it_is_late() {
        let bed = bed();
        bed.write(0x100, timer::INTERRUPT | ROUTE_2);
        bed.write(0x108, 50_000);
        bed.write(0x10, ENABLE);
        bed.clocks.step_to(499_999);
        assert_eq!(bed.edges(2), 0);
        bed.clocks.step_to(500_000);
        assert_eq!(*bed.log.lock(), [(2, true), (2, false)]);
        bed.clocks.step_to(10_000_000);
        assert_eq!(bed.edges(2), 1);
        bed.write(0x108, 1);
        bed.clocks.step_to(10_000_000);
        assert_eq!(bed.edges(2), 2);
    }

    #[test]
    fn a_narrow_comparator_matches_each_time_round() {
        let bed = bed();
        bed.write(0x100, timer::INTERRUPT | timer::NARROW | ROUTE_2);
        bed.write(0x108, 5_000);
        bed.write(0x10, ENABLE);
        bed.clocks.step_to(3 * (TICK << 32));
        assert_eq!(bed.edges(2), 3);
    }

    #[test]
    fn periods_do_not_drift() {
        let bed = bed();
        bed.write(0x100, timer::INTERRUPT | timer::PERIODIC | timer::SET_ACCUMULATOR | ROUTE_2);
        bed.write(0x108, 30_000);
        bed.write(0x108, 100_000);
        bed.write(0x10, ENABLE);
        bed.clocks.step_to(10 * 1_000_000);
        assert_eq!(bed.edges(2), 10, "at 0.3 ms, 1.3 ms, ... 9.3 ms");
        assert_eq!(bed.read(0x108), 1_030_000);
    }

    #[test]
    fn a_level_is_held_until_acknowledged() {
        let bed = bed();
        bed.write(0x100, timer::LEVEL | ROUTE_2);
        bed.write(0x108, 1_000);
        bed.write(0x10, ENABLE);
        bed.clocks.step_to(10_000);
        assert_eq!((bed.read(0x20), bed.edges(2)), (1, 0), "status without an interrupt");
        bed.write(0x100, timer::LEVEL | timer::INTERRUPT | ROUTE_2);
        assert_eq!(bed.log.lock().last(), Some(&(2, true)));
        bed.write(0x10, 0);
        assert_eq!(bed.log.lock().last(), Some(&(2, false)));
        bed.write(0x10, ENABLE);
        bed.write(0x20, 1);
        assert_eq!((bed.read(0x20), bed.log.lock().last().copied()), (0, Some((2, false))));
    }

    #[test]
    fn legacy_routes_replace_the_old_timers() {
        let bed = bed();
        bed.write(0x100, timer::INTERRUPT | ROUTE_2);
        bed.write(0x108, 100);
        bed.write(0x120, timer::INTERRUPT);
        bed.write(0x128, 200);
        bed.write(0x10, ENABLE | LEGACY);
        assert!(*bed.legacy.lock());
        bed.clocks.step_to(10_000);
        assert_eq!([0, 2, 8].map(|irq| bed.edges(irq)), [1, 0, 1]);
        bed.hpet.lock().reset();
        assert!(!*bed.legacy.lock());
    }

    #[test]
    fn a_cut_wire_remembers_its_level() {
        let output = IrqLine::new(Arc::new(FnSink(|_, _| ())), 8);
        let gate = LegacyGate::new(output.clone());
        gate.set_cut(true);
        gate.set_irq(0, true);
        assert!(!output.level());
        gate.set_cut(false);
        assert!(output.level());
    }

    proptest! {
        #[test]
        fn any_access_is_survived(
            accesses in prop::collection::vec((0u64..0x180, 0u32..4, any::<u64>(), 0i64..100_000), 1..60)
        ) {
            let bed = bed();
            let mut now = 0;
            for (offset, size, value, step) in accesses {
                let size = 1 << size;
                bed.hpet.lock().write(0, offset & !3, size, value);
                bed.hpet.lock().read(0, offset, size);
                now += step;
                bed.clocks.step_to(now);
            }
            bed.hpet.lock().reset();
            let once = bed.hpet.lock().st.clone();
            bed.hpet.lock().reset();
            prop_assert_eq!(&once, &bed.hpet.lock().st);
            prop_assert_eq!(bed.hpet.lock().driven, 0);
        }
    }
}
