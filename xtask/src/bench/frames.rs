//! The user-mode network without a guest: frames are fed into it through a unix socket, in the way of `-netdev
//! stream`, and a server on this host takes and gives bytes. QEMU and Rhea join the socket to `-netdev user` by a
//! hub; passt has such a socket itself. So all three pay the same for their frames' way there.

use super::machine::{Contender, cpu_seconds};
use super::network::{Passt, nanoseconds};
use super::packets::{self, ACK, Connection, FIN, SYN, Segment, Stream, TCP_HEADERS};
use super::results::{Measured, Metric, Unit};
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use testbed::vm::Launch;

/// Bytes that go each way.
const LEN: usize = 256 << 20;
const PIECE: usize = 1 << 18;
/// So many that the kernel's clock of CPU time, which ticks every 10 ms, tells something.
const ROUND_TRIPS: usize = 20_000;
const CONNECTIONS: usize = 5000;
/// Data of a segment in a frame of 1,514 bytes.
const MSS: usize = 1514 - TCP_HEADERS;
/// As much is written to the socket at once.
const BURST: usize = 64 * 1024;
/// Nothing takes as long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A guest that hears nothing sends again what may have got lost: passt drops what a socket does not take.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Through the user-mode network of an emulator.
pub fn by_user(who: &Contender) -> Result<Measured> {
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("socket");
    let socket = format!("stream,id=s,server=on,addr.type=unix,addr.path={}", path.display());
    let vm = Launch::new(&who.program)
        .args(["-M", "none", "-nodefaults", "-display", "none"])
        .args(["-netdev", "user,id=u", "-netdev", "hubport,id=hu,hubid=0,netdev=u"])
        .args(["-netdev", &socket, "-netdev", "hubport,id=hs,hubid=0,netdev=s"])
        .spawn()?;
    measure(&path, vm.pid())
}

/// Through passt.
pub fn by_passt() -> Result<Measured> {
    let scratch = Passt::scratch()?;
    let path = scratch.path().join("socket");
    let passt = Passt::start(&path)?;
    measure(&path, passt.pid())
}

fn measure(path: &Path, pid: u32) -> Result<Measured> {
    type Work = fn(&mut Guest) -> Result<Duration>;
    let mut guest = Guest::connect(path)?;
    let mut measured = Vec::new();
    for (which, what, work, count) in [
        ("download", "a KiB to the guest, TCP", download as Work, LEN >> 10),
        ("upload", "a KiB from the guest, TCP", upload, LEN >> 10),
        ("address", "an answer of the network itself, ARP", addresses, ROUND_TRIPS),
        ("echo", "a byte to the host and back, TCP", echo, ROUND_TRIPS),
        ("datagram", "a datagram to the host and back, UDP", datagrams, ROUND_TRIPS),
        ("connect", "a connection made and closed", connections, CONNECTIONS),
    ] {
        let before = cpu_seconds(pid)?;
        let time = work(&mut guest)?;
        let cpu = Duration::from_secs_f64(cpu_seconds(pid)? - before);
        let mut add = |which: &str, what: &str, time: Duration| {
            let metric = Metric::new(&format!("network-frames/{which}"), what, Unit::Nanoseconds);
            measured.push((metric, nanoseconds(time) / count as f64));
        };
        add(which, what, time);
        add(&format!("{which}-cpu"), "CPU time for that", cpu);
    }
    Ok(measured)
}

/// The guest's end of the socket.
struct Guest {
    socket: UnixStream,
    out: Stream,
    buffer: Vec<u8>,
    come: Stream,
    heard: Instant,
    /// The sum of so many bytes of data: all data is the same, and summing it would be no part of what is measured.
    sums: HashMap<usize, u32>,
    data: Vec<u8>,
    port: u16,
}

impl Guest {
    fn connect(path: &Path) -> Result<Self> {
        let begun = Instant::now();
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            out: Stream::default(),
            buffer: vec![0; 1 << 18],
            come: Stream::default(),
            heard: Instant::now(),
            sums: HashMap::new(),
            data: vec![0x5a; MSS],
            port: 20_000,
        })
    }

    /// Puts a frame with so many bytes of data into the burst.
    fn put(&mut self, mut head: Vec<u8>, len: usize) {
        let data = &self.data[..len];
        let sum = *self.sums.entry(len).or_insert_with(|| packets::sum(data));
        packets::complete(&mut head, sum);
        self.out.put(&head, data);
    }

    fn send(&mut self, flow: &mut Connection, flags: u8, len: usize) {
        let head = flow.head(flags, len);
        self.put(head, len);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(self.out.drain().as_slice())
    }

    /// Waits for frames; whether some have come.
    fn wait(&mut self) -> Result<bool> {
        let len = match self.socket.read(&mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ensure!(self.heard.elapsed() < PATIENCE, "the network is silent");
                return Ok(false);
            }
            result => result?,
        };
        ensure!(len > 0, "the network has gone");
        self.heard = Instant::now();
        self.come.extend(&self.buffer[..len]);
        Ok(true)
    }

    /// Waits for segments of a connection, and acknowledges what they bring; returns how much that is.
    fn receive(&mut self, flow: &mut Connection) -> Result<usize> {
        self.flush()?;
        if !self.wait()? {
            flow.rewind();
        }
        let (mut total, was_closed) = (0, flow.is_closed());
        while let Some(frame) = self.come.next() {
            if let Some(segment) = Segment::read(frame) {
                total += flow.take(&segment);
            } else if let Some(answer) = packets::answer_arp(frame) {
                self.out.put(&answer, &[]);
            }
        }
        if total > 0 || flow.is_closed() != was_closed {
            self.send(flow, ACK, 0);
        }
        Ok(total)
    }

    fn open(&mut self, target: u16) -> Result<Connection> {
        self.port += 1;
        let mut flow = Connection::new(self.port, target, MSS);
        self.send(&mut flow, SYN, 0);
        while !flow.is_established() {
            self.receive(&mut flow)?;
        }
        self.send(&mut flow, ACK, 0);
        Ok(flow)
    }

    /// Closes a connection that the other end has closed, or will.
    fn close(&mut self, mut flow: Connection) -> Result<()> {
        self.send(&mut flow, FIN | ACK, 0);
        while !(flow.is_closed() && flow.is_acknowledged()) {
            self.receive(&mut flow)?;
        }
        Ok(self.flush()?)
    }
}

