//! How fast the user-mode network is without a guest: frames are fed straight into it by a card that
//! acknowledges everything, and a server on this host takes and gives bytes.
//!
//! `cargo run --release -p rhea-net --example user_speed [MiB]`

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base::chardev::{Chardevs, EscapeActions};
use base::clock::Clocks;
use base::event_loop::EventLoop;
use base::fdset::FdSets;
use net::checksum::{Sum, pseudo_header};
use net::netdev::{Context, NetEvents, NetdevSpec};
use net::{
    Checksum, Delivery, End, Frame, Gso, GsoKind, Netdev, Offload, Offloads, Part, Plug, Side,
};
use parking_lot::Mutex;

const GUEST: [u8; 4] = [10, 0, 2, 15];
const HOST: [u8; 4] = [10, 0, 2, 2];
/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;
const MSS: usize = 1460;
const LARGE: usize = 44 * MSS;

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

struct NoActions;

impl EscapeActions for NoActions {
    fn quit(&self) {}
    fn commit_snapshots(&self) {}
}

/// What the card keeps of a frame.
struct Got {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    len: usize,
}

/// Copies what it gets into memory that stands for the guest's.
struct Card {
    got: Mutex<(VecDeque<Got>, Vec<u8>)>,
    accepts: Offloads,
}

impl End for Card {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let mut got = self.got.lock();
        let (list, memory) = &mut *got;
        let len = frame.copy(0, memory);
        if len < HEADERS || memory[23] != 6 {
            return Delivery::Taken;
        }
        let word = |at: usize| {
            u32::from_be_bytes([memory[at], memory[at + 1], memory[at + 2], memory[at + 3]])
        };
        let header = usize::from(memory[46] >> 4) * 4;
        let window = u16::from_be_bytes([memory[48], memory[49]]);
        let len = len - 34 - header;
        list.push_back(Got { seq: word(38), ack: word(42), flags: memory[47], window, len });
        Delivery::Taken
    }

    fn wake(&self) {}

    fn accepts(&self) -> Offloads {
        self.accepts
    }
}

struct Bench {
    event_loop: EventLoop,
    clocks: Clocks,
    card: Arc<Card>,
    plug: Plug,
    _netdev: Netdev,
    port: u16,
}

/// A connection of the guest.
struct Flow {
    source: u16,
    target: u16,
    seq: u32,
    ack: u32,
    edge: u32,
    closed: bool,
}

impl Bench {
    fn new(accepts: Offloads) -> errors::Result<Bench> {
        let event_loop = EventLoop::new()?;
        let handle = event_loop.handle();
        let clocks = Clocks::new();
        clocks.start_virtual();
        let fd_sets = Arc::new(FdSets::default());
        let chardevs = Arc::new(Chardevs::new(handle.clone(), fd_sets, Arc::new(NoActions)));
        let context = Context {
            handle,
            clocks: clocks.clone(),
            chardevs,
            events: NetEvents::new(|_| ()),
            networks: Arc::default(),
        };
        let netdev = NetdevSpec::parse("user,id=bench")?.make(&context)?;
        let got = Mutex::new((VecDeque::new(), vec![0; 1 << 17]));
        let card = Arc::new(Card { got, accepts });
        let plug = netdev.cable.plug(Side::Guest, 0);
        let end: Arc<dyn End> = card.clone();
        plug.attach(Arc::downgrade(&end));
        Ok(Bench { event_loop, clocks, card, plug, _netdev: netdev, port: 20000 })
    }

    fn turn(&mut self) -> errors::Result<()> {
        let _limit = self.event_loop.handle().after(Duration::from_millis(10), || ());
        Ok(self.event_loop.run_once(&self.clocks, true)?)
    }

