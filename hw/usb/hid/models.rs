//! What mouse, tablet and keyboard tell about themselves, as QEMU's do.

use super::Kind;
use crate::usb::descriptor::{
    AtSpeed, Configuration, Description, Endpoint, IN, INTERRUPT, Interface, REMOTE_WAKEUP,
};
use crate::usb::packet::Speed;

const VENDOR: u16 = 0x0627;
const PRODUCT: u16 = 0x0001;
/// Units of 2 mA.
const POWER: u8 = 50;

/// Human interface device; one that firmware can use; what it is then.
const HID: u8 = 3;
const BOOT: u8 = 1;
const BOOT_KEYBOARD: u8 = 1;
const BOOT_MOUSE: u8 = 2;

const STRINGS: &[&str] = &[
    "QEMU",
    "QEMU USB Mouse",
    "QEMU USB Tablet",
    "QEMU USB Keyboard",
    "42",
    "HID Mouse",
    "HID Tablet",
    "HID Keyboard",
];

/// A model: its texts (product, serial number, configuration), its interface, its endpoint's most
/// bytes, and how often it wants to be asked at high speed.
macro_rules! model {
    ($names:expr, $configuration:literal, $interface:expr, $hid:expr, $max:literal, $high:literal) => {
        Description {
            vendor: VENDOR,
            product: PRODUCT,
            class: (0, 0, 0),
            release: 0,
            strings: STRINGS,
            names: $names,
            speeds: &[
                model!(Speed::Full, 8, 10, $configuration, $interface, $hid, $max),
                model!(Speed::High, 64, $high, $configuration, $interface, $hid, $max),
            ],
        }
    };
    (
        $speed:expr, $max_0:literal, $interval:literal, $configuration:literal, $interface:expr,
        $hid:expr, $max:literal
    ) => {
        AtSpeed {
            speed: $speed,
            version: 0x0200,
            max_packet_0: $max_0,
            configuration: Configuration {
                name: $configuration,
                attributes: REMOTE_WAKEUP,
                power: POWER,
                interface: Interface {
                    class: $interface,
                    name: 0,
                    class_descriptor: $hid,
                    endpoints: &[Endpoint {
                        address: 1 | IN,
                        attributes: INTERRUPT,
                        max_packet: $max,
                        interval: $interval,
                    }],
                },
            },
        }
    };
}

/// The descriptor of the class (HID 1.11, 6.2.1): version, one descriptor of reports of this length.
const fn class_descriptor(version: u16, reports: &[u8]) -> [u8; 9] {
    let [low, high] = version.to_le_bytes();
    [9, 0x21, low, high, 0, 1, 0x22, reports.len() as u8, 0]
}

static MOUSE: Description =
    model!((1, 2, 9), 6, (HID, BOOT, BOOT_MOUSE), &class_descriptor(0x0001, MOUSE_REPORTS), 4, 7);
static TABLET: Description =
    model!((1, 3, 10), 7, (HID, 0, 0), &class_descriptor(0x0001, TABLET_REPORTS), 8, 4);
static KEYBOARD: Description = model!(
    (1, 4, 11),
    8,
    (HID, BOOT, BOOT_KEYBOARD),
    &class_descriptor(0x0111, KEYBOARD_REPORTS),
    8,
    7
);

impl Kind {
    /// What a device of this kind tells about itself.
    pub fn description(self) -> &'static Description {
        match self {
            Kind::Mouse => &MOUSE,
            Kind::Tablet => &TABLET,
            Kind::Keyboard => &KEYBOARD,
        }
    }

    /// What its reports mean (HID 1.11, 6.2.2).
    pub fn reports(self) -> &'static [u8] {
        match self {
            Kind::Mouse => MOUSE_REPORTS,
            Kind::Tablet => TABLET_REPORTS,
            Kind::Keyboard => KEYBOARD_REPORTS,
        }
    }

    /// What serial numbers begin with.
    pub fn serial(self) -> &'static str {
        match self {
            Kind::Mouse => "89126",
            Kind::Tablet => "28754",
            Kind::Keyboard => "68284",
        }
    }
}

