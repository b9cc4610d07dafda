//! A server: where it listens, who is connected, and who may be.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use base::chardev::{Connected, Listening, SocketAddress, connect, listen};
use base::event_loop::{LoopHandle, Watch};
use base::input::{Change, InputEvent, KeyCode, Leds, Router, Screen};
use base::tls::X509;
use base::trace_event;
use parking_lot::Mutex;

use super::connection::{BLANK, Connection, Inbox};
use super::options::{Settings, Share};
use super::protocol::Power;
use super::session::{Desk, Session, Terms};
use super::{VncError, auth};
use crate::keymap::Keymap;
use crate::wire::{Socket, Wire};
use crate::{Console, Consoles, SizeWish};

/// One end of a connection, or where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as QMP has it.
pub struct Endpoint {
    pub host: String,
    pub service: String,
    pub family: &'static str,
    pub websocket: bool,
}

impl Endpoint {
    /// Both ends of a connection, the server's first.
    pub(crate) fn both(connected: Connected, websocket: bool) -> (Socket, Self, Self) {
        match connected {
            Connected::Tcp(stream) => {
                let local = Endpoint::tcp(stream.local_addr(), websocket);
                let peer = Endpoint::tcp(stream.peer_addr(), websocket);
                (Socket::Tcp(stream), local, peer)
            }
            Connected::Unix(stream) => {
                let local = Endpoint::unix(stream.local_addr(), websocket);
                let peer = Endpoint::unix(stream.peer_addr(), websocket);
                (Socket::Unix(stream), local, peer)
            }
        }
    }

    fn tcp(address: io::Result<SocketAddr>, websocket: bool) -> Self {
        match address {
            Ok(address) => Endpoint {
                host: address.ip().to_string(),
                service: address.port().to_string(),
                family: if address.is_ipv6() { "ipv6" } else { "ipv4" },
                websocket,
            },
            Err(_) => Endpoint {
                host: String::new(),
                service: String::new(),
                family: "unknown",
                websocket,
            },
        }
    }

    fn unix(address: io::Result<std::os::unix::net::SocketAddr>, websocket: bool) -> Self {
        let path = address
            .ok()
            .and_then(|address| address.as_pathname().map(|path| path.display().to_string()));
        let service = path.unwrap_or_default();
        Endpoint { host: String::new(), service, family: "unix", websocket }
    }

    fn of(listening: &Listening, websocket: bool) -> Self {
        match listening {
            Listening::Tcp(listener) => Endpoint::tcp(listener.local_addr(), websocket),
            Listening::Unix(listener) => Endpoint::unix(listener.local_addr(), websocket),
        }
    }
}

/// How clients have to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// By the password.
    Password,
    /// They encrypt, and nothing more.
    TlsNone,
    /// They encrypt, and know the password.
    TlsPassword,
}

impl Auth {
    /// As `query-vnc-servers` calls it.
    pub const fn primary(self) -> &'static str {
        match self {
            Auth::None => "none",
            Auth::Password => "vnc",
            Auth::TlsNone | Auth::TlsPassword => "vencrypt",
        }
    }

    /// What is within the encryption, as `query-vnc-servers` calls it.
    pub const fn vencrypt(self) -> Option<&'static str> {
        match self {
            Auth::None | Auth::Password => None,
            Auth::TlsNone => Some("x509-none"),
            Auth::TlsPassword => Some("x509-vnc"),
        }
    }

    /// As `query-vnc` and events call it.
    pub const fn name(self) -> &'static str {
        match self {
            Auth::TlsNone => "vencrypt+x509+none",
            Auth::TlsPassword => "vencrypt+x509+vnc",
            other => other.primary(),
        }
    }
}

/// What happens to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The server's end.
    pub server: Endpoint,
    /// How the client has to prove who it is.
    pub auth: Auth,
    /// The client's end.
    pub client: Endpoint,
}

/// What happens to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It connects.
    Connected,
    /// It sees and types from now on.
    Initialized,
    /// It has gone.
    Disconnected,
}

/// What servers need of the machine.
pub trait Host: Send + Sync {
    /// A power button is pressed.
    fn power(&self, button: Power);
    /// Something happens to a client.
    fn happened(&self, event: &Event);
}

