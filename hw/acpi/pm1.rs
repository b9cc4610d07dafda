//! The fixed ACPI registers: PM1 status, enable and control, and the power management timer
//! (ACPI 6.5, 4.8.3). A pure core: the chip that contains it decodes addresses and drives the SCI.

use base::clock::{Clocks, SECOND, Timer};
use base::request::{Request, RequestSink, WakeReason};

/// Bits of PM1 status and enable.
#[allow(missing_docs)]
pub mod event {
    pub const TIMER: u16 = 1;
    pub const GLOBAL_LOCK: u16 = 1 << 5;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const SLEEP_BUTTON: u16 = 1 << 9;
    pub const RTC: u16 = 1 << 10;
    /// Status only.
    pub const WAKE: u16 = 1 << 15;
    /// What raises the SCI when enabled.
    pub const SCI: u16 = TIMER | GLOBAL_LOCK | POWER_BUTTON | RTC;
}

const SCI_ENABLE: u16 = 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// The control register's bits that keep what is written.
const CONTROL_KEPT: u16 = !SLEEP_ENABLE;

/// Frequency of the timer in Hz.
pub const TIMER_HZ: i64 = 3_579_545;
/// The 24-bit counter's top bit changes every so many ticks, which sets the timer's status bit.
const HALF_PERIOD: i64 = 1 << 23;

/// What the sleep types in PM1 control mean on a board.
#[derive(Clone, Copy, Debug)]
pub struct SleepTypes {
    /// S5, soft off.
    pub off: u16,
    /// S3, suspend to RAM; if the board offers it.
    pub suspend: Option<u16>,
    /// S4, suspend to disk; if the board offers it.
    pub suspend_to_disk: Option<u16>,
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pm1State {
    status: u16,
    enable: u16,
    control: u16,
    /// When the timer's top bit changes next after the status was last read or cleared, in ticks.
    overflow: i64,
}

/// The register group.
pub struct Pm1 {
    sleep: SleepTypes,
    clocks: Clocks,
    /// Goes off when the timer's top bit changes while that raises the SCI.
    alarm: Timer,
    requests: RequestSink,
    /// Registers.
    pub st: Pm1State,
}

impl Pm1 {
    /// The registers after power-up. `alarm` must call [`Pm1::update`] and drive the SCI.
    pub fn new(sleep: SleepTypes, clocks: &Clocks, alarm: Timer, requests: RequestSink) -> Self {
        let mut pm1 =
            Pm1 { sleep, clocks: clocks.clone(), alarm, requests, st: Pm1State::default() };
        pm1.reset();
        pm1
    }

    /// Back to the state after power-up.
    pub fn reset(&mut self) {
        self.st = Pm1State::default();
        self.alarm.cancel();
    }

    fn ticks(&self) -> i64 {
        (i128::from(self.clocks.now_virtual()) * i128::from(TIMER_HZ) / i128::from(SECOND)) as i64
    }

    fn next_overflow(&self) -> i64 {
        (self.ticks() / HALF_PERIOD + 1) * HALF_PERIOD
    }

    /// The timer's value.
    pub fn timer(&self) -> u32 {
        (self.ticks() & 0xff_ffff) as u32
    }

    /// Recomputes the timer's status and its alarm; returns the level of the SCI.
    pub fn update(&mut self) -> bool {
        let ticks = self.ticks();
        if ticks >= self.st.overflow && self.st.status & event::TIMER == 0 {
            self.st.status |= event::TIMER;
            if self.st.enable & event::TIMER != 0 {
                self.requests.send(Request::WakeUp(WakeReason::Timer));
            }
        }
        if self.st.enable & event::TIMER != 0 && self.st.status & event::TIMER == 0 {
            let scaled = i128::from(self.st.overflow) * i128::from(SECOND);
            // Rounded up, so that the bit has changed when the alarm goes off.
            self.alarm.set((scaled / i128::from(TIMER_HZ)) as i64 + 1);
        } else {
            self.alarm.cancel();
        }
        self.st.control & SCI_ENABLE != 0 && self.st.status & self.st.enable & event::SCI != 0
    }

    /// The status register.
    pub fn status(&mut self) -> u16 {
        self.update();
        self.st.status
    }

    /// Clears the status bits that are written as ones.
    pub fn write_status(&mut self, value: u16) {
        self.update();
        if self.st.status & value & event::TIMER != 0 {
            self.st.overflow = self.next_overflow();
        }
        self.st.status &= !value;
    }

    /// The enable register.
    pub fn enable(&self) -> u16 {
        self.st.enable
    }

    /// Sets the enable register.
    pub fn write_enable(&mut self, value: u16) {
        self.st.enable = value;
    }

    /// The control register.
    pub fn control(&self) -> u16 {
        self.st.control
    }

    /// Sets the control register, and goes to sleep if it says so.
    pub fn write_control(&mut self, value: u16) {
        self.st.control = value & CONTROL_KEPT;
        if value & SLEEP_ENABLE == 0 {
            return;
        }
        let kind = value >> SLEEP_TYPE_SHIFT & 7;
        if kind == self.sleep.off {
            self.requests.send(Request::PowerOff);
        } else if Some(kind) == self.sleep.suspend {
            self.requests.send(Request::Suspend);
        } else if Some(kind) == self.sleep.suspend_to_disk {
            self.requests.send(Request::SuspendToDisk);
        }
    }

    /// Turns ACPI mode on or off, as the SMI command port does.
    pub fn set_sci_enabled(&mut self, enabled: bool) {
        self.st.control = self.st.control & !SCI_ENABLE | u16::from(enabled);
    }

    /// Somebody pressed the power button.
    pub fn power_button(&mut self) {
        self.st.status |= event::POWER_BUTTON;
    }

    /// Whether the guest wants to be woken up from S3 for this reason.
    pub fn may_wake(&self, reason: WakeReason) -> bool {
        let event = cause(reason);
        event == 0 || self.st.enable & event != 0
    }

    /// The machine wakes up from S3.
    pub fn wake(&mut self, reason: WakeReason) {
        self.st.status |= event::WAKE | cause(reason);
    }
}

/// The event of the status register that a reason to wake up is.
fn cause(reason: WakeReason) -> u16 {
    match reason {
        WakeReason::Rtc => event::RTC,
        WakeReason::Timer => event::TIMER,
        WakeReason::Operator => 0,
    }
}
