//! Packed rings (virtio 1.2, 2.8): one ring of descriptors, which driver and device overwrite in turn.

use std::sync::atomic::{Ordering, fence};

use super::chain::{Buffers, DESCRIPTOR, Descriptor, Found, read, read_u16, write};
use super::{Ring, RingError, Used};

const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const WRITE: u16 = 2;

/// Offsets in a descriptor.
const LEN: u64 = 8;
const FLAGS: u64 = 14;

/// What an event suppression structure says (2.8.14).
const DISABLE: u16 = 1;
const AT_DESCRIPTOR: u16 = 2;
const WRAP: u16 = 1 << 15;

/// Bytes of the parts of a ring of a size.
pub(super) fn lengths(size: u16) -> [u64; 3] {
    [u64::from(size) * DESCRIPTOR, 4, 4]
}

fn slot(ring: &Ring<'_>, at: u16) -> u64 {
    ring.st.descriptors.wrapping_add(u64::from(at) * DESCRIPTOR)
}

/// Whether the driver has made the next descriptor available.
pub(super) fn has_more(ring: &Ring<'_>) -> Result<bool, RingError> {
    let flags = read_u16(ring.mem, slot(ring, ring.st.next_avail).wrapping_add(FLAGS))?;
    let (available, used) = (flags & AVAILABLE != 0, flags & USED != 0);
    Ok(available == ring.st.avail_wrap && used != ring.st.avail_wrap)
}

pub(super) fn pop(ring: &mut Ring<'_>) -> Result<Option<Found>, RingError> {
    if !has_more(ring)? {
        return Ok(None);
    }
    // The rest of the descriptor, and those behind it, are read after the flags.
    fence(Ordering::Acquire);
    let place = ring.st.next_avail;
    let mut buffers = Buffers::default();
    let (mut at, mut wrap) = (place, ring.st.avail_wrap);
    for slots in 1..=ring.st.size {
        let descriptor = Descriptor::read(ring.mem, ring.st.descriptors, at, true)?;
        advance(&mut at, &mut wrap, 1, ring.st.size);
        if descriptor.is_indirect() {
            if !ring.features.indirect {
                return Err(RingError::Table);
            }
            buffers.add_table(ring.mem, &descriptor, true)?;
        } else {
            buffers.add(&descriptor)?;
        }
        if !descriptor.has_next() {
            (ring.st.next_avail, ring.st.avail_wrap) = (at, wrap);
            return Ok(Some(buffers.finish(descriptor.id, slots, place)));
        }
    }
    Err(RingError::Loop)
}

fn advance(at: &mut u16, wrap: &mut bool, by: u16, size: u16) {
    let next = u32::from(*at) + u32::from(by);
    if next >= u32::from(size) {
        *wrap = !*wrap;
    }
    *at = (next % u32::from(size)) as u16;
}

/// Gives chains back; the driver, which looks at one after the other, sees the first of them last.
pub(super) fn push(ring: &mut Ring<'_>, chains: &[Used]) -> Result<(), RingError> {
    let first = (ring.st.next_used, ring.st.used_wrap);
    for (n, chain) in chains.iter().enumerate() {
        if n > 0 {
            put(ring, (ring.st.next_used, ring.st.used_wrap), chain)?;
        }
        advance(&mut ring.st.next_used, &mut ring.st.used_wrap, chain.slots, ring.st.size);
        ring.st.unsignalled = ring.st.unsignalled.saturating_add(chain.slots);
    }
    chains.first().map_or(Ok(()), |chain| put(ring, first, chain))
}

fn put(ring: &Ring<'_>, (at, wrap): (u16, bool), chain: &Used) -> Result<(), RingError> {
    let at = slot(ring, at);
    let mut entry = [0; 6];
    entry[..4].copy_from_slice(&chain.written.to_le_bytes());
    entry[4..].copy_from_slice(&chain.id.to_le_bytes());
    write(ring.mem, at.wrapping_add(LEN), &entry)?;
    let mut flags = if wrap { AVAILABLE | USED } else { 0 };
    if chain.written > 0 {
        flags |= WRITE;
    }
    fence(Ordering::Release);
    write(ring.mem, at.wrapping_add(FLAGS), &flags.to_le_bytes())
}

pub(super) fn wants_interrupt(ring: &mut Ring<'_>) -> Result<bool, RingError> {
    fence(Ordering::SeqCst);
    let mut event = [0; 4];
    read(ring.mem, ring.st.driver_area, &mut event)?;
    let [o0, o1, f0, f1] = event;
    let (offset, flags) = (u16::from_le_bytes([o0, o1]), u16::from_le_bytes([f0, f1]));
    let fresh = u32::from(std::mem::take(&mut ring.st.unsignalled));
    if flags != AT_DESCRIPTOR || !ring.features.event_idx {
        return Ok(flags != DISABLE);
    }
    // Places of this lap come after those of the one before.
    let size = u32::from(ring.st.size);
    let lap = if (offset & WRAP != 0) == ring.st.used_wrap { size } else { 0 };
    let event = u32::from(offset & !WRAP) + lap;
    let now = u32::from(ring.st.next_used) + size;
    Ok(event < now && event + fresh >= now)
}

/// Asks for notifications, or asks to be spared them.
pub(super) fn ask(ring: &mut Ring<'_>, notifications: bool) -> Result<(), RingError> {
    let area = ring.st.device_area;
    let flags = if !notifications {
        DISABLE
    } else if ring.features.event_idx {
        let wrap = if ring.st.avail_wrap { WRAP } else { 0 };
        write(ring.mem, area, &(ring.st.next_avail | wrap).to_le_bytes())?;
        fence(Ordering::Release);
        AT_DESCRIPTOR
    } else {
        0
    };
    write(ring.mem, area.wrapping_add(2), &flags.to_le_bytes())
}
