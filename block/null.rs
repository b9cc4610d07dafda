//! `null-co` and `null-aio`: a disk that keeps nothing.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_listener::Event;

use crate::backend::Helper;
use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use crate::vector::Vector;
use crate::{Error, Result};

/// A disk that keeps nothing.
pub struct Null {
    name: &'static str,
    len: u64,
    read_zeroes: bool,
    /// How long a request takes, and who tells when it is over.
    latency: Option<(Arc<Helper>, Duration)>,
}

impl Null {
    /// A disk of a length; what is read is zeroes, or left as it was.
    pub fn new(
        name: &'static str,
        len: u64,
        read_zeroes: bool,
        latency: Option<(Arc<Helper>, Duration)>,
    ) -> Self {
        Self { name, len, read_zeroes, latency }
    }

    /// A request that succeeds.
    fn done(&self) -> Io<'_, ()> {
        let Some((helper, latency)) = &self.latency else { return Box::pin(ready(Ok(()))) };
        let over = Arc::new(Event::new());
        let listener = over.listen();
        helper.at(
            Instant::now() + *latency,
            Box::new(move || {
                over.notify(1);
            }),
        );
        Box::pin(async move {
            listener.await;
            Ok(())
        })
    }
}

impl Driver for Null {
    fn name(&self) -> &'static str {
        self.name
    }

    fn len(&self) -> Result<u64> {
        Ok(self.len)
    }

    fn read(&self, _: u64, into: Vector) -> Io<'_, ()> {
        if self.read_zeroes {
            into.fill(0);
        }
        self.done()
    }

    fn write(&self, _: u64, _: Vector) -> Io<'_, ()> {
        self.done()
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Io<'_, ()> {
        self.done()
    }

    fn discard(&self, _: u64, _: u64) -> Io<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn keeps_changes(&self) -> bool {
        false
    }

    fn flush(&self) -> Io<'_, ()> {
        self.done()
    }

    fn truncate(&self, _: u64, _: Preallocation) -> Io<'_, ()> {
        let text = "Image format driver does not support resize";
        Box::pin(ready(Err(Error::unsupported(text))))
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        let zero = self.read_zeroes;
        let extent =
            Extent { len, zero, allocated: zero, offset: zero.then_some(at), ..Extent::default() };
        Box::pin(ready(Ok(extent)))
    }

    fn tells_state(&self) -> bool {
        false
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        Ok(Some(0))
    }
}
