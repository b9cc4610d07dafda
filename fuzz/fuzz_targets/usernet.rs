//! The user-mode network: frames of any kind from the guest, segments around a real connection to a
//! server in this process, a card that stops taking, and stepped time.
//!
//! All frames are aimed at the gateway, so that nothing leaves this host.
#![no_main]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use arbitrary::Arbitrary;
use base::chardev::{Chardevs, EscapeActions};
use base::clock::Clocks;
use base::event_loop::EventLoop;
use base::fdset::FdSets;
use libfuzzer_sys::fuzz_target;
use net::netdev::{Context, NetEvents, NetdevSpec};
use net::{Checksum, Delivery, End, Frame, Gso, GsoKind, Offload, Offloads, Part, Side};
use parking_lot::Mutex;

#[derive(Arbitrary, Debug)]
enum Action {
    /// Any bytes behind a plausible Ethernet header.
    Frame {
        v6: bool,
        bytes: Vec<u8>,
        large: bool,
    },
    /// A segment near what is expected.
    Segment {
        port: u8,
        seq: i16,
        ack: i16,
        flags: u8,
        window: u16,
        options: Vec<u8>,
        len: u16,
    },
    /// The server writes, reads, stops, or goes.
    Write {
        len: u16,
    },
    Read {
        len: u16,
    },
    Shut,
    Close,
    /// The card takes so many frames.
    Room {
        frames: u8,
    },
    Pass {
        milliseconds: u32,
    },
}

struct NoActions;

impl EscapeActions for NoActions {
    fn quit(&self) {}
    fn commit_snapshots(&self) {}
}

#[derive(Default)]
struct Got {
    room: usize,
    /// The next number expected of the peer, and what it has acknowledged.
    next: u32,
    acked: u32,
}

struct Card(Mutex<Got>);

impl End for Card {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let mut got = self.0.lock();
        if got.room == 0 {
            return Delivery::Full;
        }
        got.room -= 1;
        let bytes = frame.to_vec();
        assert!(bytes.len() >= 14);
        if bytes[12..14] == [8, 0] && bytes[23] == 6 {
            let word = |at: usize| {
                u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            let len = bytes.len() as u32 - 34 - u32::from(bytes[46] >> 4) * 4;
            got.next = word(38).wrapping_add(len + u32::from(bytes[47] & 3 != 0));
            got.acked = word(42);
        }
        Delivery::Taken
    }

    fn wake(&self) {}

    fn accepts(&self) -> Offloads {
        Offloads { tso6: false, ..Offloads::ALL }
    }
}

const GUEST: [u8; 4] = [10, 0, 2, 15];
const HOST: [u8; 4] = [10, 0, 2, 2];

fn aim(bytes: &mut [u8], v6: bool) {
    bytes[..12].copy_from_slice(&[0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    if v6 {
        if let Some(target) = bytes.get_mut(38..54) {
            target.copy_from_slice(&[0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        }
        bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    } else if bytes[12..14] != [8, 6] {
        bytes[12..14].copy_from_slice(&[8, 0]);
        if let Some(header) = bytes.get_mut(14..34) {
            header[0] = 0x45;
            header[16..20].copy_from_slice(&HOST);
            header[10..12].fill(0);
            let sum = net::checksum::Sum::default().bytes(header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

fuzz_target!(|actions: Vec<Action>| {
    let mut event_loop = EventLoop::new().unwrap();
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let handle = event_loop.handle();
    let chardevs = Chardevs::new(handle.clone(), Arc::new(FdSets::default()), Arc::new(NoActions));
    let context = Context {
        handle,
        clocks: clocks.clone(),
        chardevs: Arc::new(chardevs),
        events: NetEvents::new(|_| ()),
        networks: Arc::default(),
    };
    let spec = NetdevSpec::parse("user,id=u0,bootfile=x,dnssearch=a.b").unwrap();
    let netdev = spec.make(&context).unwrap();
    let card = Arc::new(Card(Mutex::new(Got { room: 1000, ..Got::default() })));
    let plug = netdev.cable.plug(Side::Guest, 0);
    let end: Arc<dyn End> = card.clone();
    plug.attach(Arc::downgrade(&end));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let target = listener.local_addr().unwrap().port();
    let mut stream: Option<TcpStream> = None;
    for action in actions.into_iter().take(200) {
        match action {
            Action::Frame { v6, mut bytes, large } => {
                bytes.resize(bytes.len().clamp(14, 4000), 0);
                aim(&mut bytes, v6);
                let gso = Gso { kind: GsoKind::Tcp4, size: 100, ecn: false, header_len: 54 };
                let checksum = Checksum::Partial { start: 34, offset: 16 };
                let offload = match large {
                    true => Offload { checksum, gso: Some(gso) },
                    false => Offload::default(),
                };
                let _ = plug.send(&Frame::new(&[Part::from(&bytes[..])], offload));
                plug.flush();
            }
            Action::Segment { port, seq, ack, flags, window, mut options, len } => {
                options.truncate(40);
                options.resize(options.len().next_multiple_of(4).min(40), 0);
                let mut frame = vec![0; 14];
                let total = 40 + options.len() + usize::from(len % 3000);
                frame.extend_from_slice(&[0x45, 0]);
                frame.extend_from_slice(&(total as u16).to_be_bytes());
                frame.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0]);
                frame.extend_from_slice(&GUEST);
                frame.extend_from_slice(&HOST);
                let (expected, known) = {
                    let got = card.0.lock();
                    (got.next, got.acked)
                };
                frame.extend_from_slice(&[0x80, port % 4]);
                frame.extend_from_slice(&target.to_be_bytes());
                frame.extend_from_slice(&known.wrapping_add_signed(seq.into()).to_be_bytes());
                frame.extend_from_slice(&expected.wrapping_add_signed(ack.into()).to_be_bytes());
                frame.extend_from_slice(&[((20 + options.len()) / 4 << 4) as u8, flags & 0x1f]);
                frame.extend_from_slice(&window.to_be_bytes());
                frame.extend_from_slice(&[0; 4]);
                frame.extend_from_slice(&options);
                frame.resize(14 + total, 7);
                aim(&mut frame, false);
                let _ = plug.send(&Frame::new(&[Part::from(&frame[..])], Offload::default()));
                plug.flush();
            }
            Action::Write { len } => {
                if let Some(stream) = &mut stream {
                    let _ = stream.write(&vec![1; len.into()]);
                }
            }
            Action::Read { len } => {
                if let Some(stream) = &mut stream {
                    let _ = stream.read(&mut vec![0; len.into()]);
                }
            }
            Action::Shut => {
                if let Some(stream) = &stream {
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                }
            }
            Action::Close => stream = None,
            Action::Room { frames } => {
                card.0.lock().room = frames.into();
                plug.ready();
            }
            Action::Pass { milliseconds } => {
                let step = i64::from(milliseconds % 100_000) * 1_000_000;
                clocks.step_to(clocks.now_virtual() + step);
            }
        }
        event_loop.run_once(&clocks, false).unwrap();
        if stream.is_none()
            && let Ok((new, _)) = listener.accept()
        {
            new.set_nonblocking(true).unwrap();
            stream = Some(new);
        }
    }
});
