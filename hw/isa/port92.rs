//! System control port A: the fast way to switch address line 20 and to reset (IBM PS/2 Hardware
//! Interface Technical Reference, "System Control Port A").

use base::device::{self, Device, Shared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::request::{Request, RequestSink};
use base::state::State;

/// The port.
pub const PORT: u64 = 0x92;

const RESET: u8 = 1;
const A20: u8 = 1 << 1;

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct Port92State {
    value: u8,
}

/// The port.
pub struct Port92 {
    a20: IrqLine,
    requests: RequestSink,
    st: Port92State,
}

impl Port92 {
    /// The port and its region.
    pub fn create(a20: IrqLine, requests: RequestSink) -> (Shared<Self>, Region) {
        let port = device::share(|_| Port92 { a20, requests, st: Port92State::default() });
        let region = device::region(&port, 0, "port92", 1, AccessSizes::BYTE);
        (port, region)
    }
}

impl Device for Port92 {
    fn read(&mut self, _: u32, _: u64, _: u8) -> u64 {
        self.st.value.into()
    }

    fn write(&mut self, _: u32, _: u64, _: u8, value: u64) {
        let value = value as u8;
        let rising = value & !self.st.value;
        self.st.value = value;
        self.a20.set(value & A20 != 0);
        if rising & RESET != 0 {
            self.requests.send(Request::Reset);
        }
    }

    /// Leaves address line 20 alone: that comes up enabled.
    fn reset(&mut self) {
        self.st = Port92State::default();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::irq::FnSink;
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn it_switches_a20_and_resets_on_a_rising_edge() {
        let (levels, resets) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (level_log, reset_log) = (levels.clone(), resets.clone());
        let a20 = IrqLine::new(Arc::new(FnSink(move |_, level| level_log.lock().push(level))), 0);
        let requests = RequestSink::new(move |_| *reset_log.lock() += 1);
        let (port, _) = Port92::create(a20, requests);
        let mut port = port.lock();
        for value in [2, 0, 0xfe, 3, 3] {
            port.write(0, 0, 1, value);
            assert_eq!(port.read(0, 0, 1), value);
        }
        assert_eq!(*levels.lock(), [true, false, true, true, true]);
        assert_eq!(*resets.lock(), 1);
        port.reset();
        assert_eq!(port.read(0, 0, 1), 0);
        assert_eq!(levels.lock().len(), 5);
    }
}
