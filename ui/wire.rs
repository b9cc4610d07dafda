//! The bytes between a session and its client: a socket, encrypted or not, with WebSocket frames or
//! without. Nothing here waits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use crate::websocket::{self, WebSocket, WebSocketError};

/// Bytes that are taken from a socket at a time.
const CHUNK: usize = 32 << 10;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Over a network.
    Tcp(TcpStream),
    /// Within the host.
    Unix(UnixStream),
}

impl Socket {
    /// Makes reading and writing return at once, and what is written leave at once.
    pub fn prepare(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)
            }
            Socket::Unix(stream) => stream.set_nonblocking(true),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The client is gone.
    #[error("the client closed the connection")]
    Closed,
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The encryption.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The frames.
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
}

/// One connection.
pub struct Wire {
    socket: Socket,
    tls: Option<Box<ServerConnection>>,
    websocket: Option<WebSocket>,
    /// What is to be sent, and how much of it has been.
    sending: Vec<u8>,
    sent: usize,
}

impl Wire {
    pub fn new(socket: Socket) -> Self {
        Wire { socket, tls: None, websocket: None, sending: Vec::new(), sent: 0 }
    }

    /// From now on everything is encrypted; what was to be sent before goes first, as it is, as far
    /// as the socket takes it at once, which the few bytes of a handshake are.
    pub fn encrypt(&mut self, config: Arc<ServerConfig>) -> Result<(), WireError> {
        self.flush()?;
        if self.is_sending() {
            return Err(io::Error::from(ErrorKind::WouldBlock).into());
        }
        self.tls = Some(Box::new(ServerConnection::new(config)?));
        Ok(())
    }

    /// From now on everything comes and goes in WebSocket frames.
    pub fn frame(&mut self) {
        self.websocket = Some(WebSocket::default());
    }

    /// From now on everything comes and goes in WebSocket frames; the request for them has been
    /// answered.
    pub fn framed(&mut self) {
        self.websocket = Some(WebSocket::opened());
    }

    /// Whether bytes can be sent: not before a request for frames has been answered.
    pub fn is_open(&self) -> bool {
        self.websocket.as_ref().is_none_or(WebSocket::is_open)
    }

    /// Whether there is something to be sent that the socket has not taken.
    pub fn is_sending(&self) -> bool {
        self.sent < self.sending.len() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Queues bytes, which are taken out of `bytes`.
    pub fn send(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if self.websocket.is_some() {
            websocket::push_message(bytes, &mut self.sending);
            bytes.clear();
        } else if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, bytes);
        } else {
            self.sending.append(bytes);
        }
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> Result<(), WireError> {
        loop {
            let left = &self.sending[self.sent..];
            let written = match &mut self.tls {
                Some(tls) => {
                    // Takes only so much at a time; the rest waits here.
                    let taken = if left.is_empty() { 0 } else { tls.writer().write(left)? };
                    self.sent += taken;
                    if tls.wants_write() { tls.write_tls(&mut self.socket) } else { Ok(0) }
                }
                None if left.is_empty() => Ok(0),
                None => self.socket.write(left).inspect(|count| self.sent += count),
            };
            if self.sent == self.sending.len() {
                self.sending.clear();
                self.sent = 0;
            }
            match written {
                Ok(0) if self.is_sending() => return Err(WireError::Closed),
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Appends what has come to `data`, some of it at a time.
    pub fn receive(&mut self, data: &mut Vec<u8>) -> Result<(), WireError> {
        let mut plain = Vec::new();
        match &mut self.tls {
            Some(tls) => {
                match tls.read_tls(&mut self.socket) {
                    Ok(0) => return Err(WireError::Closed),
                    Ok(_) => {}
                    Err(error) if is_temporary(&error) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
                let state = match tls.process_new_packets() {
                    Ok(state) => state,
                    Err(error) => {
                        // The client is told why.
                        let _ = tls.write_tls(&mut self.socket);
                        return Err(error.into());
                    }
                };
                plain.resize(state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain)?;
            }
            None => {
                plain.resize(CHUNK, 0);
                match self.socket.read(&mut plain) {
                    Ok(0) => return Err(WireError::Closed),
                    Ok(count) => plain.truncate(count),
                    Err(error) if is_temporary(&error) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let Some(websocket) = &mut self.websocket else {
            data.append(&mut plain);
            return Ok(());
        };
        let mut reply = Vec::new();
        let result = websocket.receive(&plain, data, &mut reply);
        if let Err(WebSocketError::Request(_)) = result {
            reply.extend(websocket::BAD_REQUEST);
        }
        self.sending.append(&mut reply);
        Ok(result?)
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
