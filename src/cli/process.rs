//! What the process does, may do and says.

use base::options::Opts;
use machine::config::{AddFd, OnReboot, OnShutdown, Origin, Sandbox, SandboxElevate};

use super::table::CliOption;
use super::{Builder, Done, Stop, fault, groups, take_bool, take_enum, take_text};
use crate::process::find_user;

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::flag(&["S"], "do not start the CPUs", |builder| {
        builder.config.start_paused = true;
        Ok(())
    }),
    CliOption::flag(&["no-reboot"], "exit instead of rebooting", |builder| {
        builder.config.actions.reboot = OnReboot::Shutdown;
        Ok(())
    }),
    CliOption::flag(
        &["no-shutdown"],
        "stop instead of exiting when the guest powers off",
        |builder| {
            builder.config.actions.shutdown = OnShutdown::Pause;
            Ok(())
        },
    ),
    CliOption::opts(
        &["action"],
        "[reboot=reset|shutdown][,shutdown=poweroff|pause][,panic=pause|shutdown|exit-failure|none]\
         [,watchdog=reset|shutdown|poweroff|inject-nmi|pause|debug|none]",
        "say what to do when the guest reboots, powers off, panics, or its watchdog expires",
        &groups::ACTION,
        |builder, opts, origin| {
            let actions = &mut builder.config.actions;
            take_enum(&opts, "reboot", &mut actions.reboot, origin)?;
            take_enum(&opts, "shutdown", &mut actions.shutdown, origin)?;
            take_enum(&opts, "panic", &mut actions.panic, origin)?;
            take_enum(&opts, "watchdog", &mut actions.watchdog, origin)
        },
    ),
    CliOption::text(
        &["watchdog-action"],
        "action",
        "same as -action watchdog=action",
        |builder, text, origin| {
            let mut opts = Opts::default();
            opts.set("watchdog", text);
            take_enum(&opts, "watchdog", &mut builder.config.actions.watchdog, origin)
        },
    ),
    CliOption::flag(&["daemonize"], "go to the background once the machine is set up", |builder| {
        builder.config.process.daemonize = true;
        Ok(())
    }),
    CliOption::text(&["pidfile"], "file", "write the process id to a file", |builder, text, _| {
        builder.config.process.pidfile = Some(text.into());
        Ok(())
    }),
    CliOption::opts(
        &["run-with"],
        "[async-teardown=on|off][,chroot=dir][,user=name|uid:gid]",
        "change root and user before the guest runs; free memory in the background at exit",
        &groups::RUN_WITH,
        |builder, opts, origin| {
            let run_with = &mut builder.config.process.run_with;
            take_text(&opts, "chroot", &mut run_with.chroot);
            take_bool(&opts, "async-teardown", &mut run_with.async_teardown, origin)?;
            if let Some(user) = opts.get("user") {
                run_with.user = Some(find_user(user).map_or_else(|| no_user(origin), Ok)?);
            }
            Ok(())
        },
    ),
    CliOption::opts(
        &["sandbox"],
        "on|off[,obsolete=allow|deny][,elevateprivileges=allow|deny|children][,spawn=allow|deny][,resourcecontrol=allow|deny]",
        "restrict the system calls that the process can make",
        &groups::SANDBOX,
        sandbox,
    ),
    CliOption::opts(
        &["add-fd"],
        "fd=fd,set=n[,opaque=text]",
        "add an inherited descriptor to a set, for files named /dev/fdset/n",
        &groups::ADD_FD,
        add_fd,
    ),
    CliOption::opts(
        &["overcommit"],
        "[mem-lock=on|off|on-fault][,cpu-pm=on|off]",
        "lock memory; let the guest put host CPUs to sleep",
        &groups::OVERCOMMIT,
        overcommit,
    ),
    CliOption::opts(
        &["msg"],
        "[timestamp=on|off][,guest-name=on|off]",
        "begin messages with the time and the guest's name",
        &groups::MSG,
        |builder, opts, origin| {
            let messages = &mut builder.config.messages;
            take_bool(&opts, "timestamp", &mut messages.timestamp, origin)?;
            take_bool(&opts, "guest-name", &mut messages.guest_name, origin)
        },
    ),
];

/// QEMU shows the whole argument as the user.
fn no_user<T>(origin: &Origin) -> Result<T, Stop> {
    let text = match origin {
        Origin::CommandLine(typed) => typed.split_once(' ').map_or("", |(_, argument)| argument),
        _ => "",
    };
    fault(origin, format!("User \"{text}\" doesn't exist (and is not <uid>:<gid>)"))
}

fn sandbox(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let mut on = false;
    take_bool(&opts, "enable", &mut on, origin)?;
    if !on {
        builder.config.process.sandbox = None;
        return Ok(());
    }
    let deny = |key: &str, default: bool| match opts.get(key) {
        None => Ok(default),
        Some("allow") => Ok(false),
        Some("deny") => Ok(true),
        Some(_) => fault(origin, format!("invalid argument for {key}")),
    };
    let elevate = match opts.get("elevateprivileges") {
        None | Some("allow") => SandboxElevate::Allow,
        Some("deny") => SandboxElevate::Deny,
        Some("children") => SandboxElevate::Children,
        Some(_) => return fault(origin, "invalid argument for elevateprivileges"),
    };
    builder.config.process.sandbox = Some(Sandbox {
        deny_obsolete: deny("obsolete", true)?,
        elevate,
        deny_spawn: deny("spawn", false)?,
        deny_resource_control: deny("resourcecontrol", false)?,
    });
    Ok(())
}

fn add_fd(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let number = |key| opts.number(key).or_else(|error| fault(origin, error));
    let descriptor = |number: Option<u64>| number.and_then(|number| i32::try_from(number).ok());
    let Some(fd) = descriptor(number("fd")?) else {
        return fault(origin, "fd option is required and must be non-negative");
    };
    if fd <= 2 {
        return fault(origin, "fd cannot be a standard I/O stream");
    }
    let Some(set) = number("set")?.filter(|set| i64::try_from(*set).is_ok()) else {
        return fault(origin, "set option is required and must be non-negative");
    };
    builder.config.process.fds.push(AddFd { fd, set, opaque: opts.get("opaque").map(Into::into) });
    Ok(())
}

fn overcommit(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let overcommit = &mut builder.config.overcommit;
    if take_enum(&opts, "mem-lock", &mut overcommit.mem_lock, origin).is_err() {
        return fault(origin, "parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'");
    }
    take_bool(&opts, "cpu-pm", &mut overcommit.cpu_pm, origin)
}
