//! The 16550A UART as a pure core: registers, FIFOs and interrupt logic (National Semiconductor
//! PC16550D datasheet). It has no bus, no thread and no peer: the shell moves its bytes.
//!
//! Bytes leave at once, at any baud rate, so that guests never wait for a line that is not there.
//! Only the receiver's time-out follows the programmed speed.

use std::collections::VecDeque;

use base::state::{State, StateError};
use base::trace_event;

/// Register numbers.
#[allow(missing_docs)]
pub mod reg {
    /// Receive buffer, transmit holding register, or divisor low.
    pub const DATA: u8 = 0;
    pub const IER: u8 = 1;
    /// Interrupt identification when read, FIFO control when written.
    pub const IIR_FCR: u8 = 2;
    pub const LCR: u8 = 3;
    pub const MCR: u8 = 4;
    pub const LSR: u8 = 5;
    pub const MSR: u8 = 6;
    pub const SCR: u8 = 7;
}

/// Interrupt enable bits.
mod ier {
    pub const RECEIVED: u8 = 1;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const ALL: u8 = 0xf;
}

/// Interrupt identification values.
mod iir {
    pub const NONE: u8 = 1;
    pub const MODEM_STATUS: u8 = 0;
    pub const TRANSMITTER_EMPTY: u8 = 2;
    pub const RECEIVED: u8 = 4;
    pub const LINE_STATUS: u8 = 6;
    pub const TIMEOUT: u8 = 0xc;
    pub const FIFOS: u8 = 0xc0;
}

mod fcr {
    pub const ENABLE: u8 = 1;
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
    pub const CLEAR_TRANSMITTER: u8 = 1 << 2;
    pub const KEPT: u8 = 0xc9;
}

mod lcr {
    pub const BREAK: u8 = 1 << 6;
    pub const DIVISOR_LATCH: u8 = 1 << 7;
}

mod mcr {
    pub const DTR: u8 = 1;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
    pub const ALL: u8 = 0x1f;
}

/// Line status bits.
mod lsr {
    pub const DATA_READY: u8 = 1;
    pub const OVERRUN: u8 = 1 << 1;
    pub const BREAK: u8 = 1 << 4;
    pub const HOLDING_EMPTY: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
    /// What the line status interrupt reports; reading the register clears them.
    pub const ERRORS: u8 = 0x1e;
}

/// Modem status bits.
#[allow(missing_docs)]
pub mod msr {
    pub const DELTA_CTS: u8 = 1;
    pub const TRAILING_RI: u8 = 1 << 2;
    pub const DELTAS: u8 = 0xf;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
}

/// Depth of each FIFO.
pub const FIFO_DEPTH: usize = 16;
/// Input clock, before the fixed division by sixteen.
const BASE_BAUD: u64 = 115_200;

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(check)]
pub struct UartState {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    lsr: u8,
    msr: u8,
    scr: u8,
    received: VecDeque<u8>,
    /// What the receiver buffer holds without FIFOs, read or not.
    holding: u8,
    /// Written by the guest, not yet taken by the peer.
    sending: VecDeque<u8>,
    /// The transmitter-empty interrupt waits to be identified.
    empty_pending: bool,
    timeout_pending: bool,
}

impl UartState {
    fn at_reset() -> Self {
        UartState {
            divisor: 0x0c,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: mcr::OUT2,
            lsr: lsr::TRANSMITTER_EMPTY | lsr::HOLDING_EMPTY,
            msr: msr::DCD | msr::DSR | msr::CTS,
            scr: 0,
            received: VecDeque::new(),
            holding: 0,
            sending: VecDeque::new(),
            empty_pending: false,
            timeout_pending: false,
        }
    }

    fn check(&self) -> Result<(), StateError> {
        if self.received.len() > FIFO_DEPTH || self.sending.len() > FIFO_DEPTH {
            return Err(StateError::invalid("a FIFO holds 16 bytes"));
        }
        Ok(())
    }
}

/// What the shell has to do after a register access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// There are bytes to send.
    pub transmit: bool,
    /// There is room again for received bytes.
    pub accept_input: bool,
    /// Speed, framing or break changed.
    pub line: bool,
    /// DTR or RTS changed.
    pub modem: bool,
}

/// The chip.
pub struct Uart {
    /// Registers.
    pub st: UartState,
}

impl Default for Uart {
    fn default() -> Self {
        Uart { st: UartState::at_reset() }
    }
}

impl Uart {
    /// Back to the state after power-up.
    pub fn reset(&mut self) {
        self.st = UartState::at_reset();
    }

    fn fifos(&self) -> bool {
        self.st.fcr & fcr::ENABLE != 0
    }

    fn loopback(&self) -> bool {
        self.st.mcr & mcr::LOOPBACK != 0
    }

