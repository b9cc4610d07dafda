//! The types of QMP. A type is declared once; how it is read, how it is written, and what
//! `query-qmp-schema` says of it follow from that.

use serde_json::{Map, Value};

/// The class of an error, on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ErrorClass {
    GenericError,
    CommandNotFound,
    DeviceNotActive,
    DeviceNotFound,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{description}")]
pub struct QmpError {
    /// What programs look at.
    pub class: ErrorClass,
    /// What people read.
    pub description: String,
}

impl QmpError {
    /// An error without a class of its own.
    pub fn new(description: impl Into<String>) -> Self {
        QmpError { class: ErrorClass::GenericError, description: description.into() }
    }

    /// An error of a class.
    pub fn of(class: ErrorClass, description: impl Into<String>) -> Self {
        QmpError { class, description: description.into() }
    }

    /// A word that is none of an enumeration's. Unlike other messages, QEMU's names the member alone
    /// and not the way to it; elements of lists have no name.
    pub fn not_accepted(name: &str, text: &str) -> Self {
        let member = match name.rsplit('.').next() {
            Some(member) if !member.ends_with(']') => member,
            _ => "null",
        };
        Self::new(format!("Parameter '{member}' does not accept value '{text}'"))
    }

    pub(crate) fn wrong_type(name: &str, expected: &str) -> Self {
        Self::new(format!("Invalid parameter type for '{name}', expected: {expected}"))
    }
}

/// What the schema says of a type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A type of the protocol's own: its name, and how JSON calls it.
    Builtin(&'static str, &'static str),
    /// One of some words.
    Enum {
        /// The type's name; it only serves to tell types apart.
        name: &'static str,
        /// The words.
        values: Vec<&'static str>,
    },
    /// Members by name.
    Object {
        /// The type's name.
        name: &'static str,
        /// The members.
        members: Vec<Member>,
    },
    /// Members by name, and more that depend on one of them.
    Union {
        /// The type's name.
        name: &'static str,
        /// The members that are always there.
        members: Vec<Member>,
        /// The one on which the others depend.
        tag: &'static str,
        /// The type of the others for each of its words.
        variants: Vec<(&'static str, Type)>,
    },
    /// Any of several types.
    Alternate {
        /// The type's name.
        name: &'static str,
        /// The types.
        members: Vec<Type>,
    },
    /// A type that this one is a part of.
    Known(&'static str),
    /// A list.
    Array(Box<Type>),
}

/// A member of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub ty: Type,
    /// Whether it may be left out.
    pub optional: bool,
}

/// A type that goes over the wire.
pub trait Qapi: Sized {
    /// Whether a member of this type may be left out.
    const OPTIONAL: bool = false;

    /// What the schema says.
    fn ty() -> Type;

    /// Reads a value; `name` is what messages call it.
    fn read(value: Value, name: &str) -> Result<Self, QmpError>;

    /// The value for a member that was left out, if it may be.
    fn absent() -> Option<Self> {
        None
    }

    /// The value to send; `None` to leave the member out.
    fn write(self) -> Option<Value>;
}

impl<T: Qapi> Qapi for Option<T> {
    const OPTIONAL: bool = true;

    fn ty() -> Type {
        T::ty()
    }
    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        T::read(value, name).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn write(self) -> Option<Value> {
        self.and_then(T::write)
    }
}

impl<T: Qapi> Qapi for Vec<T> {
    fn ty() -> Type {
        Type::Array(Box::new(T::ty()))
    }
    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let Value::Array(items) = value else { return Err(QmpError::wrong_type(name, "array")) };
        let item = |(n, item)| T::read(item, &format!("{name}[{n}]"));
        items.into_iter().enumerate().map(item).collect()
    }
    fn write(self) -> Option<Value> {
        Some(self.into_iter().filter_map(T::write).collect())
    }
}

macro_rules! builtin {
    ($type:ty, $name:literal, $json:literal, $expected:literal, $read:expr) => {
        impl Qapi for $type {
            fn ty() -> Type {
                Type::Builtin($name, $json)
            }
            fn read(value: Value, name: &str) -> Result<Self, QmpError> {
                let read: fn(&Value) -> Option<$type> = $read;
                read(&value).ok_or_else(|| QmpError::wrong_type(name, $expected))
            }
            fn write(self) -> Option<Value> {
                Some(self.into())
            }
        }
    };
}

