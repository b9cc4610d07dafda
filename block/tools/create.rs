//! `qemu-img create`

use std::io::Read;

use super::access::Access;
use super::args::common::{OBJECT, QUIET};
use super::args::{Args, Command, flag, value};
use super::creation::{Chosen, asks_for_help, help, join};
use super::formats::{Creator, creator};
use super::{Failure, Outcome, Output};
use crate::format::{PROBED, probe_bytes};
use crate::open::full_backing_name;
use crate::qcow2::Purpose;
use crate::{Error, Result};

pub(super) const COMMAND: Command = Command {
    name: "create",
    about: "Create and format new image file",
    operands: "FILE [SIZE]",
    options: &[
        QUIET,
        value(Some('f'), "format", "FMT", "the format of the new image (raw)"),
        value(Some('o'), "options", "FMT_OPTS", "options of the format ('-o help' lists them)"),
        value(Some('b'), "backing", "BACKING_FILE", "the image below the new one"),
        value(Some('F'), "backing-format", "BACKING_FMT", "the format of BACKING_FILE"),
        flag(Some('u'), "backing-unsafe", "do not open BACKING_FILE"),
        OBJECT,
    ],
    run,
};

/// A size as an argument, or why it is none.
pub(super) fn parse_size(text: &str) -> std::result::Result<u64, Failure> {
    use base::options::number::{SizeError, parse_size};
    let negative =
        text.strip_prefix('-').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    match parse_size(text, 1) {
        Ok(size) if size <= i64::MAX as u64 && !negative => return Ok(size),
        Err(SizeError::Malformed) => {}
        // A unit behind a negative number is no size at all.
        Err(SizeError::OutOfRange) if text.starts_with('-') && !negative => {}
        _ => {
            let range = format!("Must be between 0 and {}.", i64::MAX);
            return Err(Failure::new(format!("Invalid image size specified. {range}")));
        }
    }
    Err(Failure::new(format!("Invalid image size specified: '{text}'.")))
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let format = args.get("format").unwrap_or("raw");
    let list = join(args.all("options"))?;
    if asks_for_help(&list) {
        let named = !args.operands.is_empty();
        output.print(&help_for(format, named, "")?);
        return Ok(0);
    }
    let (name, size) = match args.operands.as_slice() {
        [] => return Err(Failure::usage("Expecting image file name")),
        [name] => (name, None),
        [name, size] => (name, Some(parse_size(size)?)),
        [_, _, more, ..] => return Err(Failure::usage(format!("Unexpected argument: {more}"))),
    };
    let fail = |text: String| Failure::new(format!("{name}: {text}"));
    let creator = match creator(format) {
        Ok(creator) => creator,
        Err(true) => {
            return Err(fail(format!("Format driver '{format}' does not support image creation")));
        }
        Err(false) => return Err(fail(format!("Unknown file format '{format}'"))),
    };
    let mut chosen = Chosen::defaults(creator.options);
    chosen.objects = args.objects.clone();
    chosen.apply(&list).map_err(|error| fail(error.to_string()))?;
    if let Some((protocol, _)) = name.split_once(':').filter(|(p, _)| !p.contains('/'))
        && protocol != "file"
    {
        return Err(fail(format!("Unknown protocol '{protocol}'")));
    }
    for (option, key, what) in [
        ("backing", "backing_file", "Backing file"),
        ("backing-format", "backing_fmt", "Backing file format"),
    ] {
        if let Some(value) = args.get(option) {
            let text = format!("{what} not supported for file format '{format}'");
            chosen.set(key, value).map_err(|_| fail(text))?;
        }
    }
    if let Some(size) = size {
        if chosen.is_given("size") {
            return Err(fail("The image size must be specified only once".into()));
        }
        chosen.set("size", &size.to_string())?;
    }
    settle_backing(name, &mut chosen, args.has("backing-unsafe"), output).map_err(fail)?;
    if chosen.text("size").is_none() {
        return Err(fail("Image creation needs a size parameter".into()));
    }
    if !args.has("quiet") {
        output.print(&format!("Formatting '{name}', fmt={format} {}\n", chosen.describe()));
        output.flush();
    }
    let large = "The image size is too large";
    make(creator, name, &chosen).map_err(|error| match error.to_string().strip_prefix(large) {
        Some(hint) if hint.starts_with(" (") => {
            fail(format!("{large} for file format '{format}'{hint}"))
        }
        None if error.errno() == libc::EFBIG => {
            let has_clusters = creator.options.iter().any(|desc| desc.name == "cluster_size");
            let hint = if has_clusters { " (try using a larger cluster size)" } else { "" };
            fail(format!("{large} for file format '{format}'{hint}"))
        }
        _ => fail(error.to_string()),
    })?;
    Ok(0)
}

/// Sees to it that the backing file is there and has a format, and takes its size. The error is text.
fn settle_backing(
    name: &str,
    chosen: &mut Chosen,
    unopened: bool,
    output: &mut Output<'_>,
) -> std::result::Result<(), String> {
    let Some(file) = chosen.text("backing_file").map(str::to_owned) else { return Ok(()) };
    if file.is_empty() {
        return Err("Expected backing file name, got empty string".into());
    }
    if file == name {
        return Err(
            "Error: Trying to create an image with the same filename as the backing file".into()
        );
    }
    let format = chosen.text("backing_fmt").map(str::to_owned);
    let path = full_backing_name(name, &file);
    if !unopened {
        let access = Access::new(Purpose::Read, &chosen.objects).format(format.as_deref());
        // Only its length is wanted.
        let access = Access { no_io: true, ..access };
        let node = access.open_plain(&path, output);
        let node = node.map_err(|error| format!("{error}\nCould not open backing image."))?;
        if chosen.text("size").is_none() {
            let len = node.len().map_err(|error| error.to_string())?;
            chosen.set("size", &len.to_string()).map_err(|error| error.to_string())?;
        }
    }
    if format.is_none() {
        let mut text = "Backing file specified without backing format".to_owned();
        if !unopened && let Ok(bytes) = first_bytes(&path) {
            text += &format!("\nDetected format of {}.", probe_bytes(&bytes));
        }
        return Err(text);
    }
    Ok(())
}

/// What tells an image's format.
fn first_bytes(path: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(PROBED).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The help of `-o help`.
pub(super) fn help_for(
    format: &str,
    named: bool,
    prefix: &str,
) -> std::result::Result<String, Failure> {
    match creator(format) {
        Ok(creator) => Ok(help(format, creator.options, named)),
        Err(true) => Err(Failure::new(format!(
            "{prefix}Format driver '{format}' does not support image creation"
        ))),
        Err(false) => Err(Failure::new(format!("{prefix}Unknown file format '{format}'"))),
    }
}

/// Makes the image.
pub(super) fn make(creator: &Creator, name: &str, chosen: &Chosen) -> Result<()> {
    if let Some(size) = chosen.number("size")
        && size > i64::MAX as u64 - 511
    {
        let text = format!("The image size is too large for file format '{}'", creator.name);
        return Err(Error::new(libc::EFBIG, text));
    }
    (creator.create)(name, chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_their_errors() {
        assert_eq!(parse_size("1.5k").ok(), Some(1536));
        for (text, error) in [
            ("8E", "Invalid image size specified. Must be between 0 and 9223372036854775807."),
            ("1kilobyte", "Invalid image size specified: '1kilobyte'."),
        ] {
            assert_eq!(parse_size(text).err().map(|failure| failure.text).as_deref(), Some(error));
        }
    }
}
