//! Back ends seen from their front ends, with a real event loop and real descriptors.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::event_loop::{Delay, EventLoop};
use crate::fdset::FdSets;

/// A front end that keeps what it is told.
#[derive(Default)]
pub(super) struct Client {
    /// How much it takes in all; a test may raise this.
    pub(super) limit: AtomicUsize,
    pub(super) received: Mutex<Vec<u8>>,
    pub(super) events: Mutex<Vec<CharEvent>>,
    pub(super) write_ready: AtomicUsize,
}

impl Client {
    pub(super) fn with_limit(limit: usize) -> Arc<Client> {
        let client = Client::default();
        client.limit.store(limit, Ordering::Relaxed);
        Arc::new(client)
    }

    pub(super) fn eager() -> Arc<Client> {
        Client::with_limit(usize::MAX)
    }

    pub(super) fn has(&self, bytes: &[u8]) -> bool {
        *self.received.lock() == bytes
    }

    pub(super) fn saw(&self, event: CharEvent) -> bool {
        self.events.lock().contains(&event)
    }
}

impl CharClient for Client {
    fn can_receive(&self) -> usize {
        self.limit.load(Ordering::Relaxed) - self.received.lock().len()
    }

    fn receive(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty() && bytes.len() <= self.can_receive());
        self.received.lock().extend(bytes);
    }

    fn event(&self, event: CharEvent) {
        self.events.lock().push(event);
    }

    fn write_ready(&self) {
        self.write_ready.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Actions {
    pub(super) quits: AtomicUsize,
    pub(super) commits: AtomicUsize,
}

impl EscapeActions for Actions {
    fn quit(&self) {
        self.quits.fetch_add(1, Ordering::Relaxed);
    }

    fn commit_snapshots(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}

/// A loop with its chardevs.
pub(super) struct Bed {
    pub(super) event_loop: EventLoop,
    pub(super) chardevs: Chardevs,
    pub(super) actions: Arc<Actions>,
    pub(super) dir: tempfile::TempDir,
    _time_limit: Delay,
}

impl Bed {
    pub(super) fn new() -> Bed {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        let actions = Arc::new(Actions::default());
        let chardevs = Chardevs::new(handle.clone(), Arc::new(FdSets::default()), actions.clone());
        let limit = handle.after(Duration::from_secs(60), || panic!("nothing happens"));
        let dir = tempfile::tempdir().unwrap();
        Bed { event_loop, chardevs, actions, dir, _time_limit: limit }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().into()
    }

    pub(super) fn make(&self, options: &str) -> Arc<Chardev> {
        self.chardevs.create(&spec(options)).unwrap()
    }

    pub(super) fn error(&self, options: &str) -> String {
        self.chardevs.create(&spec(options)).err().unwrap().to_string()
    }

    /// Runs the loop until something has come true.
    pub(super) fn until(&mut self, mut done: impl FnMut() -> bool) {
        while !done() {
            self.event_loop.run_once(&(), true).unwrap();
        }
    }

    /// Runs what can run now.
    pub(super) fn settle(&mut self) {
        for _ in 0..5 {
            self.event_loop.run_once(&(), false).unwrap();
        }
    }
}

pub(super) fn spec(options: &str) -> ChardevSpec {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or(("backend", word));
        (key.to_string(), value.to_string())
    };
    ChardevSpec::from_options(&options.split(',').map(pair).collect::<Vec<_>>()).unwrap()
}

/// A socket chardev on one end of a pair.
pub(super) fn connected(bed: &Bed, more: &str) -> (Arc<Chardev>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = bed.make(&format!("socket,id=s,fd={}{more}", ours.as_raw_fd()));
    (device, theirs)
}

pub(super) fn read_exactly(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_file_takes_output_and_the_log_a_copy() {
    let bed = Bed::new();
    let (out, log) = (bed.path("out"), bed.path("log"));
    std::fs::write(&out, "old").unwrap();
    std::fs::write(&log, "old ").unwrap();
    let device = bed.make(&format!("file,id=f,path={out},logfile={log},logappend=on"));
    let port = device.attach(Client::eager()).unwrap();
    assert_eq!(port.write(b"hello"), 5);
    assert_eq!(std::fs::read(&out).unwrap(), b"hello");
    assert_eq!(std::fs::read(&log).unwrap(), b"old hello");
    assert!(port.is_connected());
    let appended = bed.make(&format!("file,id=g,path={out},append=on"));
    assert_eq!(appended.attach(Client::eager()).unwrap().write(b"!"), 1);
    assert_eq!(std::fs::read(&out).unwrap(), b"hello!");
}

#[test]
fn an_input_file_is_read_as_fast_as_the_front_end_allows() {
    let mut bed = Bed::new();
    let (input, out) = (bed.path("in"), bed.path("out"));
    let text: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
    std::fs::write(&input, &text).unwrap();
    let device = bed.make(&format!("file,id=f,path={out},input-path={input}"));
    let client = Client::with_limit(0);
    let port = device.attach(client.clone()).unwrap();
    bed.settle();
    assert!(client.has(b""));
    while !client.has(&text) {
        client.limit.fetch_add(7, Ordering::Relaxed);
        port.accept_input();
        bed.settle();
    }
    client.limit.fetch_add(1, Ordering::Relaxed);
    port.accept_input();
    bed.until(|| client.saw(CharEvent::Closed));
}

#[test]
fn a_pipe_goes_both_ways() {
    let mut bed = Bed::new();
    let path = bed.path("p");
    for suffix in [".in", ".out"] {
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(Path::new(&format!("{path}{suffix}")), mode).unwrap();
    }
    let device = bed.make(&format!("pipe,id=p,path={path}"));
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    let both = |name: &str| std::fs::File::options().read(true).write(true).open(name).unwrap();
    both(&format!("{path}.in")).write_all(b"to guest").unwrap();
    bed.until(|| client.has(b"to guest"));
    assert_eq!(port.write(b"from guest"), 10);
    assert_eq!(read_exactly(&mut both(&format!("{path}.out")), 10), b"from guest");
}

#[test]
fn a_ring_buffer_is_reached_through_its_device() {
    let bed = Bed::new();
    let device = bed.make("ringbuf,id=r,size=8");
    let port = device.attach(Client::eager()).unwrap();
    assert_eq!(port.write(b"0123456789"), 10);
    device.ring_write(b"ab").unwrap();
    assert_eq!(device.ring_read(100).unwrap(), b"456789ab");
    assert_eq!(bed.make("null,id=n").ring_read(1), None);
}

/// A front end like a UART's: keeps what was not accepted, and offers it when told.
struct Sender {
    port: Mutex<Option<CharPort>>,
    queue: Mutex<OutQueue>,
}

impl CharClient for Sender {
    fn can_receive(&self) -> usize {
        0
    }

    fn receive(&self, _: &[u8]) {
        unreachable!("no room was offered");
    }

    fn write_ready(&self) {
        if let Some(port) = &*self.port.lock() {
            self.queue.lock().flush(port);
        }
    }
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let mut bed = Bed::new();
    let (device, mut peer) = connected(&bed, "");
    let sender = Arc::new(Sender { port: Mutex::default(), queue: Mutex::default() });
    *sender.port.lock() = Some(device.attach(sender.clone()).unwrap());
    let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 / 5) as u8).collect();
    for piece in text.chunks(10_007) {
        let port = sender.port.lock();
        sender.queue.lock().send(port.as_ref().unwrap(), piece);
    }
    assert!(!sender.queue.lock().is_empty(), "a socket buffer cannot hold that much");
    let expected = text.clone();
    let reader = std::thread::spawn(move || read_exactly(&mut peer, expected.len()) == expected);
    bed.until(|| sender.queue.lock().is_empty());
    assert!(reader.join().unwrap());
}

