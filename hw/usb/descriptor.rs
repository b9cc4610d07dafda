//! What devices tell about themselves (USB 2.0, 9.6).

use super::packet::Speed;

/// Types of descriptors.
pub mod kind {
    #![allow(missing_docs)]
    pub const DEVICE: u8 = 1;
    pub const CONFIGURATION: u8 = 2;
    pub const STRING: u8 = 3;
    pub const INTERFACE: u8 = 4;
    pub const ENDPOINT: u8 = 5;
    pub const QUALIFIER: u8 = 6;
    pub const OTHER_SPEED: u8 = 7;
    pub const BINARY_STORE: u8 = 15;
    pub const CAPABILITY: u8 = 16;
}

/// Direction of an endpoint's address: towards the host.
pub const IN: u8 = 0x80;
/// Attributes of an interrupt endpoint.
pub const INTERRUPT: u8 = 3;

/// Of a configuration's attributes.
const ALWAYS: u8 = 0x80;
/// The device has power of its own.
pub const SELF_POWERED: u8 = 0x40;
/// The device can wake the host up.
pub const REMOTE_WAKEUP: u8 = 0x20;

/// The one language that strings are in: English as used in the United States.
const LANGUAGE: u16 = 0x0409;

/// A device, at any speed that it can talk.
pub struct Description {
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// Class, subclass and protocol of the whole device.
    pub class: (u8, u8, u8),
    /// Its release.
    pub release: u16,
    /// Texts, the first of which is number 1.
    pub strings: &'static [&'static str],
    /// Which of the texts are the manufacturer, the product and the serial number.
    pub names: (u8, u8, u8),
    /// What it is at its speeds.
    pub speeds: &'static [AtSpeed],
}

/// A device at one speed.
pub struct AtSpeed {
    /// The speed.
    pub speed: Speed,
    /// Version of the standard.
    pub version: u16,
    /// Most bytes of a packet at endpoint 0, as the descriptor has it.
    pub max_packet_0: u8,
    /// Its only configuration.
    pub configuration: Configuration,
}

/// What a device does once it is configured.
pub struct Configuration {
    /// Its text.
    pub name: u8,
    /// [`SELF_POWERED`], [`REMOTE_WAKEUP`].
    pub attributes: u8,
    /// Power it takes, in units of 2 mA.
    pub power: u8,
    /// Its only interface.
    pub interface: Interface,
}

/// A function of a device.
pub struct Interface {
    /// Class, subclass and protocol.
    pub class: (u8, u8, u8),
    /// Its text.
    pub name: u8,
    /// Descriptors of its class.
    pub class_descriptor: &'static [u8],
    /// Its endpoints.
    pub endpoints: &'static [Endpoint],
}

/// An endpoint.
pub struct Endpoint {
    /// Its number, with [`IN`].
    pub address: u8,
    /// How it transfers.
    pub attributes: u8,
    /// Most bytes of a packet.
    pub max_packet: u16,
    /// How often it wants to be asked.
    pub interval: u8,
}

impl Description {
    /// The device at a speed.
    pub fn at(&self, speed: Speed) -> Option<&AtSpeed> {
        self.speeds.iter().find(|at| at.speed == speed)
    }

    /// The best speed that it shares with a port.
    pub fn best_speed(&self, port: &[Speed], limit: Speed) -> Option<Speed> {
        let speeds = self.speeds.iter().map(|at| at.speed);
        speeds.filter(|speed| *speed <= limit && port.contains(speed)).max()
    }

