//! The commands of the human monitor, as one table: help and completion come from it.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;

use base::chardev::ChardevSpec;
use base::options::is_help;
use base::trace_event;
use cpu::Mode;
use machine::config::{DeviceConfig, ObjectConfig, OnWatchdog, PropList};
use machine::networks::Announcement;
use machine::run_state::Cause;
use net::netdev::{self, NetdevSpec};

use super::block;
use super::display;
use super::info::INFO;
use super::input;
use super::memory;
use super::user_net;
use super::vnc;
use super::words::{Arguments, Format};
use crate::qapi::QmpError;
use crate::target::Target;

/// Longest run of memory that `sum` goes through.
const MAX_SUM: u64 = 1 << 30;

/// What commands act upon.
pub(crate) struct Context<'a> {
    target: &'a Arc<Target>,
    /// The processor that commands are about which do not name one.
    pub cpu: Cell<usize>,
    /// Whether the command was the last one.
    pub quits: Cell<bool>,
}

impl<'a> Context<'a> {
    pub fn new(target: &'a Arc<Target>, cpu: usize) -> Self {
        Context { target, cpu: Cell::new(cpu), quits: Cell::new(false) }
    }
}

impl Deref for Context<'_> {
    type Target = Target;
    fn deref(&self) -> &Target {
        self.target
    }
}

/// Why a command did nothing.
pub(super) enum Failure {
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

pub(super) type Printed = Result<String, Failure>;

/// A command: its names, its arguments, what it does, and the function that does it.
pub(super) struct Command {
    /// The name and shorter ones, separated by bars.
    pub names: &'static str,
    pub arguments: &'static str,
    pub help: &'static str,
    pub run: fn(&Context<'_>, &mut Arguments<'_>) -> Printed,
}

impl Command {
    fn is_called(&self, name: &str) -> bool {
        self.names.split('|').any(|known| known == name)
    }