#[test]
fn a_busy_front_end_loses_no_input() {
    let mut bed = Bed::new();
    let (device, mut peer) = connected(&bed, "");
    let client = Client::with_limit(0);
    let port = device.attach(client.clone()).unwrap();
    let text: Vec<u8> = (0..20_000_u32).map(|n| (n / 3) as u8).collect();
    let sent = text.clone();
    let writer = std::thread::spawn(move || peer.write_all(&sent).map(|()| peer));
    while !client.has(&text) {
        client.limit.fetch_add(97, Ordering::Relaxed);
        // Room is made by the guest, on another thread than the loop's.
        std::thread::scope(|scope| scope.spawn(|| port.accept_input()).join().unwrap());
        bed.settle();
    }
    let peer = writer.join().unwrap().unwrap();
    drop(peer);
    client.limit.fetch_add(1, Ordering::Relaxed);
    port.accept_input();
    bed.until(|| client.saw(CharEvent::Closed));
    assert!(!port.is_connected());
    assert_eq!(port.write(b"into the void"), 13);
}

#[test]
fn a_pty_is_connected_while_somebody_has_it_open() {
    let mut bed = Bed::new();
    let link = bed.path("tty");
    let device = bed.make(&format!("pty,id=p,path={link}"));
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    assert!(!port.is_connected());
    assert_eq!(port.write(b"unheard"), 7);
    let name = device.filename();
    let name = name.strip_prefix("pty:").unwrap();
    assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(name));

    let open = || std::fs::File::options().read(true).write(true).open(name).unwrap();
    let mut terminal = open();
    assert_eq!(port.write(b"hello"), 5);
    assert_eq!(read_exactly(&mut terminal, 5), b"hello");
    bed.until(|| port.is_connected());
    terminal.write_all(b"hi\r\x03").unwrap();
    bed.until(|| client.has(b"hi\r\x03"));
    drop(terminal);
    bed.until(|| !port.is_connected());
    assert_eq!(*client.events.lock(), [CharEvent::Opened, CharEvent::Closed]);
    // The check that runs every second finds the next one.
    let _terminal = open();
    bed.until(|| port.is_connected());
    drop(device);
    bed.chardevs.clean_up();
    assert!(!Path::new(&link).exists());
}

