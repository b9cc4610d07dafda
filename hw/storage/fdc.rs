//! The 82078 floppy disk controller in its AT mode (Intel 82078 datasheet): registers and commands.
//! Commands that move sectors are in `transfer`. Scan commands and deleted data end as if no sector were
//! found.

pub mod formats;
mod transfer;

use std::sync::Arc;

use base::clock::{ClockKind, Clocks, SECOND, Timer};
use base::device::{self, Device, Shared, WeakShared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::state::{State, StateError};
use block::backend::Backend;

use self::formats::{DriveKind, Format};
use self::transfer::Transfer;
use super::ata::channel::sectors;
use crate::dma::i8237::DmaChannel;

/// Place of the registers from the first port on.
pub const REGISTERS: u64 = 1;
/// Place of the digital input and configuration control registers, behind one of the IDE controller.
pub const INPUT_REGISTER: u64 = 7;
/// Drives that the controller has pins for.
pub const DRIVES: usize = 2;

const MAIN: u32 = 0;
const INPUT: u32 = 1;

/// Registers in the main region; the input register is alone.
mod reg {
    pub const STATUS_B: u64 = 0;
    pub const DIGITAL_OUTPUT: u64 = 1;
    pub const TAPE: u64 = 2;
    /// Main status when read, data rate select when written.
    pub const MAIN_STATUS: u64 = 3;
    pub const FIFO: u64 = 4;
    pub const COUNT: u64 = 5;
}

/// Digital output.
mod dor {
    pub const SELECT: u8 = 3;
    pub const RUN: u8 = 1 << 2;
    pub const DMA: u8 = 1 << 3;
    pub const AT_RESET: u8 = RUN | DMA;
}

mod main_status {
    pub const BUSY: u8 = 1 << 4;
    pub const WITHOUT_DMA: u8 = 1 << 5;
    pub const TO_HOST: u8 = 1 << 6;
    pub const READY: u8 = 1 << 7;
}

/// In the data rate select register.
const RATE_RESET: u8 = 1 << 7 | 1 << 6;
/// In the tape register: what boots.
const TAPE_BOOT: u8 = 1 << 2;
/// In the digital input register.
const DISK_CHANGED: u8 = 1 << 7;

mod st0 {
    pub const SEEK_END: u8 = 1 << 5;
    pub const ABNORMAL: u8 = 1 << 6;
    pub const INVALID: u8 = 1 << 7;
    pub const POLLING: u8 = 0xc0;
}

/// Status register 1.
mod st1 {
    pub const NO_ADDRESS: u8 = 1;
    pub const NOT_WRITABLE: u8 = 1 << 1;
    pub const NO_DATA: u8 = 1 << 2;
    pub const OVERRUN: u8 = 1 << 4;
    pub const DATA_ERROR: u8 = 1 << 5;
    pub const END_OF_CYLINDER: u8 = 1 << 7;
}

/// Status register 3.
mod st3 {
    pub const TWO_SIDED: u8 = 1 << 3;
    pub const TRACK_0: u8 = 1 << 4;
    pub const READY: u8 = 1 << 5;
    pub const WRITE_PROTECTED: u8 = 1 << 6;
}

/// Implied seek off, FIFO off.
const CONFIG_AT_RESET: u8 = 0x60;
/// Interrupts of a reset: one for each of four drives.
const RESET_SENSES: u8 = 4;
/// The highest sector of a drive whose medium is not known.
const ANY_SECTOR: u8 = 0xff;
const VERSION: u8 = 0x90;
const PART: u8 = 0x41;
/// Sectors of 512 bytes.
const SIZE_CODE: u8 = 2;
/// How long an identifier is searched for.
const SEARCH_TIME: i64 = SECOND / 50;

/// A drive on the controller.
struct FloppyDrive {
    kind: DriveKind,
    backend: Arc<Backend>,
    format: Format,
    /// Listens at the back end.
    _listener: Option<Arc<dyn Send + Sync>>,
}

impl FloppyDrive {
    fn present(&self) -> bool {
        self.backend.present()
    }

    fn writable(&self) -> bool {
        self.backend.present() && !self.backend.is_read_only()
    }

    /// What the controller takes for the last sector of a track until it is told.
    fn last_sector(&self) -> u8 {
        if self.present() { self.format.sectors } else { ANY_SECTOR }
    }

    /// Looks at what lies in the drive.
    fn look(&mut self) {
        let total = sectors(&self.backend).unwrap_or(0);
        self.format = Format::of(self.kind, total);
    }
}

/// What the FIFO is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Phase {
    #[default]
    Command,
    Searching,
    /// Sectors are on their way.
    Transfer,
    /// The host is to take data.
    DataIn,
    /// The host is to give data.
    DataOut,
    Result,
}

