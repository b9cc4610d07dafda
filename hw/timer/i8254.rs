//! The 8254 interval timer, and port 61h that gates its third channel (Intel 8254 datasheet).
//!
//! Nothing counts: each channel remembers when its count was loaded, and whatever is read or comes
//! out follows from the time on the virtual clock.

use base::clock::{ClockKind, Clocks, SECOND, Timer};
use base::device::{self, Device, Shared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::state::State;

/// First of the four ports.
pub const PIT_PORT: u64 = 0x40;
/// Port of the speaker gate.
pub const SPEAKER_PORT: u64 = 0x61;
/// Counting frequency in Hz.
pub const PIT_HZ: i64 = 1_193_182;

const PIT: u32 = 0;
const SPEAKER: u32 = 1;

/// How a channel's bytes are accessed: which half comes next.
/// Nobody has chosen yet; the low half is accessed, as with 1.
const ACCESS_NONE: u8 = 0;
const ACCESS_HIGH: u8 = 2;
const ACCESS_BOTH: u8 = 3;

/// Registers of one channel.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct ChannelState {
    /// Counting mode, 0 to 5.
    mode: u8,
    access: u8,
    bcd: bool,
    gate: bool,
    /// The count, 1 to 65536; 0 until one is loaded.
    count: u32,
    /// When counting began, on the virtual clock.
    start: i64,
    /// The low byte waits for the high one.
    write_low: Option<u8>,
    read_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
}

impl ChannelState {
    fn at_reset(gate: bool) -> Self {
        ChannelState {
            mode: 3,
            access: ACCESS_NONE,
            bcd: false,
            gate,
            count: 0x10000,
            start: 0,
            write_low: None,
            read_high: false,
            latched: None,
            latched_status: None,
        }
    }

    /// Clock pulses since the count was loaded.
    fn ticks(&self, now: i64) -> i64 {
        let since = i128::from(now.saturating_sub(self.start).max(0));
        (since * i128::from(PIT_HZ) / i128::from(SECOND)) as i64
    }

    /// The virtual time of the given pulse: the earliest at which [`Self::ticks`] shows it.
    fn time_of(&self, tick: i64) -> i64 {
        let scaled = i128::from(tick) * i128::from(SECOND);
        let hz = i128::from(PIT_HZ);
        self.start.saturating_add(((scaled + hz - 1) / hz) as i64)
    }

    /// The counting element's value.
    fn counter(&self, now: i64) -> u16 {
        let ticks = self.ticks(now);
        let count = i64::from(self.count.max(1));
        let modulus = if self.bcd { 10_000 } else { 0x10000 };
        let value = match self.mode {
            0 | 1 | 4 | 5 => (count - ticks).rem_euclid(modulus),
            // Mode 3 counts down by two, twice per period.
            3 => count - (2 * ticks) % count,
            _ => count - ticks % count,
        } % modulus;
        if self.bcd { to_bcd(value as u32) } else { value as u16 }
    }

    /// The output pin.
    fn output(&self, now: i64) -> bool {
        let ticks = self.ticks(now);
        let count = i64::from(self.count.max(1));
        match self.mode {
            0 | 1 => ticks >= count,
            2 => !self.gate || ticks % count != count - 1,
            3 => !self.gate || ticks % count < (count + 1) / 2,
            _ => ticks != count,
        }
    }

    /// Whether the output rose after `before`, up to `now`. It may be low again by now, or may have
    /// been low for a moment only: the timer that watches it is always a little late.
    fn rose(&self, before: i64, now: i64) -> bool {
        let (before, now) = (self.ticks(before), self.ticks(now));
        let count = i64::from(self.count.max(1));
        match self.mode {
            0 | 1 => before < count && now >= count,
            2 | 3 => self.gate && now / count > before / count,
            _ => before <= count && now > count,
        }
    }

    /// When the output changes next after `now`. The low pulse of mode 2 is left out: only its end
    /// is of interest.
    fn next_change(&self, now: i64) -> Option<i64> {
        let ticks = self.ticks(now);
        let count = i64::from(self.count.max(1));
        let period = ticks / count * count;
        let tick = match self.mode {
            0 | 1 => (ticks < count).then_some(count)?,
            2 | 3 if !self.gate => return None,
            3 if ticks % count < (count + 1) / 2 => period + (count + 1) / 2,
            2 | 3 => period + count,
            _ if ticks < count => count,
            _ if ticks == count => count + 1,
            _ => return None,
        };
        Some(self.time_of(tick))
    }

    fn load(&mut self, value: u16, now: i64) {
        let value = if self.bcd { from_bcd(value) } else { value.into() };
        let whole = if self.bcd { 10_000 } else { 0x10000 };
        self.count = if value == 0 { whole } else { value };
        self.start = now;
    }

    fn control(&mut self, value: u8) {
        self.access = value >> 4 & 3;
        // Modes 6 and 7 are 2 and 3 again.
        self.mode = match value >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        self.bcd = value & 1 != 0;
        self.write_low = None;
        self.read_high = false;
        self.latched = None;
        self.latched_status = None;
    }

