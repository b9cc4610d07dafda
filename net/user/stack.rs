//! What is done with the guest's frames, and with the host's sockets: everything but threads.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use base::event_loop::Edges;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::config::{Config, mac4, mac6};
use super::forwards::Forwards;
use super::fragment::{self, Assembly};
use super::link::{ArpMessage, Neighbours, arp_request};
use super::out::OutFrame;
use super::resolver::Resolver;
use super::slots::Token;
use super::tcp::{self, FlowKey, Macs, Ready, Shared};
use super::wire::{
    ARP, BROADCAST, ICMP, ICMP6, Incoming, IpFields, LOW_DELAY, Mac, Packet, Route, TCP, UDP,
    UdpHeader, udp_datagram,
};
use super::{dhcp, dhcp6, icmp, ndp, ping, socket, tftp, udp};
use crate::{Frame, Offload, Part};

/// As many answers may wait for the guest to take them; more are lost.
const MAX_ANSWERS: usize = 1024;

/// As many datagrams are received at once.
const DATAGRAMS: usize = 64;

/// Which table a token belongs to; the top bits of a key say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Tcp,
    Udp,
    Listener,
    Ping,
}

const SOURCE_SHIFT: u32 = Token::BITS;
const _: () = assert!(SOURCE_SHIFT + 2 <= Edges::KEY_BITS);

impl Source {
    fn key(self, token: Token) -> u64 {
        token.to_bits() | (self as u64) << SOURCE_SHIFT
    }

    fn of(key: u64) -> Option<(Source, Token)> {
        let source = match key >> SOURCE_SHIFT {
            0 => Source::Tcp,
            1 => Source::Udp,
            2 => Source::Listener,
            3 => Source::Ping,
            _ => return None,
        };
        Some((source, Token::from_bits(key & ((1 << SOURCE_SHIFT) - 1))))
    }
}

/// Tells when sockets become ready for more; each change once.
pub struct Poller(Edges);

