//! Events: what clients are told without having asked.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::clock::{ClockKind, SECOND, Timer};
use base::trace_event;
use block::backend::{ErrorAction, Event as BlockEvent, Operation};
use block::job::Status;
use machine::config::OnWatchdog;
use machine::run_state::{Cause, VmEvent};
use net::netdev::NetEvent;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Session;
use super::commands::vnc::{self, FlatAddress};
use crate::qapi::{Qapi, Type};
use crate::target::Target;
use crate::{qapi_struct, qapi_words};

/// An event a guest could flood clients with is sent at most this often; the last one counts.
const QUIET_TIME: Duration = Duration::from_secs(1);

qapi_words!(Cause, Cause::ALL, Cause::name);

qapi_struct! {
    /// Why the machine ends or resets.
    pub struct Ending { "guest" guest: bool, "reason" reason: Cause }
}

/// What is done about a panic of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanicAction(&'static str);

const PANIC_ACTIONS: &[PanicAction] =
    &[PanicAction("pause"), PanicAction("poweroff"), PanicAction("run")];
qapi_words!(PanicAction, PANIC_ACTIONS, |action| action.0);

qapi_struct! {
    /// A panic of the guest.
    pub struct Panic { "action" action: PanicAction }
}

qapi_struct! {
    /// The guest set its clock.
    pub struct RtcChange {
        /// Seconds off the host's clock.
        "offset" offset: i64,
        "qom-path" qom_path: String,
    }
}

qapi_struct! {
    /// A watchdog expired.
    pub struct Watchdog { "action" action: OnWatchdog }
}

const OPERATIONS: &[Operation] = &[Operation::Read, Operation::Write];
qapi_words!(Operation, OPERATIONS, Operation::name);

const ERROR_ACTIONS: &[ErrorAction] =
    &[ErrorAction::Ignore, ErrorAction::Report, ErrorAction::Stop];
qapi_words!(ErrorAction, ERROR_ACTIONS, ErrorAction::name);

qapi_struct! {
    /// A disk request failed.
    pub struct BlockIoError {
        "qom-path" qom_path: String,
        "device" device: String,
        "node-name" node_name: Option<String>,
        "operation" operation: Operation,
        "action" action: ErrorAction,
        "nospace" nospace: Option<bool>,
        "reason" reason: String,
    }
}

qapi_struct! {
    /// An image cannot be right.
    pub struct ImageCorrupted {
        "device" device: String,
        "node-name" node_name: Option<String>,
        "msg" msg: String,
        "offset" offset: Option<u64>,
        "size" size: Option<u64>,
        "fatal" fatal: bool,
    }
}

qapi_struct! {
    /// A write went beyond a threshold.
    pub struct BeyondThreshold {
        "node-name" node_name: String,
        "amount-exceeded" amount_exceeded: u64,
        "write-threshold" write_threshold: u64,
    }
}

qapi_struct! {
    /// A drive's tray has moved.
    pub struct TrayMoved {
        "device" device: String,
        "id" id: String,
        "tray-open" tray_open: bool,
    }
}

qapi_struct! {
    /// A device has gone.
    struct DeviceDeleted {
        "device" device: Option<String>,
        "path" path: String,
    }
}

qapi_struct! {
    /// A network card lets other frames through.
    struct FilterChanged {
        "name" name: Option<String>,
        "path" path: String,
    }
}

qapi_struct! {
    /// Somebody is at the other end of a network.
    struct StreamConnected {
        "netdev-id" netdev: String,
        "addr" address: FlatAddress,
    }
}

qapi_struct! {
    /// Nobody is there any more.
    struct StreamDisconnected { "netdev-id" netdev: String }
}

qapi_struct! {
    /// A job has come to another state.
    pub struct JobStatusChange { "id" id: String, "status" status: Status }
}

