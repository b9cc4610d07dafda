//! Where people see the machine in a browser: `-web`.

use std::sync::Arc;

use base::chardev::Chardevs;
use base::event_loop::LoopHandle;
use base::options::Opts;
use ui::web::{Host, Server, Settings, Surroundings, Token};

use super::fault;
use super::vnc::{certificates, keymap};
use crate::config::{ConfigError, Located, MachineConfig};
use crate::vm::Vm;

/// Opens the servers of `-web`, and tells the operator where they are.
pub fn open(
    config: &MachineConfig,
    main_loop: &LoopHandle,
    vm: &Arc<Vm>,
    chardevs: &Arc<Chardevs>,
    host: &Arc<dyn Host>,
) -> Result<Vec<Arc<Server>>, ConfigError> {
    let open = |located: &Located<Opts>| {
        let around = Surroundings {
            main_loop: main_loop.clone(),
            consoles: vm.consoles().clone(),
            input: vm.input().clone(),
            chardevs: chardevs.clone(),
            host: host.clone(),
            name: config.identity.name.clone(),
            keymap: keymap(config).map_err(fault)?,
            keymap_chosen: config.keyboard_layout.is_some(),
        };
        let server = start(&located.value, vm, around);
        let server = server.map_err(|error| ConfigError::at(&located.origin, error.to_string()))?;
        base::info_report!("web console at {}", server.url());
        if server.is_exposed() {
            base::warn_report!(
                "others on the network can read what the web console and its visitors say: \
                 see tls-creds="
            );
        }
        Ok(server)
    };
    config.webs.iter().map(open).collect()
}

fn start(opts: &Opts, vm: &Vm, around: Surroundings) -> Result<Arc<Server>, ConfigError> {
    let settings = Settings::new(opts).map_err(fault)?;
    let token = match (&settings.token, &settings.token_secret) {
        (Some(token), _) => token.clone(),
        (None, Some(id)) => {
            let secret = vm.graph().secrets().get(id).map_err(fault)?;
            Token::new(String::from_utf8_lossy(&secret).trim_end()).map_err(fault)?
        }
        (None, None) => Token::random().map_err(fault)?,
    };
    let tls = settings.tls_creds.as_ref().map(|id| certificates(vm, id)).transpose()?;
    Server::start(settings, around, tls, token).map_err(fault)
}
