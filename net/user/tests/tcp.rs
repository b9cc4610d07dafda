//! Connections.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use super::world::*;
use crate::Offloads;
use crate::user::tcp::segment::{ACK, FIN, Header, RST, SYN, Segment, Seq};

/// A guest's connection, driven by hand.
struct Guest {
    port: u16,
    remote: SocketAddr,
    seq: Seq,
    ack: Seq,
    got: Vec<u8>,
    flags: u8,
    window: u16,
}

impl Guest {
    fn new(remote: SocketAddr) -> Guest {
        let (seq, ack) = (Seq(u32::MAX - 5), Seq(0));
        Guest { port: 40000, remote, seq, ack, got: Vec::new(), flags: 0, window: 65535 }
    }

    fn header(&self, flags: u8) -> Header {
        let window = self.window;
        Header { window, ..header(self.port, self.remote.port(), self.seq, self.ack, flags) }
    }

    fn send(&mut self, world: &World, flags: u8, data: &[u8]) {
        world.send(&guest_tcp(self.header(flags), self.remote.ip(), data));
        let extra = usize::from(flags & SYN != 0) + usize::from(flags & FIN != 0);
        self.seq = self.seq.plus(data.len() + extra);
    }

    fn connect(&mut self, world: &mut World) -> Segment {
        let options = Some(SYN_OPTIONS);
        let syn = Header { options, ..self.header(SYN) };
        world.send(&guest_tcp(syn, self.remote.ip(), &[]));
        self.seq = self.seq.plus(1);
        let (packet, segment, _) = world.expect(tcp_segment);
        assert_eq!((packet.source, packet.target), (self.remote.ip(), IpAddr::from(GUEST)));
        self.ack = segment.seq.plus(1);
        segment
    }

    fn open(world: &mut World, remote: SocketAddr) -> Guest {
        let mut guest = Guest::new(remote);
        let answer = guest.connect(world);
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, guest.seq));
        guest.send(world, ACK, &[]);
        guest
    }

    /// Takes what has come in order, and acknowledges it.
    fn receive(&mut self, world: &mut World) {
        world.turn();
        let mut news = false;
        for frame in world.take() {
            let Some((_, segment, data)) = tcp_segment(&frame) else { continue };
            self.flags |= segment.flags;
            if segment.seq == self.ack {
                self.got.extend_from_slice(&data);
                self.ack = self.ack.plus(segment.sequence_len());
                news |= segment.sequence_len() > 0;
            }
        }
        if news {
            self.send(world, ACK, &[]);
        }
    }

    fn receive_until(&mut self, world: &mut World, done: impl Fn(&Guest) -> bool) {
        let (begun, mut turns) = (Instant::now(), 0);
        while !done(self) {
            self.receive(world);
            turns += 1;
            let time = begun.elapsed();
            let (bytes, flags) = (self.got.len(), self.flags);
            assert!(time < PATIENCE, "{bytes} bytes and flags {flags:#x} in {turns} turns");
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = SocketAddr::from((HOST, listener.local_addr().unwrap().port()));
    (listener, seen)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

#[test]
fn what_comes_in_one_burst_goes_to_the_socket_at_once() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    world.turn();
    let data = content(30_000);
    for piece in data.chunks(1460) {
        world.begin_burst(&guest_tcp(guest.header(ACK), remote.ip(), piece));
        guest.seq = guest.seq.plus(piece.len());
    }
    stream.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 60_000];
    assert!(stream.read(&mut buffer).is_err(), "it waits for the rest");
    world.send_burst(&[]);
    assert_eq!(stream.read(&mut buffer).unwrap(), data.len());
    assert_eq!(buffer[..data.len()], data);
    let (_, segment, _) = world.expect(tcp_segment);
    assert_eq!(segment.ack, guest.seq);
}

