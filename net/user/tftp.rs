//! A TFTP server that shows one directory (RFC 1350), with block size and transfer size (RFC 2347 to
//! 2349), from which PXE boots.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use base::clock::SECOND;

use super::wire::half;

/// The port.
pub const PORT: u16 = 69;

/// As many transfers at a time; a further one ends the oldest.
const MAX_SESSIONS: usize = 20;
/// A transfer of which nothing is heard ends.
const IDLE: i64 = 60 * SECOND;

const USUAL_BLOCK: usize = 512;
/// As much as fits a frame with room for tunnels.
const LARGEST_BLOCK: usize = 1428;
const SMALLEST_BLOCK: usize = 8;

const READ_REQUEST: u16 = 1;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

struct Session {
    client: SocketAddr,
    server: SocketAddr,
    file: File,
    block_size: usize,
    /// The block that was sent last.
    block: u64,
    /// It was the last one.
    last: bool,
    used: i64,
}

/// The server.
#[derive(Default)]
pub struct Server(Vec<Session>);

impl Server {
    /// The answer to a message, if there is one. `root` is what is shown.
    pub fn answer(
        &mut self,
        root: Option<&Path>,
        client: SocketAddr,
        server: SocketAddr,
        message: &[u8],
        now: i64,
    ) -> Option<Vec<u8>> {
        self.0.retain(|session| now - session.used < IDLE);
        let mine = |session: &Session| session.client == client && session.server == server;
        let found = self.0.iter().position(mine);
        match half(message, 0)? {
            READ_REQUEST => {
                if let Some(at) = found {
                    self.0.remove(at);
                }
                match self.open(root, client, server, message.get(2..)?, now) {
                    Ok(first) => first,
                    Err((code, text)) => Some(error(code, text)),
                }
            }
            ACK => {
                let at = found?;
                let session = &mut self.0[at];
                session.used = now;
                let block = half(message, 2)?;
                if block == session.block as u16 {
                    if session.last {
                        self.0.remove(at);
                        return None;
                    }
                    session.block += 1;
                } else if block != (session.block as u16).wrapping_sub(1) {
                    return None;
                }
                // The one before means that the last one was lost.
                let data = session.data();
                if data.is_none() {
                    self.0.remove(at);
                }
                data.or_else(|| Some(error(1, "File not found")))
            }
            ERROR => {
                self.0.remove(found?);
                None
            }
            _ => None,
        }
    }

    /// Begins a transfer.
    fn open(
        &mut self,
        root: Option<&Path>,
        client: SocketAddr,
        server: SocketAddr,
        request: &[u8],
        now: i64,
    ) -> Result<Option<Vec<u8>>, (u16, &'static str)> {
        let (strings, rest) = request.split_at(request.iter().rposition(|&b| b == 0).unwrap_or(0));
        if rest.is_empty() {
            return Ok(None);
        }
        let mut strings = strings.split(|&byte| byte == 0);
        let (Some(name), Some(mode)) = (strings.next(), strings.next()) else { return Ok(None) };
        if !mode.eq_ignore_ascii_case(b"octet") {
            return Err((4, "Unsupported transfer mode"));
        }
        let path = resolve(root, name).ok_or((2, "Access violation"))?;
        // A pipe must not make us wait.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let missing = (1, "File not found");
        let file = file.map_err(|_| missing)?;
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file()).ok_or(missing)?;
        let mut session = Session {
            client,
            server,
            file,
            block_size: USUAL_BLOCK,
            block: 0,
            last: false,
            used: now,
        };
        let mut agreed = Vec::new();
        while let (Some(key), Some(value)) = (strings.next(), strings.next()) {
            let number =
                std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
            let Some(number) = number else { continue };
            if key.eq_ignore_ascii_case(b"tsize") {
                agreed.push(("tsize", metadata.len()));
            } else if key.eq_ignore_ascii_case(b"blksize") && number >= SMALLEST_BLOCK {
                session.block_size = number.min(LARGEST_BLOCK);
                agreed.push(("blksize", session.block_size as u64));
            }
        }
        let first = if agreed.is_empty() {
            session.block = 1;
            session.data().ok_or(missing)?
        } else {
            let mut reply = OPTIONS.to_be_bytes().to_vec();
            for (key, value) in agreed {
                reply.extend_from_slice(format!("{key}\0{value}\0").as_bytes());
            }
            reply
        };
        if self.0.len() >= MAX_SESSIONS {
            self.0.remove(0);
        }
        self.0.push(session);
        Ok(Some(first))
    }
}

impl Session {
    /// The current block.
    fn data(&mut self) -> Option<Vec<u8>> {
        let mut reply = DATA.to_be_bytes().to_vec();
        // The number goes around: large files have more blocks than it counts.
        reply.extend_from_slice(&(self.block as u16).to_be_bytes());
        let mut block = vec![0; self.block_size];
        let offset = self.block.checked_sub(1)? * self.block_size as u64;
        let mut filled = 0;
        while filled < block.len() {
            match self.file.read_at(&mut block[filled..], offset + filled as u64).ok()? {
                0 => break,
                got => filled += got,
            }
        }
        self.last = filled < block.len();
        reply.extend_from_slice(&block[..filled]);
        Some(reply)
    }
}

