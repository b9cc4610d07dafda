//! A bus: the ports of a controller and of the hubs behind it, and who is plugged in where.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::attention::Attention;
use super::device::{Bell, Function, UsbDevice};
use super::hub::{self, Hub};
use super::packet::Speed;

/// Who has ports: a controller, or a hub.
pub trait PortOwner: Send + Sync {
    /// A device has come to a port, counted from zero.
    fn attached(&self, port: usize, device: &Arc<UsbDevice>);
    /// The device has gone.
    fn detached(&self, port: usize);
}

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum UsbError {
    /// There is no bus.
    #[error("No 'usb-bus' bus found for device '{0}'")]
    NoBus(&'static str),
    /// The port that was asked for is not there, or not free.
    #[error("usb port {port} (bus {bus}) not found (in use?)")]
    NoPort {
        /// The port.
        port: String,
        /// The bus.
        bus: String,
    },
    /// No port is left.
    #[error("tried to attach usb device {0} to a bus with no free ports")]
    Full(String),
    /// The port is too fast or too slow for it.
    #[error(
        "Warning: speed mismatch trying to attach usb device \"{product}\" ({device} speed) to bus \
         \"{bus}\", port \"{port}\" ({at} speed)"
    )]
    Speed {
        /// The device.
        product: &'static str,
        /// Its speeds.
        device: String,
        /// The bus.
        bus: String,
        /// The port.
        port: String,
        /// The port's speeds.
        at: String,
    },
}

/// A device that is to be attached.
pub struct Newcomer {
    /// What it does.
    pub function: Box<dyn Function>,
    /// Type name.
    pub type_name: &'static str,
    /// The id that the operator gave it.
    pub id: Option<String>,
    /// The port that it is to be at.
    pub port: Option<String>,
    /// Its serial number, if the operator gave it one.
    pub serial: Option<String>,
    /// What its serial number begins with otherwise.
    pub serial_start: &'static str,
    /// The fastest that it is to be.
    pub fastest: Speed,
    /// What it rings.
    pub bell: Bell,
}

struct Port {
    /// Its name: the way to it.
    path: String,
    speeds: &'static [Speed],
    owner: Weak<dyn PortOwner>,
    index: usize,
}

#[derive(Default)]
struct Ports {
    free: Vec<Port>,
    used: Vec<(Port, Arc<UsbDevice>)>,
}

/// A bus.
pub struct UsbBus {
    name: String,
    number: usize,
    /// How serial numbers name the controller: where it is on its own bus.
    controller: OnceLock<String>,
    /// Path in the object tree.
    path: OnceLock<String>,
    /// Answers the bells of the devices.
    attention: Attention,
    ports: Mutex<Ports>,
}

