//! What clients ask of a machine, and the answers that QEMU 10.0 gives. `RHEA_BIN` puts QEMU itself
//! in the place of our program, which must pass too.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::qmp::Qmp;
use testbed::vm::{Launch, Vm};

const PC: &[&str] = &[
    "-M",
    "pc-i440fx-10.0",
    "-m",
    "64",
    "-smp",
    "2,maxcpus=3",
    "-uuid",
    "00112233-4455-6677-8899-aabbccddeeff",
    "-name",
    "alice",
    "-object",
    "memory-backend-ram,id=spare,size=1M",
    "-device",
    "edu,id=e",
    "-device",
    "pvpanic,events=1",
    "-chardev",
    "null,id=nowhere",
];

fn machine(args: &[&str]) -> Result<Vm> {
    let common = ["-S", "-nodefaults", "-display", "none"];
    Launch::new(testbed::program()).accel().args(args).args(common).qmp().spawn()
}

fn ask(qmp: &mut Qmp, command: &str, arguments: Value) -> Result<Value> {
    let reply = qmp.call(&json!({"execute": command, "arguments": arguments}))?;
    Ok(match reply.get("return") {
        Some(value) => value.clone(),
        None => json!([reply["error"]["class"], reply["error"]["desc"]]),
    })
}

fn expect(qmp: &mut Qmp, expected: &[(&str, Value, Value)]) -> Result<()> {
    for (command, arguments, answer) in expected {
        let got = ask(qmp, command, arguments.clone())?;
        ensure!(got == *answer, "{command} {arguments}: {got} instead of {answer}");
    }
    Ok(())
}

/// An error's class and text.
fn generic(text: &str) -> Value {
    json!(["GenericError", text])
}

fn missing(text: &str) -> Value {
    json!(["DeviceNotFound", text])
}

#[test]
fn a_machine_tells_what_it_is() -> Result<()> {
    let mut vm = machine(PC)?;
    let qmp = vm.qmp();
    let place = |core| json!({"socket-id": 0, "core-id": core, "thread-id": 0});
    let slot = |core, path: Option<&str>| {
        let mut slot = json!({"type": "qemu64-x86_64-cpu", "vcpus-count": 1, "props": place(core)});
        if let Some(path) = path {
            slot["qom-path"] = path.into();
        }
        slot
    };
    let (first, second) = ("/machine/unattached/device[0]", "/machine/unattached/device[2]");
    expect(
        qmp,
        &[
            ("query-name", json!({}), json!({"name": "alice"})),
            ("query-uuid", json!({}), json!({"UUID": "00112233-4455-6677-8899-aabbccddeeff"})),
            ("query-target", json!({}), json!({"arch": "x86_64"})),
            ("query-kvm", json!({}), json!({"enabled": false, "present": true})),
            (
                "query-memory-size-summary",
                json!({}),
                json!({"base-memory": 64 << 20, "plugged-memory": 0}),
            ),
            ("query-memory-devices", json!({}), json!([])),
            ("query-iothreads", json!({}), json!([])),
            ("query-acpi-ospm-status", json!({}), json!([])),
            ("query-current-machine", json!({}), json!({"wakeup-suspend-support": true})),
            ("query-fdsets", json!({}), json!([])),
            (
                "query-hotpluggable-cpus",
                json!({}),
                json!([slot(2, None), slot(1, Some(second)), slot(0, Some(first))]),
            ),
        ],
    )?;
    let mut cpus = ask(qmp, "query-cpus-fast", json!({}))?;
    for cpu in cpus.as_array_mut().into_iter().flatten() {
        ensure!(cpu["thread-id"].take().as_i64().is_some_and(|id| id > 0));
    }
    let cpu = |index, path| {
        json!({"cpu-index": index, "qom-path": path, "thread-id": null,
        "props": place(index), "target": "x86_64"})
    };
    ensure!(cpus == json!([cpu(0, first), cpu(1, second)]), "{cpus}");
    let memory = ask(qmp, "query-memdev", json!({}))?;
    let backend = |id, size| {
        json!({"id": id, "size": size, "merge": true, "dump": true,
        "prealloc": false, "share": false, "reserve": true, "host-nodes": [], "policy": "default"})
    };
    for expected in [backend("spare", 1 << 20), backend("pc.ram", 64 << 20)] {
        ensure!(memory.as_array().is_some_and(|all| all.contains(&expected)), "{memory}");
    }
    Ok(())
}

