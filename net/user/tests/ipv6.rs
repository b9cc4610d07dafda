//! Neighbour discovery, DHCPv6 and what goes over IPv6. The messages are those that QEMU 10.0 was
//! seen to send.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use super::world::*;
use crate::user::tcp::segment::{ACK, Header, SYN, Seq};
use crate::user::wire::{ICMP6, IpFields, Mac, Route, TCP, UDP};

const LINK_LOCAL: &str = "fe80::5054:ff:fe12:3456";
const GLOBAL: &str = "fec0::5054:ff:fe12:3456";

fn route(source: &str, target: &str) -> Route {
    let target: Ipv6Addr = target.parse().unwrap();
    let [.., a, b, c, d] = target.octets();
    let target_mac: Mac = match target.is_multicast() {
        true => [0x33, 0x33, a, b, c, d],
        false => [0x52, 0x56, 0, 0, 0, 2],
    };
    let source: Ipv6Addr = source.parse().unwrap();
    Route { source_mac: GUEST_MAC, target_mac, source: source.into(), target: target.into() }
}

fn icmp6(source: &str, target: &str, message: &[u8]) -> Vec<u8> {
    let fields = IpFields { ttl: 255, ..fields(ICMP6) };
    route(source, target).frame(fields, message.to_vec(), 2)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_router_announces_itself() {
    let mut world = World::new("");
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    message.extend_from_slice(&GUEST_MAC);
    world.send(&icmp6(LINK_LOCAL, "ff02::2", &message));
    let frame = world.expect(|frame| (frame[12..14] == [0x86, 0xdd]).then(|| frame.to_vec()));
    assert_eq!(
        hex(&frame),
        "33330000000152560000000286dd6000000000383afffe800000000000000000000000000002\
         ff0200000000000000000000000000018600155e4000070800000000000000000101525600000002\
         030440c0000151800000384000000000fec00000000000000000000000000000"
    );
}

#[test]
fn our_addresses_are_found_and_others_are_not() {
    let mut world = World::new("");
    let solicit = |target: &str| {
        let target: Ipv6Addr = target.parse().unwrap();
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        icmp6(LINK_LOCAL, "ff02::1:ff00:2", &message)
    };
    world.send(&solicit("fec0::2"));
    let frame = world.expect(|frame| (frame[12..14] == [0x86, 0xdd]).then(|| frame.to_vec()));
    assert_eq!(
        hex(&frame),
        "52540012345652560000000286dd6000000000203afffec00000000000000000000000000002\
         fe80000000000000505400fffe1234568800c387e0000000fec00000000000000000000000000002\
         0201525600000002"
    );
    for address in ["fec0::3", "fe80::2", "fe80::3"] {
        world.send(&solicit(address));
        world.expect(|frame| packet(frame).filter(|packet| packet.source.to_string() == address));
    }
    world.send(&solicit("fec0::77"));
    world.expect_none(packet);
}

#[test]
fn dhcp_tells_the_name_server_and_what_to_boot() {
    let mut world = World::new(",bootfile=boot.img");
    let mut message = vec![11, 1, 2, 3, 0, 1, 0, 14, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend_from_slice(&GUEST_MAC);
    message.extend_from_slice(&[0, 6, 0, 8, 0, 23, 0, 24, 0, 59, 0, 60]);
    world.send(&route(LINK_LOCAL, "ff02::1:2").udp_frame(fields(UDP), 546, 547, &message));
    let (from, to, reply) = world.expect(udp_datagram);
    assert_eq!(from, "[fec0::2]:547".parse().unwrap());
    assert_eq!(to, SocketAddr::new(LINK_LOCAL.parse().unwrap(), 546));
    let told = "070102030001000e000100010000000052540012345600170010fec00000000000000000000000000003\
                003b0039746674703a2f2f5b666563303a303030303a303030303a303030303a303030303a303030303a\
                303030303a303030325d2f626f6f742e696d67";
    assert_eq!(hex(&reply), format!("{told}0002000a00030001525600000002"));
}

#[test]
fn echo_is_answered() {
    let mut world = World::new("");
    for address in ["fec0::2", "fec0::3", "fe80::2"] {
        world.send(&icmp6(LINK_LOCAL, address, &[128, 0, 0, 0, 0, 1, 0, 1, b'a']));
        let message = world.expect(|frame| {
            let packet = packet(frame).filter(|packet| packet.source.to_string() == address)?;
            Some(frame[packet.start..packet.end].to_vec())
        });
        assert_eq!((message[0], &message[4..]), (129, &[0, 1, 0, 1, b'a'][..]));
    }
}

#[test]
fn datagrams_and_connections_reach_the_host() {
    let Ok(server) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this host has no IPv6");
        return;
    };
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut world = World::new("");
    let port = server.local_addr().unwrap().port();
    world.send(&route(GLOBAL, "fec0::2").udp_frame(fields(UDP), 4000, port, b"question"));
    let mut buffer = [0; 100];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"question");
    server.send_to(&[7; 4000], from).unwrap();
    // It comes in three pieces.
    let mut pieces = 0;
    while pieces < 3 {
        world.turn();
        pieces += world.take().iter().filter_map(|frame| packet(frame)?.fragment).count();
    }

    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let segment = |header: Header, data: &[u8]| {
        let route = route(GLOBAL, "fec0::2");
        let mut content = Vec::new();
        header.write(&route, data.len(), true, &mut content);
        content.extend_from_slice(data);
        content[16..18].fill(0);
        route.frame(fields(TCP), content, 16)
    };
    let syn = header(5000, port, Seq(1), Seq(0), SYN);
    world.send(&segment(Header { options: Some(SYN_OPTIONS), ..syn }, &[]));
    let (packet, answer, _) = world.expect(tcp_segment);
    assert_eq!(packet.source, IpAddr::from([0xfec0, 0, 0, 0, 0, 0, 0, 2]));
    assert_eq!(answer.mss, Some(1440));
    let ack = answer.seq.plus(1);
    world.send(&segment(header(5000, port, Seq(2), ack, ACK), b"hello"));
    let mut stream = listener.accept().unwrap().0;
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).unwrap();
    stream.write_all(&buffer).unwrap();
    let data = world.expect(|frame| tcp_segment(frame).filter(|(_, _, data)| !data.is_empty()));
    assert_eq!(data.2, b"hello");
}
