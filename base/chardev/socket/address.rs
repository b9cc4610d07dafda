//! From what an option says to socket addresses, connections and listeners.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixListener, UnixStream};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

use super::super::ChardevError;
use super::super::spec::SocketAddress;
use crate::fd::duplicate_inherited;
use crate::report::strerror;

/// Room for a path in a unix socket address, a terminating zero not needed.
const UNIX_PATH_MAX: usize = 108;

/// Which addresses are acceptable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Whatever the name resolves to.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    /// From the options `ipv4` and `ipv6`.
    pub fn from_options(ipv4: Option<bool>, ipv6: Option<bool>) -> Result<Family, ChardevError> {
        match (ipv4, ipv6) {
            (Some(false), Some(false)) => {
                Err(ChardevError::Refused("Cannot disable IPv4 and IPv6 at same time".into()))
            }
            (Some(true), Some(false) | None) | (None, Some(false)) => Ok(Family::V4),
            (Some(false) | None, Some(true)) | (Some(false), None) => Ok(Family::V6),
            (None, None) | (Some(true), Some(true)) => Ok(Family::Any),
        }
    }

    fn admits(self, address: &SocketAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

/// All addresses of a host. An empty one means every local address when `passive`, and the loopback
/// otherwise. May wait for a name server.
fn resolve(
    host: &str,
    port: u16,
    family: Family,
    passive: bool,
) -> Result<Vec<SocketAddr>, String> {
    if host.is_empty() {
        let v6 = family == Family::V6;
        let ip: IpAddr = match (passive, v6) {
            (true, false) => Ipv4Addr::UNSPECIFIED.into(),
            (true, true) => Ipv6Addr::UNSPECIFIED.into(),
            (false, false) => Ipv4Addr::LOCALHOST.into(),
            (false, true) => Ipv6Addr::LOCALHOST.into(),
        };
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = (host, port).to_socket_addrs().map_err(|error| {
        let text = strerror(&error);
        let prefix = "failed to lookup address information: ";
        text.strip_prefix(prefix).map_or(text.clone(), Into::into)
    })?;
    let fitting: Vec<_> = found.filter(|address| family.admits(address)).collect();
    if fitting.is_empty() {
        return Err("Address family for hostname not supported".into());
    }
    Ok(fitting)
}

fn resolve_text(
    host: &str,
    port: &str,
    family: Family,
    passive: bool,
) -> Result<Vec<SocketAddr>, ChardevError> {
    let number = port.parse().map_err(|_| "Servname not supported for ai_socktype".to_string());
    number.and_then(|number| resolve(host, number, family, passive)).map_err(|reason| {
        ChardevError::Refused(format!("address resolution failed for {host}:{port}: {reason}"))
    })
}

/// The first address of a host; see [`resolve`].
pub(in super::super) fn resolve_one(
    host: &str,
    port: &str,
    family: Family,
    passive: bool,
) -> Result<SocketAddr, ChardevError> {
    let addresses = resolve_text(host, port, family, passive)?;
    addresses.first().copied().ok_or_else(|| {
        ChardevError::Refused(format!("address resolution failed for {host}:{port}: no address"))
    })
}

/// A connected socket.
#[derive(Debug)]
pub enum Connected {
    /// Within the host.
    Unix(UnixStream),
    /// Over a network.
    Tcp(TcpStream),
}

/// A listening socket.
#[derive(Debug)]
pub enum Listening {
    /// Within the host.
    Unix(UnixListener),
    /// Over a network.
    Tcp(TcpListener),
}

impl AsFd for Listening {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Listening::Unix(listener) => listener.as_fd(),
            Listening::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Listening {
    /// Takes the next connection.
    pub fn accept(&self) -> io::Result<Connected> {
        match self {
            Listening::Unix(listener) => Ok(Connected::Unix(listener.accept()?.0)),
            Listening::Tcp(listener) => Ok(Connected::Tcp(listener.accept()?.0)),
        }
    }

    /// Has accepting return at once.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listening::Unix(listener) => listener.set_nonblocking(true),
            Listening::Tcp(listener) => listener.set_nonblocking(true),
        }
    }
}

/// Connects, which may take a while.
pub fn connect(address: &SocketAddress) -> Result<Connected, ChardevError> {
    match address {
        SocketAddress::Unix { path, abstract_name, tight } => {
            let stream = UnixStream::connect_addr(&unix_address(path, *abstract_name, *tight)?)
                .map_err(ChardevError::io(format!("Failed to connect to '{path}'")))?;
            Ok(Connected::Unix(stream))
        }
        SocketAddress::Inet { host, port, family, .. } => {
            let addresses = resolve_text(host, port, *family, false)?;
            let stream = TcpStream::connect(addresses.as_slice())
                .map_err(ChardevError::io(format!("Failed to connect to '{host}:{port}'")))?;
            Ok(Connected::Tcp(stream))
        }
        SocketAddress::Fd(number) => match inherited(number)? {
            (fd, AddressFamily::Unix) => Ok(Connected::Unix(fd.into())),
            (fd, _) => Ok(Connected::Tcp(fd.into())),
        },
    }
}

/// Listens. A unix socket's file is replaced.
pub fn listen(address: &SocketAddress) -> Result<Listening, ChardevError> {
    match address {
        SocketAddress::Unix { path, abstract_name, tight } => {
            let address = unix_address(path, *abstract_name, *tight)?;
            if !abstract_name {
                // If it cannot be removed, binding says why.
                let _ = std::fs::remove_file(path);
            }
            let listener = UnixListener::bind_addr(&address)
                .map_err(ChardevError::io(format!("Failed to bind socket to {path}")))?;
            Ok(Listening::Unix(listener))
        }
        SocketAddress::Inet { host, port, to, family } => {
            Ok(Listening::Tcp(listen_inet(host, port, *to, *family)?))
        }
        SocketAddress::Fd(number) => match inherited(number)? {
            (fd, AddressFamily::Unix) => Ok(Listening::Unix(fd.into())),
            (fd, _) => Ok(Listening::Tcp(fd.into())),
        },
    }
}

/// Binds the first port from `port` up to `to` that is free.
fn listen_inet(
    host: &str,
    port: &str,
    to: Option<u16>,
    family: Family,
) -> Result<TcpListener, ChardevError> {
    let addresses = resolve_text(host, port, family, true)?;
    let first = addresses.first().map_or(0, SocketAddr::port);
    for port in first..=to.unwrap_or(first).max(first) {
        for address in &addresses {
            match TcpListener::bind(SocketAddr::new(address.ip(), port)) {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(ChardevError::io("Failed to bind socket")(error)),
            }
        }
    }
    let in_use = io::Error::from_raw_os_error(libc::EADDRINUSE);
    Err(ChardevError::io("Failed to find an available port")(in_use))
}

/// A name in the abstract name space is as long as the address says; one that is not "tight" is
/// padded with zeros to the length of all addresses.
fn unix_address(
    path: &str,
    abstract_name: bool,
    tight: bool,
) -> Result<unix::SocketAddr, ChardevError> {
    let room = UNIX_PATH_MAX - usize::from(abstract_name);
    if path.len() > room {
        return Err(ChardevError::Refused(format!(
            "UNIX socket path '{path}' is too long\nPath must be less than {room} bytes"
        )));
    }
    let address = if abstract_name {
        let mut name = path.as_bytes().to_vec();
        if !tight {
            name.resize(room, 0);
        }
        unix::SocketAddr::from_abstract_name(name)
    } else {
        unix::SocketAddr::from_pathname(path)
    };
    address.map_err(ChardevError::io(format!("Invalid UNIX socket path '{path}'")))
}

fn inherited(number: &str) -> Result<(OwnedFd, AddressFamily), ChardevError> {
    let parsed: RawFd = number
        .parse()
        .map_err(|_| ChardevError::Refused(format!("Unable to parse FD number {number}")))?;
    let not_a_socket =
        || ChardevError::Refused(format!("File descriptor '{number}' is not a socket"));
    let fd = duplicate_inherited(parsed).map_err(|_| not_a_socket())?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let name: SockaddrStorage = getsockname(raw).map_err(|_| not_a_socket())?;
    let family = name.family().ok_or_else(not_a_socket)?;
    Ok((fd, family))
}

/// The path of a unix socket as messages show it.
pub(super) fn unix_name(address: &unix::SocketAddr) -> String {
    if let Some(name) = address.as_abstract_name() {
        let tight = name.len() < UNIX_PATH_MAX - 1;
        let end = name.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        let name = String::from_utf8_lossy(&name[..end]);
        return format!("{name},abstract=on{}", if tight { ",tight=on" } else { "" });
    }
    address.as_pathname().map_or(String::new(), |path| path.display().to_string())
}

/// A TCP address as messages show it: without brackets, as it always was.
pub(super) fn inet_name(address: io::Result<SocketAddr>) -> String {
    address.map_or(String::new(), |address| format!("{}:{}", address.ip(), address.port()))
}
