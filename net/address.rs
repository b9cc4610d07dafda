//! Addresses of sockets in the options of back ends: QAPI's `SocketAddress`.

use std::net::{SocketAddr, ToSocketAddrs};

use base::chardev::{Family, SocketAddress};
use base::options::OptionError;

use crate::NetError;
use crate::options::{Key, Kind, Values, must, opt};

/// The keys of any address; which of them there have to be depends on the type.
pub(crate) const ADDRESS: &[Key] = &[
    must("type", Kind::Word(&["inet", "unix", "fd"])),
    opt("host", Kind::Text),
    opt("port", Kind::Text),
    opt("numeric", Kind::Bool),
    opt("to", Kind::Uint(16)),
    opt("ipv4", Kind::Bool),
    opt("ipv6", Kind::Bool),
    opt("keep-alive", Kind::Bool),
    opt("path", Kind::Text),
    opt("abstract", Kind::Bool),
    opt("tight", Kind::Bool),
    opt("str", Kind::Text),
];

/// Reads the address that `key` has.
pub(crate) fn read(values: &Values, key: &str) -> Result<Option<SocketAddress>, NetError> {
    let Some(address) = values.object(key) else { return Ok(None) };
    let allowed: &[&str] = match address.text("type") {
        Some("unix") => &["type", "path", "abstract", "tight"],
        Some("fd") => &["type", "str"],
        _ => &["type", "host", "port", "numeric", "to", "ipv4", "ipv6", "keep-alive"],
    };
    let foreign =
        ADDRESS.iter().find(|known| address.has(known.name) && !allowed.contains(&known.name));
    if let Some(foreign) = foreign {
        return Err(NetError::Unexpected(format!("{key}.{}", foreign.name)));
    }
    let text = |name: &str| {
        let missing = || OptionError::Missing(format!("{key}.{name}"));
        Ok::<_, NetError>(address.text(name).ok_or_else(missing)?.to_owned())
    };
    Ok(Some(match address.text("type") {
        Some("unix") => SocketAddress::Unix {
            path: text("path")?,
            abstract_name: address.bool("abstract").unwrap_or(false),
            tight: address.bool("tight").unwrap_or(true),
        },
        Some("fd") => SocketAddress::Fd(text("str")?),
        _ => SocketAddress::Inet {
            host: text("host")?,
            port: text("port")?,
            to: address.uint("to").and_then(|port| u16::try_from(port).ok()),
            family: Family::from_options(address.bool("ipv4"), address.bool("ipv6"))
                .map_err(|error| NetError::failed(error.to_string()))?,
        },
    }))
}

/// `HOST:PORT` of the legacy options; an empty host is every address.
pub(crate) fn legacy(text: &str) -> Result<SocketAddr, NetError> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(NetError::Failed(format!(
            "host address '{text}' doesn't contain ':' separating host from port"
        )));
    };
    let Ok(port) = port.parse::<u16>() else {
        return Err(NetError::Failed(format!("port number '{port}' is invalid")));
    };
    internet(if host.is_empty() { "0.0.0.0" } else { host }, port)
}

/// An address of IPv4. May wait for a name server.
pub(crate) fn internet(host: &str, port: u16) -> Result<SocketAddr, NetError> {
    let mut found = (host, port).to_socket_addrs().into_iter().flatten();
    found
        .find(SocketAddr::is_ipv4)
        .ok_or_else(|| NetError::Failed(format!("can't resolve host address '{host}'")))
}
