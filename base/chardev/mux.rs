//! Several front ends on one back end (`mux=on`). Output of all goes out; input goes to the one
//! that has the focus. An escape character (Ctrl-A, or what `-echr` says) introduces commands.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::link::Link;
use super::registry::Context;
use super::{Backend, CharClient, CharEvent, CharPort, Chardev, ChardevError, Connection};
use crate::event_loop::BottomHalf;

/// How much input waits for a front end that is busy, before reading stops.
const PENDING_MAX: usize = 32;

/// What escape commands do beyond the chardev itself. Called on the loop's thread.
pub trait EscapeActions: Send + Sync {
    /// Leave the program.
    fn quit(&self);
    /// Write the changes of all temporary snapshots to their images.
    fn commit_snapshots(&self);
}

pub(super) struct Mux {
    base: CharPort,
    escape: u8,
    actions: Arc<dyn EscapeActions>,
    state: Mutex<State>,
    /// Passes on news and waiting input from the loop's thread, whoever made room for it. The loop does
    /// not run before the machine is complete, so that front ends that only have the focus until the
    /// next one comes never hear of it.
    deliver: BottomHalf,
    this: Weak<Mux>,
}

#[derive(Default)]
struct State {
    channels: Vec<Option<Arc<Channel>>>,
    focus: usize,
    /// Who was told last that it has the focus.
    told: Option<usize>,
    open: bool,
    escaped: bool,
    stamps: Option<Stamps>,
}

/// Time stamps at the start of output lines (`C-a t`).
struct Stamps {
    since: Instant,
    at_line_start: bool,
    /// A stamp of which this much has still to be written.
    unsent: VecDeque<u8>,
}

/// One front end's place; it is that front end's back end.
struct Channel {
    mux: Weak<Mux>,
    index: usize,
    link: Arc<Link>,
    /// The front end knows whether the base is open.
    announced: AtomicBool,
    pending: Mutex<VecDeque<u8>>,
}

/// What a byte of input asks for.
enum Command {
    Print(Vec<u8>),
    Quit,
    CommitSnapshots,
    Break,
    NextFocus,
    Nothing,
}

impl Mux {
    pub(super) fn new(context: &Context, base: &Chardev) -> Result<Arc<Mux>, ChardevError> {
        // The base's client needs the mux, and the mux needs its port on the base.
        let client = Arc::new(BaseClient::default());
        let port = base.attach(client.clone())?;
        let open = port.is_connected();
        let mux = Arc::new_cyclic(|this: &Weak<Mux>| {
            let mux = this.clone();
            Mux {
                base: port,
                escape: context.escape,
                actions: context.escape_actions.clone(),
                state: Mutex::new(State { open, ..State::default() }),
                deliver: context.handle.bottom_half(move || {
                    if let Some(mux) = mux.upgrade() {
                        mux.announce();
                        mux.deliver();
                    }
                }),
                this: this.clone(),
            }
        });
        *client.0.lock() = Arc::downgrade(&mux);
        mux.base.accept_input();
        Ok(mux)
    }

    /// Adds a front end, which gets the focus.
    pub(super) fn attach(&self, client: Arc<dyn CharClient>) -> Connection {
        let mut state = self.state.lock();
        let free = state.channels.iter().position(Option::is_none);
        let index = free.unwrap_or(state.channels.len());
        let link = Link::new(None);
        let channel = Arc::new(Channel {
            mux: self.this.clone(),
            index,
            link: link.clone(),
            announced: AtomicBool::new(false),
            pending: Mutex::default(),
        });
        match state.channels.get_mut(index) {
            Some(slot) => *slot = Some(channel.clone()),
            None => state.channels.push(Some(channel.clone())),
        }
        drop(state);

        link.attach(client);
        self.focus(index);
        Connection { link, backend: channel }
    }

    pub(super) fn in_use(&self) -> bool {
        self.state.lock().channels.iter().any(Option::is_some)
    }

    pub(super) fn send_break(&self) {
        if let Some(channel) = self.focused() {
            channel.link.event(CharEvent::Break);
        }
    }

    fn focused(&self) -> Option<Arc<Channel>> {
        let state = self.state.lock();
        state.channels.get(state.focus)?.clone()
    }

