//! Commands about the open file, and about the program.

use std::time::Duration;

use base::options::number::parse_int;

use super::command::{COMMANDS, Command, Done, Failed, Given, find};
use super::opening::{Opening, Reopen};
use super::{Session, text};
use crate::driver::{Breakpoints, Preallocation};
use crate::engine::block_on;
use crate::format::PROTOCOLS;
use crate::info;
use crate::node::{Node, Role};

const fn plain(name: &'static str, run: fn(&mut Session<'_>, &Command, &Given) -> Done) -> Command {
    Command {
        name,
        short: None,
        no_file: false,
        opens: false,
        never_waits: false,
        min: 0,
        max: Some(0),
        args: "",
        about: "",
        help: "",
        options: "",
        run,
    }
}

pub(super) const ABORT: Command = Command {
    no_file: true,
    about: "simulate a program crash using abort(3)",
    ..plain("abort", |_, _, _| std::process::abort())
};

pub(super) const QUIT: Command = Command {
    opens: true,
    short: Some("q"),
    no_file: true,
    max: None,
    about: "exit the program",
    ..plain("quit", |session, _, _| {
        session.ended = true;
        Ok(())
    })
};

pub(super) const HELP: Command = Command {
    short: Some("?"),
    no_file: true,
    max: Some(1),
    args: "[command]",
    about: "help for one or all commands",
    ..plain("help", help)
};

pub(super) const LENGTH: Command = Command {
    short: Some("l"),
    about: "gets the length of the current file",
    ..plain("length", length)
};

pub(super) const FLUSH: Command = Command {
    short: Some("f"),
    about: "flush all in-core file state to disk",
    ..plain("flush", flush)
};

pub(super) const TRUNCATE: Command = Command {
    short: Some("t"),
    min: 1,
    max: Some(3),
    args: "[-m prealloc_mode] off",
    about: "truncates the current file at the given offset",
    options: "m:",
    ..plain("truncate", truncate)
};

pub(super) const INFO: Command = Command {
    short: Some("i"),
    about: "prints information about the current file",
    ..plain("info", print_info)
};

pub(super) const ALLOC: Command = Command {
    short: Some("a"),
    min: 1,
    max: Some(2),
    args: "offset [count]",
    about: "checks if offset is allocated in the file",
    ..plain("alloc", alloc)
};

pub(super) const MAP: Command =
    Command { args: "", about: "prints the allocated areas of a file", ..plain("map", map) };

pub(super) const SLEEP: Command = Command {
    no_file: true,
    min: 1,
    max: Some(1),
    about: "waits for the given value in milliseconds",
    ..plain("sleep", sleep)
};

pub(super) const SIGRAISE: Command = Command {
    no_file: true,
    min: 1,
    max: Some(1),
    args: "signal",
    about: "raises a signal",
    help: "
 raises the given signal

 Example:
 'sigraise 15' - raises SIGTERM

 Invokes raise(signal), where \"signal\" is the mandatory integer argument
 given to sigraise.

",
    ..plain("sigraise", sigraise)
};

pub(super) const OPEN: Command = Command {
    opens: true,
    short: Some("o"),
    no_file: true,
    min: 1,
    max: None,
    args: "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
    about: "open the file specified by path",
    help: "
 opens a new file in the requested mode

 Example:
 'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached

 Opens a file for subsequent use by all of the other qemu-io commands.
 -r, -- open file read-only
 -s, -- use snapshot file
 -C, -- use copy-on-read
 -n, -- disable host cache, short for -t none
 -U, -- force shared permissions
 -k, -- use kernel AIO implementation (Linux only, prefer use of -i)
 -i, -- use AIO mode (threads, native or io_uring)
 -t, -- use the given cache mode for the image
 -d, -- use the given discard mode for the image
 -o, -- options to be given to the block driver
",
    options: "snCro:ki:t:d:U",
    ..plain("open", open)
};

pub(super) const CLOSE: Command = Command {
    opens: true,
    short: Some("c"),
    about: "close the current open file",
    ..plain("close", |session, _, _| {
        session.close();
        Ok(())
    })
};

pub(super) const REOPEN: Command = Command {
    max: None,
    args: "[(-r|-w)] [-c cache] [-o options]",
    about: "reopens an image with new options",
    help: "
 Changes the open options of an already opened image

 Example:
 'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image

 -r, -- Reopen the image read-only
 -w, -- Reopen the image read-write
 -c, -- Change the cache mode to the given value
 -o, -- Changes block driver options (cf. 'open' command)

",
    options: "c:o:rw",
    ..plain("reopen", reopen)
};