/// What servers work with.
#[derive(Clone)]
pub struct Surroundings {
    /// Where connections are accepted.
    pub main_loop: LoopHandle,
    /// What there is to see.
    pub consoles: Arc<Consoles>,
    /// Where keys and movements go.
    pub input: Arc<Router>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// What the screen is called.
    pub title: String,
    /// The layout of the guest's keyboard.
    pub keymap: Arc<Keymap>,
    /// The operator has chosen the layout.
    pub keymap_chosen: bool,
}

/// Until when a password counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// For ever.
    Never,
    /// Until then.
    At(SystemTime),
}

impl Expiry {
    /// `now`, `never`, `+seconds` from now, or seconds since 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
        let at = match (text, text.strip_prefix('+')) {
            ("never", _) => return Some(Expiry::Never),
            ("now", _) => Some(SystemTime::now()),
            (_, Some(more)) => SystemTime::now().checked_add(seconds(more)?),
            (all, None) => SystemTime::UNIX_EPOCH.checked_add(seconds(all)?),
        };
        at.map(Expiry::At)
    }

    fn is_over(self) -> bool {
        match self {
            Expiry::Never => false,
            Expiry::At(end) => SystemTime::now() >= end,
        }
    }
}

struct Password {
    bytes: Option<Vec<u8>>,
    expiry: Expiry,
}

/// How a client stands with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is not in yet.
    Outside,
    Shared,
    Exclusive,
}

struct Client {
    number: u64,
    local: Endpoint,
    peer: Endpoint,
    inbox: Arc<Inbox>,
    standing: Mutex<Standing>,
}

struct Listener {
    listening: Arc<Listening>,
    websocket: bool,
    _watch: Watch,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listening::Unix(listener) = &*self.listening
            && let Ok(address) = listener.local_addr()
            && let Some(path) = address.as_pathname()
        {
            // If somebody else has removed it, so much the better.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A descriptor that a watch and its handler share.
struct Fd(Arc<Listening>);

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A server.
pub struct Server {
    id: String,
    settings: Settings,
    around: Surroundings,
    tls: Option<Arc<X509>>,
    password: Mutex<Password>,
    listeners: Mutex<Vec<Listener>>,
    clients: Mutex<Vec<Arc<Client>>>,
    next_client: AtomicU64,
}

/// What there is to know about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Where it is.
    pub peer: Endpoint,
}

impl Server {
    /// Starts a server.
    pub fn start(
        id: &str,
        settings: Settings,
        around: Surroundings,
        tls: Option<Arc<X509>>,
        password: Option<Vec<u8>>,
    ) -> Result<Arc<Self>, VncError> {
        if let Some(device) = &settings.display
            && around.consoles.of_device(device, settings.head).is_none()
        {
            return Err(VncError::Refused(format!("Device '{device}' not found")));
        }
        let server = Arc::new(Server {
            id: id.into(),
            settings,
            around,
            tls,
            password: Mutex::new(Password { bytes: password, expiry: Expiry::Never }),
            listeners: Mutex::default(),
            clients: Mutex::default(),
            next_client: AtomicU64::new(1),
        });
        let me = Arc::downgrade(&server);
        server.around.input.listen(move |change| {
            if let Some(server) = me.upgrade() {
                server.input_changed(change);
            }
        });
        if server.settings.reverse {
            for address in &server.settings.addresses {
                server.admit(connect(address)?, false)?;
            }
        } else {
            let mut listeners = server.open(&server.settings.addresses, false)?;
            listeners.append(&mut server.open(&server.settings.websockets, true)?);
            *server.listeners.lock() = listeners;
        }
        Ok(server)
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of the device that it shows, if it has one.
    pub fn display(&self) -> Option<String> {
        self.console()?.place().device.clone()
    }

    /// What it shows.
    fn console(&self) -> Option<Arc<Console>> {
        let consoles = &self.around.consoles;
        match &self.settings.display {
            Some(device) => consoles.of_device(device, self.settings.head),
            None => consoles.first(),
        }
    }

    /// How clients have to prove who they are.
    pub fn auth(&self) -> Auth {
        match (&self.tls, self.settings.password) {
            (None, false) => Auth::None,
            (None, true) => Auth::Password,
            (Some(_), false) => Auth::TlsNone,
            (Some(_), true) => Auth::TlsPassword,
        }
    }

    /// How clients have to prove who they are where bytes come in frames, which are encrypted from
    /// outside.
    fn auth_of(&self, websocket: bool) -> Auth {
        match (self.auth(), websocket) {
            (Auth::TlsNone, true) => Auth::None,
            (Auth::TlsPassword, true) => Auth::Password,
            (auth, _) => auth,
        }
    }

    /// Where it listens, and how clients have to prove who they are there; the last comes first.
    pub fn endpoints(&self) -> Vec<(Endpoint, Auth)> {
        let listeners = self.listeners.lock();
        let endpoint = |listener: &Listener| {
            let endpoint = Endpoint::of(&listener.listening, listener.websocket);
            (endpoint, self.auth_of(listener.websocket))
        };
        listeners.iter().rev().map(endpoint).collect()
    }

    /// Who is connected.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let clients = self.clients.lock();
        clients.iter().map(|client| ClientInfo { peer: client.peer.clone() }).collect()
    }

