//! Split rings (virtio 1.2, 2.7): a table of descriptors, a ring of available chains, a ring of used
//! ones.

use std::sync::atomic::{Ordering, fence};

use super::chain::{Buffers, Descriptor, Found, read_u16, write};
use super::{Ring, RingError, Used};

/// In the available ring: no interrupts please. In the used ring: no notifications please.
const SUPPRESS: u16 = 1;

/// Offsets in both rings.
const FLAGS: u64 = 0;
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
const USED_ENTRY: u64 = 8;

/// Bytes of the parts of a ring of a size.
pub(super) fn lengths(size: u16) -> [u64; 3] {
    let size = u64::from(size);
    [size * 16, ENTRIES + 2 * size + 2, ENTRIES + USED_ENTRY * size + 2]
}

pub(super) fn pop(ring: &mut Ring<'_>) -> Result<Option<Found>, RingError> {
    let waiting = waiting(ring)?;
    if waiting == 0 {
        return Ok(None);
    }
    if waiting > ring.st.size {
        return Err(RingError::Index(waiting));
    }
    // The entries are read after the index that says that they are there.
    fence(Ordering::Acquire);
    let place = ring.st.next_avail;
    let slot = u64::from(place % ring.st.size);
    let head = read_u16(ring.mem, ring.st.driver_area.wrapping_add(ENTRIES + 2 * slot))?;
    let buffers = collect(ring, head)?;
    ring.st.next_avail = place.wrapping_add(1);
    Ok(Some(buffers.finish(head, 1, place)))
}

fn collect(ring: &Ring<'_>, head: u16) -> Result<Buffers, RingError> {
    let mut buffers = Buffers::default();
    let mut at = head;
    for _ in 0..ring.st.size {
        if at >= ring.st.size {
            return Err(RingError::Descriptor(at));
        }
        let descriptor = Descriptor::read(ring.mem, ring.st.descriptors, at, false)?;
        if descriptor.is_indirect() {
            if !ring.features.indirect {
                return Err(RingError::Table);
            }
            buffers.add_table(ring.mem, &descriptor, false)?;
            return Ok(buffers);
        }
        buffers.add(&descriptor)?;
        if !descriptor.has_next() {
            return Ok(buffers);
        }
        at = descriptor.id;
    }
    Err(RingError::Loop)
}

/// How many chains are available.
pub(super) fn waiting(ring: &Ring<'_>) -> Result<u16, RingError> {
    let index = read_u16(ring.mem, ring.st.driver_area.wrapping_add(INDEX))?;
    Ok(index.wrapping_sub(ring.st.next_avail))
}

/// Puts chains into the used ring; the driver sees all of them at once.
pub(super) fn push(ring: &mut Ring<'_>, chains: &[Used]) -> Result<(), RingError> {
    let area = ring.st.device_area;
    for chain in chains {
        let slot = u64::from(ring.st.next_used % ring.st.size);
        let mut entry = [0; USED_ENTRY as usize];
        entry[..4].copy_from_slice(&u32::from(chain.id).to_le_bytes());
        entry[4..].copy_from_slice(&chain.written.to_le_bytes());
        write(ring.mem, area.wrapping_add(ENTRIES + USED_ENTRY * slot), &entry)?;
        ring.st.next_used = ring.st.next_used.wrapping_add(1);
        ring.st.unsignalled = ring.st.unsignalled.saturating_add(1);
    }
    fence(Ordering::Release);
    write(ring.mem, area.wrapping_add(INDEX), &ring.st.next_used.to_le_bytes())
}

pub(super) fn wants_interrupt(ring: &mut Ring<'_>) -> Result<bool, RingError> {
    // What was used is seen before what the driver wants is looked at (2.7.7.2).
    fence(Ordering::SeqCst);
    if ring.features.notify_on_empty && waiting(ring)? == 0 {
        ring.st.unsignalled = 0;
        return Ok(true);
    }
    let area = ring.st.driver_area;
    if !ring.features.event_idx {
        ring.st.unsignalled = 0;
        return Ok(read_u16(ring.mem, area.wrapping_add(FLAGS))? & SUPPRESS == 0);
    }
    let event = read_u16(ring.mem, area.wrapping_add(ENTRIES + 2 * u64::from(ring.st.size)))?;
    // Whether the entry that the driver waits for is among those used since the last interrupt.
    let behind = ring.st.next_used.wrapping_sub(event).wrapping_sub(1);
    let wants = behind < std::mem::take(&mut ring.st.unsignalled);
    Ok(wants)
}

/// Asks for notifications, or asks to be spared them.
pub(super) fn ask(ring: &mut Ring<'_>, notifications: bool) -> Result<(), RingError> {
    let area = ring.st.device_area;
    if !ring.features.event_idx {
        let flags = if notifications { 0 } else { SUPPRESS };
        return write(ring.mem, area.wrapping_add(FLAGS), &flags.to_le_bytes());
    }
    if !notifications {
        // The old event stays behind.
        return Ok(());
    }
    let at = area.wrapping_add(ENTRIES + USED_ENTRY * u64::from(ring.st.size));
    write(ring.mem, at, &ring.st.next_avail.to_le_bytes())
}
