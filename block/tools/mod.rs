//! `qemu-img`: subcommands over the block layer, with QEMU's options, texts and exit codes.

mod access;
mod amend;
mod args;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod creation;
mod dd;
mod formats;
mod info;
pub mod io;
mod line;
mod map;
mod measure;
mod output;
mod progress;
mod rebase;
mod resize;
pub(crate) mod snapshot;
pub(crate) mod text;

use std::io::Write;

use args::{Args, Command};
use output::Output;

use crate::Error;

const COMMANDS: [&Command; 15] = [
    &amend::COMMAND,
    &bench::COMMAND,
    &bitmap::COMMAND,
    &check::COMMAND,
    &commit::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &rebase::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
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
    let (rest, size) = match resize::size_argument(&args[1..]) {
        Some((rest, size)) if command.name == "resize" => (rest, Some(size)),
        _ => (args[1..].to_vec(), None),
    };
    let parsed = Args::parse(command.options, &rest).map(|mut args| {
        args.operands.extend(size);
        args
    });
    match parsed {
        Ok(args) if args.has("help") => {
            output.print(&command.help());
            0
        }
        Ok(mut args) => {
            match define_objects(command, &mut args).and_then(|_| (command.run)(&args, &mut output))
            {
                Ok(code) => code,
                Err(Failure { text, code, hint }) => {
                    output.report(&text);
                    if hint {
                        let name = command.name;
                        output.note(&format!("Try 'qemu-img {name} --help' for more info"));
                    }
                    code
                }
            }
        }
        Err(text) => {
            let name = command.name;
            output.note(&format!("qemu-img {name}: {text}"));
            output.note(&format!("Try 'qemu-img {name} --help' for more info"));
            1
        }
    }
}

fn define_objects(command: &Command, args: &mut Args) -> Outcome {
    let objects: Vec<String> = args.all("object").map(str::to_owned).collect();
    for object in objects {
        // Of the codes of `compare`, 1 means that images differ.
        let code = if command.name == "compare" { 2 } else { 1 };
        args.objects.define(&object).map_err(|error| Failure::from(error).with_code(code))?;
    }
    Ok(0)
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
    text + &format!("\nSupported image formats:\n{}\n\n", formats())
}

/// The names of all formats, in lines that fit a terminal.
fn formats() -> String {
    const WIDTH: usize = 75;
    let (mut text, mut column) = (String::new(), WIDTH);
    for name in crate::format::driver_names() {
        if column + 1 + name.len() > WIDTH {
            text += "\n ";
            column = 1;
        }
        text += &format!(" {name}");
        column += 1 + name.len();
    }
    text
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
