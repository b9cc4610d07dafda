//! A back end whose peer is within the program, such as a connection of a display's.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::link::Link;
use super::stream::{Fd, FdPair, Stream};
use super::{Backend, CharEvent};
use crate::event_loop::LoopHandle;

pub(super) struct Paired(Arc<Stream>);

impl Paired {
    pub(super) fn new(handle: &LoopHandle, link: &Arc<Link>, stream: UnixStream) -> Self {
        let fd: Fd = Arc::new(stream);
        let transport = FdPair { input: Some(fd.clone()), output: Some(fd.clone()) };
        let gone = link.clone();
        let ended = move || {
            gone.event(CharEvent::Closed);
            // Front ends hold their port, which holds the link, which holds the front end.
            gone.detach();
        };
        link.event(CharEvent::Opened);
        Paired(Stream::new(
            handle,
            link.clone(),
            Some(fd.clone()),
            Some(fd),
            Box::new(transport),
            ended,
        ))
    }
}

impl Backend for Paired {
    fn stream(&self) -> Option<&Stream> {
        Some(&self.0)
    }

    fn filename(&self) -> String {
        "pair".into()
    }
}
