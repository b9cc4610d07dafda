//! A client that says just what it is told to.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testbed::DEADLINE;

pub fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).context("cannot connect")?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// A request's text: its first words, and more fields.
pub fn request(address: &str, what: &str, fields: &[&str]) -> String {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{what} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n")
}

/// Asks, and reads the answer.
pub fn ask(address: &str, request: &str) -> Result<Answer> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes())?;
    read_answer(&mut stream)
}

pub fn read_answer(stream: &mut TcpStream) -> Result<Answer> {
    let head = read_head(stream)?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).context("no status")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(Ok(0), str::parse)?];
    stream.read_exact(&mut body)?;
    Ok(Answer { status, body })
}

fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("the connection ended")?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

/// A WebSocket that is open.
pub struct Socket {
    stream: TcpStream,
    /// What came and was not asked for yet.
    pub data: Vec<u8>,
}

impl Socket {
    /// Opens one, or says with which status that was refused.
    pub fn open(address: &str, path: &str, fields: &[&str]) -> Result<Result<Socket, u16>> {
        let opening = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        let mut stream = connect(address)?;
        let fields = [&opening, fields].concat();
        stream.write_all(request(address, &format!("GET {path}"), &fields).as_bytes())?;
        let head = read_head(&mut stream)?;
        match head.get(9..12) {
            Some("101") => {
                ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
                Ok(Ok(Socket { stream, data: Vec::new() }))
            }
            status => Ok(Err(status.context("no status")?.parse()?)),
        }
    }

    /// Sends a binary message.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 126);
        let mask = [0x11, 0x22, 0x33, 0x44];
        let mut frame = vec![0x82, 0x80 | length.context("a long message")?];
        frame.extend(mask);
        frame.extend(bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        Ok(self.stream.write_all(&frame)?)
    }

    /// Takes one message.
    fn receive(&mut self) -> Result<()> {
        let mut header = [0; 2];
        self.stream.read_exact(&mut header)?;
        ensure!(header[0] == 0x82, "not a binary message: {header:x?}");
        let mut length = usize::from(header[1]);
        if length == 126 {
            let mut long = [0; 2];
            self.stream.read_exact(&mut long)?;
            length = u16::from_be_bytes(long).into();
        } else if length == 127 {
            let mut long = [0; 8];
            self.stream.read_exact(&mut long)?;
            length = u64::from_be_bytes(long) as usize;
        }
        let start = self.data.len();
        self.data.resize(start + length, 0);
        Ok(self.stream.read_exact(&mut self.data[start..])?)
    }

    /// The next so many bytes.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.data.len() < count {
            self.receive()?;
        }
        Ok(self.data.drain(..count).collect())
    }

    /// Everything up to a text and with it.
    pub fn until(&mut self, text: &str) -> Result<String> {
        loop {
            let found = self.data.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let all = self.take(at + text.len())?;
                return Ok(String::from_utf8_lossy(&all).into_owned());
            }
            if let Err(error) = self.receive() {
                let seen = String::from_utf8_lossy(&self.data).into_owned();
                bail!("{text:?} never came, but {seen:?}: {error}");
            }
        }
    }

    /// One message of QMP.
    pub fn message(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.until("\n")?)?)
    }

    /// Carries out a command of QMP; events meanwhile are left out.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.send(format!("{{\"execute\": \"{command}\"}}").as_bytes())?;
        loop {
            let message = self.message()?;
            if message["event"].is_null() {
                ensure!(!message["return"].is_null(), "{message}");
                return Ok(message["return"].clone());
            }
        }
    }
}
