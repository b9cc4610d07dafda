//! Feature bits that every device has (virtio 1.2, 6), and those of legacy drivers (6.3).
#![allow(missing_docs)]

/// Legacy: an interrupt when the last buffer is used, whatever else the driver said.
pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// Legacy: requests may be cut into descriptors anywhere.
pub const ANY_LAYOUT: u64 = 1 << 27;
pub const INDIRECT_DESC: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
/// Legacy: a driver that takes this one has not looked at what is offered.
pub const BAD_FEATURE: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const RING_PACKED: u64 = 1 << 34;
pub const RING_RESET: u64 = 1 << 40;

/// What legacy drivers alone are offered.
pub const LEGACY_ONLY: u64 = NOTIFY_ON_EMPTY | ANY_LAYOUT | BAD_FEATURE;

/// Device status (2.1).
pub mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 0x40;
    pub const FAILED: u8 = 0x80;
}
