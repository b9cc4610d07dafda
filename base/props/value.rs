//! The types a property can have.

use super::{EXPECTS_INTEGER, PropError, Value};
use crate::options::number::parse_int;

/// The property that a value is being parsed for; error texts name it.
#[derive(Clone, Copy, Debug)]
pub struct PropName<'a> {
    /// Type name of the device.
    pub owner: &'a str,
    /// Name of the property.
    pub name: &'a str,
}

impl PropName<'_> {
    /// "Parameter 'rombar' expects integer"
    pub fn expects(&self, what: &'static str) -> PropError {
        PropError::Expects { name: self.name.into(), what }
    }

    /// "Invalid parameter type for 'rombar', expected: integer"
    pub fn wrong_type(&self, expected: &'static str) -> PropError {
        PropError::WrongType { name: self.name.into(), expected }
    }

    /// "Property 'e1000.addr' doesn't take value 'zz'"
    pub fn bad_value(&self, value: &str) -> PropError {
        PropError::BadValue {
            owner: self.owner.into(),
            name: self.name.into(),
            value: value.into(),
        }
    }

    /// "Property e1000.x-max-bounce-buffer-size doesn't take value 5368709120 (maximum: 4294967295)"
    pub fn too_large(&self, value: u64, maximum: u64) -> PropError {
        PropError::TooLarge { owner: self.owner.into(), name: self.name.into(), value, maximum }
    }

    /// "Property 'usb-tablet.attached' is not writable"
    pub fn read_only(&self) -> PropError {
        PropError::ReadOnly { owner: self.owner.into(), name: self.name.into() }
    }

    /// "Parameter 'rerror' does not accept value 'foo'"
    pub fn not_accepted(&self, value: &str) -> PropError {
        PropError::NotAccepted { name: self.name.into(), value: value.into() }
    }
}

/// A type that a property can have.
pub trait PropValue: Sized {
    /// Its name in listings.
    const TYPE: &'static str;
    /// What listings say about a property of this type that has no help of its own.
    const HELP: &'static str = "";

    /// Reads the text given on the command line.
    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError>;

    /// Reads a typed value.
    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError>;

    /// The value as QMP shows it.
    fn to_json(&self) -> Value;

    /// The value as listings show it as the default, if they do.
    fn shown_default(&self) -> Option<Value> {
        Some(self.to_json())
    }
}

/// A JSON string, or the error that QEMU gives for anything else.
pub(super) fn json_str<'a>(value: &'a Value, prop: &PropName<'_>) -> Result<&'a str, PropError> {
    value.as_str().ok_or_else(|| prop.wrong_type("string"))
}

impl PropValue for bool {
    const TYPE: &'static str = "bool";
    const HELP: &'static str = "on/off";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        match text {
            "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(prop.expects("'on' or 'off'")),
        }
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        value.as_bool().ok_or_else(|| prop.wrong_type("boolean"))
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

macro_rules! unsigned_prop {
    ($($ty:ty, $name:literal, $range:literal;)*) => {$(
        impl PropValue for $ty {
            const TYPE: &'static str = $name;

            fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
                let number = parse_int(text).ok_or_else(|| prop.expects(EXPECTS_INTEGER))?;
                unsigned_from(number, prop)?.try_into().map_err(|_| prop.expects($range))
            }

            fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
                json_u64(value, prop)?.try_into().map_err(|_| prop.expects($range))
            }

            fn to_json(&self) -> Value {
                (*self).into()
            }
        }
    )*};
}

unsigned_prop! {
    u8, "uint8", "uint8_t";
    u16, "uint16", "uint16_t";
    u32, "uint32", "uint32_t";
    u64, "uint64", "uint64_t";
}

/// QEMU lets `-1` stand for 2^64 - 1 where it reads an unsigned number.
fn unsigned_from(number: i128, prop: &PropName<'_>) -> Result<u64, PropError> {
    u64::try_from(number)
        .or_else(|_| i64::try_from(number).map(|negative| negative as u64))
        .map_err(|_| prop.expects(EXPECTS_INTEGER))
}

/// A JSON number as an unsigned property takes it.
pub(super) fn json_u64(value: &Value, prop: &PropName<'_>) -> Result<u64, PropError> {
    value
        .as_u64()
        .or_else(|| value.as_i64().map(|negative| negative as u64))
        .ok_or_else(|| prop.expects("uint64"))
}

macro_rules! signed_prop {
    ($($ty:ty, $name:literal, $range:literal;)*) => {$(
        impl PropValue for $ty {
            const TYPE: &'static str = $name;

            fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
                let number = parse_int(text)
                    .and_then(|number| i64::try_from(number).ok())
                    .ok_or_else(|| prop.expects(EXPECTS_INTEGER))?;
                number.try_into().map_err(|_| prop.expects($range))
            }

            fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
                let number = value.as_i64().ok_or_else(|| prop.wrong_type("integer"))?;
                number.try_into().map_err(|_| prop.expects($range))
            }

            fn to_json(&self) -> Value {
                (*self).into()
            }
        }
    )*};
}

signed_prop! {
    i32, "int32", "int32_t";
    i64, "int64", "int64_t";
}

impl PropValue for String {
    const TYPE: &'static str = "str";

    fn from_text(text: &str, _: &PropName<'_>) -> Result<Self, PropError> {
        Ok(text.into())
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        json_str(value, prop).map(Into::into)
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }

    fn shown_default(&self) -> Option<Value> {
        None
    }
}

/// A property that may be left unset; there is no way to unset it again.
impl<T: PropValue> PropValue for Option<T> {
    const TYPE: &'static str = T::TYPE;
    const HELP: &'static str = T::HELP;

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        T::from_text(text, prop).map(Some)
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        T::from_json(value, prop).map(Some)
    }

    /// QMP shows an unset string as an empty one.
    fn to_json(&self) -> Value {
        match self {
            Some(value) => value.to_json(),
            None if T::TYPE == String::TYPE => "".into(),
            None => Value::Null,
        }
    }

    fn shown_default(&self) -> Option<Value> {
        None
    }
}

/// A list, which only JSON can express.
impl<T: PropValue> PropValue for Vec<T> {
    const TYPE: &'static str = "list";

    fn from_text(_: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        Err(prop.wrong_type("array"))
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        let items = value.as_array().ok_or_else(|| prop.wrong_type("array"))?;
        let parse = |(index, item): (usize, &Value)| {
            let name = format!("{}[{index}]", prop.name);
            T::from_json(item, &PropName { owner: prop.owner, name: &name })
        };
        items.iter().enumerate().map(parse).collect()
    }

    fn to_json(&self) -> Value {
        self.iter().map(PropValue::to_json).collect()
    }
}
