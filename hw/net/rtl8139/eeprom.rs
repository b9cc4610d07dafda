//! The serial EEPROM (a 93C46), which holds the address and is the driver's to write.

use base::props::MacAddr;
use base::state::State;

use super::registers::eecr;
use crate::net::frames::ADDRESS;
use crate::net::microwire::{Change, Microwire, Pins};

const WORDS: usize = 64;
/// Where the address is, in words.
const ADDRESS_AT: usize = 7;

/// Words of QEMU's adapter that are not zero: signature, vendor and device.
const TEMPLATE: [(usize, u16); 3] = [(0, 0x8129), (1, 0x10ec), (2, 0x8139)];

/// The chip and its words.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub(super) struct Eeprom {
    chip: Microwire,
    words: [u16; WORDS],
}

impl Eeprom {
    pub fn new(mac: MacAddr) -> Self {
        let mut words = [0; WORDS];
        for (at, value) in TEMPLATE {
            words[at] = value;
        }
        for (word, pair) in words[ADDRESS_AT..].iter_mut().zip(mac.0.chunks_exact(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Eeprom { chip: Microwire::default(), words }
    }

    /// The address that it holds.
    pub fn address(&self) -> [u8; ADDRESS] {
        let mut address = [0; ADDRESS];
        for (pair, word) in address.chunks_exact_mut(2).zip(&self.words[ADDRESS_AT..]) {
            pair.copy_from_slice(&word.to_le_bytes());
        }
        address
    }

    /// The wire from the chip.
    pub fn output(&self) -> bool {
        self.chip.output(&self.words)
    }

    /// The guest sets the wires.
    pub fn set(&mut self, control: u8) {
        let wire = |bit: u8| control & bit != 0;
        let pins = Pins { select: wire(eecr::CS), clock: wire(eecr::SK), data: wire(eecr::DI) };
        match self.chip.set(pins, WORDS) {
            Some(Change::Word { at, value }) => self.words[at] = value,
            Some(Change::All(value)) => self.words.fill(value),
            None => {}
        }
    }

    /// Nobody holds the wires.
    pub fn deselect(&mut self) {
        self.chip.set(Pins::default(), WORDS);
    }
}