    /// How full the receiver gets before it interrupts.
    fn trigger_level(&self) -> usize {
        match (self.fifos(), self.st.fcr >> 6) {
            (false, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        }
    }

    /// Bits per second; `None` while the divisor is zero.
    pub fn baud(&self) -> Option<u64> {
        BASE_BAUD.checked_div(self.st.divisor.into())
    }

    /// Data bits, parity (bits 3 to 5 of LCR) and stop bits as programmed.
    pub fn line_control(&self) -> u8 {
        self.st.lcr & 0x3f
    }

    /// Whether the guest sends a break condition.
    pub fn sends_break(&self) -> bool {
        self.st.lcr & lcr::BREAK != 0
    }

    /// DTR and RTS.
    pub fn modem_outputs(&self) -> (bool, bool) {
        (self.st.mcr & mcr::DTR != 0, self.st.mcr & mcr::RTS != 0)
    }

    /// Time of four characters in nanoseconds, after which unread bytes below the trigger level
    /// interrupt.
    pub fn timeout(&self) -> i64 {
        let bits = 1
            + 5
            + u64::from(self.st.lcr & 3)
            + u64::from(self.st.lcr >> 3 & 1)
            + if self.st.lcr & 4 != 0 { 2 } else { 1 };
        let baud = self.baud().unwrap_or(BASE_BAUD).max(1);
        (4 * bits * 1_000_000_000 / baud) as i64
    }

    /// The interrupt that is identified now: the highest of those enabled and pending.
    fn identify(&self) -> u8 {
        let st = &self.st;
        let enabled = |bit: u8| st.ier & bit != 0;
        if enabled(ier::LINE_STATUS) && st.lsr & lsr::ERRORS != 0 {
            iir::LINE_STATUS
        } else if enabled(ier::RECEIVED) && st.received.len() >= self.trigger_level() {
            iir::RECEIVED
        } else if enabled(ier::RECEIVED) && st.timeout_pending {
            iir::TIMEOUT
        } else if enabled(ier::TRANSMITTER_EMPTY) && st.empty_pending {
            iir::TRANSMITTER_EMPTY
        } else if enabled(ier::MODEM_STATUS) && st.msr & msr::DELTAS != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    /// Level of the interrupt output.
    pub fn interrupt(&self) -> bool {
        self.identify() != iir::NONE
    }

    /// Whether the receiver's time-out should be running.
    pub fn wants_timeout(&self) -> bool {
        self.fifos() && !self.st.received.is_empty() && !self.st.timeout_pending
    }

    /// The receiver's time-out has passed with nothing read and nothing received.
    pub fn timed_out(&mut self) {
        self.st.timeout_pending = self.fifos() && !self.st.received.is_empty();
    }

    /// How many received bytes there is room for.
    pub fn room(&self) -> usize {
        let capacity = if self.fifos() { FIFO_DEPTH } else { 1 };
        if self.loopback() { 0 } else { capacity.saturating_sub(self.st.received.len()) }
    }

    /// Bytes arrive; those beyond [`Self::room`] are lost, and the guest is told.
    pub fn receive(&mut self, bytes: &[u8]) {
        let capacity = if self.fifos() { FIFO_DEPTH } else { 1 };
        for &byte in bytes {
            if self.st.received.len() >= capacity {
                self.st.lsr |= lsr::OVERRUN;
                if !self.fifos() {
                    // The new byte has overwritten the old one.
                    self.st.received.clear();
                    self.st.received.push_back(byte);
                }
            } else {
                self.st.received.push_back(byte);
            }
            if !self.fifos() {
                self.st.holding = byte;
            }
        }
        if !self.st.received.is_empty() {
            self.st.lsr |= lsr::DATA_READY;
        }
        self.st.timeout_pending = false;
    }

    /// The peer sends a break condition, which arrives as a zero byte.
    pub fn receive_break(&mut self) {
        self.receive(&[0]);
        self.st.lsr |= lsr::BREAK;
    }

    /// The modem lines changed: the upper half of MSR.
    pub fn set_modem_status(&mut self, lines: u8) {
        let lines = lines & !msr::DELTAS;
        let changed = (self.st.msr ^ lines) >> 4;
        // The ring indicator reports only its end.
        let ring_ended = self.st.msr & !lines & msr::RI != 0;
        let deltas = changed & !msr::TRAILING_RI | if ring_ended { msr::TRAILING_RI } else { 0 };
        self.st.msr = lines | self.st.msr & msr::DELTAS | deltas;
    }

    /// Bytes that wait to be sent.
    pub fn to_send(&mut self) -> &[u8] {
        self.st.sending.make_contiguous()
    }

    /// The peer took so many bytes.
    pub fn sent(&mut self, count: usize) {
        self.st.sending.drain(..count.min(self.st.sending.len()));
        if self.st.sending.is_empty() {
            self.st.lsr |= lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY;
            self.st.empty_pending = true;
        }
    }

    fn write_data(&mut self, value: u8) -> Effects {
        self.st.empty_pending = false;
        if self.loopback() {
            self.receive(&[value]);
            self.st.empty_pending = true;
            return Effects::default();
        }
        if self.st.sending.len() >= FIFO_DEPTH {
            // A guest that does not look at LSR overruns its own transmitter.
            self.st.sending.pop_back();
        }
        self.st.sending.push_back(value);
        self.st.lsr &= !(lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY);
        Effects { transmit: true, ..Effects::default() }
    }

    fn read_data(&mut self) -> u8 {
        let empty = if self.fifos() { 0 } else { self.st.holding };
        let byte = self.st.received.pop_front().unwrap_or(empty);
        if self.st.received.is_empty() {
            self.st.lsr &= !(lsr::DATA_READY | lsr::BREAK);
        }
        self.st.timeout_pending = false;
        byte
    }

    fn modem_status(&mut self) -> u8 {
        if !self.loopback() {
            let value = self.st.msr;
            self.st.msr &= !msr::DELTAS;
            return value;
        }
        // The outputs come back as inputs.
        let from = |bit: u8, to: u8| if self.st.mcr & bit != 0 { to } else { 0 };
        from(mcr::RTS, msr::CTS)
            | from(mcr::DTR, msr::DSR)
            | from(mcr::OUT1, msr::RI)
            | from(mcr::OUT2, msr::DCD)
    }

    /// Reads a register.
    pub fn read(&mut self, register: u8) -> (u8, Effects) {
        let divisor = self.st.lcr & lcr::DIVISOR_LATCH != 0;
        let mut effects = Effects::default();
        let value = match register {
            reg::DATA if divisor => self.st.divisor as u8,
            reg::IER if divisor => (self.st.divisor >> 8) as u8,
            reg::DATA => {
                effects.accept_input = true;
                self.read_data()
            }
            reg::IER => self.st.ier,
            reg::IIR_FCR => {
                let id = self.identify();
                if id == iir::TRANSMITTER_EMPTY {
                    self.st.empty_pending = false;
                }
                id | if self.fifos() { iir::FIFOS } else { 0 }
            }
            reg::LCR => self.st.lcr,
            reg::MCR => self.st.mcr,
            reg::LSR => {
                let value = self.st.lsr;
                self.st.lsr &= !(lsr::OVERRUN | lsr::BREAK);
                value
            }
            reg::MSR => self.modem_status(),
            _ => self.st.scr,
        };
        trace_event!(serial_read, "read addr {register:#04x} val {value:#04x}");
        (value, effects)
    }

    /// Writes a register.
    pub fn write(&mut self, register: u8, value: u8) -> Effects {
        trace_event!(serial_write, "write addr {register:#04x} val {value:#04x}");
        let divisor = self.st.lcr & lcr::DIVISOR_LATCH != 0;
        let mut effects = Effects::default();
        match register {
            reg::DATA if divisor => {
                self.st.divisor = self.st.divisor & 0xff00 | u16::from(value);
                effects.line = true;
            }
            reg::IER if divisor => {
                self.st.divisor = self.st.divisor & 0x00ff | u16::from(value) << 8;
                effects.line = true;
            }
            reg::DATA => return self.write_data(value),
            reg::IER => {
                let rose = value & !self.st.ier & ier::TRANSMITTER_EMPTY != 0;
                self.st.ier = value & ier::ALL;
                // Enabling the interrupt while the transmitter is empty raises it.
                if rose && self.st.lsr & lsr::HOLDING_EMPTY != 0 {
                    self.st.empty_pending = true;
                }
            }
            reg::IIR_FCR => self.write_fifo_control(value, &mut effects),
            reg::LCR => {
                effects.line = (self.st.lcr ^ value) & !lcr::DIVISOR_LATCH != 0;
                self.st.lcr = value;
            }
            reg::MCR => {
                effects.modem = (self.st.mcr ^ value) & (mcr::DTR | mcr::RTS) != 0;
                effects.accept_input = self.loopback();
                self.st.mcr = value & mcr::ALL;
            }
            reg::LSR | reg::MSR => {}
            _ => self.st.scr = value,
        }
        effects
    }

    fn write_fifo_control(&mut self, value: u8, effects: &mut Effects) {
        let switched = (self.st.fcr ^ value) & fcr::ENABLE != 0;
        if switched || value & fcr::CLEAR_RECEIVER != 0 {
            self.st.received.clear();
            self.st.lsr &= !(lsr::DATA_READY | lsr::BREAK);
            self.st.timeout_pending = false;
            effects.accept_input = true;
        }
        if switched || value & fcr::CLEAR_TRANSMITTER != 0 {
            self.st.sending.clear();
            self.st.lsr |= lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY;
            self.st.empty_pending = true;
        }
        self.st.fcr = value & fcr::KEPT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_fifos() -> Uart {
        let mut uart = Uart::default();
        uart.write(reg::IIR_FCR, 0xc1);
        uart
    }

    fn identified(uart: &mut Uart) -> u8 {
        uart.read(reg::IIR_FCR).0 & 0xf
    }

    #[test]
    fn sending_is_done_when_the_peer_has_taken_it() {
        let mut uart = Uart::default();
        assert!(uart.write(reg::DATA, b'x').transmit);
        assert_eq!(uart.read(reg::LSR).0 & 0x60, 0);
        assert_eq!(uart.to_send(), b"x");
        uart.sent(1);
        assert_eq!(uart.read(reg::LSR).0 & 0x60, 0x60);
    }

    #[test]
    fn each_emptying_interrupts_once() {
        let mut uart = Uart::default();
        uart.write(reg::IER, ier::TRANSMITTER_EMPTY);
        assert_eq!(identified(&mut uart), iir::TRANSMITTER_EMPTY, "empty when enabled");
        assert_eq!(identified(&mut uart), iir::NONE);
        uart.write(reg::DATA, 1);
        assert!(!uart.interrupt());
        uart.sent(1);
        assert_eq!(identified(&mut uart), iir::TRANSMITTER_EMPTY);
    }

    #[test]
    fn the_receiver_interrupts_at_its_level_or_after_a_while() {
        let mut uart = with_fifos();
        uart.write(reg::IER, ier::RECEIVED);
        uart.receive(&[0; 13]);
        assert!(!uart.interrupt() && uart.wants_timeout());
        uart.timed_out();
        assert_eq!(identified(&mut uart), iir::TIMEOUT);
        uart.read(reg::DATA);
        assert!(!uart.interrupt(), "a read restarts the time-out");
        uart.receive(&[0; 2]);
        assert_eq!(identified(&mut uart), iir::RECEIVED);
    }

    #[test]
    fn overruns_are_reported_first() {
        let mut uart = with_fifos();
        uart.write(reg::IER, ier::ALL);
        uart.receive(&[7; 17]);
        assert_eq!(identified(&mut uart), iir::LINE_STATUS);
        assert_ne!(uart.read(reg::LSR).0 & lsr::OVERRUN, 0);
        assert_eq!(identified(&mut uart), iir::RECEIVED);
    }

    #[test]
    fn loopback_joins_outputs_and_inputs() {
        let mut uart = Uart::default();
        uart.write(reg::MCR, mcr::LOOPBACK | mcr::RTS | mcr::OUT2);
        assert_eq!(uart.read(reg::MSR).0, msr::CTS | msr::DCD);
        uart.write(reg::DATA, 0x5a);
        assert_eq!(uart.read(reg::DATA).0, 0x5a);
        assert_eq!(uart.room(), 0, "nothing comes from outside");
    }

    #[test]
    fn the_divisor_hides_data_and_ier() {
        let mut uart = Uart::default();
        uart.write(reg::LCR, 0x83);
        uart.write(reg::DATA, 1);
        uart.write(reg::IER, 0);
        assert_eq!(uart.baud(), Some(115_200));
        uart.write(reg::LCR, 0x03);
        assert_eq!(uart.read(reg::IER).0, 0);
        assert_eq!(uart.timeout(), 4 * 10 * 1_000_000_000 / 115_200);
    }

    #[test]
    fn modem_changes_leave_deltas() {
        let mut uart = Uart::default();
        uart.set_modem_status(msr::DCD | msr::DSR);
        assert_eq!(uart.read(reg::MSR).0, msr::DCD | msr::DSR | msr::DELTA_CTS);
        assert_eq!(uart.read(reg::MSR).0, msr::DCD | msr::DSR);
    }

    proptest! {
        #[test]
        fn any_sequence_keeps_the_chip_consistent(
            steps in prop::collection::vec((0u8..8, any::<u8>(), 0u8..4), 0..200)
        ) {
            let mut uart = Uart::default();
            for (register, value, kind) in steps {
                match kind {
                    0 => drop(uart.read(register)),
                    1 => drop(uart.write(register, value)),
                    2 => uart.receive(&[value; 3]),
                    _ => uart.sent(usize::from(value)),
                }
                prop_assert!(uart.st.check().is_ok());
                let ready = uart.st.lsr & lsr::DATA_READY != 0;
                prop_assert_eq!(ready, !uart.st.received.is_empty());
            }
        }
    }
}
