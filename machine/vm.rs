//! The machine's life: starting, pausing, resetting, powering off, and what the guest's wishes for
//! these lead to.
//!
//! All of it happens on the main loop's thread. Devices and vCPU threads only leave a note
//! ([`Vm::request_sink`], [`Vm::vcpu_events`]) that the loop picks up.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use base::clock::Clocks;
use base::event_loop::{BottomHalf, LoopHandle};
use base::input::Router;
use base::memory::AddressSpace;
use base::object::Object;
use base::request::{Request, RequestSink, WakeReason};
use base::trace_event;
use block::backend::Event as BlockEvent;
use block::graph::Graph;
use cpu::signals::request;
use cpu::vcpu::{EventSink, VcpuEvent, Vcpus};
use hw::pci::PciFunction;
use hw::usb::UsbBuses;
use net::NetError;
use net::netdev::{NetEvent, NetEvents};
use parking_lot::Mutex;
use ui::Consoles;
use ui::vnc::{self, Servers};

use crate::config::{Actions, DeviceConfig, OnPanic, OnReboot, OnShutdown, OnWatchdog};
use crate::inventory::Inventory;
use crate::networks::HostNetworks;
use crate::objects::UserObjects;
use crate::run_state::{Cause, RunState, VmEvent};

/// What the machine's life needs of its board.
pub trait Board: Send + Sync {
    /// Resets every chip. The processors stand still and have been reset already.
    fn reset(&self);
    /// The operator presses the power button.
    fn power_button(&self);
    /// Goes to sleep, with power for RAM only. The processors are paused.
    fn suspend(&self);
    /// Whether the guest wants to be woken up for this reason.
    fn may_wake(&self, reason: WakeReason) -> bool;
    /// Wakes up from that. The processors are paused and have been reset.
    fn wake_up(&self, reason: WakeReason, vcpus: &Vcpus);
    /// Memory as devices see it.
    fn memory(&self) -> &AddressSpace;
    /// I/O ports.
    fn ports(&self) -> &AddressSpace;
    /// All address spaces, for people to look at.
    fn spaces(&self) -> Vec<AddressSpace> {
        vec![self.memory().clone(), self.ports().clone()]
    }
    /// Adds a device while the machine exists; called on the main loop.
    fn add_device(&self, device: &DeviceConfig) -> Result<(), HotplugError>;
    /// Asks the guest to let go of a device, named by its id or its path. Returns what has gone at
    /// once.
    fn request_removal(&self, device: &str) -> Result<Vec<Released>, HotplugError>;
    /// What the guest has let go of is to be released. It has been taken off its bus. Returns who it
    /// was, after those that were plugged into it.
    fn release(&self, function: Arc<PciFunction>) -> Vec<Released>;
    /// Prepares the processors and memory for what is started after a reset, if that is not
    /// firmware. The processors are paused.
    fn enter(&self, vcpus: &Vcpus);
    /// Starts the kernel that was prepared then. The processors are paused.
    fn start_kernel(&self, vcpus: &Vcpus) {
        let _ = vcpus;
    }
}

/// Why a device cannot be added or removed now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HotplugError {
    /// There is none of this id.
    #[error("Device '{0}' not found")]
    NotFound(String),
    /// Anything else.
    #[error("{0}")]
    Refused(String),
}

/// A device that has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The id that the operator gave it.
    pub id: Option<String>,
    /// Its path in the object tree, and before that those of its parts.
    pub paths: Vec<String>,
}

/// Hears events on the main loop.
pub type EventListener = Arc<dyn Fn(&VmEvent) + Send + Sync>;

/// What devices and vCPU threads want of the main loop.
enum Note {
    Guest(Request),
    Vcpu(VcpuEvent),
    RtcChanged(i64),
    Block(BlockEvent),
    FilterChanged { name: String, path: String },
    Net(NetEvent),
    Job(Job),
}

impl Note {
    /// Whether the processors do not simply go on from where they are.
    fn ends_the_run(&self) -> bool {
        match self {
            Note::Guest(request) => request.ends_the_run(),
            Note::Vcpu(VcpuEvent::Shutdown { .. } | VcpuEvent::Failed { .. }) => true,
            _ => false,
        }
    }
}

