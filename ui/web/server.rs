//! A server: where it listens, and who visits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::chardev::{Chardevs, Connected, Listening, SocketAddress, TextConsole, listen};
use base::event_loop::LoopHandle;
use base::input::Router;
use base::options::Opts;
use base::tls::X509;
use base::trace_event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::utsname::uname;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::connection::{Connection, ConnectionError};
use super::front::Front;
use super::options::{Settings, Token};
use super::{Host, WebError};
use crate::keymap::Keymap;
use crate::vnc::{self, Endpoint, Power, Share};
use crate::wire::{Socket, Wire};
use crate::{Console, Consoles};

/// Connections of people who have not told the token. A page being loaded needs six.
const MAX_STRANGERS: usize = 32;
/// How long to wait when the host has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// What a server works with.
#[derive(Clone)]
pub struct Surroundings {
    /// The main loop.
    pub main_loop: LoopHandle,
    /// What there is to see.
    pub consoles: Arc<Consoles>,
    /// Where keys and movements go.
    pub input: Arc<Router>,
    /// Where terminals are.
    pub chardevs: Arc<Chardevs>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// What the guest is called.
    pub name: Option<String>,
    /// The layout of the guest's keyboard.
    pub keymap: Arc<Keymap>,
    /// The operator has chosen the layout.
    pub keymap_chosen: bool,
}

/// Somebody who is connected.
pub struct Visitor {
    number: u64,
    socket: OwnedFd,
    knows_token: AtomicBool,
    leaving: AtomicBool,
}

