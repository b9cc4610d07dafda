//! A visitor of the web console who says anything: requests in any pieces, half of them nearly right,
//! and WebSocket frames once one is open.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ui::web::{Front, Outcome, Token};
use ui::websocket::WebSocket;

static FRONT: LazyLock<Front> =
    LazyLock::new(|| Front::new(Token::new("secret").expect("a token"), vec!["box".into()]));

const WORDS: [&str; 20] = [
    "GET / HTTP/1.1\r\n",
    "GET /api/machine HTTP/1.1\r\n",
    "POST /api/type HTTP/1.1\r\n",
    "GET /ws/screen/0 HTTP/1.1\r\n",
    "GET /ws/terminal/serial0 HTTP/1.1\r\n",
    "GET /ws/qmp HTTP/1.1\r\n",
    "Host: 127.0.0.1:6080\r\n",
    "Host: [::1]\r\n",
    "Origin: http://127.0.0.1:6080\r\n",
    "Authorization: Bearer secret\r\n",
    "Authorization: Bearer wrong\r\n",
    "Sec-WebSocket-Protocol: rhea, token.secret\r\n",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "Sec-WebSocket-Version: 13\r\n",
    "Upgrade: websocket\r\n",
    "Connection: Upgrade\r\n",
    "Content-Length: 5\r\n",
    "Accept-Encoding: gzip\r\n",
    "If-None-Match: \"0\"\r\n",
    "\r\n",
];

#[derive(Arbitrary, Debug)]
enum Piece {
    Word(u8),
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Input {
    pieces: Vec<Piece>,
    step: u8,
}

fuzz_target!(|input: Input| {
    let mut said = Vec::new();
    for piece in &input.pieces {
        match piece {
            Piece::Word(word) => said.extend(WORDS[usize::from(*word) % WORDS.len()].as_bytes()),
            Piece::Bytes(bytes) => said.extend(bytes),
        }
    }
    let mut socket = None;
    let mut waiting = Vec::new();
    let (mut data, mut reply) = (Vec::new(), Vec::new());
    for piece in said.chunks(usize::from(input.step).max(1)) {
        waiting.extend(piece);
        while socket.is_none() {
            let Some((length, outcome)) = FRONT.receive(&waiting) else { break };
            assert!(length > 0 && length <= waiting.len());
            waiting.drain(..length);
            match outcome {
                Outcome::Answer(answer) => assert!(answer.starts_with(b"HTTP/1.1 ")),
                Outcome::Last(_) => return,
                Outcome::Report(_) => {}
                Outcome::Type(length) => drop(waiting.drain(..length.min(waiting.len()))),
                Outcome::Open(_, answer) => {
                    assert!(answer.starts_with(b"HTTP/1.1 101 "));
                    socket = Some(WebSocket::opened());
                }
            }
        }
        if let Some(socket) = &mut socket {
            if socket.receive(&waiting, &mut data, &mut reply).is_err() {
                return;
            }
            waiting.clear();
        }
    }
    // Nobody makes the server keep much, or say more than was asked.
    assert!(data.len() <= said.len() && waiting.len() <= said.len());
});
