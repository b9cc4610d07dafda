//! The machine: type, accelerator, CPUs, memory, devices, objects.

use base::options::config::{GLOBAL, GlobalProp, SetOption};
use base::options::{Opts, check_id, is_help, json};
use base::props::Uuid;
use machine::config::{
    AccelConfig, ConfigError, DeviceConfig, Located, ObjectConfig, Origin, PropList,
};
use serde_json::{Map, Value};

use super::table::{self, CliOption};
use super::{Builder, Done, Exit, Stop, fault, groups, numa, readconfig, take_bool, take_text};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::flag(&["h", "help"], "print this help and exit", |_| {
        Err(Stop::Exit(Exit::listing(table::help_text())))
    }),
    CliOption::flag(&["version"], "print the version and exit", |_| {
        Err(Stop::Exit(Exit::listing(table::version_text())))
    }),
    CliOption::text(
        &["M", "machine"],
        "[type=]name[,prop=value[,...]]",
        "select the machine and set its properties ('-machine help' lists machines,\n\
         '-machine name,help' properties); accel=a:b names accelerators to try",
        machine,
    )
    .with_group(&groups::MACHINE),
    CliOption::text(&["cpu"], "model[,feature...]", "select the CPU ('-cpu help' lists models)", cpu),
    CliOption::opts(
        &["accel"],
        "[accel=]name[,prop=value[,...]]",
        "run the guest by this accelerator ('-accel help' lists them); given more\n\
         than once, the first that works is used",
        &groups::ACCEL,
        accel,
    )
    .with_first_look(accel_help),
    CliOption::flag(&["enable-kvm"], "same as -machine accel=kvm", |builder| {
        builder.set_machine("accel", "kvm");
        Ok(())
    }),
    CliOption::text(
        &["smp"],
        "[[cpus=]n][,maxcpus=n][,sockets=n][,dies=n][,modules=n][,cores=n][,threads=n]",
        "set the number of CPUs and their topology; missing numbers follow from the rest",
        smp,
    )
    .with_group(&groups::SMP),
    CliOption::opts(
        &["m"],
        "[size=]megs[,slots=n,maxmem=size]",
        "set the size of memory, and how much can be added in how many slots",
        &groups::MEMORY,
        memory,
    ),
    CliOption::text(&["mem-path"], "FILE", "back memory by a file, or by one in this directory", |b, text, _| {
        b.config.memory.path = Some(text.into());
        Ok(())
    }),
    CliOption::flag(&["mem-prealloc"], "allocate memory before the guest runs", |builder| {
        builder.config.memory.prealloc = true;
        Ok(())
    }),
    CliOption::text(
        &["numa"],
        "node[,memdev=id][,cpus=first[-last]][,nodeid=n] | dist,src=n,dst=n,val=n | cpu,node-id=n[,socket-id=n][,core-id=n][,thread-id=n]",
        "declare a NUMA node, the distance of two, or the node of CPUs",
        numa::numa,
    )
    .with_group(&groups::NUMA),
    CliOption::text(
        &["device"],
        "driver[,prop=value[,...]]",
        "add a device ('-device help' lists drivers, '-device driver,help' properties)",
        device,
    )
    .with_group(&groups::DEVICE),
    CliOption::text(
        &["object"],
        "type,id=id[,prop=value[,...]]",
        "create an object, such as a memory backend ('-object help' lists types)",
        object,
    )
    .with_group(&groups::OBJECT),
    CliOption::text(
        &["global"],
        "driver.prop=value | driver=d,property=p,value=v",
        "set a property's default for all devices of a type",
        global,
    )
    .with_group(&GLOBAL),
    CliOption::text(&["set"], "group.id.arg=value", "change an argument of an option given before", set),
    CliOption::text(&["readconfig"], "FILE", "read options from a file", readconfig::readconfig),
    CliOption::flag(&["no-user-config"], "do not read the user's configuration (none is ever read)", |_| Ok(())),
    CliOption::flag(&["nodefaults"], "do not add default devices", |builder| {
        builder.config.no_defaults = true;
        Ok(())
    }),
    CliOption::opts(
        &["name"],
        "[guest=]name[,process=name][,debug-threads=on|off]",
        "name the guest, the process, and threads",
        &groups::NAME,
        name,
    ),
    CliOption::text(&["uuid"], "uuid", "set the machine's UUID", |builder, text, origin| {
        match Uuid::parse(text) {
            Some(uuid) => {
                builder.config.identity.uuid = Some(uuid);
                Ok(())
            }
            None => fault(origin, "failed to parse UUID string: wrong format"),
        }
    }),
];

fn machine(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    builder.merge_machine(text, Some("type"), origin)
}

