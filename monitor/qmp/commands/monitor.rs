//! Commands about the protocol itself and the program.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::COMMANDS;
use crate::hmp;
use crate::qapi::QmpError;
use crate::qmp::{Call, schema};
use crate::target::{QEMU_VERSION, Target};
use crate::{qapi_struct, qapi_words};

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) enum Capability {
    OutOfBand,
}

qapi_words!(Capability, [Capability::OutOfBand], |_| "oob");

qapi_struct! {
    /// What a client wants.
    pub(in crate::qmp) struct Wishes { "enable" enable: Option<Vec<Capability>> }
}

pub(in crate::qmp) fn qmp_capabilities(call: &Call<'_>, wishes: Wishes) -> Result<(), QmpError> {
    let out_of_band = wishes.enable.is_some_and(|list| list.contains(&Capability::OutOfBand));
    call.session.out_of_band.store(out_of_band, Ordering::Relaxed);
    call.session.negotiated.store(true, Ordering::Relaxed);
    Ok(())
}

qapi_struct! {
    /// A version number.
    pub(in crate::qmp) struct VersionTriple {
        "major" major: i64,
        "minor" minor: i64,
        "micro" micro: i64,
    }
}

qapi_struct! {
    /// The version of this program.
    pub(in crate::qmp) struct VersionInfo {
        "qemu" qemu: VersionTriple,
        "package" package: String,
    }
}

/// The version of this program.
pub(in crate::qmp) fn version() -> VersionInfo {
    let [major, minor, micro] = QEMU_VERSION;
    VersionInfo { qemu: VersionTriple { major, minor, micro }, package: Target::version().1 }
}

pub(in crate::qmp) fn query_version(_: &Call<'_>, (): ()) -> Result<VersionInfo, QmpError> {
    Ok(version())
}

qapi_struct! {
    /// A command.
    pub(in crate::qmp) struct CommandInfo { "name" name: String }
}

pub(in crate::qmp) fn query_commands(_: &Call<'_>, (): ()) -> Result<Vec<CommandInfo>, QmpError> {
    Ok(COMMANDS.iter().map(|command| CommandInfo { name: command.name.into() }).collect())
}

pub(in crate::qmp) fn query_qmp_schema(_: &Call<'_>, (): ()) -> Result<Vec<Value>, QmpError> {
    Ok(schema::schema())
}

qapi_struct! {
    /// A line for the human monitor.
    pub(in crate::qmp) struct HumanCommand {
        "command-line" command_line: String,
        "cpu-index" cpu_index: Option<i64>,
    }
}

pub(in crate::qmp) fn human_monitor_command(
    call: &Call<'_>,
    command: HumanCommand,
) -> Result<String, QmpError> {
    let mut cpu = 0;
    if let Some(index) = command.cpu_index {
        let count = call.target.vm.vcpus().map_or(0, cpu::vcpu::Vcpus::count);
        let found = usize::try_from(index).ok().filter(|&index| index < count);
        let missing = || QmpError::new("Parameter 'cpu-index' expects a CPU number");
        cpu = found.ok_or_else(missing)?;
    }
    Ok(hmp::execute(&hmp::Context::new(call.target, cpu), &command.command_line))
}

qapi_struct! {
    /// What people would see.
    pub(in crate::qmp) struct HumanText { "human-readable-text" text: String }
}

pub(in crate::qmp) fn translations(call: &Call<'_>, (): ()) -> Result<HumanText, QmpError> {
    Ok(HumanText { text: call.target.translations()? })
}

macro_rules! human_texts {
    ($($name:ident $subject:literal;)*) => {$(
        pub(in crate::qmp) fn $name(call: &Call<'_>, (): ()) -> Result<HumanText, QmpError> {
            Ok(HumanText { text: hmp::about(call.target, $subject) })
        }
    )*};
}

pub(in crate::qmp) fn usb(call: &Call<'_>, (): ()) -> Result<HumanText, QmpError> {
    Ok(HumanText { text: call.target.usb_report()? })
}

impl Target {
    /// The devices on all USB buses.
    pub(crate) fn usb_report(&self) -> Result<String, QmpError> {
        let buses = self.vm.usb().all();
        if buses.is_empty() {
            return Err(QmpError::new("USB support not enabled"));
        }
        Ok(buses.iter().map(|bus| bus.report()).collect())
    }
}

human_texts! {
    interrupt_controllers "pic";
    interrupts "irq";
    numa "numa";
}
