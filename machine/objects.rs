//! Objects that the operator makes: `-object` and `object-add`.

use std::sync::Arc;

use base::memory::RamBlock;
use base::memory::backend::{Backend, BackendError, BackendProps, Defaults, HostNodes};
use base::object::{Object, Property};
use base::props::{PropError, PropInput, PropName, PropSpec, PropValue, Props};
use base::tls::X509;
use block::graph::Graph;
use block::throttle::Group;
use net::filter::{self, FilterKind, NetFilter};
use net::{Cable, NetError};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::config::{ObjectConfig, PropList};
use crate::credentials::{self, CredentialsError, SECRET, SecretProps, TLS_X509, X509Props};
use crate::io_threads::{IoThread, IoThreadProps};
use crate::networks::HostNetworks;
use crate::throttle_groups::{self, THROTTLE_GROUP};

/// Type of I/O threads.
pub const IO_THREAD: &str = "iothread";

/// Why an object cannot be made, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum UserObjectError {
    /// There is no such type, or not in this build.
    #[error("Parameter 'qom-type' does not accept value '{0}'")]
    Type(String),
    /// The id is taken.
    #[error("attempt to add duplicate property '{0}' to object (type 'container')")]
    Duplicate(String),
    /// A property.
    #[error("{0}")]
    Property(String),
    /// The memory cannot be had.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The secret cannot be had.
    #[error(transparent)]
    Secret(#[from] block::Error),
    /// The certificates cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The thread cannot be had.
    #[error("cannot start an I/O thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The filter of a network.
    #[error(transparent)]
    Filter(#[from] NetError),
    /// There is no such object.
    #[error("object '{0}' not found")]
    NotFound(String),
    /// The machine uses it.
    #[error("object '{0}' is in use, can not be deleted")]
    InUse(String),
}

/// Why a backend is not given to who asks for it.
pub(crate) enum TakeError {
    /// It serves already.
    Used,
    /// There is none of this id.
    NotFound,
}

struct Memory {
    id: String,
    backend: Backend,
    block: Arc<RamBlock>,
    /// Whether the machine's RAM is made of it.
    used: bool,
}

/// A memory backend, as `query-memdev` tells of it.
#[derive(Clone, Debug)]
pub struct MemoryInfo {
    /// Its id.
    pub id: String,
    /// Its properties.
    pub props: BackendProps,
    /// Its size.
    pub size: u64,
    /// Whether the host may share its pages.
    pub merge: bool,
    /// Whether it is part of a core dump.
    pub dump: bool,
}

/// The operator's objects.
pub struct UserObjects {
    /// `/objects` of the tree.
    container: Arc<Object>,
    defaults: RwLock<Defaults>,
    memory: Mutex<Vec<Memory>>,
    threads: Mutex<Vec<(String, Arc<IoThread>)>>,
    secrets: Mutex<Vec<String>>,
    certificates: Mutex<Vec<(String, Arc<X509>)>>,
    filters: Mutex<Vec<(String, NetFilter)>>,
    graph: Arc<Graph>,
    networks: Arc<HostNetworks>,
}

/// Types of credentials without certificates.
const OTHER_CREDENTIALS: [&str; 2] = ["tls-creds-anon", "tls-creds-psk"];

/// Whether the operator can make objects of a type.
pub fn is_type(name: &str) -> bool {
    name == IO_THREAD || is_early(name) || is_filter(name) || Backend::new(name).is_some()
}

/// Whether objects of a type are filters of networks.
pub fn is_filter(name: &str) -> bool {
    filter::TYPES.contains(&name)
}

/// Whether objects of a type are made before all else that may refer to them.
pub fn is_early(name: &str) -> bool {
    [THROTTLE_GROUP, SECRET, TLS_X509].contains(&name)
}

impl UserObjects {
    /// None yet; they will be entered in `container`, limits in `graph`, filters in `networks`.
    pub fn new(
        container: Arc<Object>,
        graph: Arc<Graph>,
        networks: Arc<HostNetworks>,
    ) -> Arc<Self> {
        let defaults = RwLock::new(Defaults { merge: true, dump: true });
        Arc::new(UserObjects {
            container,
            defaults,
            memory: Mutex::default(),
            threads: Mutex::default(),
            secrets: Mutex::default(),
            certificates: Mutex::default(),
            filters: Mutex::default(),
            graph,
            networks,
        })
    }

    /// What the machine says about memory whose owner does not.
    pub(crate) fn set_defaults(&self, defaults: Defaults) {
        *self.defaults.write() = defaults;
    }

    /// Whether there is an object of this id.
    pub(crate) fn exists(&self, id: &str) -> bool {
        self.container.child(id).is_some()
    }

    /// Makes an object.
    pub fn add(&self, config: &ObjectConfig) -> Result<(), UserObjectError> {
        if config.type_name == IO_THREAD {
            return self.add_io_thread(config);
        }
        match config.type_name.as_str() {
            THROTTLE_GROUP => return self.add_throttle_group(config),
            SECRET => return self.add_secret(config),
            TLS_X509 => return self.add_certificates(config),
            name if is_filter(name) => return self.add_filter(config),
            other if OTHER_CREDENTIALS.contains(&other) => {
                return Err(CredentialsError::NoCertificates(other.into()).into());
            }
            _ => {}
        }
        let backend = Backend::new(&config.type_name)
            .ok_or_else(|| UserObjectError::Type(config.type_name.clone()))?;
        let backend = configure(backend, config).map_err(UserObjectError::Property)?;
        if self.container.child(&config.id).is_some() {
            return Err(UserObjectError::Duplicate(config.id.clone()));
        }
        self.add_memory(&config.id, backend, false).map(drop)
    }

    fn add_io_thread(&self, config: &ObjectConfig) -> Result<(), UserObjectError> {
        let mut props = IoThreadProps::default();
        set_all(&mut props, IO_THREAD, &config.props).map_err(UserObjectError::Property)?;
        if self.container.child(&config.id).is_some() {
            return Err(UserObjectError::Duplicate(config.id.clone()));
        }
        let thread = Arc::new(IoThread::start(&config.id, props)?);
        if self.container.add(&config.id, Arc::new(thread.object())).is_err() {
            return Err(UserObjectError::Duplicate(config.id.clone()));
        }
        self.threads.lock().push((config.id.clone(), thread));
        Ok(())
    }

    fn add_throttle_group(&self, config: &ObjectConfig) -> Result<(), UserObjectError> {
        let limits = throttle_groups::limits(&config.props).map_err(UserObjectError::Property)?;
        let group = Group::new(&config.id, limits);
        if self.container.add(&config.id, Arc::new(throttle_groups::object(&group))).is_err() {
            return Err(UserObjectError::Duplicate(config.id.clone()));
        }
        self.graph.add_throttle_group(group);
        Ok(())
    }

    fn add_secret(&self, config: &ObjectConfig) -> Result<(), UserObjectError> {
        let mut props = SecretProps::default();
        set_all(&mut props, SECRET, &config.props).map_err(UserObjectError::Property)?;
        let object = credentials::object(SECRET, &props, SecretProps::specs());
        if self.container.child(&config.id).is_some() {
            return Err(UserObjectError::Duplicate(config.id.clone()));
        }
        self.graph.secrets().add(&config.id, &props.options())?;
        self.secrets.lock().push(config.id.clone());
        self.enter(&config.id, object)
    }

    fn add_certificates(&self, config: &ObjectConfig) -> Result<(), UserObjectError> {
        let mut props = X509Props::default();
        set_all(&mut props, TLS_X509, &config.props).map_err(UserObjectError::Property)?;
        let object = credentials::object(TLS_X509, &props, X509Props::specs());
        let certificates = Arc::new(props.load()?);
        self.enter(&config.id, object)?;
        self.certificates.lock().push((config.id.clone(), certificates));
        Ok(())
    }

    fn add_filter(&self, config: &ObjectConfig) -> Result<(), UserObjectError> {
        let mut kind = FilterKind::new(&config.type_name)
            .ok_or_else(|| UserObjectError::Type(config.type_name.clone()))?;
        let type_name = kind.type_name();
        set_all(kind.props(), type_name, &config.props).map_err(UserObjectError::Property)?;
        if let Some(name) = kind.missing() {
            return Err(UserObjectError::Property(format!("Parameter '{name}' is missing")));
        }
        if self.container.child(&config.id).is_some() {
            return Err(UserObjectError::Duplicate(config.id.clone()));
        }
        let specs = kind.specs();
        let filter = self.networks.add_filter(&config.id, kind)?;
        self.enter(&config.id, filter_object(type_name, &specs, &filter))?;
        self.filters.lock().push((config.id.clone(), filter));
        Ok(())
    }

    /// Removes the filters at a cable.
    pub(crate) fn remove_filters(&self, cable: &Arc<Cable>) {
        self.filters.lock().retain(|(id, filter)| {
            let at = filter.is_at(cable);
            if at {
                self.container.remove(id);
            }
            !at
        });
    }

    fn enter(&self, id: &str, object: Object) -> Result<(), UserObjectError> {
        let entered = self.container.add(id, Arc::new(object));
        entered.map_err(|_| UserObjectError::Duplicate(id.into()))
    }

    /// The certificates of this id.
    pub fn certificates(&self, id: &str) -> Option<Arc<X509>> {
        let certificates = self.certificates.lock();
        certificates.iter().find(|(known, _)| known == id).map(|(_, found)| found.clone())
    }

    /// The I/O threads, with their ids.
    pub fn io_threads(&self) -> Vec<(String, Arc<IoThread>)> {
        self.threads.lock().clone()
    }

    /// The I/O thread of this id, for a device that keeps it for as long as it needs it.
    pub fn io_thread(&self, id: &str) -> Option<Arc<IoThread>> {
        let threads = self.threads.lock();
        threads.iter().find(|(known, _)| known == id).map(|(_, thread)| thread.clone())
    }

    /// Makes memory. If it is `used`, nobody else can have it.
    pub(crate) fn add_memory(
        &self,
        id: &str,
        backend: Backend,
        used: bool,
    ) -> Result<Arc<RamBlock>, UserObjectError> {
        let defaults = *self.defaults.read();
        let block = Arc::new(backend.create(id, defaults)?);
        let shown = shown(&backend, defaults);
        let object = Object::new(backend.type_name()).with(shown);
        if self.container.add(id, Arc::new(object)).is_err() {
            return Err(UserObjectError::Duplicate(id.into()));
        }
        self.memory.lock().push(Memory { id: id.into(), backend, block: block.clone(), used });
        Ok(block)
    }

    /// Takes a backend for use; each serves once.
    pub(crate) fn take(&self, id: &str) -> Result<Arc<RamBlock>, TakeError> {
        let mut memory = self.memory.lock();
        let found = memory.iter_mut().find(|memory| memory.id == id).ok_or(TakeError::NotFound)?;
        if std::mem::replace(&mut found.used, true) {
            return Err(TakeError::Used);
        }
        Ok(found.block.clone())
    }

    /// The size of a backend.
    pub(crate) fn size(&self, id: &str) -> Option<u64> {
        self.memory.lock().iter().find(|memory| memory.id == id).map(|memory| memory.block.len())
    }

    /// Removes an object that is not in use.
    pub fn remove(&self, id: &str) -> Result<(), UserObjectError> {
        {
            let mut threads = self.threads.lock();
            if let Some(at) = threads.iter().position(|(known, _)| known == id) {
                // A device that uses it keeps it.
                threads.remove(at);
                self.container.remove(id);
                return Ok(());
            }
        }
        let known = self.secrets.lock().iter().position(|known| known == id);
        if let Some(at) = known {
            self.secrets.lock().remove(at);
            self.graph.secrets().remove(id);
            self.container.remove(id);
            return Ok(());
        }
        let known = self.certificates.lock().iter().position(|(known, _)| known == id);
        if let Some(at) = known {
            // A server that uses them keeps them.
            self.certificates.lock().remove(at);
            self.container.remove(id);
            return Ok(());
        }
        let mut filters = self.filters.lock();
        if let Some(at) = filters.iter().position(|(known, _)| known == id) {
            filters.remove(at);
            self.container.remove(id);
            return Ok(());
        }
        drop(filters);
        match self.graph.remove_throttle_group(id) {
            None => {}
            Some(false) => return Err(UserObjectError::InUse(id.into())),
            Some(true) => {
                self.container.remove(id);
                return Ok(());
            }
        }
        let mut memory = self.memory.lock();
        let at = memory.iter().position(|memory| memory.id == id);
        let at = at.ok_or_else(|| UserObjectError::NotFound(id.into()))?;
        if memory[at].used {
            return Err(UserObjectError::InUse(id.into()));
        }
        memory.remove(at);
        self.container.remove(id);
        Ok(())
    }

    /// All memory backends.
    pub fn memory(&self) -> Vec<MemoryInfo> {
        let defaults = *self.defaults.read();
        let info = |memory: &Memory| {
            let props = memory.backend.common().clone();
            MemoryInfo {
                id: memory.id.clone(),
                size: memory.block.len(),
                merge: props.merge.unwrap_or(defaults.merge),
                dump: props.dump.unwrap_or(defaults.dump),
                props,
            }
        };
        self.memory.lock().iter().map(info).collect()
    }
}

/// A filter in the object tree. What it does with frames can be changed.
fn filter_object(type_name: &str, specs: &[PropSpec], filter: &NetFilter) -> Object {
    let property = |spec: &PropSpec| {
        let (name, shown) = (spec.name, filter.shown());
        let property = Property::computed(name, spec.type_name, move || match shown(name) {
            Value::Null => "".into(),
            value => value,
        });
        match filter.setter(name) {
            None => property,
            Some(set) => property.writable(move |value| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                set(&text).map_err(|error| error.to_string())
            }),
        }
    };
    Object::new(type_name).with(specs.iter().map(property).collect::<Vec<_>>())
}

