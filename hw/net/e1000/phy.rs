//! The transceiver (a Marvell 88E1011), behind the MDI control register: link and negotiation.

use base::state::State;

/// MDIC: which register, which transceiver, read or write, done, interrupt when done, wrong.
const REGISTER_SHIFT: u32 = 16;
const PHY_SHIFT: u32 = 21;
const WRITE: u32 = 1 << 26;
const READ: u32 = 2 << 26;
const READY: u32 = 1 << 28;
const INTERRUPT: u32 = 1 << 29;
const ERROR: u32 = 1 << 30;
/// The only one.
const PHY: u32 = 1;

/// Registers (IEEE 802.3, clause 22, and the Marvell's own).
const CONTROL: usize = 0;
const STATUS: usize = 1;
const ADVERTISED: usize = 4;
const PARTNER: usize = 5;
const GIGABIT_CONTROL: usize = 9;
const OWN_CONTROL: usize = 16;
const OWN_EXTENDED: usize = 20;

const CONTROL_RESET: u16 = 1 << 15;
const CONTROL_LOOPBACK: u16 = 1 << 14;
const CONTROL_NEGOTIATE: u16 = 1 << 12;
const CONTROL_RESTART: u16 = 1 << 9;
/// What the control register does not keep.
const CONTROL_GONE: u16 = CONTROL_RESET | CONTROL_RESTART | 0x3f;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_NEGOTIATED: u16 = 1 << 5;
const PARTNER_ACKNOWLEDGES: u16 = 1 << 14;

#[rustfmt::skip]
const AT_RESET: [u16; 32] = [
    0x1140, 0x794d, 0x0141, 0x0c20, 0x0de1, 0x01e0, 0x0000, 0x0000,
    0x0000, 0x0e00, 0x3c00, 0x0000, 0x0000, 0x0000, 0x0000, 0x0000,
    0x0360, 0xac00, 0x0000, 0x0000, 0x0d60, 0x0000, 0x0000, 0x0000,
    0x0000, 0x0000, 0x0000, 0x0000, 0x0000, 0x0000, 0x0000, 0x0000,
];

/// What follows from an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The register afterwards.
    pub mdic: u32,
    /// The guest wants an interrupt.
    pub interrupt: bool,
    /// The link has gone down, until negotiation ends.
    pub negotiating: bool,
}

/// The transceiver.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub(super) struct Phy {
    registers: [u16; 32],
}

impl Default for Phy {
    fn default() -> Self {
        Phy { registers: AT_RESET }
    }
}

impl Phy {
    /// What the guest sends comes back to it.
    pub fn loops(&self) -> bool {
        self.registers[CONTROL] & CONTROL_LOOPBACK != 0
    }

    /// Whether it is to agree with its partner before the link is used.
    pub fn negotiates(&self) -> bool {
        self.registers[CONTROL] & CONTROL_NEGOTIATE != 0
    }

    /// Whether it has agreed.
    pub fn has_negotiated(&self) -> bool {
        self.registers[STATUS] & STATUS_NEGOTIATED != 0
    }

    /// The link goes up or down.
    pub fn set_link(&mut self, up: bool) {
        match up {
            true => self.registers[STATUS] |= STATUS_LINK,
            false => {
                self.registers[STATUS] &= !(STATUS_LINK | STATUS_NEGOTIATED);
                self.registers[PARTNER] &= !PARTNER_ACKNOWLEDGES;
            }
        }
    }

    /// Both sides have agreed.
    pub fn negotiated(&mut self) {
        self.registers[STATUS] |= STATUS_NEGOTIATED;
        self.registers[PARTNER] |= PARTNER_ACKNOWLEDGES;
    }

    /// The guest writes the MDI control register.
    pub fn access(&mut self, mdic: u32) -> Outcome {
        let mut outcome = Outcome { mdic: mdic & !ERROR, ..Outcome::default() };
        let register = (mdic >> REGISTER_SHIFT & 0x1f) as usize;
        let known = matches!(register, 0..=6 | 9 | 10 | 16 | 17 | 20 | 21);
        if mdic >> PHY_SHIFT & 0x1f != PHY {
            outcome.mdic |= ERROR;
        } else if mdic & READ != 0 {
            match known {
                true => {
                    outcome.mdic = outcome.mdic & !0xffff | u32::from(self.registers[register]);
                }
                false => outcome.mdic |= ERROR,
            }
        } else if mdic & WRITE != 0 {
            let value = mdic as u16;
            match register {
                CONTROL => {
                    self.registers[CONTROL] = value & !CONTROL_GONE;
                    outcome.negotiating =
                        value & CONTROL_NEGOTIATE != 0 && value & CONTROL_RESTART != 0;
                }
                ADVERTISED | GIGABIT_CONTROL | OWN_CONTROL | OWN_EXTENDED => {
                    self.registers[register] = value;
                }
                _ => outcome.mdic |= ERROR,
            }
        }
        outcome.mdic |= READY;
        outcome.interrupt = mdic & INTERRUPT != 0;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(operation: u32, register: u32, value: u16) -> u32 {
        operation | PHY << PHY_SHIFT | register << REGISTER_SHIFT | u32::from(value)
    }

    /// As observed on QEMU 10.0.
    #[test]
    fn registers_answer_and_others_are_errors() {
        let mut phy = Phy::default();
        let mut read = |register| phy.access(command(READ, register, 0)).mdic;
        assert_eq!(read(0), 0x1820_1140);
        assert_eq!(read(2), 0x1822_0141);
        assert_eq!(read(7), 0x5827_0000);
        assert_eq!(phy.access(READ | 2 << PHY_SHIFT).mdic & ERROR, ERROR, "there is one only");
        assert_eq!(phy.access(command(WRITE, 4, 0xffff)).mdic, 0x1424_ffff);
        assert_eq!(phy.access(command(WRITE, 2, 0xffff)).mdic, 0x5422_ffff);
        assert_eq!(phy.access(command(WRITE, 0, 0x7dff)).mdic, 0x1420_7dff);
        assert_eq!(phy.access(command(READ, 0, 0)).mdic, 0x1820_7dc0);
    }

    #[test]
    fn negotiation_begins_on_request() {
        let mut phy = Phy::default();
        assert!(!phy.access(command(WRITE, 0, 0x9140)).negotiating, "a reset alone");
        assert!(phy.access(command(WRITE, 0, 0x1340)).negotiating);
        phy.set_link(false);
        assert_eq!(phy.access(command(READ, 1, 0)).mdic as u16, 0x7949);
        phy.set_link(true);
        phy.negotiated();
        assert_eq!(phy.access(command(READ, 1, 0)).mdic as u16, 0x796d);
    }
}