#[test]
fn objects_are_where_management_software_looks_for_them() -> Result<()> {
    let mut vm = machine(PC)?;
    let qmp = vm.qmp();
    let get = |path: &str, property: &str| json!({"path": path, "property": property});
    let set = |path: &str, property: &str, value: Value| json!({"path": path, "property": property, "value": value});
    let cpu = "/machine/unattached/device[0]";
    expect(
        qmp,
        &[
            ("qom-get", get("/machine", "type"), json!("pc-i440fx-10.0-machine")),
            ("qom-get", get("/machine", "memory-backend"), json!("/objects/pc.ram")),
            ("qom-get", get("/machine/peripheral/e", "type"), json!("edu")),
            ("qom-get", get("e", "addr"), json!(16)),
            ("qom-get", get("/machine/peripheral/e", "parent_bus"), json!("/machine/i440fx/pci.0")),
            ("qom-get", get("/machine/peripheral-anon/device[0]", "type"), json!("pvpanic")),
            ("qom-get", get("/machine/peripheral-anon/device[0]", "events"), json!(1)),
            ("qom-get", get("/objects/spare", "size"), json!(1 << 20)),
            ("qom-get", get("/chardevs/nowhere", "type"), json!("chardev-null")),
            ("qom-get", get("/machine/i440fx/ioapic", "version"), json!(32)),
            ("qom-get", get("/machine/unattached/device[4]/rtc", "type"), json!("mc146818rtc")),
            ("qom-get", get("/machine/unattached/device[5]", "type"), json!("isa-i8259")),
            ("qom-get", get("/machine/unattached/device[7]", "type"), json!("hpet")),
            ("qom-get", get("/machine/unattached/device[11]", "type"), json!("i8042")),
            ("qom-get", get(cpu, "sse2"), json!(true)),
            ("qom-get", get(cpu, "lahf_lm"), json!(true)),
            ("qom-get", get(cpu, "avx512f"), json!(false)),
            ("qom-get", get(cpu, "vendor"), json!("AuthenticAMD")),
            ("qom-get", get(cpu, "apic-id"), json!(0)),
            ("qom-get", get(cpu, "hotpluggable"), json!(true)),
            ("qom-get", get(cpu, "unavailable-features"), json!([])),
            (
                "qom-get",
                get("/machine/peripheral/e", "nope"),
                generic("Property 'edu.nope' not found"),
            ),
            ("qom-get", get("/nope", "type"), missing("Device '/nope' not found")),
            ("qom-list", json!({"path": "device[0]"}), generic("Path 'device[0]' is ambiguous")),
            (
                "qom-set",
                set(cpu, "sse2", json!(false)),
                generic(
                    "Attempt to set property 'sse2' on anonymous device (type 'qemu64-x86_64-cpu') after \
             it was realized",
                ),
            ),
            (
                "qom-set",
                set("e", "addr", json!("5")),
                generic(
                    "Attempt to set property 'addr' on device 'e' (type 'edu') after it was realized",
                ),
            ),
            (
                "qom-set",
                set("e", "type", json!("x")),
                generic("Property 'edu.type' is not writable"),
            ),
        ],
    )?;
    for (property, there) in [("feature-words", true), ("filtered-features", false)] {
        let words = ask(qmp, "qom-get", get(cpu, property))?;
        let last = &words[30];
        let first_leaf = last["cpuid-input-eax"] == 1 && last["cpuid-register"] == "EDX";
        ensure!(first_leaf && (last["features"] != 0) == there, "{property}: {words}");
    }
    let list = ask(qmp, "qom-list", json!({"path": "/machine/peripheral"}))?;
    ensure!(
        list == json!([{"name": "type", "type": "string"}, {"name": "e", "type": "child<edu>"}])
    );
    Ok(())
}

