//! A hub (USB 2.0, 11), of the kind that knows full and low speed only.

use std::sync::{Arc, Weak};

use base::state::State;
use parking_lot::Mutex;

use super::bus::PortOwner;
use super::descriptor::{
    AtSpeed, Configuration, Description, Endpoint, IN, INTERRUPT, Interface, REMOTE_WAKEUP,
    SELF_POWERED,
};
use super::device::{Bell, Downstream, Function, UsbDevice};
use super::packet::{Packet, Reply, Setup, Speed, Token};

/// Type name.
pub const TYPE: &str = "usb-hub";
/// What serial numbers begin with.
pub(super) const SERIAL: &str = "314159";
/// Ports that a hub has by default, and at most.
pub const PORTS: usize = 8;
/// What can be plugged into them.
pub(super) const SPEEDS: &[Speed] = &[Speed::Low, Speed::Full];

const HUB_CLASS: u8 = 9;
const STATUS_ENDPOINT: u8 = 1;

static DESCRIPTION: Description = Description {
    vendor: 0x0409,
    product: 0x55aa,
    class: (HUB_CLASS, 0, 0),
    release: 0x0101,
    strings: &["QEMU", "QEMU USB Hub", "314159"],
    names: (1, 2, 3),
    speeds: &[AtSpeed {
        speed: Speed::Full,
        version: 0x0110,
        max_packet_0: 8,
        configuration: Configuration {
            name: 0,
            attributes: SELF_POWERED | REMOTE_WAKEUP,
            power: 0,
            interface: Interface {
                class: (HUB_CLASS, 0, 0),
                name: 0,
                class_descriptor: &[],
                endpoints: &[Endpoint {
                    address: STATUS_ENDPOINT | IN,
                    attributes: INTERRUPT,
                    max_packet: 2,
                    interval: 255,
                }],
            },
        },
    }],
};

/// Requests, with the type of the request before the number (11.24.2).
mod request {
    pub const GET_HUB_STATUS: u16 = 0xa000;
    pub const GET_PORT_STATUS: u16 = 0xa300;
    pub const GET_HUB_DESCRIPTOR: u16 = 0xa006;
    pub const CLEAR_HUB_FEATURE: u16 = 0x2001;
    pub const SET_HUB_FEATURE: u16 = 0x2003;
    pub const CLEAR_PORT_FEATURE: u16 = 0x2301;
    pub const SET_PORT_FEATURE: u16 = 0x2303;
}

/// Features of ports (table 11-17).
mod feature {
    pub const ENABLE: u16 = 1;
    pub const SUSPEND: u16 = 2;
    pub const RESET: u16 = 4;
    pub const POWER: u16 = 8;
    /// The first of those that clear changes.
    pub const CHANGES: u16 = 16;
    pub const LAST_CHANGE: u16 = 20;
}

/// Bits of a port's status, and of what has changed of it.
mod status {
    pub const CONNECTION: u16 = 1;
    pub const ENABLE: u16 = 1 << 1;
    pub const SUSPEND: u16 = 1 << 2;
    pub const RESET: u16 = 1 << 4;
    pub const POWER: u16 = 1 << 8;
    pub const LOW_SPEED: u16 = 1 << 9;
}

/// A port's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub struct PortState {
    status: u16,
    change: u16,
}

#[derive(Default)]
struct Port {
    device: Option<Arc<UsbDevice>>,
    st: PortState,
}

impl Port {
    fn connect(&mut self, device: Arc<UsbDevice>) {
        let slow = device.speed == Speed::Low;
        self.st.status |= status::CONNECTION | if slow { status::LOW_SPEED } else { 0 };
        self.st.change |= status::CONNECTION;
        self.device = Some(device);
    }

    fn disconnect(&mut self) {
        self.device = None;
        if self.st.status & status::ENABLE != 0 {
            self.st.change |= status::ENABLE;
        }
        self.st.status &= status::POWER;
        self.st.change |= status::CONNECTION;
    }

    fn reset(&mut self) {
        self.st = PortState { status: status::POWER, change: 0 };
        if let Some(device) = self.device.take() {
            device.reset();
            self.connect(device);
        }
    }

    fn set(&mut self, feature: u16) -> Reply {
        match feature {
            feature::SUSPEND => self.st.status |= status::SUSPEND,
            feature::RESET => {
                if let Some(device) = &self.device {
                    device.reset();
                    self.st.status = self.st.status & !status::SUSPEND | status::ENABLE;
                    self.st.change |= status::RESET;
                }
            }
            feature::POWER => self.st.status |= status::POWER,
            _ => return Reply::Stall,
        }
        Reply::Done
    }

