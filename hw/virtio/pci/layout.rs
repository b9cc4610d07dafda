//! Where the structures of version 1 are, and the capabilities that say so (4.1.4).

use super::{Interfaces, VirtioPciProps};
use crate::pci::{Bar, BarKind, ConfigSpace};

pub(super) const LEGACY_BAR: usize = 0;

/// Bytes of each structure, but for that of notifications; of the first two where the registers of
/// another device would have no room in front of them.
const STRUCTURE_SIZE: u64 = 0x1000;
const SMALL_STRUCTURE_SIZE: u64 = 0x800;
const OTHERS_SIZE: u64 = 0x1000;

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

/// A part of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub at: u64,
    pub len: u64,
}

/// A structure of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    Common,
    Isr,
    Config,
    Notify,
}

impl Structure {
    /// In the order of their capabilities.
    const ALL: [Self; 4] = [Self::Common, Self::Isr, Self::Config, Self::Notify];

    /// What its capability says that it is of.
    fn kind(self) -> u8 {
        match self {
            Structure::Common => COMMON,
            Structure::Isr => ISR,
            Structure::Config => CONFIG,
            Structure::Notify => NOTIFY,
        }
    }
}

/// How a device is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    modern: bool,
    /// The first BAR is another's, and so is the beginning of that of the structures.
    beside: bool,
    page_per_queue: bool,
    /// Whether queues can be notified by a port, too.
    pub notify_port: bool,
}

impl Layout {
    pub fn new(props: &VirtioPciProps, interfaces: Interfaces, beside: bool) -> Self {
        Layout {
            modern: interfaces.modern,
            beside,
            page_per_queue: props.page_per_vq,
            notify_port: interfaces.modern && props.modern_pio_notify,
        }
    }

    /// Distance between the places to notify queues.
    pub fn notify_stride(&self) -> u32 {
        if self.page_per_queue { PAGE } else { 4 }
    }

    /// The BAR of the structures.
    pub fn modern_bar(&self) -> usize {
        if self.beside { 2 } else { 4 }
    }

    /// The BAR of MSI-X.
    pub fn msix_bar(&self) -> usize {
        if self.beside { 4 } else { 1 }
    }

    /// The BAR of the port to notify by.
    pub fn notify_port_bar(&self) -> usize {
        if self.beside { 5 } else { 2 }
    }

    /// Where a structure is in its BAR: one after the other from the start, or before the end.
    pub fn span(&self, structure: Structure) -> Span {
        let free = self.modern_size() - 3 * STRUCTURE_SIZE - self.notify_len();
        let small = self.beside && free < OTHERS_SIZE;
        let len = if small { SMALL_STRUCTURE_SIZE } else { STRUCTURE_SIZE };
        let lens = [len, len, STRUCTURE_SIZE, self.notify_len()];
        let all: u64 = lens.iter().sum();
        let mut at = if self.beside { self.modern_size() - all } else { 0 };
        for (other, len) in Structure::ALL.into_iter().zip(lens) {
            if other == structure {
                return Span { at, len };
            }
            at += len;
        }
        Span { at, len: 0 }
    }

    /// The structure at a place of the BAR, and where in it that is.
    pub fn structure(&self, at: u64) -> Option<(Structure, u64)> {
        Structure::ALL.into_iter().find_map(|structure| {
            let span = self.span(structure);
            let inside = at.checked_sub(span.at).filter(|inside| *inside < span.len)?;
            Some((structure, inside))
        })
    }

    /// Bytes of the structures' BAR.
    pub fn modern_size(&self) -> u64 {
        (3 * STRUCTURE_SIZE + self.notify_len()).next_power_of_two()
    }

    fn notify_len(&self) -> u64 {
        u64::from(self.notify_stride()) * QUEUES
    }

    pub fn add_capabilities(&self, config: &mut ConfigSpace) {
        if !self.modern {
            return;
        }
        let kind = BarKind::Memory64 { prefetchable: true };
        config.add_bar(self.modern_bar(), Bar { kind, size: self.modern_size() });
        for structure in Structure::ALL {
            let (Span { at, len }, is_notify) =
                (self.span(structure), structure == Structure::Notify);
            let cap_len = if is_notify { NOTIFY_LEN } else { LEN };
            let cap = add(config, structure.kind(), cap_len, self.modern_bar(), at, len);
            if is_notify {
                config.set_u32(cap + CAP_MULTIPLIER, self.notify_stride());
            }
        }
        if self.notify_port {
            let bar = self.notify_port_bar();
            config.add_bar(bar, Bar { kind: BarKind::Io, size: NOTIFY_PORT_SIZE });
            add(config, NOTIFY, NOTIFY_LEN, bar, 0, NOTIFY_PORT_SIZE);
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
        let sensible = usize::from(config.u8(window + CAP_BAR)) == self.modern_bar()
            && matches!(len, 1 | 2 | 4)
            && at % u64::from(len) == 0
            && self.structure(at).is_some();
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
