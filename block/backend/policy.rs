//! What a request that failed leads to: `werror` and `rerror`.

use std::sync::Arc;

use super::{Backend, Retry};
use crate::Error;

/// `werror`, `rerror`: what happens when a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OnError {
    Report,
    Ignore,
    Stop,
    /// Stop when there is no space, report what else there is.
    NoSpace,
}

impl OnError {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::Stop => "stop",
            Self::NoSpace => "enospc",
        }
    }
}

/// What is done about failures of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Of reading.
    pub read: OnError,
    /// Of anything else.
    pub write: OnError,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        Self { read: OnError::Report, write: OnError::NoSpace }
    }
}

/// The two kinds of operation that policies tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing, flushing, discarding, zeroing.
    Write,
}

impl Operation {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What the device is to do about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// Tell the guest.
    Report,
    /// Tell the guest that it went well.
    Ignore,
    /// Keep it ([`Backend::park`]): the machine stops, and when it resumes the request is tried again.
    Stop,
}

impl ErrorAction {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::Stop => "stop",
        }
    }
}

/// How requests have gone since the machine last resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// Well.
    #[default]
    Ok,
    /// There was no space, and the machine stopped.
    NoSpace,
    /// One failed, and the machine stopped.
    Failed,
}

impl IoStatus {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoSpace => "nospace",
            Self::Failed => "failed",
        }
    }
}

/// What the block layer tells the machine and its monitors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request failed.
    IoError {
        /// Path of the device.
        path: Option<String>,
        /// Name of the back end.
        device: String,
        /// Name of the node, if there was a medium.
        node: Option<String>,
        /// What failed.
        operation: Operation,
        /// What is done about it.
        action: ErrorAction,
        /// Whether space has run out; told only if that could be a reason to stop.
        no_space: Option<bool>,
        /// The reason.
        reason: String,
    },
    /// The machine is to stop because of a failed request.
    Stop,
    /// A job has come to another state.
    JobStatus {
        /// Its id.
        id: String,
        /// The state.
        status: crate::job::Status,
    },
    /// An image cannot be right.
    ImageCorrupted {
        /// Name of its node.
        node: String,
        /// What was found.
        found: crate::qcow2::Corruption,
    },
    /// A write went beyond the threshold of a node, which has none any more.
    WriteThreshold {
        /// Name of the node.
        node: String,
        /// Bytes beyond.
        exceeded: u64,
        /// The threshold.
        threshold: u64,
    },
    /// A tray has moved.
    TrayMoved {
        /// Name of the back end.
        device: String,
        /// The device's id, or its path.
        id: String,
        /// Where to.
        open: bool,
    },
}

/// Hears events, on any thread, with no lock of the block layer held, but perhaps a device's.
pub trait EventSink: Send + Sync {
    /// Takes note of an event; it is dealt with later.
    fn tell(&self, event: Event);
}

impl Backend {
    /// What is done about failures.
    pub fn error_policy(&self) -> ErrorPolicy {
        self.state.lock().policy
    }

    /// The device says what is done about failures.
    pub fn set_error_policy(&self, policy: ErrorPolicy) {
        self.state.lock().policy = policy;
    }

    /// How requests have gone since the machine last resumed.
    pub fn io_status(&self) -> IoStatus {
        self.state.lock().io_status
    }

    /// Decides what is done about a request that failed, and tells the monitors.
    pub fn on_error(&self, operation: Operation, error: &Error) -> ErrorAction {
        let no_space = error.errno() == libc::ENOSPC;
        let (action, event) = {
            let mut state = self.state.lock();
            let policy = match operation {
                Operation::Read => state.policy.read,
                Operation::Write => state.policy.write,
            };
            let action = match policy {
                OnError::Report => ErrorAction::Report,
                OnError::Ignore => ErrorAction::Ignore,
                OnError::NoSpace if !no_space => ErrorAction::Report,
                OnError::Stop | OnError::NoSpace => ErrorAction::Stop,
            };
            if action == ErrorAction::Stop && state.io_status == IoStatus::Ok {
                state.io_status = if no_space { IoStatus::NoSpace } else { IoStatus::Failed };
            }
            let event = Event::IoError {
                path: state.user.as_ref().map(|user| user.what.path.clone()),
                device: self.name.clone(),
                node: state.medium.as_ref().map(|medium| medium.node.name().to_owned()),
                operation,
                action,
                no_space: (operation == Operation::Write || no_space).then_some(no_space),
                reason: Error::from_errno(error.errno()).to_string(),
            };
            (action, event)
        };
        self.events.tell(event);
        action
    }

    /// Keeps a request that failed until the machine resumes, and has the machine stop.
    pub fn park(&self, retry: Retry) {
        self.parked.lock().push(retry);
        self.events.tell(Event::Stop);
    }

    /// Drops the requests that were kept: the device was reset.
    pub fn forget_parked(&self) {
        self.parked.lock().clear();
    }

    /// The machine resumes: tries again what was kept.
    pub fn resume(self: &Arc<Self>) {
        self.state.lock().io_status = IoStatus::Ok;
        let parked = std::mem::take(&mut *self.parked.lock());
        parked.into_iter().for_each(|retry| retry());
    }
}