fn smp(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let tree =
        base::options::Keyval::parse(text, Some("cpus")).or_else(|error| fault(origin, error))?;
    if tree.help {
        builder.list(groups::SMP.help_text());
    }
    merge_object(builder, "smp", tree.tree);
    Ok(())
}

/// Lays members over the object `key` of the machine's tree.
fn merge_object(builder: &mut Builder<'_, '_>, key: &str, members: Map<String, Value>) {
    let tree = [(key.to_string(), Value::Object(members))].into_iter().collect();
    builder.machine.merge(base::options::Keyval { tree, help: false });
}

fn memory(builder: &mut Builder<'_, '_>, opts: Opts, _: &Origin) -> Done {
    let mut members = Map::new();
    if let Some(size) = opts.get("size").filter(|size| !size.is_empty()) {
        let unit = if size.ends_with(|c: char| c.is_ascii_digit()) { "M" } else { "" };
        members.insert("size".into(), format!("{size}{unit}").into());
    }
    for (key, member) in [("slots", "slots"), ("maxmem", "max-size")] {
        if let Some(value) = opts.get(key) {
            members.insert(member.into(), value.into());
        }
    }
    merge_object(builder, "memory", members);
    Ok(())
}

/// `-boot`, which is a part of the machine too.
pub(super) fn boot(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if is_help(text) {
        builder.list(groups::BOOT.help_text());
        return Ok(());
    }
    let parsed =
        base::options::Keyval::parse(text, Some("order")).or_else(|error| fault(origin, error))?;
    merge_object(builder, "boot", parsed.tree);
    Ok(())
}

