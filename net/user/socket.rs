//! Sockets of the host. None of them ever waits.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, Shutdown, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrIn6, SockaddrStorage, connect, getsockopt, recv, recvmmsg, setsockopt, shutdown,
    socket, sockopt,
};

/// Flags of every send.
pub const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// More than all tables hold.
const MOST_DESCRIPTORS: u64 = 65536;

/// Begins to connect; how it ends is told by readiness and [`take_error`].
pub fn tcp_connect(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None)?;
    prepare_stream(&fd);
    match connect_to(&fd, to) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

/// What a guest sends goes out as it comes: the guest has done the gathering.
fn prepare_stream(fd: &OwnedFd) {
    // Without it the connection is only slower.
    let _ = setsockopt(fd, sockopt::TcpNoDelay, &true);
    // Urgent bytes stay in their place in the stream.
    let _ = setsockopt(fd, sockopt::OobInline, &true);
}

/// Listens for connections.
pub fn tcp_listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes a connection, and who made it.
pub fn accept(listener: &TcpListener) -> io::Result<(OwnedFd, SocketAddr)> {
    let (stream, peer) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let fd = OwnedFd::from(stream);
    prepare_stream(&fd);
    Ok((fd, peer))
}

/// Two ends of a connection, of which a program may get one: servers that inetd could start ask who is
/// at the other end, and expect an address.
pub fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (theirs, peer) = listener.accept()?;
        // Anybody on this host could have come before.
        if peer == ours.local_addr()? {
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
}

/// A socket for datagrams.
pub fn udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What datagrams are received into, several by one call.
pub struct Inbox {
    buffers: Vec<Box<[u8]>>,
    /// As many are asked for next: preparing for more than come costs more than another call.
    ask: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        // Memory that no datagram ever reached does not count.
        let buffers = (0..Self::MOST).map(|_| vec![0; Self::LONGEST].into()).collect();
        Inbox { buffers, ask: Self::FEWEST }
    }
}

impl Inbox {
    /// As many at once. With two, one that comes alone is known to be the last.
    const FEWEST: usize = 2;
    const MOST: usize = 16;
    /// Largest datagram.
    const LONGEST: usize = 65536;

    /// Receives up to `most` datagrams that are there, at least one, and has `take` look at each and its sender.
    /// Returns how many there were, and whether there may be more.
    pub fn receive(
        &mut self,
        socket: &UdpSocket,
        most: usize,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> Result<(usize, bool), Errno> {
        let asked = most.min(self.ask);
        let buffers = self.buffers.iter_mut().take(asked);
        let mut places: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(places.len(), None);
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut places, flags, None)?;
        let mut count = 0;
        for datagram in received {
            count += 1;
            let from = datagram.address.as_ref().and_then(address_of);
            if let Some(from) = from {
                take(from, datagram.iovs().next().unwrap_or_default());
            }
        }
        self.ask = (2 * count).clamp(Self::FEWEST, Self::MOST);
        Ok((count, count == asked))
    }
}

/// An address of the Internet.
fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| Some(SocketAddr::V6((*address.as_sockaddr_in6()?).into())))
}

/// A socket for echo requests to an address, if the host allows them to this user.
pub fn ping(to: SocketAddr) -> Result<UdpSocket, Errno> {
    let (family, protocol) = match to.is_ipv6() {
        true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        false => (AddressFamily::Inet, SockProtocol::Icmp),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Datagram, flags, protocol)?;
    connect_to(&fd, to)?;
    Ok(UdpSocket::from(fd))
}

fn connect_to(fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    match to {
        SocketAddr::V4(to) => connect(fd.as_raw_fd(), &SockaddrIn::from(to)),
        SocketAddr::V6(to) => connect(fd.as_raw_fd(), &SockaddrIn6::from(to)),
    }
}

/// Any address of a family.
pub fn unspecified(v6: bool) -> SocketAddr {
    if v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() }
}

/// Receives bytes of a stream; none means that it has ended.
pub fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
}

/// The error that a socket has met, if any.
pub fn take_error(fd: impl AsFd) -> Option<Errno> {
    let code = getsockopt(&fd, sockopt::SocketError).ok()?;
    (code != 0).then(|| Errno::from_raw(code))
}

/// Nothing more is written.
pub fn shut_down_writing(fd: &OwnedFd) -> io::Result<()> {
    Ok(shutdown(fd.as_raw_fd(), Shutdown::Write)?)
}

/// Makes closing a stream a reset, whatever is still queued.
pub fn reset_on_close(fd: impl AsFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // Fails for a socket that is no stream of the network (a command's): closing it is all there is.
    let _ = setsockopt(&fd, sockopt::Linger, &linger);
}

/// Each connection needs a descriptor: takes as many as this user may have.
pub fn raise_descriptor_limit() {
    // With fewer, connections beyond are refused.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(MOST_DESCRIPTORS)
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(MOST_DESCRIPTORS), hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_several_at_a_time_and_none_stays() {
        let socket = udp((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let peer = udp((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (at, from) = (socket.local_addr().unwrap(), peer.local_addr().unwrap());
        let sent: Vec<Vec<u8>> = (0..40).map(|n| vec![n; usize::from(n) * 10]).collect();
        sent.iter().for_each(|bytes| assert_eq!(peer.send_to(bytes, at).unwrap(), bytes.len()));
        let (mut inbox, mut got, mut calls) = (Inbox::default(), Vec::new(), Vec::new());
        loop {
            let most = if calls.len() == 3 { 3 } else { 64 };
            let received = inbox.receive(&socket, most, |sender, bytes| {
                assert_eq!(sender, from);
                got.push(bytes.to_vec());
            });
            let (count, more) = received.unwrap();
            calls.push(count);
            if !more {
                break;
            }
        }
        assert_eq!(got, sent);
        assert_eq!(calls, [2, 4, 8, 3, 6, 12, 5]);
        assert_eq!(inbox.receive(&socket, 64, |_, _| unreachable!()), Err(Errno::EAGAIN));
    }
}
