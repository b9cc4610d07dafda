//! Registers, bits and command codes of ATA devices (ATA/ATAPI-7 volume 2, 5; ATA8-ACS, 7).

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors that one interrupt of READ MULTIPLE and WRITE MULTIPLE may stand for.
pub const MAX_MULTIPLE: u8 = 16;

/// Offsets in the command block.
pub mod reg {
    pub const DATA: u64 = 0;
    /// Error when read, features when written.
    pub const ERROR: u64 = 1;
    pub const COUNT: u64 = 2;
    pub const LBA_LOW: u64 = 3;
    pub const LBA_MID: u64 = 4;
    pub const LBA_HIGH: u64 = 5;
    pub const DEVICE: u64 = 6;
    /// Status when read, command when written.
    pub const STATUS: u64 = 7;
}

/// Status register.
pub mod status {
    pub const ERROR: u8 = 1;
    pub const DATA_REQUEST: u8 = 1 << 3;
    /// The heads have settled; with PACKET, the service bit.
    pub const SEEK_COMPLETE: u8 = 1 << 4;
    pub const READY: u8 = 1 << 6;
    pub const BUSY: u8 = 1 << 7;
    /// At the end of a command that went well.
    pub const DONE: u8 = READY | SEEK_COMPLETE;
}

/// Error register.
pub mod error {
    /// Also what diagnostics leave when all is well.
    pub const DIAGNOSTIC_PASSED: u8 = 1;
    pub const ABORTED: u8 = 1 << 2;
}

/// Device register.
pub mod device {
    pub const HEAD: u8 = 0xf;
    /// The second device of the channel.
    pub const SECOND: u8 = 1 << 4;
    /// Addresses are linear, not of cylinder, head and sector.
    pub const LBA: u8 = 1 << 6;
    /// Bits that were always one once.
    pub const OBSOLETE: u8 = 1 << 7 | 1 << 5;
}

/// Device control register.
pub mod control {
    pub const NO_INTERRUPT: u8 = 1 << 1;
    pub const RESET: u8 = 1 << 2;
    /// Registers read as what was written before last.
    pub const HIGH_ORDER: u8 = 1 << 7;
}

/// With PACKET, the count register tells what is transferred.
pub mod reason {
    pub const COMMAND: u8 = 1;
    pub const TO_HOST: u8 = 1 << 1;
}

/// Commands.
pub mod command {
    pub const CFA_REQUEST_EXTENDED_ERROR: u8 = 0x03;
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const DEVICE_RESET: u8 = 0x08;
    pub const RECALIBRATE: u8 = 0x10;
    pub const READ: u8 = 0x20;
    pub const READ_ONCE: u8 = 0x21;
    pub const READ_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    pub const WRITE: u8 = 0x30;
    pub const WRITE_ONCE: u8 = 0x31;
    pub const WRITE_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const CFA_WRITE_WITHOUT_ERASE: u8 = 0x38;
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub const WRITE_VERIFY: u8 = 0x3c;
    pub const VERIFY: u8 = 0x40;
    pub const VERIFY_ONCE: u8 = 0x41;
    pub const VERIFY_EXT: u8 = 0x42;
    pub const SEEK: u8 = 0x70;
    pub const CFA_TRANSLATE_SECTOR: u8 = 0x87;
    pub const DIAGNOSTIC: u8 = 0x90;
    pub const INITIALIZE_PARAMETERS: u8 = 0x91;
    /// The power commands of old, 0x94 to 0x99.
    pub const OLD_STANDBY_IMMEDIATE: u8 = 0x94;
    pub const OLD_IDLE_IMMEDIATE: u8 = 0x95;
    pub const OLD_STANDBY: u8 = 0x96;
    pub const OLD_IDLE: u8 = 0x97;
    pub const OLD_CHECK_POWER: u8 = 0x98;
    pub const OLD_SLEEP: u8 = 0x99;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET: u8 = 0xa1;
    pub const SMART: u8 = 0xb0;
    pub const CFA_ERASE: u8 = 0xc0;
    pub const READ_MULTIPLE: u8 = 0xc4;
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    pub const SET_MULTIPLE: u8 = 0xc6;
    pub const READ_DMA: u8 = 0xc8;
    pub const READ_DMA_ONCE: u8 = 0xc9;
    pub const WRITE_DMA: u8 = 0xca;
    pub const WRITE_DMA_ONCE: u8 = 0xcb;
    pub const CFA_WRITE_MULTIPLE_WITHOUT_ERASE: u8 = 0xcd;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const FLUSH: u8 = 0xe7;
    pub const FLUSH_EXT: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const SECURITY_FREEZE_LOCK: u8 = 0xf5;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
}