pub(super) const BREAK: Command = Command {
    never_waits: true,
    min: 2,
    max: Some(2),
    args: "event tag",
    about: "sets a breakpoint on event and tags the stopped request as tag",
    ..plain("break", |session, _, given| {
        let (event, tag) = (&given.operands[0], &given.operands[1]);
        let result = session.with_breakpoints(|points| points.set(event, tag))?;
        session.say(result, "Could not set breakpoint")
    })
};

pub(super) const REMOVE_BREAK: Command = Command {
    never_waits: true,
    min: 1,
    max: Some(1),
    args: "tag",
    about: "remove a breakpoint by tag",
    ..plain("remove_break", |session, _, given| {
        let tag = &given.operands[0];
        let result = session.with_breakpoints(|points| points.remove(tag))?;
        session.say(result, &format!("Could not remove breakpoint {tag}"))
    })
};

pub(super) const RESUME: Command = Command {
    never_waits: true,
    min: 1,
    max: Some(1),
    args: "tag",
    about: "resumes the request tagged as tag",
    ..plain("resume", |session, _, given| {
        let result = session.with_breakpoints(|points| points.resume(&given.operands[0]))?;
        session.say(result, "Could not resume request")
    })
};

pub(super) const WAIT_BREAK: Command = Command {
    min: 1,
    max: Some(1),
    args: "tag",
    about: "waits for the suspension of a request",
    ..plain("wait_break", |session, _, given| {
        let node = session.node()?;
        let tag = &given.operands[0];
        while !node.breakpoints().is_some_and(|points| points.is_suspended(tag)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
};

impl Session<'_> {
    fn with_breakpoints(
        &mut self,
        act: impl FnOnce(&dyn Breakpoints) -> crate::Result<()>,
    ) -> Result<crate::Result<()>, Failed> {
        let node = self.node()?;
        let unsupported = || crate::Error::from_errno(libc::ENOTSUP);
        Ok(node.breakpoints().ok_or_else(unsupported).and_then(act))
    }

    fn say(&mut self, result: crate::Result<()>, what: &str) -> Done {
        self.say_held();
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                let text = crate::Error::from_errno(error.errno());
                self.fail(&format!("{what}: {text}"))
            }
        }
    }

    fn complain(&mut self, result: crate::Result<()>) -> Done {
        result.map_err(|error| {
            self.output.report(&error.to_string());
            Failed
        })
    }
}

fn help(session: &mut Session<'_>, _: &Command, given: &Given) -> Done {
    let Some(name) = given.operands.first() else {
        for command in COMMANDS {
            session.output.print(&command.usage(command.name));
        }
        session.output.print("\nUse 'help commandname' for extended help.\n");
        return Ok(());
    };
    match find(name) {
        Some(command) => {
            session.output.print(&(command.usage(name) + command.help));
            Ok(())
        }
        None => session.fail(&format!("command {name} not found")),
    }
}

fn length(session: &mut Session<'_>, _: &Command, _: &Given) -> Done {
    match session.node()?.len() {
        Ok(len) => session.output.print(&format!("{}\n", text::scaled(len as f64))),
        Err(error) => return session.fail(&format!("getlength: {error}")),
    }
    Ok(())
}

fn flush(session: &mut Session<'_>, _: &Command, _: &Given) -> Done {
    let node = session.node()?;
    // Only the exit code tells.
    block_on(node.flush()).map_err(|_| Failed)
}

fn truncate(session: &mut Session<'_>, _: &Command, given: &Given) -> Done {
    let preallocation = match given.get('m') {
        None | Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        Some(mode) => {
            session.output.report(&format!("Invalid preallocation mode '{mode}'"));
            return Err(Failed);
        }
    };
    let len = given.operands.first().map_or("", String::as_str);
    let len = session.or_fail(text::bytes(len))?;
    let node = session.writable()?;
    let result = block_on(node.truncate(len, preallocation));
    session.complain(result)
}

fn print_info(session: &mut Session<'_>, _: &Command, _: &Given) -> Done {
    let node = session.node()?;
    let driver = node.driver();
    session.output.print(&format!("format name: {}\n", driver.name()));
    if PROTOCOLS.contains(&driver.name()) {
        session.output.print(&format!("format name: {}\n", driver.name()));
    }
    if !tells_layout(&node) {
        return Err(Failed);
    }
    let cluster = driver.cluster_size().unwrap_or(0);
    session.output.print(&format!(
        "cluster size: {}\nvm state offset: {}\n",
        text::scaled(cluster as f64),
        text::scaled(driver.vm_state_offset() as f64),
    ));
    let specific = info::specific_text(driver, "");
    session.output.print(&specific);
    Ok(())
}

/// Of what stores nothing, nothing is known.
fn tells_layout(node: &Node) -> bool {
    let below = node.child(Role::File).or_else(|| node.child(Role::Image));
    below.map_or_else(|| !node.driver().name().starts_with("null-"), |below| tells_layout(&below))
}

