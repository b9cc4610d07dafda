//! Commands that move sectors: by DMA or through the FIFO, a sector at a time (82078 datasheet, 5.1).

use base::state::{State, StateError};
use block::backend::{ErrorAction, Operation, Request};
use block::vector::Vector;

use super::{Fdc, FloppyDrive, Phase, SIZE_CODE, dor, st0, st1};

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Bytes that name a sector when it is formatted.
const IDENTIFIER: usize = 4;
/// Option of commands: go on at the other side.
const MULTITRACK: u8 = 1 << 7;

/// What is done with sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Action {
    #[default]
    Read,
    Write,
    /// So many sectors are filled with a byte.
    Format {
        left: u8,
        filler: u8,
    },
}

/// A command under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub(super) struct Transfer {
    action: Action,
    multitrack: bool,
    /// The sector that is next.
    cylinder: u8,
    head: u8,
    sector: u8,
    /// The last sector of a track.
    last: u8,
    /// The head has moved.
    sought: bool,
    /// The DMA controller has said that it is enough.
    ended: bool,
    buffer: Vec<u8>,
    position: usize,
}

impl Transfer {
    pub(super) fn check(&self) -> Result<(), StateError> {
        if self.position > self.buffer.len() {
            return Err(StateError::invalid("data lie outside of the buffer"));
        }
        Ok(())
    }

    /// Goes on to the next sector; says whether that is on another cylinder.
    fn advance(&mut self) -> bool {
        if self.sector != self.last {
            self.sector = self.sector.wrapping_add(1);
            return false;
        }
        self.sector = 1;
        if self.multitrack && self.head == 0 {
            self.head = 1;
            return false;
        }
        if self.multitrack {
            self.head = 0;
        }
        self.cylinder = self.cylinder.wrapping_add(1);
        self.sought = true;
        true
    }
}

impl Fdc {
    pub(super) fn read_sectors(&mut self, bytes: &[u8]) {
        self.begin(Action::Read, bytes);
    }

    pub(super) fn write_sectors(&mut self, bytes: &[u8]) {
        self.begin(Action::Write, bytes);
    }

    /// Finds the command's first sector; says whether there is a disk to go on with.
    fn find(&mut self, action: Action, bytes: &[u8]) -> bool {
        let &[code, select, cylinder, head, sector, _, last, ..] = bytes else { return false };
        self.select(select);
        if !self.selected().is_some_and(FloppyDrive::present) {
            self.find_nothing(st0::ABNORMAL, bytes);
            return false;
        }
        self.drive().last_sector = last;
        let sought = self.move_head(cylinder);
        self.st.transfer = Transfer {
            action,
            multitrack: code & MULTITRACK != 0,
            cylinder,
            head,
            sector,
            last,
            sought,
            ..Transfer::default()
        };
        self.st.phase = Phase::Transfer;
        if !self.has_readable_disk() {
            self.refuse(st1::NO_ADDRESS);
            return false;
        }
        true
    }

    fn begin(&mut self, action: Action, bytes: &[u8]) {
        if !self.find(action, bytes) {
            return;
        }
        if action != Action::Read && !self.selected().is_some_and(FloppyDrive::writable) {
            return self.refuse(st1::NOT_WRITABLE);
        }
        self.next_sector();
    }

    /// Reads without moving data: every sector of a disk is good.
    pub(super) fn verify_sectors(&mut self, bytes: &[u8]) {
        if self.find(Action::Read, bytes) {
            // Counts up to the end of the track, which wraps at the latest.
            while !self.st.transfer.advance() {}
            self.finish();
        }
    }

    pub(super) fn format(&mut self, bytes: &[u8]) {
        let &[_, select, size, left, _, filler] = bytes else { return };
        self.select(select);
        let (cylinder, head) = (self.drive().track, select >> 2 & 1);
        if !self.selected().is_some_and(FloppyDrive::present) {
            return self.fail(st0::ABNORMAL, 0, [cylinder, 0, 1, size]);
        }
        let action = Action::Format { left, filler };
        self.st.transfer = Transfer { action, cylinder, head, sector: 1, ..Transfer::default() };
        self.st.phase = Phase::Transfer;
        if !self.selected().is_some_and(FloppyDrive::writable) {
            return self.refuse(st1::NOT_WRITABLE);
        }
        self.next_sector();
    }

    /// Ends the command at the present sector.
    fn refuse(&mut self, status1: u8) {
        let Transfer { cylinder, head, sector, .. } = self.st.transfer;
        let status = st0::ABNORMAL | (head & 1) << 2;
        self.fail(status, status1, [cylinder, head, sector, SIZE_CODE]);
        self.st.transfer = Transfer::default();
    }

    fn finish(&mut self) {
        let Transfer { cylinder, head, sector, sought, .. } = self.st.transfer;
        let moved = if sought { st0::SEEK_END } else { 0 };
        self.interrupt(moved | (head & 1) << 2);
        self.answer(&[self.st.status, 0, 0, cylinder, head, sector, SIZE_CODE]);
        self.st.transfer = Transfer::default();
    }

    fn uses_dma(&self) -> bool {
        self.st.output & dor::DMA != 0
    }

    /// Where the sector that is next is on the disk.
    fn place(&self) -> Option<u64> {
        let Transfer { cylinder, head, sector, .. } = self.st.transfer;
        let number = self.selected()?.format.sector(cylinder, head, sector)?;
        Some(number * SECTOR as u64)
    }