/// The file of a name, which must stay below the root.
fn resolve(root: Option<&Path>, name: &[u8]) -> Option<PathBuf> {
    // Clients of that other system write it so.
    let name: Vec<u8> = name.iter().map(|&b| if b == b'\\' { b'/' } else { b }).collect();
    let mut path = root?.to_path_buf();
    for component in Path::new(OsStr::from_bytes(&name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn error(code: u16, text: &str) -> Vec<u8> {
    let mut reply = ERROR.to_be_bytes().to_vec();
    reply.extend_from_slice(&code.to_be_bytes());
    reply.extend_from_slice(text.as_bytes());
    reply.push(0);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ([u8; 4], u16) = ([10, 0, 2, 15], 2000);
    const SERVER: ([u8; 4], u16) = ([10, 0, 2, 2], PORT);

    struct Client {
        server: Server,
        directory: tempfile::TempDir,
    }

    impl Client {
        fn new(content: &[u8]) -> Client {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("f"), content).unwrap();
            std::fs::create_dir(directory.path().join("d")).unwrap();
            Client { server: Server::default(), directory }
        }

        fn ask(&mut self, message: &[u8]) -> Option<Vec<u8>> {
            let root = Some(self.directory.path());
            self.server.answer(root, CLIENT.into(), SERVER.into(), message, 0)
        }

        fn fetch(&mut self, request: &[u8]) -> Vec<u8> {
            let mut content = Vec::new();
            let mut reply = self.ask(request);
            let mut number = 0u16;
            while let Some(message) = reply {
                if message[..2] == [0, 3] {
                    number = number.wrapping_add(1);
                    assert_eq!(message[2..4], number.to_be_bytes());
                    content.extend_from_slice(&message[4..]);
                }
                let [high, low] = number.to_be_bytes();
                reply = self.ask(&[0, 4, high, low]);
            }
            content
        }
    }

    #[test]
    fn files_come_whole_in_any_block_size() {
        for len in [0, 1, 511, 512, 513, 1428, 100_000] {
            let content: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            let mut client = Client::new(&content);
            assert!(client.fetch(b"\0\x01f\0octet\0") == content);
            assert!(client.fetch(b"\0\x01/f\0octet\0blksize\x001468\0") == content);
            assert!(client.server.0.is_empty());
        }
        // More blocks than the number counts.
        let content: Vec<u8> = (0..600_000).map(|at| (at / 7) as u8).collect();
        assert!(Client::new(&content).fetch(b"\0\x01f\0octet\0blksize\x008\0") == content);
    }

    /// As QEMU 10.0 answers.
    #[test]
    fn options_and_errors_have_the_usual_form() {
        let mut client = Client::new(&[7; 1280]);
        let reply = client.ask(b"\0\x01f\0octet\0tsize\x000\0blksize\x001468\0");
        assert_eq!(reply.unwrap(), b"\0\x06tsize\x001280\0blksize\x001428\0");
        let reply = client.ask(b"\0\x01f\0octet\0BLKSIZE\x008\0TSIZE\x000\0timeout\x003\0");
        assert_eq!(reply.unwrap(), b"\0\x06blksize\x008\0tsize\x001280\0");
        for (request, answer) in [
            (&b"\0\x01nofile\0octet\0"[..], &b"\0\x05\0\x01File not found\0"[..]),
            (b"\0\x01d\0octet\0", b"\0\x05\0\x01File not found\0"),
            (b"\0\x01../f\0octet\0", b"\0\x05\0\x02Access violation\0"),
            (b"\0\x01a\\..\\..\\f\0octet\0", b"\0\x05\0\x02Access violation\0"),
            (b"\0\x01f\0netascii\0", b"\0\x05\0\x04Unsupported transfer mode\0"),
        ] {
            assert_eq!(client.ask(request).unwrap(), answer);
        }
        assert_eq!(client.ask(b"\0\x02f\0octet\0"), None, "nothing is written");
        let none = client.server.answer(None, CLIENT.into(), SERVER.into(), b"\0\x01f\0octet\0", 0);
        assert_eq!(none.unwrap(), b"\0\x05\0\x02Access violation\0");
    }

    #[test]
    fn what_is_lost_comes_again_and_transfers_are_bounded() {
        let mut client = Client::new(&[7; 1280]);
        let first = client.ask(b"\0\x01f\0octet\0").unwrap();
        assert_eq!(client.ask(b"\0\x04\0\0").unwrap(), first);
        assert_eq!(client.ask(b"\0\x04\0\x05"), None);
        for port in 0..100 {
            let root = Some(client.directory.path());
            let from = ([10, 0, 2, 15], port).into();
            client.server.answer(root, from, SERVER.into(), b"\0\x01f\0octet\0", 0);
            assert!(client.server.0.len() <= MAX_SESSIONS);
        }
        client.server.answer(None, CLIENT.into(), SERVER.into(), b"\0\x04\0\0", IDLE);
        assert!(client.server.0.is_empty());
        for message in [&b""[..], b"\0", b"\0\x01", b"\0\x01f", b"\0\x01f\0octet", b"\0\x04\0"] {
            client.ask(message);
        }
    }
}
