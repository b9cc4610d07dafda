//! The schedule in memory (UHCI 1.1, 3): a list of frames, queues, and what is to be transferred.
//!
//! All of it is the driver's, who may have made a tangle of it: a frame ends after so many links, or
//! when its time is used up.

use super::{PORTS, Uhci, enable, port, status};
use crate::usb::packet::{Packet, Reply, Setup};

/// Links of a frame's list that are followed, at most.
const LINKS: usize = 1024;

/// Of a link.
const TERMINATE: u32 = 1;
const QUEUE: u32 = 1 << 1;
const DEPTH_FIRST: u32 = 1 << 2;
const ADDRESS: u32 = !0xf;

/// Bits of a transfer's status.
mod td {
    pub const LENGTH: u32 = 0x7ff;
    pub const TIMEOUT: u32 = 1 << 18;
    pub const NAK: u32 = 1 << 19;
    pub const BABBLE: u32 = 1 << 20;
    pub const BUFFER_ERROR: u32 = 1 << 21;
    pub const STALLED: u32 = 1 << 22;
    pub const ACTIVE: u32 = 1 << 23;
    pub const COMPLETE: u32 = 1 << 24;
    pub const ERRORS_SHIFT: u32 = 27;
    pub const ERRORS: u32 = 3 << ERRORS_SHIFT;
    pub const SHORT: u32 = 1 << 29;
}

/// Identifiers of packets.
mod pid {
    pub const OUT: u8 = 0xe1;
    pub const IN: u8 = 0x69;
    pub const SETUP: u8 = 0x2d;
}

/// A transfer.
struct Transfer {
    control: u32,
    token: u32,
    buffer: u32,
}

impl Transfer {
    fn pid(&self) -> u8 {
        self.token as u8
    }

    fn address(&self) -> u8 {
        (self.token >> 8) as u8 & 0x7f
    }

    fn endpoint(&self) -> u8 {
        (self.token >> 15) as u8 & 0xf
    }

    /// Lengths are one less than they say.
    fn len(&self) -> usize {
        ((self.token >> 21).wrapping_add(1) & td::LENGTH) as usize
    }
}

/// How the walk goes on after a transfer.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// It was done.
    Done,
    /// It was done, but its queue stays where it is.
    Held,
    /// It is to be tried again.
    Later,
    /// It makes no sense.
    Impossible,
}

/// What a frame has come to.
#[derive(Default)]
struct Frame {
    bytes: u32,
    /// Reasons for an interrupt at its end.
    reasons: u16,
    /// Somebody said something.
    busy: bool,
}

impl Uhci {
    /// Walks the list of the present frame. Returns whether anybody said anything.
    pub(super) fn walk(&mut self) -> bool {
        let mut frame = Frame::default();
        self.walk_list(&mut frame);
        if frame.reasons != 0 {
            self.st.status |= status::INTERRUPT;
            self.st.reasons |= frame.reasons;
        }
        frame.busy
    }

    fn walk_list(&mut self, frame: &mut Frame) {
        // With nobody there nothing can come of it.
        if (0..PORTS).all(|n| self.st.ports[n] & port::CONNECTED == 0) {
            return;
        }
        let index = u32::from(self.st.frame_number & 0x3ff);
        let Some([mut link]) = self.load(self.st.frame_list + 4 * index) else { return };
        // The queue whose element is looked at: where it is, and the link to the next one.
        let mut queue: Option<(u32, u32)> = None;
        // The queue at which a round began that has not got anywhere yet.
        let mut visited: Vec<u32> = Vec::new();
        for _ in 0..LINKS {
            if link & TERMINATE != 0 {
                match queue.take() {
                    Some((_, next)) => {
                        link = next;
                        continue;
                    }
                    None => return,
                }
            }
            let at = link & ADDRESS;
            if link & QUEUE != 0 {
                if visited.contains(&at) {
                    // Once round, and nobody had anything.
                    return;
                }
                visited.push(at);
                let Some([head, element]) = self.load(at) else { return };
                queue = Some((at, head));
                link = element;
                if link & QUEUE != 0 && link & TERMINATE == 0 {
                    // An element that is a queue itself: what is behind it comes later.
                    queue = None;
                }
                continue;
            }
            let Some([next, control, token, buffer]) = self.load(at) else { return };
            let mut transfer = Transfer { control, token, buffer };
            if control & td::ACTIVE == 0 {
                // What was done before: its interrupt may still be owed, and its queue does not go on.
                match queue.take() {
                    Some((_, head)) => link = head,
                    None => link = next,
                }
                continue;
            }
            let outcome = self.transfer(&mut transfer, frame);
            if transfer.control != control {
                self.wires.dma.write_uint(u64::from(at) + 4, 4, transfer.control.into());
            }
            match (outcome, queue) {
                (Outcome::Impossible, _) => return self.fail(),
                (Outcome::Done, Some((place, head))) => {
                    visited.clear();
                    self.wires.dma.write_uint(u64::from(place) + 4, 4, next.into());
                    if next & DEPTH_FIRST != 0 {
                        link = next;
                    } else {
                        (link, queue) = (head, None);
                    }
                }
                (Outcome::Held | Outcome::Later, Some((_, head))) => (link, queue) = (head, None),
                (_, None) => link = next,
            }
            if frame.bytes >= self.bandwidth {
                return;
            }
        }
    }