/// Registers that each drive has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
struct DriveState {
    track: u8,
    last_sector: u8,
    perpendicular: u8,
    /// The head has moved over the disk that is in now.
    known: bool,
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset, check)]
pub struct FdcState {
    #[state(reset = dor::AT_RESET)]
    output: u8,
    tape: u8,
    phase: Phase,
    /// Bytes of the command so far, or of the result that are left.
    fifo: Vec<u8>,
    drives: [DriveState; DRIVES],
    /// The drive of the last command.
    current: u8,
    interrupt: bool,
    /// Status register 0 of what interrupted last.
    status: u8,
    /// Interrupts of the last reset that have not been sensed.
    reset_senses: u8,
    step_rate: u8,
    head_load: u8,
    #[state(reset = CONFIG_AT_RESET)]
    config: u8,
    precompensation: u8,
    power_down: u8,
    locked: bool,
    /// Data rate.
    rate: u8,
    /// The side on which an identifier is searched for.
    head: u8,
    transfer: Transfer,
}

impl FdcState {
    fn check(&self) -> Result<(), StateError> {
        if usize::from(self.current) >= DRIVES {
            return Err(StateError::invalid("there is no such drive"));
        }
        self.transfer.check()?;
        Ok(())
    }
}

type Run = fn(&mut Fdc, &[u8]);

/// A command: which first bytes it has, how many bytes follow, what it does with all of them.
struct Command {
    code: u8,
    mask: u8,
    parameters: usize,
    run: Run,
}

const fn command(code: u8, mask: u8, parameters: usize, run: Run) -> Command {
    Command { code, mask, parameters, run }
}

/// Masks leave out the bits of the multitrack, encoding and skip options.
const COMMANDS: [Command; 29] = [
    command(0x02, 0x9f, 8, Fdc::read_sectors),
    command(0x05, 0x3f, 8, Fdc::write_sectors),
    command(0x06, 0x1f, 8, Fdc::read_sectors),
    command(0x09, 0x3f, 8, Fdc::transfer_deleted),
    command(0x0c, 0x1f, 8, Fdc::transfer_deleted),
    command(0x11, 0x1f, 8, Fdc::scan),
    command(0x16, 0x1f, 8, Fdc::verify_sectors),
    command(0x19, 0x1f, 8, Fdc::scan),
    command(0x1d, 0x1f, 8, Fdc::scan),
    command(0x0d, 0xbf, 5, Fdc::format),
    command(0x0a, 0xbf, 1, Fdc::read_id),
    command(0x03, 0xff, 2, Fdc::specify),
    command(0x04, 0xff, 1, Fdc::sense_drive),
    command(0x07, 0xff, 1, Fdc::recalibrate),
    command(0x08, 0xff, 0, Fdc::sense_interrupt),
    command(0x0e, 0xff, 0, Fdc::dump_registers),
    command(0x0f, 0xff, 2, Fdc::seek),
    command(0x8f, 0xff, 2, Fdc::seek_out),
    command(0xcf, 0xff, 2, Fdc::seek_in),
    command(0x10, 0xff, 0, |fdc, _| fdc.answer(&[VERSION])),
    command(0x12, 0xff, 1, Fdc::set_perpendicular),
    command(0x13, 0xff, 3, Fdc::configure),
    command(0x14, 0x7f, 0, Fdc::lock),
    command(0x17, 0xff, 2, Fdc::set_power_down),
    command(0x18, 0xff, 0, |fdc, _| fdc.answer(&[PART])),
    command(0x2e, 0xff, 0, Fdc::save),
    command(0x33, 0xff, 1, |fdc, _| fdc.answer(&[])),
    command(0x4e, 0xff, 17, Fdc::restore),
    command(0x8e, 0xff, 5, Fdc::specify_drives),
];
fn find(code: u8) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| code & command.mask == command.code)
}

