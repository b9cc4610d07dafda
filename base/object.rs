//! The tree of objects that monitors show: what there is in a machine, by path, with properties to
//! read and a few to set.
//!
//! The tree is a view for operators. Chips do not know it; whoever builds a machine enters what it
//! has made: a type name, children, and properties with functions that read and set them. Paths are
//! QEMU's, since management software uses them literally.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::irq::{IrqLine, Probe};
use crate::props::Props;

type Text = Cow<'static, str>;
type Getter = Box<dyn Fn() -> Result<Value, String> + Send + Sync>;
type Setter = Box<dyn Fn(&Value) -> Result<(), String> + Send + Sync>;

/// A property of an object.
pub struct Property {
    name: Text,
    type_name: Text,
    get: Getter,
    set: Option<Setter>,
}

impl Property {
    /// A property that always has this value.
    pub fn fixed(
        name: impl Into<Text>,
        type_name: impl Into<Text>,
        value: impl Into<Value>,
    ) -> Self {
        let value = value.into();
        Self::computed(name, type_name, move || value.clone())
    }

    /// A property whose value is found when it is asked for.
    pub fn computed(
        name: impl Into<Text>,
        type_name: impl Into<Text>,
        get: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Self {
        let get = Box::new(move || Ok(get()));
        Property { name: name.into(), type_name: type_name.into(), get, set: None }
    }

    /// The property with a function that sets it.
    pub fn writable(
        mut self,
        set: impl Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.set = Some(Box::new(set));
        self
    }

    /// Everything that a set of properties holds now.
    pub fn snapshot<P: Props>(props: &P) -> Vec<Property> {
        let fixed = |spec: &crate::props::PropSpec| {
            let value = props.get(spec.name).unwrap_or_default();
            Property::fixed(spec.name, spec.type_name, value)
        };
        P::specs().iter().map(fixed).collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type, as monitors name it.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }
}

/// Why a property could not be read or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is no such property.
    #[error("Property '{type_name}.{property}' not found")]
    NoProperty {
        /// Type of the object.
        type_name: String,
        /// The property.
        property: String,
    },
    /// It can only be read.
    #[error("Property '{type_name}.{property}' is not writable")]
    ReadOnly {
        /// Type of the object.
        type_name: String,
        /// The property.
        property: String,
    },
    /// It belongs to a device that works already.
    #[error(
        "Attempt to set property '{property}' on {device} (type '{type_name}') after it was realized"
    )]
    Realized {
        /// The property.
        property: String,
        /// The device, as messages name it.
        device: String,
        /// Its type.
        type_name: String,
    },
    /// Refused by the object.
    #[error("{0}")]
    Refused(String),
    /// An object has a child of this name.
    #[error("attempt to add duplicate property '{name}' to object (type '{type_name}')")]
    Duplicate {
        /// The name.
        name: String,
        /// Type of the parent.
        type_name: String,
    },
}

/// What a device adds to an object.
struct DevicePart {
    id: Option<String>,
}

/// A node of the tree.
pub struct Object {
    type_name: String,
    device: Option<DevicePart>,
    properties: Mutex<Vec<Arc<Property>>>,
    children: Mutex<Vec<(String, Arc<Object>)>>,
    inputs: Option<Arc<Probe>>,
    outputs: Vec<IrqLine>,
    report: Option<Report>,
}

/// A function that tells people what is going on inside an object.
type Report = Box<dyn Fn() -> String + Send + Sync>;

/// An entry of an object's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its type: `child<T>` for a child.
    pub type_name: String,
}

impl Object {
    /// An object of a type, with the property that every object has.
    pub fn new(type_name: impl Into<String>) -> Self {
        let type_name = type_name.into();
        let own = Property::fixed("type", "string", type_name.clone());
        Object {
            type_name,
            device: None,
            properties: Mutex::new(vec![Arc::new(own)]),
            children: Mutex::default(),
            inputs: None,
            outputs: Vec::new(),
            report: None,
        }
    }

    /// An object that only holds others.
    pub fn container() -> Arc<Self> {
        Arc::new(Object::new("container"))
    }

    /// A device that works: its properties are settled. `bus` is the path of the bus it sits on.
    pub fn device(type_name: impl Into<String>, id: Option<&str>, bus: &str) -> Self {
        let mut object = Object::new(type_name);
        object.device = Some(DevicePart { id: id.map(Into::into) });
        object.with([
            Property::fixed("parent_bus", "link<bus>", bus),
            Property::fixed("realized", "bool", true),
            Property::fixed("hotplugged", "bool", false),
            Property::fixed("hotpluggable", "bool", false),
        ])
    }

    /// The object with more properties; a later one replaces an earlier one of the same name.
    pub fn with(self, properties: impl IntoIterator<Item = Property>) -> Self {
        {
            let mut list = self.properties.lock();
            for property in properties {
                list.retain(|known| known.name != property.name);
                list.push(Arc::new(property));
            }
        }
        self
    }