#[test]
fn types_tell_their_properties() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let qmp = vm.qmp();
    let named = |name: &str| json!({"typename": name});
    let only_devices = generic("Parameter 'typename' expects a non-abstract device type");
    expect(
        qmp,
        &[
            ("device-list-properties", named("nope"), missing("Device 'nope' not found")),
            ("device-list-properties", named("pci-device"), only_devices.clone()),
            ("device-list-properties", named("memory-backend-ram"), only_devices),
            ("qom-list-properties", named("nope"), missing("Class 'nope' not found")),
            ("qom-list-types", json!({"implements": "nope"}), json!([])),
        ],
    )?;
    let has = |list: &Value, name: &str| {
        list.as_array().is_some_and(|list| list.iter().any(|entry| entry["name"] == name))
    };
    let properties = ask(qmp, "device-list-properties", named("pvpanic"))?;
    let ioport = json!({"name": "ioport", "type": "uint16", "default-value": 1285});
    ensure!(properties.as_array().is_some_and(|all| all.contains(&ioport)), "{properties}");
    // What libvirt cannot do without.
    for (type_name, property) in [
        ("memory-backend-file", "reserve"),
        ("memory-backend-memfd", "hugetlbsize"),
        ("max-x86_64-cpu", "unavailable-features"),
        ("none-machine", "memory-backend"),
        ("generic-pc-machine", "i8042"),
    ] {
        let list = ask(qmp, "qom-list-properties", named(type_name))?;
        ensure!(has(&list, property), "{type_name}: {list}");
    }
    let types = ask(qmp, "qom-list-types", json!({}))?;
    for name in
        ["tcg-accel", "kvm-accel", "isa-serial", "pc-i440fx-10.0-machine", "host-x86_64-cpu"]
    {
        ensure!(has(&types, name), "{name}");
    }
    ensure!(!has(&types, "pci-device"), "abstract types are asked for");
    let backends = ask(qmp, "qom-list-types", json!({"implements": "memory-backend"}))?;
    ensure!(has(&backends, "memory-backend-ram") && !has(&backends, "edu"), "{backends}");
    Ok(())
}

#[test]
fn processor_models_are_described_and_expanded() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let qmp = vm.qmp();
    let definitions = ask(qmp, "query-cpu-definitions", json!({}))?;
    let find = |name: &str| {
        let mut all = definitions.as_array().into_iter().flatten();
        all.find(|definition| definition["name"] == name).cloned().unwrap_or_default()
    };
    ensure!(find("Haswell")["alias-of"] == "Haswell-v1" && find("base")["static"] == true);
    ensure!(find("qemu64")["typename"] == "qemu64-x86_64-cpu");
    ensure!(find("host")["migration-safe"] == false, "{}", find("host"));

    let expand = |kind: &str, model: Value| json!({"type": kind, "model": model});
    let with = |props: Value| json!({"name": "qemu64", "props": props});
    expect(
        qmp,
        &[
            (
                "query-cpu-model-expansion",
                expand("static", json!({"name": "nope"})),
                generic("CPU model 'nope' not found"),
            ),
            (
                "query-cpu-model-expansion",
                expand("static", with(json!({"foo": true}))),
                generic("Property 'qemu64-x86_64-cpu.foo' not found"),
            ),
            (
                "query-cpu-model-expansion",
                expand("static", with(json!({"sse2": 3}))),
                generic("Invalid parameter type for 'model.props.sse2', expected: boolean"),
            ),
            (
                "query-cpu-model-expansion",
                expand("nope", json!({"name": "qemu64"})),
                generic("Parameter 'type' does not accept value 'nope'"),
            ),
        ],
    )?;
    let fixed = ask(qmp, "query-cpu-model-expansion", expand("static", json!({"name": "qemu64"})))?;
    let model = &fixed["model"];
    ensure!(model["name"] == "base" && model["props"]["sse2"] == true, "{model}");
    ensure!(model["props"]["min-level"] == 13 && model["props"]["vendor"] == "AuthenticAMD");
    let changed = with(json!({"sse2": false}));
    let full = ask(qmp, "query-cpu-model-expansion", expand("full", changed))?;
    let model = &full["model"];
    ensure!(model["name"] == "qemu64" && model["props"]["sse2"] == false, "{model}");
    ensure!(model["props"]["lahf_lm"] == true && model["props"]["core-id"] == -1, "{model}");
    let host = ask(qmp, "query-cpu-model-expansion", expand("static", json!({"name": "host"})))?;
    ensure!(host["model"]["name"] == "base", "{host}");
    // What becomes of it is decided when a processor is made.
    let max = ask(qmp, "query-cpu-model-expansion", expand("static", json!({"name": "max"})))?;
    let props = &max["model"]["props"];
    ensure!(props["family"] == 0 && props["ht"] == false && props["lm"] == true, "{max}");
    // What a model is, whether or not the accelerator has it.
    let server = json!({"name": "Skylake-Server"});
    let server = ask(qmp, "query-cpu-model-expansion", expand("full", server))?;
    let props = &server["model"]["props"];
    ensure!(props["avx512f"] == true && props["clwb"] == true, "{server}");
    ensure!(props["realized"] == false && props["avx10-version"] == 0, "{server}");
    Ok(())
}