/// The controller.
pub struct Fdc {
    me: WeakShared<Fdc>,
    irq: IrqLine,
    dma: Option<DmaChannel>,
    search: Timer,
    clocks: Clocks,
    drives: [Option<FloppyDrive>; DRIVES],
    /// What a drive is whose disk tells nothing.
    fallback: Option<DriveKind>,
    /// Counts requests at back ends, so that those of a command that was given up are known.
    request: u64,
    st: FdcState,
}

/// The controller with its regions.
pub struct FdcParts {
    /// The controller.
    pub fdc: Shared<Fdc>,
    /// For [`REGISTERS`].
    pub registers: Region,
    /// For [`INPUT_REGISTER`].
    pub input: Region,
}

impl Fdc {
    /// The controller without drives.
    pub fn create(irq: IrqLine, dma: Option<DmaChannel>, clocks: &Clocks) -> FdcParts {
        let fdc = device::share(|me| {
            let mut fdc = Fdc {
                me: me.clone(),
                irq,
                dma,
                search: device::timer(me, clocks, ClockKind::Virtual, Fdc::search_ended),
                clocks: clocks.clone(),
                drives: [None, None],
                fallback: Some(DriveKind::Extended3),
                request: 0,
                st: FdcState::default(),
            };
            fdc.reset();
            fdc
        });
        let registers = device::region(&fdc, MAIN, "fdc", reg::COUNT, AccessSizes::BYTE);
        let input = device::region(&fdc, INPUT, "fdc", 1, AccessSizes::BYTE);
        FdcParts { fdc, registers, input }
    }

    fn running(&self) -> bool {
        self.st.output & dor::RUN != 0
    }

    fn select(&mut self, parameter: u8) {
        self.st.current = parameter & 1;
    }

    fn drive(&mut self) -> &mut DriveState {
        &mut self.st.drives[usize::from(self.st.current & 1)]
    }

    /// The drive that is selected, if it is there.
    fn selected(&self) -> Option<&FloppyDrive> {
        self.drives[usize::from(self.st.current & 1)].as_ref()
    }

    /// Whether the place of a drive is taken.
    pub fn is_taken(&self, place: usize) -> bool {
        self.drives.get(place).is_some_and(Option::is_some)
    }

    /// What a drive is whose disk tells nothing; none, if firmware is not to know of it.
    pub fn fallback(&self) -> Option<DriveKind> {
        self.fallback
    }

    /// Says what a drive is whose disk tells nothing.
    pub fn set_fallback(&mut self, kind: Option<DriveKind>) {
        self.fallback = kind;
    }

    /// Connects a drive; `listener` lives as long as it is there.
    pub fn attach(
        &mut self,
        place: usize,
        kind: DriveKind,
        backend: Arc<Backend>,
        listener: Option<Arc<dyn Send + Sync>>,
    ) {
        let Some(slot) = self.drives.get_mut(place) else { return };
        let format = Format::of(kind, 0);
        let mut drive = FloppyDrive { kind, backend, format, _listener: listener };
        drive.look();
        self.st.drives[place].last_sector = drive.last_sector();
        *slot = Some(drive);
    }

    /// The operator has changed what lies in a drive.
    pub fn medium_changed(&mut self, place: usize) {
        if let Some(Some(drive)) = self.drives.get_mut(place) {
            drive.look();
            self.st.drives[place].known = false;
        }
    }

    /// Moves the head of the selected drive; says whether it was elsewhere.
    fn move_head(&mut self, track: u8) -> bool {
        let present = self.selected().is_some_and(FloppyDrive::present);
        let drive = self.drive();
        let moved = std::mem::replace(&mut drive.track, track) != track;
        drive.known |= moved && present;
        moved
    }

    fn interrupt(&mut self, status: u8) {
        self.st.status = status | self.st.current;
        self.st.reset_senses = 0;
        self.st.interrupt = true;
        self.irq.raise();
    }

    fn end_interrupt(&mut self) {
        self.st.interrupt = false;
        self.irq.lower();
    }

    fn answer(&mut self, result: &[u8]) {
        self.st.fifo = result.to_vec();
        self.st.phase = if result.is_empty() { Phase::Command } else { Phase::Result };
    }