fn alloc(session: &mut Session<'_>, _: &Command, given: &Given) -> Done {
    let node = session.node()?;
    let start = session.or_fail(text::bytes(&given.operands[0]))?;
    let count = match given.operands.get(1) {
        Some(count) => session.or_fail(text::bytes(count))?,
        None => 512,
    };
    let end = match node.len() {
        Ok(len) => start.saturating_add(count).min(len).max(start),
        Err(error) => return session.fail(&format!("getlength: {error}")),
    };
    let (mut at, mut allocated) = (start, 0);
    while at < end {
        match block_on(node.driver().status(at, end - at)) {
            Ok(extent) => {
                allocated += if extent.allocated { extent.len } else { 0 };
                at += extent.len.max(1);
            }
            Err(error) => return session.fail(&format!("is_allocated failed: {error}")),
        }
    }
    let line = format!(
        "{allocated}/{} bytes allocated at offset {}\n",
        end - start,
        text::scaled(start as f64)
    );
    session.output.print(&line);
    Ok(())
}

fn map(session: &mut Session<'_>, _: &Command, _: &Given) -> Done {
    let node = session.node()?;
    let len = match node.len() {
        Ok(0) => return session.fail("Failed to query image length"),
        Ok(len) => len,
        Err(error) => return session.fail(&format!("Failed to query image length: {error}")),
    };
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    let mut at = 0;
    while at < len {
        let extent = match block_on(node.driver().status(at, len - at)) {
            Ok(extent) => extent,
            Err(error) => {
                return session.fail(&format!("Failed to get allocation status: {error}"));
            }
        };
        match runs.last_mut() {
            Some((_, run, allocated)) if *allocated == extent.allocated => *run += extent.len,
            _ => runs.push((at, extent.len, extent.allocated)),
        }
        at += extent.len.max(1);
    }
    for (at, len, allocated) in runs {
        let what = if allocated { "    allocated" } else { "not allocated" };
        let line = format!(
            "{} ({len:#x}) bytes {what} at offset {} ({at:#x})\n",
            text::scaled(len as f64),
            text::scaled(at as f64)
        );
        session.output.print(&line);
    }
    Ok(())
}

fn sleep(session: &mut Session<'_>, _: &Command, given: &Given) -> Done {
    let arg = &given.operands[0];
    let time = parse_int(arg).and_then(|time| u64::try_from(time).ok());
    let Some(time) = time else { return session.fail(&format!("{arg} is not a valid number")) };
    std::thread::sleep(Duration::from_millis(time));
    Ok(())
}

fn sigraise(session: &mut Session<'_>, _: &Command, given: &Given) -> Done {
    let arg = &given.operands[0];
    let number = session.or_fail(text::bytes(arg))?;
    let signal = i32::try_from(number).ok().filter(|&signal| signal < 65);
    let Some(signal) = signal else {
        let line = format!("signal argument '{arg}' is too large to be a valid signal");
        return session.fail(&line);
    };
    // Before the program may end.
    session.output.flush();
    let signal = match signal {
        0 => None,
        _ => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => Some(signal),
            Err(_) => return Ok(()),
        },
    };
    if let Some(signal) = signal
        && let Err(error) = nix::sys::signal::raise(signal)
    {
        return session.fail(&format!("raise: {}", crate::Error::from(error)));
    }
    Ok(())
}

fn open(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let has = |letter| given.has(letter);
    let mut opening = Opening {
        snapshot: has('s'),
        copy_on_read: has('C'),
        read_only: has('r'),
        force_share: has('U'),
        cache: has('n').then(|| "none".into()),
        ..Opening::default()
    };
    for (letter, value) in &given.options {
        let result = match letter {
            'k' => opening.set_aio("native"),
            'i' => opening.set_aio(value),
            't' => opening.set_cache(value),
            'd' => opening.set_discard(value),
            'o' => opening.add_options(value, &mut session.output),
            _ => Ok(()),
        };
        session.complain(result)?;
    }
    opening.name = match given.operands.as_slice() {
        [] => None,
        [name] => Some(name.clone()),
        _ => {
            session.output.print(&command.usage(command.name));
            return Err(Failed);
        }
    };
    session.open(opening)
}

fn reopen(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let mut change = Reopen::default();
    for (letter, value) in &given.options {
        let result = match letter {
            'c' => change.set_cache(value),
            'r' | 'w' if change.writable.is_some() => {
                session.output.report("Only one -r/-w option may be given");
                return Err(Failed);
            }
            'r' | 'w' => {
                change.writable = Some(*letter == 'w');
                Ok(())
            }
            _ => change.add_options(value, &mut session.output),
        };
        session.complain(result)?;
    }
    if !given.operands.is_empty() {
        session.output.print(&command.usage(command.name));
        return Err(Failed);
    }
    session.reopen(change)
}