    /// Listens elsewhere from now on; who is connected stays.
    pub fn listen_at(self: &Arc<Self>, addresses: &[SocketAddress]) -> Result<(), VncError> {
        self.listeners.lock().retain(|listener| listener.websocket);
        let mut listeners = self.open(addresses, false)?;
        self.listeners.lock().append(&mut listeners);
        Ok(())
    }

    /// From now on this password counts; says whether passwords are asked for.
    pub fn set_password(&self, password: &str) -> bool {
        if self.settings.password {
            self.password.lock().bytes = Some(password.as_bytes().to_vec());
        }
        self.settings.password
    }

    /// Until when the password counts.
    pub fn set_expiry(&self, expiry: Expiry) {
        self.password.lock().expiry = expiry;
    }

    /// Reads certificates again.
    pub fn reload_certificates(&self) -> Result<(), VncError> {
        let Some(tls) = &self.tls else {
            return Err(VncError::Refused("vnc tls is not enabled".into()));
        };
        Ok(tls.reload()?)
    }

    /// Ends all connections and listens no more.
    pub fn close(&self) {
        self.listeners.lock().clear();
        self.clients.lock().iter().for_each(|client| client.inbox.close());
    }

    fn open(
        self: &Arc<Self>,
        addresses: &[SocketAddress],
        websocket: bool,
    ) -> Result<Vec<Listener>, VncError> {
        let open = |address: &SocketAddress| {
            let listening = Arc::new(listen(address)?);
            listening.set_nonblocking()?;
            let (me, socket) = (Arc::downgrade(self), listening.clone());
            let watch = self.around.main_loop.watch(Fd(listening.clone()), move |_| {
                accept(&me, &socket, websocket);
            });
            watch.want_read(true)?;
            Ok(Listener { listening, websocket, _watch: watch })
        };
        addresses.iter().map(open).collect()
    }

    /// Gives a client a thread.
    fn admit(self: &Arc<Self>, connected: Connected, websocket: bool) -> Result<(), VncError> {
        let (socket, local, peer) = Endpoint::both(connected, websocket);
        socket.prepare()?;
        let mut wire = Wire::new(socket);
        let mut tls = self.tls.as_ref().map(|tls| tls.server()).transpose()?;
        if websocket {
            wire.frame();
            if let Some(config) = tls.take() {
                wire.encrypt(config).map_err(|error| VncError::Refused(error.to_string()))?;
            }
        }
        let client = self.enrol(local, peer)?;
        let connection = self.connection(&client, wire, tls, self.console(), self.screen());
        let (me, gone) = (Arc::downgrade(self), client.clone());
        let thread = base::thread::builder("vnc").spawn(move || {
            let rest = connection.serve();
            if let Some(server) = me.upgrade() {
                server.forget(&gone);
            }
            rest.send();
        });
        if let Err(error) = thread {
            self.forget(&client);
            return Err(error.into());
        }
        Ok(())
    }