    /// What both kinds of reset share: the one by a register and the one by power-up.
    fn restart(&mut self) {
        self.search.cancel();
        self.request += 1;
        self.st.transfer = Transfer::default();
        self.st.phase = Phase::Command;
        self.st.fifo.clear();
        self.st.current = 0;
        for (state, drive) in self.st.drives.iter_mut().zip(&self.drives) {
            if drive.is_some() {
                state.track = 0;
            }
        }
        self.end_interrupt();
    }

    /// A reset by a register announces itself.
    fn soft_reset(&mut self) {
        self.restart();
        self.interrupt(st0::POLLING);
        self.st.reset_senses = RESET_SENSES;
    }

    fn write_output(&mut self, value: u8) {
        let ran = self.running();
        self.st.output = value;
        if !ran && self.running() {
            self.soft_reset();
        }
        self.select(value & dor::SELECT);
    }

    fn write_rate(&mut self, value: u8) {
        self.st.rate = value & 3;
        if self.running() && value & RATE_RESET != 0 {
            self.st.output = dor::AT_RESET;
            self.soft_reset();
        }
    }

    fn main_status(&self) -> u8 {
        if !self.running() {
            return 0;
        }
        match self.st.phase {
            Phase::Command if self.st.fifo.is_empty() => main_status::READY,
            Phase::Command => main_status::READY | main_status::BUSY,
            Phase::Searching => main_status::BUSY,
            Phase::Transfer => main_status::BUSY | self.execution(),
            Phase::DataIn => {
                main_status::READY | main_status::TO_HOST | main_status::BUSY | self.execution()
            }
            Phase::DataOut => main_status::READY | main_status::BUSY | self.execution(),
            Phase::Result => main_status::READY | main_status::TO_HOST | main_status::BUSY,
        }
    }

    /// Shows in the main status that a transfer without DMA is under way.
    fn execution(&self) -> u8 {
        if self.st.output & dor::DMA == 0 { main_status::WITHOUT_DMA } else { 0 }
    }

    fn status_b(&self) -> u8 {
        let output = self.st.output;
        0xc0 | (output & 1) << 5 | output >> 4 & 3
    }

    fn read_fifo(&mut self) -> u8 {
        if self.st.phase == Phase::DataIn {
            return self.take_data();
        }
        if self.st.phase != Phase::Result || self.st.fifo.is_empty() {
            return 0;
        }
        let byte = self.st.fifo.remove(0);
        if self.st.fifo.is_empty() {
            self.st.phase = Phase::Command;
            self.end_interrupt();
        }
        byte
    }

    fn write_fifo(&mut self, value: u8) {
        if self.st.phase == Phase::DataOut {
            return self.give_data(value);
        }
        if !self.running() || self.st.phase != Phase::Command {
            return;
        }
        self.st.fifo.push(value);
        match find(self.st.fifo[0]) {
            None => self.answer(&[st0::INVALID]),
            Some(command) if self.st.fifo.len() <= command.parameters => {}
            Some(command) => {
                let bytes = std::mem::take(&mut self.st.fifo);
                (command.run)(self, &bytes);
            }
        }
    }

    /// Ends a command that would have moved sectors.
    fn fail(&mut self, status: u8, status1: u8, sector: [u8; 4]) {
        self.interrupt(status);
        let [cylinder, head, number, size] = sector;
        self.answer(&[self.st.status, status1, 0, cylinder, head, number, size]);
    }

    /// A command whose sectors are never found.
    fn find_nothing(&mut self, status: u8, bytes: &[u8]) {
        let &[_, select, cylinder, head, sector, size, last, ..] = bytes else { return };
        self.select(select);
        self.drive().last_sector = last;
        // A drive that is not there has one track with no sector.
        let missing = self.selected().is_none();
        let beyond = missing && (cylinder, head) == (0, 0) && sector > 0;
        if !missing {
            self.move_head(cylinder);
        }
        let status1 = if beyond { st1::END_OF_CYLINDER } else { 0 };
        self.fail(status, status1, [cylinder, head, sector, size]);
    }

    fn scan(&mut self, bytes: &[u8]) {
        self.find_nothing(st0::ABNORMAL, bytes);
    }

