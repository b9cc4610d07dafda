//! The object tree and the types of objects, as both monitors show them.

pub(crate) mod types;

use std::sync::Arc;

use base::object::{Found, Object, ObjectError, resolve};

use crate::qapi::{ErrorClass, QmpError};
use crate::target::Target;

impl From<ObjectError> for QmpError {
    fn from(error: ObjectError) -> Self {
        QmpError::new(error.to_string())
    }
}

/// An object and its path.
pub(crate) type Entry = (String, Arc<Object>);

fn collect(path: String, object: Arc<Object>, entries: &mut Vec<Entry>) {
    let children = object.children();
    entries.push((path.clone(), object));
    for (name, child) in children {
        collect(format!("{path}/{name}"), child, entries);
    }
}

impl Target {
    /// The root of the object tree, with the character devices as they are now.
    pub(crate) fn objects(&self) -> &Arc<Object> {
        let root = self.vm.objects();
        if let Some(container) = root.child("chardevs") {
            for (name, _) in container.children() {
                container.remove(&name);
            }
            for chardev in self.chardevs.all() {
                let type_name = format!("chardev-{}", chardev.backend_name());
                // Labels are unique.
                let _ = container.add(chardev.label(), Arc::new(Object::new(type_name)));
            }
        }
        root
    }

    /// Every object of the machine, parents first.
    pub(crate) fn machine_objects(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(machine) = self.vm.objects().child("machine") {
            collect("/machine".into(), machine, &mut entries);
        }
        entries
    }

    /// The path of the machine's first object of a type.
    pub(crate) fn path_of_type(&self, type_name: &str) -> Option<String> {
        let mut entries = self.machine_objects().into_iter();
        entries.find(|(_, object)| object.type_name() == type_name).map(|(path, _)| path)
    }

    /// The object at a path, or at the only path that ends so, with its full path.
    pub(crate) fn object(&self, path: &str) -> Result<(String, Arc<Object>), QmpError> {
        match resolve(self.objects(), path) {
            Found::Object(path, object) => Ok((path, object)),
            Found::Ambiguous => Err(QmpError::new(format!("Path '{path}' is ambiguous"))),
            Found::Nothing => {
                let message = format!("Device '{path}' not found");
                Err(QmpError::of(ErrorClass::DeviceNotFound, message))
            }
        }
    }
}
