//! Properties of devices, and how these are made from them.

use base::input::Screen;
use base::props::{PropError, PropName, PropValue, Props, Value};

use super::bus::{Newcomer, UsbError};
use super::device::{Bell, Function};
use super::hid::{self, Kind};
use super::hub::{self, Hub};
use super::packet::Speed;
use crate::registry::Slots;

/// Whether a device is attached, which cannot be chosen.
#[derive(Debug, Default)]
pub struct Attached;

impl PropValue for Attached {
    const TYPE: &'static str = "bool";

    fn from_text(_: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        Err(prop.read_only())
    }

    fn from_json(_: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        Err(prop.read_only())
    }

    fn to_json(&self) -> Value {
        true.into()
    }

    fn shown_default(&self) -> Option<Value> {
        None
    }
}

/// What every device has.
#[derive(Debug, Props)]
pub struct UsbProps {
    /// Whether it is attached.
    pub attached: Attached,
    /// Drivers of Windows are told that the device may be suspended by itself; it never asks.
    #[prop(name = "msos-desc", default = true)]
    pub msos_desc: bool,
    /// A file for what goes over the wires.
    pub pcap: Option<String>,
    /// Its port.
    pub port: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

/// Properties of `usb-mouse`.
#[derive(Debug, Props)]
#[allow(missing_docs)]
pub struct MouseProps {
    #[prop(flatten)]
    pub usb: UsbProps,
    /// The release of USB that it is made for: 1 or 2.
    #[prop(default = 2)]
    pub usb_version: u32,
}

/// Properties of `usb-kbd`.
#[derive(Debug, Props)]
#[allow(missing_docs)]
pub struct KeyboardProps {
    #[prop(flatten)]
    pub mouse: MouseProps,
    /// The adapter whose viewers type on it.
    pub display: Option<String>,
}

/// Properties of `usb-tablet`.
#[derive(Debug, Props)]
#[allow(missing_docs)]
pub struct TabletProps {
    #[prop(flatten)]
    pub mouse: MouseProps,
    /// The adapter whose viewers point with it.
    pub display: Option<String>,
    /// Which of the adapter's heads.
    pub head: u32,
}

/// Properties of `usb-hub`.
#[derive(Debug, Props)]
#[allow(missing_docs)]
pub struct HubProps {
    #[prop(flatten)]
    pub usb: UsbProps,
    /// Power of each port can be switched.
    #[prop(name = "port-power")]
    pub port_power: bool,
    /// How many ports it has.
    #[prop(default = hub::PORTS as u32)]
    pub ports: u32,
}

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UsbDeviceError {
    /// There is no such release of USB.
    #[error("Invalid usb version {0} for usb hid device")]
    Version(u32),
    /// A hub has from one to eight ports.
    #[error("num_ports ({0}) out of range (1..{most})", most = hub::PORTS)]
    Ports(u32),
    /// Something that is not there yet.
    #[error("Property '{0}' is not available in this build")]
    Missing(&'static str),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] UsbError),
}

impl UsbProps {
    fn newcomer(
        &self,
        type_name: &'static str,
        id: Option<String>,
        function: Box<dyn Function>,
        bell: Bell,
    ) -> Result<Newcomer, UsbDeviceError> {
        if self.pcap.is_some() {
            return Err(UsbDeviceError::Missing("pcap"));
        }
        Ok(Newcomer {
            function,
            type_name,
            id,
            port: self.port.clone(),
            serial: self.serial.clone(),
            serial_start: "",
            fastest: Speed::Super,
            bell,
        })
    }
}

/// A mouse, a tablet or a keyboard.
pub fn hid(
    kind: Kind,
    type_name: &'static str,
    props: &MouseProps,
    screen: Option<(&str, u32)>,
    slots: &dyn Slots,
) -> Result<Newcomer, UsbDeviceError> {
    let fastest = match props.usb_version {
        1 => Speed::Full,
        2 => Speed::High,
        version => return Err(UsbDeviceError::Version(version)),
    };
    let bell = Bell::default();
    let screen = screen.map(|(device, head)| Screen { device: device.into(), head });
    let function = hid::create(kind, screen, slots.input(), slots.clocks(), &bell);
    let newcomer = props.usb.newcomer(type_name, slots.identity().id, function, bell)?;
    Ok(Newcomer { serial_start: kind.serial(), fastest, ..newcomer })
}

/// A hub.
pub fn hub(props: &HubProps, slots: &dyn Slots) -> Result<Newcomer, UsbDeviceError> {
    let count = props.ports as usize;
    if !(1..=hub::PORTS).contains(&count) {
        return Err(UsbDeviceError::Ports(props.ports));
    }
    if props.port_power {
        return Err(UsbDeviceError::Missing("port-power"));
    }
    let (hub, bell) = Hub::create(count);
    let newcomer = props.usb.newcomer(hub::TYPE, slots.identity().id, Box::new(hub), bell)?;
    Ok(Newcomer { serial_start: hub::SERIAL, ..newcomer })
}