    fn transfer_deleted(&mut self, bytes: &[u8]) {
        self.find_nothing(st0::ABNORMAL | st0::SEEK_END, bytes);
    }

    fn read_id(&mut self, bytes: &[u8]) {
        self.select(bytes[1]);
        self.st.head = bytes[1] >> 2 & 1;
        self.st.phase = Phase::Searching;
        self.search.set(self.clocks.now_virtual() + SEARCH_TIME);
    }

    fn search_ended(&mut self) {
        if self.st.phase != Phase::Searching {
            return;
        }
        let cylinder = self.drive().track;
        let head = self.st.head;
        if self.has_readable_disk() {
            self.interrupt(head << 2);
            self.answer(&[self.st.status, 0, 0, cylinder, head, 1, SIZE_CODE]);
        } else {
            self.fail(st0::ABNORMAL, 0, [cylinder, 0, 0, SIZE_CODE]);
        }
    }

    /// Whether there is a disk, and at this data rate.
    fn has_readable_disk(&self) -> bool {
        self.selected().is_some_and(|drive| drive.present() && drive.format.rate == self.st.rate)
    }

    fn specify(&mut self, bytes: &[u8]) {
        self.st.step_rate = bytes[1] >> 4;
        self.st.head_load = bytes[2] >> 1;
        // The choice to do without DMA shows in the output register.
        let without_dma = bytes[2] & 1 != 0;
        self.st.output = self.st.output & !dor::DMA | if without_dma { 0 } else { dor::DMA };
        self.answer(&[]);
    }

    fn sense_drive(&mut self, bytes: &[u8]) {
        self.select(bytes[1]);
        let track = if self.drive().track == 0 { st3::TRACK_0 } else { 0 };
        let writable = self.selected().is_some_and(FloppyDrive::writable);
        let protection = if writable { 0 } else { st3::WRITE_PROTECTED };
        let place = bytes[1] & 4 | self.st.current;
        self.answer(&[st3::TWO_SIDED | st3::READY | track | protection | place]);
    }

    /// Moves the head, if there is one, and interrupts.
    fn move_to(&mut self, select: u8, place: impl FnOnce(u8) -> u8) {
        self.select(select);
        if self.selected().is_some() {
            let track = place(self.drive().track);
            self.move_head(track);
        }
        self.answer(&[]);
        self.interrupt(st0::SEEK_END);
    }

    fn recalibrate(&mut self, bytes: &[u8]) {
        self.move_to(bytes[1], |_| 0);
    }

    fn seek(&mut self, bytes: &[u8]) {
        self.move_to(bytes[1], |_| bytes[2]);
    }

    fn seek_out(&mut self, bytes: &[u8]) {
        self.move_to(bytes[1], |track| track.saturating_sub(bytes[2]));
    }

    fn seek_in(&mut self, bytes: &[u8]) {
        self.move_to(bytes[1], |track| track.saturating_add(bytes[2]));
    }

    fn sense_interrupt(&mut self, _: &[u8]) {
        let status = if self.st.reset_senses > 0 {
            let drive = RESET_SENSES - self.st.reset_senses;
            self.st.reset_senses -= 1;
            st0::POLLING | drive
        } else if self.st.interrupt {
            self.st.status
        } else {
            return self.answer(&[st0::INVALID]);
        };
        self.end_interrupt();
        let track = self.drive().track;
        self.answer(&[status, track]);
    }

    fn locked_and_perpendicular(&mut self) -> u8 {
        u8::from(self.st.locked) << 7 | self.drive().perpendicular << 2
    }

    fn dump_registers(&mut self, _: &[u8]) {
        let dma = u8::from(self.st.output & dor::DMA != 0);
        let result = [
            self.st.drives[0].track,
            self.st.drives[1].track,
            0,
            0,
            self.st.step_rate,
            self.st.head_load << 1 | dma,
            self.drive().last_sector,
            self.locked_and_perpendicular(),
            self.st.config,
            self.st.precompensation,
        ];
        self.answer(&result);
    }

    fn set_perpendicular(&mut self, bytes: &[u8]) {
        const OVERWRITE: u8 = 1 << 7;
        if bytes[1] & OVERWRITE != 0 {
            self.drive().perpendicular = bytes[1] & 7;
        }
        self.answer(&[]);
    }