    /// Says what a property is whose value was not known when it was added.
    pub fn settle(&self, name: &str, value: Value) {
        let mut list = self.properties.lock();
        if let Some(property) = list.iter_mut().find(|known| known.name == name) {
            let (name, type_name) = (property.name.clone(), property.type_name.clone());
            *property = Arc::new(Property::fixed(name, type_name, value));
        }
    }

    /// The object with a child.
    pub fn with_child(self, name: &str, child: Object) -> Self {
        self.children.lock().push((name.into(), Arc::new(child)));
        self
    }

    /// The object with the interrupt inputs that a test may watch and drive.
    pub fn with_inputs(mut self, inputs: Arc<Probe>) -> Self {
        self.inputs = Some(inputs);
        self
    }

    /// The object with the interrupt outputs that a test may watch.
    pub fn with_outputs(mut self, outputs: impl IntoIterator<Item = IrqLine>) -> Self {
        self.outputs.extend(outputs);
        self
    }

    /// The object with a function that tells people what is going on inside.
    pub fn with_report(mut self, report: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.report = Some(Box::new(report));
        self
    }

    /// What is going on inside, if the object can tell.
    pub fn report(&self) -> Option<String> {
        self.report.as_ref().map(|report| report())
    }

    /// The type's name.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Whether it is a device.
    pub fn is_device(&self) -> bool {
        self.device.is_some()
    }

    /// The id its operator gave a device.
    pub fn id(&self) -> Option<&str> {
        self.device.as_ref().and_then(|device| device.id.as_deref())
    }

    /// Its interrupt inputs.
    pub fn inputs(&self) -> Option<&Arc<Probe>> {
        self.inputs.as_ref()
    }

    /// Its interrupt outputs.
    pub fn outputs(&self) -> &[IrqLine] {
        &self.outputs
    }

    /// Adds a child; names are unique among children and properties.
    pub fn add(&self, name: &str, child: Arc<Object>) -> Result<(), ObjectError> {
        let mut children = self.children.lock();
        let taken = children.iter().any(|(known, _)| known == name)
            || self.properties.lock().iter().any(|property| property.name == name);
        if taken {
            return Err(ObjectError::Duplicate {
                name: name.into(),
                type_name: self.type_name.clone(),
            });
        }
        children.push((name.into(), child));
        Ok(())
    }

    /// Adds a child under the first free number: `device[7]`.
    pub fn add_numbered(&self, stem: &str, child: Arc<Object>) -> String {
        let mut children = self.children.lock();
        let name = free_number(&children, stem);
        children.push((name.clone(), child));
        name
    }

    /// The name that [`Self::add_numbered`] would give.
    pub fn next_numbered(&self, stem: &str) -> String {
        free_number(&self.children.lock(), stem)
    }

    /// Takes a child out.
    pub fn remove(&self, name: &str) -> Option<Arc<Object>> {
        let mut children = self.children.lock();
        let at = children.iter().position(|(known, _)| known == name)?;
        Some(children.remove(at).1)
    }

    /// The child of a name.
    pub fn child(&self, name: &str) -> Option<Arc<Object>> {
        let children = self.children.lock();
        children.iter().find(|(known, _)| known == name).map(|(_, child)| child.clone())
    }

    /// All children, in the order in which they were added.
    pub fn children(&self) -> Vec<(String, Arc<Object>)> {
        self.children.lock().clone()
    }

    /// Its properties.
    pub fn properties(&self) -> Vec<Arc<Property>> {
        self.properties.lock().clone()
    }

    /// Properties, then children.
    pub fn list(&self) -> Vec<Listed> {
        let properties = self.properties();
        let own = properties.iter().map(|property| Listed {
            name: property.name.clone().into_owned(),
            type_name: property.type_name.clone().into_owned(),
        });
        let child = |(name, child): (String, Arc<Object>)| {
            let type_name = format!("child<{}>", child.type_name);
            Listed { name, type_name }
        };
        own.chain(self.children().into_iter().map(child)).collect()
    }

    fn property(&self, name: &str) -> Result<Arc<Property>, ObjectError> {
        let found = self.properties.lock().iter().find(|known| known.name == name).cloned();
        found.ok_or_else(|| ObjectError::NoProperty {
            type_name: self.type_name.clone(),
            property: name.into(),
        })
    }

    /// A property's value. That of a child is its path, which only who knows `path`, the object's
    /// own, can tell.
    pub fn get(&self, path: &str, name: &str) -> Result<Value, ObjectError> {
        if self.child(name).is_some() {
            return Ok(format!("{}/{name}", path.trim_end_matches('/')).into());
        }
        (self.property(name)?.get)().map_err(ObjectError::Refused)
    }

