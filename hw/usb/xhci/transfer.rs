//! Transfers: what rings of endpoints ask for is given to devices (xHCI 1.2, 4.10, 4.11).

use std::sync::Arc;

use super::Xhci;
use super::events::{Event, code};
use super::ring::{Broken, Ring, Trb, flag, kind};
use super::slots::{ENDPOINTS, EndpointState};
use crate::usb::device::UsbDevice;
use crate::usb::packet::{Packet, Reply, Setup};

/// Transfers of an endpoint that are done before others get their turn.
const TURNS: usize = 64;
/// Blocks of a transfer, and bytes, at most.
const BLOCKS: usize = 1024;
const BYTES: usize = 16 << 20;

/// What came of the next transfer of a ring.
enum Step {
    /// There is none, or it has to wait.
    Idle,
    /// It is over.
    Done,
}

/// A transfer: its blocks, and the ring behind it.
struct Transfer {
    blocks: Vec<Trb>,
    after: Ring,
    /// Whether data go to the host.
    to_host: bool,
    len: usize,
}

impl Transfer {
    /// The next transfer of a ring, if all of it is there.
    fn take(memory: &base::memory::Dma, mut ring: Ring, id: usize) -> Result<Option<Self>, Broken> {
        let mut blocks = Vec::new();
        let mut len = 0;
        loop {
            let Some(trb) = ring.take(memory)? else { return Ok(None) };
            if trb.kind() != kind::EVENT_DATA && trb.kind() != kind::NO_OP {
                len += trb.len();
            }
            let more = trb.has(flag::CHAIN);
            blocks.push(trb);
            if !more {
                break;
            }
            if blocks.len() >= BLOCKS || len > BYTES {
                return Err(Broken);
            }
        }
        let first = blocks.first().copied().unwrap_or_default();
        let to_host = match first.kind() {
            kind::DATA | kind::STATUS => first.has(flag::IN),
            kind::SETUP => false,
            _ => id & 1 == 1,
        };
        Ok(Some(Transfer { blocks, after: ring, to_host, len }))
    }

    fn first(&self) -> Trb {
        self.blocks.first().copied().unwrap_or_default()
    }

    /// Blocks that data are in.
    fn pieces(&self) -> impl Iterator<Item = &Trb> {
        self.blocks
            .iter()
            .filter(|trb| matches!(trb.kind(), kind::NORMAL | kind::DATA | kind::ISOCH))
    }

    /// What the host sends.
    fn gather(&self, memory: &base::memory::Dma) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.len);
        for piece in self.pieces() {
            let at = data.len();
            if piece.has(flag::IMMEDIATE) {
                data.extend(&piece.parameter.to_le_bytes()[..piece.len().min(8)]);
            } else {
                data.resize(at + piece.len(), 0);
                memory.read(piece.parameter, &mut data[at..]);
            }
        }
        data
    }

    /// Puts down what the device has sent.
    fn scatter(&self, memory: &base::memory::Dma, mut data: &[u8]) {
        for piece in self.pieces() {
            let (now, later) = data.split_at(piece.len().min(data.len()));
            memory.write(piece.parameter, now);
            data = later;
        }
    }
}

impl Xhci {
    /// The device of a slot.
    fn function(&self, slot: usize) -> Option<Arc<UsbDevice>> {
        self.functions.get(slot.checked_sub(1)?)?.clone()
    }

    /// The driver rings an endpoint's doorbell, which sets one going that was stopped.
    pub(super) fn ring_doorbell(&mut self, slot: usize, id: usize) {
        if let Some(endpoint) = self.endpoint(slot, id)
            && endpoint.state == EndpointState::Stopped
        {
            endpoint.state = EndpointState::Running;
            self.publish(slot, id);
        }
        self.kick(slot, id);
    }

    /// Does what an endpoint's ring asks for.
    fn kick(&mut self, slot: usize, id: usize) {
        if !self.runs() {
            return;
        }
        if let Some(endpoint) = self.endpoint(slot, id) {
            endpoint.waiting = false;
        }
        for _ in 0..TURNS {
            match self.step(slot, id) {
                Ok(Step::Done) => {}
                Ok(Step::Idle) => return,
                Err(Broken) => {
                    base::guest_error!("xhci: the ring of endpoint {id} of slot {slot} is broken");
                    return self.fail();
                }
            }
        }
        // There may be more.
        if let Some(endpoint) = self.endpoint(slot, id) {
            endpoint.waiting = true;
            self.attention.ring();
        }
    }

    /// Asks devices again that had nothing to say.
    pub(super) fn attend(&mut self) {
        for slot in 1..=self.st.slots.len() {
            for id in 1..=ENDPOINTS {
                if self.endpoint(slot, id).is_some_and(|endpoint| endpoint.waiting) {
                    self.kick(slot, id);
                }
            }
        }
    }

