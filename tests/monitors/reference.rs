//! Our program beside QEMU: nothing is promised that QEMU does not have, and what clients look for
//! has the same shape.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::vm::{Launch, Vm};

type Names = BTreeSet<String>;

fn both(args: &[&str]) -> Result<Option<(Vm, Vm)>> {
    let reference = match testbed::reference_qemu() {
        Ok(path) => path,
        Err(reason) => {
            testbed::skip(&reason);
            return Ok(None);
        }
    };
    let start = |program| {
        let common = ["-S", "-nodefaults", "-display", "none"];
        Launch::new(program).args(args).args(common).qmp().spawn()
    };
    Ok(Some((start(testbed::program())?, start(reference)?)))
}

fn names(list: &Value) -> Names {
    let names = list.as_array().into_iter().flatten();
    names.filter_map(|entry| entry["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn every_command_and_argument_is_qemus() -> Result<()> {
    let Some((mut ours, mut theirs)) = both(&["-M", "none"])? else { return Ok(()) };
    let (ours, theirs) =
        (ours.qmp().execute("query-qmp-schema")?, theirs.qmp().execute("query-qmp-schema")?);
    for kind in ["command", "event"] {
        for own in ours.as_array().into_iter().flatten().filter(|own| own["meta-type"] == kind) {
            let name = &own["name"];
            let other = entity(&theirs, name);
            ensure!(other["meta-type"] == kind, "only ours: {name}");
            let members = |schema: &Value, entity: &Value| {
                names(&self::entity(schema, &entity["arg-type"])["members"])
            };
            let (own, other) = (members(&ours, own), members(&theirs, &other));
            ensure!(own.is_subset(&other), "{name}: {own:?} {other:?}");
        }
    }
    Ok(())
}

fn entity(schema: &Value, name: &Value) -> Value {
    let mut all = schema.as_array().into_iter().flatten();
    all.find(|entity| entity["name"] == *name).cloned().unwrap_or_default()
}

#[test]
fn a_processor_has_the_features_that_libvirt_reads() -> Result<()> {
    let Some((mut ours, mut theirs)) = both(&["-M", "pc", "-m", "16"])? else { return Ok(()) };
    let path = json!({"path": "/machine/unattached/device[0]"});
    let switches = |list: &Value| -> Names {
        let list = list.as_array().into_iter().flatten().filter(|entry| entry["type"] == "bool");
        list.filter_map(|entry| entry["name"].as_str()).map(str::to_owned).collect()
    };
    let own = switches(&ours.qmp().execute_with("qom-list", path.clone())?);
    let other = switches(&theirs.qmp().execute_with("qom-list", path)?);
    let difference: Vec<_> = own.symmetric_difference(&other).collect();
    ensure!(difference.is_empty(), "{difference:?}");
    Ok(())
}

#[test]
fn every_type_is_qemus_and_has_the_same_parent() -> Result<()> {
    let Some((mut ours, mut theirs)) = both(&["-M", "none"])? else { return Ok(()) };
    let all = json!({"abstract": true});
    let own = ours.qmp().execute_with("qom-list-types", all.clone())?;
    let other = theirs.qmp().execute_with("qom-list-types", all)?;
    let others = other.as_array().context("no list")?;
    for entry in own.as_array().context("no list")? {
        // QEMU's distributed builds have no accelerator for tests.
        ensure!(others.contains(entry) || entry["name"] == "qtest-accel", "only ours: {entry}");
    }
    Ok(())
}

#[test]
fn chips_have_the_same_paths() -> Result<()> {
    for args in [&["-M", "pc", "-m", "16"][..], &["-M", "pc,hpet=off,i8042=off", "-smp", "3"]] {
        let Some((mut ours, mut theirs)) = both(args)? else { return Ok(()) };
        let list = |vm: &mut Vm| -> Result<BTreeSet<(String, String)>> {
            let list = vm.qmp().execute_with("qom-list", json!({"path": "/machine/unattached"}))?;
            let list = list.as_array().context("no list")?.iter();
            let pair = |entry: &Value| {
                Some((entry["name"].as_str()?.to_owned(), entry["type"].as_str()?.to_owned()))
            };
            Ok(list.filter_map(pair).collect())
        };
        let (own, other) = (list(&mut ours)?, list(&mut theirs)?);
        let only: Vec<_> = own.difference(&other).collect();
        ensure!(only.is_empty(), "{args:?}: {only:?}");
    }
    Ok(())
}