    fn configure(&mut self, bytes: &[u8]) {
        self.st.config = bytes[2];
        self.st.precompensation = bytes[3];
        self.answer(&[]);
    }

    fn lock(&mut self, bytes: &[u8]) {
        self.st.locked = bytes[0] >> 7 != 0;
        self.answer(&[u8::from(self.st.locked) << 4]);
    }

    fn set_power_down(&mut self, bytes: &[u8]) {
        self.st.power_down = bytes[1];
        self.answer(&bytes[1..2]);
    }

    fn save(&mut self, _: &[u8]) {
        let mut result = [0; 15];
        result[2] = self.st.drives[0].track;
        result[3] = self.st.drives[1].track;
        result[6] = self.st.step_rate;
        result[7] = self.st.head_load;
        result[8] = self.drive().last_sector;
        result[9] = self.locked_and_perpendicular();
        result[10] = self.st.config;
        result[11] = self.st.precompensation;
        result[12] = self.st.power_down;
        self.answer(&result);
    }

    /// Takes the bytes that [`Self::save`] gives.
    fn restore(&mut self, bytes: &[u8]) {
        self.st.drives[0].track = bytes[3];
        self.st.drives[1].track = bytes[4];
        self.st.step_rate = bytes[7];
        self.st.head_load = bytes[8];
        self.drive().last_sector = bytes[9];
        self.st.locked = bytes[10] >> 7 != 0;
        self.drive().perpendicular = bytes[10] >> 2 & 0xf;
        self.st.config = bytes[11];
        self.st.precompensation = bytes[12];
        self.st.power_down = bytes[13];
        self.answer(&[]);
    }

    fn specify_drives(&mut self, bytes: &[u8]) {
        const DONE_WITH_RESULT: u8 = 0xc0;
        let last = bytes[5];
        let result = [bytes[1], bytes[1], 0, 0];
        self.answer(if last & DONE_WITH_RESULT == DONE_WITH_RESULT { &result } else { &[] });
    }
}

impl Device for Fdc {
    fn read(&mut self, region: u32, offset: u64, _: u8) -> u64 {
        let value = match (region, offset) {
            (INPUT, _) => {
                let known = self.st.drives[usize::from(self.st.current & 1)].known;
                let disk = self.selected().is_some_and(FloppyDrive::present) && known;
                if disk { 0 } else { DISK_CHANGED }
            }
            (_, reg::STATUS_B) => self.status_b(),
            (_, reg::DIGITAL_OUTPUT) => self.st.output | self.st.current,
            (_, reg::TAPE) => self.st.tape,
            (_, reg::MAIN_STATUS) => self.main_status(),
            _ => self.read_fifo(),
        };
        value.into()
    }

