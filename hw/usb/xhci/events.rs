//! Event rings, which the controller fills, and interrupts (xHCI 1.2, 4.9.4, 4.17).

use base::state::State;

use super::ring::{TRB, Trb, flag, kind};
use super::{Xhci, command, status};

/// Completion codes (6.4.5).
#[allow(missing_docs)]
pub mod code {
    pub const SUCCESS: u8 = 1;
    pub const BABBLE: u8 = 3;
    pub const TRANSACTION: u8 = 4;
    pub const TRB: u8 = 5;
    pub const STALL: u8 = 6;
    pub const NO_SLOTS: u8 = 9;
    pub const SLOT_NOT_ENABLED: u8 = 11;
    pub const ENDPOINT_NOT_ENABLED: u8 = 12;
    pub const SHORT_PACKET: u8 = 13;
    pub const CONTEXT_STATE: u8 = 19;
    pub const EVENT_RING_FULL: u8 = 21;
    pub const COMMAND_RING_STOPPED: u8 = 24;
    pub const STOPPED: u8 = 26;
}

/// Of an interrupter's management register.
mod management {
    pub const PENDING: u32 = 1;
    pub const ENABLE: u32 = 1 << 1;
}

/// Of the dequeue pointer: the driver is at it.
const BUSY: u64 = 1 << 3;

/// An interrupter and its ring, which has one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub struct Interrupter {
    management: u32,
    moderation: u32,
    segments: u32,
    table: u64,
    dequeue: u64,
    /// Where the segment is, how many blocks it has, and which is filled next.
    segment: u64,
    capacity: u32,
    next: u32,
    cycle: bool,
}

impl Interrupter {
    /// A register.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.management,
            0x04 => self.moderation,
            0x08 => self.segments,
            0x10 => self.table as u32,
            0x14 => (self.table >> 32) as u32,
            0x18 => self.dequeue as u32,
            0x1c => (self.dequeue >> 32) as u32,
            _ => 0,
        }
    }

    /// Writes a register; returns whether the ring is to be begun.
    fn write(&mut self, offset: u64, value: u32) -> bool {
        let value = u64::from(value);
        let high = |whole: u64| whole & 0xffff_ffff | value << 32;
        match offset {
            0x00 => {
                let pending = self.management & !(value as u32) & management::PENDING;
                self.management = value as u32 & management::ENABLE | pending;
            }
            0x04 => self.moderation = value as u32,
            0x08 => self.segments = value as u32 & 0xffff,
            0x10 => self.table = self.table & !0xffff_ffff | value & !0x3f,
            0x14 => {
                self.table = high(self.table);
                return true;
            }
            0x18 => {
                let busy = self.dequeue & !value & BUSY;
                self.dequeue = self.dequeue & !0xffff_ffff | value & !BUSY | busy;
            }
            0x1c => self.dequeue = high(self.dequeue),
            _ => {}
        }
        false
    }

    /// Whether the interrupt pin is to be pulled for it.
    pub fn pulls(&self) -> bool {
        self.management == management::PENDING | management::ENABLE
    }

    fn place(&self) -> u64 {
        self.segment + TRB * u64::from(self.next)
    }

    /// Whether the driver has gone away from the ring although there is something in it that it has not
    /// seen: it came after the driver's last look (4.17.2).
    fn is_left_behind(&self) -> bool {
        self.dequeue & BUSY == 0 && self.read_up_to().is_some_and(|index| index != self.next)
    }

    /// The block that the driver has got to, if it is in the segment.
    fn read_up_to(&self) -> Option<u32> {
        let inside = (self.dequeue & !0xf).checked_sub(self.segment)? / TRB;
        u32::try_from(inside).ok().filter(|&index| index < self.capacity)
    }
}

/// An event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    pub kind: u8,
    pub code: u8,
    pub parameter: u64,
    /// Bytes that were not transferred, or that were.
    pub len: u32,
    pub flags: u32,
    pub slot: usize,
    pub endpoint: usize,
}

impl Event {
    fn trb(&self, cycle: bool) -> Trb {
        Trb {
            at: 0,
            parameter: self.parameter,
            status: self.len & 0xff_ffff | u32::from(self.code) << 24,
            control: u32::from(self.kind) << 10
                | self.flags
                | (self.endpoint as u32) << 16
                | (self.slot as u32) << 24
                | if cycle { flag::CYCLE } else { 0 },
        }
    }
}

