//! `qemu-img`: subcommands over the block layer, with QEMU's options, texts and exit codes.

mod args;
mod check;
mod compare;
mod convert;
mod create;
mod info;
pub mod io;
mod map;
mod options;
mod output;
mod resize;
mod text;

use std::io::Write;
use std::sync::Arc;

use args::{Args, Command};
use output::Output;

use crate::engine::{Inline, block_on};
use crate::node::Node;
use crate::open::{OpenOptions, open};
use crate::qcow2::Purpose;
use crate::{Error, Result};

const COMMANDS: [&Command; 7] = [
    &check::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &resize::COMMAND,
];

/// Runs `qemu-img` with its arguments (without the program's name); returns the exit code.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write, terminal: bool) -> u8 {
    let mut output = Output::new("qemu-img", out, err, terminal);
    let hint = "Try 'qemu-img --help' for more info";
    let Some(first) = args.first() else {
        output.report("Not enough arguments");
        output.note(hint);
        return 1;
    };
    match first.as_str() {
        "-h" | "--help" => {
            output.print(&help());
            return 0;
        }
        "-V" | "--version" => {
            output
                .print(&format!("qemu-img version 10.0.2 (Rhea {})\n", env!("CARGO_PKG_VERSION")));
            return 0;
        }
        _ => {}
    }
    let Some(command) = COMMANDS.into_iter().find(|command| command.name == first) else {
        output.report(&format!("Command not found: {first}"));
        output.note(hint);
        return 1;
    };
    match Args::parse(command.options, &args[1..]) {
        Ok(args) if args.has("help") => {
            output.print(&command.help());
            0
        }
        Ok(args) => match (command.run)(&args, &mut output) {
            Ok(code) => code,
            Err(Failure { text, code, hint }) => {
                output.report(&text);
                if hint {
                    let name = command.name;
                    output.note(&format!("Try 'qemu-img {name} --help' for more info"));
                }
                code
            }
        },
        Err(text) => {
            let name = command.name;
            output.note(&format!("qemu-img {name}: {text}"));
            output.note(&format!("Try 'qemu-img {name} --help' for more info"));
            1
        }
    }
}

fn help() -> String {
    let mut text = String::from(
        "QEMU disk image utility.  Usage:\n\n  qemu-img [standard options] COMMAND [--help | \
         command options]\n\nStandard options:\n  -h, --help\n     display this help and exit\n  \
         -V, --version\n     display version info and exit\n\nRecognized commands (run qemu-img \
         COMMAND --help for command-specific help):\n\n",
    );
    for command in COMMANDS {
        text += &format!("  {} - {}\n", command.name, command.about);
    }
    text + &format!("\nSupported image formats:\n\n  {}\n", crate::format::driver_names().join(" "))
}

/// Why a subcommand ends.
struct Failure {
    text: String,
    code: u8,
    hint: bool,
}

impl Failure {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1, hint: false }
    }

    /// Wrong arguments: `--help` would have told.
    fn usage(text: impl Into<String>) -> Self {
        Self { hint: true, ..Self::new(text) }
    }

    fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.to_string())
    }
}

type Outcome = std::result::Result<u8, Failure>;

/// Opens an image for a tool, with QEMU's words when it cannot.
fn open_image(
    name: &str,
    format: Option<&str>,
    purpose: Purpose,
    force_share: bool,
    output: &mut Output<'_>,
) -> Result<Arc<Node>> {
    let options = OpenOptions {
        format: format.map(str::to_owned),
        purpose,
        force_share,
        no_backing: false,
        no_io: false,
        secrets: Default::default(),
        io: Arc::new(Inline),
    };
    open_with(name, &options, output)
}

fn open_with(name: &str, options: &OpenOptions, output: &mut Output<'_>) -> Result<Arc<Node>> {
    let opened = block_on(open(name, options));
    let opened = opened.map_err(|error| error.context(format!("Could not open '{name}'")))?;
    for warning in &opened.warnings {
        output.note(warning);
    }
    Ok(opened.node)
}
