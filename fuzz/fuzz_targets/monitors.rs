//! What arrives at monitors: bytes at a QMP server before negotiation, structured commands after
//! it, and lines at the human monitor.
//!
//! Commands that reach for files of the host are left out: the fuzzer must not make any.
#![no_main]

use std::cell::RefCell;

use arbitrary::{Arbitrary, Result, Unstructured};
use base::event_loop::EventLoop;
use libfuzzer_sys::fuzz_target;
use monitor::{hmp, qmp};
use rhea_fuzz::{Board, Socket};
use serde_json::{Map, Value, json};

/// Commands of QMP that stay inside the program.
const QMP: &[&str] = &[
    "query-status",
    "query-version",
    "query-commands",
    "query-chardev",
    "query-cpus-fast",
    "ringbuf-read",
    "ringbuf-write",
    "chardev-send-break",
    "human-monitor-command",
    "inject-nmi",
    "stop",
    "system_powerdown",
    "system_reset",
    "nonsense",
];

/// Commands of the human monitor that stay inside the program.
const HMP: &[&str] = &[
    "help",
    "?",
    "i",
    "info",
    "o",
    "p",
    "print",
    "ringbuf_read",
    "ringbuf_write",
    "stop",
    "sum",
    "system_reset",
    "x",
    "xp",
];

/// Longest list, object and nesting of an argument.
const MOST: usize = 6;

#[derive(Debug)]
enum Input<'a> {
    Bytes(&'a [u8]),
    Commands(Vec<Value>),
    Lines(Vec<String>),
    /// Typed, but never entered.
    Keys(&'a [u8]),
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=3)? {
            0 => Input::Bytes(u.bytes(u.len())?),
            1 => Input::Commands(list(u, command)?),
            2 => Input::Lines(list(u, line)?),
            _ => Input::Keys(u.bytes(u.len())?),
        })
    }
}

fn list<'a, T>(
    u: &mut Unstructured<'a>,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=MOST)?).map(|_| one(u)).collect()
}

fn command(u: &mut Unstructured<'_>) -> Result<Value> {
    let name = *u.choose(QMP)?;
    let mut arguments = match value(u, MOST)? {
        Value::Object(arguments) => arguments,
        other => Map::from_iter([("data".to_owned(), other)]),
    };
    for key in ["device", "id", "format", "size"] {
        if u.arbitrary()? {
            arguments.insert(key.into(), value(u, 1)?);
        }
    }
    if name == "human-monitor-command" {
        arguments.insert("command-line".into(), line(u)?.into());
    }
    Ok(json!({"execute": name, "arguments": arguments, "id": value(u, 2)?}))
}

fn value(u: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match u.int_in_range(0..=7)? {
        0 if depth > 0 => Value::Array(list(u, |u| value(u, depth - 1))?),
        1 if depth > 0 => Value::Object(Map::from_iter(list(u, |u| {
            Ok((String::arbitrary(u)?, value(u, depth - 1)?))
        })?)),
        2 => u.arbitrary::<bool>()?.into(),
        3 => u.arbitrary::<i64>()?.into(),
        4 => u.arbitrary::<f64>()?.into(),
        5 => "ring".into(),
        6 => String::arbitrary(u)?.into(),
        _ => Value::Null,
    })
}

fn line(u: &mut Unstructured<'_>) -> Result<String> {
    let name = *u.choose(HMP)?;
    let rest: String = String::arbitrary(u)?;
    // Keys that edit could make another command of it.
    let rest: String = rest.chars().filter(|c| !c.is_control()).collect();
    Ok(format!("{name} {rest}"))
}

/// A monitor that clients connect to.
struct Monitor {
    socket: Socket,
    /// The monitor's loop: the board's own serves the board.
    main_loop: EventLoop,
}

impl Monitor {
    fn new(board: &Board, control: bool) -> Self {
        let main_loop = EventLoop::new().expect("an event loop");
        let socket = Socket::new(&main_loop, if control { "qmp" } else { "hmp" });
        let served = match control {
            true => qmp::serve(board.target(), &socket.chardev, false),
            false => hmp::serve(board.target(), &socket.chardev, &main_loop.handle()),
        };
        served.expect("a free character device");
        Monitor { socket, main_loop }
    }

    fn serve(&mut self, board: &Board) {
        self.main_loop.run_once(board.clocks(), false).expect("a round");
    }

    /// A client that says these things.
    fn hear<T: AsRef<[u8]>>(&mut self, board: &mut Board, things: impl IntoIterator<Item = T>) {
        let mut client = self.socket.connect();
        self.serve(board);
        for thing in things {
            client.send(thing.as_ref());
            for _ in 0..4 {
                self.serve(board);
                client.receive(1 << 16);
            }
            board.serve();
        }
        drop(client);
        // Once to hear that it is gone, once more to look for the next.
        self.serve(board);
        self.serve(board);
    }
}

/// QMP and the human monitor.
struct Monitors {
    qmp: Monitor,
    hmp: Monitor,
}

thread_local! {
    static MONITORS: RefCell<Option<Monitors>> = const { RefCell::new(None) };
}

fn hear(monitors: &mut Monitors, board: &mut Board, input: Input<'_>) {
    match input {
        // Whatever would negotiate, in whatever spelling, is left to the other inputs.
        Input::Bytes(bytes)
            if bytes.contains(&b'\\') || bytes.windows(12).any(|w| w == b"capabilities") => {}
        Input::Bytes(bytes) => monitors.qmp.hear(board, [bytes]),
        Input::Commands(commands) => {
            let negotiation = json!({"execute": "qmp_capabilities"});
            let messages = std::iter::once(negotiation).chain(commands);
            monitors.qmp.hear(board, messages.map(|message| message.to_string()));
        }
        Input::Lines(lines) => {
            monitors.hmp.hear(board, lines.iter().map(|line| format!("{line}\n")));
        }
        Input::Keys(keys) => {
            let entering = |key: &u8| matches!(key, b'\r' | b'\n');
            let keys: Vec<u8> = keys.iter().copied().filter(|key| !entering(key)).collect();
            // The last keys end what has been begun and forget the line, which would else begin the
            // next client's.
            monitors.hmp.hear(board, [keys.as_slice(), b"\x05\x05\x15"]);
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    Board::with(|board| {
        MONITORS.with_borrow_mut(|slot| {
            let monitors = slot.get_or_insert_with(|| Monitors {
                qmp: Monitor::new(board, true),
                hmp: Monitor::new(board, false),
            });
            hear(monitors, board, input);
        });
    });
});
