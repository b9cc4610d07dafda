//! The command line of `qemu-system-x86_64`.
//!
//! One table ([`table`]) holds every option: its name, the form of its argument, its help and the
//! function that applies it. `-help` and `query-command-line-options` are read off it.
//!
//! The table is the project's own rather than clap's: QEMU's command line has one dash or two at will,
//! no `-x=value`, no abbreviations and no end-of-options mark, options whose order matters, and error
//! texts that tools match on; of what clap offers nothing would be left but the listing.
//!
//! As in QEMU there are three passes. The first looks for unknown options and missing arguments. The
//! second applies the options in order. The third ([`finish`]) judges what needs all of them.

mod catalog;
mod characters;
mod debug;
mod display;
mod drives;
mod finish;
mod firmware;
mod groups;
mod networks;
mod numa;
mod process;
mod readconfig;
mod refused;
mod report;
mod standard;
mod table;

use base::options::{Keyval, OptGroup, Opts, ParsedOpts};
use base::props::{PropName, PropValue};
use machine::config::{ConfigError, Located, MachineConfig, Origin};

pub use catalog::Catalog;
pub use report::Reporter;
pub use table::command_line_options;

use table::{Apply, CliOption};

/// The name under which messages are printed, whatever the file is called.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What the command line wants done.
#[derive(Debug)]
pub enum Command {
    /// Run this machine.
    Run(Box<MachineConfig>),
    /// Print this and exit.
    Exit(Exit),
}

/// Something to print instead of running a machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status.
    pub status: u8,
    /// For standard output.
    pub output: String,
}

impl Exit {
    /// A list that was asked for.
    fn listing(output: impl Into<String>) -> Self {
        Exit { status: 0, output: output.into() }
    }
}

/// Why applying options ended early.
#[derive(Debug)]
enum Stop {
    Fault(ConfigError),
    Exit(Exit),
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Stop::Fault(error)
    }
}

/// What a function that applies an option returns.
type Done = Result<(), Stop>;

/// A fault of the option at `origin`.
fn fault<T>(origin: &Origin, message: impl ToString) -> Result<T, Stop> {
    Err(Stop::Fault(ConfigError::at(origin, message.to_string())))
}

/// Reads the command line, without the program's name. Warnings go to `reporter`.
pub fn parse(
    args: &[String],
    catalog: &dyn Catalog,
    reporter: &mut Reporter<'_>,
) -> Result<Command, ConfigError> {
    let given = lookup(args)?;
    let mut builder = Builder::new(catalog, reporter);
    let mut apply = |given| {
        let done = builder.apply(given);
        // What -msg and -name say holds from there on.
        builder.reporter.configure(&builder.config);
        done
    };
    let applied = given.iter().try_for_each(&mut apply).and_then(|()| builder.finish());
    match applied {
        Ok(config) => Ok(Command::Run(Box::new(config))),
        Err(Stop::Exit(exit)) => Ok(Command::Exit(exit)),
        Err(Stop::Fault(error)) => Err(error),
    }
}

/// An option as given.
enum Given<'a> {
    Option { option: &'static CliOption, arg: &'a str, origin: Origin },
    DiskImage(&'a str),
}

/// The first pass.
fn lookup(args: &[String]) -> Result<Vec<Given<'_>>, ConfigError> {
    let mut given = Vec::new();
    let mut rest = args.iter();
    while let Some(typed) = rest.next() {
        let Some(name) = typed.strip_prefix('-') else {
            given.push(Given::DiskImage(typed));
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let fault = |message: &str| ConfigError::at(&Origin::CommandLine(typed.clone()), message);
        let option = table::find(name).ok_or_else(|| fault("invalid option"))?;
        let (arg, origin) = if option.form.is_empty() {
            ("", typed.clone())
        } else {
            let arg = rest.next().ok_or_else(|| fault("requires an argument"))?;
            (arg.as_str(), format!("{typed} {arg}"))
        };
        given.push(Given::Option { option, arg, origin: Origin::CommandLine(origin) });
    }
    Ok(given)
}

/// The configuration while options are applied.
struct Builder<'a, 'r> {
    config: MachineConfig,
    /// `-machine` and the options that are short for a part of it.
    machine: Keyval,
    /// `-rtc`, judged at the end.
    rtc: Opts,
    /// `-icount`, judged at the end; all together are the first one's.
    icount: Option<Located<Opts>>,
    /// A list that was asked for; printed unless an option is faulty.
    listing: Option<Exit>,
    catalog: &'a dyn Catalog,
    reporter: &'a mut Reporter<'r>,
}

