//! `udp`: output becomes datagrams, datagrams become input.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use parking_lot::Mutex;

use super::link::Link;
use super::registry::Context;
use super::socket::address;
use super::spec::UdpSpec;
use super::stream::{Stream, Transport};
use super::{Backend, CharEvent, ChardevError};

const MAX_DATAGRAM: usize = 65_536;

pub(super) struct Udp {
    stream: Arc<Stream>,
}

/// A front end may take less than a datagram; what is left over is kept here.
struct Datagrams {
    socket: Arc<UdpSocket>,
    rest: Mutex<Vec<u8>>,
}

impl Udp {
    pub(super) fn open(
        context: &Context,
        link: &Arc<Link>,
        spec: &UdpSpec,
    ) -> Result<Udp, ChardevError> {
        let remote = address::resolve_one(&spec.host, &spec.port, spec.family, false)?;
        let local_host = spec.local_host.as_deref().unwrap_or("");
        let local_port = spec.local_port.as_deref().unwrap_or("0");
        let family = if remote.is_ipv6() { address::Family::V6 } else { address::Family::V4 };
        let local = address::resolve_one(local_host, local_port, family, true)?;
        let socket = UdpSocket::bind(local).map_err(ChardevError::io("Failed to bind socket"))?;
        socket.connect(remote).map_err(ChardevError::io("Failed to connect socket"))?;
        socket.set_nonblocking(true).map_err(ChardevError::io("cannot set up socket"))?;

        let socket = Arc::new(socket);
        let transport = Datagrams { socket: socket.clone(), rest: Mutex::default() };
        let stream = Stream::new(
            &context.handle,
            link.clone(),
            Some(socket.clone()),
            Some(socket),
            Box::new(transport),
            || (),
        );
        link.event(CharEvent::Opened);
        Ok(Udp { stream })
    }
}

impl Transport for Datagrams {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.rest.lock();
        if rest.is_empty() {
            let mut datagram = vec![0; MAX_DATAGRAM];
            let received = self.socket.recv(&mut datagram);
            let length = match received {
                // Nobody listens there yet; that is no reason to stop.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => 0,
                result => result?,
            };
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            datagram.truncate(length);
            *rest = datagram;
        }
        let n = buffer.len().min(rest.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        rest.drain(..n);
        Ok(n)
    }

    fn has_buffered(&self) -> bool {
        !self.rest.lock().is_empty()
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.send(&bytes[..bytes.len().min(MAX_DATAGRAM / 2)]) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(bytes.len()),
            result => result,
        }
    }
}

impl Backend for Udp {
    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn filename(&self) -> String {
        "udp".into()
    }
}