impl Visitor {
    /// Ends the connection, wherever its thread waits.
    fn send_away(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        // Fails if it has ended already.
        let _ =
            nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// A server. It listens until it is closed.
pub struct Server {
    settings: Settings,
    around: Surroundings,
    front: Front,
    tls: Option<Arc<X509>>,
    screens: Arc<vnc::Server>,
    listening: Listening,
    visitors: Mutex<Vec<Arc<Visitor>>>,
    /// A visitor's thread has ended.
    gone: Condvar,
    next_visitor: AtomicU64,
    ending: Arc<EventFd>,
}

/// Power is switched by monitors here, and management does not hear of visitors.
struct Quiet;

impl vnc::Host for Quiet {
    fn power(&self, _: Power) {}
    fn happened(&self, _: &vnc::Event) {}
}

impl Server {
    /// Starts a server.
    pub fn start(
        settings: Settings,
        around: Surroundings,
        tls: Option<Arc<X509>>,
        token: Token,
    ) -> Result<Arc<Self>, WebError> {
        let listening = listen(&settings.address)?;
        listening.set_nonblocking()?;
        let mut hosts = settings.allowed_hosts.clone();
        hosts.extend(own_name().map(|name| name.to_lowercase()));
        let screens = vnc::Server::start(
            "web",
            screen_settings(&settings)?,
            vnc::Surroundings {
                main_loop: around.main_loop.clone(),
                consoles: around.consoles.clone(),
                input: around.input.clone(),
                host: Arc::new(Quiet),
                title: around.name.clone().unwrap_or_else(|| "Rhea".into()),
                keymap: around.keymap.clone(),
                keymap_chosen: around.keymap_chosen,
            },
            None,
            None,
        )?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let server = Arc::new(Server {
            front: Front::new(token, hosts),
            settings,
            around,
            tls,
            screens,
            listening,
            visitors: Mutex::default(),
            gone: Condvar::new(),
            next_visitor: AtomicU64::new(1),
            ending: Arc::new(EventFd::from_value_and_flags(0, flags).map_err(io::Error::from)?),
        });
        let me = Arc::downgrade(&server);
        base::thread::builder("web").spawn(move || accept_all(&me))?;
        Ok(server)
    }

    /// Where people get in, the token included.
    pub fn url(&self) -> String {
        let token = self.front.token().as_str();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let address = match &self.listening {
            Listening::Tcp(listener) => listener.local_addr(),
            Listening::Unix(_) => {
                let SocketAddress::Unix { path, .. } = &self.settings.address else {
                    return String::new();
                };
                return format!("unix:{path}#token={token}");
            }
        };
        let Ok(address) = address else { return String::new() };
        let place = match own_name().filter(|_| address.ip().is_unspecified()) {
            Some(name) => format!("{name}:{}", address.port()),
            None => address.to_string(),
        };
        format!("{scheme}://{place}/#token={token}")
    }

    /// Whether others on the network can read what is said.
    pub fn is_exposed(&self) -> bool {
        let Listening::Tcp(listener) = &self.listening else { return false };
        let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        !local && self.tls.is_none()
    }

    /// Ends all connections and listens no more.
    pub fn close(&self) {
        // Fails only when it has been woken too often to count, and wakes all the same.
        let _ = self.ending.write(1);
        self.visitors.lock().iter().for_each(|visitor| visitor.send_away());
        if let SocketAddress::Unix { path, .. } = &self.settings.address {
            // If somebody else has removed it, so much the better.
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn front(&self) -> &Front {
        &self.front
    }

    pub(super) fn screens(&self) -> &Arc<vnc::Server> {
        &self.screens
    }

    pub(super) fn host(&self) -> &dyn Host {
        &*self.around.host
    }

    pub(super) fn input(&self) -> &Router {
        &self.around.input
    }

    pub(super) fn keymap(&self) -> &Keymap {
        &self.around.keymap
    }

    /// The console of a number; without one, the first if there is any.
    pub(super) fn console(&self, number: Option<usize>) -> Result<Option<Arc<Console>>, NoConsole> {
        let consoles = &self.around.consoles;
        let Some(number) = number else { return Ok(consoles.first()) };
        let all = consoles.all();
        let found = all.into_iter().find(|console| console.index() == number);
        found.map(Some).ok_or(NoConsole)
    }

    pub(super) fn terminal(&self, id: &str) -> Option<Arc<TextConsole>> {
        self.around.chardevs.get(id).ok()?.text_console()
    }

    /// What there is, for the page.
    pub(super) fn machine(&self) -> Value {
        let around = &self.around;
        let terminals = around.host.terminals();
        let terminal = |info: &super::TerminalInfo| json!({"id": info.id, "title": info.title});
        let screen =
            |console: &Arc<Console>| json!({"number": console.index(), "title": console.label()});
        json!({
            "name": around.name,
            "version": env!("CARGO_PKG_VERSION"),
            "terminals": terminals.iter().map(terminal).collect::<Vec<_>>(),
            "screens": around.consoles.all().iter().map(screen).collect::<Vec<_>>(),
        })
    }

    /// What the machine has done, for the page.
    pub(super) fn figures(&self) -> Value {
        let figures = self.around.host.figures();
        let flow = |(name, [inward, outward]): &(String, [u64; 2])| json!({"name": name, "in": inward, "out": outward});
        json!({
            "processors": figures.processors,
            "drives": figures.drives.iter().map(flow).collect::<Vec<_>>(),
            "cards": figures.cards.iter().map(flow).collect::<Vec<_>>(),
        })
    }

    /// A visitor knows the token; says whether there is room for one more who does.
    pub(super) fn welcome(&self, visitor: &Visitor) -> bool {
        let visitors = self.visitors.lock();
        let known = |visitor: &Visitor| visitor.knows_token.load(Ordering::Relaxed);
        let count = visitors.iter().filter(|other| known(other)).count();
        if !known(visitor) && count >= self.settings.connections {
            return false;
        }
        visitor.knows_token.store(true, Ordering::Relaxed);
        true
    }

    /// Gives a visitor a thread.
    fn admit(self: &Arc<Self>, connected: Connected) -> Result<(), ConnectionError> {
        let (socket, local, peer) = Endpoint::both(connected, true);
        socket.prepare()?;
        let visitor = Arc::new(Visitor {
            number: self.next_visitor.fetch_add(1, Ordering::Relaxed),
            socket: socket.as_fd().try_clone_to_owned()?,
            knows_token: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        });
        self.make_room();
        self.visitors.lock().push(visitor.clone());
        let server = self.clone();
        let thread = base::thread::builder("web").spawn(move || {
            if let Err(error) = server.serve(socket, (local, peer), &visitor) {
                trace_event!(web_visitor_gone, "{error}");
            }
            server.visitors.lock().retain(|known| known.number != visitor.number);
            server.gone.notify_one();
        });
        if let Err(error) = thread {
            // Nobody serves the one that came last.
            self.visitors.lock().pop();
            return Err(error.into());
        }
        Ok(())
    }

    fn serve(
        self: &Arc<Self>,
        socket: Socket,
        ends: (Endpoint, Endpoint),
        visitor: &Arc<Visitor>,
    ) -> Result<(), ConnectionError> {
        let mut wire = Wire::new(socket);
        if let Some(tls) = &self.tls {
            let config = tls.server().map_err(io::Error::other)?;
            wire.encrypt(config)?;
        }
        let (server, visitor) = (self.clone(), visitor.clone());
        Connection { wire, ends, server, visitor, input: Vec::new() }.serve()
    }

    /// Of those who have not told the token, the one that has been here longest has to go if there
    /// are too many. Where many come at once, the next one waits until enough threads have ended:
    /// whoever has to go waits for nothing but its socket, which is shut.
    fn make_room(&self) {
        let mut visitors = self.visitors.lock();
        let is_stranger = |visitor: &&Arc<Visitor>| {
            ![&visitor.knows_token, &visitor.leaving].iter().any(|is| is.load(Ordering::Relaxed))
        };
        let mut strangers = visitors.iter().filter(is_stranger);
        if strangers.clone().count() >= MAX_STRANGERS
            && let Some(first) = strangers.next()
        {
            first.send_away();
        }
        let places = self.settings.connections.saturating_add(2 * MAX_STRANGERS);
        self.gone.wait_while(&mut visitors, |visitors| visitors.len() >= places);
    }
}

/// What this host is called.
fn own_name() -> Option<String> {
    Some(uname().ok()?.nodename().to_string_lossy().into_owned())
}

/// There is no console of that number.
#[derive(Debug)]
pub struct NoConsole;

/// Everybody who gets in may look, together with all others.
fn screen_settings(settings: &Settings) -> Result<vnc::Settings, WebError> {
    Ok(vnc::Settings {
        share: Share::Ignore,
        connections: settings.connections,
        lossy: settings.lossy,
        ..vnc::Settings::new(&Opts::default())?
    })
}

/// Accepts until the server has gone or is to end.
fn accept_all(server: &Weak<Server>) {
    let Some(ending) = server.upgrade().map(|server| server.ending.clone()) else { return };
    while let Some(server) = server.upgrade() {
        let mut fds = [
            PollFd::new(server.listening.as_fd(), PollFlags::POLLIN),
            PollFd::new(ending.as_fd(), PollFlags::POLLIN),
        ];
        let polled = poll(&mut fds, PollTimeout::NONE);
        if fds[1].revents().is_some_and(|events| !events.is_empty()) {
            return;
        }
        let accepted = match polled {
            Ok(_) => server.listening.accept(),
            Err(_) => continue,
        };
        let admitted = match accepted {
            Ok(connected) => server.admit(connected),
            // Whoever it was has gone already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = admitted {
            trace_event!(web_visitor_refused, "{error}");
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
