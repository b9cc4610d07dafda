//! `cfi.pflash01`: a flash memory chip with Intel's command set (JEDEC JEP137, command set 1), as boards
//! hold their firmware and its variables in.
//!
//! Reads come straight from memory until the guest writes a command; then the chip answers them until it
//! is sent back to its array. What is programmed or erased goes to the back end by itself, one request at
//! a time, so that later bytes never overtake earlier ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, RamBlock, Region};
use block::backend::{Backend, Request, Use};
use block::engine::block_on;
use block::vector::Vector;
use parking_lot::Mutex;

/// What is erased at once.
pub const SECTOR: u64 = 4096;
/// What a request to the back end consists of.
const PIECE: u64 = 512;
/// Most bytes of one request.
const MOST_PIECES: u64 = 128;
/// The programming buffer holds this many bytes, as the query says: 2 to the power of 8 and more.
const BUFFER: u64 = 2048;

/// The chip is ready.
const READY: u8 = 0x80;
/// Erasing failed.
const ERASE_ERROR: u8 = 0x20;
/// Programming failed.
const PROGRAM_ERROR: u8 = 0x10;

/// Commands.
mod command {
    pub const READ_ARRAY: [u8; 3] = [0x00, 0xf0, 0xff];
    pub const PROGRAM: [u8; 2] = [0x10, 0x40];
    pub const ERASE: u8 = 0x20;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK: u8 = 0x60;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_ID: u8 = 0x90;
    pub const QUERY: u8 = 0x98;
    pub const PROGRAM_BUFFER: u8 = 0xe8;
    pub const CONFIRM: u8 = 0xd0;
    pub const SET_LOCK: u8 = 0x01;
}

/// Where the chip is in a sequence of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Reads come from memory.
    Array,
    Status,
    Id,
    Query,
    /// The next write is programmed.
    Program,
    /// The next write confirms, or not.
    Erase,
    Lock,
    /// The next write is the number of bytes, less one.
    Count,
    /// So many writes follow.
    Fill(u64),
    /// The buffer is full.
    Confirm,
}

/// A chip.
pub struct Pflash {
    block: Arc<RamBlock>,
    store: Arc<Store>,
    read_only: bool,
    /// Switched between memory and registers.
    region: Option<Region>,
    st: State,
}

struct State {
    mode: Mode,
    status: u8,
    /// Programmed together when they are confirmed: (offset, size, value).
    buffer: Vec<(u64, u8, u64)>,
}

impl State {
    fn at_reset() -> Self {
        State { mode: Mode::Array, status: 0, buffer: Vec::new() }
    }
}

/// Why a chip cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PflashError {
    /// Its contents cannot be read.
    #[error("failed to read the initial flash content: {0}")]
    Contents(block::Error),
    /// Its back end is another device's.
    #[error(transparent)]
    Backend(#[from] block::Error),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] base::memory::RamError),
}

/// Brings what has changed to the back end.
struct Store {
    backend: Arc<Backend>,
    block: Arc<RamBlock>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// Numbers of the pieces that differ from what the back end has.
    pieces: BTreeSet<u64>,
    busy: bool,
}

impl Store {
    fn touch(self: &Arc<Self>, at: u64, len: u64) {
        let mut pending = self.pending.lock();
        pending.pieces.extend(at / PIECE..=(at + len - 1) / PIECE);
        if !pending.busy {
            pending.busy = true;
            drop(pending);
            self.write_next();
        }
    }

    /// Writes neighbours that are pending; others follow when that is done.
    fn write_next(self: &Arc<Self>) {
        let mut pending = self.pending.lock();
        let Some(first) = pending.pieces.pop_first() else {
            pending.busy = false;
            return;
        };
        let mut end = first + 1;
        while end - first < MOST_PIECES && pending.pieces.remove(&end) {
            end += 1;
        }
        drop(pending);
        let at = first * PIECE;
        let mut bytes = vec![0; ((end * PIECE).min(self.block.len()) - at) as usize];
        self.block.read(at, &mut bytes);
        let me = self.clone();
        let request = Request::Write { at, from: Vector::from(&bytes[..]), fua: false };
        self.backend.submit(
            request,
            Box::new(move |result| {
                if let Err(error) = result {
                    base::error_report!("could not update the contents of flash memory: {error}");
                }
                me.write_next();
            }),
        );
    }
}

