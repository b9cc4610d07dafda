//! `-netdev user`: the guest's network without privileges.
//!
//! The guest's frames are taken apart, and what is in them is given to sockets of the host: a small
//! network address translation in the program itself. It plays a gateway (10.0.2.2, through which the
//! host itself is reached), a name server (10.0.2.3) and a DHCP server.
//!
//! - [`wire`]: headers in and out; [`fragment`]: packets in pieces; [`out`]: frames to the guest
//! - [`link`]: ARP; [`ndp`]: the same and routers for IPv6; [`dhcp`], [`dhcp6`]; [`icmp`], [`ping`]; [`tftp`]
//! - [`resolver`]: the host's name servers
//! - [`tcp`]: connections, segment by segment; [`udp`]: ports with idle timers
//! - [`forward`], [`forwards`]: ports of the host that lead to the guest, and [`bridge`]s to the host;
//!   [`smb`]: a directory of the host's
//! - [`stack`]: all of that together, without threads; [`User`]: the shell around it
//!
//! A frame of the guest is worked on in the thread that delivers it, up to the host's socket, which gets
//! the small segments of a burst by one call when that is over. Whatever goes to the guest is sent by the
//! event loop: it reads sockets only when the card takes frames, so a slow guest slows its peers, and
//! nothing is lost.

mod bridge;
mod config;
mod dhcp;
mod dhcp6;
mod forward;
mod forwards;
mod fragment;
mod icmp;
mod info;
mod link;
mod ndp;
mod out;
mod ping;
mod resolver;
mod slots;
mod smb;
mod socket;
mod stack;
mod tcp;
mod tftp;
mod udp;
mod wire;

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, OnceLock, Weak};

use base::chardev::{ChardevError, Legacy};
use base::clock::{ClockKind, Clocks, Timer};
use base::event_loop::BottomHalf;
use nix::sys::epoll::EpollFlags;
use parking_lot::Mutex;

use crate::netdev::{Context, NetdevKind};
use crate::options::Values;
use crate::{Backend, Cable, Delivery, End, Frame, NetError, Netdev, Offloads, Plug, Side};

use bridge::Bridge;
use config::Config;
use forward::{ForwardTarget, GuestForward, HostForward};
use forwards::{Forward, Listener, Server};
use out::OutFrame;
use smb::Share;
use stack::{Source, Stack};

/// The kind.
pub const KIND: NetdevKind = NetdevKind { name: "user", keys: config::KEYS, dotted: false, make };

/// As much is gathered for the guest at once: what stays in the caches until the guest has got it, and lets the
/// guest work on one batch while the next one is read.
const BATCH: usize = 128 * 1024;

/// As many batches are sent before the loop does something else.
const BATCHES: usize = 32;

/// The user-mode network.
pub struct User {
    plug: Plug,
    clocks: Clocks,
    stack: Mutex<Stack>,
    /// What is on its way to the guest; only the event loop uses it.
    queue: Mutex<VecDeque<OutFrame>>,
    parts: OnceLock<Parts>,
    /// What `smb=` shares, as long as the network is there.
    share: Option<Share>,
}

/// What calls back.
struct Parts {
    run: BottomHalf,
    timer: Timer,
    /// When the timer expires.
    armed: Mutex<Option<i64>>,
}

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let config = Config::new(values)?;
    let cable = Cable::new(id);
    let backend = User::new(context, cable.plug(Side::Host, 0), config)?;
    Ok(Netdev { kind: KIND.name, cable, backend })
}

