//! Two ports of little use: firmware writes progress codes to one and delays by it; the other takes
//! back the error of the floating-point unit.

use std::sync::Arc;

use base::irq::IrqLine;
use base::memory::{AccessSizes, IoHandler, Region};

/// Port of power-on self-test codes.
pub const POST_PORT: u64 = 0x80;
/// Port that clears the coprocessor's error.
pub const COPROCESSOR_PORT: u64 = 0xf0;

struct Port(Option<IrqLine>);

impl IoHandler for Port {
    fn read(&self, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn write(&self, _: u64, _: u8, _: u64) {
        if let Some(line) = &self.0 {
            line.lower();
        }
    }
    fn sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

/// The port of power-on self-test codes.
pub fn post() -> Region {
    Region::io("ioport80", 1, Arc::new(Port(None)))
}

/// The port that lowers `error`.
pub fn coprocessor(error: IrqLine) -> Region {
    Region::io("ioportF0", 1, Arc::new(Port(Some(error))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::irq::Patch;

    #[test]
    fn a_write_takes_the_error_back() {
        let error = IrqLine::new(Arc::<Patch>::default(), 0);
        let port = Port(Some(error.clone()));
        error.raise();
        port.write(0, 1, 0);
        assert!(!error.level());
        assert_eq!(port.read(0, 1), u64::MAX);
    }
}
