//! The parallel port in its standard mode, with a printer that prints to a character device
//! (IEEE 1284 compatibility mode).

use std::sync::Arc;

use base::chardev::{CharClient, CharPort, Chardev, ChardevError, OutQueue};
use base::device::{self, Device, Shared, WeakShared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::state::State;
use base::trace_event;

/// Number of ports.
pub const PORTS: u64 = 8;
/// Ports of LPT1 to LPT3.
pub const ISA_PORTS: [u64; 3] = [0x378, 0x278, 0x3bc];
/// ISA interrupt.
pub const ISA_IRQ: u32 = 7;

mod reg {
    pub const DATA: u64 = 0;
    pub const STATUS: u64 = 1;
    pub const CONTROL: u64 = 2;
}

/// Bits of the status register; busy and acknowledge are active low.
mod status {
    /// Nothing has initialised the printer yet.
    pub const TIMEOUT: u8 = 1;
    pub const NO_ERROR: u8 = 1 << 3;
    pub const ONLINE: u8 = 1 << 4;
    pub const NO_ACKNOWLEDGE: u8 = 1 << 6;
    pub const NOT_BUSY: u8 = 1 << 7;
}

/// Bits of the control register.
mod control {
    pub const STROBE: u8 = 1;
    /// Low initialises the printer.
    pub const NO_INIT: u8 = 1 << 2;
    pub const SELECT: u8 = 1 << 3;
    pub const INTERRUPT: u8 = 1 << 4;
    /// The data lines are inputs.
    pub const INPUT: u8 = 1 << 5;
    /// These read as ones.
    pub const UNUSED: u8 = 0xc0;
}

/// What the printer does with the byte it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Printer {
    #[default]
    Ready,
    Busy,
    Acknowledging,
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct ParallelState {
    #[state(reset = 0xff)]
    data: u8,
    #[state(reset = control::UNUSED | control::NO_INIT | control::SELECT)]
    control: u8,
    #[state(reset = true)]
    timeout: bool,
    printer: Printer,
    interrupt: bool,
}

/// The port.
pub struct Parallel {
    irq: IrqLine,
    port: Option<CharPort>,
    queue: OutQueue,
    st: ParallelState,
}

impl Parallel {
    /// A port that prints to a character device, and its registers.
    pub fn create(irq: IrqLine, chardev: &Chardev) -> Result<(Shared<Self>, Region), ChardevError> {
        let parallel = Self::unattached(irq);
        let port = chardev.attach(Arc::new(Client(Arc::downgrade(&parallel))))?;
        parallel.lock().port = Some(port);
        let region = device::region(&parallel, 0, "parallel", PORTS, AccessSizes::BYTE);
        Ok((parallel, region))
    }

    fn unattached(irq: IrqLine) -> Shared<Self> {
        device::share(|_| Parallel {
            irq,
            port: None,
            queue: OutQueue::default(),
            st: ParallelState::default(),
        })
    }

    fn status(&self) -> u8 {
        let printer = match self.st.printer {
            Printer::Ready => status::NOT_BUSY | status::NO_ACKNOWLEDGE,
            Printer::Busy => status::NO_ACKNOWLEDGE,
            Printer::Acknowledging => 0,
        };
        let timeout = if self.st.timeout { status::TIMEOUT } else { 0 };
        printer | status::ONLINE | status::NO_ERROR | timeout
    }

    /// The printer goes on from one look at it to the next, once the strobe has ended.
    fn read_status(&mut self) -> u8 {
        let status = self.status();
        self.st.interrupt = false;
        if self.st.control & control::STROBE == 0 {
            self.st.printer = match self.st.printer {
                Printer::Busy => Printer::Acknowledging,
                _ => Printer::Ready,
            };
        }
        status
    }

    fn write_control(&mut self, value: u8) {
        let before = self.st.control;
        self.st.control = value | control::UNUSED;
        if value & control::NO_INIT == 0 {
            self.st.printer = Printer::Ready;
            self.st.timeout = false;
        } else if value & control::SELECT != 0 {
            if value & control::STROBE != 0 {
                self.st.printer = Printer::Busy;
                if before & control::STROBE == 0
                    && let Some(port) = &self.port
                {
                    self.queue.send(port, &[self.st.data]);
                }
            } else if before & control::INTERRUPT != 0 {
                self.st.interrupt = true;
            }
        }
    }
}

impl Device for Parallel {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> u64 {
        let value = match offset {
            // A printer drives no data lines.
            reg::DATA if self.st.control & control::INPUT != 0 => 0xff,
            reg::DATA => self.st.data,
            reg::STATUS => self.read_status(),
            reg::CONTROL => self.st.control,
            _ => 0xff,
        };
        trace_event!(parallel_ioport_read, "read addr {offset:#04x} val {value:#04x}");
        self.irq.set(self.st.interrupt);
        value.into()
    }

    fn write(&mut self, _: u32, offset: u64, _: u8, value: u64) {
        trace_event!(parallel_ioport_write, "write addr {offset:#04x} val {value:#04x}");
        match offset {
            reg::DATA => self.st.data = value as u8,
            reg::CONTROL => self.write_control(value as u8),
            _ => {}
        }
        self.irq.set(self.st.interrupt);
    }

    fn reset(&mut self) {
        self.st = ParallelState::default();
        self.irq.lower();
    }
}

struct Client(WeakShared<Parallel>);

impl CharClient for Client {
    fn can_receive(&self) -> usize {
        0
    }
    fn receive(&self, _: &[u8]) {}
    fn write_ready(&self) {
        if let Some(parallel) = self.0.upgrade() {
            let parallel = &mut *parallel.lock();
            if let Some(port) = &parallel.port {
                parallel.queue.flush(port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observed on QEMU 10.0.
    #[test]
    fn a_byte_is_strobed_out_and_acknowledged() {
        let line = IrqLine::new(Arc::new(base::irq::FnSink(|_, _| ())), 7);
        let port = Parallel::unattached(line.clone());
        let mut port = port.lock();
        let initial: Vec<u64> = (0..4).map(|at| port.read(0, at, 1)).collect();
        assert_eq!(initial, [0xff, 0xd9, 0xcc, 0xff]);
        for (written, control, status) in [
            (0x00, 0xc0, [0xd8, 0xd8]),
            (0x0f, 0xcf, [0x58, 0x58]),
            (0xff, 0xff, [0x58, 0x58]),
            (0x10, 0xd0, [0xd8, 0xd8]),
            (0x1d, 0xdd, [0x58, 0x58]),
            (0x0c, 0xcc, [0x58, 0x18]),
            (0x2c, 0xec, [0xd8, 0xd8]),
        ] {
            port.write(0, reg::CONTROL, 1, written);
            assert_eq!(line.level(), written == 0x0c, "{written:02x}");
            assert_eq!(port.read(0, reg::CONTROL, 1), control);
            let seen = [port.read(0, reg::STATUS, 1), port.read(0, reg::STATUS, 1)];
            assert_eq!(seen, status, "{written:02x}");
            assert!(!line.level());
        }
        port.reset();
        assert_eq!(port.read(0, reg::STATUS, 1), 0xd9);
    }
}
