//! A device on a channel: what it is, its registers, and what all kinds of devices do alike.
//!
//! A drive does no I/O. It says what it needs done next ([`Drive::job`]); whoever owns it does that and
//! reports the end ([`Drive::job_done`]). A job stays where it is until it has ended, so it can be
//! started anew after the machine was paused or saved in the middle of it.

use base::state::{State, StateError};

use super::packet::PacketState;
use super::smart::SmartState;
use super::spec::{MAX_MULTIPLE, SECTOR, command, error, reg, status};
use super::taskfile::{Taskfile, Width};
use crate::storage::props::Geometry;

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing at all. The place has registers, and refuses every command.
    Nothing,
    /// A hard disk.
    Disk,
    /// A CompactFlash card.
    CompactFlash,
    /// A CD or DVD drive, which takes packets.
    Cdrom,
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its kind.
    pub kind: Kind,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Revision of its firmware.
    pub version: String,
    /// World wide name; zero for none.
    pub wwn: u64,
    /// Cylinders, heads and sectors.
    pub geometry: Geometry,
    /// Logarithm of how many sectors a physical one has.
    pub physical_block_exponent: u8,
    /// Turns per minute; 1 for no disk that turns, 0 for unknown.
    pub rotation_rate: u16,
    /// Whether it takes TRIM.
    pub trim: bool,
    /// Whether writes may be acknowledged early when it is made.
    pub write_cache: bool,
}

impl Config {
    /// A device without names.
    pub fn plain(kind: Kind) -> Self {
        Config {
            kind,
            serial: String::new(),
            model: String::new(),
            version: String::new(),
            wwn: 0,
            geometry: Geometry { cylinders: 0, heads: 16, sectors: 63 },
            physical_block_exponent: 0,
            rotation_rate: 0,
            trim: false,
            write_cache: true,
        }
    }
}

/// Something to be done for a drive. Addresses and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[allow(missing_docs)]
pub enum Job {
    /// Append this part of the medium to the buffer.
    Read { at: u64, len: usize },
    /// Store the buffer on the medium.
    Write { at: u64 },
    /// Move a part of the medium to guest memory, by the bus master.
    ReadDma { at: u64, len: usize },
    /// Move guest memory to the medium, by the bus master.
    WriteDma { at: u64, len: usize },
    /// Append guest memory to the buffer, by the bus master.
    Fetch { len: usize },
    /// Move the buffer to guest memory, by the bus master.
    Deliver,
    /// Make what was written last.
    Flush,
    /// Give a part of the medium back.
    Discard { at: u64, len: u64 },
    /// Move the tray.
    MoveTray { open: bool },
}

impl Job {
    /// Whether the guest must have started the bus master.
    pub fn needs_bus_master(&self) -> bool {
        matches!(
            self,
            Job::ReadDma { .. } | Job::WriteDma { .. } | Job::Fetch { .. } | Job::Deliver
        )
    }
}

/// How a job has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well. With bytes, if the buffer was to get some.
    Done(Vec<u8>),
    /// The medium refused.
    Failed,
    /// The bus master's descriptors named too little memory; nothing was moved.
    TooShort,
}

/// A command under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub(super) enum Task {
    /// None.
    #[default]
    None,
    /// The buffer is the answer.
    Answer,
    /// Sectors to the host, some with each interrupt.
    Read { width: Width, left: u32, block: u32 },
    /// Sectors from the host, some with each interrupt.
    Write { width: Width, left: u32, block: u32 },
    /// Sectors by DMA.
    Dma { width: Width, sectors: u32 },
    /// A list of ranges to be trimmed, and how many of them have been.
    Trim { sectors: u32, done: usize },
    /// Waiting for a flush; the command ends well with it.
    Flush,
    /// A flush after which early acknowledgement ends.
    FlushForWriteCache,
    /// Waiting for a command packet, or with one in hand.
    Packet,
}

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(check)]
pub struct DriveState {
    pub(super) taskfile: Taskfile,
    pub(super) status: u8,
    pub(super) error: u8,
    /// Sectors of an interrupt of READ MULTIPLE; zero while that is not allowed.
    pub(super) multiple: u8,
    transfer_mode: u8,
    write_cache: bool,
    /// Data on its way through the data register.
    pub(super) buffer: Vec<u8>,
    /// How much of it has passed.
    pub(super) position: usize,
    /// Where this run through the data register ends.
    pub(super) end: usize,
    pub(super) task: Task,
    pub(super) job: Option<Job>,
    pub(super) smart: SmartState,
    pub(super) packet: PacketState,
    interrupt: bool,
}

