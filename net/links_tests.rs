//! Back ends between guests of one process, and QEMU's words for what is wrong with them.

use crate::netdev::NetdevSpec;
use crate::testbed::{Bed, are_its_pieces, large_frame};
use crate::{Delivery, Side};

#[test]
fn datagrams_cross_by_every_kind_of_socket() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let unix = |local: &str, remote: &str| {
        let (local, remote) = (path(local), path(remote));
        format!("local.type=unix,local.path={local},remote.type=unix,remote.path={remote}")
    };
    // Ports that were free a moment ago.
    let port = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port().to_string()
    };
    let (one, two, three, four) = (port(), port(), port(), port());
    let inet = |local: &str, remote: &str| {
        format!(
            "local.type=inet,local.host=127.0.0.1,local.port={local},remote.type=inet,\
             remote.host=127.0.0.1,remote.port={remote}"
        )
    };
    for (a, b) in [
        (format!("dgram,id=a,{}", unix("a", "b")), format!("dgram,id=b,{}", unix("b", "a"))),
        (format!("dgram,id=a,{}", inet(&one, &two)), format!("dgram,id=b,{}", inet(&two, &one))),
        (
            format!("socket,id=a,udp=127.0.0.1:{four},localaddr=127.0.0.1:{three}"),
            format!("socket,id=b,udp=127.0.0.1:{three},localaddr=127.0.0.1:{four}"),
        ),
    ] {
        let mut bed = Bed::new();
        let (first, second) = (bed.guest(&a).unwrap(), bed.guest(&b).unwrap());
        for n in 0..20u8 {
            while first.send(&[n; 700]) == Delivery::Full {
                bed.turn();
            }
        }
        let frames: Vec<_> = (0..20u8).map(|n| vec![n; 700]).collect();
        assert_eq!(bed.frames(&second, 20), frames, "{a}");
        assert_eq!(second.send(&[7; 60]), Delivery::Taken);
        assert_eq!(bed.frames(&first, 1), [[7; 60]], "{b}");
    }
}

#[test]
fn a_hub_gives_everybody_what_one_sends() {
    let mut bed = Bed::new();
    let ports: Vec<_> =
        (0..3).map(|n| bed.guest(&format!("hubport,id=p{n},hubid=4")).unwrap()).collect();
    let other = bed.guest("hubport,id=q,hubid=5").unwrap();
    assert_eq!(ports[0].send(&[1; 64]), Delivery::Taken);
    for port in &ports[1..] {
        assert_eq!(bed.frames(port, 1), [[1; 64]]);
    }
    assert!(ports[0].take().is_empty() && other.take().is_empty());
    ports[2].set_room(1);
    assert_eq!(ports[1].send(&[2; 64]), Delivery::Taken);
    assert_eq!(ports[1].send(&[3; 64]), Delivery::Taken);
    assert_eq!(bed.frames(&ports[2], 1), [[2; 64]]);
    ports[2].set_room(9);
    assert_eq!(bed.frames(&ports[2], 1), [[3; 64]]);
}

#[test]
fn large_frames_are_cut_for_each_at_a_hub_that_needs_it() {
    let mut bed = Bed::new();
    let ports: Vec<_> =
        (0..3).map(|n| bed.guest(&format!("hubport,id=p{n},hubid=4")).unwrap()).collect();
    ports[2].set_room(0);
    let (frame, offload) = large_frame();
    assert_eq!(ports[0].send_with(&frame, offload), Delivery::Taken);
    assert!(are_its_pieces(&bed.frames(&ports[1], 4)));
    ports[2].set_room(9);
    assert!(are_its_pieces(&bed.frames(&ports[2], 4)), "the hub kept it");
}

#[test]
fn a_hub_of_two_loses_nothing() {
    let mut bed = Bed::new();
    let [near, far] = ["a", "b"].map(|id| bed.guest(&format!("hubport,id={id},hubid=0")).unwrap());
    far.set_room(2);
    let frames: Vec<_> = (0..300).map(|n| (n as u32).to_be_bytes().repeat(15)).collect();
    for (n, frame) in frames.iter().enumerate() {
        while near.send(frame) == Delivery::Full {
            assert!(n >= 2, "there is room");
            far.set_room(3);
            bed.turn();
        }
    }
    assert_eq!(bed.frames(&far, frames.len()), frames);
}