impl Poller {
    /// Watches a socket as long as it is open.
    pub fn add(&self, fd: impl AsFd, source: Source, token: Token) -> Result<(), Errno> {
        let read = EpollFlags::EPOLLIN;
        let interest = match source {
            Source::Tcp => {
                read | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI
            }
            Source::Udp | Source::Listener | Source::Ping => read,
        };
        let added = self.0.add(fd, source.key(token), interest);
        added.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

/// The stack.
pub struct Stack {
    pub config: Config,
    pub shared: Shared,
    /// Frames of the guest have come, and more are about to: what they lead to is done when all have.
    pub in_burst: bool,
    pub tcp: tcp::Table,
    pub udp: udp::Table,
    pub forwards: Forwards,
    pub poller: Poller,
    neighbours: Neighbours,
    leases: dhcp::Leases,
    assembly: Assembly,
    resolver: Resolver,
    tftp: tftp::Server,
    ping: ping::Table,
    next_expiry: Option<i64>,
}

impl Stack {
    /// A stack whose sockets are among `edges`, which tell [`Self::on_event`].
    pub fn new(config: Config, edges: Edges) -> Stack {
        Stack {
            config,
            shared: Shared::default(),
            in_burst: false,
            tcp: tcp::Table::default(),
            udp: udp::Table::default(),
            forwards: Forwards::default(),
            poller: Poller(edges),
            neighbours: Neighbours::default(),
            leases: dhcp::Leases::default(),
            assembly: Assembly::default(),
            resolver: Resolver::default(),
            tftp: tftp::Server::default(),
            ping: ping::Table::default(),
            next_expiry: None,
        }
    }

    /// A frame of the guest.
    pub fn receive(&mut self, frame: &Frame<'_>) {
        if self.shared.out.len() > MAX_ANSWERS {
            return;
        }
        let Some(incoming) = Incoming::new(frame) else { return };
        if !self.is_ours(incoming.target_mac) {
            return;
        }
        if incoming.ethertype == ARP {
            self.on_arp(&incoming);
        } else if let Some(packet) = incoming.packet() {
            self.on_packet(&incoming, &packet);
        }
    }

    /// Whether a frame is for us: to one of the addresses that we answer for, or to many.
    fn is_ours(&self, target: Mac) -> bool {
        target[0] & 1 != 0 || matches!(target, [0x52, 0x55 | 0x56, ..])
    }

    fn our_mac(&self, v6: bool) -> Mac {
        match (self.config.v4, self.config.v6) {
            (Some(v4), _) if !v6 => mac4(v4.host),
            (_, Some(v6)) => mac6(v6.host),
            (Some(v4), None) => mac4(v4.host),
            (None, None) => BROADCAST,
        }
    }

    fn macs(&self, incoming: &Incoming<'_>, v6: bool) -> Macs {
        Macs { ours: self.our_mac(v6), guest: incoming.source_mac }
    }

    fn learn(&mut self, address: IpAddr, mac: Mac) {
        if self.neighbours.learn(address, mac) {
            self.tcp.on_neighbour(address, mac, &mut self.shared);
        }
    }

    fn on_arp(&mut self, incoming: &Incoming<'_>) {
        let Some(net) = self.config.v4 else { return };
        let Some(message) = incoming.headers().get(14..).and_then(ArpMessage::read) else { return };
        self.learn(message.sender.into(), message.sender_mac);
        let answered = message.target == net.host
            || message.target == net.dns
            || Some(message.target) == net.smb
            || self.forwards.has_server(message.target);
        if message.request && answered {
            self.shared.out.push(message.reply(mac4(message.target)).into());
        }
    }

    fn on_packet(&mut self, incoming: &Incoming<'_>, packet: &Packet) {
        let v6 = packet.source.is_ipv6();
        let on = if v6 { self.config.v6.is_some() } else { self.config.v4.is_some() };
        if !on || packet.source.is_multicast() {
            return;
        }
        self.learn(packet.source, incoming.source_mac);
        if let Some(part) = packet.fragment {
            let content = incoming.content(packet);
            let whole = self.assembly.take(packet, part, content, self.shared.now);
            if let Some(content) = whole {
                self.receive_whole(incoming, packet, &content);
            }
            return;
        }
        match packet.protocol {
            TCP => self.on_tcp(incoming, packet),
            UDP => self.on_udp(incoming, packet),
            ICMP if !v6 => self.on_icmp(incoming, packet),
            ICMP6 if v6 => self.on_icmp(incoming, packet),
            _ => {}
        }
    }

    /// A packet that came in pieces, as if it had come in one.
    fn receive_whole(&mut self, incoming: &Incoming<'_>, packet: &Packet, content: &[u8]) {
        let route = Route {
            source_mac: incoming.source_mac,
            target_mac: incoming.target_mac,
            source: packet.source,
            target: packet.target,
        };
        let mut head = Vec::new();
        let fields = IpFields { protocol: packet.protocol, ttl: packet.ttl, tos: 0, id: 0 };
        route.write_headers(fields, content.len(), &mut head);
        let parts = [Part::from(&head[..]), Part::from(content)];
        let frame = Frame::new(&parts, Offload::default());
        if let Some(incoming) = Incoming::new(&frame)
            && let Some(packet) = incoming.packet()
        {
            self.on_packet(&incoming, &packet);
        }
    }

    fn on_tcp(&mut self, incoming: &Incoming<'_>, packet: &Packet) {
        let macs = self.macs(incoming, packet.source.is_ipv6());
        let header = incoming.headers().get(packet.start..).unwrap_or_default();
        let (config, resolver, poller) = (&self.config, &mut self.resolver, &self.poller);
        let now = self.shared.now;
        let forwards = &mut self.forwards;
        let open = |remote: SocketAddr, token: Token| -> Result<OwnedFd, Errno> {
            if let Some(result) = forwards.connect(remote) {
                let socket = result?;
                poller.add(&socket, Source::Tcp, token)?;
                return Ok(socket);
            }
            let target = real_address(config, resolver, remote, now);
            let (target, _) = target.filter(|_| !config.restrict).ok_or(Errno::ECONNREFUSED)?;
            let socket = socket::tcp_connect(target)?;
            poller.add(&socket, Source::Tcp, token)?;
            Ok(socket)
        };
        self.tcp.on_segment(packet, header, incoming.frame, macs, &mut self.shared, open);
    }

    fn on_udp(&mut self, incoming: &Incoming<'_>, packet: &Packet) {
        let header = incoming.headers().get(packet.start..).unwrap_or_default();
        let Some(udp) = UdpHeader::read(packet, header) else { return };
        let mut payload = vec![0; udp.end - udp.start];
        incoming.frame.copy(udp.start, &mut payload);
        match (udp.to.port(), packet.target) {
            (dhcp::SERVER_PORT, IpAddr::V4(target)) => {
                return self.on_dhcp(incoming, target, &payload);
            }
            (dhcp6::SERVER_PORT, IpAddr::V6(target)) => {
                return self.on_dhcp6(incoming, (target, udp.from), &payload);
            }
            (tftp::PORT, target) if self.is_host(target) => {
                return self.on_tftp(incoming, (udp.from, udp.to), &payload);
            }
            _ => {}
        }
        if self.config.restrict && !self.udp.is_forwarded(udp.from) {
            return;
        }
        let now = self.shared.now;
        let Some(target) = real_address(&self.config, &mut self.resolver, udp.to, now) else {
            return;
        };
        let v6 = udp.from.is_ipv6();
        let poller = &self.poller;
        let open = |token| {
            let socket = socket::udp(socket::unspecified(v6))?;
            poller.add(&socket, Source::Udp, token)?;
            Ok(socket)
        };
        let sent = self.udp.send(udp.from, target, &payload, now, open);
        if let Err(error) = sent {
            let code = error.raw_os_error().map_or(Errno::ENETUNREACH, Errno::from_raw);
            let macs = self.macs(incoming, v6);
            let begin = (&header[..header.len().min(8)], packet.end - packet.start);
            let reason = icmp::Reason::of(code);
            let shared = &mut self.shared;
            let answer = icmp::unreachable(UDP, udp.from, udp.to, begin, reason, macs, shared);
            self.shared.out.push(answer);
        }
    }

    fn on_dhcp(&mut self, incoming: &Incoming<'_>, target: Ipv4Addr, payload: &[u8]) {
        let Some(net) = self.config.v4 else { return };
        if target != net.host && target != Ipv4Addr::BROADCAST {
            return;
        }
        let answer = dhcp::answer(payload, &self.config, &net, &mut self.leases);
        let Some((reply, address)) = answer else { return };
        if let Some(address) = address {
            self.learn(address.into(), incoming.source_mac);
        }
        // A guest without an address cannot be spoken to in any other way.
        let route = Route {
            source_mac: self.our_mac(false),
            target_mac: BROADCAST,
            source: net.host.into(),
            target: Ipv4Addr::BROADCAST.into(),
        };
        let fields = self.fields(UDP, LOW_DELAY);
        let frame = route.udp_frame(fields, dhcp::SERVER_PORT, dhcp::CLIENT_PORT, &reply);
        self.shared.out.push(frame.into());
    }

    fn on_dhcp6(
        &mut self,
        incoming: &Incoming<'_>,
        (target, guest): (Ipv6Addr, SocketAddr),
        payload: &[u8],
    ) {
        let Some(net) = self.config.v6.filter(|_| !self.config.restrict) else { return };
        let meant = target == dhcp6::SERVERS || ndp::ours(&net, target) == Some(net.host);
        let reply = dhcp6::answer(payload, &self.config, &net).filter(|_| meant);
        if let Some(reply) = reply {
            let server = SocketAddr::new(net.host.into(), dhcp6::SERVER_PORT);
            self.answer_datagram(incoming, (server, guest), &reply);
        }
    }

    fn on_tftp(
        &mut self,
        incoming: &Incoming<'_>,
        (client, server): (SocketAddr, SocketAddr),
        payload: &[u8],
    ) {
        let root = self.config.tftp.as_deref();
        let now = self.shared.now;
        if let Some(reply) = self.tftp.answer(root, client, server, payload, now) {
            self.answer_datagram(incoming, (server, client), &reply);
        }
    }

    /// Sends a datagram to whoever sent a frame.
    fn answer_datagram(
        &mut self,
        incoming: &Incoming<'_>,
        (from, to): (SocketAddr, SocketAddr),
        payload: &[u8],
    ) {
        let v6 = from.is_ipv6();
        let route = Route {
            source_mac: self.our_mac(v6),
            target_mac: incoming.source_mac,
            source: from.ip(),
            target: to.ip(),
        };
        let fields = self.fields(UDP, if v6 { 0 } else { LOW_DELAY });
        let frame = route.udp_frame(fields, from.port(), to.port(), payload);
        self.shared.out.push(frame.into());
    }

    fn on_icmp(&mut self, incoming: &Incoming<'_>, packet: &Packet) {
        let v6 = packet.source.is_ipv6();
        let message = incoming.content(packet);
        if let Some(net) = self.config.v6.filter(|_| v6) {
            let mac = incoming.source_mac;
            let answer = ndp::answer(&message, packet, mac, &net, &mut self.shared);
            if let Some(answer) = answer {
                self.shared.out.push(answer);
                return;
            }
        }
        if self.is_local(packet.target)
            && let Some(reply) = icmp::echo_reply(&message, v6)
        {
            let macs = self.macs(incoming, v6);
            let route = Route {
                source_mac: macs.ours,
                target_mac: macs.guest,
                source: packet.target,
                target: packet.source,
            };
            let answer = icmp::frame(&route, 255, 0, reply, &mut self.shared);
            self.shared.out.push(answer);
            return;
        }
        if !self.config.restrict && icmp::echo_reply(&message, v6).is_some() {
            self.ping(incoming, packet, &message);
        }
    }

    /// Passes on an echo request to the world.
    fn ping(&mut self, incoming: &Incoming<'_>, packet: &Packet, message: &[u8]) {
        let target = SocketAddr::new(packet.target, 0);
        let now = self.shared.now;
        let real = real_address(&self.config, &mut self.resolver, target, now);
        let result = match real.map(|(real, _)| real.ip()) {
            Some(real) => {
                let poller = &self.poller;
                let register = |socket: &_, token| poller.add(socket, Source::Ping, token);
                self.ping.send(packet.source, real, message, now, register)
            }
            None => return,
        };
        if let Err(error) = result {
            let macs = self.macs(incoming, packet.source.is_ipv6());
            let (from, to) = (SocketAddr::new(packet.source, 0), target);
            let begin = (&message[..8], message.len());
            let reason = icmp::Reason::of(error);
            let shared = &mut self.shared;
            let answer = icmp::unreachable(packet.protocol, from, to, begin, reason, macs, shared);
            self.shared.out.push(answer);
        }
    }

    /// Whether an address is one of those that we play.
    fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.config.v4.is_some_and(|net| {
                [net.host, net.dns].contains(&address) || net.smb == Some(address)
            }),
            IpAddr::V6(address) => {
                self.config.v6.is_some_and(|net| ndp::ours(&net, address).is_some())
            }
        }
    }

