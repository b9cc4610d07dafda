//! Servers on this host. Each serves as long as the test runs.

use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// What every name stands for.
pub const ANSWER: [u8; 4] = [198, 51, 100, 7];

const BLOCK: usize = 1 << 16;

/// Serves each connection in a thread of its own; returns the port.
pub fn serve(
    address: &str,
    serve: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
) -> Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // A peer that goes away is the test's to complain about.
            thread::spawn(move || serve(stream).ok());
        }
    });
    Ok(port)
}

/// Sends everything back.
pub fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut block = vec![0; BLOCK];
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            len => stream.write_all(&block[..len])?,
        }
    }
}

/// Bytes without a pattern.
pub struct Noise(u64);

impl Noise {
    /// From the beginning.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next ones.
    pub fn fill(&mut self, block: &mut [u8]) {
        for bytes in block.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.to_le_bytes()[..bytes.len()]);
        }
    }
}

/// A SHA-256 sum in the making, by the host's `sha256sum`.
pub struct Digest(Child);

impl Digest {
    /// Of nothing yet.
    pub fn new() -> Result<Self> {
        let mut command = Command::new("sha256sum");
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    /// Of more.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.0.stdin.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        input.write_all(bytes)
    }

    /// As `sha256sum` prints it of its input.
    pub fn finish(self) -> Result<String> {
        let output = self.0.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A web server that gives `len` bytes to whoever asks, and takes any number.
#[derive(Clone)]
pub struct Web {
    len: usize,
    taken: Sender<String>,
}

impl Web {
    /// The server, and the sums of what it will have taken.
    pub fn new(len: usize) -> (Self, Receiver<String>) {
        let (taken, sums) = channel();
        (Self { len, taken }, sums)
    }

    /// The sum of what it gives.
    pub fn sum(&self) -> Result<String> {
        let mut digest = Digest::new()?;
        self.give(|block| digest.update(block))?;
        digest.finish()
    }

    fn give(&self, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut noise, mut block, mut left) = (Noise::new(), vec![0; BLOCK], self.len);
        while left > 0 {
            let len = left.min(BLOCK);
            noise.fill(&mut block[..len]);
            to(&block[..len])?;
            left -= len;
        }
        Ok(())
    }

    /// Serves one request (RFC 9112).
    pub fn serve(&self, stream: TcpStream) -> Result<()> {
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
        let request = line(&mut reader)?;
        while !line(&mut reader)?.is_empty() {}
        if request.starts_with("GET ") {
            let len = self.len;
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")?;
            return self.give(|block| writer.write_all(block));
        }
        write!(writer, "HTTP/1.1 100 Continue\r\n\r\n")?;
        let mut digest = Digest::new()?;
        loop {
            let len = line(&mut reader)?;
            let len = usize::from_str_radix(&len, 16).map_err(|_| ErrorKind::InvalidData)?;
            let mut chunk = vec![0; len];
            reader.read_exact(&mut chunk)?;
            digest.update(&chunk)?;
            line(&mut reader)?;
            if len == 0 {
                break;
            }
        }
        let _ = self.taken.send(digest.finish()?);
        write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// A name server (RFC 1035) on its usual port, by UDP and TCP.
pub fn names() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:53")?;
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..len]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    serve("127.0.0.1:53", |mut stream| {
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut question = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut question)?;
        let answer = answer(&question).ok_or(ErrorKind::InvalidData)?;
        stream.write_all(&(answer.len() as u16).to_be_bytes())?;
        stream.write_all(&answer)
    })
    .map(drop)
}

/// Header and question again, and an address if one was asked for.
fn answer(message: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const ADDRESS: [u8; 4] = [0, 1, 0, 1];
    let mut end = HEADER;
    while *message.get(end)? != 0 {
        end += 1 + usize::from(message[end]);
    }
    let kind = message.get(end + 1..end + 5)?;
    let mut answer = message[..end + 5].to_vec();
    // A response, recursion available; one question.
    answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    if kind == ADDRESS {
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&ANSWER);
    }
    Some(answer)
}
