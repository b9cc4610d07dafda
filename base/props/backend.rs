//! Properties that name something the host provides.
//!
//! They hold the name only; whoever realizes the device looks it up and answers a miss with
//! [`PropError::no_such_backend`].

use super::value::json_str;
use super::{PropError, PropName, PropValue, Value};

macro_rules! backend_id {
    ($($(#[$doc:meta])* $name:ident, $type_name:literal, $help:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub String);

        impl PropValue for $name {
            const TYPE: &'static str = $type_name;
            const HELP: &'static str = $help;

            fn from_text(text: &str, _: &PropName<'_>) -> Result<Self, PropError> {
                Ok(Self(text.into()))
            }

            fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
                json_str(value, prop).map(|text| Self(text.into()))
            }

            fn to_json(&self) -> Value {
                self.0.as_str().into()
            }

            fn shown_default(&self) -> Option<Value> {
                None
            }
        }
    )*};
}

backend_id! {
    /// A character device.
    ChardevId, "str", "ID of a chardev to use as a backend";
    /// A network back end.
    NetdevId, "str", "ID of a netdev to use as a backend";
    /// A drive or block node.
    DriveId, "str", "Node name or ID of a block device to use as a backend";
    /// A memory back end, I/O thread or other object.
    LinkId, "link", "";
}
