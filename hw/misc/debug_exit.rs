//! A port by which the guest ends the program with a status of its choice.

use std::sync::Arc;

use base::memory::{AccessSizes, IoHandler, Region};
use base::props::Props;
use base::request::{Request, RequestSink};

/// Properties of `isa-debug-exit`.
#[derive(Debug, Props)]
pub struct DebugExitProps {
    /// First port.
    #[prop(default = 0x501)]
    pub iobase: u32,
    /// Number of ports.
    #[prop(default = 2)]
    pub iosize: u32,
}

struct DebugExit(RequestSink);

impl IoHandler for DebugExit {
    fn read(&self, _: u64, _: u8) -> u64 {
        0
    }
    /// The status is always odd, so that it cannot be mistaken for success.
    fn write(&self, _: u64, _: u8, value: u64) {
        self.0.send(Request::Exit((value as i32) << 1 | 1));
    }
    fn sizes(&self) -> AccessSizes {
        AccessSizes::UP_TO_DWORD
    }
}

/// The device's ports.
pub fn ports(props: &DebugExitProps, requests: RequestSink) -> Region {
    Region::io("isa-debug-exit", props.iosize.into(), Arc::new(DebugExit(requests)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn the_status_is_odd() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let device = DebugExit(RequestSink::new(move |request| log.lock().push(request)));
        device.write(0, 1, 0x10);
        device.write(0, 4, 0xffff_ffff);
        assert_eq!(*asked.lock(), [Request::Exit(0x21), Request::Exit(-1)]);
        assert_eq!(device.read(0, 1), 0);
    }
}
