//! Filters at a back end's cable: `-object filter-dump`, `filter-buffer`, `filter-mirror` and
//! `filter-redirector`.

mod backlog;
mod dump;
mod outlet;
mod props;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::cable::{Filter, Verdict};
use crate::netdev::Context;
use crate::{Cable, Frame, NetError, Side};

use backlog::Backlog;
use dump::Dump;
use outlet::{Inlet, Outlet};
use props::CommonProps;
pub use props::{FilterKind, FilterQueue, InsertWhere, TYPES};

/// Which frames a filter gets; changes while it is at work.
struct Gate {
    on: AtomicBool,
    queue: AtomicU8,
}

impl Gate {
    fn new(common: &CommonProps) -> Result<Gate, NetError> {
        let gate = Gate { on: AtomicBool::new(true), queue: AtomicU8::new(0) };
        gate.set_status(&common.status)?;
        gate.set_queue(common.queue);
        Ok(gate)
    }

    fn set_status(&self, status: &str) -> Result<(), NetError> {
        let on = match status {
            "on" => true,
            "off" => false,
            _ => {
                let text = "Invalid value for netfilter status, should be 'on' or 'off'";
                return Err(NetError::failed(text));
            }
        };
        self.on.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    fn set_queue(&self, queue: FilterQueue) {
        self.queue.store(queue as u8, Ordering::Relaxed);
    }

    fn queue(&self) -> FilterQueue {
        FilterQueue::ALL[usize::from(self.queue.load(Ordering::Relaxed)) % FilterQueue::ALL.len()]
    }

    /// Whether frames from this side are meant. What the back end receives comes from the guest.
    fn takes_from(&self, side: Side) -> bool {
        match self.queue() {
            FilterQueue::All => true,
            FilterQueue::Rx => side == Side::Guest,
            FilterQueue::Tx => side == Side::Host,
        }
    }
}

enum Work {
    Dump(Dump),
    Buffer(Arc<Backlog>),
    Mirror(Arc<Outlet>),
    /// Where frames go instead, and where others come from.
    Redirector {
        outlet: Option<Arc<Outlet>>,
        _inlet: Option<Arc<Inlet>>,
    },
}

/// A filter, as its cable sees it.
struct Core {
    id: String,
    gate: Arc<Gate>,
    /// How long a buffer keeps frames, in microseconds.
    interval: Arc<AtomicU32>,
    work: Work,
    kind: Mutex<FilterKind>,
}

impl Filter for Core {
    fn see(&self, from: Side, frame: &Frame<'_>) -> Verdict {
        if !self.gate.is_on() || !self.gate.takes_from(from) {
            return Verdict::Pass;
        }
        match &self.work {
            Work::Dump(dump) => dump.write(frame),
            Work::Buffer(backlog) => {
                backlog.hold(from, frame);
                return Verdict::Keep;
            }
            Work::Mirror(outlet) => outlet.send(frame),
            Work::Redirector { outlet: Some(outlet), .. } => {
                outlet.send(frame);
                return Verdict::Keep;
            }
            Work::Redirector { outlet: None, .. } => {}
        }
        Verdict::Pass
    }