    fn all_channels(&self) -> Vec<Arc<Channel>> {
        self.state.lock().channels.iter().flatten().cloned().collect()
    }

    fn focus(&self, index: usize) {
        self.state.lock().focus = index;
        self.deliver.schedule();
    }

    /// Tells front ends what is new: that there is a base, and who has the focus.
    fn announce(&self) {
        let mut state = self.state.lock();
        let get = |state: &State, index: usize| state.channels.get(index).cloned().flatten();
        let (open, now, focus) = (state.open, state.focus, get(&state, state.focus));
        let told = state.told.replace(now).filter(|told| *told != now);
        let lost = told.and_then(|told| get(&state, told));
        let gained = focus.filter(|focus| told.is_some() || !focus.announced.load(Relaxed));
        drop(state);
        if let Some(lost) = lost {
            lost.link.event(CharEvent::FocusLost);
        }
        for channel in self.all_channels() {
            if !channel.announced.swap(true, Relaxed) {
                channel.link.event(CharEvent::FocusLost);
                if open {
                    channel.link.event(CharEvent::Opened);
                }
            }
        }
        if let Some(gained) = gained {
            gained.link.event(CharEvent::FocusGained);
        }
    }

    fn focus_next(&self) {
        let state = self.state.lock();
        let count = state.channels.len();
        let next = (1..=count)
            .map(|step| (state.focus + step) % count)
            .find(|&index| state.channels[index].is_some());
        drop(state);
        if let Some(next) = next {
            self.focus(next);
        }
    }

    fn can_receive(&self) -> usize {
        let pending = self.focused().map_or(0, |channel| channel.pending.lock().len());
        PENDING_MAX.saturating_sub(pending)
    }

    fn receive(&self, bytes: &[u8]) {
        for &byte in bytes {
            match self.interpret(byte) {
                None => {
                    if let Some(channel) = self.focused() {
                        channel.pending.lock().push_back(byte);
                    }
                    continue;
                }
                Some(Command::Print(text)) => self.print(&text),
                Some(Command::Quit) => {
                    self.print(b"QEMU: Terminated\n\r");
                    self.actions.quit();
                }
                Some(Command::CommitSnapshots) => self.actions.commit_snapshots(),
                Some(Command::Break) => {
                    // What was typed before the break comes before it.
                    self.deliver();
                    self.send_break();
                }
                Some(Command::NextFocus) => {
                    self.deliver();
                    self.focus_next();
                    self.announce();
                }
                Some(Command::Nothing) => {}
            }
        }
        self.deliver();
    }

    /// `None` if the byte is data.
    fn interpret(&self, byte: u8) -> Option<Command> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.escaped) {
            state.escaped = byte == self.escape;
            return state.escaped.then_some(Command::Nothing);
        }
        if byte == self.escape {
            return None;
        }
        Some(match byte {
            b'?' | b'h' => Command::Print(help(self.escape)),
            b'x' => Command::Quit,
            b's' => Command::CommitSnapshots,
            b'b' => Command::Break,
            b'c' => Command::NextFocus,
            b't' => {
                state.stamps = match state.stamps {
                    Some(_) => None,
                    None => Some(Stamps::new()),
                };
                Command::Nothing
            }
            _ => Command::Nothing,
        })
    }

    /// The mux's own words. If the terminal takes no more right now, they are cut short: they are
    /// an answer to somebody who is looking at it.
    fn print(&self, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            match self.write(rest) {
                0 => return,
                n => rest = &rest[n..],
            }
        }
    }

    /// Passes waiting input to the front end that has the focus; on the loop's thread.
    fn deliver(&self) {
        let Some(channel) = self.focused() else { return };
        loop {
            let room = channel.link.can_receive();
            let bytes: Vec<u8> = {
                let mut pending = channel.pending.lock();
                let count = room.min(pending.len());
                pending.drain(..count).collect()
            };
            if bytes.is_empty() {
                break;
            }
            channel.link.receive(&bytes);
        }
        self.base.accept_input();
    }

    /// Writes to the back end, with time stamps if they are on. Returns how much of `bytes` is
    /// done.
    fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let Some(stamps) = &mut state.stamps else {
            drop(state);
            return self.base.write(bytes);
        };
        let mut done = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            stamps.start_line();
            if !stamps.send_stamp(&self.base) {
                break;
            }
            let written = self.base.write(line);
            done += written;
            stamps.at_line_start = written > 0 && line[written - 1] == b'\n';
            if written < line.len() {
                break;
            }
        }
        done
    }

    fn base_event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.state.lock().open = true,
            CharEvent::Closed => self.state.lock().open = false,
            CharEvent::Break => return self.send_break(),
            CharEvent::FocusGained | CharEvent::FocusLost => return,
        }
        for channel in self.all_channels() {
            if channel.announced.load(Relaxed) {
                channel.link.event(event);
            }
        }
    }
}

