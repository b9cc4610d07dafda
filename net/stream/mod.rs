//! Networks over a connection: `-netdev stream`, and `-netdev socket` with `listen=` or `connect=`.
//! Frames go behind their length. passt and other emulators speak the same.

mod connection;
pub(crate) mod framing;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::chardev::{self, Connected, Listening, SocketAddress};
use base::event_loop::{Delay, LoopHandle, Ready, Watch};
use base::thread;
use parking_lot::Mutex;

use crate::netdev::{Context, NetEvent, NetEvents, NetdevKind};
use crate::options::{Kind, Values, must, opt};
use crate::{
    Backend, Cable, Delivery, End, Frame, NetError, Netdev, Offload, Offloads, Part, Plug, Side,
    address,
};
use connection::Connection;
use framing::Deframer;

/// `-netdev stream`.
pub static KIND: NetdevKind = NetdevKind {
    name: "stream",
    keys: &[
        must("addr", Kind::Object("SocketAddress", address::ADDRESS)),
        opt("server", Kind::Bool),
        opt("reconnect", Kind::Uint(32)),
        opt("reconnect-ms", Kind::Int),
    ],
    dotted: true,
    make,
};

/// What `info network` shows of a server that nobody is connected to.
const LISTENING: &str = "listening";

/// How often is read before others get their turn.
const FILLS: usize = 3;

