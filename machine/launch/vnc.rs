//! Where people see the machine: `-vnc`.

use std::sync::{Arc, Weak};

use base::event_loop::LoopHandle;
use base::options::Opts;
use base::tls::X509;
use ui::keymap::{self, Keymap, KeymapError};
use ui::vnc::{self, Power, Server, Settings, Surroundings, VncError};

use super::fault;
use crate::config::{ConfigError, Display, Located, MachineConfig};
use crate::run_state::Cause;
use crate::vm::Vm;

/// The server that there is if nobody has said where to see the machine.
const USUAL: &str = "localhost:0,to=99";

/// What VNC servers reach of the machine.
struct Reach(Weak<Vm>);

impl vnc::Host for Reach {
    fn power(&self, button: Power) {
        let Some(vm) = self.0.upgrade() else { return };
        match button {
            Power::Shutdown => vm.power_down(),
            Power::Reset => vm.reset(Cause::HostQmpSystemReset),
        }
    }

    fn happened(&self, event: &vnc::Event) {
        if let Some(vm) = self.0.upgrade() {
            vm.vnc_happened(event);
        }
    }
}

/// Opens the servers of `-vnc`.
pub(super) fn open(
    config: &MachineConfig,
    main_loop: &LoopHandle,
    vm: &Arc<Vm>,
) -> Result<(), ConfigError> {
    for Located { value: opts, origin } in &config.vncs {
        let server = start(config, opts, main_loop, vm);
        vm.vnc().add(server.map_err(|error| ConfigError::at(origin, error.to_string()))?);
    }
    let asked = !config.vncs.is_empty() || !config.webs.is_empty();
    if !asked && config.display == Display::Usual {
        let opts = vnc::GROUP.parse(USUAL).map_err(fault)?.opts;
        let server = start(config, &opts, main_loop, vm).map_err(fault)?;
        if let Some((at, _)) = server.endpoints().first() {
            println!("VNC server running on {}:{}", at.host, at.service);
        }
        vm.vnc().add(server);
    }
    Ok(())
}

fn start(
    config: &MachineConfig,
    opts: &Opts,
    main_loop: &LoopHandle,
    vm: &Arc<Vm>,
) -> Result<Arc<Server>, VncError> {
    let settings = Settings::new(opts)?;
    let refused = |error: &dyn std::fmt::Display| VncError::Refused(error.to_string());
    let keymap = keymap(config).map_err(|error| refused(&error))?;
    let title = match &config.identity.name {
        Some(name) => format!("QEMU ({name})"),
        None => "QEMU".into(),
    };
    let around = Surroundings {
        main_loop: main_loop.clone(),
        consoles: vm.consoles().clone(),
        input: vm.input().clone(),
        host: Arc::new(Reach(Arc::downgrade(vm))),
        title,
        keymap,
        keymap_chosen: config.keyboard_layout.is_some(),
    };
    let id = opts.id.clone().unwrap_or_else(|| vm.vnc().free_id());
    let password = settings.password_secret.as_ref().map(|id| vm.graph().secrets().get(id));
    let password = password.transpose().map_err(|error| refused(&error))?;
    let tls = settings.tls_creds.as_ref().map(|id| certificates(vm, id)).transpose();
    let tls = tls.map_err(|error| refused(&error))?;
    Server::start(&id, settings, around, tls, password.map(|bytes| bytes.to_vec()))
}

/// The layout of the guest's keyboard.
pub(super) fn keymap(config: &MachineConfig) -> Result<Arc<Keymap>, KeymapError> {
    Keymap::load(config.keyboard_layout.as_deref().unwrap_or(keymap::DEFAULT)).map(Arc::new)
}

/// The credentials of a server.
pub(super) fn certificates(vm: &Vm, id: &str) -> Result<Arc<X509>, ConfigError> {
    let found = vm.user_objects().certificates(id);
    let found =
        found.ok_or_else(|| ConfigError::new(format!("No TLS credentials with id '{id}'")))?;
    // A client's are of no use.
    found.server().map_err(|error| ConfigError::new(error.to_string()))?;
    Ok(found)
}