impl User {
    fn new(context: &Context, plug: Plug, config: Config) -> Result<Arc<User>, NetError> {
        let system =
            |error: String| NetError::Failed(format!("Could not set up networking: {error}"));
        socket::raise_descriptor_limit();
        let owner = Arc::<OnceLock<Weak<User>>>::default();
        let owned = owner.clone();
        let edges = context.handle.edges(move |key, flags| {
            if let Some(user) = owned.get().and_then(Weak::upgrade) {
                user.on_event(key, flags);
            }
        });
        let edges = edges.map_err(|error| system(error.to_string()))?;
        let forwards = config.host_forwards.clone();
        let servers = config.guest_forwards.clone();
        let share = config.smb.as_deref().map(|shared| Share::new(shared, config.v4.as_ref()));
        let share = share.transpose()?;
        let user = Arc::new(User {
            plug,
            clocks: context.clocks.clone(),
            stack: Mutex::new(Stack::new(config, edges)),
            queue: Mutex::default(),
            parts: OnceLock::new(),
            share,
        });
        let call = |what: fn(&User)| {
            let user = Arc::downgrade(&user);
            move || {
                if let Some(user) = user.upgrade() {
                    what(&user);
                }
            }
        };
        let parts = Parts {
            run: context.handle.bottom_half(call(User::run)),
            timer: context.clocks.timer(ClockKind::Virtual, call(User::on_timer)),
            armed: Mutex::default(),
        };
        // Nobody else has set them.
        let _ = user.parts.set(parts);
        let _ = owner.set(Arc::downgrade(&user));
        for forward in servers {
            user.add_server(context, forward)?;
        }
        for (text, rule) in forwards {
            user.add_rule(&text, rule)?;
        }
        for (at, server) in user.share.iter().flat_map(Share::servers) {
            user.stack.lock().forwards.add_server(at, server);
        }
        let end: Weak<dyn End> = Arc::<User>::downgrade(&user);
        user.plug.attach(end);
        Ok(user)
    }

    /// A socket has become ready for something; what comes of it is done when the loop has told of all that have.
    fn on_event(&self, key: u64, flags: EpollFlags) {
        let mut stack = self.stack.lock();
        stack.shared.now = self.clocks.now_virtual();
        stack.on_event(key, flags);
        drop(stack);
        self.schedule();
    }

    /// Does what there is to do on the host's side, and sends it to the guest. On the event loop.
    fn run(&self) {
        for _ in 0..BATCHES {
            let room = self.send_queue();
            let more = {
                let mut stack = self.stack.lock();
                stack.shared.now = self.clocks.now_virtual();
                stack.end_burst();
                if room {
                    stack.produce(BATCH);
                    stack.take_frames(&mut self.queue.lock());
                }
                self.arm(&mut stack);
                stack.has_work()
            };
            let sent = room && self.send_queue();
            self.plug.flush();
            if !(sent && more) {
                return;
            }
        }
        self.schedule();
    }

    /// Sends what waits; whether all of it was taken.
    fn send_queue(&self) -> bool {
        let mut queue = std::mem::take(&mut *self.queue.lock());
        let mut all = true;
        while let Some(frame) = queue.front() {
            if frame.with(|frame| self.plug.send(frame)) == Delivery::Full {
                all = false;
                break;
            }
            queue.pop_front();
        }
        *self.queue.lock() = queue;
        all
    }

    fn schedule(&self) {
        if let Some(parts) = self.parts.get() {
            parts.run.schedule();
        }
    }

    fn arm(&self, stack: &mut Stack) {
        let Some(parts) = self.parts.get() else { return };
        let Some(deadline) = stack.next_deadline() else { return };
        let mut armed = parts.armed.lock();
        if armed.is_none_or(|at| at > deadline) {
            *armed = Some(deadline);
            parts.timer.set(deadline);
        }
    }

    fn on_timer(&self) {
        if let Some(parts) = self.parts.get() {
            *parts.armed.lock() = None;
        }
        {
            let mut stack = self.stack.lock();
            stack.shared.now = self.clocks.now_virtual();
            stack.on_timer();
        }
        self.run();
    }

    /// `hostfwd_add`.
    pub fn add_forward(&self, rule: &str) -> Result<(), NetError> {
        let v4 = self.stack.lock().config.v4;
        let guest = v4.map_or(std::net::Ipv4Addr::UNSPECIFIED, |net| net.dhcp_start);
        self.add_rule(rule, HostForward::parse(rule, guest)?)
    }

    /// The rows of `info usernet`, with their heading.
    pub fn connections(&self) -> String {
        let mut stack = self.stack.lock();
        stack.shared.now = self.clocks.now_virtual();
        stack.info()
    }

