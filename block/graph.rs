//! What there is: nodes and back ends by name.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::backend::{Backend, DriveInfo, Event, EventSink, Helper, Interface};
use crate::engine::{self, HostIo};
use crate::job::Jobs;
use crate::node::{self, Node};
use crate::open::{OpenOptions, open_tree};
use crate::options::Options;
use crate::qcow2::Purpose;
use crate::schema::{self, Form};
use crate::secret::Secrets;
use crate::throttle::Group;
use crate::{Error, Result};

type Listener = Box<dyn Fn(Event) + Send + Sync>;

/// Passes events on to who listens, once there is somebody.
#[derive(Default)]
struct Relay(OnceLock<Listener>);

impl EventSink for Relay {
    fn tell(&self, event: Event) {
        if let Some(listener) = self.0.get() {
            listener(event);
        }
    }
}

#[derive(Default)]
struct Inner {
    /// All nodes, oldest first.
    nodes: Vec<(u64, Weak<Node>)>,
    /// Places among them that were given out.
    reserved: u64,
    /// Those that the operator made, and keeps until `blockdev-del`.
    owned: Vec<Arc<Node>>,
    backends: Vec<Arc<Backend>>,
    /// Limits that `-object throttle-group` made.
    throttle_groups: Vec<Arc<Group>>,
}

/// The nodes and back ends of a machine.
pub struct Graph {
    io: Arc<dyn HostIo>,
    helper: Arc<Helper>,
    relay: Arc<Relay>,
    events: Arc<dyn EventSink>,
    secrets: Secrets,
    jobs: Arc<Jobs>,
    inner: Mutex<Inner>,
}

impl Graph {
    /// An empty graph, whose host I/O is done by `io`.
    pub fn new(io: Arc<dyn HostIo>) -> Result<Arc<Self>> {
        let helper = Helper::new()?;
        let relay = Arc::<Relay>::default();
        let events: Arc<dyn EventSink> = relay.clone();
        let jobs = Jobs::new(&events);
        let (secrets, inner) = (Secrets::default(), Mutex::default());
        Ok(Arc::new(Self { io, helper, relay, events, secrets, jobs, inner }))
    }

    /// Passwords that options of nodes refer to.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Who hears what happens.
    pub fn events(&self) -> &Arc<dyn EventSink> {
        &self.events
    }

    /// Work under way.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// Who does host I/O.
    pub fn io(&self) -> &Arc<dyn HostIo> {
        &self.io
    }

    /// The thread that wakes sleepers.
    pub fn helper(&self) -> &Arc<Helper> {
        &self.helper
    }

    /// Has events told to `listener`, on any thread. To be called once.
    pub fn listen(&self, listener: impl Fn(Event) + Send + Sync + 'static) {
        let first = self.relay.0.set(Box::new(listener)).is_ok();
        debug_assert!(first, "two listeners");
    }

    /// Refuses a name that no new node can have.
    pub fn check_name(&self, name: &str) -> Result<()> {
        node::check_name(name)?;
        let fault = if self.backend(name).is_some() {
            format!("node-name={name} is conflicting with a device id")
        } else if self.node(name).is_some() {
            format!("Duplicate nodes with node-name='{name}'")
        } else {
            return Ok(());
        };
        Err(Error::invalid(fault))
    }

    /// How the operator's images are opened.
    pub fn how(&self) -> OpenOptions {
        OpenOptions {
            format: None,
            purpose: Purpose::Write,
            force_share: false,
            no_backing: false,
            no_io: false,
            secrets: self.secrets.clone(),
            throttle_groups: Default::default(),
            checks: false,
            io: self.io.clone(),
        }
    }

    /// Makes the node that the operator describes, and keeps it.
    pub fn add_node(&self, tree: &Map<String, Value>, form: Form) -> Result<Arc<Node>> {
        let mut tree = tree.clone();
        schema::check(&mut tree, form)?;
        if !tree.contains_key("node-name") {
            return Err(Error::invalid("'node-name' must be specified for the root node"));
        }
        let options = Options::from_tree(tree);
        let opened = engine::block_on(open_tree(None, options, &self.how(), Some(self)))?;
        self.own(opened.node.clone());
        Ok(opened.node)
    }

    /// The drive at a place.
    pub fn drive_at(&self, interface: Interface, bus: u32, unit: u32) -> Option<Arc<Backend>> {
        self.backends().into_iter().find(|backend| {
            let info = backend.info();
            info.legacy && (info.interface, info.bus, info.unit) == (interface, bus, unit)
        })
    }

    /// A place among the nodes, for one that is being opened: what is opened with it comes behind.
    pub(crate) fn reserve(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.reserved += 1;
        inner.reserved
    }

    /// Enters a node that was opened.
    pub fn enter(&self, node: &Arc<Node>) {
        self.enter_at(self.reserve(), node);
    }

