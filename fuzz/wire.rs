//! Character devices whose far end the fuzzer holds.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use base::chardev::{
    BackendSpec, Chardev, ChardevSpec, Chardevs, EscapeActions, SocketAddress, SocketSpec,
};
use base::event_loop::EventLoop;
use base::fdset::FdSets;

struct NoEscape;

impl EscapeActions for NoEscape {
    fn quit(&self) {}
    fn commit_snapshots(&self) {}
}

fn chardev(main_loop: &EventLoop, address: SocketAddress, server: bool) -> Arc<Chardev> {
    let fd_sets = Arc::new(FdSets::default());
    let chardevs = Chardevs::new(main_loop.handle(), fd_sets, Arc::new(NoEscape));
    let spec = SocketSpec {
        address,
        server,
        wait: false,
        telnet: false,
        nodelay: false,
        reconnect: Duration::ZERO,
    };
    let spec = ChardevSpec::new("wire", BackendSpec::Socket(spec));
    chardevs.create(&spec).expect("a character device")
}

/// The far end of a connection.
pub struct Wire {
    far: UnixStream,
    /// The end that the device has a copy of.
    near: Option<UnixStream>,
}

impl Wire {
    /// A device that is connected, and its peer.
    pub fn pair(main_loop: &EventLoop) -> (Arc<Chardev>, Self) {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        // The device makes a copy of the near end.
        let address = SocketAddress::Fd(near.as_raw_fd().to_string());
        let device = chardev(main_loop, address, false);
        (device, Wire { near: Some(near), ..Wire::of(far) })
    }

    fn of(far: UnixStream) -> Self {
        far.set_nonblocking(true).expect("a socket that does not block");
        Wire { far, near: None }
    }

    /// Fills what the connection holds, so that the device has to wait.
    pub fn stall(&mut self) {
        let Some(near) = &mut self.near else { return };
        near.set_nonblocking(true).expect("a socket that does not block");
        while near.write(&[0; 1 << 16]).is_ok_and(|count| count > 0) {}
    }

    /// Sends what the connection takes.
    pub fn send(&mut self, bytes: &[u8]) {
        // A full connection is one of the cases that are wanted.
        let _ = self.far.write(bytes);
    }

    /// Receives what has arrived, `most` bytes at most.
    pub fn receive(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let count = self.far.read(&mut bytes).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }
}

/// A device that peers connect to, one after the other.
pub struct Socket {
    /// The device.
    pub chardev: Arc<Chardev>,
    path: String,
}

impl Socket {
    /// A device without a peer. `name` sets it apart from others of this process.
    pub fn new(main_loop: &EventLoop, name: &str) -> Self {
        let path = format!("rhea-fuzz-{}-{name}", std::process::id());
        let address = SocketAddress::Unix { path: path.clone(), abstract_name: true, tight: true };
        Socket { chardev: chardev(main_loop, address, true), path }
    }

    /// A new peer.
    pub fn connect(&self) -> Wire {
        let address = SocketAddr::from_abstract_name(&self.path).expect("a short name");
        Wire::of(UnixStream::connect_addr(&address).expect("a connection"))
    }
}