    fn step(&mut self, slot: usize, id: usize) -> Result<Step, Broken> {
        let Some(endpoint) = self.endpoint(slot, id) else { return Ok(Step::Idle) };
        if endpoint.state != EndpointState::Running {
            return Ok(Step::Idle);
        }
        let ring = endpoint.ring;
        let Some(transfer) = Transfer::take(&self.wires.dma, ring, id)? else {
            return Ok(Step::Idle);
        };
        let number = (id / 2) as u8;
        let first = transfer.first();
        let mut packet = match first.kind() {
            kind::SETUP => match (first.has(flag::IMMEDIATE), first.len()) {
                (true, Setup::LEN) => Packet::setup(first.parameter.to_le_bytes()),
                _ => {
                    self.refuse(slot, id, &transfer, code::TRB);
                    return Ok(Step::Done);
                }
            },
            kind::STATUS if transfer.to_host => Packet::take(0, 0),
            kind::STATUS => Packet::out(0, Vec::new()),
            kind::NORMAL | kind::DATA | kind::ISOCH if transfer.to_host => {
                Packet::take(number, transfer.len)
            }
            kind::NORMAL | kind::DATA | kind::ISOCH => {
                Packet::out(number, transfer.gather(&self.wires.dma))
            }
            kind::NO_OP | kind::EVENT_DATA => {
                self.complete(slot, id, &transfer, 0);
                return Ok(Step::Done);
            }
            _ => {
                self.refuse(slot, id, &transfer, code::TRB);
                return Ok(Step::Done);
            }
        };
        let reply = match self.function(slot) {
            Some(device) => device.handle(&mut packet),
            None => Reply::Silence,
        };
        match reply {
            Reply::Done if transfer.to_host => {
                transfer.scatter(&self.wires.dma, &packet.data);
                self.complete(slot, id, &transfer, packet.data.len());
            }
            Reply::Done => self.complete(slot, id, &transfer, transfer.len),
            Reply::Nak => {
                if let Some(endpoint) = self.endpoint(slot, id) {
                    endpoint.waiting = true;
                }
                return Ok(Step::Idle);
            }
            Reply::Stall => self.refuse(slot, id, &transfer, code::STALL),
            Reply::Babble => self.refuse(slot, id, &transfer, code::BABBLE),
            Reply::Silence => self.refuse(slot, id, &transfer, code::TRANSACTION),
        }
        Ok(Step::Done)
    }

    /// A transfer was done, `actual` bytes of it.
    fn complete(&mut self, slot: usize, id: usize, transfer: &Transfer, actual: usize) {
        let Some(endpoint) = self.endpoint(slot, id) else { return };
        endpoint.ring = transfer.after;
        let mut left = actual;
        let mut short = false;
        let mut told = false;
        for trb in &transfer.blocks {
            if trb.kind() == kind::EVENT_DATA {
                if !told && trb.has(flag::INTERRUPT_ON_COMPLETION) {
                    let len = self.endpoint(slot, id).map_or(0, |endpoint| endpoint.transferred);
                    let code = if short { code::SHORT_PACKET } else { code::SUCCESS };
                    self.tell(slot, id, trb, code, len);
                }
                if let Some(endpoint) = self.endpoint(slot, id) {
                    endpoint.transferred = 0;
                }
                continue;
            }
            let here = trb.len().min(left);
            left -= here;
            if let Some(endpoint) = self.endpoint(slot, id) {
                endpoint.transferred = endpoint.transferred.saturating_add(here as u32);
            }
            short |= here < trb.len() && transfer.to_host;
            let wanted = trb.has(flag::INTERRUPT_ON_COMPLETION)
                || short && trb.has(flag::INTERRUPT_ON_SHORT);
            // A transfer that came up short is told once.
            if wanted && !(told && short) {
                let code = if short { code::SHORT_PACKET } else { code::SUCCESS };
                self.tell(slot, id, trb, code, (trb.len() - here) as u32);
                told |= short;
            }
        }
    }

    /// A transfer ends with an error: the endpoint halts where it is, so that the driver may have it
    /// tried again (4.6.8.1).
    fn refuse(&mut self, slot: usize, id: usize, transfer: &Transfer, code: u8) {
        if let Some(endpoint) = self.endpoint(slot, id) {
            endpoint.state = EndpointState::Halted;
            endpoint.transferred = 0;
        }
        self.publish(slot, id);
        let first = transfer.first();
        self.tell(slot, id, &first, code, transfer.len as u32);
    }

    /// The driver stops an endpoint whose transfer has to wait.
    pub(super) fn report_stopped(&mut self, slot: usize, id: usize) {
        let Some(endpoint) = self.endpoint(slot, id) else { return };
        let ring = endpoint.ring;
        if let Ok(Some(transfer)) = Transfer::take(&self.wires.dma, ring, id) {
            let first = transfer.first();
            self.tell(slot, id, &first, code::STOPPED, first.len() as u32);
        }
    }

    fn tell(&mut self, slot: usize, id: usize, trb: &Trb, code: u8, len: u32) {
        let own = trb.kind() == kind::EVENT_DATA;
        let event = Event {
            kind: kind::TRANSFER_EVENT,
            code,
            parameter: if own { trb.parameter } else { trb.at },
            len,
            flags: if own { flag::EVENT_DATA } else { 0 },
            slot,
            endpoint: id,
        };
        self.post(trb.interrupter(), event);
    }
}
