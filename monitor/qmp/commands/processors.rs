//! Commands about processors and their models.

use cpu::cpuid::{self, ModelError, Selection, Support, Topology};
use machine::inventory::{CpuSlot, Inventory};
use serde_json::{Map, Value};

use super::machine::Architecture;
use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

qapi_struct! {
    /// Where a processor sits.
    pub(in crate::qmp) struct CpuProps {
        "node-id" node: Option<i64>,
        "drawer-id" drawer: Option<i64>,
        "book-id" book: Option<i64>,
        "socket-id" socket: Option<i64>,
        "die-id" die: Option<i64>,
        "cluster-id" cluster: Option<i64>,
        "module-id" module: Option<i64>,
        "core-id" core: Option<i64>,
        "thread-id" thread: Option<i64>,
    }
}

impl From<&CpuSlot> for CpuProps {
    fn from(slot: &CpuSlot) -> Self {
        CpuProps {
            node: slot.node.map(Into::into),
            drawer: None,
            book: None,
            socket: Some(slot.place.socket.into()),
            die: slot.has_dies.then_some(slot.place.die.into()),
            cluster: None,
            module: slot.has_modules.then_some(slot.place.module.into()),
            core: Some(slot.place.core.into()),
            thread: Some(slot.place.thread.into()),
        }
    }
}

qapi_struct! {
    /// A processor.
    pub(in crate::qmp) struct CpuInfo {
        "cpu-index" cpu_index: i64,
        "qom-path" qom_path: String,
        "thread-id" thread_id: i64,
        "props" props: Option<CpuProps>,
        "target" target: Architecture,
    }
}

fn inventory<'a>(call: &'a Call<'_>) -> Result<&'a Inventory, QmpError> {
    let inventory = call.target.vm.inventory();
    inventory.ok_or_else(|| QmpError::new("The machine is not there yet"))
}

pub(in crate::qmp) fn query_cpus_fast(call: &Call<'_>, (): ()) -> Result<Vec<CpuInfo>, QmpError> {
    let threads = call.target.vm.vcpus().map(|vcpus| vcpus.thread_ids()).unwrap_or_default();
    let slots = inventory(call)?.cpus.iter();
    let info = |((cpu_index, slot), thread): ((i64, &CpuSlot), i32)| CpuInfo {
        cpu_index,
        qom_path: slot.path.clone().unwrap_or_default(),
        thread_id: thread.into(),
        props: Some(slot.into()),
        target: Architecture::X86_64,
    };
    Ok((0..).zip(slots).zip(threads).map(info).collect())
}

qapi_struct! {
    /// A place for a processor.
    pub(in crate::qmp) struct HotpluggableCpu {
        "type" type_name: String,
        "vcpus-count" count: i64,
        "props" props: CpuProps,
        "qom-path" qom_path: Option<String>,
    }
}

pub(in crate::qmp) fn query_hotpluggable_cpus(
    call: &Call<'_>,
    (): (),
) -> Result<Vec<HotpluggableCpu>, QmpError> {
    let inventory = inventory(call)?;
    let Some(type_name) = &inventory.cpu_type else {
        return Err(QmpError::new("machine does not support hot-plugging CPUs"));
    };
    let info = |slot: &CpuSlot| HotpluggableCpu {
        type_name: type_name.clone(),
        count: 1,
        props: slot.into(),
        qom_path: slot.path.clone(),
    };
    // The last one first, as clients are used to.
    Ok(inventory.cpus.iter().rev().map(info).collect())
}

qapi_struct! {
    /// A processor model.
    pub(in crate::qmp) struct CpuDefinition {
        "name" name: String,
        "migration-safe" migration_safe: Option<bool>,
        "static" is_static: bool,
        "unavailable-features" unavailable: Option<Vec<String>>,
        "typename" type_name: String,
        "alias-of" alias_of: Option<String>,
        "deprecated" deprecated: bool,
    }
}

fn define(name: &str, alias_of: Option<&str>, support: &Support) -> CpuDefinition {
    let unavailable = match cpuid::select(name, support, Topology::default()) {
        Ok(selection) => cpuid::feature_names(&selection.unavailable),
        // What cannot be had at all lacks the accelerator.
        Err(_) => vec!["kvm"],
    };
    CpuDefinition {
        name: name.into(),
        migration_safe: Some(!matches!(name, "host" | "max")),
        is_static: name == "base",
        unavailable: Some(unavailable.into_iter().map(Into::into).collect()),
        type_name: format!("{name}-x86_64-cpu"),
        alias_of: alias_of.map(Into::into),
        deprecated: false,
    }
}

