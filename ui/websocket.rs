//! WebSockets (RFC 6455), the server's side, for viewers that run in browsers: a stream of bytes in
//! binary messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

use crate::http::{Fault, Request};

/// What a server appends to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest payload of a control frame (section 5.5).
const MAX_CONTROL: usize = 125;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// The request is none that opens a connection.
    #[error("not a WebSocket request: {0}")]
    Request(&'static str),
    /// A frame that is not allowed.
    #[error("bad WebSocket frame: {0}")]
    Frame(&'static str),
    /// The client has said good-bye.
    #[error("the client closed the connection")]
    Closed,
}

/// The answer to a request that cannot be fulfilled.
pub const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// One connection.
#[derive(Default)]
pub struct WebSocket {
    state: State,
    /// What came and was not understood yet: the request, or a header, or a control frame.
    input: Vec<u8>,
}

#[derive(Default)]
enum State {
    #[default]
    Request,
    Header,
    Payload {
        mask: [u8; 4],
        left: u64,
    },
}

impl WebSocket {
    /// A connection whose request has been answered by others.
    pub fn opened() -> Self {
        WebSocket { state: State::Header, input: Vec::new() }
    }

    /// Whether the request has been answered.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Request)
    }

    /// Takes bytes that came. What they carry is appended to `data`, what is to be answered to
    /// `reply`.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        data: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<(), WebSocketError> {
        self.input.extend_from_slice(bytes);
        loop {
            let used = match &mut self.state {
                State::Request => {
                    let parsed = Request::parse(&self.input).map_err(|fault| match fault {
                        Fault::TooLong => WebSocketError::Request("too long"),
                        Fault::Malformed => WebSocketError::Request("not HTTP/1.1"),
                    })?;
                    let Some((request, length)) = parsed else { return Ok(()) };
                    reply.extend(answer(&request)?);
                    self.state = State::Header;
                    length
                }
                State::Header => match self.frame(data, reply)? {
                    Some(used) => used,
                    None => return Ok(()),
                },
                State::Payload { mask, left } => {
                    let count = self.input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let unmasked = self.input[..count].iter().zip(mask.iter().cycle());
                    data.extend(unmasked.map(|(byte, mask)| byte ^ mask));
                    mask.rotate_left(count % 4);
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = State::Header;
                    } else if count == 0 {
                        return Ok(());
                    }
                    count
                }
            };
            self.input.drain(..used);
        }
    }

    /// Reads the header of a frame, and all of it if it is a control frame. Says how many bytes that
    /// were, or nothing while they are not all there.
    fn frame(
        &mut self,
        data: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Option<usize>, WebSocketError> {
        let [first, second, rest @ ..] = &*self.input else { return Ok(None) };
        let (opcode, length) = (first & 0x0f, second & 0x7f);
        if first & 0x70 != 0 {
            return Err(WebSocketError::Frame("reserved bits"));
        }
        if second & 0x80 == 0 {
            return Err(WebSocketError::Frame("not masked"));
        }
        let (length, rest) = match length {
            126 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u16::from_be_bytes(*bytes).into(), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
                None => return Ok(None),
            },
            length => (u64::from(length), rest),
        };
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let header = self.input.len() - rest.len();
        match opcode {
            BINARY | CONTINUATION => {
                data.reserve(rest.len());
                self.state = State::Payload { mask: *mask, left: length };
                Ok(Some(header))
            }
            PING | PONG | CLOSE => {
                let length = usize::try_from(length).ok().filter(|&length| length <= MAX_CONTROL);
                let length = length.ok_or(WebSocketError::Frame("a long control frame"))?;
                let Some(payload) = rest.get(..length) else { return Ok(None) };
                let payload: Vec<u8> = payload
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(byte, mask)| byte ^ mask)
                    .collect();
                match opcode {
                    PING => push_frame(PONG, &payload, reply),
                    CLOSE => {
                        push_frame(CLOSE, &payload, reply);
                        return Err(WebSocketError::Closed);
                    }
                    _ => {}
                }
                Ok(Some(header + length))
            }
            _ => Err(WebSocketError::Frame("unknown kind")),
        }
    }
}

/// Appends bytes as a binary message.
pub fn push_message(bytes: &[u8], out: &mut Vec<u8>) {
    push_frame(BINARY, bytes, out);
}

fn push_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..0x1_0000 => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(payload);
}

