//! `-netdev socket`, as it was before `stream` and `dgram`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base::chardev::{Family, SocketAddress};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::netdev::{Context, NetdevKind};
use crate::options::{Kind, Values, opt};
use crate::stream::{self, Role};
use crate::{NetError, Netdev, address, dgram};

/// `-netdev socket`.
pub static KIND: NetdevKind = NetdevKind {
    name: "socket",
    keys: &[
        opt("fd", Kind::Text),
        opt("listen", Kind::Text),
        opt("connect", Kind::Text),
        opt("mcast", Kind::Text),
        opt("localaddr", Kind::Text),
        opt("udp", Kind::Text),
    ],
    dotted: false,
    make,
};

fn inet(address: SocketAddr) -> SocketAddress {
    SocketAddress::Inet {
        host: address.ip().to_string(),
        port: address.port().to_string(),
        to: None,
        family: Family::Any,
    }
}

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let ways = ["fd", "listen", "connect", "mcast", "udp"];
    if ways.iter().filter(|way| values.has(way)).count() != 1 {
        return Err(NetError::failed(
            "exactly one of listen=, connect=, mcast= or udp= is required",
        ));
    }
    let local = values.text("localaddr");
    if local.is_some() && !values.has("mcast") && !values.has("udp") {
        return Err(NetError::failed("localaddr= is only valid with mcast= or udp="));
    }
    if let Some(number) = values.text("fd") {
        return of_descriptor(context, id, number);
    }
    if let Some(text) = values.text("listen") {
        return stream::create(context, "socket", id, Role::Server(inet(address::legacy(text)?)));
    }
    if let Some(text) = values.text("connect") {
        let address = inet(address::legacy(text)?);
        return stream::create(context, "socket", id, Role::Client { address, reconnect: None });
    }
    if let Some(text) = values.text("mcast") {
        let group = address::legacy(text)?;
        let SocketAddr::V4(v4) = group else {
            return Err(NetError::failed("only groups of IPv4 can be joined"));
        };
        if !v4.ip().is_multicast() {
            let number = u32::from(*v4.ip());
            return Err(NetError::Failed(format!(
                "specified mcastaddr {} (0x{number:08x}) does not contain a multicast address",
                v4.ip()
            )));
        }
        let interface = local.map(|local| {
            let wrong =
                |_| NetError::Failed(format!("localaddr '{local}' is not a valid IPv4 address"));
            local.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(wrong)
        });
        let datagrams = dgram::multicast(group, interface.transpose()?)?;
        return dgram::finish(context, "socket", id, datagrams, format!("socket: mcast={group}"));
    }
    let remote = address::legacy(values.text("udp").unwrap_or_default())?;
    let local = local.ok_or(NetError::failed("localaddr= is mandatory with udp="))?;
    let local = address::legacy(local)?;
    let datagrams = dgram::unicast(local, remote)?;
    dgram::finish(context, "socket", id, datagrams, format!("socket: udp={remote}"))
}

/// A socket that was passed: datagrams or a stream.
fn of_descriptor(context: &Context, id: &str, number: &str) -> Result<Netdev, NetError> {
    let no_type = || NetError::failed("can't get socket option SO_TYPE");
    let wrong = |_| NetError::Failed(format!("Invalid file descriptor number '{number}'"));
    let parsed = number.parse().map_err(wrong)?;
    let fd = dgram::passed(id, parsed).map_err(|_| no_type())?;
    let info = format!("socket: fd={number}");
    match getsockopt(&fd, sockopt::SockType).map_err(|_| no_type())? {
        SockType::Datagram => dgram::finish(context, "socket", id, dgram::connected(fd), info),
        SockType::Stream => {
            let address = SocketAddress::Fd(number.into());
            stream::create(context, "socket", id, Role::Client { address, reconnect: None })
        }
        other => Err(NetError::Failed(format!(
            "socket type={} for fd={number} must be either SOCK_DGRAM or SOCK_STREAM",
            other as i32
        ))),
    }
}