impl Pflash {
    /// A chip with the contents of a back end, whose length is its own; also its memory.
    pub fn create(
        name: &str,
        backend: Arc<Backend>,
        path: &str,
    ) -> Result<(Shared<Self>, Region, Arc<RamBlock>), PflashError> {
        let what = Use { path: path.into(), needs_medium: true, writes: true, ..Use::default() };
        backend.plug(what, None)?;
        let len = backend.len()?;
        let block = Arc::new(RamBlock::anonymous(name, len)?);
        if let Some(node) = backend.node() {
            let bytes =
                block_on(node.read_bytes(0, len as usize)).map_err(PflashError::Contents)?;
            block.write(0, &bytes);
        }
        let read_only = backend.is_read_only();
        let store = Arc::new(Store { backend, block: block.clone(), pending: Mutex::default() });
        let chip = device::share(|_| Pflash {
            block: block.clone(),
            store,
            read_only,
            region: None,
            st: State::at_reset(),
        });
        let region = device::rom_region(&chip, 0, block.clone(), AccessSizes::UP_TO_DWORD);
        chip.lock().region = Some(region.clone());
        Ok((chip, region, block))
    }

    fn enter(&mut self, mode: Mode) {
        self.st.mode = mode;
        if let Some(region) = &self.region {
            region.set_rom_mode(mode == Mode::Array);
        }
    }

    fn fail(&mut self, error: u8) {
        self.st.status |= READY | error;
        self.enter(Mode::Status);
    }

    fn command(&mut self, value: u8) {
        match value {
            value if command::PROGRAM.contains(&value) => self.enter(Mode::Program),
            command::ERASE => self.enter(Mode::Erase),
            command::CLEAR_STATUS => {
                self.st.status = 0;
                self.enter(Mode::Array);
            }
            command::LOCK => {
                self.st.status |= READY;
                self.enter(Mode::Lock);
            }
            command::READ_STATUS => self.enter(Mode::Status),
            command::READ_ID => self.enter(Mode::Id),
            command::QUERY => self.enter(Mode::Query),
            command::PROGRAM_BUFFER => {
                self.st.status |= READY;
                self.enter(Mode::Count);
            }
            value => {
                if !command::READ_ARRAY.contains(&value) {
                    base::guest_error!("cfi.pflash01: unknown command {value:#04x}");
                }
                self.enter(Mode::Array);
            }
        }
    }

    fn program(&mut self, offset: u64, size: u8, value: u64) {
        if self.read_only {
            return self.fail(PROGRAM_ERROR);
        }
        self.block.write_uint(offset, size, value);
        self.store.touch(offset, size.into());
        self.st.status |= READY;
        self.enter(Mode::Status);
    }

    fn erase(&mut self, offset: u64) {
        if self.read_only {
            return self.fail(ERASE_ERROR);
        }
        let at = offset - offset % SECTOR;
        self.block.write(at, &[0xff; SECTOR as usize]);
        self.store.touch(at, SECTOR);
        self.st.status |= READY;
        self.enter(Mode::Status);
    }

    /// A byte of the query's answer (JEP137, and JESD68 for its frame).
    fn query(&self, offset: u64) -> u8 {
        let blocks = self.block.len() / SECTOR - 1;
        match offset {
            // The command set, and where its own table is.
            0x10..=0x15 => b"QRY\x01\x00\x31"[offset as usize - 0x10],
            // Voltages, and times as powers of two.
            0x1b..=0x26 => [0x45, 0x55, 0, 0, 7, 7, 0x0a, 0, 4, 4, 4, 0][offset as usize - 0x1b],
            0x27 => self.block.len().trailing_zeros() as u8,
            // Eight or sixteen bits wide.
            0x28 => 2,
            // The buffer; it grows with the width.
            0x2a => 8,
            // One region, of blocks of one size.
            0x2c => 1,
            0x2d => blocks as u8,
            0x2e => (blocks >> 8) as u8,
            0x2f => (SECTOR >> 8) as u8,
            0x30 => (SECTOR >> 16) as u8,
            0x31..=0x35 => b"PRI10"[offset as usize - 0x31],
            0x3f => 1,
            _ => 0,
        }
    }
}