    /// The product's name.
    pub fn product_name(&self) -> &'static str {
        self.string(self.names.1).unwrap_or_default()
    }

    fn string(&self, index: u8) -> Option<&'static str> {
        self.strings.get(usize::from(index).checked_sub(1)?).copied()
    }

    /// A descriptor of a device that talks at `speed` and has this serial number.
    pub fn descriptor(&self, kind: u8, index: u8, speed: Speed, serial: &str) -> Option<Vec<u8>> {
        let now = self.at(speed)?;
        let other = match speed {
            Speed::Full => self.at(Speed::High),
            Speed::High => self.at(Speed::Full),
            _ => None,
        };
        match (kind, index) {
            (kind::DEVICE, 0) => Some(self.device(now)),
            (kind::CONFIGURATION, 0) => Some(now.configuration(kind::CONFIGURATION)),
            (kind::QUALIFIER, 0) => Some(self.qualifier(other?)),
            (kind::OTHER_SPEED, 0) => Some(other?.configuration(kind::OTHER_SPEED)),
            (kind::BINARY_STORE, 0) if now.version > 0x0200 => Some(self.binary_store()),
            (kind::STRING, 0) => Some(text([LANGUAGE])),
            (kind::STRING, index) if index == self.names.2 => Some(text(serial.encode_utf16())),
            (kind::STRING, index) => Some(text(self.string(index)?.encode_utf16())),
            _ => None,
        }
    }

    fn device(&self, now: &AtSpeed) -> Vec<u8> {
        let [version, vendor, product, release] =
            [now.version, self.vendor, self.product, self.release].map(u16::to_le_bytes);
        let (class, subclass, protocol) = self.class;
        let (manufacturer_name, product_name, serial_name) = self.names;
        let mut bytes = vec![18, kind::DEVICE];
        bytes.extend(version);
        bytes.extend([class, subclass, protocol, now.max_packet_0]);
        bytes.extend([vendor, product, release].concat());
        bytes.extend([manufacturer_name, product_name, serial_name, 1]);
        bytes
    }

    /// The device at its other speed.
    fn qualifier(&self, other: &AtSpeed) -> Vec<u8> {
        let (class, subclass, protocol) = self.class;
        let mut bytes = vec![10, kind::QUALIFIER];
        bytes.extend(other.version.to_le_bytes());
        bytes.extend([class, subclass, protocol, other.max_packet_0, 1, 0]);
        bytes
    }

    /// Capabilities (USB 3.2, 9.6.2): that of devices that know link power management, and at which
    /// speeds the device works.
    fn binary_store(&self) -> Vec<u8> {
        let speeds = self.speeds.iter().fold(0u16, |bits, at| bits | 1 << at.speed as u16);
        let lowest = self.speeds.iter().map(|at| at.speed as u8).min().unwrap_or(0);
        let extension = [7, kind::CAPABILITY, 2, 0, 0, 0, 0];
        let [low, high] = speeds.to_le_bytes();
        let super_speed = [10, kind::CAPABILITY, 3, 0, low, high, lowest, 10, 0, 0];
        let total = 5 + extension.len() + super_speed.len();
        let mut bytes = vec![5, kind::BINARY_STORE, total as u8, 0, 2];
        bytes.extend(extension);
        bytes.extend(super_speed);
        bytes
    }
}

impl AtSpeed {
    fn configuration(&self, kind: u8) -> Vec<u8> {
        let Configuration { name, attributes, power, interface } = &self.configuration;
        let (class, subclass, protocol) = interface.class;
        let mut rest = vec![9, kind::INTERFACE, 0, 0, interface.endpoints.len() as u8];
        rest.extend([class, subclass, protocol, interface.name]);
        rest.extend(interface.class_descriptor);
        for endpoint in interface.endpoints {
            rest.extend([7, kind::ENDPOINT, endpoint.address, endpoint.attributes]);
            rest.extend(endpoint.max_packet.to_le_bytes());
            rest.push(endpoint.interval);
            if self.speed == Speed::Super {
                // One packet at a time, which an interval transfers.
                rest.extend([6, 48, 0, 0]);
                rest.extend(endpoint.max_packet.to_le_bytes());
            }
        }
        let [low, high] = (9 + rest.len() as u16).to_le_bytes();
        let head = [9, kind, low, high, 1, 1, *name, ALWAYS | attributes, *power];
        [head.as_slice(), &rest].concat()
    }
}

/// A string descriptor; it has room for 126 characters.
fn text(characters: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = vec![0, kind::STRING];
    bytes.extend(characters.into_iter().take(126).flat_map(u16::to_le_bytes));
    bytes[0] = bytes.len() as u8;
    bytes
}