impl DriveState {
    fn new(cfg: &Config) -> Self {
        DriveState {
            taskfile: Taskfile::default(),
            status: status::DONE,
            error: 0,
            multiple: initial_multiple(cfg.kind),
            transfer_mode: INITIAL_TRANSFER_MODE,
            write_cache: cfg.write_cache,
            buffer: Vec::new(),
            position: 0,
            end: 0,
            task: Task::None,
            job: None,
            smart: SmartState::default(),
            packet: PacketState::default(),
            interrupt: false,
        }
    }

    fn check(&self) -> Result<(), StateError> {
        if self.position > self.end || self.end > self.buffer.len() {
            return Err(StateError::invalid("data lie outside of the buffer"));
        }
        Ok(())
    }

    /// The mode that SET FEATURES chose.
    pub fn transfer_mode(&self) -> u8 {
        self.transfer_mode
    }

    /// Whether writes may be acknowledged early.
    pub fn write_cache(&self) -> bool {
        self.write_cache
    }
}

/// Sectors of an interrupt that disks begin with; cards want to be told first.
fn initial_multiple(kind: Kind) -> u8 {
    if kind == Kind::Disk { MAX_MULTIPLE } else { 0 }
}

/// Ultra DMA mode 5, which firmware of the host would have chosen.
const INITIAL_TRANSFER_MODE: u8 = 0x45;

/// SET FEATURES.
mod feature {
    pub const WRITE_CACHE: u8 = 0x02;
    pub const TRANSFER_MODE: u8 = 0x03;
    pub const NO_WRITE_CACHE: u8 = 0x82;
    /// Accepted and without effect: power management, look-ahead, defaults at reset, error handling and
    /// the like.
    pub const ACCEPTED: [u8; 12] =
        [0x05, 0x42, 0x55, 0x66, 0x67, 0x69, 0x85, 0x96, 0x9a, 0xaa, 0xc2, 0xcc];
    /// On cards: data move by bytes, or no longer.
    pub const BYTES: [u8; 2] = [0x01, 0x81];
}

/// A device.
pub struct Drive {
    pub(super) cfg: Config,
    /// Sectors of 512 bytes on the medium; none without a medium.
    pub(super) sectors: Option<u64>,
    pub(super) st: DriveState,
    /// A job was given up before it had ended.
    dropped: bool,
}

impl Drive {
    /// A device as after power-up.
    pub fn new(cfg: Config, sectors: Option<u64>) -> Self {
        let st = DriveState::new(&cfg);
        let mut drive = Drive { cfg, sectors, st, dropped: false };
        drive.show_signature();
        drive
    }

    /// The place for a device.
    pub fn nothing() -> Self {
        Self::new(Config::plain(Kind::Nothing), None)
    }

    /// Whether there is a device.
    pub fn exists(&self) -> bool {
        self.cfg.kind != Kind::Nothing
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.cfg
    }

    /// The medium has another length now.
    pub fn set_length(&mut self, sectors: Option<u64>) {
        self.sectors = sectors;
    }

    /// Back to the state after power-up.
    pub fn power_up(&mut self) {
        self.stop();
        let tray_open = self.st.packet.tray_open;
        self.st = DriveState::new(&self.cfg);
        self.st.packet.tray_open = tray_open;
        self.show_signature();
    }

    /// A reset by the control register, or diagnostics.
    pub fn soft_reset(&mut self) {
        self.stop();
        self.show_signature();
        self.st.multiple = initial_multiple(self.cfg.kind);
        self.st.error = error::DIAGNOSTIC_PASSED;
        self.st.status = if self.is_packet() { 0 } else { status::DONE };
    }

    /// Drops what is under way.
    fn stop(&mut self) {
        self.st.task = Task::None;
        self.dropped |= self.st.job.take().is_some();
        self.clear_buffer();
    }

    /// Whether a job was given up since this was last asked. What was begun for it goes on, but its end
    /// is not to be reported.
    pub fn take_dropped(&mut self) -> bool {
        std::mem::take(&mut self.dropped)
    }

    /// Whether it takes packets.
    pub fn is_packet(&self) -> bool {
        self.cfg.kind == Kind::Cdrom
    }