pub(in crate::qmp) fn query_cpu_definitions(
    call: &Call<'_>,
    (): (),
) -> Result<Vec<CpuDefinition>, QmpError> {
    let support = &inventory(call)?.support;
    let special = ["max", "host", "base"].map(|name| (name, None));
    let mut named = cpuid::names();
    // In the order that clients know.
    named.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    let names = special.into_iter().chain(named);
    Ok(names.map(|(name, alias)| define(name, alias, support)).collect())
}

/// How far a model is expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) enum Expansion {
    Static,
    Full,
}

qapi_words!(Expansion, [Expansion::Static, Expansion::Full], |expansion| match expansion {
    Expansion::Static => "static",
    Expansion::Full => "full",
});

qapi_struct! {
    /// A model, and changes to it.
    pub(in crate::qmp) struct CpuModelInfo { "name" name: String, "props" props: Option<Value> }
}

qapi_struct! {
    /// A model to expand.
    pub(in crate::qmp) struct Expand { "type" expansion: Expansion, "model" model: CpuModelInfo }
}

qapi_struct! {
    /// A model, expanded.
    pub(in crate::qmp) struct Expanded { "model" model: CpuModelInfo }
}

/// Applies changes as `-cpu` would.
fn select(model: &CpuModelInfo, support: &Support) -> Result<Selection, QmpError> {
    let changes = match &model.props {
        Some(Value::Object(changes)) => changes.clone(),
        Some(_) => {
            let message = "Invalid parameter type for 'model.props', expected: object";
            return Err(QmpError::new(message));
        }
        None => Map::new(),
    };
    let known = cpuid::Model::default().properties(None);
    let mut spec = model.name.clone();
    for (name, value) in &changes {
        let kind = known.iter().find(|(known, ..)| known == name).map(|(_, kind, _)| *kind);
        let wrong = |expected| {
            let message =
                format!("Invalid parameter type for 'model.props.{name}', expected: {expected}");
            Err(QmpError::new(message))
        };
        let text = match (value, kind) {
            (Value::Bool(on), Some("bool") | None) => if *on { "on" } else { "off" }.to_owned(),
            (_, Some("bool")) => return wrong("boolean"),
            (Value::Number(number), _) => number.to_string(),
            (Value::String(text), _) => text.clone(),
            _ => return wrong("string"),
        };
        // Commas would begin another option.
        spec += &format!(",{name}={}", text.replace(',', ""));
    }
    cpuid::select(&spec, support, Topology::default()).map_err(|error| {
        QmpError::new(match error {
            ModelError::NoSuchModel(name) => format!("CPU model '{name}' not found"),
            ModelError::HostNeedsHardware => "CPU model 'host' requires KVM or HVF".to_owned(),
            ModelError::BadProperty { reason, .. } => reason,
            other => other.to_string(),
        })
    })
}

/// Takes back what QEMU decides only when it makes a processor of `max`, unless it was asked for.
fn unsettle(model: &mut cpuid::Model, changes: Option<&Value>) {
    let asked = |name: &str| changes.is_some_and(|changes| changes.get(name).is_some());
    for (name, field) in [
        ("family", &mut model.family),
        ("model", &mut model.model),
        ("stepping", &mut model.stepping),
    ] {
        if !asked(name) {
            *field = 0;
        }
    }
    if !asked("ht") {
        model.features.set(cpuid::feature::HT, false);
    }
}

pub(in crate::qmp) fn query_cpu_model_expansion(
    call: &Call<'_>,
    wanted: Expand,
) -> Result<Expanded, QmpError> {
    let support = &inventory(call)?.support;
    let mut model = wanted.model;
    let asked = model.name.clone();
    if model.name == "host" && support.host.is_none() {
        // What an accelerator without a host's processor has most of.
        model.name = "max".into();
    }
    let selection = select(&model, support)?;
    // What the accelerator lacks is told by `query-cpu-definitions`.
    let mut expanded = cpuid::Model { features: selection.requested, ..selection.model };
    if model.name == "max" && support.host.is_none() {
        unsettle(&mut expanded, model.props.as_ref());
    }
    let (name, entries) = match wanted.expansion {
        Expansion::Static => ("base".to_owned(), expanded.static_properties()),
        Expansion::Full => (asked, expanded.properties(None)),
    };
    let mut props: Map<_, _> =
        entries.into_iter().map(|(name, _, value)| (name.to_owned(), value)).collect();
    if wanted.expansion == Expansion::Full {
        props.insert("realized".into(), false.into());
        props.insert("memory".into(), "/machine/unattached/system[0]".into());
        if matches!(&*model.name, "max" | "host") {
            for (name, on) in [("migratable", true), ("pmu", true), ("host-cache-info", false)] {
                props.insert(name.into(), on.into());
            }
        }
    }
    Ok(Expanded { model: CpuModelInfo { name, props: Some(props.into()) } })
}
