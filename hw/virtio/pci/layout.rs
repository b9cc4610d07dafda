//! Where the structures of version 1 are, and the capabilities that say so (4.1.4).

use super::{Interfaces, VirtioPciProps};
use crate::pci::{Bar, BarKind, ConfigSpace};

pub(super) const LEGACY_BAR: usize = 0;
pub(super) const MSIX_BAR: usize = 1;
pub(super) const NOTIFY_PORT_BAR: usize = 2;
pub(super) const MODERN_BAR: usize = 4;

/// Offsets in BAR 4.
pub(super) const COMMON_AT: u64 = 0x0000;
pub(super) const ISR_AT: u64 = 0x1000;
pub(super) const CONFIG_AT: u64 = 0x2000;
pub(super) const NOTIFY_AT: u64 = 0x3000;
/// Bytes of each structure, but for that of notifications.
pub(super) const STRUCTURE_SIZE: u64 = 0x1000;

/// Queues that there are places to notify for.
const QUEUES: u64 = 1024;
const PAGE: u32 = 0x1000;
const NOTIFY_PORT_SIZE: u64 = 4;

const VENDOR: u8 = 0x09;
/// Bytes of a capability, of one with a multiplier, of that with a window.
const LEN: usize = 16;
const NOTIFY_LEN: usize = 20;
const WINDOW_LEN: usize = 20;

/// What a capability is of.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const CONFIG: u8 = 4;
const WINDOW: u8 = 5;

/// Offsets in a capability.
const CAP_LEN: usize = 2;
const CAP_TYPE: usize = 3;
const CAP_BAR: usize = 4;
const CAP_OFFSET: usize = 8;
const CAP_LENGTH: usize = 12;
const CAP_MULTIPLIER: usize = 16;
const CAP_DATA: usize = 16;

/// Where in configuration space the window's capability is: behind those of the four structures.
const FIRST: usize = 0x40;
const WINDOW_AT: usize = FIRST + 3 * LEN + NOTIFY_LEN;

/// An access through the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub offset: u64,
    pub size: u8,
}

/// How a device is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    modern: bool,
    page_per_queue: bool,
    /// Whether queues can be notified by a port, too.
    pub notify_port: bool,
}

impl Layout {
    pub fn new(props: &VirtioPciProps, interfaces: Interfaces) -> Self {
        Layout {
            modern: interfaces.modern,
            page_per_queue: props.page_per_vq,
            notify_port: interfaces.modern && props.modern_pio_notify,
        }
    }

    /// Distance between the places to notify queues.
    pub fn notify_stride(&self) -> u32 {
        if self.page_per_queue { PAGE } else { 4 }
    }

    pub fn notify_len(&self) -> u64 {
        u64::from(self.notify_stride()) * QUEUES
    }

    pub fn modern_size(&self) -> u64 {
        (NOTIFY_AT + self.notify_len()).next_power_of_two()
    }

    pub fn add_capabilities(&self, config: &mut ConfigSpace) {
        if !self.modern {
            return;
        }
        let kind = BarKind::Memory64 { prefetchable: true };
        config.add_bar(MODERN_BAR, Bar { kind, size: self.modern_size() });
        let structures = [(COMMON, COMMON_AT), (ISR, ISR_AT), (CONFIG, CONFIG_AT)];
        for (what, at) in structures {
            add(config, what, LEN, MODERN_BAR, at, STRUCTURE_SIZE);
        }
        let notify = add(config, NOTIFY, NOTIFY_LEN, MODERN_BAR, NOTIFY_AT, self.notify_len());
        config.set_u32(notify + CAP_MULTIPLIER, self.notify_stride());
        if self.notify_port {
            config.add_bar(NOTIFY_PORT_BAR, Bar { kind: BarKind::Io, size: NOTIFY_PORT_SIZE });
            add(config, NOTIFY, NOTIFY_LEN, NOTIFY_PORT_BAR, 0, NOTIFY_PORT_SIZE);
        }
        let window = add(config, WINDOW, WINDOW_LEN, 0, 0, 0);
        debug_assert_eq!(window, self.window());
        config.allow_u8(window + CAP_BAR, !0);
        for at in [CAP_OFFSET, CAP_LENGTH, CAP_DATA] {
            config.allow_u32(window + at, !0);
        }
    }

    fn window(&self) -> usize {
        WINDOW_AT + if self.notify_port { NOTIFY_LEN } else { 0 }
    }

    /// Where the window shows data.
    pub fn access_data(&self) -> usize {
        self.window() + CAP_DATA
    }

    /// What an access to configuration space does through the window, if it touches its data and the
    /// window is set to a sensible place.
    pub fn access(&self, config: &ConfigSpace, offset: usize, size: u8) -> Option<Access> {
        let data = self.access_data();
        if !self.modern || offset >= data + 4 || offset + usize::from(size) <= data {
            return None;
        }
        let window = self.window();
        let at = u64::from(config.u32(window + CAP_OFFSET));
        let len = config.u32(window + CAP_LENGTH);
        let sensible = usize::from(config.u8(window + CAP_BAR)) == MODERN_BAR
            && matches!(len, 1 | 2 | 4)
            && at % u64::from(len) == 0
            && at + u64::from(len) <= NOTIFY_AT + self.notify_len();
        sensible.then_some(Access { offset: at, size: len as u8 })
    }
}

fn add(
    config: &mut ConfigSpace,
    what: u8,
    len: usize,
    bar: usize,
    offset: u64,
    length: u64,
) -> usize {
    let at = config.add_capability(VENDOR, len);
    config.set_u8(at + CAP_LEN, len as u8);
    config.set_u8(at + CAP_TYPE, what);
    config.set_u8(at + CAP_BAR, bar as u8);
    config.set_u32(at + CAP_OFFSET, offset as u32);
    config.set_u32(at + CAP_LENGTH, length as u32);
    at
}