builtin!(String, "str", "string", "string", |value| value.as_str().map(str::to_owned));
builtin!(i64, "int", "int", "integer", Value::as_i64);
builtin!(u64, "int", "int", "integer", Value::as_u64);
builtin!(bool, "bool", "boolean", "boolean", Value::as_bool);
builtin!(Value, "any", "value", "value", |value| Some(value.clone()));

/// The members of an object, taken one by one.
pub struct Members {
    map: Map<String, Value>,
    /// What names of members begin with in messages: nothing, or the object's name and a dot.
    prefix: String,
}

impl Members {
    /// The members of `value`, which messages call `name`; the arguments of a command have none.
    pub fn of(value: Value, name: &str) -> Result<Self, QmpError> {
        let Value::Object(map) = value else { return Err(QmpError::wrong_type(name, "object")) };
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        Ok(Members { map, prefix })
    }

    /// Takes everything that is left.
    pub fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Takes a member.
    pub fn take<T: Qapi>(&mut self, name: &str) -> Result<T, QmpError> {
        let full = format!("{}{name}", self.prefix);
        match self.map.remove(name) {
            Some(value) => T::read(value, &full),
            None => {
                T::absent().ok_or_else(|| QmpError::new(format!("Parameter '{full}' is missing")))
            }
        }
    }

    /// All that are expected have been taken.
    pub fn finish(self) -> Result<(), QmpError> {
        match self.map.keys().next() {
            Some(name) => {
                let prefix = self.prefix;
                Err(QmpError::new(format!("Parameter '{prefix}{name}' is unexpected")))
            }
            None => Ok(()),
        }
    }
}

/// Nothing: no arguments, or nothing to return.
impl Qapi for () {
    fn ty() -> Type {
        Type::Object { name: "q_empty", members: Vec::new() }
    }
    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        Members::of(value, name)?.finish()
    }
    fn write(self) -> Option<Value> {
        Some(Value::Object(Map::new()))
    }
}

