//! A serial EEPROM of 16-bit words on three wires (Microwire: 93C46 of 64 words, 93C56 of 128), in
//! which cards keep their address and configuration.

use base::state::State;

/// The wires to the chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub(super) struct Pins {
    /// Chip select.
    pub select: bool,
    /// The clock.
    pub clock: bool,
    /// Data to the chip.
    pub data: bool,
}

/// What a command does to the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One word gets a value.
    Word { at: usize, value: u16 },
    /// All get it.
    All(u16),
}

/// Opcodes behind the start bit.
const EXTENDED: u32 = 0b00;
const WRITE: u32 = 0b01;
const READ: u32 = 0b10;
/// Of extended commands, by the upper two bits of the address.
const WRITE_DISABLE: u32 = 0b00;
const WRITE_ALL: u32 = 0b01;
const ERASE_ALL: u32 = 0b10;

/// How far a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Phase {
    /// It comes in.
    #[default]
    Command,
    /// Words go out, from that of the command's address on; so many bits have gone.
    Reading(u32),
    /// A word comes in; so many bits have come.
    Writing(u32),
    /// It is done, until the chip is selected anew.
    Done,
}

/// The chip, without its words.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub(super) struct Microwire {
    pins: Pins,
    phase: Phase,
    /// Bits that came in since chip select, and how many of a command.
    command: u32,
    bits: u32,
    value: u16,
    writable: bool,
}

impl Microwire {
    /// The data wire from the chip. `words` are as many as an address can name.
    pub fn output(&self, words: &[u16]) -> bool {
        match self.phase {
            // While no data come, the wire is high, which says "ready"; a zero comes before the data.
            Phase::Command | Phase::Writing(_) | Phase::Done => true,
            Phase::Reading(0) => false,
            Phase::Reading(bits) => {
                let at = self.address(words.len()) + (bits as usize - 1) / 16;
                let word = words.get(at % words.len()).copied().unwrap_or(0);
                word >> (15 - (bits - 1) % 16) & 1 != 0
            }
        }
    }

    fn address(&self, len: usize) -> usize {
        self.command as usize & (len - 1)
    }

    /// Sets the wires of a chip of `len` words, a power of two; returns what follows for the words.
    pub fn set(&mut self, pins: Pins, len: usize) -> Option<Change> {
        let was = std::mem::replace(&mut self.pins, pins);
        if !pins.select || !was.select {
            (self.phase, self.command, self.bits) = (Phase::Command, 0, 0);
        }
        if !pins.select || !pins.clock || was.clock {
            return None;
        }
        // The clock rises.
        match &mut self.phase {
            Phase::Command => {
                // Zeroes before the start bit are none of the command.
                if self.bits > 0 || pins.data {
                    self.command = self.command << 1 | u32::from(pins.data);
                    self.bits += 1;
                }
                // A start bit, two bits of the opcode, the address.
                let address_bits = len.trailing_zeros();
                if self.bits == 3 + address_bits { self.begin(address_bits) } else { None }
            }
            Phase::Reading(bits) => {
                *bits = 1 + *bits % (16 * len as u32);
                None
            }
            Phase::Writing(bits) => {
                self.value = self.value << 1 | u16::from(pins.data);
                *bits += 1;
                if *bits == 16 { self.written(len) } else { None }
            }
            Phase::Done => None,
        }
    }

    /// A command is complete.
    fn begin(&mut self, address_bits: u32) -> Option<Change> {
        let address = self.command & ((1 << address_bits) - 1);
        let kind = address >> (address_bits - 2);
        self.phase = Phase::Done;
        match self.command >> address_bits & 3 {
            READ => self.phase = Phase::Reading(0),
            WRITE => self.phase = Phase::Writing(0),
            EXTENDED if kind == WRITE_ALL => self.phase = Phase::Writing(0),
            EXTENDED if kind == WRITE_DISABLE => self.writable = false,
            EXTENDED if kind == ERASE_ALL => return self.writable.then_some(Change::All(!0)),
            EXTENDED => self.writable = true,
            // Erase.
            _ => {
                let change = Change::Word { at: address as usize, value: !0 };
                return self.writable.then_some(change);
            }
        }
        None
    }

    fn written(&mut self, len: usize) -> Option<Change> {
        self.phase = Phase::Done;
        let opcode = self.command >> len.trailing_zeros() & 3;
        let change = match opcode {
            WRITE => Change::Word { at: self.address(len), value: self.value },
            _ => Change::All(self.value),
        };
        self.writable.then_some(change)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const LEN: usize = 64;
    const ADDRESS_BITS: u32 = 6;

    /// A driver of the chip: `set` sets the wires, `output` reads the one from the chip.
    pub fn command(bits: u32, count: u32, mut set: impl FnMut(Pins)) {
        let mut pins = Pins::default();
        set(pins);
        pins.select = true;
        set(pins);
        for bit in (0..count).rev() {
            clock(bits >> bit & 1 != 0, &mut set);
        }
    }

    pub fn clock(data: bool, mut set: impl FnMut(Pins)) {
        set(Pins { select: true, clock: false, data });
        set(Pins { select: true, clock: true, data });
    }

    struct Bench {
        chip: Microwire,
        words: Vec<u16>,
    }

    impl Bench {
        fn set(&mut self, pins: Pins) {
            match self.chip.set(pins, LEN) {
                Some(Change::Word { at, value }) => self.words[at] = value,
                Some(Change::All(value)) => self.words.fill(value),
                None => {}
            }
        }

        fn command(&mut self, opcode: u32, address: u32) {
            let bits = (0b100 | opcode) << ADDRESS_BITS | address;
            command(bits, 3 + ADDRESS_BITS, |pins| self.set(pins));
        }

        fn read(&mut self, address: u32) -> u16 {
            self.command(READ, address);
            assert!(!self.chip.output(&self.words), "a zero comes first");
            self.shift(0)
        }

        fn shift(&mut self, value: u16) -> u16 {
            (0..16).rev().fold(0, |word, bit| {
                clock(value >> bit & 1 != 0, |pins| self.set(pins));
                word << 1 | u16::from(self.chip.output(&self.words))
            })
        }
    }

    #[test]
    fn words_are_read_and_written() {
        let words = (0..LEN as u16).map(|n| n * 0x0101).collect();
        let mut bench = Bench { chip: Microwire::default(), words };
        assert_eq!([0, 1, 0x3f].map(|at| bench.read(at)), [0, 0x0101, 0x3f3f]);
        assert_eq!(bench.shift(0), 0, "the next after the last is the first");
        bench.command(WRITE, 5);
        bench.shift(0xbeef);
        assert_eq!(bench.read(5), 0x0505, "locked");
        bench.command(EXTENDED, 0b11_0000);
        bench.command(WRITE, 5);
        bench.shift(0xbeef);
        bench.command(0b11, 6);
        assert_eq!([4, 5, 6].map(|at| bench.read(at)), [0x0404, 0xbeef, 0xffff]);
        bench.command(EXTENDED, 0b01_0000);
        bench.shift(0x1234);
        assert!(bench.words.iter().all(|&word| word == 0x1234));
        bench.command(EXTENDED, 0);
        bench.command(EXTENDED, 0b10_0000);
        assert_eq!(bench.read(9), 0x1234, "locked again");
    }
}
