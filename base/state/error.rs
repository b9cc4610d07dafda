//! Why a saved state was refused.

use std::fmt;

/// Why a saved state was refused, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError {
    /// Names of the fields on the way to the fault, outermost first.
    path: Vec<String>,
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Truncated,
    TrailingBytes,
    WrongType { expected: &'static str, found: &'static str },
    UnknownType(u8),
    WrongLength { expected: usize, found: usize },
    OutOfRange,
    NotText,
    MissingField(String),
    UnknownField(String),
    DuplicateField(String),
    UnknownVariant(String),
    NewerVersion { found: u32, supported: u32 },
    TooDeep,
    Invalid(String),
}

impl StateError {
    /// The values are well-formed, but no device of this kind could be in this state.
    pub fn invalid(why: impl Into<String>) -> Self {
        Fault::Invalid(why.into()).into()
    }

    /// The same error, seen from one level further out.
    pub(super) fn at(mut self, name: &str) -> Self {
        self.path.insert(0, name.into());
        self
    }

    pub(super) fn truncated() -> Self {
        Fault::Truncated.into()
    }

    pub(super) fn trailing_bytes() -> Self {
        Fault::TrailingBytes.into()
    }

    pub(super) fn wrong_type(expected: &'static str, found: &'static str) -> Self {
        Fault::WrongType { expected, found }.into()
    }

    pub(super) fn unknown_type(tag: u8) -> Self {
        Fault::UnknownType(tag).into()
    }

    pub(super) fn wrong_length(expected: usize, found: usize) -> Self {
        Fault::WrongLength { expected, found }.into()
    }

    pub(super) fn out_of_range() -> Self {
        Fault::OutOfRange.into()
    }

    pub(super) fn not_text() -> Self {
        Fault::NotText.into()
    }

    pub(super) fn missing_field(name: &str) -> Self {
        Fault::MissingField(name.into()).into()
    }

    pub(super) fn unknown_field(name: &str) -> Self {
        Fault::UnknownField(name.into()).into()
    }

    pub(super) fn duplicate_field(name: &str) -> Self {
        Fault::DuplicateField(name.into()).into()
    }

    /// An enumeration has no such variant. The derived code calls this.
    pub fn unknown_variant(name: &str) -> Self {
        Fault::UnknownVariant(name.into()).into()
    }

    pub(super) fn newer_version(found: u32, supported: u32) -> Self {
        Fault::NewerVersion { found, supported }.into()
    }

    pub(super) fn too_deep() -> Self {
        Fault::TooDeep.into()
    }
}

impl From<Fault> for StateError {
    fn from(fault: Fault) -> Self {
        StateError { path: Vec::new(), fault }
    }
}

impl std::error::Error for StateError {}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path.join("."))?;
        }
        match &self.fault {
            Fault::Truncated => write!(f, "the saved state ends early"),
            Fault::TrailingBytes => write!(f, "the saved state goes on after its end"),
            Fault::WrongType { expected, found } => write!(f, "expected {expected}, found {found}"),
            Fault::UnknownType(tag) => write!(f, "unknown type {tag:#x}"),
            Fault::WrongLength { expected, found } => {
                write!(f, "expected {expected} elements, found {found}")
            }
            Fault::OutOfRange => write!(f, "the value is out of range"),
            Fault::NotText => write!(f, "the text is not UTF-8"),
            Fault::MissingField(name) => write!(f, "field '{name}' is missing"),
            Fault::UnknownField(name) => write!(f, "unknown field '{name}'"),
            Fault::DuplicateField(name) => write!(f, "field '{name}' occurs twice"),
            Fault::UnknownVariant(name) => write!(f, "unknown variant '{name}'"),
            Fault::NewerVersion { found, supported } => {
                write!(f, "saved in version {found}, but versions up to {supported} are supported")
            }
            Fault::TooDeep => write!(f, "nested too deeply"),
            Fault::Invalid(why) => write!(f, "{why}"),
        }
    }
}
