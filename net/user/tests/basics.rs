//! ARP, DHCP, echo, UDP, and what must not get out.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::world::*;
use crate::user::icmp;
use crate::user::tcp::Shared;
use crate::user::wire::{BROADCAST, ICMP, Mac, Route, UDP};

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let mut frame = BROADCAST.to_vec();
    frame.extend_from_slice(&GUEST_MAC);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&GUEST_MAC);
    frame.extend_from_slice(&GUEST);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target);
    frame
}

fn arp_reply(frame: &[u8]) -> Option<(Mac, [u8; 4])> {
    let reply = frame[12..14] == [8, 6] && frame[20..22] == [0, 2];
    reply.then(|| (frame[22..28].try_into().unwrap(), frame[28..32].try_into().unwrap()))
}

#[test]
fn our_addresses_answer_arp_and_others_do_not() {
    let mut world = World::new("");
    for last in [2, 3] {
        world.send(&arp_request([10, 0, 2, last]));
        let expected = ([0x52, 0x55, 10, 0, 2, last], [10, 0, 2, last]);
        assert_eq!(world.expect(arp_reply), expected);
    }
    for last in [1, 4, 15, 100] {
        world.send(&arp_request([10, 0, 2, last]));
    }
    world.expect_none(arp_reply);
}

#[test]
fn a_guest_gets_an_address() {
    let mut world = World::new("");
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[28..34].copy_from_slice(&GUEST_MAC);
    message.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    let route = Route {
        source_mac: GUEST_MAC,
        target_mac: BROADCAST,
        source: [0, 0, 0, 0].into(),
        target: [255, 255, 255, 255].into(),
    };
    world.send(&route.udp_frame(fields(UDP), 68, 67, &message));
    let (from, to, reply) = world.expect(udp_datagram);
    assert_eq!((from, to), (([10, 0, 2, 2], 67).into(), ([255, 255, 255, 255], 68).into()));
    assert_eq!(reply[16..20], GUEST);
}

fn echo(target: [u8; 4]) -> Vec<u8> {
    let message = vec![8, 0, 0, 0, 0, 1, 0, 1, b'a', b'b'];
    guest_route(GUEST.into(), target.into()).frame(fields(ICMP), message, 2)
}

#[test]
fn the_gateway_answers_echo() {
    let mut world = World::new("");
    for last in [2, 3] {
        world.send(&echo([10, 0, 2, last]));
        let answer = world.expect(|frame| {
            let packet = packet(frame).filter(|packet| packet.protocol == ICMP)?;
            Some((packet.source, frame[packet.start..packet.end].to_vec()))
        });
        assert_eq!(answer.0, std::net::IpAddr::from([10, 0, 2, last]));
        assert_eq!((answer.1[0], &answer.1[4..]), (0, &[0, 1, 0, 1, b'a', b'b'][..]));
    }
}

fn server() -> (UdpSocket, SocketAddr) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let seen = SocketAddr::from((HOST, server.local_addr().unwrap().port()));
    (server, seen)
}

#[test]
fn datagrams_go_to_the_host_and_back() {
    let mut world = World::new("");
    let (server, seen) = server();
    let mut buffer = [0; 65536];
    for len in [0, 1, 1472, 1473, 9000, 65000] {
        let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
        // The guest sends what is too large in pieces.
        let route = guest_route(GUEST.into(), seen.ip());
        let whole = route.udp_frame(fields(UDP), 4000, seen.port(), &payload);
        let mut pieces = Vec::new();
        crate::user::fragment::frames(&route, fields(UDP), 7, &whole[34..], &mut pieces);
        for piece in pieces {
            world.send(&piece.head);
        }
        let (got, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..got], payload);
        server.send_to(&payload, from).unwrap();
        let mut assembly = crate::user::fragment::Assembly::default();
        let mut content = None;
        while content.is_none() {
            world.turn();
            for frame in world.take() {
                let packet = packet(&frame).unwrap();
                assert!(frame.len() <= 1514);
                let bytes = frame[packet.start..packet.end].to_vec();
                content = match packet.fragment {
                    Some(part) => assembly.take(&packet, part, bytes, 0),
                    None => Some(bytes),
                };
            }
        }
        let content = content.unwrap();
        assert_eq!(content[8..], payload);
        assert_eq!(
            content[..4],
            whole[34..38]
                .iter()
                .copied()
                .skip(2)
                .chain(whole[34..36].iter().copied())
                .collect::<Vec<u8>>()
        );
    }
}