#[test]
fn an_empty_machine_says_what_it_lacks() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    expect(
        vm.qmp(),
        &[
            ("query-cpus-fast", json!({}), json!([])),
            ("query-memdev", json!({}), json!([])),
            (
                "query-memory-size-summary",
                json!({}),
                json!({"base-memory": 0, "plugged-memory": 0}),
            ),
            (
                "query-hotpluggable-cpus",
                json!({}),
                generic("machine does not support hot-plugging CPUs"),
            ),
            (
                "query-acpi-ospm-status",
                json!({}),
                generic("command is not supported, missing ACPI device"),
            ),
            ("query-current-machine", json!({}), json!({"wakeup-suspend-support": false})),
            (
                "system_wakeup",
                json!({}),
                generic("wake-up from suspend is not supported by this guest"),
            ),
            ("inject-nmi", json!({}), generic("machine does not provide NMIs")),
            ("qom-get", json!({"path": "/machine", "property": "type"}), json!("none-machine")),
        ],
    )
}

#[test]
fn machines_and_options_are_listed() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let qmp = vm.qmp();
    let machines = ask(qmp, "query-machines", json!({}))?;
    let find = |name: &str| {
        let mut all = machines.as_array().into_iter().flatten();
        all.find(|machine| machine["name"] == name).cloned().unwrap_or_default()
    };
    let pc = json!({"name": "pc-i440fx-10.0", "alias": "pc", "is-default": true, "cpu-max": 255,
        "hotpluggable-cpus": true, "numa-mem-supported": false, "deprecated": false,
        "default-cpu-type": "qemu64-x86_64-cpu", "default-ram-id": "pc.ram", "acpi": true});
    ensure!(find("pc-i440fx-10.0") == pc, "{}", find("pc-i440fx-10.0"));
    ensure!(find("pc-i440fx-5.0")["numa-mem-supported"] == true);
    let none = json!({"name": "none", "cpu-max": 1, "hotpluggable-cpus": false, "acpi": false,
        "numa-mem-supported": false, "deprecated": false, "default-ram-id": "ram"});
    ensure!(find("none") == none, "{}", find("none"));

    expect(
        qmp,
        &[(
            "query-command-line-options",
            json!({"option": "nope"}),
            generic("invalid option name: nope"),
        )],
    )?;
    for (option, parameter) in
        [("machine", "hpet"), ("sandbox", "spawn"), ("run-with", "async-teardown")]
    {
        let list = ask(qmp, "query-command-line-options", json!({"option": option}))?;
        let mut parameters = list[0]["parameters"].as_array().into_iter().flatten();
        ensure!(parameters.any(|known| known["name"] == parameter), "{option}: {list}");
    }
    Ok(())
}