    fn info(&self) -> String {
        let kind = self.kind.lock();
        format!("  - {}: type={}{}\n", self.id, kind.type_name(), kind.info())
    }
}

/// A filter that is at its cable until it is dropped.
pub struct NetFilter {
    core: Arc<Core>,
    cable: Weak<Cable>,
}

impl NetFilter {
    /// Makes a filter and puts it where its properties say.
    pub fn make(context: &Context, id: &str, kind: FilterKind) -> Result<NetFilter, NetError> {
        kind.check()?;
        let common = kind.common();
        let network = common.netdev.as_deref().and_then(|netdev| context.networks.get(netdev));
        let missing = || NetError::failed("Parameter 'netdev' expects a network backend id");
        let cable = network.ok_or_else(missing)?.cable;
        if cable.lanes() > 1 {
            return Err(NetError::failed("multiqueue is not supported"));
        }
        let gate = Arc::new(Gate::new(common)?);
        let place = place(&cable, common)?;
        let interval = Arc::new(AtomicU32::new(kind.interval().unwrap_or(0)));
        let backlog = |interval| Backlog::new(id, &cable, &context.clocks, interval);
        let work = match &kind {
            FilterKind::Dump(props) => {
                let file = props.file.as_deref().unwrap_or_default();
                Work::Dump(Dump::create(file, props.maxlen, &context.clocks)?)
            }
            FilterKind::Buffer(_) => Work::Buffer(backlog(Some(interval.clone()))),
            FilterKind::Mirror(props) => {
                let name = props.outdev.as_deref().unwrap_or_default();
                let found = context.chardevs.get(name);
                let chardev = found.map_err(|_| NetError::NotFound(name.into()))?;
                Work::Mirror(Outlet::open(&chardev, props.vnet_hdr_support)?)
            }
            FilterKind::Redirector(props) => {
                let find = |side: &str, name: &Option<String>| {
                    let name = name.as_deref();
                    let missing =
                        |name: &str| NetError::failed(format!("{side} Device '{name}' not found"));
                    name.map(|name| context.chardevs.get(name).map_err(|_| missing(name)))
                        .transpose()
                };
                let (from, to) = (find("IN", &props.indev)?, find("OUT", &props.outdev)?);
                let vnet = props.vnet_hdr_support;
                let inlet = from.map(|from| Inlet::open(&from, vnet, gate.clone(), backlog(None)));
                let outlet = to.map(|to| Outlet::open(&to, vnet));
                Work::Redirector { outlet: outlet.transpose()?, _inlet: inlet.transpose()? }
            }
        };
        let kind = Mutex::new(kind);
        let core = Arc::new(Core { id: id.into(), gate, interval, work, kind });
        cable.add_filter(place, id, core.clone());
        Ok(NetFilter { core, cable: Arc::downgrade(&cable) })
    }

    /// Whether it is at a cable.
    pub fn is_at(&self, cable: &Arc<Cable>) -> bool {
        self.cable.as_ptr() == Arc::as_ptr(cable)
    }

    /// What changes `status`, `queue` or `interval`; nothing for other properties.
    pub fn setter(&self, property: &str) -> Option<Setter> {
        let core = self.core.clone();
        let set: Setter = match property {
            "status" => Box::new(move |text| {
                core.gate.set_status(text)?;
                core.kind.lock().common_mut().status = text.into();
                if let (Work::Buffer(backlog), false) = (&core.work, core.gate.is_on()) {
                    backlog.release();
                }
                Ok(())
            }),
            "queue" => Box::new(move |text| {
                let found = FilterQueue::ALL.iter().find(|queue| queue.as_str() == text);
                let refused = || NetError::NotAccepted { name: "queue".into(), value: text.into() };
                let queue = *found.ok_or_else(refused)?;
                core.gate.set_queue(queue);
                core.kind.lock().common_mut().queue = queue;
                Ok(())
            }),
            "interval" => Box::new(move |text| {
                let interval = text.parse().ok().filter(|&interval: &u32| interval > 0);
                let interval = interval.ok_or_else(props::no_interval)?;
                core.interval.store(interval, Ordering::Relaxed);
                core.kind.lock().set_interval(interval);
                Ok(())
            }),
            _ => return None,
        };
        Some(set)
    }

    /// Its properties as they are now, for listings.
    pub fn shown(&self) -> impl Fn(&str) -> serde_json::Value + Send + Sync + use<> {
        let core = Arc::downgrade(&self.core);
        move |name| {
            let core = core.upgrade();
            let value = core.and_then(|core| core.kind.lock().props().get(name));
            value.unwrap_or_default()
        }
    }
}

/// Changes a property of a filter, given as text.
pub type Setter = Box<dyn Fn(&str) -> Result<(), NetError> + Send + Sync>;

impl Drop for NetFilter {
    fn drop(&mut self) {
        if let Some(cable) = self.cable.upgrade() {
            if let Work::Buffer(backlog) = &self.core.work {
                backlog.release();
            }
            cable.remove_filter(&self.core.id);
        }
    }
}

/// The index of a new filter among those that are there.
fn place(cable: &Cable, common: &CommonProps) -> Result<usize, NetError> {
    match common.position.as_str() {
        "head" => Ok(0),
        "tail" => Ok(usize::MAX),
        position => {
            let text = "Parameter 'position' expects 'head', 'tail' or 'id=<id>'";
            let id = position.strip_prefix("id=").ok_or_else(|| NetError::failed(text))?;
            let at = cable.filters().iter().position(|filter| filter == id);
            let at = at.ok_or_else(|| NetError::failed(format!("filter '{id}' not found")))?;
            Ok(if common.insert == InsertWhere::Before { at } else { at + 1 })
        }
    }
}
