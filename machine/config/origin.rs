//! Where a piece of configuration comes from.

use std::fmt;

/// Where a piece of configuration comes from; error messages begin with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// From nowhere in particular.
    #[default]
    None,
    /// An option of the command line and its argument, as typed.
    CommandLine(String),
    /// A line of a configuration file.
    File {
        /// The file's name.
        name: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// From a file that is loaded in firmware's stead. Messages about those do not name the program.
    Loader,
}

impl Origin {
    /// What a message of `program` about this piece begins with.
    pub fn prefix(&self, program: &str) -> String {
        match self {
            Origin::None => format!("{program}: "),
            Origin::CommandLine(typed) => format!("{program}: {typed}: "),
            Origin::File { name, line } => format!("{program}:{name}:{line}: "),
            Origin::Loader => "qemu: ".into(),
        }
    }
}

/// A piece of configuration together with where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Located<T> {
    /// The piece.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Located<T> {
    /// Joins the two.
    pub fn new(value: T, origin: &Origin) -> Self {
        Located { value, origin: origin.clone() }
    }
}

/// A fault in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What it is about.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
}

impl ConfigError {
    /// A fault of the configuration as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        ConfigError { origin: Origin::None, message: message.into() }
    }

    /// A fault of one piece.
    pub fn at(origin: &Origin, message: impl Into<String>) -> Self {
        ConfigError { origin: origin.clone(), message: message.into() }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::None | Origin::Loader => write!(f, "{}", self.message),
            Origin::CommandLine(typed) => write!(f, "{typed}: {}", self.message),
            Origin::File { name, line } => write!(f, "{name}:{line}: {}", self.message),
        }
    }
}