    /// Whether an address is the one that stands for the host.
    fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.config.v4.is_some_and(|net| net.host == address),
            IpAddr::V6(address) => {
                self.config.v6.is_some_and(|net| ndp::ours(&net, address) == Some(net.host))
            }
        }
    }

    fn fields(&mut self, protocol: u8, tos: u8) -> IpFields {
        self.shared.packet_id = self.shared.packet_id.wrapping_add(1);
        IpFields { protocol, ttl: 64, tos, id: self.shared.packet_id }
    }

    /// Sends a datagram to a guest, if it is known where that is.
    fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let Some(target_mac) = self.neighbours.find(to.ip()) else {
            self.shared.wanted.push(to.ip());
            return;
        };
        let route = Route {
            source_mac: self.our_mac(to.is_ipv6()),
            target_mac,
            source: from.ip(),
            target: to.ip(),
        };
        let mut datagram = udp_datagram(from.port(), to.port(), payload);
        let sum = match route.pseudo_sum(UDP, datagram.len()).bytes(&datagram).finish() {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        let fields = self.fields(UDP, 0);
        fragment::frames(&route, fields, fields.id.into(), &datagram, &mut self.shared.out);
    }

    /// Asks for the hardware addresses that are missing.
    fn ask_neighbours(&mut self) {
        for address in std::mem::take(&mut self.shared.wanted) {
            if let (IpAddr::V4(address), Some(net)) = (address, self.config.v4) {
                self.shared.out.push(arp_request((mac4(net.host), net.host), address).into());
            }
        }
    }

    // The host's side.

    /// A socket has become ready for something.
    pub fn on_event(&mut self, key: u64, flags: EpollFlags) {
        let Some((source, token)) = Source::of(key) else { return };
        match source {
            Source::Tcp => {
                let ready = Ready {
                    readable: flags.contains(EpollFlags::EPOLLIN),
                    more: flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI),
                    writable: flags.contains(EpollFlags::EPOLLOUT),
                    failed: flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP),
                };
                self.tcp.on_ready(token, ready, &mut self.shared);
            }
            Source::Udp => self.udp.on_readable(token),
            Source::Listener => self.accept(token),
            Source::Ping => self.ping.on_readable(token),
        }
    }

    /// Takes connections to a forwarded port.
    fn accept(&mut self, token: Token) {
        while let Some((socket, peer, guest)) = self.forwards.accept(token) {
            let remote = self.shown_address(peer);
            let key = FlowKey { guest, remote };
            let ours = self.our_mac(guest.is_ipv6());
            let guest_mac = self.neighbours.find(guest.ip());
            let poller = &self.poller;
            let register = |socket: &OwnedFd, token| poller.add(socket, Source::Tcp, token).is_ok();
            self.tcp.offer(key, ours, guest_mac, socket, &mut self.shared, register);
        }
    }

    /// How the guest sees a real address: the host itself is at our address.
    fn shown_address(&self, real: SocketAddr) -> SocketAddr {
        let ip = match (real.ip(), self.config.v4, self.config.v6) {
            (IpAddr::V4(ip), Some(net), _) if ip.is_loopback() => IpAddr::V4(net.host),
            (IpAddr::V6(ip), _, Some(net)) if ip.is_loopback() => IpAddr::V6(net.host),
            (ip, ..) => ip,
        };
        SocketAddr::new(ip, real.port())
    }

    /// Gathers what there is for the guest, until about `enough` bytes.
    pub fn produce(&mut self, enough: usize) {
        self.tcp.pump(enough, &mut self.shared);
        let mut datagrams: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = Vec::new();
        let name_servers = (self.config.v4.map(|net| net.dns), self.config.v6.map(|net| net.dns));
        self.udp.pump(DATAGRAMS, self.shared.now, |datagram| {
            let from = match (datagram.from_name_server, datagram.from, name_servers) {
                (true, SocketAddr::V4(from), (Some(dns), _)) => (dns, from.port()).into(),
                (true, SocketAddr::V6(from), (_, Some(dns))) => (dns, from.port()).into(),
                (_, from, _) => from,
            };
            datagrams.push((from, datagram.guest, datagram.payload.to_vec()));
        });
        for (from, guest, payload) in datagrams {
            let from = self.shown_address(from);
            self.send_datagram(from, guest, &payload);
        }
        for reply in self.ping.pump() {
            if let Some(target_mac) = self.neighbours.find(reply.guest) {
                let route = Route {
                    source_mac: self.our_mac(reply.guest.is_ipv6()),
                    target_mac,
                    source: reply.from,
                    target: reply.guest,
                };
                let answer = icmp::frame(&route, 64, 0, reply.message, &mut self.shared);
                self.shared.out.push(answer);
            }
        }
        self.ask_neighbours();
    }

    /// The guest has sent what it had: sockets get what was gathered of it.
    pub fn end_burst(&mut self) {
        self.tcp.end_burst(&mut self.shared);
    }

    /// Whether [`Self::end_burst`] or [`Self::produce`] would have something, or there are answers.
    pub fn has_work(&self) -> bool {
        !self.shared.out.is_empty()
            || !self.shared.wanted.is_empty()
            || self.tcp.has_work()
            || self.udp.has_work()
            || self.ping.has_work()
    }

    /// Takes what is to be sent.
    pub fn take_frames(&mut self, into: &mut VecDeque<OutFrame>) {
        into.extend(self.shared.out.drain(..));
    }

    /// When [`Self::on_timer`] is to be called.
    pub fn next_deadline(&mut self) -> Option<i64> {
        let expiry = self.next_expiry.or_else(|| self.expiry());
        self.next_expiry = expiry;
        [self.tcp.next_deadline(), expiry].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn on_timer(&mut self) {
        self.tcp.on_timer(&mut self.shared);
        if self.next_expiry.is_some_and(|at| at <= self.shared.now) {
            self.udp.on_timer(self.shared.now);
            self.ping.on_timer(self.shared.now);
            self.next_expiry = self.expiry();
        }
    }

    fn expiry(&self) -> Option<i64> {
        [self.udp.next_expiry(), self.ping.next_expiry()].into_iter().flatten().min()
    }
}

