//! The serial EEPROM (a 93C46 of 64 words), by the read register or bit by bit.

use base::props::MacAddr;
use base::state::State;

use crate::net::microwire::{Microwire, Pins};

/// Words.
pub(super) const WORDS: usize = 64;
/// What all words add up to.
const SUM: u16 = 0xbaba;
const SUM_AT: usize = 63;

/// EERD.
const START: u32 = 1 << 0;
const DONE: u32 = 1 << 4;
const ADDRESS_SHIFT: u32 = 8;
const DATA_SHIFT: u32 = 16;

/// EECD: clock, chip select, data to the chip and from it, access request and grant, and that a chip
/// is present.
const SK: u32 = 1 << 0;
const CS: u32 = 1 << 1;
const DI: u32 = 1 << 2;
const DO: u32 = 1 << 3;
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;
/// How flash memory may be written.
const FLASH: u32 = 3 << 4;
/// Bits that keep what is written.
const KEPT: u32 = SK | CS | DI | FLASH | REQUEST;

/// What the words say besides the address and the sum: compatibility and configuration of the
/// adapter, as QEMU's adapter has them.
#[rustfmt::skip]
const TEMPLATE: [u16; WORDS] = [
    0x0000, 0x0000, 0x0000, 0x0000, 0xffff, 0x0000, 0x0000, 0x0000,
    0x3000, 0x1000, 0x6403, DEVICE, 0x8086, DEVICE, 0x8086, 0x3040,
    0x0008, 0x2000, 0x7e14, 0x0048, 0x1000, 0x00d8, 0x0000, 0x2700,
    0x6cc9, 0x3150, 0x0722, 0x040b, 0x0984, 0x0000, 0xc000, 0x0706,
    0x1008, 0x0000, 0x0f04, 0x7fff, 0x4d01, 0xffff, 0xffff, 0xffff,
    0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
    0x0100, 0x4000, 0x121c, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
    0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0x0000,
];
const DEVICE: u16 = crate::pci::ids::INTEL_82540EM;

/// Its content, for an adapter of this address.
pub(super) fn content(mac: MacAddr) -> [u16; WORDS] {
    let mut words = TEMPLATE;
    for (word, pair) in words.iter_mut().zip(mac.0.chunks_exact(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
    words[SUM_AT] = SUM.wrapping_sub(sum);
    words
}

/// The register of a read: done at once.
pub(super) fn read(words: &[u16; WORDS], eerd: u32) -> u32 {
    if eerd & START == 0 {
        return eerd;
    }
    match words.get((eerd >> ADDRESS_SHIFT & 0xff) as usize) {
        Some(&word) => u32::from(word) << DATA_SHIFT | eerd & 0xff00 | DONE,
        None => eerd & 0xff00 | DONE,
    }
}

/// The control register, and the chip behind it. Nothing lets the driver change its words.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub(super) struct Wires {
    kept: u32,
    chip: Microwire,
}

impl Wires {
    /// The control register, as the guest reads it.
    pub fn read(&self, words: &[u16; WORDS]) -> u32 {
        let out = if self.chip.output(words) { DO } else { 0 };
        // Nobody else has access: it is granted on request, and observed to be granted without.
        PRESENT | GRANT | self.kept | out
    }

    /// The guest sets the wires.
    pub fn write(&mut self, value: u32) {
        self.kept = value & KEPT;
        let pins = Pins { select: value & CS != 0, clock: value & SK != 0, data: value & DI != 0 };
        self.chip.set(pins, WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::microwire::tests::{clock, command};

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    /// As observed on QEMU 10.0.
    #[test]
    fn words_and_their_sum() {
        let words = content(MAC);
        assert_eq!(words[..3], [0x5452, 0x1200, 0x5634]);
        assert_eq!(words[SUM_AT], 0x79ad);
        assert_eq!(read(&words, 0x0b01), 0x100e_0b10);
        assert_eq!(read(&words, 0xff01), 0xff10, "beyond its end");
    }

    #[test]
    fn words_come_bit_by_bit() {
        const READ: u32 = 0b110;
        let words = content(MAC);
        let mut wires = Wires::default();
        let set = |wires: &mut Wires, pins: Pins| {
            let wire = |on: bool, bit: u32| if on { bit } else { 0 };
            let Pins { select, clock, data } = pins;
            wires.write(REQUEST | wire(select, CS) | wire(clock, SK) | wire(data, DI));
        };
        for address in [0u32, 1, 0x0b, 0x3f] {
            command(READ << 6 | address, 9, |pins| set(&mut wires, pins));
            assert_eq!(wires.read(&words) & DO, 0, "a zero comes first");
            let word = (0..16).fold(0, |word, _| {
                clock(false, |pins| set(&mut wires, pins));
                word << 1 | u16::from(wires.read(&words) & DO != 0)
            });
            assert_eq!(word, words[address as usize]);
        }
    }
}
