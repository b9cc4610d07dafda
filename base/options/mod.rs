//! The grammars of command-line arguments, as QEMU 10.0 has them, with its error texts.
//!
//! - [`Opts`]: `null,id=c0,path=a,,b`. A flat list of keys and values. Commas in a value are doubled; the
//!   first value may come without its key; `share` stands for `share=on` and `noshare` for
//!   `share=off`, with a warning. An [`OptGroup`] says which keys there are.
//! - [`Keyval`]: `pc,smp.cpus=2,list.0=a`. Keys with dots make a tree; every key needs its `=`.
//! - [`json`]: an argument that begins with `{`.
//! - [`config`]: `-readconfig`, `-set` and `-global`.

pub mod config;
mod group;
pub mod json;
mod keyval;
pub mod number;
mod opts;

pub use group::{OptDesc, OptGroup, OptType};
pub use keyval::Keyval;
pub use opts::{Opts, ParsedOpts, ShortForm, check_id};

/// Whether a value asks for a list of what there is.
pub fn is_help(text: &str) -> bool {
    text == "help" || text == "?"
}

/// Why an argument was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A key that does not exist or cannot be one.
    #[error("Invalid parameter '{0}'")]
    InvalidParameter(String),
    /// A key longer than any.
    #[error("Parameter '{0}' is too long")]
    TooLong(String),
    /// A key without a value.
    #[error("Expected '=' after parameter '{0}'")]
    ExpectedEquals(String),
    /// `a=1,a.b=2`
    #[error("Parameters '{0}.*' used inconsistently")]
    Inconsistent(String),
    /// `a.1=x` without `a.0`
    #[error("Parameter '{0}' missing")]
    MissingElement(String),
    /// A required key is not there.
    #[error("Parameter '{0}' is missing")]
    Missing(String),
    /// Something that cannot name an object.
    #[error(
        "Parameter '{0}' expects an identifier\n\
         Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
    )]
    NotAnIdentifier(String),
    /// A switch that is neither on nor off.
    #[error("Parameter '{0}' expects 'on' or 'off'")]
    NotABool(String),
    /// Text that is not a number.
    #[error("Parameter '{0}' expects a number")]
    NotANumber(String),
    /// A number beyond 64 bits.
    #[error("Value '{value}' is too large for parameter '{name}'")]
    NumberTooLarge {
        /// The key.
        name: String,
        /// Its text.
        value: String,
    },
    /// Text that is not a size.
    #[error(
        "Parameter '{0}' expects a non-negative number below 2^64\n\
         Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
         and exabytes, respectively."
    )]
    NotASize(String),
    /// A size that is negative or beyond 64 bits.
    #[error("Value '{value}' is out of range for parameter '{name}'")]
    SizeOutOfRange {
        /// The key.
        name: String,
        /// Its text.
        value: String,
    },
    /// Two things of the same name.
    #[error("Duplicate ID '{id}' for {group}")]
    DuplicateId {
        /// The name.
        id: String,
        /// The option both belong to.
        group: String,
    },
}

#[cfg(test)]
mod tests;
