//! A block of general-purpose events (ACPI 6.5, 4.8.4.1).

/// Status and enable bits, half of the block's bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpe {
    status: u16,
    enable: u16,
}

/// Length of the block in bytes.
pub const GPE_LEN: u64 = 4;

impl Gpe {
    /// Whether the SCI is to be raised.
    pub fn pending(&self) -> bool {
        self.status & self.enable != 0
    }

    /// An event happened.
    pub fn raise(&mut self, event: u8) {
        self.status |= 1 << (event & 15);
    }

    /// Reads a byte.
    pub fn read(&self, offset: u64) -> u8 {
        match offset {
            0 | 1 => self.status.to_le_bytes()[offset as usize],
            2 | 3 => self.enable.to_le_bytes()[offset as usize - 2],
            _ => 0,
        }
    }

    /// Writes a byte: status bits clear by ones, enable bits are kept.
    pub fn write(&mut self, offset: u64, value: u8) {
        let value = u16::from(value) << (8 * (offset & 1));
        match offset {
            0 | 1 => self.status &= !value,
            2 => self.enable = self.enable & 0xff00 | value,
            3 => self.enable = self.enable & 0x00ff | value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enabled_event_is_pending_until_cleared() {
        let mut gpe = Gpe::default();
        gpe.raise(2);
        assert!(!gpe.pending());
        gpe.write(2, 0x04);
        assert!(gpe.pending());
        assert_eq!((gpe.read(0), gpe.read(2)), (4, 4));
        gpe.write(0, 0x04);
        assert!(!gpe.pending());
    }
}
