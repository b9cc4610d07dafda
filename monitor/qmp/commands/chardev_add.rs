//! `chardev-add`: character devices at run time.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use base::chardev::{BackendSpec, ChardevSpec, Family, SocketAddress, SocketSpec, UdpSpec, VcSize};

use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::{qapi_choice, qapi_struct};

qapi_struct! {
    /// What every kind has.
    pub(in crate::qmp) struct Common {
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// Files.
    pub(in crate::qmp) struct File {
        "in" input: Option<String>,
        "out" output: String,
        "append" append: Option<bool>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// A device of the host.
    pub(in crate::qmp) struct HostDevice {
        "device" device: String,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// A pseudo terminal.
    pub(in crate::qmp) struct Pty {
        "path" path: Option<String>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// Several front ends on one device.
    pub(in crate::qmp) struct Mux {
        "chardev" chardev: String,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// The program's terminal.
    pub(in crate::qmp) struct Stdio {
        "signal" signal: Option<bool>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// A buffer.
    pub(in crate::qmp) struct Ringbuf {
        "size" size: Option<u64>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// An address of the Internet.
    pub(in crate::qmp) struct InetAddress {
        "host" host: String,
        "port" port: String,
        "to" to: Option<u64>,
        "ipv4" ipv4: Option<bool>,
        "ipv6" ipv6: Option<bool>,
    }
}

qapi_struct! {
    /// An address in the file system.
    pub(in crate::qmp) struct UnixAddress {
        "path" path: String,
        "abstract" is_abstract: Option<bool>,
        "tight" tight: Option<bool>,
    }
}

qapi_struct! {
    /// A descriptor: a number, or the name it was passed under.
    pub(in crate::qmp) struct FdAddress { "str" text: String }
}

qapi_choice! {
    /// Where a socket is.
    pub(in crate::qmp) enum Address {
        "inet" Inet(InetAddress),
        "unix" Unix(UnixAddress),
        "fd" Fd(FdAddress),
    }
}

qapi_struct! {
    /// A stream socket.
    pub(in crate::qmp) struct Socket {
        "addr" address: Address,
        "server" server: Option<bool>,
        "wait" wait: Option<bool>,
        "nodelay" nodelay: Option<bool>,
        "telnet" telnet: Option<bool>,
        "reconnect" reconnect: Option<u64>,
        "reconnect-ms" reconnect_ms: Option<u64>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// A datagram socket.
    pub(in crate::qmp) struct Udp {
        "remote" remote: Address,
        "local" local: Option<Address>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_struct! {
    /// A text console.
    pub(in crate::qmp) struct Vc {
        "width" width: Option<i64>,
        "height" height: Option<i64>,
        "cols" cols: Option<i64>,
        "rows" rows: Option<i64>,
        "logfile" logfile: Option<String>,
        "logappend" logappend: Option<bool>,
    }
}

qapi_choice! {
    /// A character device to be made.
    pub(in crate::qmp) enum Backend {
        "file" File(File),
        "serial" Serial(HostDevice),
        "pipe" Pipe(HostDevice),
        "socket" Socket(Socket),
        "udp" Udp(Udp),
        "pty" Pty(Pty),
        "null" Null(Common),
        "mux" Mux(Mux),
        "stdio" Stdio(Stdio),
        "vc" Vc(Vc),
        "ringbuf" Ringbuf(Ringbuf),
        "memory" Memory(Ringbuf),
    }
}

qapi_struct! {
    /// A character device to be made, and its id.
    pub(in crate::qmp) struct Add { "id" id: String, "backend" backend: Backend }
}

qapi_struct! {
    /// What was made.
    pub(in crate::qmp) struct Added { "pty" pty: Option<String> }
}

fn family(address: &InetAddress) -> Result<Family, QmpError> {
    Ok(Family::from_options(address.ipv4, address.ipv6)?)
}

/// Descriptors that must stay open until the device has made copies.
type Kept = Vec<OwnedFd>;

/// The address; a descriptor is looked for by the name under which the client passed it.
fn address(call: &Call<'_>, address: Address, kept: &mut Kept) -> Result<SocketAddress, QmpError> {
    Ok(match address {
        Address::Inet(inet) => SocketAddress::Inet {
            family: family(&inet)?,
            to: inet.to.map(|to| u16::try_from(to).unwrap_or(u16::MAX)),
            host: inet.host,
            port: inet.port,
        },
        Address::Unix(unix) => SocketAddress::Unix {
            path: unix.path,
            abstract_name: unix.is_abstract.unwrap_or(false),
            tight: unix.tight.unwrap_or(true),
        },
        Address::Fd(FdAddress { text }) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            SocketAddress::Fd(text)
        }
        Address::Fd(FdAddress { text }) => {
            let fd = call.session.fds.take(&text)?;
            let number = fd.as_raw_fd().to_string();
            kept.push(fd);
            SocketAddress::Fd(number)
        }
    })
}

fn socket(call: &Call<'_>, socket: Socket, kept: &mut Kept) -> Result<SocketSpec, QmpError> {
    let server = socket.server.unwrap_or(true);
    let reconnect = match (socket.reconnect, socket.reconnect_ms) {
        (Some(_), Some(_)) => {
            let message = "'reconnect' and 'reconnect-ms' are mutually exclusive";
            return Err(QmpError::new(message));
        }
        (Some(_), None) if server => {
            let message = "'reconnect' option is incompatible with socket in server listen mode";
            return Err(QmpError::new(message));
        }
        (Some(seconds), None) => Duration::from_secs(seconds),
        (None, Some(milliseconds)) if !server => Duration::from_millis(milliseconds),
        (None, _) => Duration::ZERO,
    };
    if socket.wait.is_some() && !server {
        let message = "'wait' option is incompatible with socket in client connect mode";
        return Err(QmpError::new(message));
    }
    Ok(SocketSpec {
        address: address(call, socket.address, kept)?,
        server,
        // Not waited for: nothing else would be served meanwhile.
        wait: false,
        telnet: socket.telnet.unwrap_or(false),
        nodelay: socket.nodelay.unwrap_or(false),
        reconnect,
    })
}

fn udp(udp: Udp) -> Result<UdpSpec, QmpError> {
    let inet = |address| match address {
        Address::Inet(inet) => Ok(inet),
        _ => Err(QmpError::new("UDP sockets have addresses of the type inet")),
    };
    let remote = inet(udp.remote)?;
    let local = udp.local.map(inet).transpose()?;
    let (local_host, local_port) = local.map(|local| (local.host, local.port)).unzip();
    Ok(UdpSpec {
        family: family(&remote)?,
        host: remote.host,
        port: remote.port,
        local_host,
        local_port,
    })
}

fn spec(
    call: &Call<'_>,
    Add { id, backend }: Add,
    kept: &mut Kept,
) -> Result<ChardevSpec, QmpError> {
    let (backend, logfile, logappend) = match backend {
        Backend::File(d) => {
            let append = d.append.unwrap_or(false);
            let spec = BackendSpec::File { path: d.output, append, input_path: d.input };
            (spec, d.logfile, d.logappend)
        }
        Backend::Serial(d) => (BackendSpec::Serial { path: d.device }, d.logfile, d.logappend),
        Backend::Pipe(d) => (BackendSpec::Pipe { path: d.device }, d.logfile, d.logappend),
        Backend::Socket(d) => {
            let log = (d.logfile.clone(), d.logappend);
            (BackendSpec::Socket(socket(call, d, kept)?), log.0, log.1)
        }
        Backend::Udp(d) => {
            let log = (d.logfile.clone(), d.logappend);
            (BackendSpec::Udp(udp(d)?), log.0, log.1)
        }
        Backend::Pty(d) => (BackendSpec::Pty { path: d.path }, d.logfile, d.logappend),
        Backend::Null(d) => (BackendSpec::Null, d.logfile, d.logappend),
        Backend::Mux(d) => (BackendSpec::Mux { chardev: d.chardev }, d.logfile, d.logappend),
        Backend::Stdio(d) => {
            let signal = d.signal.unwrap_or(true);
            (BackendSpec::Stdio { signal }, d.logfile, d.logappend)
        }
        Backend::Vc(d) => {
            let positive = |number: Option<i64>| number.and_then(|number| number.try_into().ok());
            let [width, height, columns, rows] = [d.width, d.height, d.cols, d.rows].map(positive);
            let size = VcSize::new((columns, width), (rows, height));
            (BackendSpec::Vc(size), d.logfile, d.logappend)
        }
        Backend::Ringbuf(d) | Backend::Memory(d) => {
            (BackendSpec::Ringbuf { size: d.size }, d.logfile, d.logappend)
        }
    };
    let logappend = logappend.unwrap_or(false);
    Ok(ChardevSpec { logfile, logappend, ..ChardevSpec::new(id, backend) })
}

pub(in crate::qmp) fn add(call: &Call<'_>, wanted: Add) -> Result<Added, QmpError> {
    let id = wanted.id.clone();
    let is_pty = matches!(wanted.backend, Backend::Pty(_));
    let failed = |error: String| QmpError::new(format!("Failed to add chardev '{id}': {error}"));
    if call.target.chardevs.get(&id).is_ok() {
        return Err(QmpError::new(format!("Chardev with id '{id}' already exists")));
    }
    let mut kept = Kept::new();
    let spec = spec(call, wanted, &mut kept).map_err(|error| failed(error.description))?;
    let device = call.target.chardevs.create(&spec).map_err(|error| failed(error.to_string()))?;
    let pty = is_pty.then(|| device.filename().trim_start_matches("pty:").to_owned());
    Ok(Added { pty })
}
