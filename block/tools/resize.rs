//! `qemu-img resize`

use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output, open_image, text};
use crate::driver::Preallocation;
use crate::engine::block_on;
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "resize",
    about: "Resize the image to the new size",
    operands: "FILE [+-]SIZE",
    options: &[
        value(Some('f'), "format", "FMT", "specifies FILE image format"),
        flag(None, "shrink", "allow operation when the new size is smaller than the original"),
        flag(Some('q'), "quiet", "quiet mode (produce only error messages if any)"),
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    // A size may begin with '-', which getopt would take for an option: it comes after `--`.
    let [name, size] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting image file name and size"));
    };
    let (sign, digits) = match size.strip_prefix(['+', '-']) {
        Some(digits) => (size.chars().next(), digits),
        None => (None, size.as_str()),
    };
    let wrong = || Failure::new("Parameter 'size' expects a non-negative number below 2^64");
    let amount = text::parse(digits).ok_or_else(wrong)?;
    let node = open_image(name, args.get("format"), Purpose::Write, false, output)?;
    let before = node.len()?;
    let after = match sign {
        Some('+') => before.checked_add(amount),
        Some('-') => before.checked_sub(amount),
        _ => Some(amount),
    };
    let after = after.filter(|&len| len > 0 && len <= i64::MAX as u64);
    let after = after.ok_or_else(|| Failure::new("New image size must be positive"))?;
    if after < before && !args.has("shrink") {
        output.report("Use the --shrink option to perform a shrink operation.");
        return Err(Failure::new(
            "warning: Shrinking an image will delete all data beyond the shrunken image's end. \
             Before performing such an operation, make sure there is no important data there.",
        ));
    }
    block_on(async {
        let whole = if node.driver().name() == "qcow2" { 512 } else { 1 };
        node.truncate(after.next_multiple_of(whole), Preallocation::Off).await?;
        node.flush().await
    })?;
    if !args.has("quiet") {
        output.print("Image resized.\n");
    }
    Ok(0)
}
