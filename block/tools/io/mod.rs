//! `qemu-io`: requests by hand, with QEMU's commands, texts and exit codes.

mod command;
mod control;
mod opening;
mod text;
mod transfer;
mod zone;

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use command::{Command, Done, Failed, Given, find};
use opening::Opening;

use super::args::{Args, Opt, flag, value};
use super::output::Output;
use crate::engine::block_on;
use crate::node::Node;

const OPTIONS: &[Opt] = &[
    value(None, "object", "", ""),
    flag(None, "image-opts", ""),
    value(Some('c'), "cmd", "", ""),
    value(Some('f'), "format", "", ""),
    flag(Some('r'), "read-only", ""),
    flag(Some('s'), "snapshot", ""),
    flag(Some('n'), "nocache", ""),
    flag(Some('C'), "copy-on-read", ""),
    flag(Some('m'), "misalign", ""),
    flag(Some('k'), "native-aio", ""),
    value(Some('i'), "aio", "", ""),
    value(Some('t'), "cache", "", ""),
    value(Some('d'), "discard", "", ""),
    value(Some('T'), "trace", "", ""),
    flag(Some('U'), "force-share", ""),
    flag(Some('h'), "help", ""),
    flag(Some('V'), "version", ""),
];

const HELP: &str = "Usage: qemu-io [OPTIONS]... [-c STRING]... [file]
QEMU Disk exerciser

  --object OBJECTDEF   define an object such as 'secret' for
                       passwords and/or encryption keys
  --image-opts         treat file as option string
  -c, --cmd STRING     execute command with its arguments
                       from the given string
  -f, --format FMT     specifies the block driver to use
  -r, --read-only      export read-only
  -s, --snapshot       use snapshot file
  -n, --nocache        disable host cache, short for -t none
  -C, --copy-on-read   enable copy-on-read
  -m, --misalign       misalign allocations for O_DIRECT
  -k, --native-aio     use kernel AIO implementation
                       (Linux only, prefer use of -i)
  -i, --aio=MODE       use AIO mode (threads, native or io_uring)
  -t, --cache=MODE     use the given cache mode for the image
  -d, --discard=MODE   use the given discard mode for the image
  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]
                       specify tracing options
                       see qemu-img(1) man page for full description
  -U, --force-share    force shared permissions
  -h, --help           display this help and exit
  -V, --version        output version information and exit

See 'qemu-io -c help' for information on available commands.
";

/// A request that has ended, and what is to be said of it.
struct Completion(String);

/// The program while it runs.
struct Session<'a> {
    output: Output<'a>,
    /// The open file, and how it was opened.
    open: Option<(Arc<Node>, Opening)>,
    /// The image is a machine's.
    in_machine: bool,
    ended: bool,
    completions: (Sender<Completion>, Receiver<Completion>),
    in_flight: usize,
}

/// Runs `qemu-io` with its arguments (without the program's name); returns the exit code.
pub fn run(
    args: &[String],
    input: &mut dyn BufRead,
    out: &mut dyn Write,
    err: &mut dyn Write,
    terminal: bool,
) -> u8 {
    let mut output = Output::new("qemu-io", out, err, terminal);
    let args = match Args::parse(OPTIONS, args) {
        Ok(args) => args,
        Err(text) => {
            output.report(&text);
            output.print(HELP);
            return 1;
        }
    };
    if args.has("help") {
        output.print(HELP);
        return 0;
    }
    if args.has("version") {
        let version = env!("CARGO_PKG_VERSION");
        output.print(&format!("qemu-io version 10.0.2 (Rhea {version})\n"));
        return 0;
    }
    let opening = match opening::from_args(&args, &mut output) {
        Ok(opening) => opening,
        Err(Some(text)) => {
            output.report(&text);
            return 1;
        }
        Err(None) => {
            output.print(HELP);
            return 1;
        }
    };
    let mut session = Session {
        output,
        open: None,
        in_machine: false,
        ended: false,
        completions: channel(),
        in_flight: 0,
    };
    if let Some(opening) = opening
        && session.open(opening).is_err()
    {
        return 1;
    }
    let mut failed = false;
    if args.has("cmd") {
        for line in args.all("cmd") {
            failed |= session.execute(line).is_err();
            if session.ended {
                break;
            }
        }
    } else {
        while !session.ended {
            session.output.print("qemu-io> ");
            session.output.flush();
            let mut line = Vec::new();
            if !matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
                break;
            }
            let line = String::from_utf8_lossy(&line);
            failed |= session.execute(line.trim_end_matches('\n')).is_err();
        }
    }
    session.close();
    u8::from(failed)
}