#[test]
fn objects_and_character_devices_come_and_go() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("saved");
    let file = file.to_str().unwrap_or_default();
    let mut vm = machine(&["-M", "pc", "-m", "16"])?;
    let add = |id: &str, kind: &str, data: Value| json!({"id": id, "backend": {"type": kind, "data": data}});
    let ram =
        |id: &str, size: Value| json!({"qom-type": "memory-backend-ram", "id": id, "size": size});
    let done = || json!({});
    expect(
        vm.qmp(),
        &[
            ("chardev-add", add("a", "null", json!({})), done()),
            (
                "chardev-add",
                add("a", "null", json!({})),
                generic("Chardev with id 'a' already exists"),
            ),
            (
                "chardev-add",
                json!({"id": "b", "backend": {"type": "null"}}),
                generic("Parameter 'backend.data' is missing"),
            ),
            (
                "chardev-add",
                add("b", "nope", json!({})),
                generic("Parameter 'type' does not accept value 'nope'"),
            ),
            (
                "chardev-add",
                add("r", "ringbuf", json!({"size": 100})),
                generic("Failed to add chardev 'r': size of ringbuf chardev must be power of two"),
            ),
            ("chardev-add", add("r", "ringbuf", json!({"size": 128})), done()),
            (
                "chardev-add",
                add("s", "socket", json!({"addr": {"type": "fd", "data": {"str": "no"}}})),
                generic("Failed to add chardev 's': File descriptor named 'no' has not been found"),
            ),
            (
                "chardev-add",
                add(
                    "s",
                    "socket",
                    json!({"server": true, "wait": false,
            "addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}}),
                ),
                done(),
            ),
            (
                "chardev-add",
                add("f", "file", json!({"out": "/nope/f"})),
                generic(
                    "Failed to add chardev 'f': Could not open '/nope/f': No such file or directory",
                ),
            ),
            ("ringbuf-write", json!({"device": "r", "data": "hello"}), done()),
            ("ringbuf-read", json!({"device": "r", "size": 9}), json!("hello")),
            ("chardev-remove", json!({"id": "a"}), done()),
            ("chardev-remove", json!({"id": "a"}), generic("Chardev 'a' not found")),
            ("object-add", ram("m", json!(4096)), done()),
            (
                "object-add",
                ram("m", json!(4096)),
                generic("attempt to add duplicate property 'm' to object (type 'container')"),
            ),
            ("object-add", ram("n", json!("x")), generic("Parameter 'size' expects uint64")),
            (
                "object-add",
                json!({"qom-type": "nope", "id": "n"}),
                generic("Parameter 'qom-type' does not accept value 'nope'"),
            ),
            ("object-add", json!({"id": "n"}), generic("Parameter 'qom-type' is missing")),
            ("object-del", json!({"id": "m"}), done()),
            ("object-del", json!({"id": "m"}), generic("object 'm' not found")),
            (
                "object-del",
                json!({"id": "pc.ram"}),
                generic("object 'pc.ram' is in use, can not be deleted"),
            ),
            ("memsave", json!({"val": 0xffff_fff0u32, "size": 16, "filename": file}), done()),
            (
                "memsave",
                json!({"val": 1u64 << 40, "size": 16, "filename": file}),
                generic("Invalid addr 0x0000010000000000/size 16 specified"),
            ),
            (
                "memsave",
                json!({"val": 0, "size": 1, "filename": file, "cpu-index": 9}),
                generic("Parameter 'cpu-index' expects a CPU number"),
            ),
            (
                "pmemsave",
                json!({"val": 0, "size": 16, "filename": "/nope/x"}),
                generic("Could not open '/nope/x': No such file or directory"),
            ),
            ("pmemsave", json!({"val": 0xffff_fff0u32, "size": 16, "filename": file}), done()),
            ("watchdog-set-action", json!({"action": "pause"}), done()),
            (
                "watchdog-set-action",
                json!({"action": "nope"}),
                generic("Parameter 'action' does not accept value 'nope'"),
            ),
            ("trace-event-get-state", json!({"name": "nope"}), generic("unknown event \"nope\"")),
            ("trace-event-get-state", json!({"name": "nope*"}), json!([])),
        ],
    )?;
    let saved = std::fs::read(file)?;
    // The first instruction of every PC: a far jump.
    ensure!(saved.len() == 16 && saved[0] == 0xea, "{saved:02x?}");
    Ok(())
}
