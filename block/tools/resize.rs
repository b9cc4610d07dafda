//! `qemu-img resize`

use base::options::number::parse_size;

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, QUIET};
use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output};
use crate::driver::Preallocation;
use crate::engine::block_on;
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "resize",
    about: "Resize the image to the new size",
    operands: "FILE [+-]SIZE",
    options: &[
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        flag(None, "shrink", "allow the new size to be smaller"),
        value(None, "preallocation", "PREALLOC", "how the space that is added is allocated"),
        OBJECT,
    ],
    run,
};

/// The last argument may begin with a minus without being an option: it is taken out first.
pub(super) fn size_argument(args: &[String]) -> Option<(Vec<String>, String)> {
    let (size, rest) = args.split_last()?;
    let is_size =
        size.strip_prefix('-').is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    is_size.then(|| (rest.to_vec(), size.clone()))
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let (name, size) = match args.operands.as_slice() {
        [name, size] => (name, size),
        [_, _, _, ..] => return Err(Failure::usage("Extra argument(s) in command line")),
        _ => return Err(Failure::usage("Expecting image file name and size")),
    };
    let preallocation = match args.get("preallocation") {
        None | Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        Some(mode) => return Err(Failure::new(format!("Invalid preallocation mode '{mode}'"))),
    };
    let access = Access::from_args(args, Purpose::Write)?;
    let (sign, digits) = match size.strip_prefix(['+', '-']) {
        Some(digits) => (size.chars().next(), digits),
        None => (None, size.as_str()),
    };
    let amount = parse_size(digits, 1).map_err(|_| {
        Failure::new(base::options::OptionError::NotASize("size".into()).to_string())
    })?;
    let node = access.open(name, output)?;
    let before = node.len()?;
    let after = match sign {
        Some('+') => before.checked_add(amount),
        Some('-') => before.checked_sub(amount),
        _ => Some(amount),
    };
    let after = after.filter(|&len| len > 0 && len <= i64::MAX as u64);
    let after = after.ok_or_else(|| Failure::new("New image size must be positive"))?;
    if after <= before && preallocation != Preallocation::Off {
        return Err(Failure::new("Preallocation can only be used for growing images"));
    }
    if after < before && !args.has("shrink") {
        output.report("Use the --shrink option to perform a shrink operation.");
        return Err(Failure::new(
            "warning: Shrinking an image will delete all data beyond the shrunken image's end. \
             Before performing such an operation, make sure there is no important data there.",
        ));
    }
    block_on(async {
        node.truncate(after, preallocation).await?;
        node.close().await
    })?;
    if !args.has("quiet") {
        output.print("Image resized.\n");
    }
    Ok(0)
}
