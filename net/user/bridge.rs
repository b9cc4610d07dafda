//! A character device behind an address of the guest's network (`guestfwd=...-chardev:ID`).
//!
//! Each connection of the guest gets an end of a pair of sockets; at the other end bytes go to and
//! from the device. A new connection takes the place of the one before.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, Weak};

use base::chardev::{CharClient, CharPort, Chardev, ChardevError};
use base::event_loop::{LoopHandle, Ready, Watch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

/// As much is read at once, and kept when the device is slow.
const BLOCK: usize = 4096;

/// The connection of a character device with guests.
pub struct Bridge {
    handle: LoopHandle,
    port: OnceLock<CharPort>,
    current: Mutex<Option<Connection>>,
}

struct Connection {
    socket: Arc<UnixStream>,
    watch: Watch,
    /// What the device has not taken yet.
    to_device: Vec<u8>,
}

impl Bridge {
    /// Takes a character device.
    pub fn new(handle: LoopHandle, chardev: &Chardev) -> Result<Arc<Bridge>, ChardevError> {
        let (port, current) = Default::default();
        let bridge = Arc::new(Bridge { handle, port, current });
        let port = chardev.attach(Arc::new(Client(Arc::downgrade(&bridge))))?;
        // Nobody else has set it.
        let _ = bridge.port.set(port);
        Ok(bridge)
    }

    /// A new connection: the guest's end.
    pub fn connect(self: &Arc<Self>) -> io::Result<OwnedFd> {
        let (theirs, ours) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        ours.set_nonblocking(true)?;
        let socket = Arc::new(ours);
        let bridge = Arc::downgrade(self);
        let watch = self.handle.watch(socket.clone(), move |ready: Ready| {
            if let Some(bridge) = bridge.upgrade() {
                bridge.on_ready(ready);
            }
        });
        watch.want_read(true)?;
        let connection = Connection { socket, watch, to_device: Vec::new() };
        let before = self.current.lock().replace(connection);
        drop(before);
        if let Some(port) = self.port.get() {
            port.accept_input();
        }
        Ok(theirs.into())
    }

    /// The guest has sent something, or takes more.
    fn on_ready(&self, ready: Ready) {
        if ready.writable {
            if let Some(connection) = &*self.current.lock() {
                // One that cannot be watched is one that has gone.
                let _ = connection.watch.want_write(false);
            }
            if let Some(port) = self.port.get() {
                port.accept_input();
            }
        }
        if ready.readable {
            self.read();
        }
    }

    fn read(&self) {
        let mut ended = None;
        if let Some(connection) = &mut *self.current.lock() {
            let mut block = [0; BLOCK];
            match (&*connection.socket).read(&mut block) {
                Ok(len @ 1..) => connection.to_device.extend_from_slice(&block[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => ended = Some(()),
            }
        }
        if ended.is_some() {
            let connection = self.current.lock().take();
            drop(connection);
            return;
        }
        self.write_to_device();
    }

    fn write_to_device(&self) {
        let Some(port) = self.port.get() else { return };
        let Some(bytes) = self.current.lock().as_mut().map(|it| std::mem::take(&mut it.to_device))
        else {
            return;
        };
        let accepted = port.write(&bytes);
        if let Some(connection) = &mut *self.current.lock() {
            connection.to_device = bytes[accepted..].to_vec();
            let _ = connection.watch.want_read(connection.to_device.is_empty());
        }
    }
}

struct Client(Weak<Bridge>);

impl CharClient for Client {
    fn can_receive(&self) -> usize {
        let Some(bridge) = self.0.upgrade() else { return 0 };
        let current = bridge.current.lock();
        // Without a guest to hear it, it is lost.
        let Some(connection) = &*current else { return BLOCK };
        let room = PollFd::new(connection.socket.as_fd(), PollFlags::POLLOUT);
        let ready = poll(&mut [room], PollTimeout::ZERO).unwrap_or(0) > 0;
        if !ready {
            let _ = connection.watch.want_write(true);
        }
        if ready { BLOCK } else { 0 }
    }

    fn receive(&self, bytes: &[u8]) {
        let Some(bridge) = self.0.upgrade() else { return };
        if let Some(connection) = &*bridge.current.lock() {
            // A socket that is ready takes a block, or its other end has gone.
            let _ = (&*connection.socket).write_all(bytes);
        }
    }

    fn write_ready(&self) {
        if let Some(bridge) = self.0.upgrade() {
            bridge.write_to_device();
        }
    }
}