/// Work for the main loop.
pub type Job = Box<dyn FnOnce(&Vm) + Send>;

struct Parts {
    board: Arc<dyn Board>,
    vcpus: Vcpus,
}

/// A machine.
pub struct Vm {
    clocks: Clocks,
    main_loop: LoopHandle,
    graph: Arc<Graph>,
    input: Arc<Router>,
    consoles: Arc<Consoles>,
    vnc: Servers,
    usb: Arc<UsbBuses>,
    parts: OnceLock<Parts>,
    /// The root of the object tree.
    objects: Arc<Object>,
    user_objects: Arc<UserObjects>,
    networks: Arc<HostNetworks>,
    inventory: OnceLock<Inventory>,
    notes: Mutex<VecDeque<Note>>,
    pick_up: OnceLock<BottomHalf>,
    state: Mutex<RunState>,
    actions: Mutex<Actions>,
    listeners: Mutex<Vec<EventListener>>,
    exit_status: Mutex<Option<i32>>,
}

impl Vm {
    /// A machine without parts, for boards to be built against.
    pub fn new(
        clocks: &Clocks,
        main_loop: &LoopHandle,
        graph: Arc<Graph>,
        actions: Actions,
    ) -> Arc<Self> {
        let objects = Object::container();
        let [user, _, _] = ["objects", "chardevs", "backend"].map(|name| {
            let part = Object::container();
            // The tree is empty so far.
            let _ = objects.add(name, part.clone());
            part
        });
        let networks = Arc::<HostNetworks>::default();
        let vm = Arc::new(Vm {
            clocks: clocks.clone(),
            main_loop: main_loop.clone(),
            graph: graph.clone(),
            input: Router::new(clocks),
            consoles: Consoles::new(),
            vnc: Servers::default(),
            usb: Arc::default(),
            parts: OnceLock::new(),
            objects,
            user_objects: UserObjects::new(user, graph, networks.clone()),
            networks,
            inventory: OnceLock::new(),
            notes: Mutex::default(),
            pick_up: OnceLock::new(),
            state: Mutex::default(),
            actions: Mutex::new(actions),
            listeners: Mutex::default(),
            exit_status: Mutex::default(),
        });
        let me = Arc::downgrade(&vm);
        let pick_up = main_loop.bottom_half(move || {
            if let Some(vm) = me.upgrade() {
                vm.pick_up_notes();
            }
        });
        vm.pick_up.get_or_init(|| pick_up);
        let send = vm.note_sender();
        vm.graph.listen(move |event| send(Note::Block(event)));
        let send = vm.note_sender();
        vm.networks.nics().listen(move |name, path| {
            send(Note::FilterChanged { name: name.into(), path: path.into() });
        });
        vm
    }

    /// Puts the parts in. To be called once, before anything is started.
    pub fn assemble(&self, board: Arc<dyn Board>, vcpus: Vcpus) {
        let first = self.parts.set(Parts { board, vcpus }).is_ok();
        debug_assert!(first, "assembled twice");
    }

    /// Tells what the machine consists of. To be called once.
    pub fn describe(&self, inventory: Inventory) {
        let first = self.inventory.set(inventory).is_ok();
        debug_assert!(first, "described twice");
    }

    /// What the machine consists of, once it is built.
    pub fn inventory(&self) -> Option<&Inventory> {
        self.inventory.get()
    }

    /// The root of the object tree.
    pub fn objects(&self) -> &Arc<Object> {
        &self.objects
    }

    /// Where people see it over a network.
    pub fn vnc(&self) -> &Servers {
        &self.vnc
    }

    /// Something happened to a client of a server; on the main loop.
    pub fn vnc_happened(&self, event: &vnc::Event) {
        self.tell(&VmEvent::Vnc(event.clone()));
    }

    /// Takes what happens to the connections of networks.
    pub fn net_events(self: &Arc<Self>) -> NetEvents {
        let send = self.note_sender();
        NetEvents::new(move |event| send(Note::Net(event)))
    }

    /// What people see of it.
    pub fn consoles(&self) -> &Arc<Consoles> {
        &self.consoles
    }

    /// The disks.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The way from whoever types and points to the devices that tell the guest.
    pub fn input(&self) -> &Arc<Router> {
        &self.input
    }