    fn write(&mut self, region: u32, offset: u64, _: u8, value: u64) {
        let value = value as u8;
        match (region, offset) {
            (INPUT, _) => self.st.rate = value & 3,
            (_, reg::DIGITAL_OUTPUT) => self.write_output(value),
            (_, reg::TAPE) => self.st.tape = value & TAPE_BOOT,
            (_, reg::MAIN_STATUS) => self.write_rate(value),
            (_, reg::FIFO) => self.write_fifo(value),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.st = FdcState::default();
        for (state, drive) in self.st.drives.iter_mut().zip(&self.drives) {
            state.last_sector = drive.as_ref().map_or(0, FloppyDrive::last_sector);
        }
        self.restart();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::backend::DriveInfo;
    use block::engine::Inline;
    use block::graph::Graph;
    use block::node::Node;
    use block::null::Null;
    use proptest::prelude::*;

    fn clocks() -> Clocks {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        clocks
    }

    fn controller(clocks: &Clocks) -> (Shared<Fdc>, IrqLine) {
        let line = IrqLine::new(std::sync::Arc::new(base::irq::FnSink(|_, _| ())), 6);
        let fdc = Fdc::create(line.clone(), None, clocks).fdc;
        let graph = Graph::new(Arc::new(Inline)).unwrap();
        fdc.lock().attach(0, DriveKind::Extended3, graph.empty_backend(), None);
        fdc.lock().reset();
        (fdc, line)
    }

    fn run(fdc: &Shared<Fdc>, bytes: &[u8]) -> Vec<u8> {
        let mut fdc = fdc.lock();
        bytes.iter().for_each(|&byte| fdc.write(MAIN, reg::FIFO, 1, byte.into()));
        let mut result = Vec::new();
        while fdc.read(MAIN, reg::MAIN_STATUS, 1) as u8 & main_status::TO_HOST != 0 {
            result.push(fdc.read(MAIN, reg::FIFO, 1) as u8);
        }
        result
    }

    #[test]
    fn a_search_for_an_identifier_fails_after_a_turn() {
        let clocks = clocks();
        let (fdc, line) = controller(&clocks);
        assert_eq!(run(&fdc, &[0x4a, 0]), [0u8; 0]);
        clocks.step_to(SEARCH_TIME - 1);
        assert_eq!(fdc.lock().read(MAIN, reg::MAIN_STATUS, 1), u64::from(main_status::BUSY));
        assert!(!line.level());
        clocks.step_to(SEARCH_TIME);
        assert!(line.level());
        assert_eq!(run(&fdc, &[]), [0x40, 0, 0, 0, 0, 0, 2]);
        assert!(!line.level());
    }

    /// A disk of 1.44 MB that reads as zeroes.
    fn with_disk(clocks: &Clocks) -> (Shared<Fdc>, Arc<Graph>) {
        let graph = Graph::new(Arc::new(Inline)).unwrap();
        let null = Box::new(Null::new("null-co", 1440 << 10, true, None));
        let node = Node::new(Some("n".into()), "null-co://", false, null, Vec::new());
        let backend = graph.add_backend("f", DriveInfo::default()).unwrap();
        backend.set_node(Some(node)).unwrap();
        let (fdc, _) = controller(clocks);
        fdc.lock().attach(0, DriveKind::High3, backend, None);
        fdc.lock().reset();
        (fdc, graph)
    }

    #[test]
    fn sectors_pass_through_the_fifo() {
        let (fdc, graph) = with_disk(&clocks());
        // Without DMA; both sides of a track that has but one sector to be read.
        run(&fdc, &[0x03, 0xdf, 0x03]);
        let mut data = Vec::new();
        let command = [0xe6u8, 0, 0, 0, 1, 2, 1, 0x1b, 0xff];
        command.iter().for_each(|&byte| fdc.lock().write(MAIN, reg::FIFO, 1, byte.into()));
        loop {
            graph.drain();
            let mut fdc = fdc.lock();
            if fdc.read(MAIN, reg::MAIN_STATUS, 1) != 0xf0 {
                break;
            }
            data.push(fdc.read(MAIN, reg::FIFO, 1) as u8);
        }
        assert_eq!(data, [0; 1024]);
        assert_eq!(run(&fdc, &[]), [0x20, 0, 0, 1, 0, 1, 2]);
        // There is no sector 19.
        let result = run(&fdc, &[0xe6, 0, 0, 0, 19, 2, 19, 0x1b, 0xff]);
        assert_eq!(result, [0x40, 0x80, 0, 0, 0, 19, 2]);
    }

    #[test]
    fn the_disk_change_line_ends_with_a_step() {
        let (fdc, _graph) = with_disk(&clocks());
        let changed = |fdc: &Shared<Fdc>| fdc.lock().read(INPUT, 0, 1) as u8 == DISK_CHANGED;
        assert!(changed(&fdc));
        run(&fdc, &[0x07, 0]);
        assert!(changed(&fdc), "the head was there already");
        run(&fdc, &[0x0f, 0, 1]);
        assert!(!changed(&fdc));
        fdc.lock().medium_changed(0);
        assert!(changed(&fdc));
    }

    proptest! {
        #[test]
        fn any_access_is_survived_and_undone_by_reset(
            accesses in prop::collection::vec((any::<bool>(), 0..2u32, 0..5u64, any::<u8>()), 0..300),
        ) {
            let (shared, graph) = with_disk(&clocks());
            let fresh = shared.lock().st.clone();
            for (write, region, offset, value) in accesses {
                graph.drain();
                let mut fdc = shared.lock();
                if write {
                    fdc.write(region, offset, 1, value.into());
                } else {
                    fdc.read(region, offset, 1);
                }
            }
            let mut fdc = shared.lock();
            fdc.reset();
            prop_assert_eq!(&fdc.st, &fresh);
        }
    }
}
