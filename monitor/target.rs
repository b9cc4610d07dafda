//! What monitors act upon.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use base::chardev::Chardevs;
use base::fdset::FdSets;
use cpu::state::CpuState;
use machine::config::Identity;
use machine::run_state::RunState;
use machine::vm::Vm;
use serde_json::Value;

use crate::qmp::Listeners;

/// The version of QEMU whose interfaces this program offers.
pub(crate) const QEMU_VERSION: [i64; 3] = [10, 0, 2];

/// The machine and its surroundings.
pub struct Target {
    /// The machine.
    pub vm: Arc<Vm>,
    /// Its character devices.
    pub chardevs: Arc<Chardevs>,
    /// Descriptors passed in.
    pub fd_sets: Arc<FdSets>,
    /// What the guest is called.
    pub identity: Identity,
    /// What `query-command-line-options` tells.
    pub options: Vec<Value>,
    /// Mouse buttons that the operator has pressed.
    pub(crate) mouse_buttons: AtomicU64,
    pub(crate) listeners: Listeners,
}

impl Target {
    /// Brings the parts together; from now on events reach the clients of [`qmp`](crate::qmp).
    pub fn new(
        vm: Arc<Vm>,
        chardevs: Arc<Chardevs>,
        fd_sets: Arc<FdSets>,
        identity: Identity,
        options: Vec<Value>,
    ) -> Arc<Self> {
        let listeners = Listeners::default();
        let target = Arc::new(Target {
            vm: vm.clone(),
            chardevs,
            fd_sets,
            identity,
            options,
            mouse_buttons: AtomicU64::new(0),
            listeners,
        });
        let me = Arc::downgrade(&target);
        vm.listen(Arc::new(move |event| {
            if let Some(target) = me.upgrade() {
                target.listeners.tell(&target, event);
            }
        }));
        target
    }

    /// `10.0.2` and what is appended to it: the packager's name of the program.
    pub(crate) fn version() -> (String, String) {
        let number = QEMU_VERSION.map(|part| part.to_string()).join(".");
        (number, format!("Rhea {}", env!("CARGO_PKG_VERSION")))
    }

    /// A copy of a processor's state; `None` if there is no such processor. The guest stands still
    /// for a moment only: it does not notice, its clock runs on.
    pub(crate) fn cpu_state(&self, index: usize) -> Option<CpuState> {
        let vcpus = self.vm.vcpus().filter(|vcpus| index < vcpus.count())?;
        vcpus.pause();
        let state = vcpus.run_on(index, |engine| {
            let mut copy = None;
            engine.with_state(&mut |state| copy = Some(state.clone()));
            copy
        });
        if self.vm.state() == RunState::Running {
            vcpus.resume();
        }
        // Where nobody executes anything, processors are as after a reset.
        Some(state.flatten().unwrap_or_else(|| CpuState::at_reset(0)))
    }

    /// Resets the machine as an operator, which `-action reboot=shutdown` turns into its end.
    pub(crate) fn system_reset(&self) {
        use machine::config::OnReboot;
        use machine::run_state::Cause;
        match self.vm.actions().reboot {
            OnReboot::Reset => self.vm.reset(Cause::HostQmpSystemReset),
            OnReboot::Shutdown => self.vm.shut_down(Cause::HostQmpSystemReset),
        }
    }
}