/// A property as objects have it, which is not quite as devices do: other words for its type, and no
/// default.
pub fn listed(spec: &PropSpec) -> PropSpec {
    PropSpec {
        type_name: match spec.type_name {
            "size" | "uint32" => "int",
            "str" => "string",
            other => other,
        },
        default: None,
        ..spec.clone()
    }
}

fn shown(backend: &Backend, defaults: Defaults) -> Vec<Property> {
    let (mut backend, specs) = (backend.clone(), backend.specs());
    let property = |spec: &PropSpec| {
        let value = match (spec.name, backend.props().get(spec.name).unwrap_or_default()) {
            ("dump", Value::Null) => defaults.dump.into(),
            ("merge", Value::Null) => defaults.merge.into(),
            ("share", Value::Null) => false.into(),
            (_, value) => value,
        };
        Property::fixed(spec.name, listed(spec).type_name, value)
    };
    specs.iter().map(property).collect()
}

/// Sets an object's properties; the two forms word their faults differently.
fn configure(mut backend: Backend, object: &ObjectConfig) -> Result<Backend, String> {
    let owner = backend.type_name();
    match &object.props {
        PropList::Text(pairs) => {
            let mut nodes = HostNodes::default();
            for (name, value) in pairs {
                if name == "host-nodes" {
                    let more = HostNodes::from_text(value, &PropName { owner, name });
                    nodes.extend(more.map_err(|error| error.to_string())?);
                } else {
                    backend.props().set(owner, name, PropInput::Text(value)).map_err(text_fault)?;
                }
            }
            backend.common_mut().host_nodes = nodes;
        }
        PropList::Json(members) => {
            for (name, value) in members {
                backend.props().set(owner, name, PropInput::Json(value)).map_err(json_fault)?;
            }
        }
    }
    backend.check().map_err(|error: BackendError| error.to_string())?;
    Ok(backend)
}

