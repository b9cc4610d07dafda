//! Vendor and device ids of everything on the PCI bus.
#![allow(missing_docs)]

pub const INTEL: u16 = 0x8086;
pub const INTEL_82540EM: u16 = 0x100e;
pub const INTEL_82441FX: u16 = 0x1237;
pub const INTEL_PIIX3_ISA: u16 = 0x7000;
pub const INTEL_PIIX3_IDE: u16 = 0x7010;
pub const INTEL_PIIX3_USB: u16 = 0x7020;
pub const INTEL_6300ESB_WATCHDOG: u16 = 0x25ab;
pub const INTEL_PIIX4_PM: u16 = 0x7113;

pub const REDHAT: u16 = 0x1b36;
pub const REDHAT_SERIAL: u16 = 0x0002;
pub const REDHAT_TEST: u16 = 0x0005;
pub const REDHAT_XHCI: u16 = 0x000d;
pub const REDHAT_PVPANIC: u16 = 0x0011;

pub const QUMRANET: u16 = 0x1af4;
/// Subsystem id that devices without one of their own carry.
pub const QUMRANET_DEFAULT_SUBSYSTEM: u16 = 0x1100;
/// Transitional devices of virtio; the standard numbers only some kinds (4.1.2.1).
pub const QUMRANET_VIRTIO_NET: u16 = 0x1000;
pub const QUMRANET_VIRTIO_BLOCK: u16 = 0x1001;
pub const QUMRANET_VIRTIO_BALLOON: u16 = 0x1002;
pub const QUMRANET_VIRTIO_CONSOLE: u16 = 0x1003;
pub const QUMRANET_VIRTIO_SCSI: u16 = 0x1004;
pub const QUMRANET_VIRTIO_RNG: u16 = 0x1005;
/// Other devices of virtio: this and the number of the kind.
pub const QUMRANET_VIRTIO_MODERN: u16 = 0x1040;

pub const REALTEK: u16 = 0x10ec;
pub const REALTEK_8029: u16 = 0x8029;
pub const REALTEK_8139: u16 = 0x8139;

pub const AMD: u16 = 0x1022;
pub const AMD_PCNET: u16 = 0x2000;

pub const CIRRUS: u16 = 0x1013;
pub const CIRRUS_GD5446: u16 = 0x00b8;

pub const NEC: u16 = 0x1033;
pub const NEC_UPD720200: u16 = 0x0194;

pub const TEACHING: u16 = 0x1234;
pub const TEACHING_EDU: u16 = 0x11e8;
pub const TEACHING_VGA: u16 = 0x1111;
