//! Connections over a link that loses, repeats and reorders, with windows that close and peers that
//! stop: what arrives is what was sent, or a part of it up to a reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use proptest::prelude::*;

use super::world::*;
use crate::user::socket::reset_on_close;
use crate::user::tcp::segment::{ACK, FIN, Header, RST, SYN, Seq};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Orderly,
    GuestResets,
    HostResets,
}

#[derive(Clone, Debug)]
struct Case {
    up: usize,
    down: usize,
    /// Of 256 frames, so many are lost, repeated, or overtaken.
    lost: u8,
    repeated: u8,
    overtaken: u8,
    /// The host reads and writes in one of so many steps.
    laziness: u8,
    ending: Ending,
    /// When a reset comes.
    reset_after: usize,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let ending =
        prop_oneof![Just(Ending::Orderly), Just(Ending::GuestResets), Just(Ending::HostResets)];
    let sizes = (0usize..60_000, 0usize..200_000);
    let faults = (0u8..50, 0u8..30, 0u8..60, 1u8..8);
    (sizes, faults, ending, 0usize..60, any::<u64>()).prop_map(
        |((up, down), (lost, repeated, overtaken, laziness), ending, reset_after, seed)| Case {
            up,
            down,
            lost,
            repeated,
            overtaken,
            laziness,
            ending,
            reset_after,
            seed: seed | 1,
        },
    )
}

struct Chance(u64);

impl Chance {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn of_256(&mut self, share: u8) -> bool {
        (self.number() >> 20) as u8 <= share && share > 0
    }

    /// What a link makes of some frames.
    fn link(&mut self, case: &Case, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        for frame in frames {
            if self.of_256(case.lost) {
                continue;
            }
            if self.of_256(case.repeated) {
                out.push(frame.clone());
            }
            out.push(frame);
            let last = out.len() - 1;
            if last > 0 && self.of_256(case.overtaken) {
                out.swap(last, last - 1);
            }
        }
        out
    }
}

fn content(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 253 + at * salt) as u8).collect()
}

/// A small TCP: it takes what comes in order, and goes back to what is unacknowledged when nothing
/// moves.
struct Guest {
    remote: SocketAddr,
    first: Seq,
    data: Vec<u8>,
    acked: usize,
    next: usize,
    /// How far the other side's window reaches, in bytes of `data`.
    edge: usize,
    rcv_next: Seq,
    rcv_edge: Seq,
    got: Vec<u8>,
    open: bool,
    got_fin: bool,
    fin_sent: bool,
    fin_acked: bool,
    reset: bool,
    ack_due: bool,
}

impl Guest {
    fn segment(&mut self, flags: u8, at: usize, data: &[u8], window: usize) -> Vec<u8> {
        let edge = self.rcv_next.plus(window);
        if edge > self.rcv_edge {
            self.rcv_edge = edge;
        }
        let window = self.rcv_edge.since(self.rcv_next) as u16;
        let seq = if flags & SYN != 0 { self.first } else { self.first.plus(1 + at) };
        let plain = header(40000, self.remote.port(), seq, self.rcv_next, flags);
        let mut options = SYN_OPTIONS;
        options.scale = Some(0);
        let options = (flags & SYN != 0).then_some(options);
        guest_tcp(Header { window, options, ..plain }, self.remote.ip(), data)
    }

    fn take(&mut self, frame: &[u8]) {
        let Some((_, segment, data)) = tcp_segment(frame) else { return };
        if segment.has(RST) && self.got_fin && self.fin_sent {
            // Everything was there, but the last word was lost: the other side has forgotten.
            self.acked = self.data.len();
            self.fin_acked = true;
        } else if segment.has(RST) {
            self.reset = true;
        } else if segment.has(SYN) {
            if !self.open {
                self.open = true;
                self.rcv_next = segment.seq.plus(1);
                self.rcv_edge = self.rcv_next;
                self.edge = segment.window.into();
            }
            self.ack_due = true;
        } else if self.open {
            let acked = segment.ack.since(self.first.plus(1)) as usize;
            if acked <= self.data.len() + 1 {
                self.fin_acked |= acked > self.data.len();
                self.acked = self.acked.max(acked.min(self.data.len()));
                self.next = self.next.max(self.acked);
                self.edge = self.edge.max(acked + (usize::from(segment.window) << 4));
            }
            self.ack_due |= segment.sequence_len() > 0 || segment.seq < self.rcv_next;
            if segment.seq == self.rcv_next
                && !self.got_fin
                && segment.seq.plus(data.len()) <= self.rcv_edge
            {
                self.rcv_next = self.rcv_next.plus(segment.sequence_len());
                self.got.extend_from_slice(&data);
                self.got_fin = segment.has(FIN);
            }
        }
    }

