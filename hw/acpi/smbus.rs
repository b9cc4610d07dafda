//! The SMBus host of the PIIX4 (82371AB datasheet, 7.5), and the EEPROMs behind it.

use base::state::{State, StateError};

/// Length of the register block.
pub const SMBUS_LEN: u64 = 64;
/// Number of EEPROMs, from address 50h on.
const EEPROMS: usize = 8;
const FIRST_EEPROM: u8 = 0x50;
const EEPROM_SIZE: usize = 256;
/// Most bytes in one block transfer.
const BLOCK: usize = 32;

mod reg {
    pub const STATUS: u64 = 0x0;
    pub const CONTROL: u64 = 0x2;
    pub const COMMAND: u64 = 0x3;
    pub const ADDRESS: u64 = 0x4;
    pub const DATA0: u64 = 0x5;
    pub const DATA1: u64 = 0x6;
    pub const BLOCK: u64 = 0x7;
    pub const AUX_CONTROL: u64 = 0xd;
}

mod status {
    pub const BUSY: u8 = 1;
    pub const DONE: u8 = 1 << 1;
    pub const DEVICE_ERROR: u8 = 1 << 2;
    pub const FAILED: u8 = 1 << 4;
    /// Cleared by writing ones.
    pub const CLEARABLE: u8 = 0x1e;
}

mod control {
    pub const KILL: u8 = 1 << 1;
    pub const START: u8 = 1 << 6;
    pub const KEPT: u8 = 0x1f;
}

/// Protocols, by their number in the control register.
mod protocol {
    pub const QUICK: u8 = 0;
    pub const BYTE: u8 = 1;
    pub const BYTE_DATA: u8 = 2;
    pub const WORD_DATA: u8 = 3;
    pub const BLOCK: u8 = 5;
}

/// In the address register: the host reads.
const READ: u8 = 1;

/// A memory that remembers where it was read last.
#[derive(Clone, Debug, PartialEq, Eq, State)]
struct Eeprom {
    bytes: Vec<u8>,
    at: u8,
}

impl Eeprom {
    fn receive(&mut self) -> u8 {
        let byte = self.bytes.get(usize::from(self.at)).copied().unwrap_or(0xff);
        self.at = self.at.wrapping_add(1);
        byte
    }

    fn write(&mut self, at: u8, bytes: &[u8]) {
        self.at = at;
        for &byte in bytes {
            if let Some(cell) = self.bytes.get_mut(usize::from(self.at)) {
                *cell = byte;
            }
            self.at = self.at.wrapping_add(1);
        }
    }
}

/// Registers, and what is on the bus.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(check)]
pub struct Smbus {
    status: u8,
    control: u8,
    command: u8,
    address: u8,
    data: [u8; 2],
    aux_control: u8,
    block: Vec<u8>,
    block_at: usize,
    eeproms: Vec<Eeprom>,
}

impl Default for Smbus {
    fn default() -> Self {
        let eeprom = Eeprom { bytes: vec![0; EEPROM_SIZE], at: 0 };
        Smbus {
            status: 0,
            control: 0,
            command: 0,
            address: 0,
            data: [0; 2],
            aux_control: 2,
            block: vec![0; BLOCK],
            block_at: 0,
            eeproms: vec![eeprom; EEPROMS],
        }
    }
}

impl Smbus {
    fn check(&self) -> Result<(), StateError> {
        let whole = self.eeproms.iter().all(|eeprom| eeprom.bytes.len() == EEPROM_SIZE);
        if self.block.len() != BLOCK || self.block_at >= BLOCK || !whole {
            return Err(StateError::invalid("the block or a memory has another size"));
        }
        Ok(())
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64) -> u8 {
        match offset {
            reg::STATUS => {
                // A guest sees the host busy once; the transfer is done when it looks again.
                let status = self.status;
                if status & status::BUSY != 0 {
                    self.transfer();
                }
                status
            }
            reg::CONTROL => {
                self.block_at = 0;
                self.control & control::KEPT
            }
            reg::COMMAND => self.command,
            reg::ADDRESS => self.address,
            reg::DATA0 => self.data[0],
            reg::DATA1 => self.data[1],
            reg::BLOCK => {
                let byte = self.block.get(self.block_at).copied().unwrap_or(0);
                self.block_at = (self.block_at + 1) % BLOCK;
                byte
            }
            reg::AUX_CONTROL => self.aux_control,
            _ => 0,
        }
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, value: u8) {
        match offset {
            reg::STATUS => {
                self.status &= !(value & status::CLEARABLE);
                self.block_at = 0;
            }
            reg::CONTROL => {
                self.control = value & control::KEPT;
                if value & control::KILL != 0 {
                    self.status = status::FAILED;
                } else if value & control::START != 0 {
                    self.status = status::BUSY;
                }
            }
            reg::COMMAND => self.command = value,
            reg::ADDRESS => self.address = value,
            reg::DATA0 => self.data[0] = value,
            reg::DATA1 => self.data[1] = value,
            reg::BLOCK => {
                if let Some(cell) = self.block.get_mut(self.block_at) {
                    *cell = value;
                }
                self.block_at = (self.block_at + 1) % BLOCK;
            }
            reg::AUX_CONTROL => self.aux_control = value & 3,
            _ => {}
        }
    }