#[test]
fn datagrams_may_be_longer_than_the_front_end_takes_at_once() {
    let mut bed = Bed::new();
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port_number = peer.local_addr().unwrap().port();
    let device = bed.make(&format!("udp,id=u,host=127.0.0.1,port={port_number}"));
    let client = Client::with_limit(4);
    let port = device.attach(client.clone()).unwrap();
    assert_eq!(port.write(b"ping"), 4);
    let mut buffer = [0; 16];
    let (length, sender) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ping");
    peer.send_to(b"a longer answer", sender).unwrap();
    bed.until(|| client.has(b"a lo"));
    client.limit.store(100, Ordering::Relaxed);
    port.accept_input();
    bed.until(|| client.has(b"a longer answer"));
}

#[test]
fn ids_are_unique_and_devices_in_use_stay() {
    let bed = Bed::new();
    let device = bed.make("null,id=a,mux=on");
    assert_eq!(bed.error("null,id=a"), "Chardev with id 'a' already exists");
    assert_eq!(bed.error("null,id=a-base"), "Chardev with id 'a-base' already exists");
    assert_eq!(bed.chardevs.get("b").err().unwrap().to_string(), "Chardev 'b' not found");
    let port = device.attach(Client::eager()).unwrap();
    let error = |id| bed.chardevs.remove(id).unwrap_err().to_string();
    assert_eq!(error("a"), "Chardev 'a' is busy");
    assert_eq!(error("a-base"), "Chardev 'a-base' is busy");
    assert_eq!(error("zz"), "Chardev 'zz' not found");
    drop(port);
    drop(device);
    bed.chardevs.remove("a").unwrap();
    bed.chardevs.remove("a-base").unwrap();
    assert!(bed.chardevs.query().is_empty());
}

#[test]
fn one_front_end_at_a_time() {
    let bed = Bed::new();
    let device = bed.make("null,id=a");
    let port = device.attach(Client::eager()).unwrap();
    let error = device.attach(Client::eager()).err().unwrap();
    assert_eq!(error.to_string(), "chardev 'a' is already in use");
    drop(port);
    assert!(device.attach(Client::eager()).is_ok());
}

#[test]
fn what_cannot_be_made_is_named() {
    let bed = Bed::new();
    let no_file = "No such file or directory";
    assert_eq!(
        bed.error("file,id=a,path=/nodir/x"),
        format!("Could not open '/nodir/x': {no_file}")
    );
    assert_eq!(
        bed.error("pipe,id=a,path=/nodir/x"),
        format!("Could not open '/nodir/x': {no_file}")
    );
    assert_eq!(
        bed.error("null,id=a,logfile=/nodir/x"),
        format!("Could not create '/nodir/x': {no_file}")
    );
    assert_eq!(
        bed.error("file,id=a,path=/dev/fdset/3"),
        format!("Could not open '/dev/fdset/3': {no_file}")
    );
    assert_eq!(bed.error("mux,id=m,chardev=nn"), "mux: base chardev nn not found");
    assert_eq!(bed.error("ringbuf,id=a,size=1000"), "size of ringbuf chardev must be power of two");
    assert!(bed.chardevs.query().is_empty());
}

mod mux {
    use super::*;

    const HELP: &[u8] = b"\n\rC-a h    print this help\n\r\
        C-a x    exit emulator\n\r\
        C-a s    save disk data back to file (if -snapshot)\n\r\
        C-a t    toggle console timestamps\n\r\
        C-a b    send break (magic sysrq)\n\r\
        C-a c    switch between console and monitor\n\r\
        C-a C-a  sends C-a\n\r";

    fn type_in(bed: &mut Bed, peer: &mut UnixStream, keys: &[u8]) {
        peer.write_all(keys).unwrap();
        bed.settle();
    }