/// As many frames are passed on at once.
const AT_ONCE: usize = 32;

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let address = address::read(values, "addr")?.ok_or(NetError::failed("no address"))?;
    let server = values.bool("server").unwrap_or(false);
    let reconnect = match (values.uint("reconnect"), values.int("reconnect-ms")) {
        (None, None) => None,
        _ if server => {
            return Err(NetError::failed(
                "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(NetError::failed("'reconnect' and 'reconnect-ms' are mutually exclusive"));
        }
        (Some(seconds), None) => Some(Duration::from_secs(seconds)),
        (None, Some(milliseconds)) => Some(Duration::from_millis(milliseconds.max(0) as u64)),
    };
    let role = match server {
        true => Role::Server(address),
        false => Role::Client { address, reconnect: reconnect.filter(|delay| !delay.is_zero()) },
    };
    create(context, "stream", id, role)
}

/// Makes a back end that carries frames over connections.
pub(crate) fn create(
    context: &Context,
    kind: &'static str,
    id: &str,
    role: Role,
) -> Result<Netdev, NetError> {
    let cable = Cable::new(id);
    let plug = cable.plug(Side::Host, 0);
    let stream = Arc::new_cyclic(|me: &Weak<Stream>| Stream {
        me: me.clone(),
        legacy: kind == "socket",
        id: id.into(),
        plug: plug.clone(),
        handle: context.handle.clone(),
        events: context.events.clone(),
        role,
        state: Mutex::new(State::Idle("initializing".into())),
        listener: Mutex::default(),
    });
    let end: Weak<dyn End> = stream.me.clone();
    plug.attach(end);
    stream.begin()?;
    Ok(Netdev { kind, cable, backend: stream })
}

/// Who connects.
#[derive(Clone)]
pub(crate) enum Role {
    /// Others do, one at a time.
    Server(SocketAddress),
    /// This one does, and tries again after a while, perhaps.
    Client { address: SocketAddress, reconnect: Option<Duration> },
}

struct Stream {
    me: Weak<Stream>,
    /// It is a `socket`, which tells nobody of connections.
    legacy: bool,
    id: String,
    plug: Plug,
    handle: LoopHandle,
    events: NetEvents,
    role: Role,
    state: Mutex<State>,
    /// What a server listens with; it wants nothing while somebody is connected.
    listener: Mutex<Option<Watch>>,
}

enum State {
    /// Nobody is connected, for this reason.
    Idle(String),
    Connected {
        connection: Arc<Connection>,
        watch: Watch,
    },
    /// A client waits before it tries again.
    Later {
        _delay: Delay,
    },
}

/// So that a socket can be watched and used.
struct Shared<T>(Arc<T>);

impl<T: AsFd> AsFd for Shared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Stream {
    fn begin(&self) -> Result<(), NetError> {
        match &self.role {
            Role::Server(address) => {
                let words = |error: &dyn std::fmt::Display| NetError::failed(error.to_string());
                let listening = chardev::listen(address).map_err(|error| words(&error))?;
                listening.set_nonblocking().map_err(|error| words(&error))?;
                let listening = Arc::new(listening);
                let (me, accepting) = (self.me.clone(), listening.clone());
                let watch = self.handle.watch(Shared(listening), move |_| {
                    if let Some(stream) = me.upgrade() {
                        stream.accept(&accepting);
                    }
                });
                watch.want_read(true).map_err(|error| words(&error))?;
                *self.listener.lock() = Some(watch);
                *self.state.lock() = State::Idle(LISTENING.into());
            }
            Role::Client { address: SocketAddress::Fd(number), .. } => {
                // There is nothing to wait for, and faults are those of the option.
                let address = SocketAddress::Fd(number.clone());
                let connected = chardev::connect(&address)
                    .map_err(|error| NetError::failed(error.to_string()))?;
                let me = self.me.clone();
                self.handle.schedule(move || {
                    if let Some(stream) = me.upgrade() {
                        stream.adopt(connected);
                    }
                });
            }
            Role::Client { .. } => self.connect(),
        }
        Ok(())
    }

    fn accept(&self, listening: &Listening) {
        if let Ok(connected) = listening.accept() {
            self.listen(false);
            self.adopt(connected);
        }
    }

    fn listen(&self, on: bool) {
        if let Some(watch) = &*self.listener.lock() {
            // It could be watched before.
            let _ = watch.want_read(on);
        }
    }

    /// Connects on a thread of its own, as that may take a while.
    fn connect(&self) {
        let Role::Client { address, .. } = &self.role else { return };
        *self.state.lock() = State::Idle("connecting".into());
        let (me, handle, address) = (self.me.clone(), self.handle.clone(), address.clone());
        let spawned = thread::builder("connect").spawn(move || {
            let outcome = chardev::connect(&address);
            handle.schedule(move || {
                let Some(stream) = me.upgrade() else { return };
                match outcome {
                    Ok(connected) => stream.adopt(connected),
                    Err(error) => stream.idle(&format!("error: {error}")),
                }
            });
        });
        if spawned.is_err() {
            self.idle("error: no thread to connect on");
        }
    }

    /// Takes a connection; on the loop.
    fn adopt(&self, connected: Connected) {
        let Ok(connection) = Connection::new(connected) else { return self.idle("disconnected") };
        let connection = Arc::new(connection);
        let (me, served) = (self.me.clone(), connection.clone());
        let watch = self.handle.watch(Shared(connection.clone()), move |ready| {
            if let Some(stream) = me.upgrade() {
                stream.serve(&served, ready);
            }
        });
        if watch.want_read(true).is_err() {
            return self.idle("disconnected");
        }
        *self.state.lock() = State::Connected { connection, watch };
        let address = match &self.role {
            Role::Server(address) | Role::Client { address, .. } => address.clone(),
        };
        self.tell(NetEvent::StreamConnected { netdev: self.id.clone(), address });
        // Whoever was full while nobody listened goes on.
        self.plug.ready();
    }

    /// Nobody is connected any more; on the loop.
    fn idle(&self, why: &str) {
        let me = self.me.clone();
        let next = match &self.role {
            Role::Client { reconnect: Some(delay), .. } => {
                let retry = move || me.upgrade().into_iter().for_each(|stream| stream.connect());
                State::Later { _delay: self.handle.after(*delay, retry) }
            }
            Role::Client { .. } => State::Idle(why.into()),
            Role::Server(_) => State::Idle(LISTENING.into()),
        };
        let before = std::mem::replace(&mut *self.state.lock(), next);
        if matches!(before, State::Connected { .. }) {
            self.tell(NetEvent::StreamDisconnected { netdev: self.id.clone() });
        }
        self.listen(true);
        // Frames to nobody get lost; who waits for room has it.
        self.plug.ready();
    }

    fn tell(&self, event: NetEvent) {
        if !self.legacy {
            self.events.tell(event);
        }
    }

    /// The connection, if it is this one still.
    fn is_current(&self, connection: &Arc<Connection>) -> bool {
        matches!(&*self.state.lock(), State::Connected { connection: now, .. }
            if Arc::ptr_eq(now, connection))
    }

    fn want(&self, read: Option<bool>, write: Option<bool>) {
        if let State::Connected { watch, .. } = &*self.state.lock() {
            // It could be watched before.
            let _ = read.map(|want| watch.want_read(want));
            let _ = write.map(|want| watch.want_write(want));
        }
    }

    fn serve(&self, connection: &Arc<Connection>, ready: Ready) {
        if !self.is_current(connection) {
            return;
        }
        if ready.writable {
            match connection.catch_up() {
                Ok(true) => {
                    self.want(None, Some(false));
                    self.plug.ready();
                }
                Ok(false) => {}
                Err(_) => return self.idle("disconnected"),
            }
        }
        if ready.readable && self.receive(connection).is_err() {
            self.idle("disconnected");
        }
    }

    /// Passes frames on until there are none, or no room.
    fn receive(&self, connection: &Connection) -> io::Result<()> {
        let mut inbox = connection.inbox.lock();
        let (mut sent, mut fills, mut drained) = (false, 0, false);
        let outcome = loop {
            let (passed, full) = match self.pass_on(&mut inbox) {
                Ok(passed) => passed,
                Err(error) => break Err(error),
            };
            sent |= passed > 0;
            if full {
                self.want(Some(false), None);
                break Ok(());
            }
            if passed > 0 {
                continue;
            }
            // The rest comes when the loop calls again.
            if drained || fills == FILLS {
                break Ok(());
            }
            fills += 1;
            match inbox.fill(&mut &*connection) {
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => drained = inbox.has_room(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        drop(inbox);
        if sent {
            self.plug.flush();
        }
        outcome
    }

    /// Passes on some of the frames that have come; how many, and whether there is no room for more.
    fn pass_on(&self, inbox: &mut Deframer) -> io::Result<(usize, bool)> {
        let mut parts = [Part::from(&[][..]); AT_ONCE];
        let mut ends = [0; AT_ONCE];
        let mut count = 0;
        for frame in inbox.frames().take(AT_ONCE) {
            match frame {
                Ok((bytes, end)) => {
                    (parts[count], ends[count]) = (Part::from(bytes), end);
                    count += 1;
                }
                Err(error) if count == 0 => return Err(error),
                // After those before it.
                Err(_) => break,
            }
        }
        let frames: [Frame<'_>; AT_ONCE] =
            std::array::from_fn(|at| Frame::new(&parts[at..=at], Offload::default()));
        let taken = self.plug.send_all(&frames[..count]);
        if let Some(last) = taken.checked_sub(1) {
            inbox.take_until(ends[last]);
        }
        Ok((taken, taken < count))
    }

    fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.state.lock() {
            State::Connected { connection, .. } => Some(connection.clone()),
            _ => None,
        }
    }
}

impl End for Stream {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let Some(connection) = self.connection() else { return Delivery::Taken };
        // The loop will find a broken connection, too.
        let delivery = connection.send(frame).unwrap_or(Delivery::Taken);
        if delivery == Delivery::Full {
            self.want(None, Some(true));
        }
        delivery
    }

    fn flush(&self) {
        let Some(connection) = self.connection() else { return };
        if matches!(connection.catch_up(), Ok(false)) {
            self.want(None, Some(true));
        }
    }

    fn wake(&self) {
        let me = self.me.clone();
        self.handle.schedule(move || {
            let Some(stream) = me.upgrade() else { return };
            let Some(connection) = stream.connection() else { return };
            stream.want(Some(true), None);
            if stream.receive(&connection).is_err() {
                stream.idle("disconnected");
            }
        });
    }

    fn accepts(&self) -> Offloads {
        // The connection finishes them.
        Offloads::ALL
    }
}

impl Backend for Stream {
    fn info(&self, _lane: usize) -> String {
        match &*self.state.lock() {
            State::Connected { connection, .. } if self.legacy => match &self.role {
                Role::Server(_) => format!("socket: connection from {}", connection.peer()),
                Role::Client { address: SocketAddress::Fd(number), .. } => {
                    format!("socket: fd={number}")
                }
                Role::Client { .. } => format!("socket: connect to {}", connection.peer()),
            },
            State::Connected { connection, .. } => connection.name(),
            _ if self.legacy => String::new(),
            State::Idle(why) => why.clone(),
            State::Later { .. } => "connecting".into(),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.plug.detach();
    }
}
