use std::process::Command as Process;

use cpu::icount::{self, Shift};
use machine::config::*;
use proptest::prelude::*;
use serde_json::json;

use super::table::help_text;
use super::*;

/// Lists that only name themselves.
struct Lists;

impl Catalog for Lists {
    fn nic_models(&self, _: bool) -> String {
        "models\n".into()
    }
    fn machines(&self) -> String {
        "machines\n".into()
    }
    fn machine_props(&self, name: &str) -> Option<String> {
        (name == "pc").then(|| "machine pc\n".into())
    }
    fn cpus(&self) -> String {
        "cpus\n".into()
    }
    fn accels(&self) -> String {
        "accels\n".into()
    }
    fn devices(&self) -> String {
        "devices\n".into()
    }
    fn device_props(&self, driver: &str) -> Option<String> {
        (driver == "e1000").then(|| "e1000 options:\n".into())
    }
    fn objects(&self) -> String {
        "objects\n".into()
    }
    fn object_props(&self, type_name: &str) -> Option<String> {
        (type_name == "iothread").then(|| "iothread options:\n".into())
    }
    fn chardevs(&self) -> String {
        "chardevs\n".into()
    }
    fn log_items(&self) -> String {
        "log items\n".into()
    }
    fn trace_events(&self) -> String {
        "events\n".into()
    }
    fn data_dirs(&self, _: &[String]) -> String {
        "dirs\n".into()
    }
}

/// Standard error, and what is to be done.
fn run(args: &[&str]) -> (String, Option<Command>) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_string()).collect();
    let mut stderr = Vec::new();
    let mut reporter = Reporter::new(&mut stderr);
    let command = match parse(&args, &Lists, &mut reporter) {
        Ok(command) => Some(command),
        Err(error) => {
            reporter.error(&error);
            None
        }
    };
    (String::from_utf8(stderr).unwrap(), command)
}

fn config(args: &[&str]) -> MachineConfig {
    match run(args) {
        (stderr, Some(Command::Run(config))) => {
            assert_eq!(stderr, "", "{args:?}");
            *config
        }
        other => panic!("{args:?}: {other:?}"),
    }
}

fn listing(args: &[&str]) -> Exit {
    match run(args) {
        (_, Some(Command::Exit(exit))) => exit,
        other => panic!("{args:?}: {other:?}"),
    }
}

/// Splits at spaces; `_` stands for an empty argument.
fn split(line: &str) -> Vec<&str> {
    line.split_whitespace().map(|word| if word == "_" { "" } else { word }).collect()
}

