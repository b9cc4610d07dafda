//! From a configuration to a machine that is ready to start.
//!
//! The order matters and is the same for every board: character devices, memory, processors, the
//! board's chips, what the operator adds, firmware or kernel.

mod accelerator;
mod characters;
mod chips;
mod curses;
mod devices;
pub mod display;

mod drives;
mod firmware;
mod flash;
mod globals;
mod handover;
mod hotplug;
mod kernel;
mod kernel_chips;
mod kernel_memory;
mod memory;
mod networks;
mod options;
mod pc;
mod processors;
mod tree;
mod vnc;
mod web;

pub use drives::add_drive;
pub use web::open as open_web;

use std::sync::Arc;

use accelerator::Accelerator;
use base::chardev::{Chardev, Chardevs, EscapeActions};
use base::clock::Clocks;
use base::event_loop::LoopHandle;
use base::fdset::FdSets;
use base::memory::backend::Defaults;
use base::props::{PropInput, Props};
use base::report::Location;
use block::backend::Interface;
use block::engine::Pool;
use block::graph::Graph;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use ui::curses::Curses;

use crate::config::{ConfigError, Consoles, Located, MachineConfig, MonitorConfig, Origin};
use crate::inventory::Inventory;
use crate::machines::{self, Kind, MachineType};
use crate::none::NoneProps;
use crate::vm::Vm;

const NO_LOADER: &str =
    "The -kernel parameter is not supported (use the generic 'loader' device instead).";

/// What the program gives the machine to stand on.
pub struct Host {
    /// The main loop.
    pub main_loop: LoopHandle,
    /// The clocks, which the main loop serves.
    pub clocks: Clocks,
    /// Descriptors passed by `-add-fd` and by monitors.
    pub fd_sets: Arc<FdSets>,
}

/// A machine that is ready to start.
pub struct Launched {
    /// The machine.
    pub vm: Arc<Vm>,
    /// Its character devices.
    pub chardevs: Arc<Chardevs>,
    /// Why the kernel could not be placed in memory, if it could not; known after
    /// [`Vm::power_up`].
    pub failure: Arc<Mutex<Option<ConfigError>>>,
    /// The monitors to serve, and the character device of each.
    pub monitors: Vec<(Located<MonitorConfig>, Arc<Chardev>)>,
    /// The character device of the test protocol.
    pub qtest: Option<Arc<Chardev>>,
    /// The screen in the terminal.
    pub curses: Option<Curses>,
    /// Whether no processor runs and a test moves the guest's clock.
    pub by_test: bool,
}

/// What Ctrl-A x does at a multiplexed terminal.
struct Escape(std::sync::Weak<Vm>);

impl EscapeActions for Escape {
    fn quit(&self) {
        if let Some(vm) = self.0.upgrade() {
            eprintln!("QEMU: Terminated");
            vm.quit(0);
        }
    }
    fn commit_snapshots(&self) {}
}

