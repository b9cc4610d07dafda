//! Typed properties: what can be set on a device, declared once.
//!
//! A device keeps its properties in a struct of their own:
//!
//! ```
//! use base::props::{ChardevId, PropInput, Props};
//!
//! #[derive(Props)]
//! struct DebugconProps {
//!     #[prop(default = 0xe9)]
//!     iobase: u32,
//!     #[prop(default = 0xe9)]
//!     readback: u32,
//!     chardev: Option<ChardevId>,
//! }
//!
//! let mut props = DebugconProps::default();
//! props.set("isa-debugcon", "iobase", PropInput::Text("0x402"))?;
//! assert_eq!(props.iobase, 0x402);
//!
//! let error = props.set("isa-debugcon", "bar", PropInput::Text("1")).unwrap_err();
//! assert_eq!(error.to_string(), "Property 'isa-debugcon.bar' not found");
//! # Ok::<(), base::props::PropError>(())
//! ```
//!
//! Field attributes: `name = "x-y"` (otherwise the field's own name), `default = expr`
//! (otherwise the type's default), `help = "text"` (otherwise the type's own),
//! `hide_default` (the listing shows none), and `flatten` for a field that is itself a set of
//! properties. The derive also implements `Default`.
//!
//! From this declaration come `-device X,k=v`, the JSON form, `-device X,help`, `-global`,
//! `device-list-properties` and `qom-get`/`qom-set`. Error texts are QEMU 10.0's, since tools match
//! on them; the two ways in, text and JSON, differ there in wording and in what they accept.

mod backend;
mod help;
mod types;
mod value;

pub use backend::{ChardevId, DriveId, LinkId, NetdevId};
pub use base_derive::Props;
pub use help::help_text;
pub use serde_json::Value;
pub use types::{MacAddr, OnOffAuto, PciAddr, Size, Uuid, UuidOrAuto};
pub use value::{PropName, PropValue};

use crate::options::OptionError;

/// What a property is set from.
#[derive(Clone, Copy, Debug)]
pub enum PropInput<'a> {
    /// Text of the command line or of the human monitor.
    Text(&'a str),
    /// Text of `-global`: read like other text, but two of its faults are worded differently.
    Global(&'a str),
    /// A typed value, from a JSON argument or from QMP.
    Json(&'a Value),
}

/// The public face of one property.
#[derive(Clone, Debug, PartialEq)]
pub struct PropSpec {
    /// Its name.
    pub name: &'static str,
    /// Its type as listings show it (`uint32`, `bool`, `size`, `str`, ...).
    pub type_name: &'static str,
    /// Its default, if listings show one.
    pub default: Option<Value>,
    /// One line of help; may be empty.
    pub help: &'static str,
}

/// A set of properties. Derived, not written by hand.
pub trait Props {
    /// All properties, in order of declaration.
    fn specs() -> &'static [PropSpec]
    where
        Self: Sized;

    /// Sets `name` if there is such a property. `owner` is the type name of the device, for the
    /// error's text.
    fn try_set(
        &mut self,
        owner: &str,
        name: &str,
        input: PropInput<'_>,
    ) -> Option<Result<(), PropError>>;

    /// The present value of `name`, if there is such a property.
    fn get(&self, name: &str) -> Option<Value>;

    /// Sets `name`, or says that there is no such property.
    fn set(&mut self, owner: &str, name: &str, input: PropInput<'_>) -> Result<(), PropError> {
        self.try_set(owner, name, input).unwrap_or_else(|| Err(PropError::not_found(owner, name)))
    }
}

/// Converts one input to a property's type. The derived code calls this.
pub fn parse_prop<T: PropValue>(
    owner: &str,
    name: &str,
    input: PropInput<'_>,
) -> Result<T, PropError> {
    let prop = PropName { owner, name };
    match input {
        PropInput::Text(text) => T::from_text(text, &prop),
        PropInput::Global(text) => T::from_text(text, &prop).map_err(|error| match error {
            PropError::Expects { name, what: EXPECTS_INTEGER } => {
                let what = if T::TYPE.starts_with('u') { "uint64" } else { "int64" };
                PropError::Expects { name, what }
            }
            PropError::Expects { name, what: EXPECTS_SIZE } => {
                PropError::Option(OptionError::NotASize(name))
            }
            other => other,
        }),
        PropInput::Json(value) => T::from_json(value, &prop),
    }
}

/// What text for a number is expected to be.
const EXPECTS_INTEGER: &str = "integer";

/// What text for a size is expected to be.
const EXPECTS_SIZE: &str = "size";

/// Why a property could not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropError {
    /// There is no such property.
    #[error("Property '{owner}.{name}' not found")]
    NotFound {
        /// Type name of the device.
        owner: String,
        /// Name of the property.
        name: String,
    },
    /// The type is right, the value makes no sense.
    #[error("Property '{owner}.{name}' doesn't take value '{value}'")]
    BadValue {
        /// Type name of the device.
        owner: String,
        /// Name of the property.
        name: String,
        /// The value as it was given.
        value: String,
    },
    /// A number above the property's limit.
    #[error("Property {owner}.{name} doesn't take value {value} (maximum: {maximum})")]
    TooLarge {
        /// Type name of the device.
        owner: String,
        /// Name of the property.
        name: String,
        /// The value as it was given.
        value: u64,
        /// The largest value accepted.
        maximum: u64,
    },
    /// The named back end does not exist.
    #[error("Property '{owner}.{name}' can't find value '{value}'")]
    NoSuchBackend {
        /// Type name of the device.
        owner: String,
        /// Name of the property.
        name: String,
        /// The value as it was given.
        value: String,
    },
    /// Text (or a number) that does not read as the type.
    #[error("Parameter '{name}' expects {what}")]
    Expects {
        /// Name of the property.
        name: String,
        /// What was expected.
        what: &'static str,
    },
    /// A JSON value of another type.
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    WrongType {
        /// Name of the property.
        name: String,
        /// The type expected.
        expected: &'static str,
    },
    /// A JSON value that is neither of two possible types.
    #[error("Invalid parameter type for '{name}', expected int or str")]
    NeitherIntNorStr {
        /// Name of the property.
        name: String,
    },
    /// The property says how things are.
    #[error("Property '{owner}.{name}' is not writable")]
    ReadOnly {
        /// Type name of the device.
        owner: String,
        /// Name of the property.
        name: String,
    },
    /// Not a member of the enumeration.
    #[error("Parameter '{name}' does not accept value '{value}'")]
    NotAccepted {
        /// Name of the property.
        name: String,
        /// The value as it was given.
        value: String,
    },
    /// A fault in the words of the option grammar.
    #[error(transparent)]
    Option(OptionError),
}

impl PropError {
    /// "Property 'e1000.bar' not found"
    pub fn not_found(owner: &str, name: &str) -> Self {
        PropError::NotFound { owner: owner.into(), name: name.into() }
    }

    /// "Property 'e1000.netdev' can't find value 'foo'", for whoever resolves back ends.
    pub fn no_such_backend(owner: &str, name: &str, value: &str) -> Self {
        PropError::NoSuchBackend { owner: owner.into(), name: name.into(), value: value.into() }
    }
}

#[cfg(test)]
mod tests;