    /// Sets a property.
    pub fn set(&self, name: &str, value: &Value) -> Result<(), ObjectError> {
        let property = self.property(name)?;
        match (&property.set, &self.device) {
            (Some(set), _) => set(value).map_err(ObjectError::Refused),
            (None, Some(device)) if name != "type" => Err(ObjectError::Realized {
                property: name.into(),
                device: match &device.id {
                    Some(id) => format!("device '{id}'"),
                    None => "anonymous device".into(),
                },
                type_name: self.type_name.clone(),
            }),
            _ => Err(ObjectError::ReadOnly {
                type_name: self.type_name.clone(),
                property: name.into(),
            }),
        }
    }
}

/// Where a path leads.
#[derive(Clone)]
pub enum Found {
    /// To an object, whose full path this is.
    Object(String, Arc<Object>),
    /// To several.
    Ambiguous,
    /// Nowhere.
    Nothing,
}

/// Follows a path from `root`: a full one, or the end of one that leads to one object only.
pub fn resolve(root: &Arc<Object>, path: &str) -> Found {
    if path.starts_with('/') {
        let mut at = root.clone();
        let mut full = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(child) = at.child(name) else { return Found::Nothing };
            full = format!("{full}/{name}");
            at = child;
        }
        return Found::Object(if full.is_empty() { "/".into() } else { full }, at);
    }
    let mut matches = Vec::new();
    find_partial(root, "", path, &mut matches);
    match matches.len() {
        0 => Found::Nothing,
        1 => {
            let (path, object) = matches.remove(0);
            Found::Object(path, object)
        }
        _ => Found::Ambiguous,
    }
}

fn find_partial(at: &Arc<Object>, full: &str, path: &str, found: &mut Vec<(String, Arc<Object>)>) {
    let own = format!("{full}/");
    if let Found::Object(rest, object) = resolve(at, &format!("/{path}")) {
        found.push((format!("{full}{rest}"), object));
    }
    for (name, child) in at.children() {
        find_partial(&child, &format!("{own}{name}"), path, found);
    }
}

fn free_number(children: &[(String, Arc<Object>)], stem: &str) -> String {
    let taken = |name: &String| children.iter().any(|(known, _)| known == name);
    let mut names = (0..).map(|n| format!("{stem}[{n}]"));
    // There are more numbers than children.
    names.find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Arc<Object> {
        let root = Object::container();
        let machine = Arc::new(Object::new("none-machine"));
        let unattached = Object::container();
        unattached.add_numbered("device", Arc::new(Object::device("edu", None, "")));
        let serial = Object::device("pci-serial", Some("s"), "/bus")
            .with([Property::fixed("baudbase", "uint32", 115200)]);
        let peripheral = Object::container();
        peripheral.add("s", Arc::new(serial)).unwrap();
        peripheral.add_numbered("device", Arc::new(Object::new("x")));
        machine.add("unattached", unattached).unwrap();
        machine.add("peripheral", peripheral).unwrap();
        root.add("machine", machine).unwrap();
        root
    }

    fn at(path: &str) -> Option<(String, Arc<Object>)> {
        match resolve(&tree(), path) {
            Found::Object(path, object) => Some((path, object)),
            _ => None,
        }
    }

    #[test]
    fn paths_are_followed_in_full_and_in_part() {
        assert_eq!(at("/machine/peripheral/s").unwrap().1.type_name(), "pci-serial");
        assert_eq!(at("peripheral/s").unwrap().0, "/machine/peripheral/s");
        assert_eq!(at("s").unwrap().0, "/machine/peripheral/s");
        assert!(matches!(resolve(&tree(), "device[0]"), Found::Ambiguous));
        assert!(matches!(resolve(&tree(), ""), Found::Ambiguous));
        assert!(matches!(resolve(&tree(), "/machine/x"), Found::Nothing));
        assert_eq!(at("/").unwrap().0, "/");
    }

    #[test]
    fn properties_are_read_and_refuse_to_be_set() {
        let (path, serial) = at("s").unwrap();
        assert_eq!(serial.get(&path, "baudbase").unwrap(), 115200);
        assert_eq!(serial.get(&path, "type").unwrap(), "pci-serial");
        let refusal = |object: &Object, name| object.set(name, &1.into()).unwrap_err().to_string();
        assert_eq!(
            refusal(&serial, "baudbase"),
            "Attempt to set property 'baudbase' on device 's' (type 'pci-serial') after it was \
             realized"
        );
        assert_eq!(refusal(&serial, "type"), "Property 'pci-serial.type' is not writable");
        assert_eq!(refusal(&serial, "x"), "Property 'pci-serial.x' not found");
        let machine = at("/machine").unwrap();
        assert_eq!(machine.1.get(&machine.0, "unattached").unwrap(), "/machine/unattached");
    }

    #[test]
    fn names_are_unique_and_numbers_are_reused() {
        let root = tree();
        let error = root.add("machine", Object::container()).unwrap_err().to_string();
        assert_eq!(
            error,
            "attempt to add duplicate property 'machine' to object (type 'container')"
        );
        let list = Object::container();
        let add = || list.add_numbered("device", Object::container());
        assert_eq!((add(), add()), ("device[0]".into(), "device[1]".into()));
        list.remove("device[0]");
        assert_eq!(add(), "device[0]");
    }
}
