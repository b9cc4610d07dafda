//! Guest ranges that somebody is giving a place right now. Others who want to change how these ranges
//! are stored wait until that is done.

use std::ops::Range;
use std::sync::Arc;

use event_listener::{Event, EventListener};
use parking_lot::Mutex;

#[derive(Default)]
struct Inner {
    ranges: Vec<(u64, Range<u64>)>,
    next: u64,
}

/// All ranges that are being given places.
#[derive(Default)]
pub struct Flights {
    inner: Mutex<Inner>,
    landed: Event,
}

/// One range; it ends when this is dropped.
pub struct Flight {
    flights: Arc<Flights>,
    id: u64,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.inner.lock().ranges.retain(|(id, _)| *id != self.id);
        self.flights.landed.notify(usize::MAX);
    }
}

impl Flights {
    /// Begins a range that does not touch others.
    pub fn begin(self: &Arc<Self>, range: Range<u64>) -> Flight {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = inner.next;
        inner.ranges.push((id, range));
        Flight { flights: self.clone(), id }
    }

    /// How much of a range, from its beginning, is nobody's; when that is nothing, what to wait for.
    pub fn clear(&self, range: Range<u64>) -> Result<u64, EventListener> {
        // Listening first: what lands after the look is heard.
        let inner = self.inner.lock();
        let touching =
            inner.ranges.iter().filter(|(_, r)| r.start < range.end && range.start < r.end);
        let first = touching.map(|(_, other)| other.start).min();
        match first {
            None => Ok(range.end - range.start),
            Some(first) if first > range.start => Ok(first - range.start),
            Some(_) => Err(self.landed.listen()),
        }
    }
}