    fn add_rule(&self, text: &str, rule: HostForward) -> Result<(), NetError> {
        let failed = || NetError::Failed(format!("Could not set up host forwarding rule '{text}'"));
        let at = SocketAddr::V4(rule.host);
        // Port 0 is one that the host chooses.
        let at_port = |bound: std::io::Result<SocketAddr>| {
            let port = bound.map_or(rule.host.port(), |bound| bound.port());
            HostForward { host: SocketAddrV4::new(*rule.host.ip(), port), ..rule }
        };
        let mut stack = self.stack.lock();
        let Stack { forwards, udp, poller, .. } = &mut *stack;
        let added = if rule.udp {
            let socket = socket::udp(at).map_err(|_| failed())?;
            let rule = at_port(socket.local_addr());
            let register = |socket: &_, token| poller.add(socket, Source::Udp, token).is_ok();
            let flow = udp.forward(SocketAddr::V4(rule.guest), socket, register);
            flow.is_some_and(|flow| {
                forwards.add(|_| Some(Forward { rule, listener: Listener::Udp(flow) }))
            })
        } else {
            let listener = socket::tcp_listen(at).map_err(|_| failed())?;
            let rule = at_port(listener.local_addr());
            forwards.add(|token| {
                poller.add(&listener, Source::Listener, token).ok()?;
                Some(Forward { rule, listener: Listener::Tcp(listener) })
            })
        };
        if added { Ok(()) } else { Err(failed()) }
    }

    fn add_server(&self, context: &Context, forward: GuestForward) -> Result<(), NetError> {
        let server = match forward.target {
            ForwardTarget::Command(command) => {
                Server::Command(vec!["/bin/sh".into(), "-c".into(), command.into()])
            }
            ForwardTarget::Chardev(text) => {
                let label = format!("guestfwd.tcp.{}", forward.server.port());
                let failed = || {
                    NetError::Failed(format!("Could not open guest forwarding device '{label}'"))
                };
                // A message of its own, as QEMU has it.
                let refused = |error: Option<ChardevError>| {
                    if let Some(error) = error {
                        base::error_report!("{error}");
                    }
                    failed()
                };
                let chardev = match Legacy::parse(&label, &text).map_err(refused)? {
                    Legacy::None => {
                        base::error_report!("'{text}' is not a valid char driver");
                        return Err(failed());
                    }
                    Legacy::Existing(id) => context.chardevs.get(&id).map_err(|_| failed())?,
                    Legacy::New(spec) | Legacy::WithMonitor(spec) => {
                        context.chardevs.create(&spec).map_err(|error| refused(Some(error)))?
                    }
                };
                let bridge = Bridge::new(context.handle.clone(), &chardev);
                Server::Chardev(bridge.map_err(|error| refused(Some(error)))?)
            }
        };
        self.stack.lock().forwards.add_server(forward.server, server);
        Ok(())
    }

    /// `hostfwd_remove`: whether there was such a forward; `None` if the text names none.
    pub fn remove_forward(&self, text: &str) -> Option<bool> {
        let (udp, host) = HostForward::parse_listener(text)?;
        let mut stack = self.stack.lock();
        let removed = stack.forwards.remove(udp, host);
        if let Some(Forward { listener: Listener::Udp(flow), .. }) = removed {
            stack.udp.remove(flow);
        }
        Some(removed.is_some())
    }
}

impl End for User {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        self.deliver_all(std::slice::from_ref(frame));
        Delivery::Taken
    }

    fn deliver_all(&self, frames: &[Frame<'_>]) -> usize {
        let mut stack = self.stack.lock();
        if !stack.in_burst {
            stack.in_burst = true;
            stack.shared.now = self.clocks.now_virtual();
        }
        frames.iter().for_each(|frame| stack.receive(frame));
        frames.len()
    }

    fn flush(&self) {
        let mut stack = self.stack.lock();
        if !std::mem::take(&mut stack.in_burst) {
            return;
        }
        stack.shared.now = self.clocks.now_virtual();
        stack.end_burst();
        self.arm(&mut stack);
        if stack.has_work() {
            drop(stack);
            self.schedule();
        }
    }

    fn wake(&self) {
        self.schedule();
    }

    fn accepts(&self) -> Offloads {
        Offloads { uso: false, ufo: false, ..Offloads::ALL }
    }
}

impl Backend for User {
    fn info(&self, _lane: usize) -> String {
        let stack = self.stack.lock();
        let net = stack.config.v4.map(|net| net.net);
        let net = net.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
        let restrict = if stack.config.restrict { "on" } else { "off" };
        format!("net={net},restrict={restrict}")
    }
}

#[cfg(test)]
mod tests;