    /// Serves a client on the caller's thread who came by another way, in frames if it wants them,
    /// and looks at this console.
    pub(crate) fn serve(
        self: &Arc<Self>,
        wire: Wire,
        (local, peer): (Endpoint, Endpoint),
        console: Option<Arc<Console>>,
    ) -> Result<(), VncError> {
        let of_device = |console: &Arc<Console>| {
            let place = console.place();
            Some(Screen { device: place.device.clone()?, head: place.head })
        };
        let screen = console.as_ref().and_then(of_device);
        let client = self.enrol(local, peer)?;
        let rest = self.connection(&client, wire, None, console, screen).serve();
        self.forget(&client);
        rest.send();
        Ok(())
    }

    /// Takes a client among the others.
    fn enrol(&self, local: Endpoint, peer: Endpoint) -> Result<Arc<Client>, VncError> {
        let client = Arc::new(Client {
            number: self.next_client.fetch_add(1, Ordering::Relaxed),
            local,
            peer,
            inbox: Inbox::new()?,
            standing: Mutex::new(Standing::Outside),
        });
        self.make_room();
        self.clients.lock().push(client.clone());
        self.tell(EventKind::Connected, &client);
        Ok(client)
    }

    /// What it shows, for the devices that belong to it.
    fn screen(&self) -> Option<Screen> {
        let device = self.settings.display.clone()?;
        Some(Screen { device, head: self.settings.head })
    }

    fn connection(
        self: &Arc<Self>,
        client: &Arc<Client>,
        wire: Wire,
        tls: Option<Arc<rustls::ServerConfig>>,
        console: Option<Arc<Console>>,
        screen: Option<Screen>,
    ) -> Connection {
        let consoles = &self.around.consoles;
        let input = self.around.input.clone();
        let seat = Arc::new(Seat {
            server: Arc::downgrade(self),
            client: client.clone(),
            console: console.clone(),
            screen,
            input: input.clone(),
            consoles: Arc::downgrade(consoles),
            title: self.around.title.clone(),
        });
        let terms = Terms {
            password: self.settings.password,
            tls: tls.is_some(),
            lossy: self.settings.lossy,
            adaptive: self.settings.adaptive,
            power: self.settings.power_control,
            sync_locks: self.settings.lock_key_sync,
            keymap: self.around.keymap.clone(),
            by_meaning: self.around.keymap_chosen,
            chooses: self.settings.display.is_none(),
        };
        let (width, height) = console.as_ref().map_or(BLANK, |console| {
            console.refresh(false);
            let surface = console.surface();
            let size = (surface.width(), surface.height());
            if size.0 == 0 || size.1 == 0 { BLANK } else { size }
        });
        let (all, nudged) = (Arc::downgrade(consoles), Arc::downgrade(consoles));
        let (typist, lights) = (seat.clone(), input);
        Connection {
            wire,
            session: Session::new(seat, terms, width, height),
            inbox: client.inbox.clone(),
            console,
            attachment: None,
            screens: Box::new(move |number| all.upgrade()?.screens().get(number).cloned()),
            tls,
            key_delay: self.settings.key_delay,
            key: Box::new(move |key, down| typist.key(key, down)),
            nudge: Box::new(move || {
                if let Some(consoles) = Weak::<Consoles>::upgrade(&nudged) {
                    consoles.nudge();
                }
            }),
            leds: Box::new(move || lights.leds()),
        }
    }

    /// Of those who do not get in, the one that has tried longest has to go if there are too many.
    fn make_room(&self) {
        let clients = self.clients.lock();
        let outside: Vec<&Arc<Client>> =
            clients.iter().filter(|client| *client.standing.lock() == Standing::Outside).collect();
        if outside.len() >= self.settings.connections
            && let Some(first) = outside.first()
        {
            first.inbox.close();
        }
    }

    fn forget(&self, client: &Arc<Client>) {
        self.clients.lock().retain(|known| known.number != client.number);
        self.tell(EventKind::Disconnected, client);
    }

