//! A channel: two places for drives, the registers in front of them, and a bus master. Here the drives'
//! jobs are done.

use std::sync::Arc;

use base::irq::IrqLine;
use base::memory::Dma;
use base::state::State;
use block::backend::{Backend, ErrorAction, Operation, Request};
use block::vector::Vector;

use super::bus_master::{BusMaster, BusMasterState, Cursor, Span, total};
use super::drive::{Drive, DriveState, Job, Outcome};
use super::spec::{SECTOR, command, control, device, reg};

/// Places of a channel.
pub const PLACES: usize = 2;

/// Registers of the channel itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct ChannelState {
    control: u8,
    /// The second drive is selected.
    second: bool,
    interrupt: bool,
}

/// All that a channel holds.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct SavedState {
    channel: ChannelState,
    drives: [DriveState; PLACES],
    master: BusMasterState,
}

/// What is done for the drive at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Activity {
    #[default]
    None,
    /// A request is at the back end.
    Running,
    /// The same, but the drive has given it up.
    Orphaned,
    /// The request failed and waits for the machine to resume.
    Parked,
}

struct Place {
    drive: Drive,
    backend: Option<Arc<Backend>>,
    activity: Activity,
    /// Listens at the back end.
    _listener: Option<Arc<dyn Send + Sync>>,
}

impl Place {
    fn empty() -> Self {
        Place { drive: Drive::nothing(), backend: None, activity: Activity::None, _listener: None }
    }

    /// Sectors of the medium, if there is one.
    fn sectors(&self) -> Option<u64> {
        self.backend.as_ref().and_then(sectors)
    }
}

/// Sectors of what lies in a drive, if anything does.
pub fn sectors(backend: &Arc<Backend>) -> Option<u64> {
    backend.present().then(|| backend.len().ok()).flatten().map(|len| len / SECTOR)
}

/// What is left to do when the back end has done its part.
enum After {
    Nothing,
    /// Hand the bytes to the drive.
    Buffer(Vector),
    /// Copy them to guest memory, unless they are there already; the descriptors are used up to here.
    Memory {
        bounce: Option<(Vector, Vec<Span>)>,
        cursor: Cursor,
    },
}

/// News of a request.
enum News {
    Ended { result: block::Result<()>, operation: Operation, after: After },
    Again,
}

/// News for the drive at a place, to be handed to [`Channel::hear`].
pub struct Message {
    place: usize,
    news: News,
}

/// Brings a message to the channel, from any thread.
pub type Messenger = Arc<dyn Fn(Message) + Send + Sync>;

/// A channel.
pub struct Channel {
    irq: IrqLine,
    messenger: Messenger,
    places: [Place; PLACES],
    master: BusMaster,
    st: ChannelState,
}

impl Channel {
    /// A channel without drives.
    pub fn new(irq: IrqLine, dma: Dma, messenger: Messenger) -> Self {
        Channel {
            irq,
            messenger,
            places: [Place::empty(), Place::empty()],
            master: BusMaster::new(dma),
            st: ChannelState::default(),
        }
    }