/// Serves one connection; returns the port.
fn serve(work: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static) -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // A fault of the server's ends the connection, which the guest notices.
    thread::spawn(move || work(listener.accept()?.0));
    Ok(port)
}

fn download(guest: &mut Guest) -> Result<Duration> {
    let port = serve(|mut stream| {
        let piece = vec![0x5a; PIECE];
        (0..LEN / PIECE).try_for_each(|_| stream.write_all(&piece))
    })?;
    let mut flow = guest.open(port)?;
    let (begun, mut got) = (Instant::now(), 0);
    while !flow.is_closed() {
        got += guest.receive(&mut flow)?;
    }
    let time = begun.elapsed();
    ensure!(got == LEN, "{got} of {LEN} bytes have come");
    guest.close(flow)?;
    Ok(time)
}

fn upload(guest: &mut Guest) -> Result<Duration> {
    let port = serve(|mut stream| {
        let (mut piece, mut left) = (vec![0; PIECE], LEN);
        while left > 0 {
            left -= match stream.read(&mut piece)? {
                0 => return Ok(()),
                len => len,
            };
        }
        stream.write_all(b"!")
    })?;
    let mut flow = guest.open(port)?;
    let (begun, mut answered) = (Instant::now(), 0);
    while answered == 0 {
        let end = LEN.min(flow.sent() + BURST);
        // No short segments while more is on its way.
        while flow.sent() < end && flow.room() >= MSS.min(LEN - flow.sent()) {
            let len = MSS.min(LEN - flow.sent());
            guest.send(&mut flow, ACK, len);
        }
        if flow.sent() == LEN || flow.room() < MSS {
            answered += guest.receive(&mut flow)?;
        } else {
            guest.flush()?;
        }
    }
    let time = begun.elapsed();
    guest.close(flow)?;
    Ok(time)
}

/// Time of a round trip that leads to no socket: what the frames' way costs.
fn addresses(guest: &mut Guest) -> Result<Duration> {
    let begun = Instant::now();
    for _ in 0..ROUND_TRIPS {
        guest.out.put(&packets::ask_arp(), &[]);
        guest.flush()?;
        let mut answered = false;
        while !answered {
            guest.wait()?;
            while let Some(frame) = guest.come.next() {
                answered |= packets::is_arp_answer(frame);
            }
        }
    }
    Ok(begun.elapsed())
}

/// Time of a round trip.
fn echo(guest: &mut Guest) -> Result<Duration> {
    let port = serve(|mut stream| {
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    })?;
    let mut flow = guest.open(port)?;
    let begun = Instant::now();
    for _ in 0..ROUND_TRIPS {
        guest.send(&mut flow, ACK, 1);
        while guest.receive(&mut flow)? == 0 {}
    }
    let time = begun.elapsed();
    guest.close(flow)?;
    Ok(time)
}

fn datagrams(guest: &mut Guest) -> Result<Duration> {
    const PAYLOAD: usize = 100;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let port = socket.local_addr()?.port();
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = [0; PAYLOAD];
        for _ in 0..ROUND_TRIPS {
            let (len, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..len], from)?;
        }
        Ok(())
    });
    let begun = Instant::now();
    for _ in 0..ROUND_TRIPS {
        guest.put(packets::datagram(guest.port, port, PAYLOAD), PAYLOAD);
        guest.flush()?;
        let mut answered = false;
        while !answered {
            guest.wait()?;
            while let Some(frame) = guest.come.next() {
                answered |= packets::read_datagram(frame).is_some_and(|data| data.len() == PAYLOAD);
                if let Some(answer) = packets::answer_arp(frame) {
                    guest.out.put(&answer, &[]);
                }
            }
            guest.flush()?;
        }
    }
    Ok(begun.elapsed())
}

fn connections(guest: &mut Guest) -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || -> io::Result<()> {
        (0..CONNECTIONS).try_for_each(|_| listener.accept().map(drop))
    });
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let flow = guest.open(port)?;
        guest.close(flow)?;
    }
    Ok(begun.elapsed())
}