    #[test]
    fn escape_commands() {
        let mut bed = Bed::new();
        let (device, mut peer) = connected(&bed, ",mux=on");
        assert_eq!(device.filename(), "mux");
        let (monitor, serial) = (Client::eager(), Client::eager());
        let _monitor_port = device.attach(monitor.clone()).unwrap();
        let serial_port = device.attach(serial.clone()).unwrap();
        bed.settle();
        assert_eq!(*monitor.events.lock(), [CharEvent::FocusLost, CharEvent::Opened]);
        assert!(serial.events.lock().ends_with(&[CharEvent::Opened, CharEvent::FocusGained]));

        type_in(&mut bed, &mut peer, b"to guest\x01");
        assert!(serial.has(b"to guest"));
        type_in(&mut bed, &mut peer, b"h");
        assert_eq!(read_exactly(&mut peer, HELP.len()), HELP);
        type_in(&mut bed, &mut peer, b"\x01\x01\x01z");
        assert!(serial.has(b"to guest\x01"), "unknown commands are swallowed");
        type_in(&mut bed, &mut peer, b"\x01b");
        assert!(serial.saw(CharEvent::Break) && !monitor.saw(CharEvent::Break));

        type_in(&mut bed, &mut peer, b"1\x01cinfo\x01c2");
        assert!(monitor.has(b"info"));
        assert!(serial.has(b"to guest\x0112"));
        assert!(serial.events.lock().ends_with(&[CharEvent::FocusLost, CharEvent::FocusGained]));

        assert_eq!(serial_port.write(b"from guest"), 10);
        assert_eq!(read_exactly(&mut peer, 10), b"from guest");
        type_in(&mut bed, &mut peer, b"\x01s\x01x");
        assert_eq!(bed.actions.commits.load(Ordering::Relaxed), 1);
        assert_eq!(bed.actions.quits.load(Ordering::Relaxed), 1);
        assert_eq!(read_exactly(&mut peer, 18), b"QEMU: Terminated\n\r");
    }

    #[test]
    fn input_waits_for_a_busy_front_end_and_keeps_its_order() {
        let mut bed = Bed::new();
        let (device, mut peer) = connected(&bed, ",mux=on");
        let client = Client::with_limit(0);
        let port = device.attach(client.clone()).unwrap();
        let text: Vec<u8> = (0..2_000_u32).map(|n| 32 + (n % 90) as u8).collect();
        peer.write_all(&text).unwrap();
        while !client.has(&text) {
            client.limit.fetch_add(3, Ordering::Relaxed);
            port.accept_input();
            bed.settle();
        }
    }

    #[test]
    fn lines_can_be_stamped() {
        let mut bed = Bed::new();
        let (device, mut peer) = connected(&bed, ",mux=on");
        let port = device.attach(Client::eager()).unwrap();
        type_in(&mut bed, &mut peer, b"\x01t");
        assert_eq!(port.write(b"a\nb\nc"), 5);
        let text = read_exactly(&mut peer, 5 + 2 * "[00:00:00.000] ".len());
        let text = String::from_utf8(text).unwrap();
        let stripped: String = text
            .split_inclusive('\n')
            .map(|line| if line.starts_with('[') { line.split_at(15).1 } else { line })
            .collect();
        assert_eq!(stripped, "a\nb\nc");
        assert!(text.starts_with("a\n[00:0"));
        type_in(&mut bed, &mut peer, b"\x01t");
        assert_eq!(port.write(b"\nd\n"), 3);
        assert_eq!(read_exactly(&mut peer, 3), b"\nd\n");
    }

    #[test]
    fn other_escape_characters_are_explained() {
        let mut bed = Bed::new();
        bed.chardevs.set_escape(0x42);
        let (device, mut peer) = connected(&bed, ",mux=on");
        let _port = device.attach(Client::eager()).unwrap();
        type_in(&mut bed, &mut peer, b"B?");
        let start =
            b"\n\rEscape-Char set to Ascii: 0x42\n\r\n\rEscape-Char h    print this help\n\r";
        assert_eq!(read_exactly(&mut peer, start.len()), start);
    }

    #[test]
    fn a_front_end_that_goes_passes_the_focus_on() {
        let mut bed = Bed::new();
        let (device, mut peer) = connected(&bed, ",mux=on");
        let (first, second) = (Client::eager(), Client::eager());
        let _first_port = device.attach(first.clone()).unwrap();
        let second_port = device.attach(second.clone()).unwrap();
        drop(second_port);
        type_in(&mut bed, &mut peer, b"x");
        assert!(first.has(b"x") && second.has(b""));
        drop(peer);
        bed.until(|| first.saw(CharEvent::Closed));
    }
}

#[test]
fn a_peer_within_the_program_lets_go_of_the_front_end() {
    let mut bed = Bed::new();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let device = Chardev::paired("p", &bed.event_loop.handle(), ours).unwrap();
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    assert!(client.saw(CharEvent::Opened));
    theirs.write_all(b"ping").unwrap();
    bed.until(|| client.has(b"ping"));
    assert_eq!(port.write(b"pong"), 4);
    assert_eq!(read_exactly(&mut theirs, 4), b"pong");
    drop(theirs);
    bed.until(|| client.saw(CharEvent::Closed));
    assert_eq!(Arc::strong_count(&client), 1);
}
