//! How fast a user-mode network is without a guest: frames are fed straight into it by a card that
//! acknowledges everything, and a server on this host takes and gives bytes.
//!
//! `cargo run --release -p rhea-net --example user_speed [MiB]` measures ours, with large frames and with
//! small ones. `... user_speed MiB SOCKET MTU` measures whoever listens at a unix socket for frames behind
//! their length, such as passt (docs/performance.md).

use std::collections::{HashMap, VecDeque};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
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

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GUEST: [u8; 4] = [10, 0, 2, 15];
const HOST: [u8; 4] = [10, 0, 2, 2];
/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;
/// Of IPv4 and TCP within a packet.
const PACKET_HEADERS: usize = 40;
const MTU: usize = 1500;
/// Segments of a large frame.
const SEGMENTS: usize = 44;

/// All that is ever sent.
const DATA: u8 = 7;

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

struct NoActions;

impl EscapeActions for NoActions {
    fn quit(&self) {}
    fn commit_snapshots(&self) {}
}

/// What the card keeps of a segment.
struct Got {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    /// By how much windows are to be shifted, if it says so.
    shift: Option<u8>,
    len: usize,
}

/// What is known of a frame: nothing if it is no segment.
fn look(memory: &[u8]) -> Option<Got> {
    if memory.len() < HEADERS || memory[12..14] != [8, 0] || memory[23] != 6 {
        return None;
    }
    let word = |at: usize| {
        u32::from_be_bytes([memory[at], memory[at + 1], memory[at + 2], memory[at + 3]])
    };
    let half = |at: usize| u16::from_be_bytes([memory[at], memory[at + 1]]);
    let header = usize::from(memory[46] >> 4) * 4;
    let len = usize::from(half(16)) - 20 - header;
    let options = &memory[HEADERS..34 + header];
    let scale = options.windows(3).find(|option| option[..2] == [3, 3]);
    let shift = scale.map(|option| option[2]);
    Some(Got { seq: word(38), ack: word(42), flags: memory[47], window: half(48), shift, len })
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
        list.extend(look(&memory[..len]));
        Delivery::Taken
    }

    fn wake(&self) {}

    fn accepts(&self) -> Offloads {
        self.accepts
    }
}

/// The way to a network.
trait Wire {
    /// Sends a segment: what is before its data, with the checksum of the pseudo header alone.
    fn send(&mut self, head: &mut [u8], data: &[u8], mss: usize) -> errors::Result<()>;
    /// The burst is over.
    fn flush(&self) {}
    /// Takes the next segment that has come.
    fn next(&mut self) -> errors::Result<Option<Got>>;
    /// Waits for something to happen, or for a moment.
    fn wait(&mut self) -> errors::Result<()>;
}

/// Our own network, in this program.
struct Inside {
    event_loop: EventLoop,
    clocks: Clocks,
    card: Arc<Card>,
    plug: Plug,
    _netdev: Netdev,
}

impl Inside {
    fn new(accepts: Offloads) -> errors::Result<Self> {
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
        Ok(Self { event_loop, clocks, card, plug, _netdev: netdev })
    }
}

impl Wire for Inside {
    fn send(&mut self, head: &mut [u8], data: &[u8], mss: usize) -> errors::Result<()> {
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        let gso = (data.len() > mss).then_some(Gso {
            kind: GsoKind::Tcp4,
            size: mss as u16,
            ecn: false,
            header_len: HEADERS as u16,
        });
        let parts = [Part::from(&head[..]), Part::from(data)];
        let delivery = self.plug.send(&Frame::new(&parts, Offload { checksum, gso }));
        assert_eq!(delivery, Delivery::Taken);
        Ok(())
    }

    fn flush(&self) {
        self.plug.flush();
    }

    fn next(&mut self) -> errors::Result<Option<Got>> {
        Ok(self.card.got.lock().0.pop_front())
    }

    fn wait(&mut self) -> errors::Result<()> {
        let _limit = self.event_loop.handle().after(Duration::from_millis(10), || ());
        Ok(self.event_loop.run_once(&self.clocks, true)?)
    }
}

/// Somebody else's network, behind a socket.
struct Socket {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// What of the buffer is filled, and what of that was looked at.
    filled: usize,
    seen: usize,
    sums: Sums,
}

