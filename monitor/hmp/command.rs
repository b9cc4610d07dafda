//! The commands of the human monitor, as one table: help and completion come from it.

use std::sync::Arc;

use base::trace_event;
use cpu::dump::Dump;
use machine::run_state::{Cause, RunState};

use super::memory;
use super::words::{Arguments, Format};
use crate::qapi::QmpError;
use crate::target::Target;

/// Longest run of memory that `sum` goes through.
const MAX_SUM: u64 = 1 << 30;

/// Why a command did nothing.
enum Failure {
    /// It was not called as it is to be called.
    Usage(String),
    /// It was refused.
    Refused(QmpError),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Usage(text)
    }
}

impl From<QmpError> for Failure {
    fn from(error: QmpError) -> Self {
        Failure::Refused(error)
    }
}

type Printed = Result<String, Failure>;

/// A command: its names, its arguments, what it does, and the function that does it.
struct Command {
    /// The name and shorter ones, separated by bars.
    names: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&Arc<Target>, &mut Arguments<'_>) -> Printed,
}

impl Command {
    fn is_called(&self, name: &str) -> bool {
        self.names.split('|').any(|known| known == name)
    }

    fn usage(&self, group: &str) -> String {
        format!("{group}{} {} -- {}\n", self.names, self.arguments, self.help)
    }
}

macro_rules! commands {
    ($($names:literal $arguments:literal $help:literal $run:expr;)*) => {
        &[$(Command { names: $names, arguments: $arguments, help: $help, run: $run }),*]
    };
}

const COMMANDS: &[Command] = commands! {
    "chardev-remove" "id" "remove a character device that is not in use" |target, arguments| {
        let id = arguments.word().ok_or("chardev-remove: string expected".to_owned())?;
        arguments.end("chardev-remove")?;
        target.chardevs.remove(id).map_err(QmpError::from)?;
        silence()
    };
    "chardev-send-break" "id" "send a break condition" |target, arguments| {
        let id = arguments.word().ok_or("chardev-send-break: string expected".to_owned())?;
        arguments.end("chardev-send-break")?;
        target.chardevs.get(id).map_err(QmpError::from)?.send_break();
        silence()
    };
    "cont|c" "" "let the guest run" |target, _| {
        target.cont()?;
        silence()
    };
    "help|?" "[cmd]" "say what commands do" |_, arguments| Ok(help(arguments));
    "i" "/fmt addr" "read an I/O port" |target, arguments| {
        let size = port_size(arguments.format()?);
        let port = arguments.expression()? & 0xffff;
        arguments.end("i")?;
        let ports = target.vm.board().map(|board| board.ports());
        let value = ports.map_or(u64::MAX, |ports| ports.read_uint(port, size));
        let (suffix, digits) = (port_suffix(size), usize::from(size) * 2);
        Ok(format!("port{suffix}[0x{port:04x}] = 0x{value:0digits$x}\n"))
    };
    "info" "[subcommand]" "show something about the machine" info;
    "nmi" "" "send every processor a non-maskable interrupt" |target, _| {
        target.inject_nmi()?;
        silence()
    };
    "o" "/fmt addr value" "write an I/O port" |target, arguments| {
        let size = port_size(arguments.format()?);
        let port = arguments.expression()? & 0xffff;
        let value = arguments.expression()?;
        arguments.end("o")?;
        if let Some(board) = target.vm.board() {
            board.ports().write_uint(port, size, value);
        }
        silence()
    };
    "print|p" "/fmt expr" "compute" |_, arguments| {
        let format = arguments.format()?;
        let value = arguments.expression()?;
        Ok(memory::number(value, format.map_or('x', |format| format.shown), 8) + "\n")
    };
    "quit|q" "" "end the machine and the program" |target, _| {
        target.vm.shut_down(Cause::HostQmpQuit);
        silence()
    };
    "ringbuf_read" "device size" "show and remove what is in a ring buffer" |target, arguments| {
        let device = arguments.word().ok_or("ringbuf_read: string expected".to_owned())?;
        let size = arguments.expression()?;
        arguments.end("ringbuf_read")?;
        let text = target.ring(device)?.ring_read(size as usize).unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).into_owned() + "\n")
    };
    "ringbuf_write" "device data" "append to a ring buffer" |target, arguments| {
        let device = arguments.word().ok_or("ringbuf_write: string expected".to_owned())?;
        let data = arguments.word().ok_or("ringbuf_write: string expected".to_owned())?;
        arguments.end("ringbuf_write")?;
        target.ring(device)?.ring_write(data.as_bytes());
        silence()
    };
    "stop|s" "" "pause the guest" |target, _| {
        target.vm.pause();
        silence()
    };
    "sum" "addr size" "compute the checksum of a run of memory" |target, arguments| {
        let (address, length) = (arguments.expression()?, arguments.expression()?);
        if length > MAX_SUM {
            return Err(Failure::Usage("'sum' has failed: the size is too large".into()));
        }
        let board = target.vm.board();
        let sum = board.map_or(0, |board| memory::checksum(board.memory(), address, length));
        Ok(format!("{sum:05}\n"))
    };
    "system_powerdown" "" "press the power button" |target, _| {
        target.vm.power_down();
        silence()
    };
    "system_reset" "" "reset the machine" |target, _| {
        target.system_reset();
        silence()
    };
    "system_wakeup" "" "wake the guest from suspend" |target, _| {
        target.system_wakeup()?;
        silence()
    };
    "xp" "/fmt addr" "show physical memory" |target, arguments| {
        let format = arguments.format()?.unwrap_or(Format { count: 1, shown: 'x', size: None });
        let address = arguments.expression()?;
        let dumped = target.vm.board().and_then(|b| memory::dump(b.memory(), address, format));
        Ok(dumped.unwrap_or_else(|| "instructions cannot be shown yet\n".into()))
    };
};

