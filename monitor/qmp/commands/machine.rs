//! Commands about the machine and its life.

use base::request::WakeReason;
use cpu::signals::request;
use machine::config::{OnPanic, OnReboot, OnShutdown, OnWatchdog};
use machine::run_state::{Cause, RunState};

use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::target::Target;
use crate::{qapi_struct, qapi_words};

qapi_words!(RunState, RunState::ALL, RunState::name);
qapi_words!(OnReboot, OnReboot::ALL, OnReboot::as_str);
qapi_words!(OnShutdown, OnShutdown::ALL, OnShutdown::as_str);
qapi_words!(OnPanic, OnPanic::ALL, OnPanic::as_str);
qapi_words!(OnWatchdog, OnWatchdog::ALL, OnWatchdog::as_str);

qapi_struct! {
    /// What the machine is doing.
    pub(in crate::qmp) struct StatusInfo { "running" running: bool, "status" status: RunState }
}

pub(in crate::qmp) fn query_status(call: &Call<'_>, (): ()) -> Result<StatusInfo, QmpError> {
    let status = call.target.vm.state();
    Ok(StatusInfo { running: status == RunState::Running, status })
}

pub(in crate::qmp) fn stop(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.vm.pause();
    Ok(())
}

pub(in crate::qmp) fn cont(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.cont()
}

pub(in crate::qmp) fn system_reset(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.system_reset();
    Ok(())
}

pub(in crate::qmp) fn system_powerdown(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.vm.power_down();
    Ok(())
}

pub(in crate::qmp) fn system_wakeup(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.system_wakeup()
}

pub(in crate::qmp) fn inject_nmi(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.inject_nmi()
}

pub(in crate::qmp) fn quit(call: &Call<'_>, (): ()) -> Result<(), QmpError> {
    call.target.vm.shut_down(Cause::HostQmpQuit);
    Ok(())
}

/// What monitors of both kinds can do to the machine.
impl Target {
    pub(crate) fn cont(&self) -> Result<(), QmpError> {
        if self.vm.state().needs_reset() {
            return Err(QmpError::new("Resetting the Virtual Machine is required"));
        }
        self.vm.resume();
        Ok(())
    }

    /// Whether the machine can sleep and wake up.
    pub(crate) fn can_wake_up(&self) -> bool {
        self.vm.inventory().is_some_and(|inventory| inventory.can_suspend)
    }

    /// Whether the host's kernel runs the guest's processors.
    pub(crate) fn is_kvm(&self) -> bool {
        self.vm.inventory().is_some_and(|inventory| inventory.kvm)
    }

    /// What the translator has made.
    pub(crate) fn translations(&self) -> Result<String, QmpError> {
        let inventory = self.vm.inventory();
        let report = inventory.and_then(|inventory| inventory.translator_report.clone());
        let missing = || QmpError::new("JIT information is only available with accel=tcg");
        Ok(report.ok_or_else(missing)?())
    }

    pub(crate) fn system_wakeup(&self) -> Result<(), QmpError> {
        if !self.can_wake_up() {
            return Err(QmpError::new("wake-up from suspend is not supported by this guest"));
        }
        if self.vm.wake_up(WakeReason::Operator) {
            return Ok(());
        }
        Err(QmpError::new("Unable to wake up: guest is not in suspended state"))
    }

    pub(crate) fn inject_nmi(&self) -> Result<(), QmpError> {
        let vcpus = self.vm.vcpus().filter(|vcpus| vcpus.count() > 0);
        let vcpus = vcpus.ok_or_else(|| QmpError::new("machine does not provide NMIs"))?;
        for index in 0..vcpus.count() {
            vcpus.post(index, request::NMI);
        }
        Ok(())
    }
}

qapi_struct! {
    /// What to do when; what is left out stays.
    pub(in crate::qmp) struct ActionChanges {
        "reboot" reboot: Option<OnReboot>,
        "shutdown" shutdown: Option<OnShutdown>,
        "panic" panic: Option<OnPanic>,
        "watchdog" watchdog: Option<OnWatchdog>,
    }
}

pub(in crate::qmp) fn set_action(call: &Call<'_>, change: ActionChanges) -> Result<(), QmpError> {
    call.target.vm.set_actions(|actions| {
        actions.reboot = change.reboot.unwrap_or(actions.reboot);
        actions.shutdown = change.shutdown.unwrap_or(actions.shutdown);
        actions.panic = change.panic.unwrap_or(actions.panic);
        actions.watchdog = change.watchdog.unwrap_or(actions.watchdog);
    });
    Ok(())
}

qapi_struct! {
    /// What to do when a watchdog expires.
    pub(in crate::qmp) struct WatchdogAction { "action" action: OnWatchdog }
}

pub(in crate::qmp) fn watchdog_set_action(
    call: &Call<'_>,
    wanted: WatchdogAction,
) -> Result<(), QmpError> {
    call.target.vm.set_actions(|actions| actions.watchdog = wanted.action);
    Ok(())
}

qapi_struct! {
    /// The guest's name.
    pub(in crate::qmp) struct NameInfo { "name" name: Option<String> }
}

pub(in crate::qmp) fn query_name(call: &Call<'_>, (): ()) -> Result<NameInfo, QmpError> {
    Ok(NameInfo { name: call.target.identity.name.clone() })
}

qapi_struct! {
    /// The guest's UUID.
    pub(in crate::qmp) struct UuidInfo { "UUID" uuid: String }
}

pub(in crate::qmp) fn query_uuid(call: &Call<'_>, (): ()) -> Result<UuidInfo, QmpError> {
    Ok(UuidInfo { uuid: call.target.uuid() })
}

impl Target {
    /// The guest's UUID; all zero if it has none.
    pub(crate) fn uuid(&self) -> String {
        self.identity.uuid.unwrap_or(base::props::Uuid([0; 16])).to_string()
    }
}

qapi_struct! {
    /// Whether the host's kernel can run the guest, and does.
    pub(in crate::qmp) struct KvmInfo { "enabled" enabled: bool, "present" present: bool }
}

pub(in crate::qmp) fn query_kvm(call: &Call<'_>, (): ()) -> Result<KvmInfo, QmpError> {
    Ok(KvmInfo { enabled: call.target.is_kvm(), present: true })
}

/// What processors this program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) enum Architecture {
    X86_64,
}

qapi_words!(Architecture, [Architecture::X86_64], |_| "x86_64");

qapi_struct! {
    /// What processors this program has.
    pub(in crate::qmp) struct TargetInfo { "arch" arch: Architecture }
}

pub(in crate::qmp) fn query_target(_: &Call<'_>, (): ()) -> Result<TargetInfo, QmpError> {
    Ok(TargetInfo { arch: Architecture::X86_64 })
}