    fn tell(&self, kind: EventKind, client: &Client) {
        let event = Event {
            kind,
            server: client.local.clone(),
            auth: self.auth_of(client.local.websocket),
            client: client.peer.clone(),
        };
        let host = self.around.host.clone();
        // Those who hear of it are used to the main loop's thread.
        self.around.main_loop.schedule(move || host.happened(&event));
    }

    fn input_changed(&self, change: Change) {
        for client in self.clients.lock().iter() {
            match change {
                Change::Leds(_) => client.inbox.leds_changed(),
                Change::Order => client.inbox.pointer_type_changed(),
            }
        }
    }

    /// Lets a client in, or does not.
    fn enter(&self, client: &Client, shared: bool) -> bool {
        let clients = self.clients.lock();
        let mut others = clients.iter().filter(|other| other.number != client.number);
        let standing = match (self.settings.share, shared) {
            (Share::Ignore, _) => Standing::Shared,
            (Share::ForceShared, false) => return false,
            (Share::ForceShared, true) => Standing::Shared,
            (Share::AllowExclusive, true) => {
                if others.any(|other| *other.standing.lock() == Standing::Exclusive) {
                    return false;
                }
                Standing::Shared
            }
            (Share::AllowExclusive, false) => {
                others
                    .filter(|other| *other.standing.lock() != Standing::Outside)
                    .for_each(|other| other.inbox.close());
                Standing::Exclusive
            }
        };
        *client.standing.lock() = standing;
        true
    }
}

fn accept(server: &Weak<Server>, listening: &Listening, websocket: bool) {
    let Some(server) = server.upgrade() else { return };
    match listening.accept() {
        Ok(connected) => {
            if let Err(error) = server.admit(connected, websocket) {
                trace_event!(vnc_client_refused, "{error}");
            }
        }
        // Whoever it was has gone already.
        Err(error) => trace_event!(vnc_client_refused, "{error}"),
    }
}

#[cfg(test)]
mod tests;

/// What a client sits at.
struct Seat {
    server: Weak<Server>,
    client: Arc<Client>,
    console: Option<Arc<Console>>,
    screen: Option<Screen>,
    input: Arc<Router>,
    consoles: Weak<Consoles>,
    title: String,
}

impl Seat {
    fn key(&self, key: KeyCode, down: bool) {
        self.input.key(self.screen.as_ref(), key, down);
        self.typed();
    }

    /// Who types or points wants to see what comes of it.
    fn typed(&self) {
        if let Some(consoles) = self.consoles.upgrade() {
            consoles.typed();
        }
    }
}

impl Desk for Seat {
    fn knows_password(&self, challenge: &[u8; 16], response: &[u8; 16]) -> bool {
        let Some(server) = self.server.upgrade() else { return false };
        let password = server.password.lock();
        let Some(bytes) = password.bytes.as_deref().filter(|_| !password.expiry.is_over()) else {
            return false;
        };
        auth::same(&auth::response(challenge, bytes), response)
    }

    fn challenge(&self) -> Option<[u8; 16]> {
        auth::challenge()
    }

    fn enter(&self, shared: bool) -> bool {
        self.server.upgrade().is_some_and(|server| server.enter(&self.client, shared))
    }

    fn entered(&self) {
        if let Some(server) = self.server.upgrade() {
            server.tell(EventKind::Initialized, &self.client);
        }
    }

    fn name(&self) -> String {
        self.title.clone()
    }

    fn point(&self, events: &[InputEvent]) {
        self.input.send(self.screen.as_ref(), events);
        self.typed();
    }

    fn is_absolute(&self) -> bool {
        self.input.is_absolute(self.screen.as_ref())
    }

    fn leds(&self) -> Leds {
        self.input.leds()
    }

    fn power(&self, button: Power) {
        if let Some(server) = self.server.upgrade() {
            let host = server.around.host.clone();
            server.around.main_loop.schedule(move || host.power(button));
        }
    }

    fn wish_size(&self, width: u32, height: u32) -> bool {
        match &self.console {
            Some(console) if console.takes_wishes() => {
                console.wish_size(SizeWish { width, height, ..SizeWish::default() });
                true
            }
            _ => false,
        }
    }
}
