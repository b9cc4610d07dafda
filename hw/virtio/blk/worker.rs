//! Takes requests from a queue, hands them to the back end, and returns them when they are done.

use std::sync::Arc;

use base::event_loop::LoopHandle;
use block::Error;
use block::backend::{ErrorAction, Operation, Request};
use block::vector::Vector;

use super::disk::Disk;
use super::request::{self, Segment, Status, Wish};
use crate::virtio::{Chain, VirtQueue};

/// Bytes of an identification.
const SERIAL: usize = 20;
/// What requests for neighbouring sectors are merged into, at most: buffers and bytes.
const MAX_MERGED: usize = 1024;
const MAX_MERGED_LEN: u64 = 4 << 20;

/// Serves one queue.
pub(super) struct Worker {
    disk: Arc<Disk>,
    queue: Arc<VirtQueue>,
}

/// A transfer that has not begun.
struct Transfer {
    chain: Chain,
    write: bool,
    at: u64,
    memory: Vec<base::memory::RamPiece>,
    len: u64,
}

impl Worker {
    /// A worker on a thread's event loop.
    pub fn start(disk: &Arc<Disk>, queue: &Arc<VirtQueue>, thread: &LoopHandle) -> Arc<Self> {
        let worker = Arc::new(Worker { disk: disk.clone(), queue: queue.clone() });
        // The queue keeps the bottom half, so that must not keep the worker.
        let me = Arc::downgrade(&worker);
        let serve = thread.bottom_half(move || {
            if let Some(worker) = me.upgrade() {
                worker.serve();
            }
        });
        queue.on_kick(move || serve.schedule());
        worker
    }

    fn serve(self: &Arc<Self>) {
        let mut transfers = Vec::new();
        self.queue.serve(|chain| self.take(chain, &mut transfers));
        self.transfer(transfers);
    }

    /// Begins a request; transfers are collected, so that neighbours can be merged.
    fn take(self: &Arc<Self>, chain: Chain, transfers: &mut Vec<Transfer>) {
        let Some(wish) = request::parse(&chain) else {
            return self.queue.refuse("a block request without a header or a status");
        };
        match wish {
            Wish::Read { at, len } => self.collect(chain, false, at, len, transfers),
            Wish::Write { at, len } => self.collect(chain, true, at, len, transfers),
            Wish::Flush => {
                self.transfer(std::mem::take(transfers));
                self.submit(vec![chain], Request::Flush);
            }
            Wish::Identify => {
                let mut serial = self.disk.shown.serial.clone();
                serial.truncate(SERIAL);
                serial.resize(SERIAL, 0);
                serial.truncate(request::data_in_len(&chain).min(SERIAL as u64) as usize);
                chain.write(0, &serial);
                self.answer(chain, Status::Ok, serial.len() as u64);
            }
            Wish::Discard(segment) => {
                let limit = self.disk.shown.max_discard;
                let request = Request::Discard { at: segment.at, len: segment.len() };
                self.change(chain, segment, limit, request);
            }
            Wish::WriteZeroes(segment) => {
                let limit = self.disk.shown.max_zeroes;
                let Segment { at, unmap, .. } = segment;
                let request = Request::Zeroes { at, len: segment.len(), unmap };
                self.change(chain, segment, limit, request);
            }
            Wish::Nothing(status) => self.answer(chain, status, 0),
        }
    }

    /// Discards or zeroes, if that is possible.
    fn change(self: &Arc<Self>, chain: Chain, segment: Segment, limit: u32, request: Request) {
        if limit == 0 {
            return self.answer(chain, Status::Unsupported, 0);
        }
        let disk = &self.disk;
        let possible = segment.sectors <= limit && disk.takes(segment.at, segment.len());
        if !possible || disk.backend.is_read_only() {
            return self.answer(chain, Status::Failed, 0);
        }
        self.submit(vec![chain], request);
    }

    fn collect(
        self: &Arc<Self>,
        chain: Chain,
        write: bool,
        at: u64,
        len: u64,
        transfers: &mut Vec<Transfer>,
    ) {
        if !self.disk.takes(at, len) || write && self.disk.backend.is_read_only() {
            return self.answer(chain, Status::Failed, 0);
        }
        match memory(&chain, write) {
            Some(memory) => transfers.push(Transfer { chain, write, at, memory, len }),
            // A buffer that is not in RAM.
            None => self.answer(chain, Status::Failed, 0),
        }
    }

    /// Begins transfers, those of neighbouring sectors as one.
    fn transfer(self: &Arc<Self>, mut transfers: Vec<Transfer>) {
        let merges = self.disk.shown.merges;
        if merges {
            transfers.sort_by_key(|transfer| (transfer.write, transfer.at));
        }
        let mut rest = transfers.into_iter().peekable();
        while let Some(first) = rest.next() {
            let Transfer { chain, write, at, mut memory, mut len } = first;
            let mut chains = vec![chain];
            while let Some(next) = rest.next_if(|next| {
                merges
                    && next.write == write
                    && next.at == at + len
                    && memory.len() + next.memory.len() <= MAX_MERGED
                    && len + next.len <= MAX_MERGED_LEN
            }) {
                chains.push(next.chain);
                memory.extend(next.memory);
                len += next.len;
            }
            let memory = Vector::guest(memory);
            let request = match write {
                true => Request::Write { at, from: memory, fua: false },
                false => Request::Read { at, into: memory },
            };
            self.submit(chains, request);
        }
    }

    fn submit(self: &Arc<Self>, chains: Vec<Chain>, request: Request) {
        let me = self.clone();
        let again = request.clone();
        let done = move |result| me.done(chains, again, result);
        self.disk.backend.submit(request, Box::new(done));
    }

    fn done(self: &Arc<Self>, chains: Vec<Chain>, request: Request, result: Result<(), Error>) {
        let operation = match request {
            Request::Read { .. } => Operation::Read,
            _ => Operation::Write,
        };
        let status = match result {
            Ok(()) => Status::Ok,
            Err(error) => match self.disk.backend.on_error(operation, &error) {
                ErrorAction::Report => Status::Failed,
                ErrorAction::Ignore => Status::Ok,
                ErrorAction::Stop => {
                    let me = self.clone();
                    let retry = Box::new(move || me.submit(chains, request));
                    return self.disk.backend.park(retry);
                }
            },
        };
        for chain in chains {
            let read = if operation == Operation::Read { request::data_in_len(&chain) } else { 0 };
            self.answer(chain, status, read);
        }
    }

    /// Returns a chain, `data` bytes of which have been written besides the status.
    fn answer(&self, chain: Chain, status: Status, data: u64) {
        let written = request::finish(&chain, status, data);
        self.queue.push(chain, written);
    }
}

/// The memory of a transfer, if all of it is RAM.
fn memory(chain: &Chain, write: bool) -> Option<Vec<base::memory::RamPiece>> {
    let dma = chain.memory();
    let mut pieces = Vec::new();
    let mut add = |buffer: crate::virtio::queue::Buffer| {
        // What is written to the disk is read from memory.
        pieces.extend(dma.ram_pieces(buffer.addr, buffer.len as usize, !write)?);
        Some(())
    };
    match write {
        true => request::data_out(chain).try_for_each(&mut add)?,
        false => request::data_in(chain).try_for_each(&mut add)?,
    }
    Some(pieces)
}