/// The real address behind one that the guest sees, and whether it is the name server's. `None` for what
/// is not reachable through us: other guests, everybody at once, and the host's own loopback network,
/// to which only our address leads.
fn real_address(
    config: &Config,
    resolver: &mut Resolver,
    shown: SocketAddr,
    now: i64,
) -> Option<(SocketAddr, bool)> {
    let port = shown.port();
    match shown.ip() {
        IpAddr::V4(ip) => {
            let net = config.v4?;
            if ip == net.host {
                return Some(((Ipv4Addr::LOCALHOST, port).into(), false));
            }
            if ip == net.dns {
                return Some(((resolver.server(false, now)?, port).into(), true));
            }
            let inside = u32::from(ip) & u32::from(net.mask) == u32::from(net.net);
            let barred = inside
                || ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast();
            (!barred).then_some((shown, false))
        }
        IpAddr::V6(ip) => {
            let net = config.v6?;
            match ndp::ours(&net, ip) {
                Some(own) if own == net.host => {
                    return Some(((Ipv6Addr::LOCALHOST, port).into(), false));
                }
                Some(_) => return Some(((resolver.server(true, now)?, port).into(), true)),
                None => {}
            }
            let mask = u128::MAX.checked_shl(128 - u32::from(net.prefix_len)).unwrap_or(0);
            let inside = u128::from(ip) & mask == u128::from(net.prefix);
            let mapped = ip.to_ipv4_mapped().is_some();
            let barred = inside
                || mapped
                || ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local();
            (!barred).then_some((shown, false))
        }
    }
}
