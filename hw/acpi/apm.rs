//! The APM control and status ports, through which software raises an SMI.

/// First of the two ports.
pub const APM_PORT: u64 = 0xb2;

/// Command that turns ACPI mode on.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Command that turns ACPI mode off.
pub const ACPI_DISABLE: u8 = 0xf0;

/// Control (0) and status (1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apm {
    bytes: [u8; 2],
}

impl Apm {
    /// Reads a port.
    pub fn read(&self, offset: u64) -> u8 {
        self.bytes[(offset & 1) as usize]
    }
    /// Writes a port; a write to the control port is a command, which is returned.
    pub fn write(&mut self, offset: u64, value: u8) -> Option<u8> {
        self.bytes[(offset & 1) as usize] = value;
        (offset & 1 == 0).then_some(value)
    }
}