/// Sums of data. A guest would have to make them, so that they are no part of what is measured: as all data
/// is the same, each length is summed once.
#[derive(Default)]
struct Sums(HashMap<usize, u16>);

impl Sums {
    /// Completes the checksum of a segment.
    fn complete(&mut self, head: &mut [u8], data: &[u8]) {
        let of_data =
            *self.0.entry(data.len()).or_insert_with(|| Sum::default().bytes(data).folded());
        let sum = Sum::default().bytes(&head[34..]).bytes(&of_data.to_be_bytes()).finish();
        head[50..52].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Socket {
    fn new(path: &str) -> errors::Result<Self> {
        let stream = UnixStream::connect(path)?;
        let (buffer, sums) = (vec![0; 1 << 18], Sums::default());
        Ok(Self { stream, buffer, filled: 0, seen: 0, sums })
    }

    /// The next frame, where it is in the buffer.
    fn frame(&mut self) -> Option<std::ops::Range<usize>> {
        let len = self.buffer[self.seen..self.filled].first_chunk()?;
        let begin = self.seen + 4;
        let end = begin + u32::from_be_bytes(*len) as usize;
        (end <= self.filled).then(|| {
            self.seen = end;
            begin..end
        })
    }

    /// Says who the guest is, if that is asked.
    fn answer_arp(&mut self, frame: std::ops::Range<usize>) -> errors::Result<()> {
        let frame = &self.buffer[frame];
        if frame.len() < 42 || frame[12..14] != [8, 6] || frame[21] != 1 || frame[38..42] != GUEST {
            return Ok(());
        }
        let mut reply = vec![0, 0, 0, 42];
        reply.extend_from_slice(&frame[6..12]);
        reply.extend_from_slice(&GUEST_MAC);
        reply.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        reply.extend_from_slice(&GUEST_MAC);
        reply.extend_from_slice(&GUEST);
        reply.extend_from_slice(&frame[22..32]);
        Ok(self.stream.write_all(&reply)?)
    }
}

impl Wire for Socket {
    fn send(&mut self, head: &mut [u8], data: &[u8], _: usize) -> errors::Result<()> {
        self.sums.complete(head, data);
        let len = ((head.len() + data.len()) as u32).to_be_bytes();
        let mut parts = &mut [&len[..], head, data].map(IoSlice::new)[..];
        while !parts.is_empty() {
            let written = self.stream.write_vectored(parts)?;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    fn next(&mut self) -> errors::Result<Option<Got>> {
        while let Some(frame) = self.frame() {
            let got = look(&self.buffer[frame.clone()]);
            if got.is_some() {
                return Ok(got);
            }
            self.answer_arp(frame)?;
        }
        Ok(None)
    }

    fn wait(&mut self) -> errors::Result<()> {
        self.buffer.copy_within(self.seen..self.filled, 0);
        self.filled -= self.seen;
        self.seen = 0;
        let len = self.stream.read(&mut self.buffer[self.filled..])?;
        if len == 0 {
            return Err("the other end has gone".into());
        }
        self.filled += len;
        Ok(())
    }
}

struct Bench {
    wire: Box<dyn Wire>,
    /// Data of a segment, and what is sent at once.
    mss: usize,
    large: usize,
    port: u16,
}

/// A connection of the guest.
struct Flow {
    source: u16,
    target: u16,
    seq: u32,
    ack: u32,
    edge: u32,
    shift: u8,
    closed: bool,
}

impl Bench {
    fn send(&mut self, flow: &mut Flow, flags: u8, data: &[u8]) -> errors::Result<()> {
        let mut head = Vec::with_capacity(HEADERS + 8);
        head.extend_from_slice(&[0x52, 0x55, 10, 0, 2, 2]);
        head.extend_from_slice(&GUEST_MAC);
        head.extend_from_slice(&[8, 0]);
        let [high, low] = (self.mss as u16).to_be_bytes();
        let options: &[u8] = if flags & SYN != 0 { &[2, 4, high, low, 1, 3, 3, 7] } else { &[] };
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
        let offset = ((20 + options.len()) / 4 << 4) as u8;
        head.extend_from_slice(&[offset, flags, 0x20, 0, 0, 0, 0, 0]);
        head.extend_from_slice(options);
        let pseudo = pseudo_header(&GUEST, &HOST, 6, tcp_len).folded();
        head[50..52].copy_from_slice(&pseudo.to_be_bytes());
        self.wire.send(&mut head, data, self.mss)?;
        flow.seq = flow.seq.wrapping_add(data.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
        Ok(())
    }

    /// Takes what has come; returns how many bytes, and acknowledges them.
    fn receive(&mut self, flow: &mut Flow) -> errors::Result<usize> {
        let mut total = 0;
        let mut news = false;
        while let Some(got) = self.wire.next()? {
            if got.flags & SYN != 0 {
                flow.ack = got.seq.wrapping_add(1);
                flow.edge = got.ack.wrapping_add(got.window.into());
                flow.shift = got.shift.unwrap_or(0);
                continue;
            }
            if got.seq == flow.ack {
                flow.ack = flow.ack.wrapping_add(got.len as u32);
                total += got.len;
                news |= got.len > 0;
                if got.flags & FIN != 0 {
                    flow.closed = true;
                    flow.ack = flow.ack.wrapping_add(1);
                    news = true;
                }
            }
            flow.edge = got.ack.wrapping_add(u32::from(got.window) << flow.shift);
        }
        if news {
            self.send(flow, ACK, &[])?;
            self.wire.flush();
        }
        Ok(total)
    }

    fn connect(&mut self, target: u16) -> errors::Result<Flow> {
        self.port += 1;
        let (source, seq, ack, edge, shift) = (self.port, 1000, 0, 0, 0);
        let mut flow = Flow { source, target, seq, ack, edge, shift, closed: false };
        self.send(&mut flow, SYN, &[])?;
        self.wire.flush();
        while flow.ack == 0 {
            self.receive(&mut flow)?;
            if flow.ack == 0 {
                self.wire.wait()?;
            }
        }
        self.send(&mut flow, ACK, &[])?;
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
        let block = vec![DATA; 1 << 18];
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
        if !flow.closed {
            bench.wire.wait()?;
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
    let data = vec![DATA; bench.large];
    let mut left = bytes;
    let mut answered = 0;
    while answered == 0 {
        while left > 0 {
            let room = flow.edge.wrapping_sub(flow.seq) as i32;
            let len = left.min(bench.large).min(room.max(0) as usize);
            if len == 0 {
                break;
            }
            bench.send(&mut flow, ACK, &data[..len])?;
            left -= len;
        }
        bench.wire.flush();
        bench.wire.wait()?;
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
        bench.send(&mut flow, ACK, &[DATA])?;
        bench.wire.flush();
        while bench.receive(&mut flow)? == 0 {
            bench.wire.wait()?;
        }
    }
    Ok(begin.elapsed() / rounds)
}

fn measure(name: &str, mut bench: Bench, bytes: usize) -> errors::Result<()> {
    report(&format!("{name}: download"), bytes, download(&mut bench, bytes)?);
    report(&format!("{name}: upload"), bytes, upload(&mut bench, bytes)?);
    println!("{name}: echo {:?}", echo(&mut bench, 2000)?);
    let begin = Instant::now();
    for _ in 0..200 {
        let port = serve(|_| Ok(()))?;
        bench.connect(port)?;
    }
    println!("{name}: connection set-up {:?}", begin.elapsed() / 200);
    Ok(())
}

fn main() -> errors::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mebibytes: usize = args.first().map_or(Ok(1024), |arg| arg.parse())?;
    let bytes = mebibytes << 20;
    let bench = |wire: Box<dyn Wire>, mtu: usize, segments: usize| {
        let mss = mtu - PACKET_HEADERS;
        Bench { wire, mss, large: segments * mss, port: 20000 }
    };
    if let [_, path, mtu] = &args[..] {
        let wire = Box::new(Socket::new(path)?);
        return measure(path, bench(wire, mtu.parse()?, 1), bytes);
    }
    let small = Box::new(Inside::new(Offloads::default())?);
    measure("small frames", bench(small, MTU, 1), bytes)?;
    let large = Box::new(Inside::new(Offloads::ALL)?);
    measure("large frames", bench(large, MTU, SEGMENTS), bytes)
}
