//! What can go wrong with a character device, in the words that tools know.

use std::io;

use thiserror::Error;

use crate::report::strerror;

/// Why a character device cannot be made or used.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages are the documentation.
pub enum ChardevError {
    #[error("'{0}' is not a valid char driver name")]
    UnknownBackend(String),
    #[error("'{0}' is not a valid char driver")]
    UnknownLegacy(String),
    #[error("chardev: no id specified")]
    NoId,
    #[error("chardev: \"{0}\" missing backend")]
    NoBackend(String),
    #[error("Invalid parameter '{0}'")]
    InvalidParameter(String),
    #[error("Parameter '{name}' expects {expects}")]
    BadValue { name: &'static str, expects: &'static str },
    #[error("chardev: {backend}: {problem}")]
    Missing { backend: &'static str, problem: &'static str },
    #[error("Chardev with id '{0}' already exists")]
    Duplicate(String),
    #[error("Chardev '{0}' not found")]
    NotFound(String),
    #[error("Chardev '{0}' is busy")]
    Busy(String),
    #[error("chardev '{0}' is already in use")]
    InUse(String),
    #[error("cannot use stdio by multiple character devices")]
    StdioInUse,
    #[error("cannot use stdio with -daemonize")]
    StdioDaemonized,
    #[error("mux: base chardev {0} not found")]
    NoMuxBase(String),
    #[error("size of ringbuf chardev must be power of two")]
    RingSize,
    #[error("Could not open '{path}': {}", strerror(source))]
    Open { path: String, source: io::Error },
    #[error("Could not create '{path}': {}", strerror(source))]
    Create { path: String, source: io::Error },
    #[error("{what}: {}", strerror(source))]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    Refused(String),
}

impl ChardevError {
    /// For `map_err`: an error of the system while doing `what`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> ChardevError {
        let what = what.into();
        move |source| ChardevError::Io { what, source }
    }
}
