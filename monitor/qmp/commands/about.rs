//! Commands about what can be had: machine types, options; and about this machine.

use base::props::PropSpec;
use machine::machines::{Kind, MACHINES, MachineType};
use serde_json::json;

use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

/// Most processors of a PC without interrupt remapping.
const MAX_CPUS: i64 = 255;

qapi_struct! {
    /// What to tell of machine types.
    pub(in crate::qmp) struct MachineWishes { "compat-props" compat_props: Option<bool> }
}

qapi_struct! {
    /// A property that a machine type gives other types.
    pub(in crate::qmp) struct CompatProperty {
        "qom-type" qom_type: String,
        "property" property: String,
        "value" value: String,
    }
}

qapi_struct! {
    /// A machine type.
    pub(in crate::qmp) struct MachineInfo {
        "name" name: String,
        "alias" alias: Option<String>,
        "is-default" is_default: Option<bool>,
        "cpu-max" cpu_max: i64,
        "hotpluggable-cpus" hotpluggable_cpus: bool,
        "numa-mem-supported" numa_mem_supported: bool,
        "deprecated" deprecated: bool,
        "default-cpu-type" default_cpu_type: Option<String>,
        "default-ram-id" default_ram_id: Option<String>,
        "acpi" acpi: bool,
        "compat-props" compat_props: Option<Vec<CompatProperty>>,
    }
}

pub(in crate::qmp) fn query_machines(
    _: &Call<'_>,
    wishes: MachineWishes,
) -> Result<Vec<MachineInfo>, QmpError> {
    let info = |machine: &MachineType| {
        let pc = matches!(machine.kind, Kind::Pc(..));
        MachineInfo {
            name: machine.name.into(),
            alias: machine.alias.map(Into::into),
            is_default: machine.default.then_some(true),
            cpu_max: if pc { MAX_CPUS } else { 1 },
            hotpluggable_cpus: pc,
            // Nodes of a size, without a backend, were given up with version 5.1.
            numa_mem_supported: pc && !machine.since(5, 1),
            deprecated: machine.deprecated.is_some(),
            default_cpu_type: pc.then(|| "qemu64-x86_64-cpu".into()),
            default_ram_id: Some(if pc { "pc.ram" } else { "ram" }.into()),
            acpi: pc,
            compat_props: (wishes.compat_props == Some(true)).then(Vec::new),
        }
    };
    Ok(MACHINES.iter().map(info).collect())
}

qapi_struct! {
    /// This machine.
    pub(in crate::qmp) struct CurrentMachine { "wakeup-suspend-support" can_wake_up: bool }
}

pub(in crate::qmp) fn query_current_machine(
    call: &Call<'_>,
    (): (),
) -> Result<CurrentMachine, QmpError> {
    Ok(CurrentMachine { can_wake_up: call.target.can_wake_up() })
}

qapi_words!(OptionType, OPTION_TYPES, |ty| ty.0);

/// What a parameter of an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) struct OptionType(&'static str);

const OPTION_TYPES: &[OptionType] =
    &[OptionType("string"), OptionType("boolean"), OptionType("number"), OptionType("size")];

qapi_struct! {
    /// A parameter of an option.
    pub(in crate::qmp) struct Parameter {
        "name" name: String,
        "type" ty: OptionType,
        "help" help: Option<String>,
        "default" default: Option<String>,
    }
}

qapi_struct! {
    /// An option of the command line.
    pub(in crate::qmp) struct OptionInfo {
        "option" option: String,
        "parameters" parameters: Vec<Parameter>,
    }
}

qapi_struct! {
    /// Which option; all if none is named.
    pub(in crate::qmp) struct WhichOption { "option" option: Option<String> }
}

pub(in crate::qmp) fn query_options(
    call: &Call<'_>,
    which: WhichOption,
) -> Result<Vec<OptionInfo>, QmpError> {
    use crate::qapi::Qapi;
    let mut options = Vec::<OptionInfo>::read(call.target.options.clone().into(), "")?;
    if let Some(machine) = options.iter_mut().find(|option| option.option == "machine") {
        add_machine_properties(&mut machine.parameters)?;
    }
    match which.option {
        None => Ok(options),
        Some(name) => {
            options.retain(|option| option.option == name);
            if options.is_empty() {
                return Err(QmpError::new(format!("invalid option name: {name}")));
            }
            Ok(options)
        }
    }
}

/// The properties of all machine types are parameters of `-machine`.
fn add_machine_properties(parameters: &mut Vec<Parameter>) -> Result<(), QmpError> {
    use crate::qapi::Qapi;
    let parameter = |spec: &PropSpec| {
        let ty = match spec.type_name {
            "bool" => "boolean",
            "size" => "size",
            _ => "string",
        };
        let mut parameter = json!({"name": spec.name, "type": ty});
        if !spec.help.is_empty() {
            parameter["help"] = spec.help.into();
        }
        Parameter::read(parameter, "")
    };
    for machine in MACHINES {
        for spec in machine.specs() {
            if !parameters.iter().any(|known| known.name == spec.name) {
                parameters.push(parameter(&spec)?);
            }
        }
    }
    Ok(())
}

qapi_struct! {
    /// What the guest's power management says of a device.
    pub(in crate::qmp) struct OspmStatus {
        "device" device: Option<String>,
        "slot" slot: String,
        "slot-type" slot_type: SlotType,
        "source" source: i64,
        "status" status: i64,
    }
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) struct SlotType(&'static str);

const SLOT_TYPES: &[SlotType] = &[SlotType("DIMM"), SlotType("CPU")];

qapi_words!(SlotType, SLOT_TYPES, |ty| ty.0);

pub(in crate::qmp) fn query_ospm_status(
    call: &Call<'_>,
    (): (),
) -> Result<Vec<OspmStatus>, QmpError> {
    let inventory = call.target.vm.inventory().filter(|inventory| inventory.can_suspend);
    let inventory =
        inventory.ok_or_else(|| QmpError::new("command is not supported, missing ACPI device"))?;
    let slot = |n: u64| OspmStatus {
        device: None,
        slot: n.to_string(),
        slot_type: SlotType("DIMM"),
        source: 0,
        status: 0,
    };
    Ok((0..inventory.memory_slots).map(slot).collect())
}
