use base::options::OptionError;

/// Why a network could not be made, found or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// An option is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A word that is none of a type's.
    #[error("Parameter '{name}' does not accept value '{value}'")]
    NotAccepted {
        /// The option.
        name: String,
        /// Its text.
        value: String,
    },
    /// A JSON value of another type.
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    WrongType {
        /// The option.
        name: String,
        /// The type expected.
        expected: &'static str,
    },
    /// A JSON member that is none of the type's.
    #[error("Parameter '{0}' is unexpected")]
    Unexpected(String),
    /// There is a network of that id already (`-netdev` adds ` for netdev`).
    #[error("Duplicate ID '{0}'")]
    Duplicate(String),
    /// No network of that id.
    #[error("Device '{0}' not found")]
    NotFound(String),
    /// Everything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl NetError {
    /// Anything that can be said in words.
    pub fn failed(words: impl Into<String>) -> Self {
        NetError::Failed(words.into())
    }
}