/// Builds the machine that `config` describes. `serve_monitors` is called when all back ends are there
/// (until then there is nobody to greet), and before devices attach to character devices: on a shared
/// terminal the last to attach has the focus, which is to be a serial port.
pub fn launch(
    config: &MachineConfig,
    host: &Host,
    serve_monitors: impl FnOnce(&Launched) -> Result<(), ConfigError>,
) -> Result<Launched, ConfigError> {
    let machine = machines::find(config.machine.as_deref())?;
    if let Some(warning) = machine.warning() {
        base::warn_report!("{warning}");
    }
    if config.identity.debug_threads {
        base::thread::name_threads();
    }
    let accelerator = Accelerator::choose(config, &host.clocks)?;
    let by_test = !accelerator.executes();
    if by_test {
        host.clocks.step_by_hand();
    }
    // Before the first thread, which the graph starts.
    base::memory::announce_barriers();
    let graph = Graph::new(Arc::new(Pool::new())).map_err(fault)?;
    let vm = Vm::new(&host.clocks, &host.main_loop, graph, config.actions);
    let escape = Arc::new(Escape(Arc::downgrade(&vm)));
    let mut chardevs = Chardevs::new(host.main_loop.clone(), host.fd_sets.clone(), escape);
    if let Some(escape) = config.escape_char {
        chardevs.set_escape(escape);
    }
    if config.process.daemonize {
        chardevs.set_daemonized();
    }
    chardevs.set_screens(vm.consoles().clone());
    let chardevs = Arc::new(chardevs);
    let mut consoles = characters::create(config, Consoles::of(config), &chardevs)?;
    vm.networks().set_context(net::netdev::Context {
        handle: host.main_loop.clone(),
        clocks: host.clocks.clone(),
        chardevs: chardevs.clone(),
        events: vm.net_events(),
        networks: vm.networks().networks().clone(),
    });
    let mut launched = Launched {
        vm: vm.clone(),
        chardevs,
        failure: Arc::default(),
        monitors: std::mem::take(&mut consoles.monitors),
        qtest: consoles.qtest.take(),
        curses: None,
        by_test,
    };
    drives::create_limits(&config.objects, vm.user_objects())?;
    drives::create_nodes(&config.blockdevs, vm.graph())?;
    match machine.kind {
        Kind::None => {
            if let Some(option) = config.numa.first() {
                let message = "NUMA is not supported by this machine-type";
                return Err(ConfigError::at(&option.origin, message));
            }
            let props: NoneProps = machine_props(machine, &config.machine_props)?;
            tree::Tree::new(&vm, tree::machine(machine, config, &props));
            let defaults = Defaults { merge: props.mem_merge, dump: props.dump_guest_core };
            vm.user_objects().set_defaults(defaults);
            if config.kernel.kernel.is_some() {
                return Err(ConfigError::new(NO_LOADER));
            }
            memory::create_objects(config, vm.user_objects())?;
            drives::create(config, vm.graph(), Interface::None)?;
            let cards = networks::create(config, vm.networks(), false)?;
            memory::create_filters(config, vm.user_objects())?;
            serve_monitors(&launched)?;
            cards.settle(vm.networks());
            vm.describe(Inventory {
                machine,
                kvm: accelerator.is_kvm(),
                support: accelerator.support()?,
                cpu_type: None,
                cpus: Vec::new(),
                node_sizes: Vec::new(),
                ram: 0,
                memory_slots: 0,
                can_suspend: false,
                translator_report: None,
            });
            if let Some(Located { value, origin }) = config.usb_devices.first() {
                return Err(ConfigError::at(origin, format!("could not add USB device '{value}'")));
            }
            let none = crate::none::NoBoard::new();
            let vcpus = processors::none(&vm)?;
            vm.assemble(Arc::new(none), vcpus);
        }
        Kind::Pc(..) => {
            let serve = || serve_monitors(&launched);
            launched.failure =
                pc::build(machine, config, host, &vm, &consoles, accelerator, serve)?;
        }
    }
    vnc::open(config, &host.main_loop, &vm)?;
    launched.curses = curses::open(config, &host.main_loop, &vm)?;
    globals::warn_of_unused(config, machine.kind);
    Ok(launched)
}

/// Reads the properties of a machine type.
fn machine_props<P: Props + Default>(
    machine: &MachineType,
    given: &Map<String, Value>,
) -> Result<P, ConfigError> {
    let mut props = P::default();
    for (name, value) in given {
        let input = match value {
            Value::String(text) => PropInput::Text(text),
            value => PropInput::Json(value),
        };
        props.set(&machine.type_name(), name, input).map_err(fault)?;
    }
    Ok(props)
}

/// Tells the operator about a piece of configuration.
fn warn(warning: &Located<String>) {
    let _place = place(&warning.origin);
    base::warn_report!("{}", warning.value);
}

/// While it lives, messages concern what was said there.
fn place(origin: &Origin) -> Option<Location> {
    match origin {
        Origin::None | Origin::Loader => None,
        Origin::CommandLine(typed) => Some(base::report::at_argument(typed)),
        Origin::File { name, line } => Some(base::report::at_line(name, *line)),
    }
}

/// A fault that is nobody's option's in particular.
fn fault(error: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(error.to_string())
}