    fn usage(&self, group: &str) -> String {
        format!("{group}{} {} -- {}\n", self.names, self.arguments, self.help)
    }
}

/// Declares a table of commands.
macro_rules! commands {
    ($($names:literal $arguments:literal $help:literal $run:expr;)*) => {
        &[$(Command { names: $names, arguments: $arguments, help: $help, run: $run }),*]
    };
}
pub(super) use commands;

const COMMANDS: &[Command] = commands! {
    "announce_self" "[interfaces] [id]" "tell networks where the guest is" |target, arguments| {
        let interfaces = arguments.word().map(|list| list.split(',').map(str::to_owned).collect());
        let id = arguments.word().map(str::to_owned);
        arguments.end("announce_self")?;
        let clocks = target.vm.clocks();
        target.vm.networks().announce_repeatedly(clocks, Announcement {
            interfaces, id, ..Announcement::default()
        });
        silence()
    };
    "block_resize" "device size" "set the length of a disk" block::resize;
    "block_set_io_throttle" "device bps bps_rd bps_wr iops iops_rd iops_wr" "limit a drive"
        block::throttle;
    "change" "[-f] device filename [format [read-only-mode]]" "exchange a medium, or VNC's password"
        block::change;
    "chardev-add" "args" "make a character device" |target, arguments| {
        let text = arguments.word().ok_or("chardev-add: string expected".to_owned())?;
        arguments.end("chardev-add")?;
        let pairs = pairs(text, "backend")?;
        let spec = ChardevSpec::from_options(&pairs).map_err(QmpError::from)?;
        target.chardevs.create(&spec).map_err(QmpError::from)?;
        silence()
    };
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
    "commit" "device|all" "move what images have to those that back them" block::commit;
    "cont|c" "" "let the guest run" |target, _| {
        target.cont()?;
        silence()
    };
    "cpu" "index" "choose the processor that commands are about" |context, arguments| {
        let index = arguments.expression()?;
        arguments.end("cpu")?;
        let count = context.vm.vcpus().map_or(0, |vcpus| vcpus.count());
        match usize::try_from(index).ok().filter(|&index| index < count) {
            Some(index) => context.cpu.set(index),
            None => return Ok("invalid CPU index\n".into()),
        }
        silence()
    };
    "device_add" "driver[,prop=value][,...]" "add a device" |target, arguments| {
        let text = arguments.word().unwrap_or_default();
        arguments.end("device_add")?;
        let mut props = pairs(text, "driver")?;
        let mut take = |name: &str| {
            let at = props.iter().position(|(key, _)| key == name)?;
            Some(props.remove(at).1)
        };
        let (driver, id, bus) = (take("driver"), take("id"), take("bus"));
        let driver = driver.ok_or_else(|| QmpError::new("Parameter 'driver' is missing"))?;
        let device = DeviceConfig { driver, id, bus, props: PropList::Text(props) };
        if let Some(board) = target.vm.board() {
            board.add_device(&device).map_err(QmpError::from)?;
        }
        silence()
    };
    "device_del" "device" "remove a device" |target, arguments| {
        let id = arguments.word().ok_or("device_del: string expected".to_owned())?;
        arguments.end("device_del")?;
        target.vm.request_removal(id).map_err(QmpError::from)?;
        silence()
    };
    "drive_add" "[-n] bus opts" "add a drive, or a node (-n)" block::drive_add;
    "drive_del" "device" "take a drive's image, and forget the drive" block::drive_del;
    "eject" "[-f] device" "take a medium out (-f: whatever the guest says)" block::eject;
    "expire_password" "protocol time [-d display]" "say until when a viewer's password counts"
        vnc::expire_password;
    "gpa2hva" "addr" "show where the emulator has a physical address" |target, arguments| {
        let address = arguments.expression()?;
        arguments.end("gpa2hva")?;
        let found = target.vm.board().and_then(|board| memory::host(board.memory(), address));
        Ok(match found {
            Some((name, host)) => {
                format!("Host virtual address for {address:#x} ({name}) is {host:#x}\n")
            }
            None => format!("No memory is mapped at address {address:#x}\n"),
        })
    };
    "gva2gpa" "addr" "translate an address of the processor" |context, arguments| {
        let address = arguments.expression()?;
        arguments.end("gva2gpa")?;
        Ok(match context.virtual_memory(context.cpu.get()) {
            None => "No cpu\n".into(),
            Some(memory) => match memory.translate(address) {
                Some(0) => "gpa: 0\n".into(),
                Some(physical) => format!("gpa: {physical:#x}\n"),
                None => "Unmapped\n".into(),
            },
        })
    };
    "help|?" "[cmd]" "say what commands do" |_, arguments| Ok(help(arguments));
    "hostfwd_add" "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport"
        "have a port of the host lead to the guest" user_net::hostfwd_add;
    "hostfwd_remove" "[netdev_id] [tcp|udp]:[hostaddr]:hostport" "end such a forward"
        user_net::hostfwd_remove;
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
    "log" "item1[,...]" "choose what is logged" |_, arguments| {
        let items = arguments.word().ok_or("log: string expected".to_owned())?;
        arguments.end("log")?;
        let chosen = if items == "none" { Ok(Default::default()) } else {
            base::log::parse_items(items)
        };
        match chosen {
            Ok(selection) => {
                base::log::select(&selection);
                for pattern in &selection.trace {
                    base::trace::set_enabled(pattern, true);
                }
                silence()
            }
            Err(_) => Ok(base::log::help().replace("\"-d trace", "\"log trace")),
        }
    };
    "logfile" "filename" "write the log to a file" |_, arguments| {
        let path = arguments.word().ok_or("logfile: filename expected".to_owned())?;
        arguments.end("logfile")?;
        match base::log::open(path) {
            Ok(()) => silence(),
            Err(error) => refuse(&error.to_string()),
        }
    };
    "mouse_button" "state" "press and release mouse buttons (1=L, 2=R, 4=M)" input::mouse_button;
    "mouse_move" "dx dy [dz]" "move the mouse" input::mouse_move;
    "mouse_set" "index" "choose the mouse that gets events" input::mouse_set;
    "netdev_add" "[type],id=str[,prop=value][,...]" "make a network" |target, arguments| {
        // Without any options the first thing that is missing is the id.
        let text = arguments.word().unwrap_or_default();
        arguments.end("netdev_add")?;
        if is_help(text) {
            return Ok(netdev::help_text());
        }
        let keys = netdev::read_keys(text).map_err(QmpError::from)?;
        if !keys.contains_key("id") {
            return refuse("Parameter 'id' is missing");
        }
        let spec = NetdevSpec::from_tree(&keys).map_err(QmpError::from)?;
        target.vm.networks().add(&spec).map_err(QmpError::from)?;
        silence()
    };
    "netdev_del" "id" "remove a network" |target, arguments| {
        let id = arguments.word().ok_or("netdev_del: string expected".to_owned())?;
        arguments.end("netdev_del")?;
        target.vm.remove_network(id).map_err(QmpError::from)?;
        silence()
    };
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
    "object_add" "qom-type,id=id[,prop=value[,...]]" "make an object" |target, arguments| {
        let text = arguments.word().ok_or("object_add: string expected".to_owned())?;
        arguments.end("object_add")?;
        let mut props = pairs(text, "qom-type")?;
        let mut take = |name: &str| {
            let at = props.iter().position(|(key, _)| key == name);
            let at = at.ok_or_else(|| QmpError::new(format!("Parameter '{name}' is missing")))?;
            Ok::<_, QmpError>(props.remove(at).1)
        };
        let (type_name, id) = (take("qom-type")?, take("id")?);
        let config = ObjectConfig { type_name, id, props: PropList::Text(props) };
        target.vm.user_objects().add(&config).map_err(QmpError::from)?;
        silence()
    };
    "object_del" "id" "remove an object" |target, arguments| {
        let id = arguments.word().ok_or("object_del: string expected".to_owned())?;
        arguments.end("object_del")?;
        target.vm.user_objects().remove(id).map_err(QmpError::from)?;
        silence()
    };
    "print|p" "/fmt expr" "compute" |_, arguments| {
        let format = arguments.format()?;
        let value = arguments.expression()?;
        Ok(memory::number(value, format.map_or('x', |format| format.shown), 8) + "\n")
    };
    "qemu-io" "[-d] device \"command\"" "requests by hand to a disk; -d: the device's id is given"
        block::request;
    "qom-get" "path property" "show a property of an object" |target, arguments| {
        let path = arguments.word().ok_or("qom-get: string expected".to_owned())?;
        let name = arguments.word().ok_or("qom-get: string expected".to_owned())?;
        arguments.end("qom-get")?;
        let (path, object) = target.object(path)?;
        let value = object.get(&path, name).map_err(QmpError::from)?;
        Ok(serde_json::to_string_pretty(&value).unwrap_or_default() + "\n")
    };
    "qom-list" "path" "list the properties of an object" |target, arguments| {
        let Some(path) = arguments.word() else { return Ok("/\n".into()) };
        arguments.end("qom-list")?;
        let (_, object) = target.object(path)?;
        let line = |listed: &base::object::Listed| {
            format!("{} ({})\n", listed.name, listed.type_name)
        };
        Ok(object.list().iter().map(line).collect())
    };
    "qom-set" "path property value" "set a property of an object" |target, arguments| {
        let path = arguments.word().ok_or("qom-set: string expected".to_owned())?;
        let name = arguments.word().ok_or("qom-set: string expected".to_owned())?;
        let text = arguments.word().ok_or("qom-set: string expected".to_owned())?;
        arguments.end("qom-set")?;
        let (_, object) = target.object(path)?;
        // What is no JSON is text.
        let value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        object.set(name, &value).map_err(QmpError::from)?;
        silence()
    };
    "quit|q" "" "end the machine and the program" |target, _| {
        target.vm.shut_down(Cause::HostQmpQuit);
        target.quits.set(true);
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
    "screendump" "filename [-f format] [device [head]]" "save a picture of a screen" display::screendump;
    "sendkey" "keys [hold_ms]" "press keys (for example ctrl-alt-f1), by default for 10 ms"
        input::sendkey;
    "set_link" "name on|off" "plug in or pull the cable of a card or a network" |target, arguments| {
        let name = arguments.word().ok_or("set_link: string expected".to_owned())?;
        let up = match arguments.word() {
            Some("on") => true,
            Some("off") => false,
            _ => return Err("Expected 'on' or 'off'".to_owned().into()),
        };
        arguments.end("set_link")?;
        target.vm.networks().set_link(name, up).map_err(QmpError::from)?;
        silence()
    };
    "set_password" "protocol password [-d display] [action-if-connected]"
        "set the password of viewers" vnc::set_password;
    "snapshot_blkdev" "[-n] device [new-image-file [format]]" "put an overlay over a disk"
        block::snapshot;
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
    "trace-event" "name on|off" "start or stop recording trace events" |_, arguments| {
        let name = arguments.word().ok_or("trace-event: string expected".to_owned())?;
        let on = arguments.switch()?;
        arguments.end("trace-event")?;
        if base::trace::set_enabled(name, on) == 0 && !name.contains(['*', '?']) {
            return Ok(format!("unknown event \"{name}\"\n"));
        }
        silence()
    };
    "watchdog_action" "action" "say what happens when a watchdog expires" |target, arguments| {
        let word = arguments.word().ok_or("watchdog_action: string expected".to_owned())?;
        arguments.end("watchdog_action")?;
        let Some(&action) = OnWatchdog::ALL.iter().find(|action| action.as_str() == word) else {
            return refuse(&format!("invalid parameter value: {word}"));
        };
        target.vm.set_actions(|actions| actions.watchdog = action);
        silence()
    };
    "x" "/fmt addr" "show memory as the processor sees it" |context, arguments| {
        let (format, address) = dumped(arguments)?;
        let Some(memory) = context.virtual_memory(context.cpu.get()) else {
            return Ok("Can not dump without CPU\n".into());
        };
        let bits = code_bits(context);
        Ok(memory::dump(&|at, bytes| memory.read(at, bytes).is_ok(), address, format, bits))
    };
    "xp" "/fmt addr" "show physical memory" |target, arguments| {
        let (format, address) = dumped(arguments)?;
        let read = |at, bytes: &mut [u8]| match target.vm.board() {
            Some(board) => memory::read_physical(board.memory(), at, bytes),
            None => false,
        };
        Ok(memory::dump(&read, address, format, code_bits(target)))
    };
};

pub(super) fn silence() -> Printed {
    Ok(String::new())
}

/// Nothing was done, for a reason.
pub(super) fn refuse(reason: &str) -> Printed {
    Err(Failure::Refused(QmpError::new(reason)))
}

/// Executes a line and returns what is printed, each line ending in CR LF.
pub(crate) fn execute(context: &Context<'_>, line: &str) -> String {
    if line.trim().is_empty() {
        return String::new();
    }
    trace_event!(handle_hmp_command, "cmdline: {line}");
    run(context, COMMANDS, "", line).replace('\n', "\r\n")
}

/// What `info` prints about a subject.
pub(crate) fn about(target: &Arc<Target>, subject: &str) -> String {
    run(&Context::new(target, 0), INFO, "info ", subject)
}

/// Runs a command of `table`, whose commands come after `group`.
fn run(context: &Context<'_>, table: &[Command], group: &str, line: &str) -> String {
    let line = line.trim_start();
    // A format may follow a name without a blank.
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let Some(command) = table.iter().find(|command| command.is_called(name)) else {
        let word = line.split_whitespace().next().unwrap_or_default();
        return format!("unknown command: '{group}{word}'\n");
    };
    let registers;
    let rest = if rest.contains('$') {
        registers = with_registers(context, rest);
        match &registers {
            Some(rest) => rest.as_str(),
            None => return usage("unknown register", group, name),
        }
    } else {
        rest
    };
    let mut arguments = Arguments(rest);
    // Nothing is done before it is known that nothing is left over: those that take no arguments
    // are looked at here, the others do it themselves if they change anything.
    let printed = match command.arguments {
        "" => arguments.end(command.names).map_err(Failure::from),
        _ => Ok(()),
    }
    .and_then(|()| (command.run)(context, &mut arguments))
    .and_then(|text| arguments.end(command.names).map(|()| text).map_err(Failure::from));
    match printed {
        Ok(text) => text,
        Err(Failure::Usage(problem)) => usage(&problem, group, name),
        Err(Failure::Refused(error)) => format!("Error: {error}\n"),
    }
}

fn usage(problem: &str, group: &str, name: &str) -> String {
    format!("{problem}\nTry \"help {group}{name}\" for more information\n")
}

/// Arguments with the values of registers for their names (`$rip`); `None` if one is not known.
fn with_registers(context: &Context<'_>, arguments: &str) -> Option<String> {
    let state = context.cpu_state(context.cpu.get())?;
    let mut pieces = arguments.split('$');
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(piece.len());
        let (name, rest) = piece.split_at(end);
        text += &format!("{:#x}{rest}", memory::register(&state, name)?);
    }
    Some(text)
}

fn info(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let line = std::mem::take(&mut arguments.0);
    if line.trim().is_empty() {
        return Ok(INFO.iter().map(|command| command.usage("info ")).collect());
    }
    Ok(run(context, INFO, "info ", line))
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
pub(super) fn complete(target: &Target, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let last = if line.ends_with(' ') { "" } else { words.last().copied().unwrap_or_default() };
    let before = &words[..words.len() - usize::from(!last.is_empty())];
    let table = match before {
        [] | ["help" | "?"] => COMMANDS,
        ["info"] | ["help" | "?", "info"] => INFO,
        before => {
            let mut words = argument_words(target, before);
            words.retain(|word| word.starts_with(last));
            return words;
        }
    };
    let names = table.iter().flat_map(|command| command.names.split('|'));
    names.filter(|name| name.starts_with(last)).map(str::to_owned).collect()
}

/// The keys and values of an option; the first may go without its key.
fn pairs(text: &str, implied: &'static str) -> Result<Vec<(String, String)>, QmpError> {
    let is_key = |name: &str| base::chardev::OPTIONS.iter().any(|(known, _)| *known == name);
    let parsed = base::options::ParsedOpts::parse(text, Some(implied), is_key);
    let parsed = parsed.map_err(|error| QmpError::new(error.to_string()))?;
    let id = parsed.opts.id.map(|id| ("id".to_owned(), id));
    Ok(parsed.opts.entries.into_iter().chain(id).collect())
}

/// The format and address of memory to show.
fn dumped(arguments: &mut Arguments<'_>) -> Result<(Format, u64), String> {
    let format = arguments.format()?.unwrap_or(Format { count: 1, shown: 'x', size: None });
    Ok((format, arguments.expression()?))
}

/// The width of the code that the current processor executes.
fn code_bits(context: &Context<'_>) -> u8 {
    context.cpu_state(context.cpu.get()).map_or(32, |state| Mode::of(&state).code_bits)
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

/// What the next argument of a command may be.
fn argument_words(target: &Target, before: &[&str]) -> Vec<String> {
    let labels = || target.chardevs.query().into_iter().map(|device| device.label);
    match before {
        ["chardev-remove" | "chardev-send-break"] => labels().collect(),
        ["ringbuf_read" | "ringbuf_write"] => {
            labels().filter(|label| target.ring(label).is_ok()).collect()
        }
        ["object_del"] => {
            target.vm.user_objects().memory().into_iter().map(|memory| memory.id).collect()
        }
        ["object_add"] => base::memory::backend::TYPES.map(Into::into).into(),
        ["chardev-add"] => base::chardev::BACKENDS.iter().map(|name| (*name).into()).collect(),
        ["trace-event"] | ["info", "trace-events"] => {
            base::trace::names().into_iter().map(Into::into).collect()
        }
        ["sendkey"] => base::input::KeyCode::ALL.iter().map(|key| key.name().into()).collect(),
        ["trace-event", _] => ["off", "on"].map(Into::into).into(),
        ["watchdog_action"] => {
            OnWatchdog::ALL.iter().map(|action| action.as_str().into()).collect()
        }
        _ => Vec::new(),
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
}
