//! Character devices, the ports they serve, and monitors.

use base::options::{Opts, is_help};
use machine::config::{Located, MonitorConfig, MonitorTarget, Origin};

use super::table::CliOption;
use super::{Builder, Done, Stop, fault, groups, take_bool};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::opts(
        &["chardev"],
        "backend,id=id[,key=value[,...]]",
        "define a character device ('-chardev help' lists backends)",
        &groups::CHARDEV,
        chardev,
    )
    .with_first_look(chardev_help),
    CliOption::text(
        &["serial"],
        "dev",
        "connect the next serial port to a character device",
        |b, text, o| {
            b.config.serials.push(Located::new(text.into(), o));
            Ok(())
        },
    ),
    CliOption::text(
        &["parallel"],
        "dev",
        "connect the next parallel port to a character device",
        parallel,
    ),
    CliOption::text(
        &["debugcon"],
        "dev",
        "connect the debug console to a character device",
        |b, text, o| {
            b.config.debugcons.push(Located::new(text.into(), o));
            Ok(())
        },
    ),
    CliOption::text(
        &["monitor"],
        "dev",
        "connect the human monitor to a character device",
        |b, text, o| monitor(b, text, o, false, false),
    ),
    CliOption::text(
        &["qmp"],
        "dev",
        "connect a QMP monitor to a character device",
        |b, text, o| monitor(b, text, o, true, false),
    ),
    CliOption::text(&["qmp-pretty"], "dev", "same as -qmp, with indented JSON", |b, text, o| {
        monitor(b, text, o, true, true)
    }),
    CliOption::opts(
        &["mon"],
        "[chardev=]id[,mode=readline|control][,pretty=on|off]",
        "connect a monitor to a -chardev",
        &groups::MON,
        mon,
    ),
    CliOption::text(
        &["echr"],
        "chr",
        "set the escape character of multiplexed terminals (ctrl-a is 1)",
        echr,
    ),
];

/// Parallel ports of a PC.
const PARALLEL_PORTS: usize = 3;

fn chardev_help(builder: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Result<bool, Stop> {
    let first = text.split(',').next().unwrap_or_default();
    let help = is_help(first);
    if help {
        let chardevs = builder.catalog.chardevs();
        builder.list(chardevs);
    }
    Ok(help)
}

fn chardev(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let Some(id) = &opts.id else {
        return fault(origin, "chardev: no id specified");
    };
    if opts.get("backend").is_none() {
        return fault(origin, format!("chardev: \"{id}\" missing backend"));
    }
    let chardevs = &mut builder.config.chardevs;
    if chardevs.iter().any(|other| other.value.id.as_ref() == Some(id)) {
        return fault(origin, format!("Duplicate ID '{id}' for chardev"));
    }
    chardevs.push(Located::new(opts, origin));
    Ok(())
}

fn parallel(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let parallels = &mut builder.config.parallels;
    if parallels.len() == PARALLEL_PORTS {
        return fault(origin, "too many parallel ports");
    }
    parallels.push(Located::new(text.into(), origin));
    Ok(())
}

fn monitor(
    builder: &mut Builder<'_, '_>,
    text: &str,
    origin: &Origin,
    control: bool,
    pretty: bool,
) -> Done {
    let monitor = MonitorConfig { target: MonitorTarget::Device(text.into()), control, pretty };
    builder.config.monitors.push(Located::new(monitor, origin));
    Ok(())
}

fn mon(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let control = match opts.get("mode") {
        None | Some("readline") => false,
        Some("control") => true,
        Some(mode) => {
            return fault(origin, format!("Parameter 'mode' does not accept value '{mode}'"));
        }
    };
    let Some(chardev) = opts.get("chardev") else {
        return fault(origin, "Parameter 'chardev' is missing");
    };
    let mut pretty = false;
    take_bool(&opts, "pretty", &mut pretty, origin)?;
    let monitor = MonitorConfig { target: MonitorTarget::Chardev(chardev.into()), control, pretty };
    builder.config.monitors.push(Located::new(monitor, origin));
    Ok(())
}

fn echr(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    match base::options::number::parse_int(text) {
        // Higher bits are dropped, as in QEMU.
        Some(number) => {
            builder.config.escape_char = Some(number as u8);
            Ok(())
        }
        None => fault(origin, "Bad argument to echr"),
    }
}
