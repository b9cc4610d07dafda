//! `stdio`: the terminal, or the pipes, that the program was started with.

use std::io::{stdin, stdout};
use std::sync::Arc;

use super::link::Link;
use super::registry::Context;
use super::stream::Stream;
use super::terminal::Terminal;
use super::{Backend, CharEvent, ChardevError};

pub(super) struct Stdio {
    stream: Arc<Stream>,
    _terminal: Terminal,
}

impl Stdio {
    pub(super) fn open(
        context: &Context,
        link: &Arc<Link>,
        signals: bool,
    ) -> Result<Stdio, ChardevError> {
        if context.daemonized {
            return Err(ChardevError::StdioDaemonized);
        }
        let terminal = Terminal::take(&context.handle, signals)?;
        let (input, output) = (Arc::new(stdin()), Arc::new(stdout()));
        let stream = Stream::of_fds(&context.handle, link, Some(input), Some(output));
        link.event(CharEvent::Opened);
        Ok(Stdio { stream, _terminal: terminal })
    }
}

impl Backend for Stdio {
    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn filename(&self) -> String {
        "stdio".into()
    }
}
