//! Devices that come and go while the machine exists: `device_add`, `device_del`.

use std::sync::Arc;

use base::clock::SECOND;
use base::object::{Found, Object, resolve};
use hw::pci::PciFunction;
use hw::registry::{BusKind, Fact, Identity};
use hw::usb::UsbDevice;
use parking_lot::Mutex;

use super::devices::{Added, Equipment, Means, PART, does_not_come, no_hotplug};
use super::globals;
use super::options::BootOrder;
use super::tree::Tree;
use crate::config::DeviceConfig;
use crate::pc::board::Pc;
use crate::vm::{HotplugError, Released};

/// How long the guest has for letting go of a device before it may be asked again.
const PATIENCE: i64 = 5 * SECOND;

struct Device {
    added: Added,
    /// When the guest was asked to let go of it.
    asked: Option<i64>,
}

struct State {
    tree: Tree,
    devices: Vec<Device>,
    /// What is known of all devices, as far as firmware is concerned.
    facts: Vec<Fact>,
}

/// The operator's devices.
pub(super) struct Devices {
    means: Means,
    boot_order: BootOrder,
    state: Mutex<State>,
}

impl Devices {
    /// Those that the machine begins with.
    pub fn new(
        means: Means,
        boot_order: BootOrder,
        tree: Tree,
        added: Vec<Added>,
        facts: Vec<Fact>,
    ) -> Self {
        let devices = added.into_iter().map(|added| Device { added, asked: None }).collect();
        Devices { means, boot_order, state: Mutex::new(State { tree, devices, facts }) }
    }

    /// Tells firmware from which devices it boots when the machine starts again.
    pub fn tell_boot_order(&self, pc: &Pc) {
        let state = self.state.lock();
        if let Err(error) = self.boot_order.tell(&state.facts, &mut pc.fw_cfg.lock()) {
            base::error_report!("{error}");
        }
    }

    /// Adds a device and tells the guest.
    pub fn add(&self, pc: &Pc, device: &DeviceConfig) -> Result<(), HotplugError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut equipment = Equipment {
            pc,
            tree: &mut state.tree,
            means: &self.means,
            hot: true,
            identity: Identity::default(),
            bus: None,
            floppy_bus: String::new(),
            settled: Vec::new(),
            facts: state.facts.clone(),
            chips: Vec::new(),
            usb: None,
        };
        let added = equipment.add_device(device).map_err(|refusal| {
            HotplugError::Refused(globals::explain(&self.means.globals, refusal))
        })?;
        let devfn = added.devfn;
        state.facts = equipment.facts;
        state.devices.push(Device { added, asked: None });
        drop(guard);
        if let (Some(hotplug), Some(devfn)) = (&pc.hotplug, devfn) {
            hotplug.pci.lock().plug(devfn >> 3);
        }
        Ok(())
    }

    /// Asks the guest to let go of a device, named by its id or its path. Returns what has gone at
    /// once.
    pub fn request_removal(&self, pc: &Pc, name: &str) -> Result<Vec<Released>, HotplugError> {
        let mut state = self.state.lock();
        let named = |device: &&mut Device| {
            let Identity { id, path } = &device.added.identity;
            id.as_deref() == Some(name) || path == name
        };
        let Some(device) = state.devices.iter_mut().find(named) else {
            return Err(self.not_removable(&state.tree, name));
        };
        if device.added.kind.stays {
            return Err(HotplugError::Refused(does_not_come(device.added.kind)));
        }
        if let Some((bus, usb)) = device.added.usb.clone() {
            return Ok(bus.detach(&usb).iter().filter_map(|gone| state.remove_usb(gone)).collect());
        }
        let bus = device.added.kind.bus;
        let (Some(hotplug), Some(devfn)) = (&pc.hotplug, device.added.devfn) else {
            return Err(HotplugError::Refused(no_hotplug(bus)));
        };
        let now = self.means.clocks.now_virtual();
        if device.asked.is_some_and(|asked| now < asked + PATIENCE) {
            let name = device.added.identity.id.as_deref().unwrap_or_default();
            let text = format!("Device {name} is already in the process of unplug");
            return Err(HotplugError::Refused(text));
        }
        device.asked = Some(now);
        drop(state);
        hotplug.pci.lock().request_removal(devfn >> 3);
        Ok(Vec::new())
    }

    /// Why something that is no device of the operator's stays.
    fn not_removable(&self, tree: &Tree, name: &str) -> HotplugError {
        match resolve(tree.root(), name) {
            Found::Object(_, object) if name.starts_with('/') && Object::is_device(&object) => {
                HotplugError::Refused(no_hotplug(BusKind::None))
            }
            _ => HotplugError::NotFound(name.into()),
        }
    }

    /// Releases a device that was taken off the bus, and what was plugged into it.
    pub fn release(&self, function: Arc<PciFunction>) -> Vec<Released> {
        let mut state = self.state.lock();
        let devfn = Some(function.devfn());
        let Some(at) = state.devices.iter().position(|device| device.added.devfn == devfn) else {
            return Vec::new();
        };
        let Added { kind, identity: Identity { id, path }, .. } = state.devices.remove(at).added;
        let mut released = Vec::new();
        for bus in self.means.usb.all() {
            if bus.path().strip_prefix(&*path).is_some_and(|rest| rest.starts_with('/')) {
                let gone = bus.devices().into_iter().rev();
                let gone = gone.flat_map(|device| bus.detach(&device));
                released.extend(gone.filter_map(|device| state.remove_usb(&device)));
            }
        }
        state.tree.remove_device(&path);
        state.facts.retain(|fact| !fact.is_about(&function));
        self.means.consoles.remove(&path);
        drop(state);
        let parts: Vec<String> = kind.part.map(|_| format!("{path}/{PART}")).into_iter().collect();
        let paths: Vec<String> = parts.into_iter().chain([path]).collect();
        let graph = &self.means.graph;
        let mut backends = graph.backends();
        backends
            .retain(|backend| backend.device().is_some_and(|device| paths.contains(&device.path)));
        function.release();
        // What was made for the device goes with it.
        for backend in &backends {
            if !backend.is_used() && (backend.info().legacy || backend.name().is_empty()) {
                graph.remove_backend(backend);
            }
        }
        released.push(Released { id, paths });
        released
    }
}

impl State {
    /// Forgets a device that was taken off its USB bus, if the operator added it.
    fn remove_usb(&mut self, gone: &Arc<UsbDevice>) -> Option<Released> {
        let is_it = |device: &Device| {
            device.added.usb.as_ref().is_some_and(|(_, device)| Arc::ptr_eq(device, gone))
        };
        let at = self.devices.iter().position(is_it)?;
        let Identity { id, path } = self.devices.remove(at).added.identity;
        self.tree.remove_device(&path);
        Some(Released { id, paths: vec![path] })
    }
}
