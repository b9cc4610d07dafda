//! `qemu-img create`

use std::sync::Arc;

use super::args::{Args, Command, flag, value};
use super::options::{NewImage, help, last};
use super::{Failure, Outcome, Output, open_with, text};
use crate::Result;
use crate::driver::Preallocation;
use crate::engine::{Inline, block_on};
use crate::format::probe_bytes;
use crate::open::{OpenOptions, create_file, full_backing_name};
use crate::qcow2::{self, Purpose};

pub(super) const COMMAND: Command = Command {
    name: "create",
    about: "Create and format new image file",
    operands: "FILE [SIZE]",
    options: &[
        value(Some('f'), "format", "FMT", "specifies FILE image format, default is 'raw'"),
        value(Some('o'), "options", "FMT_OPTS", "format-specific options ('-o list' for list)"),
        value(Some('b'), "backing", "BACKING_FILE", "create image with backing file"),
        value(Some('F'), "backing-format", "BACKING_FMT", "format of the backing file"),
        flag(Some('u'), "backing-unsafe", "do not open the backing file"),
        flag(Some('q'), "quiet", "quiet mode (produce only error messages if any)"),
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let format = args.get("format").unwrap_or("raw");
    let given: Vec<&str> = args.all("options").collect();
    if let Some(text) = help(format, &given) {
        output.print(text);
        return Ok(0);
    }
    let (name, size) = match args.operands.as_slice() {
        [] => return Err(Failure::usage("Expecting image file name")),
        [name] => (name, None),
        [name, size] => {
            let wrong = || Failure::new(format!("Invalid image size specified: '{size}'."));
            (name, Some(text::parse(size).ok_or_else(wrong)?))
        }
        [_, _, more, ..] => return Err(Failure::usage(format!("Unexpected argument: {more}"))),
    };
    let mut new = NewImage::parse(name, format, &given)?;
    if let Some(file) = args.get("backing") {
        if format != "qcow2" {
            let text = format!("{name}: Backing file not supported for file format '{format}'");
            return Err(Failure::new(text));
        }
        let inner = new.options.backing.take().and_then(|(_, format)| format);
        new.options.backing = Some((file.to_owned(), inner));
    }
    if let (Some(backing), Some(format)) = (&mut new.options.backing, args.get("backing-format")) {
        backing.1 = Some(format.to_owned());
    }
    if let Some(size) = size {
        (new.options.size, new.sized) = (size, true);
    }
    let backing = new.options.backing.clone();
    if let Some((file, format)) = backing
        && !(args.has("backing-unsafe") && new.sized)
    {
        let path = full_backing_name(name, &file);
        let Some(format) = format else {
            let mut failure = format!("{name}: Backing file specified without backing format");
            if let Ok(first) = std::fs::read(&path).map(|bytes| probe_bytes(&bytes)) {
                failure += &format!("\nDetected format of {first}.");
            }
            return Err(Failure::new(failure));
        };
        let options = OpenOptions {
            format: Some(format),
            purpose: Purpose::Read,
            force_share: false,
            no_backing: false,
            no_io: false,
            secrets: Default::default(),
            io: Arc::new(Inline),
        };
        let opened = open_with(&path, &options, output);
        let node = opened.map_err(|error| {
            let note = "Could not open backing image.";
            Failure::new(format!("{name}: {error}\n{note}"))
        })?;
        if !new.sized {
            (new.options.size, new.sized) = (node.len()?, true);
        }
    }
    if !new.sized {
        return Err(Failure::new(format!("{name}: Image creation needs a size parameter")));
    }
    if !args.has("quiet") {
        let compat = last(&given, "compat");
        output.print(&format!("{}\n", new.describe(name, compat.as_deref())));
    }
    make(name, &new).map_err(|error| Failure::new(format!("{name}: {error}")))?;
    Ok(0)
}

/// Makes the image.
pub(super) fn make(name: &str, new: &NewImage) -> Result<()> {
    if new.format == "qcow2" {
        // Before the old file is emptied.
        new.options.header()?;
    }
    block_on(async {
        let file = create_file(name, Arc::new(Inline)).await?;
        match new.format.as_str() {
            "qcow2" => qcow2::create(&file, &new.options).await,
            _ => file.truncate(new.options.size, Preallocation::Off).await,
        }
    })
}