impl UsbBus {
    fn new(name: String, number: usize, attention: Attention) -> Arc<Self> {
        Arc::new(UsbBus {
            name,
            number,
            controller: OnceLock::new(),
            path: OnceLock::new(),
            attention,
            ports: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number among all buses.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its path in the object tree.
    pub fn path(&self) -> &str {
        self.path.get().map_or("", String::as_str)
    }

    /// Says which object the controller is. To be called once.
    pub fn set_owner(&self, path: &str) {
        self.path.get_or_init(|| format!("{path}/{}", self.name));
    }

    /// Says where the controller is. To be called once, before anything is attached.
    pub fn set_controller(&self, devfn: u8) {
        self.controller.get_or_init(|| format!("0000:00:{:02x}.{}", devfn >> 3, devfn & 7));
    }

    /// Adds root ports.
    pub fn add_ports<O: PortOwner + 'static>(
        &self,
        indices: Range<usize>,
        speeds: &'static [Speed],
        owner: &Weak<O>,
    ) {
        let port = |index: usize| {
            let owner: Weak<dyn PortOwner> = owner.clone();
            Port { path: (index + 1).to_string(), speeds, owner, index }
        };
        self.ports.lock().free.extend(indices.map(port));
    }

    /// Attaches a device, and before it a hub if only one port is left. Returns what was attached, in
    /// order.
    pub fn attach(&self, newcomer: Newcomer) -> Result<Vec<Arc<UsbDevice>>, UsbError> {
        let mut attached = Vec::new();
        let is_hub = newcomer.function.hub().is_some();
        if newcomer.port.is_none() && !is_hub && self.ports.lock().free.len() == 1 {
            let (hub, bell) = Hub::create(hub::PORTS);
            let newcomer = Newcomer {
                function: Box::new(hub),
                type_name: hub::TYPE,
                id: None,
                port: None,
                serial: None,
                serial_start: hub::SERIAL,
                fastest: Speed::Full,
                bell,
            };
            attached.push(self.attach_one(newcomer)?);
        }
        attached.push(self.attach_one(newcomer)?);
        Ok(attached)
    }

    fn take_port(&self, newcomer: &Newcomer) -> Result<Port, UsbError> {
        let mut ports = self.ports.lock();
        let at = match &newcomer.port {
            Some(port) => {
                ports.free.iter().position(|free| free.path == *port).ok_or_else(|| {
                    UsbError::NoPort { port: port.clone(), bus: self.name.clone() }
                })?
            }
            None if ports.free.is_empty() => {
                return Err(UsbError::Full(newcomer.type_name.into()));
            }
            None => 0,
        };
        Ok(ports.free.remove(at))
    }

    fn attach_one(&self, newcomer: Newcomer) -> Result<Arc<UsbDevice>, UsbError> {
        let port = self.take_port(&newcomer)?;
        let description = newcomer.function.description();
        let Some(speed) = description.best_speed(port.speeds, newcomer.fastest) else {
            let names = |speeds: &mut dyn Iterator<Item = Speed>| {
                speeds.map(Speed::name).collect::<Vec<_>>().join("+")
            };
            let error = UsbError::Speed {
                product: description.product_name(),
                device: names(&mut description.speeds.iter().map(|at| at.speed)),
                bus: self.name.clone(),
                port: port.path.clone(),
                at: names(&mut port.speeds.iter().copied()),
            };
            self.ports.lock().free.push(port);
            return Err(error);
        };
        let serial = newcomer.serial.unwrap_or_else(|| {
            let controller = self.controller.get().map_or("", String::as_str);
            format!("{}-{controller}-{}", newcomer.serial_start, port.path)
        });
        let ports = newcomer.function.hub().map(|hub| hub.as_owner());
        let device = UsbDevice::new(newcomer.function, newcomer.id, &port.path, speed, serial);
        newcomer.bell.connect(&self.attention);
        if let Some((count, owner)) = ports {
            let prefix = format!("{}.", port.path);
            let port = |index| Port {
                path: format!("{prefix}{}", index + 1),
                speeds: hub::SPEEDS,
                owner: owner.clone(),
                index,
            };
            self.ports.lock().free.extend((0..count).map(port));
        }
        let (owner, index) = (port.owner.upgrade(), port.index);
        self.ports.lock().used.push((port, device.clone()));
        if let Some(owner) = owner {
            owner.attached(index, &device);
        }
        Ok(device)
    }

    /// Takes a device away, and first everything behind it. Returns what has gone, in order.
    pub fn detach(&self, device: &Arc<UsbDevice>) -> Vec<Arc<UsbDevice>> {
        let prefix = format!("{}.", device.port);
        let behind: Vec<_> =
            self.devices().into_iter().filter(|other| other.port.starts_with(&prefix)).collect();
        let mut gone = Vec::new();
        // Those that are farthest away first.
        for device in behind.iter().rev().chain([device]) {
            let mut ports = self.ports.lock();
            let Some(at) = ports.used.iter().position(|(_, used)| Arc::ptr_eq(used, device)) else {
                continue;
            };
            let (port, device) = ports.used.remove(at);
            let prefix = format!("{}.", port.path);
            ports.free.retain(|free| !free.path.starts_with(&prefix));
            let (owner, index) = (port.owner.upgrade(), port.index);
            ports.free.push(port);
            drop(ports);
            device.detach();
            if let Some(owner) = owner {
                owner.detached(index);
            }
            gone.push(device);
        }
        gone
    }

    /// All devices, in the order in which they were attached.
    pub fn devices(&self) -> Vec<Arc<UsbDevice>> {
        self.ports.lock().used.iter().map(|(_, device)| device.clone()).collect()
    }

    /// The device at a port.
    pub fn at_port(&self, path: &str) -> Option<Arc<UsbDevice>> {
        let ports = self.ports.lock();
        ports.used.iter().find(|(port, _)| port.path == path).map(|(_, device)| device.clone())
    }

    /// All devices for people: `info usb`.
    pub fn report(&self) -> String {
        let line = |device: &Arc<UsbDevice>| {
            let id = device.id.as_ref().map(|id| format!(", ID: {id}")).unwrap_or_default();
            format!(
                "  Device {}.{}, Port {}, Speed {} Mb/s, Product {}{id}\n",
                self.number,
                device.address(),
                device.port,
                device.speed.megabits(),
                device.description.product_name(),
            )
        };
        self.devices().iter().map(line).collect()
    }
}

/// All buses of a machine.
#[derive(Default)]
pub struct UsbBuses {
    buses: Mutex<Vec<Arc<UsbBus>>>,
    unnamed: AtomicUsize,
    all: AtomicUsize,
}

impl UsbBuses {
    /// Adds the bus of a controller of this id.
    pub fn add(&self, id: Option<&str>, attention: &Attention) -> Arc<UsbBus> {
        let name = match id {
            Some(id) => format!("{id}.0"),
            None => format!("usb-bus.{}", self.unnamed.fetch_add(1, Ordering::Relaxed)),
        };
        let number = self.all.fetch_add(1, Ordering::Relaxed);
        let bus = UsbBus::new(name, number, attention.clone());
        self.buses.lock().push(bus.clone());
        bus
    }

    /// Removes a bus whose controller has gone.
    pub fn remove(&self, bus: &Arc<UsbBus>) {
        self.buses.lock().retain(|known| !Arc::ptr_eq(known, bus));
    }

    /// The bus of this name.
    pub fn find(&self, name: &str) -> Option<Arc<UsbBus>> {
        self.buses.lock().iter().find(|bus| bus.name == name).cloned()
    }

    /// The bus for devices that name none: the one that came last.
    pub fn newest(&self) -> Option<Arc<UsbBus>> {
        self.buses.lock().last().cloned()
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<UsbBus>> {
        self.buses.lock().clone()
    }
}