#[test]
fn both_directions_carry_bytes_and_close_one_by_one() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    guest.send(&world, ACK, b"hello");
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    stream.write_all(b"world").unwrap();
    guest.receive_until(&mut world, |guest| guest.got == b"world");
    guest.send(&world, FIN | ACK, b"!");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"!");
    assert!(world.user().connections().contains("TCP[CLOSE_WAIT]"));
    stream.write_all(b"later").unwrap();
    guest.receive_until(&mut world, |guest| guest.got == b"worldlater");
    assert_eq!(guest.flags & FIN, 0);
    drop(stream);
    guest.receive_until(&mut world, |guest| guest.flags & FIN != 0);
    world.turn();
    assert!(!world.user().connections().contains("TCP["), "it is over");
}

#[test]
fn a_little_data_is_acknowledged_by_its_answer_or_soon() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    guest.send(&world, ACK, b"ask");
    world.expect_none(tcp_segment);
    stream.write_all(b"answer").unwrap();
    let (_, answer, data) = world.expect(tcp_segment);
    assert_eq!((answer.ack, &data[..]), (guest.seq, &b"answer"[..]));
    guest.ack = guest.ack.plus(6);

    guest.send(&world, ACK, b"tell");
    world.expect_none(tcp_segment);
    world.pass(0.0005);
    let (_, answer, data) = world.expect(tcp_segment);
    assert_eq!((answer.ack, data.len()), (guest.seq, 0));

    guest.send(&world, ACK, &content(1460));
    guest.send(&world, ACK, &content(1460));
    let (_, answer, _) = world.expect(tcp_segment);
    assert_eq!(answer.ack, guest.seq, "every second segment is acknowledged at once");
}

#[test]
fn the_host_may_close_first() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    stream.write_all(b"all").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.receive_until(&mut world, |guest| guest.flags & FIN != 0);
    assert_eq!(guest.got, b"all");
    guest.send(&world, ACK, b"still");
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).unwrap();
    guest.send(&world, FIN | ACK, &[]);
    assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    world.turn();
    assert!(!world.user().connections().contains("TCP["), "it is over");
    let (_, last, _) = world.expect(tcp_segment);
    assert_eq!(last.ack, guest.seq, "the guest's FIN was acknowledged");
}

#[test]
fn a_closed_port_refuses() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    drop(listener);
    let mut guest = Guest::new(remote);
    let answer = guest.connect(&mut world);
    assert_eq!((answer.flags, answer.ack), (RST | ACK, guest.seq));
}

#[test]
fn a_restricted_guest_is_refused() {
    let mut world = World::new(",restrict=on");
    let (listener, remote) = listen();
    listener.set_nonblocking(true).unwrap();
    let mut guest = Guest::new(remote);
    assert_eq!(guest.connect(&mut world).flags, RST | ACK);
    assert!(listener.accept().is_err());
}

#[test]
fn strange_segments_are_answered_by_resets() {
    let mut world = World::new("");
    let mut guest = Guest::new(([10, 0, 2, 2], 9).into());
    guest.ack = Seq(77);
    guest.send(&world, ACK, b"x");
    let (_, answer, _) = world.expect(tcp_segment);
    assert_eq!((answer.flags, answer.seq), (RST, Seq(77)));
    guest.send(&world, RST, b"");
    world.expect_none(tcp_segment);
}

#[test]
fn resets_cross_in_both_directions() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    guest.send(&world, RST, &[]);
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut guest = Guest::new(remote);
    guest.port = 40001;
    guest.connect(&mut world);
    guest.send(&world, ACK, b"unread");
    let stream = accept(&listener);
    world.turn();
    // Closing with something unread is a reset.
    drop(stream);
    guest.receive_until(&mut world, |guest| guest.flags & RST != 0);
    assert!(!world.user().connections().contains("TCP["), "it is over");
}