    fn send(&self, flow: &mut Flow, flags: u8, data: &[u8]) {
        let mut head = Vec::with_capacity(HEADERS + 8);
        head.extend_from_slice(&[0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0]);
        let options: &[u8] = if flags & SYN != 0 { &[2, 4, 5, 0xb4, 1, 3, 3, 7] } else { &[] };
        let tcp_len = 20 + options.len() + data.len();
        head.extend_from_slice(&[0x45, 0]);
        head.extend_from_slice(&((20 + tcp_len) as u16).to_be_bytes());
        head.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
        head.extend_from_slice(&GUEST);
        head.extend_from_slice(&HOST);
        let sum = Sum::default().bytes(&head[14..]).finish();
        head[24..26].copy_from_slice(&sum.to_be_bytes());
        head.extend_from_slice(&flow.source.to_be_bytes());
        head.extend_from_slice(&flow.target.to_be_bytes());
        head.extend_from_slice(&flow.seq.to_be_bytes());
        head.extend_from_slice(&flow.ack.to_be_bytes());
        head.extend_from_slice(&[
            ((20 + options.len()) / 4 << 4) as u8,
            flags,
            0x20,
            0,
            0,
            0,
            0,
            0,
        ]);
        head.extend_from_slice(options);
        let pseudo = pseudo_header(&GUEST, &HOST, 6, tcp_len).folded();
        head[50..52].copy_from_slice(&pseudo.to_be_bytes());
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        let gso = (data.len() > MSS).then_some(Gso {
            kind: GsoKind::Tcp4,
            size: MSS as u16,
            ecn: false,
            header_len: HEADERS as u16,
        });
        let parts = [Part::from(&head[..]), Part::from(data)];
        let delivery = self.plug.send(&Frame::new(&parts, Offload { checksum, gso }));
        assert_eq!(delivery, Delivery::Taken);
        flow.seq = flow.seq.wrapping_add(data.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
    }

    /// Takes what has come; returns how many bytes, and acknowledges them.
    fn receive(&mut self, flow: &mut Flow) -> errors::Result<usize> {
        let mut total = 0;
        let mut news = false;
        loop {
            let Some(got) = self.card.got.lock().0.pop_front() else { break };
            let syn = got.flags & SYN != 0;
            if syn {
                flow.ack = got.seq.wrapping_add(1);
            } else if got.seq == flow.ack {
                flow.ack = flow.ack.wrapping_add(got.len as u32);
                total += got.len;
                news |= got.len > 0;
                if got.flags & FIN != 0 {
                    flow.closed = true;
                    flow.ack = flow.ack.wrapping_add(1);
                    news = true;
                }
            }
            let shift = if syn { 0 } else { 4 };
            flow.edge = got.ack.wrapping_add(u32::from(got.window) << shift);
        }
        if news {
            self.send(flow, ACK, &[]);
            self.plug.flush();
        }
        Ok(total)
    }

    fn connect(&mut self, target: u16) -> errors::Result<Flow> {
        self.port += 1;
        let mut flow =
            Flow { source: self.port, target, seq: 1000, ack: 0, edge: 0, closed: false };
        self.send(&mut flow, SYN, &[]);
        self.plug.flush();
        while flow.ack == 0 {
            self.receive(&mut flow)?;
            if flow.ack == 0 {
                self.turn()?;
            }
        }
        self.send(&mut flow, ACK, &[]);
        Ok(flow)
    }
}

/// Errors of whatever kind, as they only end the program.
mod errors {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
}

fn serve(
    work: impl FnOnce(TcpStream) -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        work(stream)
    });
    Ok(port)
}

fn report(what: &str, bytes: usize, time: Duration) {
    let kib = bytes as f64 / 1024.0;
    let micros = time.as_secs_f64() * 1e6;
    println!("{what}: {:.3} µs a KiB, {:.0} MiB/s", micros / kib, kib / 1024.0 / (micros / 1e6));
}

fn download(bench: &mut Bench, bytes: usize) -> errors::Result<Duration> {
    let port = serve(move |mut stream| {
        let block = vec![7; 1 << 18];
        for _ in 0..bytes / block.len() {
            stream.write_all(&block)?;
        }
        Ok(())
    })?;
    let mut flow = bench.connect(port)?;
    let begin = Instant::now();
    let mut got = 0;
    while !flow.closed {
        let news = bench.receive(&mut flow)?;
        got += news;
        if news == 0 || !flow.closed {
            bench.turn()?;
        }
    }
    assert_eq!(got, bytes);
    Ok(begin.elapsed())
}

fn upload(bench: &mut Bench, bytes: usize) -> errors::Result<Duration> {
    let port = serve(move |mut stream| {
        let mut block = vec![0; 1 << 18];
        let mut left = bytes;
        while left > 0 {
            left -= stream.read(&mut block)?;
        }
        stream.write_all(b"!")
    })?;
    let mut flow = bench.connect(port)?;
    let begin = Instant::now();
    let data = vec![7; LARGE];
    let mut left = bytes;
    let mut answered = 0;
    while answered == 0 {
        while left > 0 {
            let room = flow.edge.wrapping_sub(flow.seq) as i32;
            let len = left.min(LARGE);
            if room < len as i32 {
                break;
            }
            bench.send(&mut flow, ACK, &data[..len]);
            left -= len;
        }
        bench.plug.flush();
        bench.turn()?;
        answered += bench.receive(&mut flow)?;
    }
    Ok(begin.elapsed())
}

fn echo(bench: &mut Bench, rounds: u32) -> errors::Result<Duration> {
    let port = serve(move |mut stream| {
        let mut byte = [0];
        for _ in 0..rounds {
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        }
        Ok(())
    })?;
    let mut flow = bench.connect(port)?;
    let begin = Instant::now();
    for _ in 0..rounds {
        bench.send(&mut flow, ACK, b"x");
        bench.plug.flush();
        while bench.receive(&mut flow)? == 0 {
            bench.turn()?;
        }
    }
    Ok(begin.elapsed() / rounds)
}

fn main() -> errors::Result<()> {
    let mebibytes: usize = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(1024);
    let bytes = mebibytes << 20;
    for (name, accepts) in [("large frames", Offloads::ALL), ("small frames", Offloads::default())]
    {
        let mut bench = Bench::new(accepts)?;
        report(&format!("download, {name}"), bytes, download(&mut bench, bytes)?);
        report(&format!("upload, {name}"), bytes, upload(&mut bench, bytes)?);
        println!("echo: {:?}", echo(&mut bench, 2000)?);
        let begin = Instant::now();
        for _ in 0..200 {
            let port = serve(|_| Ok(()))?;
            bench.connect(port)?;
        }
        println!("connection set-up: {:?}", begin.elapsed() / 200);
    }
    Ok(())
}