/// An event's name, and the type of what comes with it.
pub(super) type EventKind = (&'static str, fn() -> Type);

/// The events there are.
pub(super) const EVENTS: &[EventKind] = &[
    ("BLOCK_IMAGE_CORRUPTED", ImageCorrupted::ty),
    ("BLOCK_IO_ERROR", BlockIoError::ty),
    ("BLOCK_WRITE_THRESHOLD", BeyondThreshold::ty),
    ("DEVICE_DELETED", DeviceDeleted::ty),
    ("DEVICE_TRAY_MOVED", TrayMoved::ty),
    ("GUEST_CRASHLOADED", Panic::ty),
    ("GUEST_PANICKED", Panic::ty),
    ("JOB_STATUS_CHANGE", JobStatusChange::ty),
    ("NETDEV_STREAM_CONNECTED", StreamConnected::ty),
    ("NETDEV_STREAM_DISCONNECTED", StreamDisconnected::ty),
    ("NIC_RX_FILTER_CHANGED", FilterChanged::ty),
    ("POWERDOWN", <()>::ty),
    ("RESET", Ending::ty),
    ("RESUME", <()>::ty),
    ("RTC_CHANGE", RtcChange::ty),
    ("SHUTDOWN", Ending::ty),
    ("STOP", <()>::ty),
    ("SUSPEND", <()>::ty),
    ("SUSPEND_DISK", <()>::ty),
    ("VNC_CONNECTED", vnc::Connected::ty),
    ("VNC_DISCONNECTED", vnc::ClientEvent::ty),
    ("VNC_INITIALIZED", vnc::ClientEvent::ty),
    ("WAKEUP", <()>::ty),
    ("WATCHDOG", Watchdog::ty),
];

/// An event's name and what comes with it.
fn describe(target: &Target, event: &VmEvent) -> Option<(&'static str, Option<Value>)> {
    let ending = |cause: Cause| Ending { guest: cause.by_guest(), reason: cause }.write();
    Some(match event {
        VmEvent::Stop => ("STOP", None),
        VmEvent::Resume => ("RESUME", None),
        VmEvent::PowerDown => ("POWERDOWN", None),
        VmEvent::Suspend => ("SUSPEND", None),
        VmEvent::SuspendDisk => ("SUSPEND_DISK", None),
        VmEvent::WakeUp => ("WAKEUP", None),
        VmEvent::Shutdown(cause) => ("SHUTDOWN", ending(*cause)),
        VmEvent::Reset(cause) => ("RESET", ending(*cause)),
        VmEvent::GuestPanicked(action) => {
            ("GUEST_PANICKED", Panic { action: PanicAction(action) }.write())
        }
        VmEvent::GuestCrashLoaded => {
            ("GUEST_CRASHLOADED", Panic { action: PanicAction("run") }.write())
        }
        VmEvent::Watchdog(action) => ("WATCHDOG", Watchdog { action: *action }.write()),
        VmEvent::RtcChange(offset) => {
            let qom_path = target.path_of_type("mc146818rtc").unwrap_or_default();
            ("RTC_CHANGE", RtcChange { offset: *offset, qom_path }.write())
        }
        VmEvent::DeviceDeleted { id, path } => {
            ("DEVICE_DELETED", DeviceDeleted { device: id.clone(), path: path.clone() }.write())
        }
        VmEvent::NicRxFilterChanged { name, path } => {
            let event = FilterChanged { name: Some(name.clone()), path: path.clone() };
            ("NIC_RX_FILTER_CHANGED", event.write())
        }
        VmEvent::Net(NetEvent::StreamConnected { netdev, address }) => {
            let address = FlatAddress(address.clone());
            let event = StreamConnected { netdev: netdev.clone(), address };
            ("NETDEV_STREAM_CONNECTED", event.write())
        }
        VmEvent::Net(NetEvent::StreamDisconnected { netdev }) => {
            let event = StreamDisconnected { netdev: netdev.clone() };
            ("NETDEV_STREAM_DISCONNECTED", event.write())
        }
        VmEvent::Block(event) => return describe_block(target, event),
        VmEvent::Vnc(event) => vnc::describe(event),
    })
}

fn describe_block(target: &Target, event: &BlockEvent) -> Option<(&'static str, Option<Value>)> {
    Some(match event.clone() {
        BlockEvent::IoError { path, device, node, operation, action, no_space, reason } => {
            let event = BlockIoError {
                qom_path: path.unwrap_or_default(),
                device,
                node_name: node,
                operation,
                action,
                nospace: no_space,
                reason,
            };
            ("BLOCK_IO_ERROR", event.write())
        }
        BlockEvent::ImageCorrupted { node, found } => {
            let graph = target.vm.graph();
            let over = graph.node(&node).and_then(|node| graph.users(&node).into_iter().next());
            let event = ImageCorrupted {
                device: over.map(|drive| drive.name().to_owned()).unwrap_or_default(),
                node_name: Some(node),
                msg: found.message,
                offset: found.offset,
                size: found.size,
                fatal: found.fatal,
            };
            ("BLOCK_IMAGE_CORRUPTED", event.write())
        }
        BlockEvent::WriteThreshold { node, exceeded, threshold } => {
            let event = BeyondThreshold {
                node_name: node,
                amount_exceeded: exceeded,
                write_threshold: threshold,
            };
            ("BLOCK_WRITE_THRESHOLD", event.write())
        }
        BlockEvent::TrayMoved { device, id, open } => {
            ("DEVICE_TRAY_MOVED", TrayMoved { device, id, tray_open: open }.write())
        }
        BlockEvent::JobStatus { id, status } => {
            ("JOB_STATUS_CHANGE", JobStatusChange { id, status }.write())
        }
        // The machine's own affair.
        BlockEvent::Stop => return None,
    })
}

/// Those who hear events.
#[derive(Default)]
pub(crate) struct Listeners {
    sessions: Mutex<Vec<Weak<Session>>>,
    /// Events that were sent not long ago.
    recent: Mutex<HashMap<&'static str, Recent>>,
}

/// An event that is not to be sent again before its timer expires.
struct Recent {
    timer: Timer,
    /// What has happened since.
    held: Option<Value>,
}

impl Listeners {
    pub(super) fn add(&self, session: &Arc<Session>) {
        self.sessions.lock().push(Arc::downgrade(session));
    }

    /// Tells all clients of an event.
    pub(crate) fn tell(&self, target: &Arc<Target>, event: &VmEvent) {
        let Some((name, data)) = describe(target, event) else { return };
        let message = self.message(target, name, data);
        let limited = matches!(event, VmEvent::RtcChange(_) | VmEvent::Watchdog(_));
        if !limited {
            return self.send(&message);
        }
        let mut recent = self.recent.lock();
        if let Some(recent) = recent.get_mut(name)
            && recent.timer.deadline().is_some()
        {
            recent.held = Some(message);
            return;
        }
        let me = Arc::downgrade(target);
        let timer = target.vm.clocks().timer(ClockKind::Realtime, move || {
            if let Some(target) = me.upgrade() {
                target.listeners.quiet_time_over(&target, name);
            }
        });
        wait(target, &timer);
        recent.insert(name, Recent { timer, held: None });
        drop(recent);
        self.send(&message);
    }

    fn quiet_time_over(&self, target: &Target, name: &str) {
        let message = match self.recent.lock().get_mut(name) {
            Some(Recent { timer, held }) if held.is_some() => {
                wait(target, timer);
                held.take()
            }
            _ => None,
        };
        if let Some(message) = message {
            self.send(&message);
        }
    }

    fn message(&self, target: &Target, name: &str, data: Option<Value>) -> Value {
        let now = target.vm.clocks().now(ClockKind::Host);
        let timestamp = json!({"seconds": now / SECOND, "microseconds": now % SECOND / 1000});
        match data {
            Some(data) => json!({"timestamp": timestamp, "event": name, "data": data}),
            None => json!({"timestamp": timestamp, "event": name}),
        }
    }

    fn send(&self, message: &Value) {
        trace_event!(monitor_protocol_event_emit, "{message}");
        let mut known = self.sessions.lock();
        // Those of visitors come and go.
        known.retain(|session| session.strong_count() > 0);
        let sessions: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        drop(known);
        sessions.iter().for_each(|session| session.tell(message));
    }
}

fn wait(target: &Target, timer: &Timer) {
    let now = target.vm.clocks().now(ClockKind::Realtime);
    timer.set(now + QUIET_TIME.as_nanos() as i64);
}