#[test]
fn an_idle_port_is_closed() {
    let mut world = World::new("");
    let (server, seen) = server();
    world.send(&guest_udp(4000, seen, b"x"));
    server.recv_from(&mut [0; 10]).unwrap();
    world.turn();
    assert!(world.user().connections().contains("UDP["));
    world.pass(200.0);
    world.send(&guest_udp(4000, seen, b"x"));
    world.pass(200.0);
    assert!(world.user().connections().contains("UDP["));
    world.pass(41.0);
    assert!(!world.user().connections().contains("UDP["));
}

#[test]
fn the_hosts_loopback_is_reached_through_the_gateway_only() {
    let mut world = World::new("");
    let (server, seen) = server();
    server.set_nonblocking(true).unwrap();
    for address in
        [[127, 0, 0, 1], [10, 0, 2, 77], [10, 0, 2, 255], [255, 255, 255, 255], [0, 0, 0, 0]]
    {
        world.send(&guest_udp(4000, (address, seen.port()).into(), b"x"));
    }
    world.turn();
    assert!(server.recv_from(&mut [0; 10]).is_err());
    assert!(!world.user().connections().contains("UDP["));
}

#[test]
fn a_restricted_guest_sends_nothing_out() {
    let mut world = World::new(",restrict=on");
    let (server, seen) = server();
    server.set_nonblocking(true).unwrap();
    world.send(&guest_udp(4000, seen, b"x"));
    world.turn();
    assert!(server.recv_from(&mut [0; 10]).is_err());
    world.send(&echo(HOST));
    world.expect(|frame| packet(frame).filter(|packet| packet.protocol == ICMP));
}

#[test]
fn a_forwarded_port_takes_datagrams() {
    let mut world = World::new(",hostfwd=udp:127.0.0.1:0-:53");
    let text = world.user().connections();
    let port: u16 = text
        .lines()
        .find(|line| line.contains("UDP[HOST_FORWARD]"))
        .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .unwrap();
    let (client, seen) = server();
    // The first one asks who the guest is.
    client.send_to(b"lost", ("127.0.0.1", port)).unwrap();
    let asked = world.expect(|frame| (frame[12..14] == [8, 6]).then(|| frame.to_vec()));
    assert_eq!((&asked[20..22], &asked[38..42]), (&[0, 1][..], &GUEST[..]));
    world.send(&arp_request(HOST));
    client.send_to(b"question", ("127.0.0.1", port)).unwrap();
    let (from, to, payload) = world.expect(udp_datagram);
    assert_eq!((from, to, &payload[..]), (seen, (GUEST, 53).into(), &b"question"[..]));
    world.send(&guest_udp(53, seen, b"answer"));
    let mut buffer = [0; 100];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.port()), (&b"answer"[..], port));
    let rule = format!("udp:127.0.0.1:{port}");
    assert_eq!(world.user().remove_forward("udp:127.0.0.1:0"), Some(false));
    assert_eq!(world.user().remove_forward(&rule), Some(true));
    assert_eq!(world.user().remove_forward(&rule), Some(false));
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok());
}

#[test]
fn frames_to_other_stations_are_not_looked_at() {
    let mut world = World::new("");
    let mut frame = echo(HOST);
    frame[..6].copy_from_slice(&[0x52, 0x54, 0, 1, 2, 3]);
    world.send(&frame);
    world.expect_none(|frame| packet(frame).filter(|packet| packet.protocol == ICMP));
}

#[test]
fn errors_quote_what_was_sent() {
    let macs = crate::user::tcp::Macs { ours: GATEWAY_MAC, guest: GUEST_MAC };
    let (from, to) = ((GUEST, 1234).into(), ([192, 0, 2, 1], 9).into());
    let mut shared = Shared::default();
    let begin = [4, 210, 0, 9, 0, 10, 1, 2];
    let frame =
        icmp::unreachable(UDP, from, to, (&begin, 10), icmp::Reason::Port, macs, &mut shared);
    let packet = packet(&frame.head).unwrap();
    let message = &frame.head[packet.start..packet.end];
    assert_eq!(message[..2], [3, 3]);
    assert_eq!(message[8..12], [0x45, 0, 0, 30]);
    assert_eq!(message[28..], begin);
    assert_eq!(crate::checksum::Sum::default().bytes(message).finish(), 0);
}