    fn latch_count(&mut self, now: i64) {
        if self.latched.is_none() {
            self.latched = Some(self.counter(now));
            self.read_high = false;
        }
    }

    fn latch_status(&mut self, now: i64) {
        if self.latched_status.is_none() {
            let output = u8::from(self.output(now)) << 7;
            self.latched_status =
                Some(output | self.access << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    fn read(&mut self, now: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched.unwrap_or_else(|| self.counter(now)).to_le_bytes();
        let (byte, complete) = match self.access {
            ACCESS_HIGH => (value[1], true),
            ACCESS_BOTH => {
                self.read_high = !self.read_high;
                if self.read_high { (value[0], false) } else { (value[1], true) }
            }
            _ => (value[0], true),
        };
        if complete {
            self.latched = None;
        }
        byte
    }

    fn write(&mut self, value: u8, now: i64) {
        match (self.access, self.write_low) {
            (ACCESS_HIGH, _) => self.load(u16::from(value) << 8, now),
            (ACCESS_BOTH, None) => self.write_low = Some(value),
            (ACCESS_BOTH, Some(low)) => {
                self.write_low = None;
                self.load(u16::from_le_bytes([low, value]), now);
            }
            _ => self.load(value.into(), now),
        }
    }

    /// A rising gate restarts the modes that it triggers.
    fn set_gate(&mut self, gate: bool, now: i64) {
        if gate && !self.gate && matches!(self.mode, 1 | 2 | 3 | 5) {
            self.start = now;
        }
        self.gate = gate;
    }
}

fn to_bcd(value: u32) -> u16 {
    (0..4).fold(0, |bcd, digit| bcd | ((value / 10u32.pow(digit) % 10) << (4 * digit)) as u16)
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |number, digit| number * 10 + u32::from(value >> (4 * digit) & 0xf))
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct PitState {
    channels: [ChannelState; 3],
    speaker_on: bool,
    refresh: bool,
    /// Up to when channel 0's output has been followed.
    followed: i64,
}

impl PitState {
    fn at_reset() -> Self {
        let channel = ChannelState::at_reset;
        let channels = [channel(true), channel(true), channel(false)];
        PitState { channels, speaker_on: false, refresh: false, followed: 0 }
    }
}

/// The timer.
pub struct Pit {
    irq: IrqLine,
    timer: Timer,
    clocks: Clocks,
    /// The HPET stands in for channel 0.
    irq_disabled: bool,
    st: PitState,
}

/// The timer with its regions.
pub struct PitParts {
    /// The timer.
    pub pit: Shared<Pit>,
    /// For [`PIT_PORT`].
    pub ports: Region,
    /// For [`SPEAKER_PORT`].
    pub speaker: Region,
}

impl Pit {
    /// The timer, whose channel 0 drives `irq`.
    pub fn create(irq: IrqLine, clocks: &Clocks) -> PitParts {
        let pit = device::share(|me| Pit {
            irq,
            timer: device::timer(me, clocks, ClockKind::Virtual, Pit::update),
            clocks: clocks.clone(),
            irq_disabled: false,
            st: PitState::at_reset(),
        });
        let ports = device::region(&pit, PIT, "pit", 4, AccessSizes::BYTE);
        let speaker = device::region(&pit, SPEAKER, "pcspk", 1, AccessSizes::BYTE);
        PitParts { pit, ports, speaker }
    }

    /// Cuts channel 0's interrupt off while the HPET replaces it, or connects it again.
    pub fn set_irq_disabled(&mut self, disabled: bool) {
        self.irq_disabled = disabled;
        self.update();
    }

    /// Drives channel 0's output and waits for its next change.
    fn update(&mut self) {
        let now = self.clocks.now_virtual();
        if self.irq_disabled {
            self.timer.cancel();
            self.irq.lower();
            return;
        }
        let channel = &self.st.channels[0];
        if channel.rose(self.st.followed, now) {
            self.irq.lower();
            self.irq.raise();
        }
        self.irq.set(channel.output(now));
        self.st.followed = now;
        match channel.next_change(now) {
            Some(at) => self.timer.set(at),
            None => self.timer.cancel(),
        }
    }

    fn control(&mut self, value: u8) {
        let now = self.clocks.now_virtual();
        let select = usize::from(value >> 6);
        if select == 3 {
            for (n, channel) in self.st.channels.iter_mut().enumerate() {
                if value & 2 << n != 0 {
                    if value & 0x20 == 0 {
                        channel.latch_count(now);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
        } else if value & 0x30 == 0 {
            self.st.channels[select].latch_count(now);
        } else {
            self.st.channels[select].control(value);
            self.update();
        }
    }
}

impl Device for Pit {
    fn read(&mut self, region: u32, offset: u64, _: u8) -> u64 {
        let now = self.clocks.now_virtual();
        let value = match (region, offset) {
            (PIT, n @ 0..=2) => self.st.channels[n as usize].read(now),
            (PIT, _) => 0,
            _ => {
                // Software measures short times by the refresh bit: it must change.
                self.st.refresh = !self.st.refresh;
                let speaker = &self.st.channels[2];
                u8::from(speaker.gate)
                    | u8::from(self.st.speaker_on) << 1
                    | u8::from(self.st.refresh) << 4
                    | u8::from(speaker.output(now)) << 5
            }
        };
        value.into()
    }

    fn write(&mut self, region: u32, offset: u64, _: u8, value: u64) {
        let (now, value) = (self.clocks.now_virtual(), value as u8);
        match (region, offset) {
            (PIT, n @ 0..=2) => {
                self.st.channels[n as usize].write(value, now);
                self.update();
            }
            (PIT, _) => self.control(value),
            _ => {
                self.st.channels[2].set_gate(value & 1 != 0, now);
                self.st.speaker_on = value & 2 != 0;
            }
        }
    }

    fn reset(&mut self) {
        let now = self.clocks.now_virtual();
        self.st = PitState::at_reset();
        self.st.channels.iter_mut().for_each(|channel| channel.start = now);
        self.irq_disabled = false;
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::irq::FnSink;
    use parking_lot::Mutex;
    use std::sync::Arc;

    struct Bed {
        clocks: Clocks,
        pit: Shared<Pit>,
        edges: Arc<Mutex<u32>>,
    }

    fn bed() -> Bed {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let edges = Arc::new(Mutex::new(0));
        let (count, high) = (edges.clone(), Mutex::new(false));
        let sink = FnSink(move |_, level| {
            let was_high = std::mem::replace(&mut *high.lock(), level);
            *count.lock() += u32::from(level && !was_high);
        });
        let pit = Pit::create(IrqLine::new(Arc::new(sink), 0), &clocks).pit;
        Bed { clocks, pit, edges }
    }

    fn program(bed: &Bed, control: u64, count: u16) {
        let channel = control >> 6;
        let mut pit = bed.pit.lock();
        pit.write(PIT, 3, 1, control);
        pit.write(PIT, channel, 1, (count & 0xff).into());
        pit.write(PIT, channel, 1, (count >> 8).into());
    }

    fn ticks(n: i64) -> i64 {
        (n * SECOND + PIT_HZ - 1) / PIT_HZ
    }

    #[test]
    fn mode_2_interrupts_once_per_period() {
        let bed = bed();
        program(&bed, 0x34, 1000);
        let before = *bed.edges.lock();
        bed.clocks.step_to(ticks(10_000) + 1);
        assert_eq!(*bed.edges.lock() - before, 10);
    }

    #[test]
    fn a_late_timer_still_sees_the_edge() {
        let bed = bed();
        program(&bed, 0x34, 1000);
        let before = *bed.edges.lock();
        bed.clocks.set_virtual(ticks(1500));
        bed.clocks.run_expired();
        assert_eq!(*bed.edges.lock() - before, 1);
    }

    #[test]
    fn mode_0_interrupts_once() {
        let bed = bed();
        program(&bed, 0x30, 500);
        let before = *bed.edges.lock();
        bed.clocks.step_to(ticks(499));
        assert_eq!(*bed.edges.lock(), before);
        bed.clocks.step_to(ticks(5000));
        assert_eq!(*bed.edges.lock(), before + 1);
    }

    #[test]
    fn a_latched_count_stands_still() {
        let bed = bed();
        program(&bed, 0x34, 0x1234);
        bed.clocks.step_to(ticks(0x34));
        bed.pit.lock().write(PIT, 3, 1, 0x00);
        bed.clocks.step_to(ticks(0x100));
        let mut pit = bed.pit.lock();
        assert_eq!((pit.read(PIT, 0, 1), pit.read(PIT, 0, 1)), (0x00, 0x12));
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let bed = bed();
        program(&bed, 0x71, 0x1000);
        bed.clocks.step_to(ticks(1));
        let mut pit = bed.pit.lock();
        assert_eq!((pit.read(PIT, 1, 1), pit.read(PIT, 1, 1)), (0x99, 0x09));
    }

    #[test]
    fn the_third_channel_is_timed_by_its_gate() {
        let bed = bed();
        bed.pit.lock().write(SPEAKER, 0, 1, 1);
        program(&bed, 0xb0, 100);
        assert_eq!(bed.pit.lock().read(SPEAKER, 0, 1) & 0x20, 0);
        bed.clocks.step_to(ticks(100));
        assert_eq!(bed.pit.lock().read(SPEAKER, 0, 1) & 0x20, 0x20);
    }

    #[test]
    fn read_back_tells_the_mode() {
        let bed = bed();
        program(&bed, 0x34, 7);
        bed.pit.lock().write(PIT, 3, 1, 0xe2);
        assert_eq!(bed.pit.lock().read(PIT, 0, 1), 0xb4);
    }
}