    /// Reads words of the schedule. What is not in memory ends the frame.
    fn load<const N: usize>(&self, at: u32) -> Option<[u32; N]> {
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..4 * N];
        if !self.wires.dma.read(at.into(), bytes) {
            return None;
        }
        let word = |n: usize| {
            let piece = &bytes[4 * n..];
            u32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]])
        };
        Some(std::array::from_fn(word))
    }

    fn transfer(&mut self, transfer: &mut Transfer, frame: &mut Frame) -> Outcome {
        let len = transfer.len();
        if len > 1280 {
            return Outcome::Impossible;
        }
        let mut packet = match transfer.pid() {
            pid::IN => Packet::take(transfer.endpoint(), len),
            pid @ (pid::OUT | pid::SETUP) => {
                let mut data = vec![0; len];
                self.wires.dma.read(transfer.buffer.into(), &mut data);
                match <[u8; Setup::LEN]>::try_from(data.as_slice()) {
                    Ok(setup) if pid == pid::SETUP && transfer.endpoint() == 0 => {
                        Packet::setup(setup)
                    }
                    _ if pid == pid::SETUP => return self.refuse(transfer, td::STALLED, frame),
                    _ => Packet::out(transfer.endpoint(), data),
                }
            }
            _ => return Outcome::Impossible,
        };
        let reply = match self.find(transfer.address()) {
            Some(device) => device.handle(&mut packet),
            None => Reply::Silence,
        };
        match reply {
            Reply::Done => self.done(transfer, &packet, frame),
            Reply::Nak => {
                transfer.control |= td::NAK;
                Outcome::Later
            }
            Reply::Stall => self.refuse(transfer, td::STALLED, frame),
            Reply::Babble => self.refuse(transfer, td::BABBLE | td::STALLED, frame),
            Reply::Silence => self.unanswered(transfer, frame),
        }
    }

    fn done(&mut self, transfer: &mut Transfer, packet: &Packet, frame: &mut Frame) -> Outcome {
        let is_in = transfer.pid() == pid::IN;
        let len = if is_in { packet.data.len() } else { transfer.len() };
        if is_in && !self.wires.dma.write(transfer.buffer.into(), &packet.data) {
            return self.refuse(transfer, td::BUFFER_ERROR | td::STALLED, frame);
        }
        frame.busy = true;
        frame.bytes += len as u32;
        let actual = (len as u32).wrapping_sub(1) & td::LENGTH;
        transfer.control = transfer.control & !(td::ACTIVE | td::NAK | td::LENGTH) | actual;
        if transfer.control & td::COMPLETE != 0 {
            frame.reasons |= enable::COMPLETE;
        }
        if is_in && len < transfer.len() && transfer.control & td::SHORT != 0 {
            frame.reasons |= enable::SHORT;
            return Outcome::Held;
        }
        Outcome::Done
    }

    /// A transfer ends with an error.
    fn refuse(&mut self, transfer: &mut Transfer, why: u32, frame: &mut Frame) -> Outcome {
        frame.busy = true;
        transfer.control = transfer.control & !td::ACTIVE | why;
        self.st.status |= status::ERROR;
        if transfer.control & td::COMPLETE != 0 {
            frame.reasons |= enable::COMPLETE;
        }
        Outcome::Held
    }

    /// Nobody answers: so many times that may happen.
    fn unanswered(&mut self, transfer: &mut Transfer, frame: &mut Frame) -> Outcome {
        frame.busy = true;
        let left = (transfer.control & td::ERRORS) >> td::ERRORS_SHIFT;
        transfer.control |= td::TIMEOUT;
        match left {
            // As often as it takes.
            0 => Outcome::Later,
            1 => {
                transfer.control &= !td::ERRORS;
                self.refuse(transfer, td::TIMEOUT | td::STALLED, frame)
            }
            left => {
                transfer.control = transfer.control & !td::ERRORS | (left - 1) << td::ERRORS_SHIFT;
                Outcome::Later
            }
        }
    }
}
