use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use base::chardev::SocketAddress;

use crate::Delivery;
use crate::netdev::NetEvent;
use crate::testbed::{Bed, are_its_pieces, large_frame};

fn connected(bed: &Bed) -> usize {
    let events = bed.events.lock();
    events.iter().filter(|event| matches!(event, NetEvent::StreamConnected { .. })).count()
}

#[test]
fn frames_cross_in_both_directions() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s").display().to_string();
    let address = format!("addr.type=unix,addr.path={path}");
    let mut bed = Bed::new();
    let server = bed.guest(&format!("stream,id=a,server=on,{address}")).unwrap();
    let client = bed.guest(&format!("stream,id=b,{address}")).unwrap();
    bed.until(|bed| connected(bed) == 2);
    let event = NetEvent::StreamConnected {
        netdev: "b".into(),
        address: SocketAddress::Unix { path: path.clone(), abstract_name: false, tight: true },
    };
    assert!(bed.events.lock().contains(&event));
    assert_eq!(client.netdev.backend.info(0), format!("unix:{path}"));
    let frames: Vec<Vec<u8>> = (60..160).map(|len| vec![len as u8; len * 9]).collect();
    for frame in &frames {
        while client.send(frame) == Delivery::Full {
            bed.turn();
        }
    }
    assert_eq!(bed.frames(&server, frames.len()), frames);
    assert_eq!(server.send(b"an answer of some bytes"), Delivery::Taken);
    assert_eq!(bed.frames(&client, 1), [b"an answer of some bytes"]);
}

#[test]
fn a_card_without_room_holds_the_sender_back_and_loses_nothing() {
    let mut bed = Bed::new();
    let guest = bed.guest("socket,id=a,listen=127.0.0.1:0").err();
    assert!(guest.is_none(), "any port");
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s");
    let options = format!("stream,id=b,server=on,addr.type=unix,addr.path={}", path.display());
    let guest = bed.guest(&options).unwrap();
    let mut peer = UnixStream::connect(&path).unwrap();
    bed.until(|bed| connected(bed) == 1);
    guest.set_room(3);
    let frames: Vec<Vec<u8>> = (1..=9).map(|n| vec![n; 100]).collect();
    for frame in &frames {
        peer.write_all(&100u32.to_be_bytes()).unwrap();
        peer.write_all(frame).unwrap();
    }
    assert_eq!(bed.frames(&guest, 3), frames[..3]);
    guest.set_room(usize::MAX);
    assert_eq!(bed.frames(&guest, 6), frames[3..]);
    // A peer that does not read: what it was sent arrives in order.
    let mut sent = 0u32;
    while guest.send(&sent.to_be_bytes().repeat(300)) == Delivery::Taken {
        sent += 1;
    }
    peer.set_nonblocking(true).unwrap();
    let mut bytes: Vec<u8> = Vec::new();
    while bytes.len() < sent as usize * 1204 {
        let mut piece = [0; 4096];
        match peer.read(&mut piece) {
            Ok(count) => bytes.extend(&piece[..count]),
            Err(_) => bed.turn(),
        }
    }
    for (n, frame) in bytes.chunks(1204).enumerate() {
        assert_eq!(frame[..4], 1200u32.to_be_bytes());
        assert_eq!(frame[4..], (n as u32).to_be_bytes().repeat(300));
    }
}

#[test]
fn large_frames_are_cut_for_the_connection() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s").display().to_string();
    let address = format!("addr.type=unix,addr.path={path}");
    let mut bed = Bed::new();
    let server = bed.guest(&format!("stream,id=a,server=on,{address}")).unwrap();
    let client = bed.guest(&format!("stream,id=b,{address}")).unwrap();
    bed.until(|bed| connected(bed) == 2);
    let (frame, offload) = large_frame();
    assert_eq!(client.send_with(&frame, offload), Delivery::Taken);
    assert!(are_its_pieces(&bed.frames(&server, 4)));
}

#[test]
fn a_client_connects_again_and_a_server_waits_for_the_next() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s").display().to_string();
    let address = format!("addr.type=unix,addr.path={path}");
    let mut bed = Bed::new();
    let client = bed.guest(&format!("stream,id=b,reconnect-ms=10,{address}")).unwrap();
    assert_eq!(client.send(b"to nobody"), Delivery::Taken);
    let server = bed.guest(&format!("stream,id=a,server=on,{address}")).unwrap();
    bed.until(|bed| connected(bed) == 2);
    drop(bed.networks().remove("b"));
    drop(client);
    let gone = NetEvent::StreamDisconnected { netdev: "a".into() };
    bed.until(|bed| bed.events.lock().contains(&gone));
    let next = bed.guest(&format!("stream,id=c,{address}")).unwrap();
    bed.until(|bed| connected(bed) == 4);
    assert_eq!(next.send(b"hello"), Delivery::Taken);
    assert_eq!(bed.frames(&server, 1), [b"hello"]);
}

#[test]
fn who_does_not_speak_the_protocol_is_left() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s");
    let mut bed = Bed::new();
    let options = format!("stream,id=a,server=on,addr.type=unix,addr.path={}", path.display());
    let guest = bed.guest(&options).unwrap();
    assert_eq!(guest.netdev.backend.info(0), "listening");
    let mut peer = UnixStream::connect(&path).unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let gone = NetEvent::StreamDisconnected { netdev: "a".into() };
    bed.until(|bed| bed.events.lock().contains(&gone));
    assert_eq!(guest.netdev.backend.info(0), "listening");
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "closed");
}