#[test]
fn a_slow_host_closes_the_window_and_loses_nothing() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    let all = content(24 << 20);
    let mut sent = 0;
    let mut edge = guest.seq.plus(65535);
    let begin = guest.seq;
    let mut stalls = 0;
    let mut received = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    stream.set_nonblocking(true).unwrap();
    while received.len() < all.len() {
        while sent < all.len() && edge.since(guest.seq) >= 1460 && edge > guest.seq {
            let piece = &all[sent..(sent + 1460).min(all.len())];
            guest.send(&world, ACK, piece);
            sent += piece.len();
        }
        world.turn();
        for frame in world.take() {
            let (_, segment, _) = tcp_segment(&frame).unwrap();
            let new = segment.ack.plus(usize::from(segment.window) << 4);
            // The shift cuts off up to 15 bytes.
            assert!(new.plus(16) > edge, "the window does not shrink");
            edge = if new > edge { new } else { edge };
            stalls += u32::from(edge.since(guest.seq) < 1460);
        }
        if stalls > 0 || sent == all.len() {
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                received.extend_from_slice(&buffer[..len]);
            }
        }
    }
    assert!(received == all);
    assert!(stalls > 0, "the window was closed");
    assert_eq!(guest.seq.since(begin) as usize, all.len(), "nothing was sent twice");
}

#[test]
fn a_slow_guest_slows_the_host() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    guest.window = 0;
    guest.send(&world, ACK, &[]);
    stream.set_nonblocking(true).unwrap();
    let all = content(32 << 20);
    let mut sent = 0;
    for _ in 0..20 {
        while let Ok(len) = stream.write(&all[sent..]) {
            sent += len;
        }
        guest.receive(&mut world);
    }
    assert_eq!(guest.got.len(), 0);
    assert!(sent < all.len(), "the host has to wait");
    // It asks now and then; and goes on when it may.
    world.pass(3.0);
    let asked = world.expect(tcp_segment);
    assert_eq!(asked.1.seq.plus(1), guest.ack);
    guest.window = 65535;
    guest.send(&world, ACK, &[]);
    while guest.got.len() < all.len() {
        guest.receive(&mut world);
        while sent < all.len()
            && let Ok(len) = stream.write(&all[sent..])
        {
            sent += len;
        }
    }
    assert!(guest.got == all);
}

#[test]
fn a_full_card_gets_everything_later() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    let all = content(300_000);
    let mut writer = stream.try_clone().unwrap();
    let bytes = all.clone();
    let thread = std::thread::spawn(move || writer.write_all(&bytes));
    for room in [0, 1, 2, 3].into_iter().cycle().take(10_000) {
        world.set_room(room);
        guest.receive(&mut world);
        if guest.got.len() == all.len() {
            break;
        }
    }
    assert!(guest.got == all);
    thread.join().unwrap().unwrap();
    world.set_room(1000);
    guest.send(&world, ACK, b"ok");
    let mut buffer = [0; 2];
    stream.read_exact(&mut buffer).unwrap();
}

#[test]
fn large_segments_go_to_cards_that_take_them() {
    let mut world = World::with_card("", Offloads::ALL);
    let (listener, remote) = listen();
    let mut guest = Guest::new(remote);
    guest.connect(&mut world);
    guest.send(&world, ACK, &[]);
    let mut stream = accept(&listener);
    stream.write_all(&content(60_000)).unwrap();
    let mut largest = 0;
    let mut got = 0;
    while got < 60_000 {
        world.turn();
        for (frame, offload) in world.take_with_offloads() {
            let len = frame.len() - 54;
            largest = largest.max(len);
            assert_eq!(offload.gso.is_some(), len > 1460);
            got += len;
        }
    }
    assert!(largest > 20_000, "{largest}");
}

