//! The `$PIR` table: how PCI interrupt pins are wired to the router (Microsoft, "PCI IRQ Routing Table
//! Specification").

use super::mptable::balance;

const SLOTS: u8 = 32;
/// First of the four route registers of the PIIX; a link is named by its register.
const FIRST_LINK: u8 = 0x60;
/// ISA lines that a link may be routed to.
const POSSIBLE_LINES: u16 = 0xdef8;
const ROUTER_DEVFN: u8 = 0x08;
/// The router behaves like the original PIIX: vendor and device.
const COMPATIBLE: [u8; 4] = [0x86, 0x80, 0x2e, 0x12];

/// The table; it belongs on a 16-byte boundary between 0xF0000 and 0xFFFFF.
pub fn build() -> Vec<u8> {
    let mut out = b"$PIR\0\x01\0\0".to_vec();
    out.extend([0, ROUTER_DEVFN, 0, 0]);
    out.extend(COMPATIBLE);
    out.extend([0; 16]);
    for slot in 1..SLOTS {
        out.extend([0, slot << 3]);
        for pin in 0..4 {
            out.push(FIRST_LINK + (slot - 1 + pin) % 4);
            out.extend(POSSIBLE_LINES.to_le_bytes());
        }
        out.extend([slot - 1, 0]);
    }
    let length = out.len() as u16;
    out[6..8].copy_from_slice(&length.to_le_bytes());
    balance(&mut out, 31);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_turn_the_links_round() {
        let table = build();
        assert_eq!(table.len(), 32 + 31 * 16);
        assert_eq!(table[32..48], *b"\0\x08\x60\xf8\xde\x61\xf8\xde\x62\xf8\xde\x63\xf8\xde\0\0");
        assert_eq!(table[48..64], *b"\0\x10\x61\xf8\xde\x62\xf8\xde\x63\xf8\xde\x60\xf8\xde\x01\0");
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }
}
