//! Errors carry what people read and the errno that a guest or a tool acts on.

/// Why a request on an image failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    errno: i32,
    message: String,
}

/// What block operations return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its own text.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }

    /// Content that cannot be (`EINVAL`).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(libc::EINVAL, message)
    }

    /// Something no driver of this kind can do (`ENOTSUP`).
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(libc::ENOTSUP, message)
    }

    /// An errno with the C library's text.
    pub fn from_errno(errno: i32) -> Self {
        // What `strerror` says, without what std adds.
        let text = std::io::Error::from_raw_os_error(errno).to_string();
        let end = text.find(" (os error").unwrap_or(text.len());
        Self::new(errno, &text[..end])
    }

    /// The number that a guest sees or an exit code depends on.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The same error with words in front.
    pub fn context(self, before: impl std::fmt::Display) -> Self {
        Self { errno: self.errno, message: format!("{before}: {}", self.message) }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::from_errno(errno),
            None => Self::new(libc::EIO, error.to_string()),
        }
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::from_errno(errno as i32)
    }
}