    fn transfer(&mut self) {
        self.status = match self.try_transfer() {
            Some(()) => status::DONE,
            None => status::DEVICE_ERROR,
        };
    }

    /// `None` if nobody answers, or not to this protocol.
    fn try_transfer(&mut self) -> Option<()> {
        let number = (self.address >> 1).checked_sub(FIRST_EEPROM)?;
        let eeprom = self.eeproms.get_mut(usize::from(number))?;
        let read = self.address & READ != 0;
        match self.control >> 2 & 7 {
            protocol::QUICK => {}
            protocol::BYTE if read => self.data[0] = eeprom.receive(),
            protocol::BYTE => eeprom.write(self.command, &[]),
            protocol::BYTE_DATA if read => {
                eeprom.write(self.command, &[]);
                self.data[0] = eeprom.receive();
            }
            protocol::BYTE_DATA => eeprom.write(self.command, &self.data[..1]),
            protocol::WORD_DATA if read => {
                eeprom.write(self.command, &[]);
                self.data = [eeprom.receive(), eeprom.receive()];
            }
            protocol::WORD_DATA => eeprom.write(self.command, &self.data),
            protocol::BLOCK if read => {
                eeprom.write(self.command, &[]);
                let count = eeprom.receive();
                let bytes = self.block.get_mut(..usize::from(count)).filter(|b| !b.is_empty())?;
                bytes.fill_with(|| eeprom.receive());
                self.data[0] = count;
                self.block_at = 0;
            }
            protocol::BLOCK => {
                // The count goes first, as on the wire.
                let count = self.data[0];
                let bytes = self.block.get(..usize::from(count)).filter(|b| !b.is_empty())?;
                eeprom.write(self.command, &[&[count], bytes].concat());
                self.block_at = 0;
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(host: &mut Smbus, address: u8, protocol: u8) -> u8 {
        host.write(reg::STATUS, 0xff);
        host.read(reg::CONTROL);
        host.write(reg::ADDRESS, address);
        host.write(reg::COMMAND, 0x20);
        host.write(reg::CONTROL, protocol << 2 | control::START);
        assert_eq!(host.read(reg::STATUS), status::BUSY);
        host.read(reg::STATUS)
    }

    /// Observed on QEMU 10.0.
    #[test]
    fn eeproms_are_read_and_written() {
        let mut host = Smbus::default();
        assert_eq!(run(&mut host, 0x20, protocol::QUICK), status::DEVICE_ERROR);
        assert_eq!(run(&mut host, 0xa0, protocol::QUICK), status::DONE);
        host.write(reg::DATA0, 0x12);
        host.write(reg::DATA1, 0x34);
        assert_eq!(run(&mut host, 0xa0, protocol::WORD_DATA), status::DONE);
        assert_eq!(run(&mut host, 0xa1, protocol::BYTE_DATA), status::DONE);
        assert_eq!(host.read(reg::DATA0), 0x12);
        assert_eq!(run(&mut host, 0xa1, protocol::BYTE), status::DONE);
        assert_eq!(host.read(reg::DATA0), 0x34, "it goes on where it was");
        assert_eq!(run(&mut host, 0xaf, protocol::BYTE_DATA), status::DONE);
        assert_eq!(host.read(reg::DATA0), 0, "another memory");
        assert_eq!(run(&mut host, 0xa1, 4), status::DEVICE_ERROR, "no process calls");
    }

    #[test]
    fn blocks_carry_their_count() {
        let mut host = Smbus::default();
        host.read(reg::CONTROL);
        [0xaa, 0xbb, 0xcc].into_iter().for_each(|byte| host.write(reg::BLOCK, byte));
        host.write(reg::DATA0, 3);
        assert_eq!(run(&mut host, 0xa0, protocol::BLOCK), status::DONE);
        assert_eq!(run(&mut host, 0xa1, protocol::BYTE_DATA), status::DONE);
        assert_eq!(host.read(reg::DATA0), 3);
        assert_eq!(run(&mut host, 0xa1, protocol::BLOCK), status::DONE);
        let bytes: Vec<u8> = (0..3).map(|_| host.read(reg::BLOCK)).collect();
        assert_eq!((host.read(reg::DATA0), &bytes[..]), (3, &[0xaa, 0xbb, 0xcc][..]));
        host.write(reg::DATA0, 33);
        assert_eq!(run(&mut host, 0xa0, protocol::BLOCK), status::DEVICE_ERROR);
    }
}
