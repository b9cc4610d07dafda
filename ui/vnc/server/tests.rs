//! Servers with clients that are real as far as sockets go.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use base::event_loop::EventLoop;
use base::input::{InputSink, KeyCode, Kinds, Registration};
use tempfile::TempDir;

use super::*;
use crate::testing::{certificates, encrypt};
use crate::vnc::GROUP;
use crate::{Adapter, Damage, Place, Surface};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows a colour that tests choose.
struct Plain(Arc<AtomicU32>);

impl Adapter for Plain {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        let resized = surface.resize(64, 48);
        let colour = self.0.load(Ordering::Relaxed);
        if !resized && !full && surface.pixels()[0] == colour {
            return Damage::default();
        }
        surface.pixels_mut().fill(colour);
        Damage { resized, ..Damage::all(surface) }
    }
}

#[derive(Default)]
struct Notes {
    inputs: Mutex<Vec<InputEvent>>,
    events: Mutex<Vec<Event>>,
    /// How much had been typed and pointed when a client had gone.
    inputs_at_end: Mutex<usize>,
}

impl InputSink for Notes {
    fn input(&self, events: &[InputEvent]) {
        self.inputs.lock().extend(events);
    }
}

impl Host for Notes {
    fn power(&self, _: Power) {}
    fn happened(&self, event: &Event) {
        if event.kind == EventKind::Disconnected {
            *self.inputs_at_end.lock() = self.inputs.lock().len();
        }
        self.events.lock().push(event.clone());
    }
}

impl Notes {
    fn kinds(&self) -> Vec<EventKind> {
        self.events.lock().iter().map(|event| event.kind).collect()
    }
}

struct Bed {
    directory: TempDir,
    colour: Arc<AtomicU32>,
    notes: Arc<Notes>,
    around: Surroundings,
    server: Option<Arc<Server>>,
    main_loop: Option<JoinHandle<()>>,
    _registration: Registration,
}