    /// Why the sector that is next is not there.
    fn no_such_sector(&mut self) {
        let sectors = self.selected().map_or(0, |drive| drive.format.sectors);
        let beyond = self.st.transfer.sector > sectors;
        self.refuse(if beyond { st1::END_OF_CYLINDER } else { st1::NO_DATA });
    }

    fn next_sector(&mut self) {
        match self.st.transfer.action {
            Action::Read => match self.place() {
                Some(at) => {
                    let into = Vector::zeroed(SECTOR);
                    let request = Request::Read { at, into: into.clone() };
                    self.submit(request, Operation::Read, Some(into));
                }
                None => self.no_such_sector(),
            },
            Action::Write if self.place().is_none() => self.no_such_sector(),
            Action::Write => self.want_data(SECTOR),
            Action::Format { left: 0, .. } => self.finish(),
            Action::Format { .. } => self.want_data(IDENTIFIER),
        }
    }

    /// Gets data from the host, by whichever way.
    fn want_data(&mut self, len: usize) {
        let by_dma = self.uses_dma();
        let transfer = &mut self.st.transfer;
        transfer.buffer = vec![0; len];
        transfer.position = 0;
        if !by_dma {
            self.st.phase = Phase::DataOut;
            return self.irq.raise();
        }
        let Some(dma) = &self.dma else { return self.refuse(st1::OVERRUN) };
        let moved = dma.read(&mut transfer.buffer);
        transfer.ended = moved.terminal_count;
        if moved.bytes < len && !moved.terminal_count {
            return self.refuse(st1::OVERRUN);
        }
        self.data_given();
    }

    /// The host writes a byte.
    pub(super) fn give_data(&mut self, value: u8) {
        let transfer = &mut self.st.transfer;
        if let Some(place) = transfer.buffer.get_mut(transfer.position) {
            *place = value;
            transfer.position += 1;
        }
        if transfer.position >= transfer.buffer.len() {
            self.st.phase = Phase::Transfer;
            self.data_given();
        }
    }

    fn data_given(&mut self) {
        let data = std::mem::take(&mut self.st.transfer.buffer);
        self.st.transfer.position = 0;
        let from = match (self.st.transfer.action, data.get(2)) {
            (Action::Format { filler, .. }, Some(&sector)) => {
                self.st.transfer.sector = sector;
                Vector::from(&[filler; SECTOR][..])
            }
            _ => Vector::from(&data[..]),
        };
        match self.place() {
            Some(at) => {
                self.submit(Request::Write { at, from, fua: false }, Operation::Write, None)
            }
            None => self.no_such_sector(),
        }
    }

    fn submit(&mut self, request: Request, operation: Operation, data: Option<Vector>) {
        let Some(backend) = self.selected().map(|drive| drive.backend.clone()) else {
            return self.refuse(st1::NO_DATA);
        };
        self.request += 1;
        let (me, number) = (self.me.clone(), self.request);
        backend.submit(
            request,
            Box::new(move |result| {
                if let Some(fdc) = me.upgrade() {
                    fdc.lock().request_ended(number, operation, data, result);
                }
            }),
        );
    }

    fn request_ended(
        &mut self,
        number: u64,
        operation: Operation,
        data: Option<Vector>,
        result: block::Result<()>,
    ) {
        if number != self.request || self.st.phase != Phase::Transfer {
            return;
        }
        if let (Err(error), Some(backend)) =
            (result, self.selected().map(|drive| drive.backend.clone()))
            && backend.on_error(operation, &error) != ErrorAction::Ignore
        {
            return self.refuse(st1::DATA_ERROR);
        }
        match data {
            Some(data) => self.sector_read(data.to_vec()),
            None => self.sector_passed(),
        }
    }

    fn sector_read(&mut self, data: Vec<u8>) {
        if !self.uses_dma() {
            let transfer = &mut self.st.transfer;
            (transfer.buffer, transfer.position) = (data, 0);
            self.st.phase = Phase::DataIn;
            return self.irq.raise();
        }
        let Some(dma) = &self.dma else { return self.refuse(st1::OVERRUN) };
        let moved = dma.write(&data);
        self.st.transfer.ended = moved.terminal_count;
        if moved.bytes == data.len() {
            self.sector_passed();
        } else if moved.terminal_count {
            self.finish();
        } else {
            self.refuse(st1::OVERRUN);
        }
    }

    /// The host reads a byte.
    pub(super) fn take_data(&mut self) -> u8 {
        let transfer = &mut self.st.transfer;
        let byte = transfer.buffer.get(transfer.position).copied().unwrap_or(0);
        transfer.position += 1;
        if transfer.position >= transfer.buffer.len() {
            transfer.buffer.clear();
            transfer.position = 0;
            self.st.phase = Phase::Transfer;
            self.sector_passed();
        }
        byte
    }

    /// A sector has been moved.
    fn sector_passed(&mut self) {
        let transfer = &mut self.st.transfer;
        if let Action::Format { left, .. } = &mut transfer.action {
            *left = left.saturating_sub(1);
            if *left == 0 || transfer.ended {
                transfer.sector = 1;
                self.finish();
            } else {
                self.next_sector();
            }
        } else if transfer.advance() || transfer.ended {
            self.finish();
        } else {
            self.next_sector();
        }
    }
}