    fn clear(&mut self, feature: u16) -> Reply {
        match feature {
            feature::ENABLE => self.st.status &= !status::ENABLE,
            feature::SUSPEND => self.st.status &= !status::SUSPEND,
            // Ports are always powered.
            feature::POWER => {}
            feature::CHANGES..=feature::LAST_CHANGE => {
                self.st.change &= !(1 << (feature - feature::CHANGES));
            }
            _ => return Reply::Stall,
        }
        Reply::Done
    }
}

/// The ports of a hub, which the bus reaches, too.
struct Ports {
    me: Weak<Ports>,
    bell: Bell,
    ports: Mutex<Vec<Port>>,
}

impl PortOwner for Ports {
    fn attached(&self, port: usize, device: &Arc<UsbDevice>) {
        if let Some(port) = self.ports.lock().get_mut(port) {
            port.connect(device.clone());
        }
        self.bell.ring();
    }

    fn detached(&self, port: usize) {
        if let Some(port) = self.ports.lock().get_mut(port) {
            port.disconnect();
        }
        self.bell.ring();
    }
}

impl Downstream for Ports {
    fn reachable(&self) -> Vec<Arc<UsbDevice>> {
        let ports = self.ports.lock();
        let enabled = ports.iter().filter(|port| port.st.status & status::ENABLE != 0);
        enabled.filter_map(|port| port.device.clone()).collect()
    }

    fn as_owner(&self) -> (usize, Weak<dyn PortOwner>) {
        (self.ports.lock().len(), self.me.clone())
    }
}

/// The hub.
pub struct Hub {
    ports: Arc<Ports>,
    downstream: Arc<dyn Downstream>,
}

impl Hub {
    /// A hub with so many ports, and what it rings.
    pub fn create(count: usize) -> (Self, Bell) {
        let bell = Bell::default();
        let mut ports: Vec<Port> = (0..count.clamp(1, PORTS)).map(|_| Port::default()).collect();
        ports.iter_mut().for_each(Port::reset);
        let ports = Arc::new_cyclic(|me: &Weak<Ports>| Ports {
            me: me.clone(),
            bell: bell.clone(),
            ports: Mutex::new(ports),
        });
        (Hub { downstream: ports.clone(), ports }, bell)
    }
}

/// 11.23.2.1: power and over-current are looked at for all ports at once, none can be removed.
fn descriptor(ports: usize) -> Vec<u8> {
    let map = (ports + 8) / 8;
    let mut bytes = vec![0, 0x29, ports as u8, 0x0a, 0x00, 1, 0];
    bytes.resize(bytes.len() + map, 0);
    bytes.resize(bytes.len() + map, 0xff);
    bytes[0] = bytes.len() as u8;
    bytes
}

impl Function for Hub {
    fn description(&self) -> &'static Description {
        &DESCRIPTION
    }

    fn hub(&self) -> Option<&Arc<dyn Downstream>> {
        Some(&self.downstream)
    }

    fn request(&mut self, setup: &Setup, data: &mut Vec<u8>) -> Reply {
        let mut ports = self.ports.ports.lock();
        let count = ports.len();
        let port = usize::from(setup.index).checked_sub(1).and_then(|n| ports.get_mut(n));
        match (setup.code(), port) {
            (request::GET_HUB_STATUS, _) => *data = vec![0; 4],
            (request::GET_PORT_STATUS, Some(port)) => {
                *data = [port.st.status, port.st.change].map(u16::to_le_bytes).concat();
            }
            // That of the local power supply, and of over-current.
            (request::SET_HUB_FEATURE | request::CLEAR_HUB_FEATURE, _) if setup.value <= 1 => {}
            (request::SET_PORT_FEATURE, Some(port)) => {
                let reply = port.set(setup.value);
                self.ports.bell.ring();
                return reply;
            }
            (request::CLEAR_PORT_FEATURE, Some(port)) => return port.clear(setup.value),
            (request::GET_HUB_DESCRIPTOR, _) => *data = descriptor(count),
            _ => return Reply::Stall,
        }
        Reply::Done
    }

    fn transfer(&mut self, packet: &mut Packet) -> Reply {
        if (packet.token, packet.endpoint) != (Token::In, STATUS_ENDPOINT) {
            return Reply::Stall;
        }
        let ports = self.ports.ports.lock();
        // Bit 0 is the hub's own.
        let changed = (1..).zip(ports.iter()).filter(|(_, port)| port.st.change != 0);
        let bits = changed.fold(0u16, |bits, (n, _)| bits | 1 << n);
        if bits == 0 {
            return Reply::Nak;
        }
        let len = ports.len() / 8 + 1;
        packet.answer(&bits.to_le_bytes()[..len.min(packet.room)])
    }

    fn reset(&mut self) {
        self.ports.ports.lock().iter_mut().for_each(Port::reset);
    }
}