/// Command lines that QEMU 10.0.2 refuses, and its words after `qemu-system-x86_64: `.
const REFUSED: &[(&str, &str)] = &[
    ("-nic user,foo=1", "-nic user,foo=1: Invalid parameter 'foo'"),
    ("-nic foo", "-nic foo: Parameter 'type' does not accept value 'foo'"),
    (
        "-nic user,mac=01:00:00:00:00:01",
        "-nic user,mac=01:00:00:00:00:01: NIC cannot have multicast MAC address",
    ),
    ("-nic user,id=a -nic user,id=a", "-nic user,id=a: Duplicate ID 'a' for nic"),
    ("-net nic,name=x", "-net nic,name=x: Invalid parameter 'name'"),
    ("-net nic,help", "-net nic,help: Invalid parameter 'help'"),
    ("-net help", "-net help: Parameter 'type' does not accept value 'help'"),
    (
        "-netdev nic,id=n",
        "-netdev nic,id=n: network backend 'nic' is not compiled into this binary",
    ),
    (
        "-netdev stream,id=s,addr.type=unix,addr.path=p,addr.foo=1",
        "-netdev stream,id=s,addr.type=unix,addr.path=p,addr.foo=1: Parameter 'addr.foo' is unexpected",
    ),
    ("-netdev user", "-netdev user: Parameter 'id' is missing"),
    ("-netdev foo,id=n", "-netdev foo,id=n: Parameter 'type' does not accept value 'foo'"),
    ("-netdev user,id=n -netdev user,id=n", "-netdev user,id=n: Duplicate ID 'n' for netdev"),
    ("-foo", "-foo: invalid option"),
    ("--foo", "--foo: invalid option"),
    ("-", "-: invalid option"),
    ("--", "--: invalid option"),
    ("-m=5", "-m=5: invalid option"),
    ("-version -foo", "-foo: invalid option"),
    ("-soundhw ac97", "-soundhw: invalid option"),
    ("-no-acpi", "-no-acpi: invalid option"),
    ("-machine", "-machine: requires an argument"),
    ("-hda", "-hda: requires an argument"),
    ("--qmp", "--qmp: requires an argument"),
    ("-g 800x600", "-g 800x600: Option not supported for this target"),
    ("-semihosting", "-semihosting: Option not supported for this target"),
    // -machine
    ("-M pc,foo", "-M pc,foo: Expected '=' after parameter 'foo'"),
    ("--machine pc,=x", "--machine pc,=x: Invalid parameter ''"),
    ("-M pc,a.b=1,a=2", "-M pc,a.b=1,a=2: Parameters 'a.*' used inconsistently"),
    ("-M pc,a.0=1,a.2=2", "-M pc,a.0=1,a.2=2: Parameter 'a.1' missing"),
    ("-M pc,smp=3", "Invalid parameter type for 'smp', expected: object"),
    ("-M pc,boot=x", "Invalid parameter type for 'boot', expected: object"),
    ("-M pc,smp.cpus=x", "Parameter 'smp.cpus' expects integer"),
    ("-M pc,smp.cpus.x=1", "Parameters 'smp.cpus.*' are unexpected"),
    ("-M pc,smp.cpus=2,smp.foo=3", "Parameter 'smp.foo' is unexpected"),
    ("-M pc,memory.size=1x", "Parameter 'memory.size' expects size"),
    ("-M pc,boot.order=x", "Invalid boot device 'x'"),
    ("-accel tcg -M accel=tcg", "The -accel and \"-machine accel=\" options are incompatible"),
    ("-enable-kvm -accel tcg", "The -accel and \"-machine accel=\" options are incompatible"),
    ("-cpu _", "-cpu option cannot be empty"),
    (
        "-mem-path /tmp -M memory-backend=x",
        "'-mem-path' can't be used together with'-machine memory-backend'",
    ),
    // -m
    (
        "-m 5x",
        "-m 5x: Parameter 'size' expects a non-negative number below 2^64\n\
         Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
         and exabytes, respectively.",
    ),
    ("-m -5", "-m -5: Value '-5' is out of range for parameter 'size'"),
    ("-m 16E", "-m 16E: Value '16E' is out of range for parameter 'size'"),
    ("-m 0x200", "Parameter 'memory.size' expects size"),
    ("-m 512,foo=1", "-m 512,foo=1: Invalid parameter 'foo'"),
    (
        "-m 512,foo",
        "-m 512,foo: warning: short-form boolean option 'foo' deprecated\n\
         Please use foo=on instead\n\
         qemu-system-x86_64: -m 512,foo: Invalid parameter 'foo'",
    ),
    ("-m 512,slots=x", "-m 512,slots=x: Parameter 'slots' expects a number"),
    ("-m 512,slots=2", "slots specified but no max-size"),
    (
        "-m 512,maxmem=256,slots=1",
        "invalid value of maxmem: maximum memory size (0x100) must be at least the initial memory size (0x20000000)",
    ),
    // -smp
    ("-smp x", "Parameter 'smp.cpus' expects integer"),
    ("-smp foo=1", "Parameter 'smp.foo' is unexpected"),
    ("-smp 2,foo", "-smp 2,foo: Expected '=' after parameter 'foo'"),
    // -name, -uuid
    ("-name a,foo=b", "-name a,foo=b: Invalid parameter 'foo'"),
    (
        "-name foo,debug-threads=maybe",
        "-name foo,debug-threads=maybe: Parameter 'debug-threads' expects 'on' or 'off'",
    ),
    ("-uuid foo", "-uuid foo: failed to parse UUID string: wrong format"),
    // -smbios
    ("-smbios type=5", "-smbios type=5: Don't know how to build fields for SMBIOS type 5"),
    ("-smbios type=foo", "-smbios type=foo: Parameter 'type' expects a number"),
    ("-smbios type=256", "-smbios type=256: out of range!"),
    ("-smbios type=1,foo=2", "-smbios type=1,foo=2: Invalid parameter 'foo'"),
    ("-smbios type=1,uuid=x", "-smbios type=1,uuid=x: Invalid UUID"),
    ("-smbios type=0,release=x", "-smbios type=0,release=x: Invalid release"),
    (
        "-smbios type=0,uefi=maybe",
        "-smbios type=0,uefi=maybe: Parameter 'uefi' expects 'on' or 'off'",
    ),
    (
        "-smbios type=4,max-speed=99999",
        "-smbios type=4,max-speed=99999: SMBIOS CPU speed is too large (> 65535)",
    ),
    (
        "-smbios file=/etc/passwd,type=1",
        "-smbios file=/etc/passwd,type=1: Invalid parameter 'type'",
    ),
    ("-smbios type=1,help", "-smbios type=1,help: Invalid parameter 'help'"),
    ("-smbios _", "-smbios : Must specify type= or file="),
    // -rtc
    (
        "-rtc base=foo",
        "invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'",
    ),
    ("-rtc clock=foo", "invalid option value 'foo'"),
    ("-rtc driftfix=foo", "invalid option value 'foo'"),
    ("-rtc foo=bar", "-rtc foo=bar: Invalid parameter 'foo'"),
    // -boot
    ("-boot order=q", "Invalid boot device 'q'"),
    ("-boot cc", "Boot device 'c' was given twice"),
    ("-boot menu=maybe", "Parameter 'boot.menu' expects 'on' or 'off'"),
    ("-boot splash-time=x", "Parameter 'boot.splash-time' expects integer"),
    ("-boot splash-time=70000", "splash-time is invalid,it should be a value between 0 and 65535"),
    (
        "-boot reboot-timeout=-5",
        "reboot timeout is invalid,it should be a value between -1 and 65535",
    ),
    ("-boot c -boot menu=on,foo=1", "Parameter 'boot.foo' is unexpected"),
    ("-append foo", "-append only allowed with -kernel option"),
    ("-initrd foo", "-initrd only allowed with -kernel option"),
    ("-shim foo", "-shim only allowed with -kernel option"),
    // -fw_cfg
    ("-fw_cfg foo", "-fw_cfg foo: name, plus exactly one of file, string and gen_id, are needed"),
    (
        "-fw_cfg opt/x,file=/etc/passwd,string=y",
        "-fw_cfg opt/x,file=/etc/passwd,string=y: name, plus exactly one of file, string and gen_id, are needed",
    ),
    ("-fw_cfg foo=1", "-fw_cfg foo=1: Invalid parameter 'foo'"),
    (
        "-fw_cfg name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,string=x",
        "-fw_cfg name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,string=x: name too long (max. 55 char)",
    ),
    // -action, -msg, -overcommit, -run-with, -sandbox, -add-fd
    ("-action reboot=x", "-action reboot=x: Parameter 'reboot' does not accept value 'x'"),
    ("-action foo=1", "-action foo=1: Invalid parameter 'foo'"),
    (
        "-watchdog-action foo",
        "-watchdog-action foo: Parameter 'watchdog' does not accept value 'foo'",
    ),
    ("-msg timestamp=maybe", "-msg timestamp=maybe: Parameter 'timestamp' expects 'on' or 'off'"),
    (
        "-overcommit mem-lock=x",
        "-overcommit mem-lock=x: parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'",
    ),
    ("-overcommit cpu-pm=x", "-overcommit cpu-pm=x: Parameter 'cpu-pm' expects 'on' or 'off'"),
    (
        "-run-with async-teardown=x",
        "-run-with async-teardown=x: Parameter 'async-teardown' expects 'on' or 'off'",
    ),
    ("-run-with foo=1", "-run-with foo=1: Invalid parameter 'foo'"),
    ("-sandbox foo", "-sandbox foo: Parameter 'enable' expects 'on' or 'off'"),
    ("-sandbox on,spawn=x", "-sandbox on,spawn=x: invalid argument for spawn"),
    (
        "-sandbox on,elevateprivileges=x",
        "-sandbox on,elevateprivileges=x: invalid argument for elevateprivileges",
    ),
    ("-add-fd fd=x", "-add-fd fd=x: Parameter 'fd' expects a number"),
    ("-add-fd fd=1,set=1", "-add-fd fd=1,set=1: fd cannot be a standard I/O stream"),
    ("-add-fd fd=-1,set=1", "-add-fd fd=-1,set=1: fd option is required and must be non-negative"),
    ("-add-fd set=1", "-add-fd set=1: fd option is required and must be non-negative"),
    // -numa
    ("-numa foo", "-numa foo: Parameter 'type' does not accept value 'foo'"),
    ("-numa _", "-numa : Parameter 'type' is missing"),
    ("-numa node,nodeid=x", "-numa node,nodeid=x: Parameter 'nodeid' expects a uint64 value"),
    ("-numa node,nodeid=200", "-numa node,nodeid=200: Max number of NUMA nodes reached: 200"),
    (
        "-numa node,cpus=3-1",
        "-numa node,cpus=3-1: Parameter 'cpus' expects a uint64 value or range",
    ),
    ("-numa node,mem=x", "-numa node,mem=x: Parameter 'mem' expects a size value"),
    ("-numa node,foo=1", "-numa node,foo=1: Invalid parameter 'foo'"),
    ("-numa node,help", "-numa node,help: Invalid parameter 'help'"),
    ("-numa dist", "-numa dist: Parameter 'src' is missing"),
    // devices and objects
    ("-device _", "-device : Parameter 'driver' is missing"),
    (
        r#"-device {"driver":"e1000""#,
        r#"-device {"driver":"e1000": JSON parse error, premature EOI"#,
    ),
    (r#"-device {"driver":5}"#, r#"-device {"driver":5}: Parameter 'driver' is missing"#),
    (r#"-device {"a":1}x"#, r#"-device {"a":1}x: Expecting at most one JSON value"#),
    (
        "-device e1000,id=1x",
        "-device e1000,id=1x: Parameter 'id' expects an identifier\n\
         Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    ),
    (
        "-device pci-testdev,id=a -device pci-testdev,id=a",
        "-device pci-testdev,id=a: Duplicate ID 'a' for device",
    ),
    ("-object _", "-object : Parameter 'qom-type' is missing"),
    ("-object memory-backend-ram", "-object memory-backend-ram: Parameter 'id' is missing"),
    ("-set foo", "-set foo: can't parse: \"foo\""),
    ("-set foo.a.b=1", "-set foo.a.b=1: There is no option group 'foo'"),
    ("-set device.a.b=1", "-set device.a.b=1: there is no device \"a\" defined"),
    ("-set machine.x.y=1", "-set machine.x.y=1: -set is not supported with machine"),
    ("-chardev null,id=c -set chardev.c.foo=1", "-set chardev.c.foo=1: Invalid parameter 'foo'"),
    (
        "-global foo",
        "-global foo: warning: short-form boolean option 'foo' deprecated\n\
         Please use foo=on instead\n\
         qemu-system-x86_64: -global foo: Invalid parameter 'foo'",
    ),
    (
        "-global driver=x",
        "-global driver=x: options 'driver', 'property', and 'value' are required",
    ),
    ("-global .a=1", "-global .a=1: Invalid parameter '.a'"),
    (
        "-readconfig /no/file",
        "-readconfig /no/file: Could not open '/no/file': No such file or directory",
    ),
    ("-readconfig /tmp", "-readconfig /tmp: Cannot read config file: Is a directory"),
    // chardevs and monitors
    ("-chardev null", "-chardev null: chardev: no id specified"),
    ("-chardev id=a", "-chardev id=a: chardev: \"a\" missing backend"),
    (
        "-chardev null,id=a,mux=maybe",
        "-chardev null,id=a,mux=maybe: Parameter 'mux' expects 'on' or 'off'",
    ),
    ("-chardev null,id=a -chardev null,id=a", "-chardev null,id=a: Duplicate ID 'a' for chardev"),
    ("-mon foo", "-mon foo: chardev \"foo\" not found"),
    ("-mon mode=x", "-mon mode=x: Parameter 'mode' does not accept value 'x'"),
    ("-mon _", "-mon : Parameter 'chardev' is missing"),
    (
        "-chardev null,id=c -mon c,mode=readline,pretty=on",
        "-mon c,mode=readline,pretty=on: 'pretty' is not compatible with HMP monitors",
    ),
    (
        "-parallel null -parallel null -parallel null -parallel null",
        "-parallel null: too many parallel ports",
    ),
    // the process
    (
        "-run-with user=nonexistent",
        "-run-with user=nonexistent: User \"user=nonexistent\" doesn't exist (and is not <uid>:<gid>)",
    ),
    ("-seed 1x", "-seed 1x: Invalid seed number: 1x"),
    ("-seed -1", "-seed -1: Invalid seed number: -1"),
    // counted instructions
    ("-icount shift=11", "-icount shift=11: icount: Invalid shift value"),
    ("-icount shift=3k", "-icount shift=3k: icount: Invalid shift value"),
    ("-icount AUTO", "-icount AUTO: icount: Invalid shift value"),
    ("-icount foo=1", "-icount foo=1: Invalid parameter 'foo'"),
    (
        "-icount align=on,sleep=off",
        "-icount align=on,sleep=off: Please specify shift option when using align",
    ),
    (
        "-icount shift=3,sleep=off,align=on",
        "-icount shift=3,sleep=off,align=on: align=on and sleep=off are incompatible",
    ),
    (
        "-icount 3 -icount sleep=off -icount align=on",
        "-icount 3: align=on and sleep=off are incompatible",
    ),
    (
        "-icount shift=3,align=maybe",
        "-icount shift=3,align=maybe: Parameter 'align' expects 'on' or 'off'",
    ),
    ("-icount rr=foo,shift=3", "-icount rr=foo,shift=3: Invalid icount rr option: foo"),
    // displays, networks, logs
    ("-display vnc", "-display vnc: VNC requires a display argument vnc=<display>"),
    ("-vnc :0,bogus=1", "-vnc :0,bogus=1: Invalid parameter 'bogus'"),
    ("-vnc :0,lossy=x", "-vnc :0,lossy=x: Parameter 'lossy' expects 'on' or 'off'"),
    ("-display foo", "-display foo: Parameter 'type' does not accept value 'foo'"),
    ("-display none,foo=1", "-display none,foo=1: Parameter 'foo' is unexpected"),
    ("-display none,help", "-display none,help: Help is not available for this option"),
    ("-display _", "-display : Parameter 'type' is missing"),
    ("-vga foo", "unknown vga type: foo"),
    ("-net _", "-net : Parameter 'type' is missing"),
    ("-dfilter 5", "-dfilter 5: Bad range specifier"),
    ("-trace foo=1", "-trace foo=1: Invalid parameter 'foo'"),
    (
        "-name gg -msg guest-name=on -parallel null -parallel null -parallel null -parallel null",
        "-parallel null: too many parallel ports",
    ),
];

#[test]
fn what_qemu_refuses() {
    for (line, message) in REFUSED {
        let (stderr, command) = run(&split(line));
        let plain = stderr.strip_prefix("gg ").unwrap_or(&stderr);
        assert_eq!(plain, format!("qemu-system-x86_64: {message}\n"), "{line}");
        assert!(command.is_none(), "{line}: {command:?}");
    }
}

/// The recorded texts against those of an installed QEMU of the same release.
#[test]
fn qemu_says_the_same() {
    let version = Process::new("qemu-system-x86_64").arg("-version").output();
    let version = version
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if !version.starts_with("QEMU emulator version 10.0.") || version.contains("Rhea") {
        return;
    }
    for (line, _) in REFUSED {
        let mut args = vec!["-display", "none", "-nodefaults", "-S"];
        args.extend(split(line));
        let qemu = Process::new("qemu-system-x86_64").args(&args).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&qemu.stderr), run(&split(line)).0, "{line}");
        assert_eq!(qemu.status.code(), Some(1), "{line}");
    }
}

#[test]
fn what_this_build_lacks_is_named() {
    for (line, message) in [
        ("-sd x", "-sd x: this kind of drive is not available in this build"),
        ("-display gtk", "Display 'gtk' is not available."),
        ("-display curses -daemonize", "curses display cannot be used with -daemonize"),
        (
            "-icount 1,rr=record,rrfile=a",
            "-icount 1,rr=record,rrfile=a: record/replay is not available in this build",
        ),
        ("-spice port=1", "-spice port=1: displays are not available in this build"),
    ] {
        assert_eq!(run(&split(line)).0, format!("qemu-system-x86_64: {message}\n"), "{line}");
    }
}

#[test]
fn instructions_are_counted_if_a_shift_is_named() {
    let given = |line: &str| config(&split(line)).icount.map(|icount| icount.value);
    let options = |shift, align, sleep| Some(icount::Options { shift, align, sleep });
    for (line, expected) in [
        ("-icount sleep=off", None),
        ("-icount 0x3", options(Shift::Fixed(3), false, true)),
        ("-icount shift=auto,align=on", options(Shift::Auto, true, true)),
        ("-icount 99 -icount sleep=off -icount 10", options(Shift::Fixed(10), false, false)),
    ] {
        assert_eq!(given(line), expected, "{line}");
    }
}

#[test]
fn the_web_console_is_a_display_too() {
    let given = |line: &str| -> Vec<_> {
        let webs = config(&split(line)).webs;
        webs.into_iter().map(|web| web.value.entries).collect()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    for (line, expected) in [
        ("-display web", vec![]),
        ("-display web=:80,lossy=on", vec![pair("web", ":80"), pair("lossy", "on")]),
        ("-display web,port=80", vec![pair("port", "80")]),
        ("-web :80,lossy=on", vec![pair("web", ":80"), pair("lossy", "on")]),
    ] {
        assert_eq!(given(line), [expected], "{line}");
    }
    assert_eq!(given("-web :1 -display web=:2").len(), 2);
    for (line, message) in [
        ("-display web,bogus=1", "-display web,bogus=1: Invalid parameter 'bogus'"),
        ("-display webcam", "-display webcam: Parameter 'type' does not accept value 'webcam'"),
        ("-web :1,lossy=x", "-web :1,lossy=x: Parameter 'lossy' expects 'on' or 'off'"),
    ] {
        assert_eq!(run(&split(line)).0, format!("qemu-system-x86_64: {message}\n"), "{line}");
    }
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(config(&[]), MachineConfig::default());
    assert_eq!(
        config(&split("-display none -no-user-config -msg _ -rtc _ -boot _")),
        MachineConfig { display: Display::None, ..MachineConfig::default() }
    );
}

#[test]
fn the_machine() {
    let config = config(&split(
        "-M pc,usb=off,max_ram_below_4g=2G -machine smm=on -usb -smp 4,sockets=2 -smp cores=2 \
         -m 1G,slots=2 -m maxmem=4G -cpu qemu64,+sse -accel kvm -accel tcg,thread=multi \
         -name a,process=p -name b -uuid 324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
    ));
    assert_eq!(config.machine.as_deref(), Some("pc"));
    let props = json!({"usb": "on", "max-ram-below-4g": "2G", "smm": "on"});
    assert_eq!(serde_json::Value::Object(config.machine_props), props);
    let smp = SmpConfig { cpus: Some(4), sockets: Some(2), cores: Some(2), ..SmpConfig::default() };
    assert_eq!(config.smp, smp);
    let memory = MemoryConfig {
        size: Some(1 << 30),
        slots: 2,
        max: Some(4 << 30),
        ..MemoryConfig::default()
    };
    assert_eq!(config.memory, memory);
    assert_eq!(config.cpu.as_deref(), Some("qemu64,+sse"));
    let accels: Vec<_> =
        config.accels.iter().map(|a| (a.value.name.as_str(), a.value.props.len())).collect();
    assert_eq!(accels, [("kvm", 0), ("tcg", 1)]);
    assert_eq!(
        (config.identity.name.as_deref(), config.identity.process.as_deref()),
        (Some("b"), Some("p"))
    );
    assert!(config.identity.uuid.is_some());
}

#[test]
fn memory_sizes() {
    for (text, size) in [
        ("512", Some(512 << 20)),
        ("1.5G", Some(3 << 29)),
        ("7b", Some(7)),
        ("size=64M", Some(64 << 20)),
        ("0", None),
        ("", None),
    ] {
        assert_eq!(config(&["-m", text]).memory.size, size, "{text}");
    }
}

#[test]
fn accelerators_by_machine() {
    let config = config(&split("-M accel=kvm:tcg,kernel-irqchip=split"));
    let split_irqchip = vec![("kernel-irqchip".to_string(), "split".to_string())];
    let accels: Vec<_> = config.accels.into_iter().map(|accel| accel.value).collect();
    let accel = |name: &str, props| AccelConfig { name: name.into(), props };
    assert_eq!(accels, [accel("kvm", split_irqchip), accel("tcg", Vec::new())]);
}

#[test]
fn devices_keep_their_form_and_place() {
    let config = config(&[
        "-device",
        "isa-debug-exit,id=x,iobase=0x502",
        "-device",
        r#"{"driver":"pvpanic","id":"y","events":3}"#,
        "-set",
        "device.x.iosize=4",
        "-global",
        "isa-debug-exit.iobase=1,2",
    ]);
    let [first, second] = &config.devices[..] else { panic!("{:?}", config.devices) };
    assert_eq!(
        first.origin,
        Origin::CommandLine("-device isa-debug-exit,id=x,iobase=0x502".into())
    );
    let entry = |key: &str, value: &str| (key.to_string(), value.to_string());
    assert_eq!(
        first.value.props,
        PropList::Text(vec![entry("iobase", "0x502"), entry("iosize", "4")])
    );
    assert_eq!((second.value.driver.as_str(), second.value.id.as_deref()), ("pvpanic", Some("y")));
    assert_eq!(
        second.value.props,
        PropList::Json(json!({"events": 3}).as_object().unwrap().clone())
    );
    assert_eq!(config.globals[0].value, "1,2");
}

#[test]
fn clocks() {
    for (text, base) in [
        ("base=utc", RtcBase::Utc),
        ("base=utc,base=localtime", RtcBase::Localtime),
        ("base=1970-01-01", RtcBase::At(0)),
        ("base=2006-06-17T16:01:21", RtcBase::At(1_150_560_081)),
        ("base=2000-02-29", RtcBase::At(951_782_400)),
        ("base=2020-13-01", RtcBase::At(1_609_459_200)),
        ("base=1900-01-01", RtcBase::At(-2_208_988_800)),
    ] {
        assert_eq!(config(&["-rtc", text]).rtc.base, base, "{text}");
    }
    let rtc = config(&split("-rtc clock=vm -rtc driftfix=slew")).rtc;
    assert_eq!(rtc, RtcConfig { base: RtcBase::Utc, clock: RtcClock::Virtual, slew: true });
}

#[test]
fn the_rest() {
    let config = config(&split(
        "-boot order=dc,menu=on -boot once=n,strict=on -kernel k -append x=1 -initrd i -bios b -L p -L q \
         -no-reboot -action panic=none -watchdog-action pause -S -nodefaults -vga none -nic none \
         -chardev null,id=c -mon c,mode=control,pretty=on -qmp unix:/s -monitor none -serial null \
         -sandbox on,obsolete=allow,spawn=deny -add-fd fd=3,set=1,opaque=o -overcommit mem-lock=on-fault \
         -run-with user=nobody,chroot=/var -daemonize -pidfile f -d int -D l -trace a* -qtest unix:/q \
         -numa node,cpus=0-1,cpus=3,memdev=m -numa dist,src=0,dst=1,val=20 \
         -smbios type=1,serial=s -smbios file=t -fw_cfg opt/a,string=b -mem-path /m -mem-prealloc -echr 0x102",
    ));
    let boot = BootConfig {
        order: Some("dc".into()),
        once: Some("n".into()),
        menu: Some(true),
        strict: true,
        ..BootConfig::default()
    };
    assert_eq!(config.boot, boot);
    assert_eq!(config.kernel.append.as_deref(), Some("x=1"));
    assert_eq!(config.data_dirs, ["p", "q"]);
    let actions = Actions {
        reboot: OnReboot::Shutdown,
        shutdown: OnShutdown::Poweroff,
        panic: OnPanic::None,
        watchdog: OnWatchdog::Pause,
    };
    assert_eq!(config.actions, actions);
    assert!(
        config.start_paused
            && config.no_defaults
            && config.networks.given
            && config.process.daemonize
    );
    let targets: Vec<_> =
        config.monitors.iter().map(|m| (&m.value.target, m.value.control)).collect();
    let device = |text: &str| MonitorTarget::Device(text.into());
    assert_eq!(
        targets,
        [
            (&MonitorTarget::Chardev("c".into()), true),
            (&device("unix:/s"), true),
            (&device("none"), false)
        ]
    );
    let sandbox = Sandbox { deny_spawn: true, ..Sandbox::default() };
    assert_eq!(config.process.sandbox, Some(sandbox));
    assert_eq!(config.process.fds, [AddFd { fd: 3, set: 1, opaque: Some("o".into()) }]);
    assert_eq!(config.overcommit.mem_lock, MemLock::OnFault);
    let ranges = vec![CpuRange { first: 0, last: 1 }, CpuRange { first: 3, last: 3 }];
    let node = NumaOption::Node {
        id: None,
        cpus: ranges,
        memory: None,
        memdev: Some("m".into()),
        initiator: None,
    };
    assert_eq!(config.numa[0].value, node);
    assert_eq!(config.numa[1].value, NumaOption::Distance { from: 0, to: 1, value: 20 });
    let entry = FwCfgEntry { name: "opt/a".into(), source: FwCfgSource::Text("b".into()) };
    assert_eq!(config.fw_cfg[0].value, entry);
    assert_eq!(config.escape_char, Some(2));
    assert!(config.memory.prealloc);
}

#[test]
fn help_as_a_value() {
    for (line, output) in [
        ("-M help", "machines\n"),
        ("-machine ?", "machines\n"),
        ("-M pc,help", "machine pc\n"),
        ("-M foo,help", "machines\n"),
        ("-cpu help", "cpus\n"),
        ("-accel help", "accels\n"),
        ("-device help", "devices\n"),
        ("-device e1000,help", "e1000 options:\n"),
        ("-object help", "objects\n"),
        ("-object iothread,?", "iothread options:\n"),
        ("-chardev help", "chardevs\n"),
        ("-d help", "log items\n"),
        ("-trace help", "events\n"),
        ("-L help", "dirs\n"),
        ("-cpu help -device help", "cpus\n"),
    ] {
        assert_eq!(listing(&split(line)), Exit { status: 0, output: output.into() }, "{line}");
    }
    let (stderr, command) = run(&split("-device foo,help"));
    assert_eq!(stderr, "qemu-system-x86_64: -device foo,help: Device 'foo' not found\n");
    assert!(matches!(command, Some(Command::Exit(Exit { status: 0, .. }))));
    let keys = listing(&split("-m 512,help"));
    assert_eq!(keys.status, 1);
    assert_eq!(keys.output, "memory options:\n  maxmem=<size>\n  size=<size>\n  slots=<num>\n");
}

#[test]
fn messages_heed_msg() {
    let (stderr, _) =
        run(&split("-name gg -msg guest-name=on,timestamp=on -fw_cfg x,string=y -cpu _"));
    let lines: Vec<&str> = stderr.lines().collect();
    for (line, text) in lines.iter().zip([
        "gg qemu-system-x86_64: -fw_cfg x,string=y: warning: externally provided fw_cfg item names should be prefixed with \"opt/\"",
        "gg qemu-system-x86_64: -cpu option cannot be empty",
    ]) {
        let (timestamp, rest) = line.split_once("Z ").unwrap();
        assert_eq!(timestamp.len(), "2026-11-21T04:33:04.978107".len());
        assert_eq!(rest, text);
    }
    assert_eq!(lines.len(), 2);
}

#[test]
fn configuration_files() {
    let file = std::env::temp_dir().join(format!("readconfig-{}.cfg", std::process::id()));
    let name = file.to_str().unwrap().to_string();
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(&["-readconfig", &name])
    };

    let good = "[device \"x\"]\n driver = \"pvpanic\"\n[machine]\n type = \"pc\"\n smp.cpus = \"2\"\n[memory]\n size = \"1G\"\n";
    let (stderr, command) = read(good);
    let Some(Command::Run(config)) = command else { panic!("{stderr}") };
    assert_eq!(config.devices[0].origin, Origin::File { name: name.clone(), line: 2 });
    assert_eq!(config.machine.as_deref(), Some("pc"));
    assert_eq!((config.smp.cpus, config.memory.size), (Some(2), Some(1 << 30)));

    for (text, message) in [
        ("[foo]\n", format!(": -readconfig {name}: There is no option group 'foo'")),
        ("a = \"b\"\n", format!(": -readconfig {name}: no group defined")),
        ("[name]\n foo = \"y\"\n", format!(": -readconfig {name}: Invalid parameter 'foo'")),
        ("[device \"a\"]\n foo = \"bar\"\n", format!(":{name}:2: Parameter 'driver' is missing")),
        ("[device \"a\"]\n", ": Parameter 'driver' is missing".into()),
    ] {
        assert_eq!(read(text).0, format!("qemu-system-x86_64{message}\n"), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn the_table_is_sound() {
    let help = help_text();
    let options = command_line_options();
    let groups: Vec<&str> = options.iter().map(|group| group["option"].as_str().unwrap()).collect();
    for group in
        ["machine", "memory", "smp-opts", "boot-opts", "chardev", "device", "mon", "sandbox"]
    {
        assert!(groups.contains(&group), "{group}");
    }
    let mut unique = groups.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), groups.len());
    assert!(help.contains("\n-S              do not start the CPUs\n"));
    assert!(!help.contains("-spice"));
}

/// Pieces that arguments are made of.
const PIECES: &[&str] = &[
    "help",
    "?",
    "=",
    ",",
    ",,",
    ".",
    "0",
    "-1",
    "id",
    "a",
    "node",
    "type",
    "size",
    "4G",
    "on",
    "cpus",
    "null",
    "{",
    "}",
    "\"",
    ":",
    "\u{e9}",
    "base",
    "2020-01-01",
    "99999999999999999999",
    "none",
    "smp",
    "boot",
];

fn argument() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever is typed is a machine, a list, or an error with a message.
    #[test]
    fn any_command_line_is_answered(
        given in prop::collection::vec((prop::sample::select(table::names()), argument()), 0..4),
    ) {
        let given = given.iter().filter(|(name, _)| *name != "readconfig");
        let args: Vec<String> = given.flat_map(|(name, arg)| [format!("-{name}"), arg.clone()]).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (stderr, command) = run(&args);
        prop_assert!(command.is_some() || stderr.starts_with("qemu-system-x86_64: ") || stderr.contains(" qemu-system-x86_64: "));
    }
}