#[rustfmt::skip]
const MOUSE_REPORTS: &[u8] = &[
    0x05, 0x01,       // usage page: generic desktop
    0x09, 0x02,       // usage: mouse
    0xa1, 0x01,       // collection: application
    0x09, 0x01,       //   usage: pointer
    0xa1, 0x00,       //   collection: physical
    0x05, 0x09,       //     usage page: buttons
    0x19, 0x01, 0x29, 0x05, //     1 to 5
    0x15, 0x00, 0x25, 0x01, //     of 0 to 1
    0x95, 0x05, 0x75, 0x01, //     5 of 1 bit
    0x81, 0x02,       //     input: variable, absolute
    0x95, 0x01, 0x75, 0x03, //     3 bits
    0x81, 0x01,       //     input: nothing
    0x05, 0x01,       //     usage page: generic desktop
    0x09, 0x30, 0x09, 0x31, 0x09, 0x38, // X, Y, wheel
    0x15, 0x81, 0x25, 0x7f, //     of -127 to 127
    0x75, 0x08, 0x95, 0x03, //     3 of 8 bits
    0x81, 0x06,       //     input: variable, relative
    0xc0, 0xc0,
];

#[rustfmt::skip]
const TABLET_REPORTS: &[u8] = &[
    0x05, 0x01,       // usage page: generic desktop
    0x09, 0x02,       // usage: mouse
    0xa1, 0x01,       // collection: application
    0x09, 0x01,       //   usage: pointer
    0xa1, 0x00,       //   collection: physical
    0x05, 0x09,       //     usage page: buttons
    0x19, 0x01, 0x29, 0x03, //     1 to 3
    0x15, 0x00, 0x25, 0x01, //     of 0 to 1
    0x95, 0x03, 0x75, 0x01, //     3 of 1 bit
    0x81, 0x02,       //     input: variable, absolute
    0x95, 0x01, 0x75, 0x05, //     5 bits
    0x81, 0x01,       //     input: nothing
    0x05, 0x01,       //     usage page: generic desktop
    0x09, 0x30, 0x09, 0x31, //     X, Y
    0x15, 0x00, 0x26, 0xff, 0x7f, // of 0 to 7fffh
    0x35, 0x00, 0x46, 0xff, 0x7f, // wherever that is
    0x75, 0x10, 0x95, 0x02, //     2 of 16 bits
    0x81, 0x02,       //     input: variable, absolute
    0x05, 0x01,       //     usage page: generic desktop
    0x09, 0x38,       //     wheel
    0x15, 0x81, 0x25, 0x7f, //     of -127 to 127
    0x35, 0x00, 0x45, 0x00,
    0x75, 0x08, 0x95, 0x01, //     1 of 8 bits
    0x81, 0x06,       //     input: variable, relative
    0xc0, 0xc0,
];

#[rustfmt::skip]
const KEYBOARD_REPORTS: &[u8] = &[
    0x05, 0x01,       // usage page: generic desktop
    0x09, 0x06,       // usage: keyboard
    0xa1, 0x01,       // collection: application
    0x75, 0x01, 0x95, 0x08, //   8 of 1 bit
    0x05, 0x07,       //   usage page: keys
    0x19, 0xe0, 0x29, 0xe7, //   modifiers
    0x15, 0x00, 0x25, 0x01, //   of 0 to 1
    0x81, 0x02,       //   input: variable, absolute
    0x95, 0x01, 0x75, 0x08, //   8 bits
    0x81, 0x01,       //   input: nothing
    0x95, 0x05, 0x75, 0x01, //   5 of 1 bit
    0x05, 0x08,       //   usage page: lights
    0x19, 0x01, 0x29, 0x05, //   Num Lock to Kana
    0x91, 0x02,       //   output: variable, absolute
    0x95, 0x01, 0x75, 0x03, //   3 bits
    0x91, 0x01,       //   output: nothing
    0x95, 0x06, 0x75, 0x08, //   6 of 8 bits
    0x15, 0x00, 0x25, 0xff, //   of 0 to 255
    0x05, 0x07,       //   usage page: keys
    0x19, 0x00, 0x29, 0xff,
    0x81, 0x00,       //   input: array
    0xc0,
];
