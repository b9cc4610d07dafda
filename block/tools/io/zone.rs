//! Commands for zoned block devices. No driver here has zones, and they say so.

use super::command::{Command, Done, Given};
use super::{Session, text};
use crate::Error;

const fn zone(
    name: &'static str,
    short: &'static str,
    about: &'static str,
    run: fn(&mut Session<'_>, &Command, &Given) -> Done,
) -> Command {
    Command {
        name,
        short: Some(short),
        no_file: false,
        opens: false,
        never_waits: false,
        min: 2,
        max: Some(2),
        args: "offset len",
        about,
        help: "",
        options: "",
        run,
    }
}

pub(super) const REPORT: Command = Command {
    args: "offset number",
    ..zone("zone_report", "zrp", "report zone information", |session, _, given| {
        refuse(session, given, "report")
    })
};

pub(super) const OPEN: Command = zone(
    "zone_open",
    "zo",
    "explicit open a range of zones in zone block device",
    |session, _, given| refuse(session, given, "open"),
);

pub(super) const CLOSE: Command =
    zone("zone_close", "zc", "close a range of zones in zone block device", |session, _, given| {
        refuse(session, given, "close")
    });

pub(super) const FINISH: Command = zone(
    "zone_finish",
    "zf",
    "finish a range of zones in zone block device",
    |session, _, given| refuse(session, given, "finish"),
);

pub(super) const RESET: Command = zone(
    "zone_reset",
    "zrs",
    "reset a zone write pointer in zone block device",
    |session, _, given| refuse(session, given, "reset"),
);

pub(super) const APPEND: Command = Command {
    min: 3,
    max: Some(4),
    args: "offset len [len..]",
    ..zone(
        "zone_append",
        "zap",
        "append write a number of bytes at a specified offset",
        |session, _, given| refuse(session, given, "append"),
    )
};

fn refuse(session: &mut Session<'_>, given: &Given, what: &str) -> Done {
    for arg in &given.operands {
        session.or_fail(text::bytes(arg))?;
    }
    let error = Error::from_errno(libc::ENOTSUP);
    session.fail(&format!("zone {what} failed: {error}"))
}
