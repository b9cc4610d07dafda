//! The watchdog of the iBASE IB700 board (iBASE IB700 User's Manual, "Watchdog Timer"): two ports,
//! one of which starts the timer anew and the other stops it.

use base::clock::{ClockKind, Clocks, SECOND, Timer};
use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, Region};
use base::request::{Request, RequestSink};
use base::state::State;

/// Where the ports are: to stop, and to start.
pub const STOP_PORT: u64 = 0x441;
/// See [`STOP_PORT`].
pub const START_PORT: u64 = 0x443;

const STOP: u32 = 0;
const START: u32 = 1;

/// The timer.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct Ib700State {
    /// When it expires, if it runs.
    expires: Option<i64>,
}

/// The watchdog.
pub struct Ib700 {
    clocks: Clocks,
    timer: Timer,
    requests: RequestSink,
    st: Ib700State,
}

impl Ib700 {
    /// The watchdog and its regions, for [`STOP_PORT`] and [`START_PORT`].
    pub fn create(clocks: &Clocks, requests: RequestSink) -> (Shared<Self>, [Region; 2]) {
        let device = device::share(|me| Ib700 {
            clocks: clocks.clone(),
            timer: device::timer(me, clocks, ClockKind::Virtual, Ib700::expired),
            requests,
            st: Ib700State::default(),
        });
        let port = |number| device::region(&device, number, "ib700", 1, AccessSizes::BYTE);
        let ports = [port(STOP), port(START)];
        (device, ports)
    }

    fn expired(&mut self) {
        self.st.expires = None;
        self.requests.send(Request::WatchdogExpired);
    }

    fn set(&mut self, expires: Option<i64>) {
        self.st.expires = expires;
        match expires {
            Some(at) => self.timer.set(at),
            None => self.timer.cancel(),
        }
    }
}

impl Device for Ib700 {
    fn read(&mut self, _: u32, _: u64, _: u8) -> u64 {
        0xff
    }

    /// What is written to the start port chooses the time: 30 seconds less two for each step.
    fn write(&mut self, region: u32, _: u64, _: u8, value: u64) {
        if region == STOP {
            return self.set(None);
        }
        let seconds = 30 - 2 * (value & 0xf) as i64;
        self.set(Some(self.clocks.now_virtual() + seconds * SECOND));
    }

    fn reset(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_guest_that_hangs_is_reported_once() {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let count = Arc::<AtomicU32>::default();
        let counter = count.clone();
        let requests = RequestSink::new(move |request| {
            assert_eq!(request, Request::WatchdogExpired);
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let (device, _) = Ib700::create(&clocks, requests);
        let fired = || count.load(Ordering::Relaxed);
        device.lock().write(START, 0, 1, 0xf);
        assert_eq!(fired(), 0);
        clocks.step_to(1);
        assert_eq!(fired(), 1, "no time at all");
        device.lock().write(START, 0, 1, 0xa);
        clocks.step_to(9 * SECOND);
        device.lock().write(START, 0, 1, 0xa);
        clocks.step_to(18 * SECOND);
        assert_eq!(fired(), 1, "a sign of life");
        clocks.step_to(19 * SECOND);
        assert_eq!(fired(), 2);
        device.lock().write(START, 0, 1, 0);
        device.lock().write(STOP, 0, 1, 0);
        clocks.step_to(100 * SECOND);
        assert_eq!(fired(), 2, "stopped");
    }
}