/// Waits until something is so.
fn until(mut is: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "it never came to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Bed {
    fn new() -> Self {
        let mut event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        let main_loop = std::thread::spawn(move || event_loop.run(&()).unwrap());
        let colour = Arc::new(AtomicU32::new(0x0012_3456));
        let consoles = Consoles::new();
        consoles.add("VGA", Place::default(), Arc::new(Plain(colour.clone())));
        let notes = Arc::new(Notes::default());
        let input = Router::new(&base::clock::Clocks::new());
        input.set_running(true);
        let kinds = Kinds::KEY | Kinds::BUTTON | Kinds::ABS;
        let registration = input.register("test", kinds, None, notes.clone());
        let around = Surroundings {
            main_loop: handle,
            consoles,
            input,
            host: notes.clone(),
            title: "QEMU (test)".into(),
            keymap: Arc::new(Keymap::load("en-us").unwrap()),
            keymap_chosen: false,
        };
        Bed {
            directory: TempDir::new().unwrap(),
            colour,
            notes,
            around,
            server: None,
            main_loop: Some(main_loop),
            _registration: registration,
        }
    }

    fn path(&self) -> String {
        self.directory.path().join("vnc").display().to_string()
    }

    fn start_with(&mut self, options: &str, tls: Option<Arc<X509>>) -> Arc<Server> {
        let text = format!("unix:{}{options}", self.path());
        let settings = Settings::new(&GROUP.parse(&text).unwrap().opts).unwrap();
        let server = Server::start("default", settings, self.around.clone(), tls, None).unwrap();
        self.server = Some(server.clone());
        server
    }

    fn start(&mut self, options: &str) -> Arc<Server> {
        self.start_with(options, None)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that is in.
    fn client(&self, shared: bool) -> UnixStream {
        let mut stream = self.connect();
        enter(&mut stream, shared);
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

fn read<const N: usize>(stream: &mut impl Read) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn enter(stream: &mut (impl Read + Write), shared: bool) {
    assert_eq!(&read(stream), b"RFB 003.008\n");
    stream.write_all(b"RFB 003.008\n").unwrap();
    assert_eq!(read(stream), [1, 1]);
    stream.write_all(&[1, shared.into()]).unwrap();
    assert_eq!(read(stream), [0; 4]);
    initialized(stream);
}

fn initialized(stream: &mut impl Read) {
    assert_eq!(read(stream), [0, 64, 0, 48]);
    let _format: [u8; 16] = read(stream);
    assert_eq!(&read(stream), b"\0\0\0\x0bQEMU (test)");
}

fn request(stream: &mut impl Write, incremental: bool) {
    stream.write_all(&[3, incremental.into(), 0, 0, 0, 0, 0, 64, 0, 48]).unwrap();
}

/// Asks for changes until the whole picture has this colour.
fn sees(stream: &mut (impl Read + Write), colour: u32) {
    loop {
        request(stream, true);
        let [0, 0, high, low] = read(stream) else { panic!("not an update") };
        let mut last = None;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let [_, _, _, _, w1, w0, h1, h0, 0, 0, 0, 0] = read(stream) else { panic!("not raw") };
            let area =
                u16::from_be_bytes([w1, w0]) as usize * u16::from_be_bytes([h1, h0]) as usize;
            let mut pixels = vec![0; area * 4];
            stream.read_exact(&mut pixels).unwrap();
            last = pixels.last_chunk().copied();
        }
        if last == Some(colour.to_le_bytes()) {
            return;
        }
    }
}

fn is_closed(stream: &mut impl Read) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok() && rest.is_empty()
}

#[test]
fn clients_see_the_screen_and_what_becomes_of_it() {
    let mut bed = Bed::new();
    let server = bed.start("");
    let (mut one, mut two) = (bed.client(true), bed.client(true));
    sees(&mut one, 0x0012_3456);
    sees(&mut two, 0x0012_3456);
    bed.colour.store(0x0065_4321, Ordering::Relaxed);
    sees(&mut two, 0x0065_4321);
    sees(&mut one, 0x0065_4321);
    assert_eq!(server.clients().len(), 2);
    drop((one, two));
    until(|| server.clients().is_empty());
    until(|| bed.notes.kinds().iter().filter(|k| **k == EventKind::Disconnected).count() == 2);
    let events = bed.notes.events.lock();
    let first = &events[0];
    assert_eq!((first.kind, first.auth), (EventKind::Connected, Auth::None));
    assert_eq!((first.server.family, &first.server.service), ("unix", &bed.path()));
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let mut bed = Bed::new();
    let _server = bed.start("");
    let mut slow = bed.client(true);
    let mut quick = bed.client(true);
    // More than any socket holds.
    for _ in 0..2000 {
        request(&mut slow, false);
    }
    for colour in 1..20 {
        bed.colour.store(colour, Ordering::Relaxed);
        sees(&mut quick, colour);
    }
}

#[test]
fn keys_and_pointers_reach_the_guest() {
    let mut bed = Bed::new();
    let _server = bed.start(",key-delay-ms=100");
    let mut client = bed.client(true);
    for (down, keysym) in [(1, b'h'), (0, b'h'), (1, b'i')] {
        client.write_all(&[4, down, 0, 0, 0, 0, 0, keysym]).unwrap();
    }
    client.write_all(&[5, 1, 0, 63, 0, 0]).unwrap();
    drop(client);
    let has = |event| bed.notes.inputs.lock().contains(&event);
    // What was held is released.
    until(|| has(InputEvent::Key(KeyCode::I, false)));
    until(|| has(InputEvent::Button(base::input::Button::Left, false)));
    let inputs = bed.notes.inputs.lock();
    let keys: Vec<_> = inputs.iter().filter(|i| matches!(i, InputEvent::Key(..))).collect();
    let (h, i) = (KeyCode::H, KeyCode::I);
    let expected = [(h, true), (h, false), (i, true), (i, false)];
    assert!(keys.into_iter().copied().eq(expected.map(|(key, down)| InputEvent::Key(key, down))));
    assert!(inputs.contains(&InputEvent::Abs(base::input::Axis::X, 0x7fff)));
    // It hung up when it had said all, which gives the guest no less time for each key.
    until(|| bed.notes.kinds().contains(&EventKind::Disconnected));
    assert!(*bed.notes.inputs_at_end.lock() < inputs.len());
}

#[test]
fn who_wants_to_be_alone_is_or_is_not() {
    let mut bed = Bed::new();
    let server = bed.start("");
    let mut others = [bed.client(true), bed.client(true)];
    let mut alone = bed.client(false);
    assert!(others.iter_mut().all(is_closed));
    sees(&mut alone, 0x0012_3456);
    // While one is alone others do not come in to share.
    let mut late = bed.connect();
    late.write_all(b"RFB 003.008\n\x01\x01").unwrap();
    let _greeting: [u8; 12 + 2 + 4] = read(&mut late);
    assert!(is_closed(&mut late));
    until(|| server.clients().len() == 1);

    let mut bed = Bed::new();
    bed.start(",share=force-shared");
    let mut refused = bed.connect();
    refused.write_all(b"RFB 003.008\n\x01\x00").unwrap();
    let _greeting: [u8; 12 + 2 + 4] = read(&mut refused);
    assert!(is_closed(&mut refused));

    let mut bed = Bed::new();
    bed.start(",share=ignore");
    let mut both = [bed.client(false), bed.client(false)];
    both.iter_mut().for_each(|client| sees(client, 0x0012_3456));
}

#[test]
fn passwords_count_once_they_are_set_and_until_they_expire() {
    let mut bed = Bed::new();
    let server = bed.start(",password=on");
    let gets_in = |password: &[u8]| {
        let mut client = bed.connect();
        client.write_all(b"RFB 003.008\n\x02").unwrap();
        let _greeting: [u8; 12 + 2] = read(&mut client);
        let challenge = read(&mut client);
        client.write_all(&auth::response(&challenge, password)).unwrap();
        read(&mut client) == [0; 4]
    };
    assert!(!gets_in(b""));
    assert!(server.set_password("secret"));
    assert!(gets_in(b"secret") && !gets_in(b"wrong"));
    server.set_expiry(Expiry::parse("now").unwrap());
    assert!(!gets_in(b"secret"));
    server.set_expiry(Expiry::parse("+60").unwrap());
    assert!(gets_in(b"secret"));
    server.set_expiry(Expiry::parse("1000").unwrap());
    assert!(!gets_in(b"secret"));
    server.set_expiry(Expiry::parse("never").unwrap());
    assert!(gets_in(b"secret"));
    assert_eq!(Expiry::parse("soon"), None);
}

#[test]
fn too_many_who_do_not_get_in_make_room_for_others() {
    let mut bed = Bed::new();
    bed.start(",connections=2");
    let mut idle = [bed.connect(), bed.connect()];
    idle.iter_mut().for_each(|stream| assert_eq!(&read(stream), b"RFB 003.008\n"));
    let mut third = bed.client(true);
    sees(&mut third, 0x0012_3456);
    assert!(is_closed(&mut idle[0]));
}

#[test]
fn connections_are_encrypted_from_within() {
    let mut bed = Bed::new();
    let (tls, trust) = certificates(bed.directory.path());
    let server = bed.start_with(",tls-creds=x", Some(tls));
    assert_eq!(server.auth().name(), "vencrypt+x509+none");
    let mut plain = bed.connect();
    plain.write_all(b"RFB 003.008\n\x13\0\x02").unwrap();
    let _greeting: [u8; 12] = read(&mut plain);
    assert_eq!(read(&mut plain), [1, 19, 0, 2, 0, 1, 0, 0, 1, 4]);
    plain.write_all(&260_u32.to_be_bytes()).unwrap();
    assert_eq!(read(&mut plain), [1]);
    let mut client = encrypt(plain, trust);
    client.write_all(&[1]).unwrap();
    assert_eq!(read(&mut client), [0; 4]);
    initialized(&mut client);
    sees(&mut client, 0x0012_3456);
    assert!(server.reload_certificates().is_ok());
}

/// The payload of a frame from the server.
fn frame(stream: &mut impl Read) -> Vec<u8> {
    let [0x82, length] = read(stream) else { panic!("not a binary frame") };
    let length = match length {
        126 => usize::from(u16::from_be_bytes(read(stream))),
        length => length.into(),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    payload
}

#[test]
fn browsers_connect_in_frames_plain_or_encrypted() {
    for encrypted in [false, true] {
        let mut bed = Bed::new();
        let (tls, trust) = certificates(bed.directory.path());
        let server = bed.start_with("", encrypted.then_some(tls));
        let path = bed.directory.path().join("web").display().to_string();
        let address = SocketAddress::Unix { path: path.clone(), abstract_name: false, tight: true };
        let listeners = server.open(&[address], true).unwrap();
        server.listeners.lock().extend(listeners);
        assert_eq!(server.endpoints()[0].1, Auth::None);
        let stream = UnixStream::connect(path).unwrap();
        let mut stream: Box<dyn ReadWrite> =
            if encrypted { Box::new(encrypt(stream, trust)) } else { Box::new(stream) };
        let request = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            reply.extend(read::<1>(&mut stream));
        }
        assert!(reply.starts_with(b"HTTP/1.1 101"));
        assert_eq!(frame(&mut stream), b"RFB 003.008\n");
        // Masked with zeros.
        stream.write_all(b"\x82\x8e\0\0\0\0RFB 003.008\n\x01\x01").unwrap();
        let mut said = Vec::new();
        while said.len() < 2 + 4 + 24 + 11 {
            said.extend(frame(&mut stream));
        }
        assert!(said.ends_with(b"QEMU (test)"));
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}