    pub(super) fn show_signature(&mut self) {
        let signature = match self.cfg.kind {
            Kind::Disk | Kind::CompactFlash => 0x0000,
            Kind::Cdrom => 0xeb14,
            Kind::Nothing => 0xffff,
        };
        self.st.taskfile.show_signature(signature);
    }

    /// What is to be done next.
    pub fn job(&self) -> Option<&Job> {
        self.st.job.as_ref()
    }

    /// Data that a job is to store or deliver.
    pub fn buffer(&self) -> &[u8] {
        &self.st.buffer
    }

    /// Whether it has just asked for an interrupt.
    pub fn take_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.st.interrupt)
    }

    pub(super) fn interrupt(&mut self) {
        self.st.interrupt = true;
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        self.st.status
    }

    fn is_engaged(&self) -> bool {
        self.st.status & (status::BUSY | status::DATA_REQUEST) != 0
    }

    /// Reads a register other than data and status.
    pub fn read(&mut self, register: u64, previous: bool) -> u8 {
        match register {
            reg::ERROR if !previous => self.st.error,
            _ => self.st.taskfile.read(register, previous),
        }
    }

    /// Writes a register other than data and command.
    pub fn write(&mut self, register: u64, value: u8) {
        self.st.taskfile.write(register, value);
    }

    /// Whether registers are closed to the guest now.
    pub fn ignores_writes(&self) -> bool {
        self.is_engaged()
    }

    /// A command is written.
    pub fn command(&mut self, code: u8) {
        if self.is_engaged() && !(code == command::DEVICE_RESET && self.is_packet()) {
            return;
        }
        self.stop();
        self.st.error = 0;
        self.st.status = status::DONE;
        match self.cfg.kind {
            Kind::Cdrom => self.packet_device_command(code),
            Kind::Disk | Kind::CompactFlash => self.disk_command(code),
            Kind::Nothing => self.abort(),
        }
    }

    /// Ends a command well.
    pub(super) fn finish(&mut self) {
        self.st.task = Task::None;
        self.st.status = status::DONE;
        self.interrupt();
    }

    /// Ends a command with an error.
    pub(super) fn abort(&mut self) {
        self.stop();
        self.st.error = error::ABORTED;
        self.st.status = status::READY | status::ERROR;
        self.interrupt();
    }

    /// Asks for something; the guest sees that the device is busy.
    pub(super) fn wait_for(&mut self, job: Job) {
        self.st.status = if job.needs_bus_master() {
            status::DONE | status::DATA_REQUEST
        } else {
            status::DONE | status::BUSY
        };
        self.st.job = Some(job);
    }

    pub(super) fn clear_buffer(&mut self) {
        self.st.buffer.clear();
        (self.st.position, self.st.end) = (0, 0);
    }

    /// Offers the next `len` bytes of the buffer at the data register.
    pub(super) fn offer(&mut self, len: usize) {
        self.st.end = self.st.position.saturating_add(len).min(self.st.buffer.len());
        self.st.status = status::DONE | status::DATA_REQUEST;
    }

    /// Takes `len` bytes at the data register.
    pub(super) fn accept(&mut self, len: usize) {
        self.clear_buffer();
        self.st.buffer.resize(len, 0);
        self.offer(len);
    }

    /// Answers with this data at the data register.
    pub(super) fn answer(&mut self, data: Vec<u8>) {
        self.clear_buffer();
        let len = data.len();
        self.st.buffer = data;
        self.st.task = Task::Answer;
        self.offer(len);
        self.interrupt();
    }

    /// Whether data move towards the host.
    fn to_host(&self) -> bool {
        match self.st.task {
            Task::Answer | Task::Read { .. } => true,
            Task::Packet => self.packet_to_host(),
            _ => false,
        }
    }

    fn has_data_request(&self) -> bool {
        self.st.status & status::DATA_REQUEST != 0
    }

    /// Reads the data register.
    pub fn read_data(&mut self) -> u16 {
        if !self.has_data_request() || !self.to_host() {
            return 0;
        }
        let at = self.st.position;
        let byte = |at: usize| if at < self.st.end { self.st.buffer[at] } else { 0 };
        let word = u16::from_le_bytes([byte(at), byte(at + 1)]);
        self.advance();
        word
    }

    /// Writes the data register.
    pub fn write_data(&mut self, value: u16) {
        if !self.has_data_request() || self.to_host() || self.st.position >= self.st.end {
            return;
        }
        let (at, end) = (self.st.position, self.st.end);
        for (place, byte) in self.st.buffer[at..end].iter_mut().zip(value.to_le_bytes()) {
            *place = byte;
        }
        self.advance();
    }

    /// Two more bytes have passed; the last word may be half a one.
    fn advance(&mut self) {
        self.st.position = self.st.position.saturating_add(2).min(self.st.end);
        if self.st.position < self.st.end || self.st.job.is_some() {
            return;
        }
        self.st.status = status::DONE;
        match self.st.task.clone() {
            Task::Read { width, left, block } => self.read_sectors(width, left, block),
            Task::Write { .. } => self.sectors_taken(),
            Task::Packet => self.packet_data_passed(),
            _ => {
                self.st.task = Task::None;
                self.clear_buffer();
            }
        }
    }

    /// What was asked for is done, or could not be.
    pub fn job_done(&mut self, outcome: Outcome) {
        let Some(job) = self.st.job.take() else { return };
        match outcome {
            Outcome::TooShort => {
                // As far as the device knows, the host has lost interest.
                self.stop();
                self.st.status = status::DONE;
                return;
            }
            Outcome::Failed if matches!(self.st.task, Task::Packet) => return self.packet_failed(),
            Outcome::Failed => return self.abort(),
            Outcome::Done(data) => self.st.buffer.extend(data),
        }
        match self.st.task.clone() {
            Task::Read { width, left, block } => self.sectors_read(width, left, block),
            Task::Write { width, left, block } => self.sectors_written(width, left, block),
            Task::Dma { width, sectors } => {
                self.pass(width, sectors);
                self.st.taskfile.set_sectors(0);
                self.finish();
            }
            Task::Trim { sectors, done } => self.trim_next(sectors, done),
            Task::Flush => self.finish(),
            Task::FlushForWriteCache => {
                self.st.write_cache = false;
                self.finish();
            }
            Task::Packet => self.packet_job_done(&job),
            Task::None | Task::Answer => {}
        }
    }

    /// Whether the sectors that a job moves by the bus master are on the medium.
    pub fn covers(&self, job: &Job) -> bool {
        let (Job::ReadDma { at, len } | Job::WriteDma { at, len }) = *job else { return true };
        let end = self.sectors.unwrap_or(0).saturating_mul(SECTOR);
        at.checked_add(len as u64).is_some_and(|last| last <= end)
    }

    /// SET FEATURES.
    pub(super) fn set_features(&mut self) {
        let value = self.st.taskfile.count();
        match self.st.taskfile.features() {
            feature::WRITE_CACHE => {
                self.st.write_cache = true;
                self.finish();
            }
            feature::NO_WRITE_CACHE => {
                self.st.task = Task::FlushForWriteCache;
                self.wait_for(Job::Flush);
            }
            feature::TRANSFER_MODE if matches!(value >> 3, 0 | 1 | 2 | 4 | 8) => {
                self.st.transfer_mode = value;
                self.finish();
            }
            subcommand if feature::ACCEPTED.contains(&subcommand) => self.finish(),
            subcommand
                if self.cfg.kind == Kind::CompactFlash && feature::BYTES.contains(&subcommand) =>
            {
                self.finish();
            }
            _ => self.abort(),
        }
    }

    /// Shows the sector after the next `count`.
    pub(super) fn pass(&mut self, width: Width, count: u32) {
        let geometry = self.cfg.geometry;
        if let Some(sector) = self.st.taskfile.sector(width, geometry) {
            let next = sector.wrapping_add(count.into());
            self.st.taskfile.set_sector(next, width, geometry);
        }
    }

    /// Where `count` sectors from the one that is named are on the medium, if they are.
    pub(super) fn place(&self, width: Width, count: u32) -> Option<u64> {
        let first = self.st.taskfile.sector(width, self.cfg.geometry)?;
        let last = first.checked_add(count.into())?;
        (last <= self.sectors?).then_some(first * SECTOR)
    }

    /// The state, to be saved.
    pub fn state(&self) -> &DriveState {
        &self.st
    }

    /// Takes on a saved state.
    pub fn set_state(&mut self, state: DriveState) {
        self.stop();
        self.st = state;
    }
}