fn cpu(builder: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Done {
    if is_help(text) {
        let cpus = builder.catalog.cpus();
        builder.list(cpus);
    }
    builder.config.cpu = Some(text.into());
    Ok(())
}

fn accel_help(builder: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Result<bool, Stop> {
    let first = text.split(',').next().unwrap_or_default();
    if first.is_empty() || is_help(first.strip_prefix("accel=").unwrap_or(first)) {
        return Err(Stop::Exit(Exit::listing(builder.catalog.accels())));
    }
    Ok(false)
}

fn accel(builder: &mut Builder<'_, '_>, mut opts: Opts, origin: &Origin) -> Done {
    let Some(name) = opts.take("accel") else {
        return fault(origin, "Parameter 'accel' is missing");
    };
    builder.config.accels.push(Located::new(AccelConfig { name, props: opts.entries }, origin));
    Ok(())
}

fn device(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if text.starts_with('{') {
        let mut props = json_object(text, origin)?;
        let Some(Value::String(driver)) = props.shift_remove("driver") else {
            return fault(origin, "Parameter 'driver' is missing");
        };
        let id = take_json_text(&mut props, "id", origin)?;
        let bus = take_json_text(&mut props, "bus", origin)?;
        let device = DeviceConfig { driver, id, bus, props: PropList::Json(props) };
        return add_device(builder, device, origin);
    }
    let parsed = builder.parse_opts(Some("driver"), text, origin)?;
    match parsed.opts.get("driver") {
        Some(driver) if is_help(driver) => {
            let devices = builder.catalog.devices();
            builder.list(devices);
            Ok(())
        }
        Some(driver) if parsed.help => match builder.catalog.device_props(driver) {
            Some(props) => {
                builder.list(props);
                Ok(())
            }
            // A message, and yet a success, as in QEMU.
            None => {
                builder
                    .reporter
                    .error(&ConfigError::at(origin, format!("Device '{driver}' not found")));
                builder.list("");
                Ok(())
            }
        },
        _ => device_opts(builder, parsed.opts, origin),
    }
}

pub(super) fn device_opts(builder: &mut Builder<'_, '_>, mut opts: Opts, origin: &Origin) -> Done {
    let Some(driver) = opts.take("driver").filter(|driver| !driver.is_empty() || opts.id.is_some())
    else {
        return fault(origin, "Parameter 'driver' is missing");
    };
    let bus = opts.take("bus");
    let device = DeviceConfig { driver, id: opts.id, bus, props: PropList::Text(opts.entries) };
    add_device(builder, device, origin)
}

fn add_device(builder: &mut Builder<'_, '_>, device: DeviceConfig, origin: &Origin) -> Done {
    let devices = &mut builder.config.devices;
    if let Some(id) = &device.id
        && devices.iter().any(|other| other.value.id.as_ref() == Some(id))
    {
        return fault(origin, format!("Duplicate ID '{id}' for device"));
    }
    devices.push(Located::new(device, origin));
    Ok(())
}

fn object(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if text.starts_with('{') {
        let mut props = json_object(text, origin)?;
        let type_name = take_json_text(&mut props, "qom-type", origin)?;
        let id = take_json_text(&mut props, "id", origin)?;
        return add_object(builder, type_name, id, PropList::Json(props), origin);
    }
    let parsed = builder.parse_opts(Some("qom-type"), text, origin)?;
    match parsed.opts.get("qom-type") {
        Some(type_name) if is_help(type_name) => {
            let objects = builder.catalog.objects();
            builder.list(objects);
            Ok(())
        }
        Some(type_name) if parsed.help => match builder.catalog.object_props(type_name) {
            Some(props) => {
                builder.list(props);
                Ok(())
            }
            None => {
                fault(origin, format!("Parameter 'qom-type' does not accept value '{type_name}'"))
            }
        },
        _ => object_opts(builder, parsed.opts, origin),
    }
}

pub(super) fn object_opts(builder: &mut Builder<'_, '_>, mut opts: Opts, origin: &Origin) -> Done {
    let type_name = opts.take("qom-type");
    add_object(builder, type_name, opts.id, PropList::Text(opts.entries), origin)
}

fn add_object(
    builder: &mut Builder<'_, '_>,
    type_name: Option<String>,
    id: Option<String>,
    props: PropList,
    origin: &Origin,
) -> Done {
    let Some(type_name) = type_name else {
        return fault(origin, "Parameter 'qom-type' is missing");
    };
    let Some(id) = id else {
        return fault(origin, "Parameter 'id' is missing");
    };
    check_id(&id).or_else(|error| fault(origin, error))?;
    builder.config.objects.push(Located::new(ObjectConfig { type_name, id, props }, origin));
    Ok(())
}

pub(super) fn json_object(text: &str, origin: &Origin) -> Result<Map<String, Value>, Stop> {
    match json::parse(text) {
        Ok(Value::Object(members)) => Ok(members),
        // The text begins with a brace.
        Ok(_) => fault(origin, "JSON parse error, expecting value"),
        Err(error) => fault(origin, error),
    }
}

fn take_json_text(
    members: &mut Map<String, Value>,
    key: &str,
    origin: &Origin,
) -> Result<Option<String>, Stop> {
    match members.shift_remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => fault(origin, format!("Invalid parameter type for '{key}', expected: string")),
    }
}

fn global(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if let Some(global) = GlobalProp::parse_short(text) {
        builder.config.globals.push(global);
        return Ok(());
    }
    let opts = builder.parse_group(&GLOBAL, text, origin)?;
    global_opts(builder, opts, origin)
}

pub(super) fn global_opts(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    match GlobalProp::from_opts(&opts) {
        Some(global) => {
            builder.config.globals.push(global);
            Ok(())
        }
        None => fault(origin, "options 'driver', 'property', and 'value' are required"),
    }
}

fn set(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let Some(SetOption { group, id, key, value }) = SetOption::parse(text) else {
        return fault(origin, format!("can't parse: \"{text}\""));
    };
    let Some((keys, _)) = table::find_group(&group) else {
        return fault(origin, format!("There is no option group '{group}'"));
    };
    let missing = || fault(origin, format!("there is no {group} \"{id}\" defined"));
    let config = &mut builder.config;
    match group.as_str() {
        "device" => {
            let named =
                config.devices.iter_mut().find(|device| device.value.id.as_ref() == Some(&id));
            // One given as JSON is not known to the option group.
            let Some(Located { value: DeviceConfig { props: PropList::Text(props), .. }, .. }) =
                named
            else {
                return missing();
            };
            props.push((key, value));
        }
        "object" => {
            let named = config.objects.iter_mut().find(|object| object.value.id == id);
            let Some(Located { value: ObjectConfig { props: PropList::Text(props), .. }, .. }) =
                named
            else {
                return missing();
            };
            props.push((key, value));
        }
        "chardev" => {
            let named =
                config.chardevs.iter_mut().find(|chardev| chardev.value.id.as_ref() == Some(&id));
            let Some(chardev) = named else { return missing() };
            keys.check_entry(&key, &value).or_else(|error| fault(origin, error))?;
            chardev.value.set(&key, value);
        }
        "drive" => {
            let named = config.drives.iter_mut().find(|d| d.value.opts.id.as_ref() == Some(&id));
            let Some(drive) = named else { return missing() };
            drive.value.opts.set(&key, value);
        }
        "machine" => return fault(origin, "-set is not supported with machine"),
        _ => return missing(),
    }
    Ok(())
}

fn name(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let identity = &mut builder.config.identity;
    take_text(&opts, "guest", &mut identity.name);
    take_text(&opts, "process", &mut identity.process);
    take_bool(&opts, "debug-threads", &mut identity.debug_threads, origin)
}