    /// The USB buses.
    pub fn usb(&self) -> &Arc<UsbBuses> {
        &self.usb
    }

    /// Networks and network cards.
    pub fn networks(&self) -> &Arc<HostNetworks> {
        &self.networks
    }

    /// Takes a back end of a network away, and the filters at it.
    pub fn remove_network(&self, id: &str) -> Result<(), NetError> {
        let network = self.networks.remove(id)?;
        self.user_objects.remove_filters(&network.cable);
        Ok(())
    }

    /// The operator's objects.
    pub fn user_objects(&self) -> &Arc<UserObjects> {
        &self.user_objects
    }

    fn leave_note(&self, note: Note) {
        self.notes.lock().push_back(note);
        if let Some(pick_up) = self.pick_up.get() {
            pick_up.schedule();
        }
    }

    fn note_sender(self: &Arc<Self>) -> impl Fn(Note) + Send + Sync + 'static + use<> {
        let me: Weak<Vm> = Arc::downgrade(self);
        move |note| {
            let Some(vm) = me.upgrade() else { return };
            if note.ends_the_run()
                && let Some(vcpus) = vm.vcpus()
            {
                // Or the guest would go on until the main loop gets around to the note, and how far
                // would depend on the host.
                vcpus.hold();
            }
            vm.leave_note(note);
        }
    }

    /// Where devices send their requests.
    pub fn request_sink(self: &Arc<Self>) -> RequestSink {
        let send = self.note_sender();
        RequestSink::new(move |request| send(Note::Guest(request)))
    }

    /// Where vCPU threads send their events.
    pub fn vcpu_events(self: &Arc<Self>) -> EventSink {
        let send = self.note_sender();
        Arc::new(move |event| send(Note::Vcpu(event)))
    }

    /// Where work for the main loop goes, that comes up while devices are locked.
    pub fn jobs(self: &Arc<Self>) -> impl Fn(Job) + Send + Sync + 'static + use<> {
        let send = self.note_sender();
        move |job| send(Note::Job(job))
    }

    /// Where the real-time clock tells that the guest has set it.
    pub fn rtc_changed(self: &Arc<Self>) -> Box<dyn Fn(i64) + Send> {
        let send = self.note_sender();
        Box::new(move |offset| send(Note::RtcChanged(offset)))
    }

    /// Adds a listener for events.
    pub fn listen(&self, listener: EventListener) {
        self.listeners.lock().push(listener);
    }

    fn tell(&self, event: &VmEvent) {
        let listeners = self.listeners.lock().clone();
        listeners.iter().for_each(|listener| listener(event));
    }

    /// Releases a device that the guest has let go of, and tells who asked for it.
    pub fn release(&self, function: Arc<PciFunction>) {
        let released = self.board().map(|board| board.release(function));
        self.tell_released(released.unwrap_or_default());
    }

    /// Asks the guest to let go of a device, named by its id or its path; some go at once.
    pub fn request_removal(&self, device: &str) -> Result<(), HotplugError> {
        let board = self.board().ok_or_else(|| HotplugError::NotFound(device.into()))?;
        self.tell_released(board.request_removal(device)?);
        Ok(())
    }

    fn tell_released(&self, released: Vec<Released>) {
        for Released { id, paths } in released {
            let parts = paths.len().saturating_sub(1);
            for (n, path) in paths.into_iter().enumerate() {
                let id = id.clone().filter(|_| n == parts);
                self.tell(&VmEvent::DeviceDeleted { id, path });
            }
        }
    }

    /// The current state.
    pub fn state(&self) -> RunState {
        *self.state.lock()
    }

    /// The clocks.
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// The board, once the machine is assembled.
    pub fn board(&self) -> Option<&Arc<dyn Board>> {
        self.parts.get().map(|parts| &parts.board)
    }

    /// The processors, once the machine is assembled.
    pub fn vcpus(&self) -> Option<&Vcpus> {
        self.parts.get().map(|parts| &parts.vcpus)
    }

    /// What is done when the guest reboots, powers off or panics.
    pub fn actions(&self) -> Actions {
        *self.actions.lock()
    }

    /// Changes what is done when the guest reboots, powers off or panics.
    pub fn set_actions(&self, change: impl FnOnce(&mut Actions)) {
        change(&mut self.actions.lock());
    }

    /// The status to exit with, once the machine has ended.
    pub fn exit_status(&self) -> Option<i32> {
        *self.exit_status.lock()
    }

    fn pick_up_notes(&self) {
        loop {
            // Not held while a note is dealt with: dealing with it may leave another.
            let Some(note) = self.notes.lock().pop_front() else { return };
            match note {
                Note::Guest(request) => self.serve(request),
                Note::Vcpu(VcpuEvent::Shutdown { .. }) => self.serve(Request::Reset),
                Note::Vcpu(VcpuEvent::Crashed { .. }) => self.serve(Request::Panicked),
                Note::Vcpu(VcpuEvent::Failed { index, reason }) => {
                    eprintln!("qemu-system-x86_64: CPU {index}: {reason}");
                    self.halt(RunState::InternalError);
                }
                Note::RtcChanged(offset) => self.tell(&VmEvent::RtcChange(offset)),
                Note::Block(BlockEvent::Stop) => self.halt(RunState::IoError),
                Note::Block(event) => self.tell(&VmEvent::Block(event)),
                Note::FilterChanged { name, path } => {
                    self.tell(&VmEvent::NicRxFilterChanged { name, path });
                }
                Note::Net(event) => self.tell(&VmEvent::Net(event)),
                Note::Job(job) => job(self),
            }
        }
    }

    fn serve(&self, request: Request) {
        match request {
            Request::Reset => match self.actions().reboot {
                OnReboot::Reset => self.reset(Cause::GuestReset),
                OnReboot::Shutdown => self.shut_down(Cause::GuestReset),
            },
            Request::PowerOff => self.shut_down(Cause::GuestShutdown),
            Request::SuspendToDisk => {
                self.tell(&VmEvent::SuspendDisk);
                self.shut_down(Cause::GuestShutdown);
            }
            Request::Exit(status) => self.quit(status),
            Request::Suspend => self.suspend(),
            Request::WakeUp(reason) => {
                self.wake_up(reason);
            }
            Request::Panicked => self.panicked(),
            Request::WatchdogExpired => self.watchdog_expired(),
            Request::CrashLoaded => self.tell(&VmEvent::GuestCrashLoaded),
            Request::StartKernel => self.start_kernel(),
        }
    }

    fn start_kernel(&self) {
        if let Some(Parts { board, vcpus }) = self.parts.get() {
            vcpus.pause();
            board.start_kernel(vcpus);
            if self.state().runs() {
                vcpus.resume();
            }
        }
    }

    fn panicked(&self) {
        match self.actions().panic {
            OnPanic::None => self.tell(&VmEvent::GuestPanicked("run")),
            OnPanic::Pause => {
                self.tell(&VmEvent::GuestPanicked("pause"));
                self.halt(RunState::GuestPanicked);
            }
            OnPanic::Shutdown => {
                self.tell(&VmEvent::GuestPanicked("poweroff"));
                self.halt(RunState::GuestPanicked);
                self.shut_down(Cause::GuestPanic);
            }
            OnPanic::ExitFailure => {
                self.tell(&VmEvent::GuestPanicked("poweroff"));
                self.halt(RunState::GuestPanicked);
                self.quit(1);
            }
        }
    }

    /// Takes on `state` and returns the one before.
    fn take_on(&self, state: RunState) -> RunState {
        let was = std::mem::replace(&mut *self.state.lock(), state);
        let (old, new) = (was.name(), state.name());
        trace_event!(runstate_set, "current_run_state {old} new_state {new}");
        self.input.set_running(state.runs());
        was
    }

    fn watchdog_expired(&self) {
        let action = self.actions().watchdog;
        self.tell(&VmEvent::Watchdog(action));
        match action {
            OnWatchdog::None => {}
            OnWatchdog::Reset => self.serve(Request::Reset),
            OnWatchdog::Shutdown => self.power_down(),
            OnWatchdog::Poweroff => self.quit(0),
            OnWatchdog::Pause => self.halt(RunState::Watchdog),
            OnWatchdog::Debug => eprintln!("watchdog: timer fired"),
            OnWatchdog::InjectNmi => {
                let vcpus = self.parts.get().map(|parts| &parts.vcpus);
                vcpus.into_iter().flat_map(Vcpus::signals).for_each(|cpu| cpu.post(request::NMI));
            }
        }
    }

    /// Stops guest time and processors and takes on `state`.
    fn halt(&self, state: RunState) {
        let was = self.take_on(state);
        if was.runs() && !state.runs() {
            if let Some(parts) = self.parts.get() {
                parts.vcpus.pause();
            }
            self.clocks.stop_virtual();
            self.tell(&VmEvent::Stop);
            self.graph.settle();
        }
    }

    /// Prepares the first start: everything as after power-up.
    pub fn power_up(&self) {
        if let Some(Parts { board, vcpus }) = self.parts.get() {
            vcpus.reset();
            board.reset();
            board.enter(vcpus);
        }
    }

    /// Lets the guest run; without effect in states that only a reset ends.
    pub fn resume(&self) {
        let state = self.state();
        if state == RunState::Running || state.needs_reset() {
            return;
        }
        self.take_on(RunState::Running);
        self.clocks.start_virtual();
        self.tell(&VmEvent::Resume);
        self.graph.resume();
        if let Some(parts) = self.parts.get() {
            parts.vcpus.resume();
        }
    }

    /// Pauses the guest.
    pub fn pause(&self) {
        if self.state().runs() {
            self.halt(RunState::Paused);
        }
    }

    /// Resets the machine; it runs on if it ran.
    pub fn reset(&self, cause: Cause) {
        let Some(Parts { board, vcpus }) = self.parts.get() else { return };
        let state = self.state();
        vcpus.pause();
        // What disks still move would end in memory that is prepared for the next start.
        self.graph.drain();
        vcpus.reset();
        board.reset();
        board.enter(vcpus);
        self.tell(&VmEvent::Reset(cause));
        match state {
            RunState::Running => vcpus.resume(),
            RunState::Suspended => {
                self.take_on(RunState::Running);
                vcpus.resume();
            }
            RunState::PreLaunch => {}
            _ => {
                self.take_on(RunState::Paused);
            }
        }
    }

    /// Ends the machine, or keeps it stopped if the operator asked for that.
    pub fn shut_down(&self, cause: Cause) {
        trace_event!(qemu_system_shutdown_request, "reason={}", cause.name());
        self.tell(&VmEvent::Shutdown(cause));
        if self.actions().shutdown == OnShutdown::Pause && cause.by_guest() {
            self.halt(RunState::Shutdown);
        } else {
            self.quit(0);
        }
    }

    /// Ends the main loop; the program exits with `status`.
    pub fn quit(&self, status: i32) {
        if let Some(parts) = self.parts.get() {
            parts.vcpus.pause();
        }
        self.exit_status.lock().get_or_insert(status);
        self.main_loop.quit();
    }

    /// Presses the power button. A suspended machine wakes up by it.
    pub fn power_down(&self) {
        trace_event!(qemu_system_powerdown_request, "");
        if let Some(parts) = self.parts.get() {
            if self.state() == RunState::Suspended {
                self.wake_up(WakeReason::Operator);
            } else {
                parts.board.power_button();
            }
        }
        self.tell(&VmEvent::PowerDown);
    }

    fn suspend(&self) {
        if self.state() != RunState::Running {
            return;
        }
        if let Some(parts) = self.parts.get() {
            parts.vcpus.pause();
            parts.board.suspend();
        }
        self.take_on(RunState::Suspended);
        self.tell(&VmEvent::Suspend);
    }

    /// Wakes a suspended machine: the processors start at the reset vector, or where the kernel that
    /// was started without firmware wants to; memory and most chips are as they were. Returns whether
    /// it was suspended.
    pub fn wake_up(&self, reason: WakeReason) -> bool {
        if self.state() != RunState::Suspended {
            return false;
        }
        trace_event!(system_wakeup_request, "reason={reason:?}");
        if let Some(Parts { board, vcpus }) = self.parts.get()
            && board.may_wake(reason)
        {
            vcpus.reset();
            board.wake_up(reason, vcpus);
            self.take_on(RunState::Running);
            self.tell(&VmEvent::WakeUp);
            vcpus.resume();
        }
        true
    }
}