impl Device for Pflash {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        match self.st.mode {
            Mode::Array => self.block.read_uint(offset, size),
            // Neither maker nor device have a number.
            Mode::Id => 0,
            Mode::Query => {
                let byte = |i: u8| u64::from(self.query(offset + u64::from(i))) << (8 * i);
                (0..size).map(byte).sum()
            }
            // Two chips side by side answer wide reads.
            _ => {
                let status = u64::from(self.st.status);
                if size > 2 { status | status << 16 } else { status }
            }
        }
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        let byte = value as u8;
        match self.st.mode {
            Mode::Array | Mode::Status | Mode::Id | Mode::Query => self.command(byte),
            Mode::Program => self.program(offset, size, value),
            Mode::Erase if byte == command::CONFIRM => self.erase(offset),
            Mode::Lock if [command::CONFIRM, command::SET_LOCK].contains(&byte) => {
                // Nothing is ever locked.
                self.st.status |= READY;
                self.enter(Mode::Status);
            }
            Mode::Erase | Mode::Lock => self.enter(Mode::Array),
            Mode::Count => {
                self.st.buffer.clear();
                let count = (value & 0xffff) + 1;
                self.enter(if count > BUFFER { Mode::Array } else { Mode::Fill(count) });
            }
            Mode::Fill(left) => {
                self.st.buffer.push((offset, size, value));
                let left = left.saturating_sub(size.into());
                self.enter(if left > 0 { Mode::Fill(left) } else { Mode::Confirm });
            }
            Mode::Confirm if byte == command::CONFIRM => {
                self.st.status |= READY;
                self.enter(Mode::Status);
                for (offset, size, value) in std::mem::take(&mut self.st.buffer) {
                    self.program(offset, size, value);
                }
            }
            Mode::Confirm => self.fail(PROGRAM_ERROR),
        }
    }

    fn reset(&mut self) {
        self.st = State::at_reset();
        self.enter(Mode::Array);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::backend::{DriveInfo, Event, EventSink, Helper};
    use block::engine::Inline;
    use block::file::{Access, HostFile};
    use block::node::Node;

    struct Deaf;

    impl EventSink for Deaf {
        fn tell(&self, _: Event) {}
    }

    fn chip(file: &std::path::Path, read_only: bool) -> (Shared<Pflash>, Arc<Backend>) {
        let path = file.to_str().unwrap();
        let access = Access { read_only, ..Access::default() };
        let host = HostFile::open(path, access, Arc::new(Inline)).unwrap();
        let node = Node::new(None, path, read_only, Box::new(host), Vec::new());
        let events: Arc<dyn EventSink> = Arc::new(Deaf);
        let helper = Helper::new().unwrap();
        let backend = Backend::new("f", DriveInfo::default(), &helper, &events);
        backend.set_node(Some(node)).unwrap();
        let (chip, _, _) = Pflash::create("system.flash0", backend.clone(), "/f").unwrap();
        (chip, backend)
    }

    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x5a; 2 * SECTOR as usize]).unwrap();
        file
    }

    #[test]
    fn what_is_programmed_and_erased_reaches_the_image() {
        let file = image();
        let (chip, backend) = chip(file.path(), false);
        let mut flash = chip.lock();
        for (at, value) in [(16, 0x10), (16, 0xa5), (0, 0x70)] {
            flash.write(0, at, 1, value);
        }
        assert_eq!((flash.read(0, 0, 1), flash.read(0, 0, 4)), (0x80, 0x80_0080));
        for (at, value) in [(SECTOR + 8, 0x20), (SECTOR + 8, 0xd0)] {
            flash.write(0, at, 1, value);
        }
        for (at, value) in [(32, 0xe8), (32, 1), (32, 0x11), (33, 0x22), (32, 0xd0), (0, 0xff)] {
            flash.write(0, at, 1, value);
        }
        assert_eq!((flash.read(0, 16, 1), flash.read(0, 32, 2)), (0xa5, 0x2211));
        drop(flash);
        backend.drain();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!((bytes[15], bytes[16], bytes[17]), (0x5a, 0xa5, 0x5a));
        assert_eq!(bytes[32..35], [0x11, 0x22, 0x5a]);
        assert!(bytes[SECTOR as usize..].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn a_chip_that_cannot_be_written_says_so() {
        let file = image();
        let (chip, _) = chip(file.path(), true);
        let mut flash = chip.lock();
        flash.write(0, 16, 1, 0x40);
        flash.write(0, 16, 1, 0xa5);
        assert_eq!(flash.read(0, 0, 1), u64::from(READY | PROGRAM_ERROR));
        flash.write(0, 0, 1, 0x50);
        assert_eq!(flash.read(0, 16, 1), 0x5a);
    }

    /// As QEMU 10.0's chip of 528 KiB answers.
    #[test]
    fn the_query_says_what_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(528 << 10).unwrap();
        let (chip, _) = chip(file.path(), false);
        let mut flash = chip.lock();
        flash.write(0, 0, 1, 0x98);
        let bytes: Vec<u8> = (0x10..0x40).map(|at| flash.read(0, at, 1) as u8).collect();
        let wanted = [
            0x51, 0x52, 0x59, 0x01, 0x00, 0x31, 0, 0, 0, 0, 0, 0x45, 0x55, 0, 0, 0x07, 0x07, 0x0a,
            0, 0x04, 0x04, 0x04, 0, 0x0e, 0x02, 0, 0x08, 0, 0x01, 0x83, 0, 0x10, 0, 0x50, 0x52,
            0x49, 0x31, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
        ];
        assert_eq!(bytes, wanted);
    }
}
