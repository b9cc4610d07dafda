//! A back end, a card that keeps what it gets, and a guest that is made of frames.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::clock::Clocks;
use base::event_loop::EventLoop;
use parking_lot::Mutex;

use crate::netdev::NetdevSpec;
use crate::testbed;
use crate::user::User;
use crate::user::tcp::segment::{Header, Segment, Seq, SynOptions};
use crate::user::wire::{ETHERNET, Incoming, IpFields, Mac, Packet, Route, TCP, UDP, UdpHeader};
use crate::{Delivery, End, Frame, Netdev, Offload, Offloads, Part, Plug, Side};

pub const GUEST_MAC: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub const GUEST: [u8; 4] = [10, 0, 2, 15];
pub const HOST: [u8; 4] = [10, 0, 2, 2];
pub const GATEWAY_MAC: Mac = [0x52, 0x55, 10, 0, 2, 2];

/// On a busy host programs and sockets take their time; nothing takes as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A card.
pub struct Card {
    frames: Mutex<VecDeque<(Vec<u8>, Offload)>>,
    room: Mutex<usize>,
    accepts: Offloads,
}

impl End for Card {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let mut room = self.room.lock();
        if *room == 0 {
            return Delivery::Full;
        }
        *room -= 1;
        self.frames.lock().push_back((frame.to_vec(), frame.offload));
        Delivery::Taken
    }

    fn wake(&self) {}

    fn accepts(&self) -> Offloads {
        self.accepts
    }
}

/// Everything.
pub struct World {
    pub event_loop: EventLoop,
    pub clocks: Clocks,
    pub card: Arc<Card>,
    pub plug: Plug,
    pub netdev: Netdev,
}

impl World {
    /// A card without offloads at a back end of these options.
    pub fn new(options: &str) -> World {
        World::with_card(options, Offloads::default())
    }

    pub fn with_card(options: &str, accepts: Offloads) -> World {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let context = testbed::context(handle, &clocks);
        let spec = NetdevSpec::parse(&format!("user,id=u0{options}")).unwrap();
        let netdev = spec.make(&context).unwrap();
        let card =
            Arc::new(Card { frames: Mutex::default(), room: Mutex::new(usize::MAX), accepts });
        let plug = netdev.cable.plug(Side::Guest, 0);
        let end: Arc<dyn End> = card.clone();
        plug.attach(Arc::downgrade(&end));
        World { event_loop, clocks, card, plug, netdev }
    }

    pub fn user(&self) -> Arc<User> {
        self.netdev.downcast().unwrap()
    }

    /// The guest sends a frame.
    pub fn send(&self, bytes: &[u8]) {
        self.send_burst(&[bytes.to_vec()]);
    }

    /// The guest sends frames, one right behind the other.
    pub fn send_burst(&self, frames: &[Vec<u8>]) {
        frames.iter().for_each(|bytes| self.begin_burst(bytes));
        self.plug.flush();
    }

    /// The guest sends a frame behind which there are more.
    pub fn begin_burst(&self, bytes: &[u8]) {
        let parts = [Part::from(bytes)];
        let delivery = self.plug.send(&Frame::new(&parts, Offload::default()));
        assert_eq!(delivery, Delivery::Taken);
    }

    /// The loop does what there is to do now; if the card gets nothing by it, the loop waits for a moment.
    pub fn turn(&mut self) {
        self.spin();
        if !self.card.frames.lock().is_empty() {
            return;
        }
        let _delay = self.event_loop.handle().after(Duration::from_millis(2), || ());
        // Whoever sets a delay wakes the loop: without this round it would not sleep.
        self.event_loop.run_once(&self.clocks, false).unwrap();
        self.event_loop.run_once(&self.clocks, true).unwrap();
        self.spin();
    }

    /// The loop does what there is to do now.
    pub fn spin(&mut self) {
        for _ in 0..3 {
            self.event_loop.run_once(&self.clocks, false).unwrap();
        }
    }

    /// Time passes for the guest.
    pub fn pass(&mut self, seconds: f64) {
        self.clocks.step_to(self.clocks.now_virtual() + (seconds * 1e9) as i64);
        self.turn();
    }

