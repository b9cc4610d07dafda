//! `qemu-img snapshot`

use std::time::{SystemTime, UNIX_EPOCH};

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, QUIET, SHARE};
use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output, text};
use crate::driver::{Snapshot, SnapshotTime};
use crate::engine::block_on;
use crate::node::Node;
use crate::qcow2::Purpose;
use crate::{Error, Result};
use base::options::ParsedOpts;

pub(super) const COMMAND: Command = Command {
    name: "snapshot",
    about: "List or manipulate snapshots within image",
    operands: "FILE",
    options: &[
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        SHARE,
        OBJECT,
        flag(Some('l'), "list", "list the snapshots (the default)"),
        value(Some('c'), "create", "SNAPSHOT", "keep the disk as it is now"),
        value(Some('a'), "apply", "SNAPSHOT", "bring the disk back to a snapshot"),
        value(Some('d'), "delete", "SNAPSHOT", "forget a snapshot"),
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let actions = ["list", "create", "apply", "delete"];
    let mut asked = args.in_order().filter(|(name, _)| actions.contains(name));
    let action = asked.next();
    if asked.next().is_some() {
        return Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let (action, tag) = action.unwrap_or(("list", ""));
    let purpose = if action == "list" { Purpose::Read } else { Purpose::Write };
    let node = Access::from_args(args, purpose)?.open(name, output)?;
    if action == "list" {
        output.print(&table(&node)?);
        return Ok(0);
    }
    let unsupported = || Error::from_errno(libc::ENOTSUP);
    let result = match (action, node.driver().snapshots()) {
        ("create", None) => Err(unsupported()),
        ("apply", None) => Err(Error::unsupported("Block driver does not support snapshots")),
        (_, None) => Err(Error::new(libc::ENOENT, "snapshot not found")),
        ("create", Some(snapshots)) => block_on(snapshots.create(tag, now())),
        ("apply", Some(snapshots)) => {
            let known = block_on(snapshots.list())?;
            match known.iter().any(|snapshot| snapshot.id == tag || snapshot.name == tag) {
                true => block_on(snapshots.apply(tag)),
                false => {
                    let error = Error::from_errno(libc::ENOENT);
                    Err(error.context("Failed to load snapshot"))
                }
            }
        }
        (_, Some(snapshots)) => {
            let known = block_on(snapshots.list())?;
            // By its name only.
            match known.iter().find(|snapshot| snapshot.name == tag) {
                Some(snapshot) => block_on(snapshots.delete(&snapshot.id)),
                None => Err(Error::new(libc::ENOENT, "snapshot not found")),
            }
        }
    };
    result
        .map_err(|error| Failure::new(format!("Could not {action} snapshot '{tag}': {error}")))?;
    block_on(node.close())?;
    Ok(0)
}

/// Has an image that is open for reading show a snapshot: an id or a name, or options that say which of
/// the two (`snapshot.id=1,snapshot.name=x`).
pub(super) fn show(
    node: &Node,
    wanted: &str,
    output: &mut Output<'_>,
) -> std::result::Result<(), Failure> {
    let fail = |why: &str| Failure::new(format!("Failed to load snapshot: {why}"));
    let (mut id, mut name) = (None, None);
    if wanted.starts_with("snapshot.") {
        let keys = |key: &str| matches!(key, "snapshot.id" | "snapshot.name");
        let parsed = ParsedOpts::parse(wanted, None, keys).map_err(Error::from)?;
        if let Some((key, _)) = parsed.opts.entries.iter().find(|(key, _)| !keys(key)) {
            output.report(&format!("Invalid parameter '{key}'"));
            return Err(Failure::new(format!("Failed in parsing snapshot param '{wanted}'")));
        }
        let get = |key| parsed.opts.get(key).map(str::to_owned);
        (id, name) = (get("snapshot.id"), get("snapshot.name"));
    }
    let Some(snapshots) = node.driver().snapshots() else {
        let format = node.driver().name();
        return Err(fail(&format!(
            "Block format '{format}' used by device '' does not support temporarily loading \
             internal snapshots"
        )));
    };
    let list = block_on(snapshots.list())?;
    let either = id.is_none() && name.is_none();
    let is_wanted = |known: &&Snapshot| match either {
        true => known.id == wanted || known.name == wanted,
        false => {
            id.as_ref().is_none_or(|id| *id == known.id)
                && name.as_ref().is_none_or(|name| *name == known.name)
        }
    };
    let found = list.iter().find(is_wanted).ok_or_else(|| fail("Can't find snapshot"))?;
    Ok(block_on(snapshots.show(&found.id))?)
}

fn now() -> SnapshotTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SnapshotTime {
        seconds: now.as_secs(),
        nanoseconds: now.subsec_nanos(),
        vm_clock: 0,
        icount: Some(0),
    }
}

/// The list for people; empty when there is nothing to list.
pub(crate) fn table(node: &Node) -> Result<String> {
    let Some(snapshots) = node.driver().snapshots() else { return Ok(String::new()) };
    let list = block_on(snapshots.list())?;
    match list.is_empty() {
        true => Ok(String::new()),
        false => Ok(format!("Snapshot list:\n{}", rows(&list))),
    }
}

/// Snapshots, a line each, below what the columns are.
pub(crate) fn rows(list: &[Snapshot]) -> String {
    let head = format!(
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    );
    head + &list.iter().map(line).collect::<String>()
}

fn line(snapshot: &Snapshot) -> String {
    let clock = snapshot.time.vm_clock / 1_000_000;
    let (seconds, millis) = (clock / 1000, clock % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n",
        snapshot.id,
        snapshot.name,
        text::size(snapshot.vm_state_size),
        date(snapshot.time.seconds),
        format!("{hours:04}:{minutes:02}:{seconds:02}.{millis:03}"),
        snapshot.time.icount.map_or("--".into(), |icount| icount.to_string())
    )
}

/// A moment of local time, as `2026-11-21 10:40:38`.
fn date(seconds: u64) -> String {
    let days = (seconds / 86400) as i64;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Days since 0000-03-01, in eras of 400 years: no table of months is needed.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_their_days() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(1_795_257_638), "2026-11-21 10:40:38");
    }
}
