//! The machine's part of the object tree, under the paths that QEMU gives the same parts.

use std::sync::Arc;

use base::object::{Object, Property};
use base::props::{Props, Value};
use cpu::apic::LocalApic;
use cpu::cpuid::{Entry, Place, Selection, feature_names};
use serde_json::json;

use crate::config::{MachineConfig, Topology};
use crate::machines::{MachineType, listed};
use crate::vm::Vm;

/// Parts without an owner: chips of the board.
const UNATTACHED: &str = "/machine/unattached";

/// `/machine`, while it is being filled.
pub(super) struct Tree {
    root: Arc<Object>,
    unattached: Arc<Object>,
    peripheral: Arc<Object>,
    anonymous: Arc<Object>,
    machine: Arc<Object>,
    /// Number of the next chip.
    next: usize,
}

impl Tree {
    /// Enters the machine itself.
    pub fn new(vm: &Vm, machine: Object) -> Self {
        let machine = Arc::new(machine);
        let part = |name: &str| {
            let part = Object::container();
            // Nothing else has these names.
            let _ = machine.add(name, part.clone());
            part
        };
        let (unattached, peripheral, anonymous) =
            (part("unattached"), part("peripheral"), part("peripheral-anon"));
        let sysbus = Arc::new(Object::new("System"));
        let _ = unattached.add("sysbus", sysbus);
        let _ = vm.objects().add("machine", machine.clone());
        let root = vm.objects().clone();
        Tree { root, unattached, peripheral, anonymous, machine, next: 0 }
    }

    /// The root of all objects.
    pub fn root(&self) -> &Arc<Object> {
        &self.root
    }

    /// Enters a chip of the board; returns its path.
    pub fn chip(&mut self, chip: Object) -> String {
        let path = self.next_path();
        // Every number is used once.
        let _ = self.unattached.add(&format!("device[{}]", self.next), Arc::new(chip));
        self.next += 1;
        path
    }

    /// The path of the next chip.
    pub fn next_path(&self) -> String {
        format!("{UNATTACHED}/device[{}]", self.next)
    }

    /// Leaves out the number of a chip that QEMU's board has and this one has not.
    pub fn skip(&mut self, chips: usize) {
        self.next += chips;
    }

    /// Enters a part that has a name of its own.
    pub fn named(&self, name: &str, part: Object) {
        let _ = self.machine.add(name, Arc::new(part));
    }

    /// The chip of a path.
    pub fn chip_at(&self, path: &str) -> Option<Arc<Object>> {
        self.unattached.child(path.strip_prefix(UNATTACHED)?.strip_prefix('/')?)
    }

    /// Refuses an id that is taken.
    pub fn check_id(&self, id: &str) -> Result<(), String> {
        match self.peripheral.child(id) {
            Some(_) => Err(format!("Duplicate device ID '{id}'")),
            None => Ok(()),
        }
    }

    /// The path that a device of the operator's will have.
    pub fn device_path(&self, id: Option<&str>) -> String {
        match id {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/peripheral-anon/{}", self.anonymous.next_numbered("device")),
        }
    }

    /// Takes out a device that has gone.
    pub fn remove_device(&self, path: &str) {
        if let Some((parent, name)) = path.rsplit_once('/') {
            let parent = match parent {
                "/machine/peripheral" => &self.peripheral,
                _ => &self.anonymous,
            };
            parent.remove(name);
        }
    }

    /// Enters a device that the operator added.
    pub fn device(&self, device: Object) {
        match device.id().map(str::to_owned) {
            Some(id) => {
                // The id was looked at before the device was made.
                let _ = self.peripheral.add(&id, Arc::new(device));
            }
            None => {
                self.anonymous.add_numbered("device", Arc::new(device));
            }
        }
    }
}

/// A machine of a type, with the properties that all machines have and those of its own.
pub(super) fn machine<P: Props>(machine: &MachineType, config: &MachineConfig, own: &P) -> Object {
    let text = |name: &'static str, value: &Option<String>| {
        Property::fixed(name, "string", value.clone().unwrap_or_default())
    };
    let kernel = &config.kernel;
    let own = P::specs().iter().map(|spec| {
        let value = match own.get(spec.name).unwrap_or_default() {
            Value::Null => "".into(),
            value => value,
        };
        Property::fixed(spec.name, listed(spec).type_name, value)
    });
    Object::new(machine.type_name())
        .with([
            text("kernel", &kernel.kernel),
            text("initrd", &kernel.initrd),
            text("append", &kernel.append),
            text("shim", &kernel.shim),
            text("dtb", &kernel.dtb),
            text("firmware", &config.firmware),
            Property::fixed("graphics", "bool", !config.no_graphic),
        ])
        .with(own)
}

/// Properties of a machine that has processors and memory.
pub(super) fn resources(config: &MachineConfig, smp: &Topology, ram: u64) -> [Property; 4] {
    let mut memory = json!({"size": ram});
    if config.memory.slots > 0 {
        memory["slots"] = config.memory.slots.into();
        memory["max-size"] = config.memory.max.unwrap_or(ram).into();
    }
    let smp = json!({
        "cpus": smp.cpus, "maxcpus": smp.maxcpus, "drawers": 1, "books": 1,
        "sockets": smp.sockets, "dies": smp.dies, "clusters": 1, "modules": smp.modules,
        "cores": smp.cores, "threads": smp.threads,
    });
    let backend = format!("/objects/{}", config.memory.backend.as_deref().unwrap_or("pc.ram"));
    let order = config.boot.order.as_deref().unwrap_or("cad");
    [
        Property::fixed("memory", "MemorySizeConfiguration", memory),
        Property::fixed("smp", "SMPConfiguration", smp),
        Property::fixed("memory-backend", "link<memory-backend>", backend),
        Property::fixed("boot", "BootConfiguration", json!({"order": order})),
    ]
}

/// A processor.
pub(super) fn processor(
    type_name: &str,
    selection: &Selection,
    place: Place,
    apic_type: &str,
    apic: Option<&Arc<LocalApic>>,
) -> Object {
    let property = |(name, kind, value): Entry| Property::fixed(name, kind, value);
    let unavailable = feature_names(&selection.unavailable);
    let mut lapic = Object::device(apic_type, None, "").with([
        Property::fixed("id", "uint32", place.apic_id),
        Property::fixed("version", "uint8", 0x14),
    ]);
    if let Some(apic) = apic.cloned() {
        lapic = lapic.with_report(move || apic.report());
    }
    Object::device(type_name, None, "")
        .with(selection.model.properties(Some(place)).into_iter().map(property))
        .with([
            Property::fixed("hotpluggable", "bool", true),
            Property::fixed("unavailable-features", "strList", unavailable),
        ])
        .with(selection.feature_words().map(property))
        .with_child("lapic", lapic)
}

/// The places for processors, in the order of their numbers.
pub(super) fn places(smp: &Topology, ids: &cpu::cpuid::Topology) -> Vec<Place> {
    let place = |index: u32| {
        let (core, module) = (index / smp.threads, index / smp.threads / smp.cores);
        let die = module / smp.modules;
        Place {
            apic_id: ids.apic_id(index),
            socket: die / smp.dies,
            die: die % smp.dies,
            module: module % smp.modules,
            core: core % smp.cores,
            thread: index % smp.threads,
        }
    };
    (0..smp.maxcpus).map(place).collect()
}