    /// Enters a node at its place.
    pub(crate) fn enter_at(&self, place: u64, node: &Arc<Node>) {
        let mut inner = self.inner.lock();
        inner.nodes.retain(|(_, node)| node.strong_count() > 0);
        let at = inner.nodes.partition_point(|(other, _)| *other < place);
        inner.nodes.insert(at, (place, Arc::downgrade(node)));
    }

    /// Keeps a node for the operator.
    pub fn own(&self, node: Arc<Node>) {
        self.inner.lock().owned.push(node);
    }

    /// All nodes, oldest first.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.inner.lock().nodes.iter().filter_map(|(_, node)| node.upgrade()).collect()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes().into_iter().find(|node| node.name() == name)
    }

    /// Whether the operator made a node and keeps it.
    pub fn is_owned(&self, node: &Arc<Node>) -> bool {
        self.inner.lock().owned.iter().any(|owned| Arc::ptr_eq(owned, node))
    }

    /// The operator no longer keeps a node.
    pub fn disown(&self, node: &Arc<Node>) {
        self.inner.lock().owned.retain(|owned| !Arc::ptr_eq(owned, node));
    }

    /// Makes a back end with a name.
    pub fn add_backend(&self, name: &str, info: DriveInfo) -> Result<Arc<Backend>> {
        if self.backend(name).is_some() {
            return Err(Error::invalid(format!("Device with id '{name}' already exists")));
        }
        if self.node(name).is_some() {
            let text = format!("Device name '{name}' conflicts with an existing node name");
            return Err(Error::invalid(text));
        }
        let backend = Backend::new(name, info, &self.helper, &self.events);
        self.inner.lock().backends.push(backend.clone());
        Ok(backend)
    }

    /// The back end for a device's `drive=`: a drive's, or a new one over the node of that name.
    pub fn backend_for_device(&self, name: &str) -> Result<Option<Arc<Backend>>> {
        if let Some(backend) = self.backend(name) {
            return Ok(Some(backend));
        }
        let Some(node) = self.node(name) else { return Ok(None) };
        let backend = self.empty_backend();
        backend.set_node(Some(node))?;
        Ok(Some(backend))
    }

    /// A back end without a name or a medium.
    pub fn empty_backend(&self) -> Arc<Backend> {
        let backend = Backend::new("", DriveInfo::default(), &self.helper, &self.events);
        self.inner.lock().backends.push(backend.clone());
        backend
    }

    /// The limits of a name: an object's, or those that drives share.
    pub fn throttle_group(&self, name: &str) -> Option<Arc<Group>> {
        let inner = self.inner.lock();
        let objects = inner.throttle_groups.iter().cloned();
        let drives = inner.backends.iter().filter_map(|backend| backend.throttle());
        objects.chain(drives).find(|group| group.name() == name)
    }

    /// Removes an object's limits, unless a disk has them; `None` if there is no such object.
    pub fn remove_throttle_group(&self, name: &str) -> Option<bool> {
        let groups = &mut self.inner.lock().throttle_groups;
        let at = groups.iter().position(|group| group.name() == name)?;
        let free = Arc::strong_count(&groups[at]) == 1;
        if free {
            groups.remove(at);
        }
        Some(free)
    }

    /// Enters an object's limits.
    pub fn add_throttle_group(&self, group: Arc<Group>) {
        self.inner.lock().throttle_groups.push(group);
    }

    /// All back ends, oldest first.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.inner.lock().backends.clone()
    }

    /// The back end of this name.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        let named = |backend: &Arc<Backend>| !name.is_empty() && backend.name() == name;
        self.backends().into_iter().find(named)
    }

    /// The back end that a device of this id or path holds.
    pub fn drive_of_device(&self, id: &str) -> Option<Arc<Backend>> {
        self.backends().into_iter().find(|backend| {
            let device = backend.device();
            device.is_some_and(|device| device.id.as_deref() == Some(id) || device.path == id)
        })
    }

    /// Removes a back end whose device has gone.
    pub fn remove_backend(&self, backend: &Arc<Backend>) {
        self.inner.lock().backends.retain(|other| !Arc::ptr_eq(other, backend));
    }

    /// Waits until no back end has anything in flight. Not under a device's lock.
    pub fn drain(&self) {
        self.backends().iter().for_each(Backend::drain);
    }

    /// The machine has stopped: what the guest was told is done survives whatever comes.
    pub fn settle(&self) {
        self.drain();
        for backend in self.backends() {
            let flushed = backend.node().map(|node| engine::block_on(node.flush()));
            if let Some(Err(error)) = flushed {
                base::error_report!("flushing drive '{}' failed: {error}", backend.name());
            }
        }
    }

    /// The program ends: images are left as they should be.
    pub fn close(&self) {
        self.settle();
        let mut inner = self.inner.lock();
        inner.backends.iter().for_each(|backend| drop(backend.set_node(None)));
        inner.owned.clear();
    }

    /// The machine resumes: requests that failed are tried again.
    pub fn resume(&self) {
        self.backends().iter().for_each(Backend::resume);
    }
}