#[test]
fn a_forwarded_port_leads_to_the_guest() {
    let mut world = World::new(",hostfwd=tcp:127.0.0.1:0-:22");
    // The port was chosen by the kernel: ask for another one by name.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.user().add_forward(&format!("tcp:127.0.0.1:{free}-:23")).unwrap();
    let error = world.user().add_forward(&format!("tcp:127.0.0.1:{free}-:23")).unwrap_err();
    let words = format!("Could not set up host forwarding rule 'tcp:127.0.0.1:{free}-:23'");
    assert_eq!(error.to_string(), words);

    let mut stream = TcpStream::connect(("127.0.0.1", free)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let asked = world.expect(|frame| (frame[12..14] == [8, 6]).then(|| frame.to_vec()));
    assert_eq!(asked[38..42], GUEST);
    // The guest says who it is, by saying anything.
    world.send(&guest_udp(1, ([10, 0, 2, 2], 9).into(), b""));
    let (packet, syn, _) = world.expect(tcp_segment);
    assert_eq!((packet.source, syn.flags, syn.target_port), (IpAddr::from(HOST), SYN, 23));
    let mut guest = Guest::new(SocketAddr::new(packet.source, syn.source_port));
    guest.port = 23;
    guest.ack = syn.seq.plus(1);
    let answer = Header { options: Some(SYN_OPTIONS), ..guest.header(SYN | ACK) };
    world.send(&guest_tcp(answer, guest.remote.ip(), &[]));
    guest.seq = guest.seq.plus(1);
    stream.write_all(b"hi").unwrap();
    guest.receive_until(&mut world, |guest| guest.got == b"hi");
    guest.send(&world, ACK, b"there");
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"there");
    assert_eq!(world.user().remove_forward(&format!("tcp:127.0.0.1:{free}")), Some(true));
    assert!(TcpStream::connect(("127.0.0.1", free)).is_err());
}

#[test]
fn a_guest_that_refuses_a_forwarded_connection_resets_it() {
    let mut world = World::new("");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.user().add_forward(&format!("tcp:127.0.0.1:{free}-:23")).unwrap();
    world.send(&guest_udp(1, ([10, 0, 2, 2], 9).into(), b""));
    let mut stream = TcpStream::connect(("127.0.0.1", free)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (packet, syn, _) = world.expect(tcp_segment);
    let refusal = header(23, syn.source_port, Seq(0), syn.seq.plus(1), RST | ACK);
    world.send(&guest_tcp(refusal, packet.source, &[]));
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn what_a_guest_loses_comes_again() {
    let mut world = World::new("");
    let (listener, remote) = listen();
    let mut guest = Guest::open(&mut world, remote);
    let mut stream = accept(&listener);
    stream.write_all(b"lost").unwrap();
    let first = world.expect(tcp_segment);
    world.expect_none(tcp_segment);
    world.pass(1.5);
    let again = world.expect(tcp_segment);
    assert_eq!((again.1.seq, again.2), (first.1.seq, first.2));
    guest.got = b"lost".to_vec();
    guest.ack = guest.ack.plus(4);
    guest.send(&world, ACK, &[]);
    world.pass(100.0);
    world.expect_none(tcp_segment);
    // A guest that has gone for good is given up.
    stream.write_all(b"more").unwrap();
    for _ in 0..20 {
        world.pass(70.0);
    }
    assert!(!world.user().connections().contains("TCP["));
    assert!(stream.read(&mut [0; 1]).is_err());
}

#[test]
fn a_command_answers_at_an_address_of_the_network() {
    let mut world = World::new(",restrict=on,guestfwd=tcp:10.0.2.100:80-cmd:tr a-z A-Z");
    let mut guest = Guest::open(&mut world, ([10, 0, 2, 100], 80).into());
    guest.send(&world, FIN | ACK, b"shout");
    guest.receive_until(&mut world, |guest| guest.flags & FIN != 0);
    assert_eq!(guest.got, b"SHOUT");
    let mut again = Guest { port: 40001, ..Guest::new(guest.remote) };
    again.connect(&mut world);
    again.send(&world, FIN | ACK, b"again");
    again.receive_until(&mut world, |guest| guest.flags & FIN != 0);
    assert_eq!(again.got, b"AGAIN");
}

#[test]
fn a_character_device_answers_at_an_address_of_the_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = format!(",guestfwd=tcp:10.0.2.100:80-tcp:127.0.0.1:{port}");
    let mut world = World::new(&options);
    world.turn();
    let mut stream = accept(&listener);
    let mut guest = Guest::open(&mut world, ([10, 0, 2, 100], 80).into());
    guest.send(&world, ACK, b"question");
    for _ in 0..5 {
        world.turn();
    }
    let mut buffer = [0; 8];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"question");
    stream.write_all(b"answer").unwrap();
    guest.receive_until(&mut world, |guest| guest.got == b"answer");
}