#[test]
fn a_network_at_a_hub_can_have_no_other_card() {
    let bed = Bed::new();
    let near = bed.guest("hubport,id=a,hubid=0").unwrap();
    let other = NetdevSpec::parse("hubport,id=b,hubid=1").unwrap().make(&bed.context).unwrap();
    bed.networks().add(other.clone()).unwrap();
    let bridge = NetdevSpec::parse("hubport,id=c,hubid=0,netdev=b").unwrap();
    let bridge = bridge.make(&bed.context).unwrap();
    assert!(other.cable.occupied(Side::Guest) && bridge.cable.occupied(Side::Guest));
    let far = bed.guest("hubport,id=d,hubid=1").unwrap();
    assert_eq!(near.send(&[1; 64]), Delivery::Taken);
    assert_eq!(far.take(), [[1; 64]], "through both hubs");
    drop(bridge);
    assert!(!other.cable.occupied(Side::Guest));
}

#[test]
fn faults_are_told_in_qemus_words() {
    let bed = Bed::new();
    for (options, words) in [
        ("stream,id=n", "Parameter 'addr' is missing"),
        ("stream,id=n,addr.type=inet,addr.host=127.0.0.1", "Parameter 'addr.port' is missing"),
        (
            "stream,id=n,addr.type=unix,addr.path=/nope/x,server=on,reconnect-ms=3",
            "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode",
        ),
        ("socket,id=n", "exactly one of listen=, connect=, mcast= or udp= is required"),
        ("socket,id=n,fd=77", "can't get socket option SO_TYPE"),
        ("socket,id=n,fd=x", "Invalid file descriptor number 'x'"),
        ("socket,id=n,listen=:1,localaddr=x", "localaddr= is only valid with mcast= or udp="),
        ("socket,id=n,mcast=230.0.0.1:1,localaddr=x", "localaddr 'x' is not a valid IPv4 address"),
        ("stream,id=n,addr.type=x", "Parameter 'type' does not accept value 'x'"),
        ("user,id=n,domainname=", "'domainname' parameter cannot be empty"),
        (
            "dgram,id=n,local.type=unix,local.path=/nope/x,remote.type=inet,remote.host=127.0.0.1,\
             remote.port=1",
            "remote and local types must be the same",
        ),
        (
            "socket,id=n,mcast=230.0.0.1",
            "host address '230.0.0.1' doesn't contain ':' separating host from port",
        ),
        (
            "socket,id=n,mcast=10.0.0.1:1",
            "specified mcastaddr 10.0.0.1 (0x0a000001) does not contain a multicast address",
        ),
        (
            "socket,id=n,listen=foo",
            "host address 'foo' doesn't contain ':' separating host from port",
        ),
        ("dgram,id=n", "dgram requires local= parameter"),
        (
            "dgram,id=n,local.type=unix,local.path=/tmp/x1",
            "type=inet or type=unix requires remote parameter",
        ),
        (
            "dgram,id=n,local.type=fd,local.str=99",
            "n: Can't use file descriptor 99: Bad file descriptor",
        ),
        ("hubport,id=n", "Parameter 'hubid' is missing"),
        ("hubport,id=n,hubid=1,netdev=zz", "netdev 'zz' not found"),
        ("tap,id=n,fd=99", "n: Can't use file descriptor 99: Bad file descriptor"),
        (
            "tap,id=n,fd=99,ifname=x",
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are \
             invalid with fd=",
        ),
        ("bridge,id=n,helper=/nope", "bridge helper failed"),
        ("tap,id=n,sndbuf=x", "Parameter 'sndbuf' expects a size value"),
    ] {
        assert_eq!(bed.guest(options).err().unwrap().to_string(), words, "{options}");
    }
}
