//! Networks of datagrams: `-netdev dgram`, and `-netdev socket` with `mcast=` or `udp=`. Each
//! datagram is a frame.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use base::chardev::SocketAddress;
use base::fd::{duplicate_inherited, set_nonblocking};
use base::report::strerror;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrStorage, UnixAddr, bind, recv,
    setsockopt, socket, sockopt,
};

use crate::frame::{send_parts, send_parts_to};
use crate::netdev::{Context, NetdevKind};
use crate::options::{Kind, Values, opt};
use crate::packets::{Medium, Packets, Received};
use crate::{Backend, Cable, Frame, NetError, Netdev, Offload, Offloads, Side, address};

/// `-netdev dgram`.
pub static KIND: NetdevKind = NetdevKind {
    name: "dgram",
    keys: &[
        opt("local", Kind::Object("SocketAddress", address::ADDRESS)),
        opt("remote", Kind::Object("SocketAddress", address::ADDRESS)),
    ],
    dotted: true,
    make,
};

/// A socket, and where its datagrams go.
pub(crate) struct Datagrams {
    fd: OwnedFd,
    to: To,
}

enum To {
    /// Wherever a socket that was passed is connected to.
    Connected,
    Unix(UnixAddr),
    Internet(SockaddrStorage),
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Medium for Datagrams {
    fn send(&self, frame: &Frame<'_>) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let (fd, parts) = (&self.fd, frame.parts());
        match &self.to {
            To::Connected => send_parts(fd, parts, flags),
            To::Unix(to) => send_parts_to(fd, parts, flags, to),
            To::Internet(to) => send_parts_to(fd, parts, flags, to),
        }
        .map(drop)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let count = recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(Received { place: 0..count, offload: Offload::default() })
    }

    fn accepts(&self) -> Offloads {
        Offloads::default()
    }
}

/// The owner of the end.
struct Dgram {
    _end: Arc<Packets<Datagrams>>,
    info: String,
}

impl Backend for Dgram {
    fn info(&self, _lane: usize) -> String {
        self.info.clone()
    }
}

fn fault(what: &str) -> impl Fn(io::Error) -> NetError {
    move |error| NetError::Failed(format!("{what}: {}", strerror(&error)))
}

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let (local, remote) = (address::read(values, "local")?, address::read(values, "remote")?);
    let inet = |address: &SocketAddress| match address {
        SocketAddress::Inet { host, port, .. } => {
            let number = port
                .parse()
                .map_err(|_| NetError::Failed(format!("port number '{port}' is invalid")))?;
            address::internet(host, number).map(Some)
        }
        _ => Ok(None),
    };
    let no_local = NetError::failed("dgram requires local= parameter");
    let no_remote = NetError::failed("type=inet or type=unix requires remote parameter");
    let (datagrams, info) = match (&local, &remote) {
        (local, Some(remote)) if is_group(inet(remote)?) => {
            let group = inet(remote)?.ok_or(no_local)?;
            let interface = match local {
                Some(SocketAddress::Fd(number)) => {
                    let fd = inherited(id, number)?;
                    let passed = Datagrams { fd, to: To::Internet(group.into()) };
                    return finish(context, "dgram", id, passed, format!("mcast={group}"));
                }
                Some(SocketAddress::Unix { .. }) => {
                    return Err(NetError::failed("only support inet or fd type for local"));
                }
                Some(local) => inet(local)?.map(|address| address.ip()),
                None => None,
            };
            (multicast(group, interface)?, format!("mcast={group}"))
        }
        (None, _) => return Err(no_local),
        (Some(SocketAddress::Fd(number)), None) => {
            let fd = inherited(id, number)?;
            (Datagrams { fd, to: To::Connected }, format!("fd={number}"))
        }
        (Some(SocketAddress::Fd(_)), Some(_)) => {
            return Err(NetError::failed("don't set remote with local.fd"));
        }
        (Some(_), None) => return Err(no_remote),
        (Some(SocketAddress::Unix { path, .. }), Some(SocketAddress::Unix { path: to, .. })) => {
            (unix(path, to)?, format!("udp={path}:{to}"))
        }
        (Some(local), Some(remote)) => match (inet(local)?, inet(remote)?) {
            (Some(local), Some(remote)) => {
                (unicast(local, remote)?, format!("udp={local}/{remote}"))
            }
            _ => return Err(NetError::failed("remote and local types must be the same")),
        },
    };
    finish(context, "dgram", id, datagrams, info)
}

