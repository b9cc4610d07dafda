//! The root ports: first those of USB 3, then those of USB 2 (xHCI 1.2, 4.19, 5.4.8).

use std::sync::Arc;

use parking_lot::Mutex;

use super::Xhci;
use super::events::{Event, code};
use super::ring::kind;
use crate::usb::bus::PortOwner;
use crate::usb::device::UsbDevice;
use crate::usb::packet::Speed;

/// Bits of a port's status and control register.
pub(super) mod port {
    pub const CONNECTED: u32 = 1;
    pub const ENABLED: u32 = 1 << 1;
    pub const RESET: u32 = 1 << 4;
    pub const LINK_SHIFT: u32 = 5;
    pub const LINK: u32 = 0xf << LINK_SHIFT;
    pub const POWER: u32 = 1 << 9;
    pub const SPEED_SHIFT: u32 = 10;
    pub const INDICATOR: u32 = 3 << 14;
    pub const LINK_WRITE: u32 = 1 << 16;
    pub const CONNECT_CHANGE: u32 = 1 << 17;
    pub const WARM_RESET_CHANGE: u32 = 1 << 19;
    pub const RESET_CHANGE: u32 = 1 << 21;
    pub const LINK_CHANGE: u32 = 1 << 22;
    /// All changes, which are cleared by writing ones.
    pub const CHANGES: u32 = 0x7f << 17;
    pub const WAKE: u32 = 7 << 25;
    pub const WARM_RESET: u32 = 1 << 31;
    pub const WRITABLE: u32 = POWER | INDICATOR | WAKE;
}

/// States of a link.
mod link {
    pub const U0: u32 = 0;
    pub const U3: u32 = 3;
    pub const DETECT: u32 = 5;
    pub const POLLING: u32 = 7;
}

/// A register with another state of the link.
fn with_link(state: u32, link: u32) -> u32 {
    state & !port::LINK | link << port::LINK_SHIFT
}

fn link_of(state: u32) -> u32 {
    (state & port::LINK) >> port::LINK_SHIFT
}

/// The number of a speed (table 7-13).
fn number(speed: Speed) -> u32 {
    match speed {
        Speed::Full => 1,
        Speed::Low => 2,
        Speed::High => 3,
        Speed::Super => 4,
    }
}

impl Xhci {
    /// The register of a port of the bus, for a device of this speed.
    fn register(&self, index: usize, speed: Speed) -> usize {
        if speed == Speed::Super { index } else { self.cfg.ports_3 + index }
    }

    /// The device at a root port, by the number of its register, which begins at 1.
    pub(super) fn path_of(&self, number: usize, route: u32) -> Option<String> {
        let register = number.checked_sub(1).filter(|&n| n < self.st.ports.len())?;
        let index = register.checked_sub(self.cfg.ports_3).unwrap_or(register);
        let hubs = (0..5).map(|tier| route >> (4 * tier) & 0xf).take_while(|&port| port != 0);
        let path = hubs.fold((index + 1).to_string(), |path, port| format!("{path}.{port}"));
        Some(path)
    }

    /// Makes a port's register say what is there, as after power-up.
    pub(super) fn update_port(&mut self, register: usize) {
        let index = register.checked_sub(self.cfg.ports_3).unwrap_or(register);
        let is_super = register < self.cfg.ports_3;
        let device = self.devices.get(index).and_then(Option::as_ref);
        let device = device.filter(|device| (device.speed == Speed::Super) == is_super);
        let state = match device {
            None => with_link(port::POWER, link::DETECT),
            Some(device) => {
                let speed = number(device.speed) << port::SPEED_SHIFT;
                let state = port::POWER | port::CONNECTED | speed;
                match is_super {
                    true => with_link(state | port::ENABLED, link::U0),
                    false => with_link(state, link::POLLING),
                }
            }
        };
        if let Some(register) = self.st.ports.get_mut(register) {
            *register = state;
        }
        self.notice(register, port::CONNECT_CHANGE);
    }

    /// Something about a port has changed: the driver is told unless it knows.
    fn notice(&mut self, register: usize, change: u32) {
        let Some(state) = self.st.ports.get_mut(register) else { return };
        if *state & change == change {
            return;
        }
        *state |= change;
        if !self.runs() {
            return;
        }
        self.st.status |= super::status::PORT_CHANGE;
        let event = Event {
            kind: kind::PORT_CHANGE,
            code: code::SUCCESS,
            parameter: (register as u64 + 1) << 24,
            ..Event::default()
        };
        self.post(0, event);
    }

    fn reset_port(&mut self, register: usize, warm: bool) {
        let index = register.checked_sub(self.cfg.ports_3).unwrap_or(register);
        let Some(state) = self.st.ports.get_mut(register) else { return };
        if *state & port::CONNECTED == 0 {
            return;
        }
        *state = with_link(*state | port::ENABLED, link::U0) & !port::RESET;
        if let Some(device) = self.devices.get(index).and_then(Option::as_ref) {
            device.reset();
        }
        let is_super = register < self.cfg.ports_3;
        let warm = if warm && is_super { port::WARM_RESET_CHANGE } else { 0 };
        self.notice(register, port::RESET_CHANGE | warm);
    }

    pub(super) fn write_port(&mut self, register: usize, value: u32) {
        let Some(&was) = self.st.ports.get(register) else { return };
        if value & (port::RESET | port::WARM_RESET) != 0 {
            return self.reset_port(register, value & port::WARM_RESET != 0);
        }
        let mut now = was & !(value & port::CHANGES);
        now = now & !port::WRITABLE | value & port::WRITABLE;
        let mut resumed = false;
        if value & port::LINK_WRITE != 0 {
            match (link_of(was), link_of(value)) {
                (from, link::U0) if from != link::U0 => {
                    now = with_link(now, link::U0);
                    resumed = true;
                }
                (from, link::U3) if from < link::U3 => now = with_link(now, link::U3),
                _ => {}
            }
        }
        self.st.ports[register] = now;
        if resumed {
            self.notice(register, port::LINK_CHANGE);
        }
    }
}

impl PortOwner for Mutex<Xhci> {
    fn attached(&self, index: usize, device: &Arc<UsbDevice>) {
        let mut xhci = self.lock();
        if let Some(place) = xhci.devices.get_mut(index) {
            *place = Some(device.clone());
        }
        let register = xhci.register(index, device.speed);
        xhci.update_port(register);
    }

    fn detached(&self, index: usize) {
        let mut xhci = self.lock();
        let Some(device) = xhci.devices.get_mut(index).and_then(Option::take) else { return };
        let register = xhci.register(index, device.speed);
        xhci.update_port(register);
        // Transfers that wait for it come to their end.
        xhci.attend();
    }
}