    /// Whether a place is taken.
    pub fn is_taken(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|place| place.drive.exists())
    }

    /// Puts a drive into its place; `listener` lives as long as it is there.
    pub fn attach(
        &mut self,
        place: usize,
        drive: Drive,
        backend: Option<Arc<Backend>>,
        listener: Option<Arc<dyn Send + Sync>>,
    ) {
        if let Some(place) = self.places.get_mut(place) {
            *place = Place { drive, backend, activity: Activity::None, _listener: listener };
        }
    }

    /// The drive at a place.
    pub fn drive(&mut self, place: usize) -> Option<&mut Drive> {
        self.places.get_mut(place).map(|place| &mut place.drive)
    }

    /// The medium at a place has another length.
    pub fn resized(&mut self, place: usize) {
        if let Some(place) = self.places.get_mut(place) {
            place.drive.set_length(place.sectors());
        }
    }

    /// The operator has moved the tray at a place.
    pub fn medium_changed(&mut self, place: usize, loaded: bool) {
        if let Some(place) = self.places.get_mut(place) {
            place.drive.medium_changed(loaded, place.sectors());
        }
    }

    /// The bus master.
    pub fn master(&mut self) -> &mut BusMaster {
        &mut self.master
    }

    /// The guest writes the bus master's byte registers.
    pub fn write_master(&mut self, offset: u64, size: u8, value: u8) {
        self.master.write(offset, size, value);
        self.go_on();
    }

    /// The state, to look at or to save.
    pub fn state(&self) -> SavedState {
        SavedState {
            channel: self.st.clone(),
            drives: self.places.each_ref().map(|place| place.drive.state().clone()),
            master: self.master.state().clone(),
        }
    }

    /// Takes on a saved state. Jobs that were under way are begun anew.
    pub fn set_state(&mut self, state: SavedState) {
        self.st = state.channel;
        self.master.set_state(state.master);
        for (place, drive) in self.places.iter_mut().zip(state.drives) {
            place.drive.set_state(drive);
        }
        self.go_on();
    }

    /// Back to the state after power-up.
    pub fn reset(&mut self) {
        self.st = ChannelState::default();
        self.master.reset();
        self.places.iter_mut().for_each(|place| place.drive.power_up());
        self.irq.lower();
        self.go_on();
    }

    fn is_empty(&self) -> bool {
        self.places.iter().all(|place| !place.drive.exists())
    }

    fn selected(&mut self) -> &mut Drive {
        &mut self.places[usize::from(self.st.second)].drive
    }

    /// Whether nobody drives the bus: there are no drives, or the second one is missing.
    fn is_silent(&self) -> bool {
        self.is_empty() || self.st.second && !self.is_taken(1)
    }

    fn set_interrupt(&mut self, level: bool) {
        self.st.interrupt = level;
        if level && self.st.control & control::NO_INTERRUPT == 0 {
            self.master.note_interrupt();
            self.irq.raise();
        } else {
            self.irq.lower();
        }
    }

    /// Reads the status without acknowledging the interrupt.
    pub fn alternate_status(&mut self) -> u8 {
        if self.is_silent() { 0 } else { self.selected().status() }
    }

    /// Reads from the command block.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (reg::DATA, 4) => {
                let low = self.read_data();
                u64::from(low) | u64::from(self.read_data()) << 16
            }
            (reg::DATA, _) => self.read_data().into(),
            // Only the data register is as wide as that.
            (_, 4) => u64::MAX,
            (_, 2) => {
                let low = self.read_byte(offset);
                u64::from(low) | u64::from(self.read_byte(offset + 1)) << 8
            }
            _ => self.read_byte(offset).into(),
        }
    }

    fn read_data(&mut self) -> u16 {
        if self.is_silent() {
            return 0;
        }
        let word = self.selected().read_data();
        self.go_on();
        word
    }

    fn read_byte(&mut self, register: u64) -> u8 {
        match register {
            reg::STATUS => {
                let status = self.alternate_status();
                self.set_interrupt(false);
                status
            }
            _ if self.is_empty() => 0,
            reg::ERROR if self.is_silent() => 0,
            reg::ERROR..=reg::DEVICE => {
                let previous = self.st.control & control::HIGH_ORDER != 0;
                self.selected().read(register, previous)
            }
            _ => u8::MAX,
        }
    }

    /// Writes to the command block.
    pub fn write(&mut self, offset: u64, size: u8, value: u32) {
        match (offset, size) {
            (reg::DATA, 1) => {}
            (reg::DATA, _) => {
                self.write_data(value as u16);
                if size == 4 {
                    self.write_data((value >> 16) as u16);
                }
            }
            (_, 4) => {}
            (_, 2) => {
                self.write_byte(offset, value as u8);
                self.write_byte(offset + 1, (value >> 8) as u8);
            }
            _ => self.write_byte(offset, value as u8),
        }
    }

    fn write_data(&mut self, value: u16) {
        if !self.is_silent() {
            self.selected().write_data(value);
            self.go_on();
        }
    }

    fn write_byte(&mut self, register: u64, value: u8) {
        // Whatever is written closes what shows the values before.
        self.st.control &= !control::HIGH_ORDER;
        match register {
            reg::STATUS => self.command(value),
            _ if self.selected().ignores_writes() => {}
            reg::ERROR..=reg::DEVICE => {
                if register == reg::DEVICE {
                    self.st.second = value & device::SECOND != 0;
                }
                self.places.iter_mut().for_each(|place| place.drive.write(register, value));
            }
            _ => {}
        }
    }

    fn command(&mut self, code: u8) {
        self.irq.lower();
        if self.st.second && !self.is_taken(1) {
            return;
        }
        if code == command::DIAGNOSTIC && !self.is_empty() {
            if self.selected().ignores_writes() {
                return;
            }
            let interrupts = !self.selected().is_packet();
            self.reset_drives();
            if interrupts {
                self.set_interrupt(true);
            }
        } else {
            self.selected().command(code);
        }
        self.go_on();
    }

    fn reset_drives(&mut self) {
        self.st.second = false;
        self.places.iter_mut().for_each(|place| place.drive.soft_reset());
    }

    /// Writes the device control register.
    pub fn write_control(&mut self, value: u8) {
        let before = std::mem::replace(&mut self.st.control, value);
        if !before & value & control::RESET != 0 {
            self.reset_drives();
            self.set_interrupt(true);
            self.go_on();
        }
        if value & control::NO_INTERRUPT != 0 {
            self.irq.lower();
        }
    }

    /// Begins what the drives want done, and brings on their interrupts.
    fn go_on(&mut self) {
        for place in 0..PLACES {
            self.let_go(place);
            while self.begin(place) {}
        }
        let mut interrupt = false;
        for place in &mut self.places {
            interrupt |= place.drive.take_interrupt();
            let write_cache = place.drive.state().write_cache();
            if let Some(backend) = &place.backend
                && backend.write_cache() != write_cache
            {
                backend.set_write_cache(write_cache);
            }
        }
        if interrupt {
            self.set_interrupt(true);
        }
    }

    /// What was begun for a job that the drive has given up is no longer its affair.
    fn let_go(&mut self, place: usize) {
        let place = &mut self.places[place];
        if !place.drive.take_dropped() {
            return;
        }
        place.activity = match place.activity {
            Activity::Running | Activity::Orphaned => Activity::Orphaned,
            Activity::None => Activity::None,
            Activity::Parked => {
                place.backend.iter().for_each(|backend| backend.forget_parked());
                Activity::None
            }
        };
    }

    /// Begins the job of the drive at a place; returns whether it has ended already.
    fn begin(&mut self, number: usize) -> bool {
        let place = &mut self.places[number];
        if place.activity != Activity::None {
            return false;
        }
        let Some(job) = place.drive.job().cloned() else { return false };
        if job.needs_bus_master() && !self.master.is_active() {
            return false;
        }
        match job {
            Job::Read { at, len } => {
                let into = Vector::zeroed(len);
                self.submit(
                    number,
                    Request::Read { at, into: into.clone() },
                    Operation::Read,
                    After::Buffer(into),
                )
            }
            Job::Write { at } => {
                let from = Vector::from(place.drive.buffer());
                self.submit_write(number, Request::Write { at, from, fua: false })
            }
            Job::Flush => self.submit_write(number, Request::Flush),
            Job::Discard { at, len } => self.submit_write(number, Request::Discard { at, len }),
            Job::ReadDma { at, len } => self.read_dma(number, &job, at, len),
            Job::WriteDma { at, len } => self.write_dma(number, &job, at, len),
            Job::Fetch { len } => self.fetch(number, len),
            Job::Deliver => self.deliver(number),
            Job::MoveTray { open } => {
                place.backend.iter().for_each(|backend| backend.tray_moved(open));
                place.drive.job_done(Outcome::Done(Vec::new()));
                true
            }
        }
    }

    fn submit_write(&mut self, number: usize, request: Request) -> bool {
        self.submit(number, request, Operation::Write, After::Nothing)
    }

    fn submit(
        &mut self,
        number: usize,
        request: Request,
        operation: Operation,
        after: After,
    ) -> bool {
        let place = &mut self.places[number];
        let Some(backend) = &place.backend else {
            place.drive.job_done(Outcome::Failed);
            return true;
        };
        let messenger = self.messenger.clone();
        place.activity = Activity::Running;
        backend.submit(
            request,
            Box::new(move |result| {
                let news = News::Ended { result, operation, after };
                messenger(Message { place: number, news });
            }),
        );
        false
    }

    /// Takes news of a request.
    pub fn hear(&mut self, message: Message) {
        let Message { place: number, news } = message;
        let Some(place) = self.places.get_mut(number) else { return };
        let was = std::mem::take(&mut place.activity);
        if let (Activity::Running, News::Ended { result, operation, after }) = (was, news) {
            let action = match (&result, &place.backend) {
                (Err(error), Some(backend)) => backend.on_error(operation, error),
                _ => ErrorAction::Ignore,
            };
            match action {
                ErrorAction::Ignore => self.done(number, after),
                ErrorAction::Report => {
                    if matches!(after, After::Memory { .. }) {
                        self.master.end();
                    }
                    place.drive.job_done(Outcome::Failed);
                }
                ErrorAction::Stop => self.park(number),
            }
        }
        self.go_on();
    }

    fn park(&mut self, number: usize) {
        let place = &mut self.places[number];
        place.activity = Activity::Parked;
        let messenger = self.messenger.clone();
        if let Some(backend) = &place.backend {
            backend.park(Box::new(move || messenger(Message { place: number, news: News::Again })));
        }
    }

    fn done(&mut self, number: usize, after: After) {
        let data = match after {
            After::Nothing => Vec::new(),
            After::Buffer(vector) => vector.to_vec(),
            After::Memory { bounce, cursor } => {
                if let Some((vector, spans)) = bounce {
                    self.copy_to_guest(&vector.to_vec(), &spans);
                }
                self.master.pass(cursor);
                Vec::new()
            }
        };
        self.places[number].drive.job_done(Outcome::Done(data));
    }

    fn copy_to_guest(&self, data: &[u8], spans: &[Span]) {
        let mut rest = data;
        for span in spans {
            let (piece, after) = rest.split_at(span.len.min(rest.len()));
            self.master.dma().write(span.at, piece);
            rest = after;
        }
    }

    fn copy_from_guest(&self, spans: &[Span]) -> Vec<u8> {
        let mut data = vec![0; total(spans)];
        let mut rest = &mut data[..];
        for span in spans {
            let (piece, after) = rest.split_at_mut(span.len.min(rest.len()));
            self.master.dma().read(span.at, piece);
            rest = after;
        }
        data
    }

    /// The memory of a transfer as it is, if all of it is RAM.
    fn guest_memory(&self, spans: &[Span], write: bool) -> Option<Vector> {
        let mut pieces = Vec::new();
        for span in spans {
            pieces.extend(self.master.dma().ram_pieces(span.at, span.len, write)?);
        }
        Some(Vector::guest(pieces))
    }

    /// The memory for a transfer, unless there is too little.
    fn spans(&mut self, number: usize, len: usize) -> Option<(Vec<Span>, Cursor)> {
        let (spans, cursor) = self.master.gather(len);
        if total(&spans) == len {
            return Some((spans, cursor));
        }
        self.master.end();
        self.places[number].drive.job_done(Outcome::TooShort);
        None
    }

    /// Refuses a transfer of sectors that there are not.
    fn is_inside(&mut self, number: usize, job: &Job) -> bool {
        let drive = &mut self.places[number].drive;
        let inside = drive.covers(job);
        if !inside {
            drive.job_done(Outcome::Failed);
            self.master.end();
        }
        inside
    }

    fn read_dma(&mut self, number: usize, job: &Job, at: u64, len: usize) -> bool {
        let Some((spans, cursor)) = self.spans(number, len) else { return true };
        if !self.is_inside(number, job) {
            return true;
        }
        let (into, bounce) = match self.guest_memory(&spans, true) {
            Some(memory) => (memory, None),
            None => {
                let vector = Vector::zeroed(len);
                (vector.clone(), Some((vector, spans)))
            }
        };
        let after = After::Memory { bounce, cursor };
        self.submit(number, Request::Read { at, into }, Operation::Read, after)
    }

    fn write_dma(&mut self, number: usize, job: &Job, at: u64, len: usize) -> bool {
        let Some((spans, cursor)) = self.spans(number, len) else { return true };
        if !self.is_inside(number, job) {
            return true;
        }
        let from = self
            .guest_memory(&spans, false)
            .unwrap_or_else(|| Vector::from(&self.copy_from_guest(&spans)[..]));
        let after = After::Memory { bounce: None, cursor };
        self.submit(number, Request::Write { at, from, fua: false }, Operation::Write, after)
    }

    fn fetch(&mut self, number: usize, len: usize) -> bool {
        let Some((spans, cursor)) = self.spans(number, len) else { return true };
        let data = self.copy_from_guest(&spans);
        self.master.pass(cursor);
        self.places[number].drive.job_done(Outcome::Done(data));
        true
    }

    /// An answer goes as far as there is memory for it.
    fn deliver(&mut self, number: usize) -> bool {
        let data = self.places[number].drive.buffer().to_vec();
        let (spans, cursor) = self.master.gather(data.len());
        self.copy_to_guest(&data, &spans);
        self.master.pass(cursor);
        self.places[number].drive.job_done(Outcome::Done(Vec::new()));
        true
    }
}