impl Stamps {
    fn new() -> Stamps {
        Stamps { since: Instant::now(), at_line_start: false, unsent: VecDeque::new() }
    }

    fn start_line(&mut self) {
        if std::mem::take(&mut self.at_line_start) {
            let elapsed = self.since.elapsed();
            let seconds = elapsed.as_secs();
            let stamp = format!(
                "[{:02}:{:02}:{:02}.{:03}] ",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60,
                elapsed.subsec_millis()
            );
            self.unsent.extend(stamp.bytes());
        }
    }

    /// Whether nothing of a stamp is left to send.
    fn send_stamp(&mut self, base: &CharPort) -> bool {
        if !self.unsent.is_empty() {
            let written = base.write(self.unsent.make_contiguous());
            self.unsent.drain(..written);
        }
        self.unsent.is_empty()
    }
}

/// The help text, to the letter.
fn help(escape: u8) -> Vec<u8> {
    let name = match escape {
        1..=26 => format!("C-{}", char::from(escape - 1 + b'a')),
        _ => "Escape-Char".into(),
    };
    let mut text = String::new();
    if !(1..=26).contains(&escape) {
        text += &format!("\n\rEscape-Char set to Ascii: {escape:#04x}\n\r");
    }
    text += "\n\r";
    for (key, what) in [
        ("h", "  print this help"),
        ("x", "  exit emulator"),
        ("s", "  save disk data back to file (if -snapshot)"),
        ("t", "  toggle console timestamps"),
        ("b", "  send break (magic sysrq)"),
        ("c", "  switch between console and monitor"),
    ] {
        text += &format!("{name} {key}  {what}\n\r");
    }
    text += &format!("{name} {name}  sends {name}\n\r");
    text.into_bytes()
}

impl Backend for Channel {
    fn write(&self, bytes: &[u8]) -> usize {
        self.mux.upgrade().map_or(bytes.len(), |mux| mux.write(bytes))
    }

    fn accept_input(&self) {
        if let Some(mux) = self.mux.upgrade() {
            mux.deliver.schedule();
        }
    }

    fn filename(&self) -> String {
        "mux".into()
    }

    fn take_focus(&self) {
        if let Some(mux) = self.mux.upgrade() {
            mux.focus(self.index);
        }
    }

    fn detached(&self) {
        let Some(mux) = self.mux.upgrade() else { return };
        let mut state = mux.state.lock();
        let gone = state.channels.get_mut(self.index).and_then(Option::take);
        let had_focus = state.focus == self.index;
        drop(state);
        drop(gone);
        if had_focus {
            mux.focus_next();
        }
    }
}

/// The mux as the client of its base.
#[derive(Default)]
struct BaseClient(Mutex<Weak<Mux>>);

impl BaseClient {
    fn mux(&self) -> Option<Arc<Mux>> {
        self.0.lock().upgrade()
    }
}

impl CharClient for BaseClient {
    fn can_receive(&self) -> usize {
        self.mux().map_or(0, |mux| mux.can_receive())
    }

    fn receive(&self, bytes: &[u8]) {
        if let Some(mux) = self.mux() {
            mux.receive(bytes);
        }
    }

    fn event(&self, event: CharEvent) {
        if let Some(mux) = self.mux() {
            mux.base_event(event);
        }
    }

    /// Whoever was refused tries again; the others find that they have nothing to send.
    fn write_ready(&self) {
        for channel in self.mux().map(|mux| mux.all_channels()).unwrap_or_default() {
            channel.link.write_ready();
        }
    }
}
