//! Descriptors that clients pass over their socket.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use crate::qapi::QmpError;

/// Descriptors that a client has given names.
#[derive(Default)]
pub(super) struct Passed(Mutex<BTreeMap<String, OwnedFd>>);

impl Passed {
    /// Names a descriptor; one that had the name is closed.
    pub fn insert(&self, name: String, fd: OwnedFd) -> Result<(), QmpError> {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            // Elsewhere a digit means a descriptor by its number.
            let message = "Parameter 'fdname' expects a name not starting with a digit";
            return Err(QmpError::new(message));
        }
        self.0.lock().insert(name, fd);
        Ok(())
    }

    /// Hands a named descriptor over; the name is forgotten.
    pub fn take(&self, name: &str) -> Result<OwnedFd, QmpError> {
        let missing =
            || QmpError::new(format!("File descriptor named '{name}' has not been found"));
        self.0.lock().remove(name).ok_or_else(missing)
    }

    /// Closes a named descriptor.
    pub fn close(&self, name: &str) -> Result<(), QmpError> {
        match self.0.lock().remove(name) {
            Some(_) => Ok(()),
            None => Err(QmpError::new(format!("File descriptor named '{name}' not found"))),
        }
    }
}