impl Xhci {
    /// A write to an interrupter's registers.
    pub(super) fn write_interrupter(&mut self, n: usize, offset: u64, value: u32) {
        let Some(interrupter) = self.st.interrupters.get_mut(n) else { return };
        if interrupter.write(offset, value) {
            self.begin_events(n);
        }
        let gone = matches!(offset, 0x18 | 0x1c);
        if gone && self.st.interrupters.get(n).is_some_and(Interrupter::is_left_behind) {
            self.interrupt(n);
        }
        if n == 0 {
            self.update_pin();
        }
    }

    /// The driver has given a table of segments.
    fn begin_events(&mut self, n: usize) {
        let Some(interrupter) = self.st.interrupters.get_mut(n) else { return };
        interrupter.capacity = 0;
        if interrupter.segments == 0 || interrupter.table == 0 {
            return;
        }
        let mut entry = [0; 16];
        let read = self.wires.dma.read(interrupter.table, &mut entry);
        let [a, b, c, d, e, f, g, h, s0, s1, ..] = entry;
        let capacity = u32::from(u16::from_le_bytes([s0, s1]));
        let segment = u64::from_le_bytes([a, b, c, d, e, f, g, h]) & !0x3f;
        let fits = segment.checked_add(TRB * u64::from(capacity)).is_some();
        if !read || !fits || interrupter.segments != 1 || !(16..=4096).contains(&capacity) {
            base::guest_error!("xhci: the event ring makes no sense");
            return self.fail();
        }
        (interrupter.segment, interrupter.capacity) = (segment, capacity);
        (interrupter.next, interrupter.cycle) = (0, true);
    }

    /// Tells the driver something.
    pub(super) fn post(&mut self, n: usize, event: Event) {
        let Some(interrupter) = self.st.interrupters.get_mut(n) else { return };
        if interrupter.capacity == 0 {
            return;
        }
        let Some(read_up_to) = interrupter.read_up_to() else {
            base::guest_error!("xhci: the event ring's dequeue pointer is not in it");
            return self.fail();
        };
        let behind = |steps: u32| (interrupter.next + steps) % interrupter.capacity;
        if behind(1) == read_up_to {
            base::guest_error!("xhci: an event ring is full");
            return;
        }
        // The last block that there is room for says that there is no more.
        let event = match behind(2) == read_up_to {
            true => {
                Event { kind: kind::HOST_EVENT, code: code::EVENT_RING_FULL, ..Event::default() }
            }
            false => event,
        };
        self.wires.dma.write(interrupter.place(), &event.trb(interrupter.cycle).bytes());
        interrupter.next += 1;
        if interrupter.next == interrupter.capacity {
            interrupter.next = 0;
            interrupter.cycle = !interrupter.cycle;
        }
        self.interrupt(n);
    }

    fn interrupt(&mut self, n: usize) {
        let Some(interrupter) = self.st.interrupters.get_mut(n) else { return };
        let busy = interrupter.dequeue & BUSY != 0;
        interrupter.dequeue |= BUSY;
        interrupter.management |= management::PENDING;
        self.st.status |= status::EVENT;
        let enabled = interrupter.management & management::ENABLE != 0
            && self.st.command & command::INTERRUPTS != 0;
        if busy || !enabled {
            return self.update_pin();
        }
        if self.send_message(n)
            && let Some(interrupter) = self.st.interrupters.get_mut(n)
        {
            interrupter.management &= !management::PENDING;
        }
        self.update_pin();
    }

    /// Sends a message for an interrupter, if the guest has chosen messages.
    fn send_message(&self, n: usize) -> bool {
        if let Some(msix) = self.msix.as_ref().filter(|msix| msix.enabled()) {
            msix.notify(n as u16);
            return true;
        }
        false
    }

    /// Makes the interrupt pin follow.
    pub(super) fn update_pin(&self) {
        let messages = self.msix.as_ref().is_some_and(|msix| msix.enabled());
        let pulled = self.st.interrupters.first().is_some_and(Interrupter::pulls);
        let enabled = self.st.command & command::INTERRUPTS != 0;
        self.wires.intx.set(pulled && enabled && !messages);
    }
}
