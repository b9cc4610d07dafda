//! Back ends that are files: `null`, `file` and `pipe`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::link::Link;
use super::registry::Context;
use super::stream::{Fd, Stream};
use super::{Backend, CharEvent, ChardevError};
use crate::fd::set_nonblocking;

/// Swallows everything.
pub(super) struct Null;

impl Backend for Null {
    fn filename(&self) -> String {
        "null".into()
    }
}

/// Reads and writes opened files.
pub(super) struct Files {
    filename: &'static str,
    stream: Arc<Stream>,
}

impl Files {
    /// `file`: writes to `path`; reads from `input_path` if there is one.
    pub(super) fn open(
        context: &Context,
        link: &Arc<Link>,
        path: &str,
        append: bool,
        input_path: Option<&str>,
    ) -> Result<Files, ChardevError> {
        let end = if append { OFlag::O_APPEND } else { OFlag::O_TRUNC };
        let output = open(context, path, OFlag::O_WRONLY | OFlag::O_CREAT | end)?;
        let input = match input_path {
            Some(path) => Some(open(context, path, OFlag::O_RDONLY)?),
            None => None,
        };
        Ok(Files::new(context, link, "file", input, Some(output)))
    }

    /// `pipe`: the pair `path.in` and `path.out`, or one file that goes both ways.
    pub(super) fn open_pipe(
        context: &Context,
        link: &Arc<Link>,
        path: &str,
    ) -> Result<Files, ChardevError> {
        let pair = (
            open(context, &format!("{path}.in"), OFlag::O_RDWR),
            open(context, &format!("{path}.out"), OFlag::O_RDWR),
        );
        let (input, output) = match pair {
            (Ok(input), Ok(output)) => (input, output),
            _ => {
                let both = open(context, path, OFlag::O_RDWR)?;
                (both.clone(), both)
            }
        };
        Ok(Files::new(context, link, "pipe", Some(input), Some(output)))
    }

    fn new(
        context: &Context,
        link: &Arc<Link>,
        filename: &'static str,
        input: Option<Fd>,
        output: Option<Fd>,
    ) -> Files {
        let stream = Stream::of_fds(&context.handle, link, input, output);
        link.event(CharEvent::Opened);
        Files { filename, stream }
    }
}

fn open(context: &Context, path: &str, flags: OFlag) -> Result<Fd, ChardevError> {
    let open = || {
        let fd: OwnedFd = context.fd_sets.open(path, flags)?;
        let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFREG {
            set_nonblocking(&fd)?;
        }
        Ok(fd)
    };
    match open() {
        Ok(fd) => Ok(Arc::new(fd)),
        Err(source) => Err(ChardevError::Open { path: path.into(), source }),
    }
}

impl Backend for Files {
    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn filename(&self) -> String {
        self.filename.into()
    }
}