const INFO: &[Command] = commands! {
    "chardev" "" "the character devices" |target, _| {
        let devices = target.chardevs.query();
        Ok(devices.iter().map(|d| format!("{}: filename={}\n", d.label, d.filename)).collect())
    };
    "cpus" "" "the processors and their threads" |target, _| {
        let threads = target.vm.vcpus().map(|vcpus| vcpus.thread_ids()).unwrap_or_default();
        let line = |(index, thread): (usize, &i32)| {
            format!("{} CPU #{index}: thread_id={thread}\n", if index == 0 { '*' } else { ' ' })
        };
        Ok(threads.iter().enumerate().map(line).collect())
    };
    "kvm" "" "whether the host's kernel runs the guest" |target, _| {
        Ok(format!("kvm support: {}\n", if target.kvm { "enabled" } else { "disabled" }))
    };
    "name" "" "the guest's name" |target, _| {
        Ok(target.identity.name.iter().map(|name| format!("{name}\n")).collect())
    };
    "registers" "[-a|vcpu]" "the processors' registers" registers;
    "status" "" "whether the guest runs" |target, _| {
        Ok(match target.vm.state() {
            RunState::Running => "VM status: running\n".into(),
            RunState::Paused => "VM status: paused\n".into(),
            state => format!("VM status: paused ({})\n", state.name()),
        })
    };
    "uuid" "" "the guest's UUID" |target, _| Ok(target.uuid() + "\n");
    "version" "" "the version of QEMU that this program stands for" |_, _| {
        let (number, package) = Target::version();
        Ok(format!("{number} ({package})\n"))
    };
};

fn silence() -> Printed {
    Ok(String::new())
}

/// Executes a line and returns what is printed, each line ending in CR LF.
pub(crate) fn execute(target: &Arc<Target>, line: &str) -> String {
    if line.trim().is_empty() {
        return String::new();
    }
    trace_event!(handle_hmp_command, "cmdline: {line}");
    run(target, COMMANDS, "", line).replace('\n', "\r\n")
}

