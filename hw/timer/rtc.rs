//! The MC146818A real-time clock with its CMOS memory (Motorola MC146818A datasheet).
//!
//! The time is not counted: it is the host's or the VM's clock plus an offset that the guest sets.
//! Flags that nobody asked an interrupt for are worked out when the guest looks.

use base::clock::{ClockKind, Clocks, SECOND, Timer};
use base::device::{self, Device, Shared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::request::{Request, RequestSink, WakeReason};
use base::state::State;

use super::calendar::DateTime;

/// Port of the index register; the data register follows it.
pub const RTC_PORT: u64 = 0x70;

/// Register numbers.
#[allow(missing_docs)]
pub mod reg {
    pub const SECONDS: u8 = 0;
    pub const SECONDS_ALARM: u8 = 1;
    pub const MINUTES: u8 = 2;
    pub const MINUTES_ALARM: u8 = 3;
    pub const HOURS: u8 = 4;
    pub const HOURS_ALARM: u8 = 5;
    pub const DAY_OF_WEEK: u8 = 6;
    pub const DAY: u8 = 7;
    pub const MONTH: u8 = 8;
    pub const YEAR: u8 = 9;
    pub const A: u8 = 10;
    pub const B: u8 = 11;
    pub const C: u8 = 12;
    pub const D: u8 = 13;
    pub const CENTURY: u8 = 0x32;
    /// Where PS/2 machines have the century: the same register.
    pub const CENTURY_PS2: u8 = 0x37;
}

const A_UPDATING: u8 = 0x80;
const A_DIVIDER: u8 = 0x70;
const A_DIVIDER_RESET: u8 = 0x60;
const A_RATE: u8 = 0x0f;
const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_IRQ: u8 = 0x80;
const C_FLAGS: u8 = B_PERIODIC | B_ALARM | B_UPDATE;
const D_VALID: u8 = 0x80;
const HOURS_PM: u8 = 0x80;
/// The two top bits of an alarm register: any value matches.
const DONT_CARE: u8 = 0xc0;

/// The update-in-progress bit is set so long before the second changes.
const UPDATE_WARNING: i64 = 244_000;
const PERIODIC_HZ: i64 = 32_768;
/// Interrupts that are made up for come so many times as fast as others.
const CATCH_UP_SPEED: i64 = 8;

/// What the clock shows at start, and what moves it.
#[derive(Clone, Copy, Debug)]
pub struct RtcConfig {
    /// The clock it follows.
    pub clock: ClockKind,
    /// What it shows when that clock shows `at`, in nanoseconds since 1970.
    pub shows: i64,
    /// See `shows`.
    pub at: i64,
    /// Whether periodic interrupts that the guest was too late for are made up for.
    pub slew: bool,
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct RtcState {
    index: u8,
    cmos: [u8; 128],
    /// Own time minus the clock's time, in nanoseconds: own time changes seconds when the shown
    /// time does.
    offset: i64,
    /// Shown time minus own time, in seconds. Years that the registers can show are beyond what
    /// nanoseconds can count.
    epoch: i64,
    /// The own time at which the clock stands while it is being set.
    frozen: Option<i64>,
    /// Up to when flags have been worked out, in own time.
    seen: i64,
    /// When the next period ends, in own time.
    period_ends: i64,
    /// Periodic interrupts to make up for.
    lost_ticks: u32,
    /// When the next of them is due, in own time.
    catch_up: i64,
}

impl RtcState {
    /// Shows `seconds` since 1970 and a fraction in nanoseconds when the clock stands at `clock`.
    fn set_time(&mut self, seconds: i64, fraction: i64, clock: i64) {
        self.offset = (fraction - clock).rem_euclid(SECOND);
        let now = clock + self.offset;
        self.epoch = seconds - now.div_euclid(SECOND);
        (self.seen, self.period_ends) = (now, now);
    }
}

/// Called with the difference to the host's time in seconds when the guest has set the clock.
pub type TimeChanged = Box<dyn Fn(i64) + Send>;

/// The clock.
pub struct Rtc {
    irq: IrqLine,
    timer: Timer,
    clocks: Clocks,
    cfg: RtcConfig,
    changed: TimeChanged,
    requests: RequestSink,
    st: RtcState,
}

/// The clock with its regions.
pub struct RtcParts {
    /// The clock.
    pub rtc: Shared<Rtc>,
    /// For [`RTC_PORT`].
    pub ports: Region,
}

impl Rtc {
    /// The clock, which interrupts through `irq`.
    pub fn create(cfg: RtcConfig, irq: IrqLine, clocks: &Clocks, changed: TimeChanged) -> RtcParts {
        let rtc = device::share(|me| {
            let mut cmos = [0; 128];
            cmos[usize::from(reg::A)] = 0x26;
            cmos[usize::from(reg::B)] = B_24_HOURS;
            cmos[usize::from(reg::D)] = D_VALID;
            let mut st = RtcState {
                index: 0,
                cmos,
                offset: 0,
                epoch: 0,
                frozen: None,
                seen: 0,
                period_ends: 0,
                lost_ticks: 0,
                catch_up: 0,
            };
            let (seconds, fraction) = (cfg.shows.div_euclid(SECOND), cfg.shows.rem_euclid(SECOND));
            st.set_time(seconds, fraction, cfg.at);
            let timer = device::timer(me, clocks, cfg.clock, Rtc::update);
            let requests = RequestSink::ignore();
            Rtc { irq, timer, clocks: clocks.clone(), cfg, changed, requests, st }
        });
        let ports = device::region(&rtc, 0, "rtc", 2, AccessSizes::BYTE);
        RtcParts { rtc, ports }
    }

    /// Alarms wake the machine from now on.
    pub fn wake_by(&mut self, requests: RequestSink) {
        self.requests = requests;
    }

    /// Sets a byte of CMOS memory, as a board describes itself to firmware.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        self.st.cmos[usize::from(index & 0x7f)] = value;
    }

    /// A byte of CMOS memory as it was set.
    pub fn cmos(&self, index: u8) -> u8 {
        self.st.cmos[usize::from(index & 0x7f)]
    }

    /// The own time, in nanoseconds.
    fn now(&self) -> i64 {
        self.st.frozen.unwrap_or_else(|| self.clocks.now(self.cfg.clock) + self.st.offset)
    }

    fn encode(&self, value: u8) -> u8 {
        let binary = self.cmos(reg::B) & B_BINARY != 0;
        if binary { value } else { value / 10 << 4 | value % 10 }
    }

    fn decode(&self, value: u8) -> u8 {
        let binary = self.cmos(reg::B) & B_BINARY != 0;
        if binary { value } else { (value >> 4) * 10 + (value & 0xf) }
    }

    fn encode_hours(&self, hours: u8) -> u8 {
        if self.cmos(reg::B) & B_24_HOURS != 0 {
            return self.encode(hours);
        }
        let twelve = match hours % 12 {
            0 => 12,
            hour => hour,
        };
        self.encode(twelve) | if hours >= 12 { HOURS_PM } else { 0 }
    }

    fn decode_hours(&self, value: u8) -> u8 {
        if self.cmos(reg::B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & !HOURS_PM) % 12 + if value & HOURS_PM != 0 { 12 } else { 0 }
    }

    /// Writes the shown time into the time registers.
    fn show(&mut self) {
        let date = DateTime::from_seconds(self.now().div_euclid(SECOND) + self.st.epoch);
        let year = date.year.rem_euclid(10_000) as u16;
        let fields = [
            (reg::SECONDS, self.encode(date.second)),
            (reg::MINUTES, self.encode(date.minute)),
            (reg::HOURS, self.encode_hours(date.hour)),
            (reg::DAY_OF_WEEK, self.encode(date.weekday + 1)),
            (reg::DAY, self.encode(date.day)),
            (reg::MONTH, self.encode(date.month)),
            (reg::YEAR, self.encode((year % 100) as u8)),
            (reg::CENTURY, self.encode((year / 100) as u8)),
        ];
        fields.into_iter().for_each(|(index, value)| self.set_cmos(index, value));
    }

    /// The time that the time registers show, in seconds since 1970.
    fn shown(&self) -> i64 {
        let field = |index| self.decode(self.cmos(index));
        let date = DateTime {
            year: i64::from(field(reg::CENTURY)) * 100 + i64::from(field(reg::YEAR)),
            month: field(reg::MONTH),
            day: field(reg::DAY),
            hour: self.decode_hours(self.cmos(reg::HOURS)),
            minute: field(reg::MINUTES),
            second: field(reg::SECONDS),
            weekday: 0,
        };
        date.to_seconds()
    }

    fn stopped(&self) -> bool {
        self.cmos(reg::B) & B_SET != 0 || self.cmos(reg::A) & A_DIVIDER >= A_DIVIDER_RESET
    }

    /// Makes the clock stand or run as the registers now say.
    fn follow_controls(&mut self) {
        match (self.stopped(), self.st.frozen) {
            (true, None) => {
                self.show();
                self.st.frozen = Some(self.now());
            }
            (false, Some(frozen)) => {
                self.st.frozen = None;
                // The fraction of the second is kept, so that setting the time does not shift it.
                let fraction = frozen.rem_euclid(SECOND);
                self.set_time(self.shown(), fraction);
            }
            _ => {}
        }
    }

    /// From now on the clock shows `seconds` since 1970 and a fraction in nanoseconds.
    fn set_time(&mut self, seconds: i64, fraction: i64) {
        self.st.set_time(seconds, fraction, self.clocks.now(self.cfg.clock));
        self.st.period_ends += self.period().unwrap_or(0);
        let nanoseconds = i128::from(seconds) * i128::from(SECOND) + i128::from(fraction);
        let ahead = nanoseconds - i128::from(self.clocks.now(ClockKind::Host));
        (self.changed)((ahead / i128::from(SECOND)) as i64);
    }

    /// Length of the periodic interrupt's period.
    fn period(&self) -> Option<i64> {
        let ticks = match self.cmos(reg::A) & A_RATE {
            0 => return None,
            // The two fastest rates of this time base are those of 8 and 9.
            rate @ 1..=2 => 1 << (rate + 6),
            rate => 1i64 << (rate - 1),
        };
        Some(ticks * SECOND / PERIODIC_HZ)
    }

    fn alarm_matches(&self, second_of_day: i64) -> bool {
        let matches = |index: u8, value: u8| {
            let alarm = self.cmos(index);
            alarm & DONT_CARE == DONT_CARE || alarm == value
        };
        let (hour, minute) = (second_of_day / 3600, second_of_day / 60 % 60);
        matches(reg::SECONDS_ALARM, self.encode((second_of_day % 60) as u8))
            && matches(reg::MINUTES_ALARM, self.encode(minute as u8))
            && matches(reg::HOURS_ALARM, self.encode_hours(hour as u8))
    }

    /// Sets the flags of everything that has happened since the last look.
    fn collect(&mut self) {
        const DAY: i64 = 86_400;
        if self.stopped() {
            return;
        }
        let now = self.now();
        let (before, after) = (self.st.seen.div_euclid(SECOND), now.div_euclid(SECOND));
        let mut flags = 0;
        if after > before {
            flags |= B_UPDATE;
            let first = (after - DAY).max(before) + 1;
            let of_day = |second: i64| (second + self.st.epoch).rem_euclid(DAY);
            if (first..=after).any(|second| self.alarm_matches(of_day(second))) {
                flags |= B_ALARM;
                if self.cmos(reg::B) & B_ALARM != 0 {
                    self.requests.send(Request::WakeUp(WakeReason::Rtc));
                }
            }
        }
        self.st.seen = now;
        if let Some(period) = self.period()
            && now >= self.st.period_ends
        {
            flags |= B_PERIODIC;
            let ended = (now - self.st.period_ends) / period + 1;
            self.st.period_ends += ended * period;
            self.count_lost(ended);
        }
        if self.st.lost_ticks > 0
            && now >= self.st.catch_up
            && (flags | self.cmos(reg::C)) & B_PERIODIC == 0
        {
            flags |= B_PERIODIC;
            self.st.lost_ticks -= 1;
        }
        self.st.cmos[usize::from(reg::C)] |= flags;
    }

    /// One of the periods that have ended is told with the flag, unless the guest has not even
    /// seen the last one's.
    fn count_lost(&mut self, ended: i64) {
        if self.cfg.slew && self.cmos(reg::B) & B_PERIODIC != 0 {
            let seen = i64::from(self.cmos(reg::C) & B_PERIODIC == 0);
            let lost = u32::try_from(ended - seen).unwrap_or(u32::MAX);
            self.st.lost_ticks = self.st.lost_ticks.saturating_add(lost);
        }
    }

    /// Collects flags, drives the interrupt and waits for what would change it.
    fn update(&mut self) {
        self.collect();
        let enabled = self.cmos(reg::B) & C_FLAGS;
        let c = &mut self.st.cmos[usize::from(reg::C)];
        *c &= C_FLAGS;
        if *c & enabled != 0 {
            *c |= C_IRQ;
        }
        let level = *c & C_IRQ != 0;
        self.irq.set(level);
        let now = self.now();
        let second =
            (enabled & (B_UPDATE | B_ALARM) != 0).then_some((now.div_euclid(SECOND) + 1) * SECOND);
        let period =
            (enabled & B_PERIODIC != 0 && self.period().is_some()).then_some(self.st.period_ends);
        let lost =
            (enabled & B_PERIODIC != 0 && self.st.lost_ticks > 0).then_some(self.st.catch_up);
        let next = [second, period, lost].into_iter().flatten().min();
        match next.filter(|_| !self.stopped() && !level) {
            Some(at) => self.timer.set(at - self.st.offset),
            None => self.timer.cancel(),
        }
    }

    fn read_register(&mut self, index: u8) -> u8 {
        match index {
            reg::SECONDS
            | reg::MINUTES
            | reg::HOURS
            | reg::DAY_OF_WEEK
            | reg::DAY
            | reg::MONTH
            | reg::YEAR
            | reg::CENTURY => {
                if !self.stopped() {
                    self.show();
                }
                self.cmos(index)
            }
            reg::A => {
                let left = SECOND - self.now().rem_euclid(SECOND);
                let updating = !self.stopped() && left <= UPDATE_WARNING;
                self.cmos(reg::A) | if updating { A_UPDATING } else { 0 }
            }
            reg::CENTURY_PS2 => self.read_register(reg::CENTURY),
            reg::C => {
                self.update();
                let value = self.cmos(reg::C);
                self.set_cmos(reg::C, 0);
                self.st.catch_up = self.now() + self.period().unwrap_or(0) / CATCH_UP_SPEED;
                self.update();
                value
            }
            _ => self.cmos(index),
        }
    }

    fn write_register(&mut self, index: u8, value: u8) {
        self.collect();
        match index {
            reg::SECONDS..=reg::YEAR | reg::CENTURY => {
                let is_time =
                    !matches!(index, reg::SECONDS_ALARM | reg::MINUTES_ALARM | reg::HOURS_ALARM);
                if is_time && !self.stopped() {
                    let fraction = self.now().rem_euclid(SECOND);
                    self.show();
                    self.set_cmos(index, value);
                    self.set_time(self.shown(), fraction);
                }
                self.set_cmos(index, value);
            }
            reg::A => {
                let old_rate = self.cmos(reg::A) & A_RATE;
                self.set_cmos(reg::A, value & !A_UPDATING);
                self.follow_controls();
                if value & A_RATE != old_rate {
                    self.st.period_ends = self.now() + self.period().unwrap_or(0);
                }
            }
            reg::B => {
                // Setting the time forbids the update-ended interrupt.
                let value = if value & B_SET != 0 { value & !B_UPDATE } else { value };
                if value & B_PERIODIC == 0 {
                    self.st.lost_ticks = 0;
                }
                if value & B_PERIODIC & !self.cmos(reg::B) != 0 {
                    self.st.period_ends = self.now() + self.period().unwrap_or(0);
                }
                self.set_cmos(reg::B, value);
                self.follow_controls();
            }
            reg::CENTURY_PS2 => return self.write_register(reg::CENTURY, value),
            reg::C | reg::D => {}
            _ => self.set_cmos(index, value),
        }
        self.update();
    }
}

impl Device for Rtc {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> u64 {
        match offset {
            1 => self.read_register(self.st.index).into(),
            _ => 0xff,
        }
    }

    fn write(&mut self, _: u32, offset: u64, _: u8, value: u64) {
        match offset {
            0 => {
                self.st.index = match value as u8 & 0x7f {
                    reg::CENTURY_PS2 => reg::CENTURY,
                    index => index,
                }
            }
            _ => self.write_register(self.st.index, value as u8),
        }
    }

    /// A reset stops interrupts; the time and the memory live on the battery.
    fn reset(&mut self) {
        let b = self.cmos(reg::B);
        self.set_cmos(reg::B, b & !(B_PERIODIC | B_ALARM | B_UPDATE));
        self.set_cmos(reg::C, 0);
        self.st.lost_ticks = 0;
        self.st.index = 0;
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bed {
        clocks: Clocks,
        rtc: Shared<Rtc>,
        irq: IrqLine,
    }

    /// 2024-02-28 23:59:58, on a virtual clock at zero.
    fn bed() -> Bed {
        bed_with(false)
    }

    fn bed_with(slew: bool) -> Bed {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let sink = std::sync::Arc::new(base::irq::FnSink(|_, _| ()));
        let irq = IrqLine::new(sink, 8);
        let date = DateTime {
            year: 2024,
            month: 2,
            day: 28,
            hour: 23,
            minute: 59,
            second: 58,
            weekday: 0,
        };
        let cfg =
            RtcConfig { clock: ClockKind::Virtual, shows: date.to_seconds() * SECOND, at: 0, slew };
        let rtc = Rtc::create(cfg, irq.clone(), &clocks, Box::new(|_| ())).rtc;
        Bed { clocks, rtc, irq }
    }

    fn read(bed: &Bed, index: u8) -> u8 {
        let mut rtc = bed.rtc.lock();
        rtc.write(0, 0, 1, index.into());
        rtc.read(0, 1, 1) as u8
    }

    fn write(bed: &Bed, index: u8, value: u8) {
        let mut rtc = bed.rtc.lock();
        rtc.write(0, 0, 1, index.into());
        rtc.write(0, 1, 1, value.into());
    }

    #[test]
    fn the_date_rolls_over() {
        let bed = bed();
        let fields = [reg::CENTURY, reg::YEAR, reg::MONTH, reg::DAY, reg::HOURS, reg::SECONDS];
        assert_eq!(fields.map(|f| read(&bed, f)), [0x20, 0x24, 0x02, 0x28, 0x23, 0x58]);
        bed.clocks.step_to(2 * SECOND);
        assert_eq!(fields.map(|f| read(&bed, f)), [0x20, 0x24, 0x02, 0x29, 0x00, 0x00]);
        assert_eq!(read(&bed, reg::DAY_OF_WEEK), 5, "a Thursday");
    }

    #[test]
    fn twelve_hours_and_binary() {
        let bed = bed();
        write(&bed, reg::B, B_BINARY);
        assert_eq!(read(&bed, reg::HOURS), 11 | HOURS_PM);
        bed.clocks.step_to(2 * SECOND);
        assert_eq!(read(&bed, reg::HOURS), 12);
    }

    #[test]
    fn setting_the_time_keeps_it() {
        let bed = bed();
        write(&bed, reg::B, B_24_HOURS | B_SET);
        bed.clocks.step_to(10 * SECOND);
        assert_eq!(read(&bed, reg::SECONDS), 0x58, "stands still");
        write(&bed, reg::HOURS, 0x12);
        write(&bed, reg::B, B_24_HOURS);
        bed.clocks.step_to(11 * SECOND);
        assert_eq!((read(&bed, reg::HOURS), read(&bed, reg::SECONDS)), (0x12, 0x59));
    }

    /// Beyond what nanoseconds since 1970 can count.
    #[test]
    fn any_year_can_be_set() {
        for (century, year) in [(0x99, 0x99), (0xff, 0x99), (0x00, 0x01), (0x23, 0x00)] {
            let bed = bed();
            write(&bed, reg::CENTURY, century);
            write(&bed, reg::YEAR, year);
            bed.clocks.step_to(SECOND);
            // A digit above nine carries over, and four of them are shown.
            let shown = if century == 0xff { 0x65 } else { century };
            let fields = [reg::CENTURY, reg::YEAR, reg::SECONDS].map(|field| read(&bed, field));
            assert_eq!(fields, [shown, year, 0x59]);
        }
    }

    #[test]
    fn the_update_flag_and_interrupt() {
        let bed = bed();
        read(&bed, reg::C);
        bed.clocks.step_to(SECOND);
        assert_eq!(read(&bed, reg::C), B_UPDATE | B_PERIODIC, "flags without an interrupt");
        write(&bed, reg::B, B_24_HOURS | B_UPDATE);
        bed.clocks.step_to(2 * SECOND);
        assert!(bed.irq.level());
        assert_eq!(read(&bed, reg::C) & (C_IRQ | B_UPDATE), C_IRQ | B_UPDATE);
        assert!(!bed.irq.level());
    }

    #[test]
    fn the_alarm_takes_any_value_where_told() {
        let bed = bed();
        write(&bed, reg::HOURS_ALARM, DONT_CARE);
        write(&bed, reg::MINUTES_ALARM, DONT_CARE);
        write(&bed, reg::SECONDS_ALARM, 0x03);
        write(&bed, reg::B, B_24_HOURS | B_ALARM);
        bed.clocks.step_to(5 * SECOND - 1);
        assert!(!bed.irq.level());
        bed.clocks.step_to(5 * SECOND);
        assert!(bed.irq.level());
    }

    #[test]
    fn periodic_interrupts_come_at_their_rate() {
        let bed = bed();
        write(&bed, reg::A, 0x2f);
        write(&bed, reg::B, B_24_HOURS | B_PERIODIC);
        read(&bed, reg::C);
        for n in 1..=4 {
            bed.clocks.step_to(n * SECOND / 2 - 1);
            assert!(!bed.irq.level(), "{n}");
            bed.clocks.step_to(n * SECOND / 2);
            assert_eq!(read(&bed, reg::C) & B_PERIODIC, B_PERIODIC, "{n}");
        }
    }

    #[test]
    fn a_late_guest_catches_up() {
        for (slew, expected) in [(false, 1), (true, 5)] {
            let bed = bed_with(slew);
            write(&bed, reg::A, 0x2f);
            write(&bed, reg::B, B_24_HOURS | B_PERIODIC);
            read(&bed, reg::C);
            // Five periods end before the guest looks, none while it catches up.
            bed.clocks.step_to(5 * SECOND / 2);
            let mut seen = 0;
            for step in 0..7 {
                bed.clocks.step_to(5 * SECOND / 2 + step * SECOND / 16);
                if bed.irq.level() {
                    seen += u32::from(read(&bed, reg::C) & B_PERIODIC != 0);
                }
            }
            assert_eq!(seen, expected, "slew {slew}");
        }
    }

    #[test]
    fn updating_is_announced() {
        let bed = bed();
        assert_eq!(read(&bed, reg::A), 0x26);
        bed.clocks.step_to(SECOND - UPDATE_WARNING);
        assert_eq!(read(&bed, reg::A), 0xa6);
    }
}
