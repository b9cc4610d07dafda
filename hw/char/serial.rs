//! A serial port: the UART joined with its interrupt, its time-out and its character device.

use base::chardev::{CharClient, CharEvent, CharPort, Chardev, ChardevError, Parity, SerialParams};
use base::clock::{ClockKind, Clocks, Timer};
use base::device::{self, Device, Shared, WeakShared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use std::sync::Arc;

use super::uart::{Effects, Uart, msr};

/// Number of ports a UART takes.
pub const PORTS: u64 = 8;
/// Ports of COM1 to COM4.
pub const ISA_PORTS: [u64; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
/// ISA interrupts of COM1 to COM4.
pub const ISA_IRQS: [u32; 4] = [4, 3, 4, 3];

/// A serial port.
pub struct Serial {
    uart: Uart,
    irq: IrqLine,
    timeout: Timer,
    clocks: Clocks,
    port: Option<CharPort>,
}

impl Serial {
    /// A port with nothing attached, and its registers.
    pub fn create(irq: IrqLine, clocks: &Clocks) -> (Shared<Self>, Region) {
        let serial = device::share(|me| Serial {
            uart: Uart::default(),
            irq,
            timeout: device::timer(me, clocks, ClockKind::Virtual, |serial: &mut Serial| {
                serial.uart.timed_out();
                serial.update();
            }),
            clocks: clocks.clone(),
            port: None,
        });
        let region = device::region(&serial, 0, "serial", PORTS, AccessSizes::BYTE);
        (serial, region)
    }

    /// Attaches a character device.
    pub fn attach(serial: &Shared<Self>, chardev: &Chardev) -> Result<(), ChardevError> {
        let port = chardev.attach(Arc::new(Client(Arc::downgrade(serial))))?;
        serial.lock().port = Some(port);
        Ok(())
    }

    fn update(&mut self) {
        self.irq.set(self.uart.interrupt());
        if self.uart.wants_timeout() {
            self.timeout.set(self.clocks.now_virtual() + self.uart.timeout());
        } else {
            self.timeout.cancel();
        }
    }

    /// Offers what waits to be sent. Without a peer it is gone at once, as on an open line.
    fn transmit(&mut self) {
        let bytes = self.uart.to_send();
        let count = self.port.as_ref().map_or(bytes.len(), |port| port.write(bytes));
        self.uart.sent(count);
    }

    fn apply(&mut self, effects: Effects) {
        if effects.transmit {
            self.transmit();
        }
        if let Some(port) = &self.port {
            if effects.accept_input && self.uart.room() > 0 {
                port.accept_input();
            }
            if let Some(line) = port.serial_line() {
                // A host port that refuses a speed keeps the one it has: the guest cannot be told.
                if effects.line {
                    let _ = line.set_params(self.params());
                    let _ = line.set_break(self.uart.sends_break());
                }
                if effects.modem {
                    let (dtr, rts) = self.uart.modem_outputs();
                    let _ = line.set_modem_lines(dtr, rts);
                }
            }
        }
    }

    fn params(&self) -> SerialParams {
        let control = self.uart.line_control();
        SerialParams {
            speed: self.uart.baud().unwrap_or(115_200) as u32,
            parity: match (control & 8 != 0, control & 16 != 0) {
                (false, _) => Parity::None,
                (true, true) => Parity::Even,
                (true, false) => Parity::Odd,
            },
            data_bits: 5 + (control & 3),
            two_stop_bits: control & 4 != 0,
        }
    }

    /// Reads the host port's modem lines, if there is one.
    fn poll_modem(&mut self) {
        let lines = self.port.as_ref().and_then(CharPort::serial_line);
        if let Some(Ok(lines)) = lines.map(|line| line.modem_lines()) {
            let bit = |on: bool, bit: u8| if on { bit } else { 0 };
            self.uart.set_modem_status(
                bit(lines.cts, msr::CTS)
                    | bit(lines.dsr, msr::DSR)
                    | bit(lines.ri, msr::RI)
                    | bit(lines.dcd, msr::DCD),
            );
        }
    }
}

impl Device for Serial {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> u64 {
        if offset as u8 == super::uart::reg::MSR {
            self.poll_modem();
        }
        let (value, effects) = self.uart.read(offset as u8);
        self.apply(effects);
        self.update();
        value.into()
    }

    fn write(&mut self, _: u32, offset: u64, _: u8, value: u64) {
        let effects = self.uart.write(offset as u8, value as u8);
        // The interrupt drops between a byte written and the transmitter being empty again: an edge
        // that the interrupt controller must see.
        self.irq.set(self.uart.interrupt());
        self.apply(effects);
        self.update();
    }

    fn reset(&mut self) {
        self.uart.reset();
        self.update();
        if let Some(port) = &self.port {
            port.accept_input();
        }
    }
}

struct Client(WeakShared<Serial>);

impl Client {
    fn with<R>(&self, act: impl FnOnce(&mut Serial) -> R) -> Option<R> {
        self.0.upgrade().map(|serial| act(&mut serial.lock()))
    }
}

impl CharClient for Client {
    fn can_receive(&self) -> usize {
        self.with(|serial| serial.uart.room()).unwrap_or(0)
    }

    fn receive(&self, bytes: &[u8]) {
        self.with(|serial| {
            serial.uart.receive(bytes);
            serial.update();
        });
    }

    fn event(&self, event: CharEvent) {
        if event == CharEvent::Break {
            self.with(|serial| {
                serial.uart.receive_break();
                serial.update();
            });
        }
    }

    fn write_ready(&self) {
        self.with(|serial| {
            serial.transmit();
            serial.update();
        });
    }
}
