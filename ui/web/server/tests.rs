//! A server with visitors that are real as far as sockets go, for what a whole program is too much.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use base::chardev::{CharClient, ChardevSpec, EscapeActions};
use base::event_loop::EventLoop;
use base::fdset::FdSets;
use tempfile::TempDir;

use super::*;
use crate::testing::{certificates, encrypt};
use crate::web::{Figures, GROUP, Monitor, TerminalInfo};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

struct Machine;

impl EscapeActions for Machine {
    fn quit(&self) {}
    fn commit_snapshots(&self) {}
}

impl Host for Machine {
    fn terminals(&self) -> Vec<TerminalInfo> {
        Vec::new()
    }

    /// One that hears all and says the same.
    fn serve_monitor(&self, _: Monitor, mut stream: UnixStream) {
        std::thread::spawn(move || {
            let mut heard = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut heard) {
                if stream.write_all(&heard[..count]).is_err() {
                    return;
                }
            }
        });
    }

    fn figures(&self) -> Figures {
        Figures { processors: vec![7], ..Figures::default() }
    }
}

struct Bed {
    directory: TempDir,
    around: Surroundings,
    server: Option<Arc<Server>>,
    main_loop: Option<JoinHandle<()>>,
}

impl Bed {
    fn new() -> Self {
        let mut event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        let main_loop = std::thread::spawn(move || event_loop.run(&()).unwrap());
        let fd_sets = Arc::new(FdSets::default());
        let around = Surroundings {
            chardevs: Arc::new(Chardevs::new(handle.clone(), fd_sets, Arc::new(Machine))),
            main_loop: handle,
            consoles: Consoles::new(),
            input: Router::new(&base::clock::Clocks::new()),
            host: Arc::new(Machine),
            name: None,
            keymap: Arc::new(Keymap::load("en-us").unwrap()),
            keymap_chosen: false,
        };
        let directory = TempDir::new().unwrap();
        Bed { directory, around, server: None, main_loop: Some(main_loop) }
    }

    fn path(&self) -> String {
        self.directory.path().join("web").display().to_string()
    }

    fn start(&mut self, tls: Option<Arc<X509>>) -> Arc<Server> {
        let text = format!("unix:{}", self.path());
        let settings = Settings::new(&GROUP.parse(&text).unwrap().opts).unwrap();
        let token = Token::new("secret").unwrap();
        let server = Server::start(settings, self.around.clone(), tls, token).unwrap();
        self.server = Some(server.clone());
        server
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.close();
        }
        self.around.main_loop.quit();
        if let Some(main_loop) = self.main_loop.take() {
            main_loop.join().unwrap();
        }
    }
}

/// Reads up to the end of a head.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Opens a WebSocket.
fn open(stream: &mut (impl Read + Write), path: &str) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer secret\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    assert!(head(stream).starts_with("HTTP/1.1 101 "));
}

/// Sends a message, with a mask that changes nothing.
fn say(stream: &mut impl Write, bytes: &[u8]) {
    let head = [0x82, 0x80 | 126, (bytes.len() >> 8) as u8, bytes.len() as u8, 0, 0, 0, 0];
    stream.write_all(&[&head, bytes].concat()).unwrap();
}

/// What messages carry, so many bytes of it.
fn hear(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let mut start = [0; 2];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(start[0], 0x82);
        let mut length = u64::from(start[1]);
        if length == 126 {
            let mut long = [0; 2];
            stream.read_exact(&mut long).unwrap();
            length = u16::from_be_bytes(long).into();
        }
        stream.take(length).read_to_end(&mut heard).unwrap();
    }
    heard
}

#[test]
fn visitors_can_be_made_to_encrypt() {
    let mut bed = Bed::new();
    let (credentials, config) = certificates(bed.directory.path());
    let server = bed.start(Some(credentials));
    assert!(!server.is_exposed());
    let mut stream = encrypt(bed.connect(), config.clone());
    stream.write_all(b"GET /api/figures HTTP/1.1\r\nHost: box\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 421 "));
    let mut stream = encrypt(bed.connect(), config);
    open(&mut stream, "/ws/qmp");
    say(&mut stream, b"hello");
    assert_eq!(hear(&mut stream, 5), b"hello");
    // Who does not encrypt gets nowhere.
    let mut plain = bed.connect();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"));
}

#[test]
fn a_visitor_who_does_not_listen_is_not_listened_to() {
    let mut bed = Bed::new();
    bed.start(None);
    let mut stream = bed.connect();
    open(&mut stream, "/ws/monitor");
    let message = [b'x'; 60_000];
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sent = 0;
    // What is on the way is bounded by sockets, on both sides of the server.
    let full = (0..1000).any(|_| {
        let head = [0x82, 0x80 | 126, (message.len() >> 8) as u8, message.len() as u8, 0, 0, 0, 0];
        let taken = stream.write_all(&[&head, &message[..]].concat());
        sent += message.len();
        taken.is_err()
    });
    assert!(full && sent < 8 << 20, "{sent}");
}

struct Ear(Mutex<Vec<u8>>);

impl CharClient for Ear {
    fn can_receive(&self) -> usize {
        3
    }
    fn receive(&self, bytes: &[u8]) {
        self.0.lock().extend(bytes);
    }
}

#[test]
fn terminals_and_their_visitors_talk() {
    let mut bed = Bed::new();
    bed.start(None);
    let pairs = [("id", "t"), ("backend", "vc")].map(|(key, value)| (key.into(), value.into()));
    let device = bed.around.chardevs.create(&ChardevSpec::from_options(&pairs).unwrap()).unwrap();
    let ear = Arc::new(Ear(Mutex::default()));
    let port = device.attach(ear.clone()).unwrap();
    let text: Vec<u8> = (0..100_000).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    assert_eq!(port.write(&text), text.len());
    let mut stream = bed.connect();
    open(&mut stream, "/ws/terminal/t");
    assert_eq!(hear(&mut stream, text.len()), text);
    assert_eq!(port.write(b"more"), 4);
    assert_eq!(hear(&mut stream, 4), b"more");
    say(&mut stream, b"typed, in pieces");
    let start = std::time::Instant::now();
    while *ear.0.lock() != b"typed, in pieces" {
        assert!(start.elapsed() < PATIENCE, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn who_comes_while_others_still_go_waits_for_a_place() {
    let mut bed = Bed::new();
    let server = bed.start(None);
    let places = server.settings.connections + 2 * MAX_STRANGERS;
    let going = (0..places).map(|_| {
        Arc::new(Visitor {
            number: 0,
            socket: UnixStream::pair().unwrap().0.into(),
            knows_token: AtomicBool::new(false),
            leaving: AtomicBool::new(true),
        })
    });
    server.visitors.lock().extend(going);
    let mut stream = bed.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let waiting = stream.read(&mut [0]).unwrap_err().kind();
    assert_eq!(waiting, io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    server.visitors.lock().retain(|visitor| visitor.number != 0);
    server.gone.notify_one();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
}
