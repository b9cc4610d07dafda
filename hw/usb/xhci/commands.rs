//! The command ring (xHCI 1.2, 4.6).

use super::Xhci;
use super::events::{Event, code};
use super::ring::{Broken, Ring, Trb, kind};

/// Commands that are done before others get their turn.
const TURNS: usize = 256;

/// What NEC's controllers say when they are asked for their firmware.
const NEC_FIRMWARE: u32 = 0x3034;

/// Bits of the command ring's register, beside the cycle state.
mod control {
    pub const STOP: u32 = 1 << 1;
    pub const ABORT: u32 = 1 << 2;
    pub const RUNNING: u32 = 1 << 3;
}

impl Xhci {
    /// The register of the command ring.
    pub(super) fn read_command_ring(&self) -> u32 {
        let running = if self.st.commands_run { control::RUNNING } else { 0 };
        self.st.command_ring.pointer() as u32 & !0x3e | running
    }

    pub(super) fn write_command_ring(&mut self, value: u32, high: bool) {
        if high {
            if !self.st.commands_run {
                let low = self.st.command_ring.at & 0xffff_ffff;
                self.st.command_ring.at = low | u64::from(value) << 32;
            }
            return;
        }
        if value & (control::STOP | control::ABORT) != 0 {
            if self.st.commands_run {
                self.st.commands_run = false;
                let event = Event {
                    kind: kind::COMMAND_COMPLETION,
                    code: code::COMMAND_RING_STOPPED,
                    parameter: self.st.command_ring.at,
                    ..Event::default()
                };
                self.post(0, event);
            }
        } else if !self.st.commands_run {
            let high = self.st.command_ring.at & !0xffff_ffff;
            self.st.command_ring =
                Ring { at: high | u64::from(value & !0x3f), cycle: value & 1 != 0 };
        }
    }

    /// Does what the command ring asks for.
    pub(super) fn run_commands(&mut self) {
        if !self.runs() {
            return;
        }
        self.st.commands_run = true;
        for _ in 0..TURNS {
            if !self.st.commands_run || !self.runs() {
                return;
            }
            match self.st.command_ring.take(&self.wires.dma) {
                Ok(Some(trb)) => self.command(&trb),
                Ok(None) => return,
                Err(Broken) => {
                    base::guest_error!("xhci: the command ring is broken");
                    return self.fail();
                }
            }
        }
        self.st.commands_wait = true;
        self.attention.ring();
    }

    fn command(&mut self, trb: &Trb) {
        let mut slot = trb.slot();
        let result = match trb.kind() {
            kind::ENABLE_SLOT => self.enable_slot().map(|number| slot = number),
            kind::DISABLE_SLOT => self.disable_slot(slot),
            kind::ADDRESS_DEVICE => self.address_device(trb),
            kind::CONFIGURE_ENDPOINT => self.configure_endpoint(trb),
            kind::EVALUATE_CONTEXT => self.evaluate_context(trb),
            kind::RESET_ENDPOINT => self.reset_endpoint(trb),
            kind::STOP_ENDPOINT => self.stop_endpoint(trb),
            kind::SET_DEQUEUE => self.set_dequeue(trb),
            kind::RESET_DEVICE => self.reset_device(slot),
            kind::NO_OP_COMMAND => Ok(()),
            kind::NEC_FIRMWARE if self.cfg.nec => {
                let event = Event {
                    kind: kind::NEC_COMPLETION,
                    code: code::SUCCESS,
                    parameter: trb.at,
                    len: NEC_FIRMWARE,
                    ..Event::default()
                };
                return self.post(0, event);
            }
            _ => Err(code::TRB),
        };
        let event = Event {
            kind: kind::COMMAND_COMPLETION,
            code: result.err().unwrap_or(code::SUCCESS),
            parameter: trb.at,
            slot,
            ..Event::default()
        };
        self.post(0, event);
    }
}