impl<'a, 'r> Builder<'a, 'r> {
    fn new(catalog: &'a dyn Catalog, reporter: &'a mut Reporter<'r>) -> Self {
        Builder {
            config: MachineConfig::default(),
            machine: Keyval::default(),
            rtc: Opts::default(),
            icount: None,
            listing: None,
            catalog,
            reporter,
        }
    }

    fn apply(&mut self, given: &Given<'_>) -> Done {
        let (option, arg, origin) = match given {
            Given::Option { option, arg, origin } => (option, *arg, origin),
            Given::DiskImage(name) => {
                drives::image(self, name);
                return Ok(());
            }
        };
        match option.apply {
            Apply::Flag(apply) => apply(self),
            Apply::Text(apply) => apply(self, arg, origin),
            Apply::Opts { first_look, apply } => {
                if let Some(first_look) = first_look
                    && first_look(self, arg, origin)?
                {
                    return Ok(());
                }
                match option.group {
                    Some(group) => {
                        let opts = self.parse_group(group, arg, origin)?;
                        apply(self, opts, origin)
                    }
                    None => Ok(()),
                }
            }
            Apply::Refused(why) => fault(origin, why),
        }
    }

    /// Reads `key=value,...` with the group's keys; prints them if `help` is among them.
    fn parse_group(&mut self, group: &OptGroup, text: &str, origin: &Origin) -> Result<Opts, Stop> {
        let parsed = group.parse(text).or_else(|error| {
            // What was wrong may come after something to warn about.
            if let Ok(parsed) = ParsedOpts::parse(text, group.implied, |key| group.has_key(key)) {
                self.warn_short_forms(&parsed, origin);
            }
            fault(origin, error)
        })?;
        self.warn_short_forms(&parsed, origin);
        let mut opts = parsed.opts;
        if parsed.help && group.keys.is_empty() {
            // Whoever knows the keys does not know this one.
            opts.set("help", "on");
        } else if parsed.help {
            return Err(Stop::Exit(Exit { status: 1, output: group.help_text() }));
        }
        Ok(opts)
    }

    /// Reads `key=value,...` without knowing the keys.
    fn parse_opts(
        &mut self,
        implied: Option<&str>,
        text: &str,
        origin: &Origin,
    ) -> Result<ParsedOpts, Stop> {
        let parsed =
            ParsedOpts::parse(text, implied, |_| false).or_else(|error| fault(origin, error))?;
        self.warn_short_forms(&parsed, origin);
        Ok(parsed)
    }

    fn warn_short_forms(&mut self, parsed: &ParsedOpts, origin: &Origin) {
        for short_form in &parsed.short_forms {
            self.warn(origin, &short_form.to_string());
        }
    }

    fn warn(&mut self, origin: &Origin, message: &str) {
        self.reporter.warning(origin, message);
    }

    /// Lays a part of the machine's tree over what is there.
    fn merge_machine(&mut self, text: &str, implied: Option<&str>, origin: &Origin) -> Done {
        let tree = Keyval::parse(text, implied).or_else(|error| fault(origin, error))?;
        self.machine.merge(tree);
        Ok(())
    }

    /// Sets one leaf of the machine's tree.
    fn set_machine(&mut self, key: &str, value: &str) {
        self.machine.tree.insert(key.into(), value.into());
    }

    /// Prints `output` at the end, unless an option is faulty. The first one asked for wins.
    fn list(&mut self, output: impl Into<String>) {
        self.listing.get_or_insert_with(|| Exit::listing(output));
    }
}

/// Puts the value of `key`, if given, into `target`.
fn take_enum<T: PropValue>(opts: &Opts, key: &str, target: &mut T, origin: &Origin) -> Done {
    if let Some(text) = opts.get(key) {
        *target = T::from_text(text, &PropName { owner: "", name: key })
            .or_else(|error| fault(origin, error))?;
    }
    Ok(())
}

/// Puts the switch `key`, if given, into `target`.
fn take_bool(opts: &Opts, key: &str, target: &mut bool, origin: &Origin) -> Done {
    if let Some(value) = opts.bool(key).or_else(|error| fault(origin, error))? {
        *target = value;
    }
    Ok(())
}

/// Puts the text `key`, if given, into `target`.
fn take_text(opts: &Opts, key: &str, target: &mut Option<String>) {
    if let Some(text) = opts.get(key) {
        *target = Some(text.into());
    }
}

#[cfg(test)]
mod tests;