    /// The card takes so many more frames.
    pub fn set_room(&self, room: usize) {
        *self.card.room.lock() = room;
        self.plug.ready();
    }

    /// What the card has got.
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.card.frames.lock().drain(..).map(|(bytes, _)| bytes).collect()
    }

    pub fn take_with_offloads(&self) -> Vec<(Vec<u8>, Offload)> {
        self.card.frames.lock().drain(..).collect()
    }

    /// Waits until the card has got something that `wanted` knows; the others are dropped.
    pub fn expect<T>(&mut self, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let frames: Vec<Vec<u8>> = self.take();
            if let Some(found) = frames.iter().find_map(|frame| wanted(frame)) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "the frame has not come");
            self.turn();
        }
    }

    /// The back end says nothing of that kind.
    pub fn expect_none<T>(&mut self, unwanted: impl Fn(&[u8]) -> Option<T>) {
        for _ in 0..5 {
            self.turn();
            assert!(self.take().iter().all(|frame| unwanted(frame).is_none()));
        }
    }
}

/// The packet in a frame, and the frame's headers; checks IPv4's header checksum by reading.
pub fn packet(bytes: &[u8]) -> Option<Packet> {
    let parts = [Part::from(bytes)];
    let frame = Frame::new(&parts, Offload::default());
    Incoming::new(&frame)?.packet()
}

/// A TCP segment and its data, whose checksum is right.
pub fn tcp_segment(bytes: &[u8]) -> Option<(Packet, Segment, Vec<u8>)> {
    let packet = packet(bytes).filter(|packet| packet.protocol == TCP)?;
    let content = &bytes[packet.start..packet.end];
    let route = route_of(&packet);
    assert_eq!(route.pseudo_sum(TCP, content.len()).bytes(content).finish(), 0, "TCP checksum");
    let segment = Segment::read(&packet, content)?;
    Some((packet, segment, bytes[segment.data..segment.data + segment.len].to_vec()))
}

/// A UDP datagram, whose checksum is right.
pub fn udp_datagram(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    let packet = packet(bytes).filter(|packet| packet.protocol == UDP)?;
    let content = &bytes[packet.start..packet.end];
    let route = route_of(&packet);
    assert_eq!(route.pseudo_sum(UDP, content.len()).bytes(content).finish(), 0, "UDP checksum");
    let udp = UdpHeader::read(&packet, content)?;
    Some((udp.from, udp.to, bytes[udp.start..udp.end].to_vec()))
}

fn route_of(packet: &Packet) -> Route {
    let (source, target) = (packet.source, packet.target);
    Route { source_mac: [0; 6], target_mac: [0; 6], source, target }
}

/// The way of the guest's frames.
pub fn guest_route(source: IpAddr, target: IpAddr) -> Route {
    Route { source_mac: GUEST_MAC, target_mac: GATEWAY_MAC, source, target }
}

pub fn fields(protocol: u8) -> IpFields {
    IpFields { protocol, ttl: 64, tos: 0, id: 1 }
}

/// A datagram of the guest.
pub fn guest_udp(from: u16, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    guest_route(GUEST.into(), to.ip()).udp_frame(fields(UDP), from, to.port(), payload)
}

/// A segment of the guest.
pub fn guest_tcp(header: Header, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let route = guest_route(GUEST.into(), to);
    let mut frame = Vec::new();
    route.write_headers(fields(TCP), header.len() + data.len(), &mut frame);
    header.write(&route, data.len(), true, &mut frame);
    frame.extend_from_slice(data);
    let start = ETHERNET + 20;
    let at = start + super::super::tcp::segment::CHECKSUM;
    frame[at..at + 2].fill(0);
    let len = frame.len() - start;
    let sum = route.pseudo_sum(TCP, len).bytes(&frame[start..]).finish();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A plain segment.
pub fn header(from: u16, to: u16, seq: Seq, ack: Seq, flags: u8) -> Header {
    Header { source_port: from, target_port: to, seq, ack, flags, window: 65535, options: None }
}

/// The options of the guest's SYN.
pub const SYN_OPTIONS: SynOptions = SynOptions { mss: 1460, scale: Some(7) };
