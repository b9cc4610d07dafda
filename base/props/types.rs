//! Property types of the PC world: sizes, PCI addresses, MAC addresses, UUIDs, on/off/auto.

use std::fmt;

use super::value::{json_str, json_u64};
use super::{EXPECTS_SIZE, PropError, PropName, PropValue, Value};
use crate::options::number::parse_size;

/// Declares an enumeration that a property can have as its type: QEMU's name for it, the help of its
/// properties, and the text of each member. The first member is the default.
#[macro_export]
macro_rules! prop_enum {
    ($(#[$doc:meta])* $vis:vis enum $name:ident: $type_name:literal, $help:literal {
        $($(#[$member_doc:meta])* $member:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$member_doc])* $member),+
        }

        impl $name {
            /// All members.
            $vis const ALL: &'static [$name] = &[$($name::$member),+];

            /// The member's text.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $($name::$member => $text),+
                }
            }
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl $crate::props::PropValue for $name {
            const TYPE: &'static str = $type_name;
            const HELP: &'static str = $help;

            fn from_text(
                text: &str,
                prop: &$crate::props::PropName<'_>,
            ) -> ::core::result::Result<Self, $crate::props::PropError> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|member| member.as_str() == text)
                    .ok_or_else(|| prop.not_accepted(text))
            }

            fn from_json(
                value: &$crate::props::Value,
                prop: &$crate::props::PropName<'_>,
            ) -> ::core::result::Result<Self, $crate::props::PropError> {
                match value.as_str() {
                    Some(text) => <Self as $crate::props::PropValue>::from_text(text, prop),
                    None => Err(prop.wrong_type("string")),
                }
            }

            fn to_json(&self) -> $crate::props::Value {
                self.as_str().into()
            }
        }
    };
}

prop_enum! {
    /// A switch that the device may decide for itself.
    pub enum OnOffAuto: "OnOffAuto", "on/off/auto" {
        /// The device decides.
        Auto = "auto",
        /// On.
        On = "on",
        /// Off.
        Off = "off",
    }
}

impl OnOffAuto {
    /// The switch, with `auto` decided.
    pub fn resolve(self, auto: bool) -> bool {
        match self {
            OnOffAuto::On => true,
            OnOffAuto::Off => false,
            OnOffAuto::Auto => auto,
        }
    }
}

/// A number of bytes; text may carry a suffix (`4k`, `1.5G`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Size(bytes)
    }
}

impl PropValue for Size {
    const TYPE: &'static str = "size";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        parse_size(text, 1).map(Size).map_err(|_| prop.expects(EXPECTS_SIZE))
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        json_u64(value, prop).map(Size)
    }

    fn to_json(&self) -> Value {
        self.0.into()
    }
}

/// Slot and function of a PCI device, or unset: the bus picks a free slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PciAddr(Option<u8>);

impl PciAddr {
    /// A fixed address; `slot` is 0..32, `function` 0..8.
    pub const fn new(slot: u8, function: u8) -> Self {
        PciAddr(Some((slot & 0x1f) << 3 | (function & 7)))
    }

    /// Slot in bits 7..3 and function in bits 2..0, unless the bus is to pick.
    pub fn devfn(self) -> Option<u8> {
        self.0
    }
}

impl PropValue for PciAddr {
    const TYPE: &'static str = "str";
    const HELP: &'static str = "Slot and optional function number, example: 06.0 or 06";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        let hex = |text: &str, limit: u8| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(digits, 16).ok().filter(|&number| plain && number < limit)
        };
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        match (hex(slot, 32), hex(function, 8)) {
            (Some(slot), Some(function)) => Ok(PciAddr::new(slot, function)),
            _ => Err(prop.bad_value(text)),
        }
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        match value {
            Value::String(text) => Self::from_text(text, prop),
            Value::Number(number) => {
                let devfn = number.as_i64().ok_or_else(|| prop.wrong_type("integer"))?;
                if devfn == -1 {
                    return Ok(PciAddr(None));
                }
                u8::try_from(devfn)
                    .map(|devfn| PciAddr(Some(devfn)))
                    .map_err(|_| prop.expects("a value between -1 and 255"))
            }
            _ => Err(PropError::NeitherIntNorStr { name: prop.name.into() }),
        }
    }

    fn to_json(&self) -> Value {
        match self.0 {
            Some(devfn) => format!("{:02x}.{:x}", devfn >> 3, devfn & 7).into(),
            None => (-1).into(),
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl PropValue for MacAddr {
    const TYPE: &'static str = "str";
    const HELP: &'static str = "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        parse_mac(text).map(MacAddr).ok_or_else(|| prop.bad_value(text))
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        Self::from_text(json_str(value, prop)?, prop)
    }

    fn to_json(&self) -> Value {
        self.to_string().into()
    }

    fn shown_default(&self) -> Option<Value> {
        None
    }
}

/// Six pairs of hexadecimal digits between colons or dashes.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.as_bytes();
    if bytes.len() != 17 || !(2..17).step_by(3).all(|at| matches!(bytes[at], b':' | b'-')) {
        return None;
    }
    let mut mac = [0; 6];
    for (byte, pair) in mac.iter_mut().zip(bytes.chunks(3)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(mac)
}

fn hex_digit(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// A UUID, its bytes in the order of the text (RFC 4122).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads `8-4-4-4-12` hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|&at| bytes[at] != b'-') {
            return None;
        }
        let mut digits = bytes.iter().filter(|&&b| b != b'-');
        let mut uuid = [0; 16];
        for byte in &mut uuid {
            *byte = hex_digit(*digits.next()?)? << 4 | hex_digit(*digits.next()?)?;
        }
        // More dashes than the four would have left digits over or short.
        digits.next().is_none().then_some(Uuid(uuid))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl PropValue for Uuid {
    const TYPE: &'static str = "str";
    const HELP: &'static str = "UUID (aka GUID)";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        Uuid::parse(text).ok_or_else(|| prop.bad_value(text))
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        Self::from_text(json_str(value, prop)?, prop)
    }

    fn to_json(&self) -> Value {
        self.to_string().into()
    }
}

/// A UUID, or `auto`: the device makes one up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UuidOrAuto {
    /// To be made up.
    #[default]
    Auto,
    /// Given.
    Given(Uuid),
}

impl PropValue for UuidOrAuto {
    const TYPE: &'static str = "str";
    const HELP: &'static str = "UUID (aka GUID) or \"auto\" for random value (default)";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        if text == "auto" { Ok(Self::Auto) } else { Uuid::from_text(text, prop).map(Self::Given) }
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        Self::from_text(json_str(value, prop)?, prop)
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Auto => "auto".into(),
            Self::Given(uuid) => uuid.to_json(),
        }
    }
}