/// Runs a command of `table`, whose commands come after `group`.
fn run(target: &Arc<Target>, table: &[Command], group: &str, line: &str) -> String {
    let line = line.trim_start();
    // A format may follow a name without a blank.
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let Some(command) = table.iter().find(|command| command.is_called(name)) else {
        let word = line.split_whitespace().next().unwrap_or_default();
        return format!("unknown command: '{group}{word}'\n");
    };
    let mut arguments = Arguments(rest);
    // Nothing is done before it is known that nothing is left over: those that take no arguments
    // are looked at here, the others do it themselves if they change anything.
    let printed = match command.arguments {
        "" => arguments.end(command.names).map_err(Failure::from),
        _ => Ok(()),
    }
    .and_then(|()| (command.run)(target, &mut arguments))
    .and_then(|text| arguments.end(command.names).map(|()| text).map_err(Failure::from));
    match printed {
        Ok(text) => text,
        Err(Failure::Usage(problem)) => {
            format!("{problem}\nTry \"help {group}{name}\" for more information\n")
        }
        Err(Failure::Refused(error)) => format!("Error: {error}\n"),
    }
}

fn info(target: &Arc<Target>, arguments: &mut Arguments<'_>) -> Printed {
    let line = std::mem::take(&mut arguments.0);
    if line.trim().is_empty() {
        return Ok(INFO.iter().map(|command| command.usage("info ")).collect());
    }
    Ok(run(target, INFO, "info ", line))
}

fn help(arguments: &mut Arguments<'_>) -> String {
    let (table, group, name) = match (arguments.word(), arguments.word()) {
        (Some("info"), Some(name)) => (INFO, "info ", Some(name)),
        (Some("info"), None) => (INFO, "info ", None),
        (name, _) => (COMMANDS, "", name),
    };
    match name {
        None => table.iter().map(|command| command.usage(group)).collect(),
        Some(name) => match table.iter().find(|command| command.is_called(name)) {
            Some(command) => command.usage(group),
            None => format!("unknown command: '{group}{name}'\n"),
        },
    }
}

/// What the last word of a line may become.
pub(super) fn complete(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let last = if line.ends_with(' ') { "" } else { words.last().copied().unwrap_or_default() };
    let before = &words[..words.len() - usize::from(!last.is_empty())];
    let table = match before {
        [] | ["help" | "?"] => COMMANDS,
        ["info"] | ["help" | "?", "info"] => INFO,
        _ => return Vec::new(),
    };
    let names = table.iter().flat_map(|command| command.names.split('|'));
    names.filter(|name| name.starts_with(last)).map(str::to_owned).collect()
}

fn registers(target: &Arc<Target>, arguments: &mut Arguments<'_>) -> Printed {
    let Some(vcpus) = target.vm.vcpus() else { return silence() };
    let count = vcpus.count();
    let which = match arguments.word() {
        Some("-a") => 0..count,
        Some(word) => match word.parse::<usize>().ok().filter(|&index| index < count) {
            Some(index) => index..index + 1,
            None => return Ok(format!("CPU#{word} not available\n")),
        },
        None => 0..count.min(1),
    };
    // Stopped for a moment only: the guest does not notice, its clock runs on.
    vcpus.pause();
    let dump = |index| {
        let text = vcpus.run_on(index, |engine| {
            let mut text = String::new();
            engine.with_state(&mut |state| text = Dump(state).to_string());
            text
        });
        format!("\nCPU#{index}\n{}", text.unwrap_or_default())
    };
    let text = which.map(dump).collect();
    if target.vm.state() == RunState::Running {
        vcpus.resume();
    }
    Ok(text)
}

fn port_size(format: Option<Format>) -> u8 {
    format.and_then(|format| format.size).unwrap_or(1).min(4)
}

fn port_suffix(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        _ => 'l',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sorted() {
        for table in [COMMANDS, INFO] {
            let names: Vec<&str> = table.iter().map(|command| command.names).collect();
            assert!(names.is_sorted());
            let mut all: Vec<&str> = names.iter().flat_map(|names| names.split('|')).collect();
            let before = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), before);
        }
    }

    #[test]
    fn words_are_completed_where_they_stand() {
        assert_eq!(complete("sto"), ["stop"]);
        assert_eq!(complete("info st"), ["status"]);
        assert_eq!(complete("help info ve"), ["version"]);
        assert_eq!(complete("stop "), Vec::<String>::new());
        assert_eq!(complete("info ").len(), INFO.len());
    }
}