/// Runs one command on a node of a machine; what there is to say goes to the program's own output. A
/// request that the command only starts is told of when it has ended.
pub fn run_in_machine(node: &Arc<Node>, write_cache: bool, line: &str) {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let cache = if write_cache { "writeback" } else { "writethrough" };
    let opening = Opening { cache: Some(cache.into()), ..Opening::default() };
    let mut session = Session {
        output: Output::new("qemu-io", &mut out, &mut err, true),
        open: Some((node.clone(), opening)),
        in_machine: true,
        ended: false,
        completions: channel(),
        in_flight: 0,
    };
    // The command has said what is wrong.
    let _ = session.execute(line);
    session.output.flush();
    let Session { completions: (_, ended), in_flight, .. } = session;
    if in_flight > 0 {
        std::thread::spawn(move || {
            ended.iter().take(in_flight).for_each(|Completion(text)| print!("{text}"));
        });
    }
}

impl Session<'_> {
    fn execute(&mut self, line: &str) -> Done {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let Some(name) = words.next() else { return Ok(()) };
        let args: Vec<&str> = words.collect();
        let is_here = |command: &&Command| !(self.in_machine && command.opens);
        let Some(command) = find(name).filter(is_here) else {
            self.output.note(&format!("command \"{name}\" not found"));
            return Err(Failed);
        };
        if !command.no_file {
            self.node()?;
        }
        if let Some(text) = command.count_error(name, args.len()) {
            self.output.note(&text);
            return Err(Failed);
        }
        let given = match Given::parse(command.options, &args) {
            Ok(given) => given,
            // A command without options takes all words as they are.
            Err(_) if command.options.is_empty() => Given {
                options: Vec::new(),
                operands: args.iter().map(|&arg| arg.to_owned()).collect(),
            },
            Err(text) => {
                self.output.note(&format!("{name}: {text}"));
                self.output.print(&command.usage(name));
                return Err(Failed);
            }
        };
        // Requests that have ended are told of where the program would wait.
        if !command.never_waits {
            self.complete_some();
        }
        let done = (command.run)(self, command, &given);
        self.say_held();
        if !command.never_waits {
            self.complete_some();
        }
        done
    }

    fn complete_some(&mut self) {
        while let Ok(completion) = self.completions.1.try_recv() {
            self.completed(completion);
        }
    }

    fn completed(&mut self, Completion(text): Completion) {
        self.in_flight -= 1;
        self.output.print(&text);
    }

    /// What breakpoints have to say.
    fn say_held(&mut self) {
        let Some((node, _)) = &self.open else { return };
        let said = node.breakpoints().map(|points| points.take_said()).unwrap_or_default();
        said.iter().for_each(|line| self.output.print(line));
    }

    /// Waits for all requests.
    fn complete_all(&mut self) {
        while self.in_flight > 0 {
            let Ok(completion) = self.completions.1.recv() else { return };
            self.completed(completion);
        }
    }

    fn node(&mut self) -> Result<Arc<Node>, Failed> {
        match &self.open {
            Some((node, _)) => Ok(node.clone()),
            None => {
                self.output.note("no file open, try 'help open'");
                Err(Failed)
            }
        }
    }

    /// Whether every write lasts before it is reported.
    fn writes_through(&self) -> bool {
        self.open.as_ref().is_some_and(|(_, opening)| opening.writes_through())
    }

    fn open(&mut self, opening: Opening) -> Done {
        if self.open.is_some() {
            self.output.report("file open already, try 'help close'");
            return Err(Failed);
        }
        match opening.open() {
            Ok(opened) => {
                opened.warnings.iter().for_each(|warning| self.output.note(warning));
                self.open = Some((opened.node, opening));
                Ok(())
            }
            Err(error) => {
                let device =
                    opening.name.as_ref().map(|name| format!(" device {name}")).unwrap_or_default();
                self.output.report(&format!("can't open{device}: {error}"));
                Err(Failed)
            }
        }
    }

    fn reopen(&mut self, change: opening::Reopen) -> Done {
        let Some((node, opening)) = self.open.take() else { return Err(Failed) };
        let result = opening.changed(change).and_then(|changed| {
            block_on(node.close())?;
            Ok(changed)
        });
        let changed = match result {
            Ok(changed) => changed,
            Err(error) => {
                self.output.report(&error.to_string());
                self.open = Some((node, opening));
                return Err(Failed);
            }
        };
        // The locks of the old one end before the new one takes its own.
        drop(node);
        match changed.open() {
            Ok(opened) => {
                self.open = Some((opened.node, changed));
                Ok(())
            }
            Err(error) => {
                self.output.report(&error.to_string());
                self.open = opening.open().ok().map(|opened| (opened.node, opening));
                Err(Failed)
            }
        }
    }

    fn close(&mut self) {
        self.complete_all();
        if let Some((node, _)) = self.open.take()
            && let Err(error) = block_on(node.close())
            && node.driver().as_qcow2().is_some()
        {
            for cache in ["L2 table", "refcount block"] {
                self.output.report(&format!("Failed to flush the {cache} cache: {error}"));
            }
        }
    }
}