/// Sets properties that need no special care.
fn set_all(props: &mut dyn Props, owner: &str, given: &PropList) -> Result<(), String> {
    match given {
        PropList::Text(pairs) => pairs.iter().try_for_each(|(name, value)| {
            props.set(owner, name, PropInput::Text(value)).map_err(text_fault)
        }),
        PropList::Json(members) => members.iter().try_for_each(|(name, value)| {
            props.set(owner, name, PropInput::Json(value)).map_err(json_fault)
        }),
    }
}

fn json_fault(error: PropError) -> String {
    match error {
        PropError::NotFound { name, .. } => format!("Parameter '{name}' is unexpected"),
        other => other.to_string(),
    }
}

fn text_fault(error: PropError) -> String {
    match error {
        PropError::NotFound { name, .. } => format!("Invalid parameter '{name}'"),
        PropError::Expects { name, what: "size" } => {
            format!("Parameter '{name}' expects a size value")
        }
        PropError::Expects { name, what: "integer" } => {
            format!("Parameter '{name}' expects a uint64 value")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn add(objects: &UserObjects, type_name: &str, id: &str, props: Value) -> Result<(), String> {
        let Value::Object(props) = props else { unreachable!() };
        let props = PropList::Json(props);
        let config = ObjectConfig { type_name: type_name.into(), id: id.into(), props };
        objects.add(&config).map_err(|error| error.to_string())
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn objects_come_and_go() {
        let root = Object::container();
        let graph = Graph::new(Arc::new(block::engine::Inline)).unwrap();
        let objects = UserObjects::new(root.clone(), graph, Arc::default());
        let ram = "memory-backend-ram";
        assert_eq!(add(&objects, ram, "m", json!({"size": 4096})), Ok(()));
        assert_eq!(root.child("m").unwrap().get("/objects/m", "size").unwrap(), 4096);
        assert_eq!(root.child("m").unwrap().get("/objects/m", "dump").unwrap(), true);
        for (type_name, id, props, refusal) in [
            (
                ram,
                "m",
                json!({"size": 4096}),
                "attempt to add duplicate property 'm' to object (type 'container')",
            ),
            (ram, "n", json!({}), "Parameter 'size' is missing"),
            (
                ram,
                "n",
                json!({"size": 0}),
                "property 'size' of memory-backend-ram doesn't take value '0'",
            ),
            (ram, "n", json!({"size": "x"}), "Parameter 'size' expects uint64"),
            (ram, "n", json!({"size": 1, "foo": 1}), "Parameter 'foo' is unexpected"),
            ("nope", "n", json!({}), "Parameter 'qom-type' does not accept value 'nope'"),
        ] {
            assert_eq!(add(&objects, type_name, id, props), Err(refusal.into()));
        }
        assert!(objects.take("m").is_ok());
        let remove = |id| objects.remove(id).map_err(|error| error.to_string());
        assert_eq!(remove("m"), Err("object 'm' is in use, can not be deleted".into()));
        assert_eq!(remove("x"), Err("object 'x' not found".into()));
        add(&objects, ram, "n", json!({"size": 4096})).unwrap();
        assert_eq!(objects.memory().len(), 2);
        assert_eq!(remove("n"), Ok(()));
        assert!(root.child("n").is_none());
    }
}
