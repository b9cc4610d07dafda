//! Devices that belong to no other kind: test devices, and channels between guest and operator.

pub mod debug_exit;
pub mod edu;
pub mod pc_testdev;
pub mod pci_testdev;
pub mod pvpanic;
pub mod vmcoreinfo;
pub mod vmgenid;
pub mod vmport;