    /// What it has to say.
    fn say(&mut self, chance: &mut Chance, stuck: bool) -> Vec<Vec<u8>> {
        let window = [0, 1, 700, 4000, 65535][(chance.number() % 5) as usize];
        let mut frames = Vec::new();
        if !self.open {
            if stuck {
                frames.push(self.segment(SYN, 0, &[], 65535));
            }
            return frames;
        }
        if stuck {
            self.next = self.acked;
            self.ack_due = true;
        }
        for _ in 0..4 {
            let end = self.data.len().min(self.next + 1460).min(self.edge.max(self.next));
            if end == self.next {
                break;
            }
            let piece = self.data[self.next..end].to_vec();
            frames.push(self.segment(ACK, self.next, &piece, window));
            self.next = end;
            self.ack_due = false;
        }
        let all_sent = self.next == self.data.len();
        if all_sent && !self.fin_acked && (stuck || chance.of_256(40)) {
            frames.push(self.segment(FIN | ACK, self.data.len(), &[], window));
            self.fin_sent = true;
            self.ack_due = false;
        }
        if std::mem::take(&mut self.ack_due) {
            let window = if stuck { 65535 } else { window };
            let at = if self.fin_acked { self.data.len() + 1 } else { self.next };
            frames.push(self.segment(ACK, at, &[], window));
        }
        frames
    }
}

/// The other end, on the host.
struct Host {
    stream: TcpStream,
    data: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    ended: bool,
    reset: bool,
}

impl Host {
    fn step(&mut self) {
        let mut buffer = [0; 8192];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(len) => self.got.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.reset = true,
        }
        if self.sent == self.data.len() {
            return;
        }
        let end = self.data.len().min(self.sent + 20_000);
        if let Ok(len) = self.stream.write(&self.data[self.sent..end]) {
            self.sent += len;
        }
        if self.sent == self.data.len() {
            // Fails when a reset was faster.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }
}

fn run(case: &Case) -> Result<(), TestCaseError> {
    let mut world = World::new("");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let remote = SocketAddr::from((HOST, listener.local_addr().unwrap().port()));
    let mut chance = Chance(case.seed);
    let first = Seq(chance.number() as u32);
    let (up, down) = (content(case.up, 3), content(case.down, 5));
    let mut guest = Guest {
        remote,
        first,
        data: up.clone(),
        acked: 0,
        next: 0,
        edge: 0,
        rcv_next: Seq(0),
        rcv_edge: Seq(0),
        got: Vec::new(),
        open: false,
        got_fin: false,
        fin_sent: false,
        fin_acked: false,
        reset: false,
        ack_due: false,
    };
    let mut host: Option<Host> = None;
    let mut quiet = 100;
    let mut before = (0, 0, 0, false);
    for step in 0..20_000 {
        // The guest's clock runs on when nothing moves: whoever waits for it repeats itself.
        let stuck = quiet > 10;
        if stuck {
            quiet = 0;
            world.pass(1.3);
        } else {
            world.spin();
        }
        let frames = world.take();
        for frame in chance.link(case, frames) {
            guest.take(&frame);
        }
        let frames = guest.say(&mut chance, stuck);
        world.send_burst(&chance.link(case, frames));
        if host.is_none()
            && let Ok((stream, _)) = listener.accept()
        {
            stream.set_nonblocking(true).unwrap();
            let data = down.clone();
            let got = Vec::new();
            host = Some(Host { stream, data, sent: 0, got, ended: false, reset: false });
        }
        let lazy = !chance.number().is_multiple_of(case.laziness.into());
        if let Some(host) = host.as_mut().filter(|_| !lazy) {
            host.step();
        }
        if let Some(host) = &host {
            prop_assert!(up.starts_with(&host.got), "the host got something else");
        }
        prop_assert!(down.starts_with(&guest.got), "the guest got something else");
        let time_to_reset = step >= case.reset_after && host.is_some() && guest.open;
        match case.ending {
            Ending::GuestResets if time_to_reset => {
                let reset = guest.segment(RST, guest.acked, &[], 65535);
                world.send(&reset);
            }
            Ending::HostResets if time_to_reset => {
                if let Some(host) = host.take() {
                    reset_on_close(&host.stream);
                    prop_assert!(up.starts_with(&host.got));
                }
                return wait_for_reset(&mut world, &mut guest, case);
            }
            _ => {}
        }
        let now = host.as_ref().map_or((0, 0, 0, guest.open), |host| {
            (guest.got.len() + guest.acked, host.got.len(), host.sent, guest.open)
        });
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        let Some(host) = &host else { continue };
        if guest.got_fin && guest.fin_acked && host.ended {
            prop_assert!(guest.got == down && host.got == up);
            return Ok(());
        }
        if host.reset || host.ended && guest.reset {
            prop_assert!(case.ending == Ending::GuestResets, "nobody has reset it");
            prop_assert!(!world.user().connections().contains("TCP["));
            return Ok(());
        }
    }
    prop_assert!(false, "it does not end: {before:?}");
    Ok(())
}

fn wait_for_reset(world: &mut World, guest: &mut Guest, case: &Case) -> Result<(), TestCaseError> {
    for _ in 0..2000 {
        world.pass(0.2);
        for frame in world.take() {
            guest.take(&frame);
        }
        // A connection that both had closed before may be gone, and the last word lost: the probe asks.
        let knows = guest.reset || guest.got_fin && guest.fin_acked;
        if knows && !world.user().connections().contains("TCP[") {
            return Ok(());
        }
        let probe = guest.segment(ACK, guest.acked, &[1], 65535);
        world.send(&probe);
    }
    prop_assert!(false, "the reset does not come: {case:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn bytes_arrive_in_order_whatever_the_link_does(case in case()) {
        run(&case)?;
    }
}