/// What proves that a request was understood (section 4.2.2), if it is one that opens a connection.
pub fn accept_key(request: &Request) -> Result<String, WebSocketError> {
    let fault = |what| Err(WebSocketError::Request(what));
    if request.method != "GET" {
        return fault("not a GET");
    }
    if !request.lists("upgrade", "websocket") || !request.lists("connection", "upgrade") {
        return fault("no upgrade");
    }
    if request.field("sec-websocket-version") != Some("13") {
        return fault("another version");
    }
    let Some(key) = request.field("sec-websocket-key") else { return fault("no key") };
    Ok(BASE64.encode(Sha1::digest([key, KEY_SUFFIX].concat())))
}

/// The answer that opens a connection.
pub fn opening(server: &str, accept: &str, protocol: Option<&str>) -> Vec<u8> {
    let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let protocol = protocol.unwrap_or_default();
    let text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nServer: {server}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    );
    text.into_bytes()
}

/// The answer to a viewer's request.
fn answer(request: &Request) -> Result<Vec<u8>, WebSocketError> {
    const PROTOCOL: &str = "binary";
    let accept = accept_key(request)?;
    let named = request.field("sec-websocket-protocol").is_some();
    if named && !request.lists("sec-websocket-protocol", PROTOCOL) {
        return Err(WebSocketError::Request("no binary protocol"));
    }
    Ok(opening("QEMU VNC", &accept, named.then_some(PROTOCOL)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The example of RFC 6455, section 1.3.
    const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: chat, binary\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn open() -> WebSocket {
        let mut socket = WebSocket::default();
        socket.receive(REQUEST.as_bytes(), &mut Vec::new(), &mut Vec::new()).unwrap();
        socket
    }

    fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        push_frame(opcode, payload, &mut frame);
        let header = frame.len() - payload.len();
        frame[1] |= 0x80;
        let mask = [1, 2, 3, 4];
        let body: Vec<u8> =
            payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        [&frame[..header], &mask, &body].concat()
    }

    #[test]
    fn a_request_is_answered_with_its_key() {
        let mut reply = Vec::new();
        let mut socket = WebSocket::default();
        let (head, tail) = REQUEST.as_bytes().split_at(100);
        socket.receive(head, &mut Vec::new(), &mut reply).unwrap();
        assert!(reply.is_empty());
        socket.receive(tail, &mut Vec::new(), &mut reply).unwrap();
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 101 "));
        assert!(reply.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(reply.contains("Sec-WebSocket-Protocol: binary\r\n"));
    }

    #[test]
    fn other_requests_are_refused() {
        let refused = |from: &str, to: &str| {
            let request = REQUEST.replace(from, to);
            let result =
                WebSocket::default().receive(request.as_bytes(), &mut Vec::new(), &mut Vec::new());
            assert!(matches!(result, Err(WebSocketError::Request(_))), "{to}: {result:?}");
        };
        refused("GET", "POST");
        refused("Upgrade: websocket", "Upgrade: h2c");
        refused("Version: 13", "Version: 8");
        refused("Sec-WebSocket-Key", "X-Key");
        refused("chat, binary", "chat");
        let endless = vec![b'a'; crate::http::MAX_HEAD + 1];
        let result = WebSocket::default().receive(&endless, &mut Vec::new(), &mut Vec::new());
        assert_eq!(result, Err(WebSocketError::Request("too long")));
    }

    #[test]
    fn control_frames_are_answered_and_bad_ones_end_the_connection() {
        let (mut data, mut reply) = (Vec::new(), Vec::new());
        let mut socket = open();
        socket.receive(&masked(PING, b"hi"), &mut data, &mut reply).unwrap();
        assert_eq!(reply, [0x8a, 2, b'h', b'i']);
        let mut fails = |bytes: &[u8]| open().receive(bytes, &mut data, &mut reply).unwrap_err();
        assert_eq!(fails(&masked(CLOSE, b"")), WebSocketError::Closed);
        assert_eq!(fails(&[0x82, 0]), WebSocketError::Frame("not masked"));
        assert_eq!(fails(&[0xc2, 0x80]), WebSocketError::Frame("reserved bits"));
        assert_eq!(fails(&masked(1, b"text")), WebSocketError::Frame("unknown kind"));
        assert_eq!(fails(&masked(PING, &[0; 126])), WebSocketError::Frame("a long control frame"));
    }

    proptest! {
        #[test]
        fn messages_arrive_whatever_pieces_they_come_in(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
            piece in 1_usize..64,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|m| masked(BINARY, m)).collect();
            let (mut data, mut reply) = (Vec::new(), Vec::new());
            let mut socket = open();
            for piece in bytes.chunks(piece) {
                socket.receive(piece, &mut data, &mut reply).unwrap();
            }
            prop_assert_eq!(data, messages.concat());
            prop_assert!(reply.is_empty());
        }
    }
}
