//! Where people see the machine: `-display curses`.

use std::sync::Arc;

use base::event_loop::LoopHandle;
use ui::curses::{Curses, Surroundings};
use ui::keymap::{self, Keymap};

use super::fault;
use crate::config::{ConfigError, Display, MachineConfig};
use crate::vm::Vm;

/// Takes the terminal if it is to show the machine.
pub(super) fn open(
    config: &MachineConfig,
    main_loop: &LoopHandle,
    vm: &Arc<Vm>,
) -> Result<Option<Curses>, ConfigError> {
    if config.display != Display::Curses {
        return Ok(None);
    }
    let layout = config.keyboard_layout.as_deref().unwrap_or(keymap::DEFAULT);
    let around = Surroundings {
        consoles: vm.consoles().clone(),
        input: vm.input().clone(),
        keymap: Keymap::load(layout).map_err(fault)?,
    };
    Curses::start(around, main_loop).map(Some).map_err(fault)
}