/// Puts datagrams at the end of a cable.
pub(crate) fn finish(
    context: &Context,
    kind: &'static str,
    id: &str,
    datagrams: Datagrams,
    info: String,
) -> Result<Netdev, NetError> {
    let cable = Cable::new(id);
    let end = Packets::create(datagrams, cable.plug(Side::Host, 0), &context.handle)?;
    Ok(Netdev { kind, cable, backend: Arc::new(Dgram { _end: end, info }) })
}

fn is_group(address: Option<SocketAddr>) -> bool {
    address.is_some_and(|address| address.ip().is_multicast())
}

/// A socket that was passed, by number.
fn inherited(id: &str, number: &str) -> Result<OwnedFd, NetError> {
    let number = number
        .parse()
        .map_err(|_| NetError::Failed(format!("Invalid file descriptor number '{number}'")))?;
    passed(id, number)
}

/// A datagram socket that was passed.
pub(crate) fn passed(id: &str, number: i32) -> Result<OwnedFd, NetError> {
    let cannot = |error: io::Error| {
        NetError::Failed(format!("{id}: Can't use file descriptor {number}: {}", strerror(&error)))
    };
    let fd = duplicate_inherited(number).map_err(cannot)?;
    set_nonblocking(&fd).map_err(cannot)?;
    Ok(fd)
}

/// Datagrams through a socket that was passed.
pub(crate) fn connected(fd: OwnedFd) -> Datagrams {
    Datagrams { fd, to: To::Connected }
}

/// Datagrams between two paths.
fn unix(path: &str, to: &str) -> Result<Datagrams, NetError> {
    // If it cannot be removed, binding says why.
    let _ = std::fs::remove_file(path);
    let socket =
        UnixDatagram::bind(path).map_err(fault(&format!("can't bind unix={path} to socket")))?;
    socket.set_nonblocking(true).map_err(fault("can't set socket to non-blocking"))?;
    let to = UnixAddr::new(to).map_err(|error| fault("bad address")(error.into()))?;
    Ok(Datagrams { fd: socket.into(), to: To::Unix(to) })
}

/// Datagrams between two addresses.
pub(crate) fn unicast(local: SocketAddr, remote: SocketAddr) -> Result<Datagrams, NetError> {
    let socket = UdpSocket::bind(local)
        .map_err(fault(&format!("can't bind ip={} to socket", local.ip())))?;
    socket.set_nonblocking(true).map_err(fault("can't set socket to non-blocking"))?;
    Ok(Datagrams { fd: socket.into(), to: To::Internet(remote.into()) })
}

/// Datagrams to a group, among which are one's own.
pub(crate) fn multicast(
    group: SocketAddr,
    interface: Option<IpAddr>,
) -> Result<Datagrams, NetError> {
    let (SocketAddr::V4(address), IpAddr::V4(ip)) = (group, group.ip()) else {
        return Err(NetError::failed("only groups of IPv4 can be joined"));
    };
    let failed = |what: &'static str| move |error: nix::Error| fault(what)(error.into());
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(failed("can't create datagram socket"))?;
    // Several emulators of one host share a group's port.
    setsockopt(&fd, sockopt::ReuseAddr, &true)
        .map_err(failed("can't set socket option SO_REUSEADDR"))?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))
        .map_err(|error| fault(&format!("can't bind ip={ip} to socket"))(error.into()))?;
    let socket = UdpSocket::from(fd);
    let on = match interface {
        Some(IpAddr::V4(on)) => on,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    socket
        .join_multicast_v4(&ip, &on)
        .map_err(fault(&format!("can't add socket to multicast group {ip}")))?;
    // So that guests on one host see each other.
    socket
        .set_multicast_loop_v4(true)
        .map_err(fault("can't force multicast message to loopback"))?;
    if interface.is_some() {
        leave_by(&socket, on).map_err(fault("can't set the default network send interface"))?;
    }
    socket.set_nonblocking(true).map_err(fault("can't set socket to non-blocking"))?;
    Ok(Datagrams { fd: socket.into(), to: To::Internet(group.into()) })
}

/// Where datagrams to groups leave the host.
#[allow(unsafe_code)] // An option of sockets that no library has.
fn leave_by(socket: &UdpSocket, interface: Ipv4Addr) -> io::Result<()> {
    let address = libc::in_addr { s_addr: u32::from(interface).to_be() };
    let len = size_of::<libc::in_addr>() as libc::socklen_t;
    let (fd, value) = (socket.as_raw_fd(), (&raw const address).cast());
    // SAFETY: the kernel reads `len` bytes of the address, which lives through the call.
    match unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, value, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