/// Declares an object: each member's name on the wire, then as a field.
#[macro_export]
macro_rules! qapi_struct {
    ($(#[$doc:meta])* $vis:vis struct $name:ident {
        $($(#[$field_doc:meta])* $wire:literal $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[$field_doc])* pub $field: $type),*
        }

        impl $crate::qapi::Qapi for $name {
            fn ty() -> $crate::qapi::Type {
                let members = vec![$($crate::qapi::Member {
                    name: $wire,
                    ty: <$type as $crate::qapi::Qapi>::ty(),
                    optional: <$type as $crate::qapi::Qapi>::OPTIONAL,
                }),*];
                $crate::qapi::Type::Object { name: stringify!($name), members }
            }

            fn read(
                value: ::serde_json::Value,
                name: &str,
            ) -> ::core::result::Result<Self, $crate::qapi::QmpError> {
                let mut members = $crate::qapi::Members::of(value, name)?;
                let read = $name { $($field: members.take($wire)?),* };
                members.finish()?;
                Ok(read)
            }

            fn write(self) -> Option<::serde_json::Value> {
                let mut map = ::serde_json::Map::new();
                $(if let Some(value) = $crate::qapi::Qapi::write(self.$field) {
                    map.insert($wire.into(), value);
                })*
                Some(map.into())
            }
        }
    };
}

/// Makes an enumeration that exists elsewhere a type of the protocol: its members, and the function
/// that tells a member's word.
#[macro_export]
macro_rules! qapi_words {
    ($type:ty, $all:expr, $word:expr) => {
        impl $crate::qapi::Qapi for $type {
            fn ty() -> $crate::qapi::Type {
                let word: fn($type) -> &'static str = $word;
                let values = $all.iter().map(|&member| word(member)).collect();
                $crate::qapi::Type::Enum { name: stringify!($type), values }
            }

            fn read(
                value: ::serde_json::Value,
                name: &str,
            ) -> ::core::result::Result<Self, $crate::qapi::QmpError> {
                let text = <String as $crate::qapi::Qapi>::read(value, name)?;
                let word: fn($type) -> &'static str = $word;
                $all.iter()
                    .copied()
                    .find(|&member| word(member) == text)
                    .ok_or_else(|| $crate::qapi::QmpError::not_accepted(name, &text))
            }

            fn write(self) -> Option<::serde_json::Value> {
                let word: fn($type) -> &'static str = $word;
                Some(word(self).into())
            }
        }
    };
}

/// Declares an object `{type, data}` whose data depend on the type.
#[macro_export]
macro_rules! qapi_choice {
    ($(#[$doc:meta])* $vis:vis enum $name:ident {
        $($(#[$variant_doc:meta])* $word:literal $variant:ident($type:ty)),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        $vis enum $name {
            $($(#[$variant_doc])* $variant($type)),*
        }

        impl $crate::qapi::Qapi for $name {
            fn ty() -> $crate::qapi::Type {
                use $crate::qapi::{Member, Type};
                let words = Type::Enum {
                    name: concat!(stringify!($name), "Kind"),
                    values: vec![$($word),*],
                };
                let data = |ty: Type, name: &'static str| Type::Object {
                    name,
                    members: vec![Member { name: "data", ty, optional: false }],
                };
                Type::Union {
                    name: stringify!($name),
                    members: vec![Member { name: "type", ty: words, optional: false }],
                    tag: "type",
                    variants: vec![$((
                        $word,
                        data(
                            <$type as $crate::qapi::Qapi>::ty(),
                            concat!(stringify!($name), stringify!($variant), "Wrapper"),
                        ),
                    )),*],
                }
            }

            fn read(
                value: ::serde_json::Value,
                name: &str,
            ) -> ::core::result::Result<Self, $crate::qapi::QmpError> {
                let mut members = $crate::qapi::Members::of(value, name)?;
                let word: String = members.take("type")?;
                let read = match word.as_str() {
                    $($word => $name::$variant(members.take("data")?),)*
                    _ => return Err($crate::qapi::QmpError::not_accepted("type", &word)),
                };
                members.finish()?;
                Ok(read)
            }

            fn write(self) -> Option<::serde_json::Value> {
                let (word, data) = match self {
                    $($name::$variant(data) => ($word, $crate::qapi::Qapi::write(data))),*
                };
                Some(::serde_json::json!({"type": word, "data": data}))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    qapi_struct! {
        struct Inner { "deep-member" deep: i64 }
    }
    qapi_struct! {
        struct Outer {
            "text" text: String,
            "maybe" maybe: Option<bool>,
            "list" list: Option<Vec<Inner>>,
        }
    }

    qapi_choice! {
        enum Choice { "number" Number(Inner), "text" Text(Inner) }
    }

    #[test]
    fn a_choice_has_the_data_of_its_type() {
        let value = json!({"type": "text", "data": {"deep-member": 1}});
        let read = Choice::read(value.clone(), "").unwrap();
        assert_eq!(read, Choice::Text(Inner { deep: 1 }));
        assert_eq!(read.write(), Some(value));
        let refusal = |value| Choice::read(value, "backend").unwrap_err().description;
        assert_eq!(refusal(json!({"type": "text"})), "Parameter 'backend.data' is missing");
        assert_eq!(
            refusal(json!({"type": "nope", "data": {}})),
            "Parameter 'type' does not accept value 'nope'"
        );
    }

    fn refusal(value: Value) -> String {
        Outer::read(value, "").unwrap_err().description
    }

    #[test]
    fn values_go_both_ways() {
        let value = json!({"text": "a", "list": [{"deep-member": -4}]});
        let read = Outer::read(value.clone(), "").unwrap();
        assert_eq!(read.list, Some(vec![Inner { deep: -4 }]));
        assert_eq!(read.write(), Some(value));
    }

    #[test]
    fn refusals_name_the_place() {
        assert_eq!(refusal(json!({})), "Parameter 'text' is missing");
        assert_eq!(
            refusal(json!({"text": 1})),
            "Invalid parameter type for 'text', expected: string"
        );
        assert_eq!(refusal(json!({"text": "", "x": 1})), "Parameter 'x' is unexpected");
        assert_eq!(
            refusal(json!({"text": "", "list": [{"deep-member": 1}, {"deep-member": true}]})),
            "Invalid parameter type for 'list[1].deep-member', expected: integer"
        );
        assert_eq!(
            refusal(json!({"text": "", "list": [{}]})),
            "Parameter 'list[0].deep-member' is missing"
        );
        assert_eq!(
            refusal(json!({"text": "", "maybe": null})),
            "Invalid parameter type for 'maybe', expected: boolean"
        );
    }
}
