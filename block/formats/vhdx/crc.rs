//! CRC-32C (Castagnoli), reflected, as headers and log entries have it.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut value, mut bit) = (index as u32, 0);
        while bit < 8 {
            value = if value & 1 != 0 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// Of bytes with a field of four of them taken as zero: the checksum's own.
pub(super) fn crc32c(bytes: &[u8], own: usize) -> u32 {
    let value = |index: usize| if (own..own + 4).contains(&index) { 0 } else { bytes[index] };
    let step = |crc: u32, index: usize| crc >> 8 ^ TABLE[(crc as u8 ^ value(index)) as usize];
    !(0..bytes.len()).fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_polynomial() {
        assert_eq!(crc32c(b"123456789", 100), 0xe306_9283);
    }
}
