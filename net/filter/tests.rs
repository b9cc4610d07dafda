use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base::chardev::{BackendSpec, ChardevSpec, SocketAddress, SocketSpec};
use base::props::PropInput;

use super::*;
use crate::testbed::{Bed, Guest};
use crate::{Checksum, Delivery, Gso, GsoKind, Offload, Part};

/// Two guests at a hub, with filters at the first one's back end.
struct Link {
    bed: Bed,
    near: Guest,
    far: Guest,
}

fn link() -> Link {
    let bed = Bed::new();
    bed.context.clocks.step_by_hand();
    let near = bed.guest("hubport,id=n,hubid=1").unwrap();
    let far = bed.guest("hubport,id=m,hubid=1").unwrap();
    Link { bed, near, far }
}

impl Link {
    fn filter(&self, id: &str, type_name: &str, props: &str) -> Result<NetFilter, NetError> {
        let mut kind = FilterKind::new(type_name).unwrap();
        for (name, value) in props.split(',').filter_map(|pair| pair.split_once('=')) {
            kind.props().set(type_name, name, PropInput::Text(value)).unwrap();
        }
        assert_eq!(kind.missing(), None);
        NetFilter::make(&self.bed.context, id, kind)
    }

    fn wait(&mut self, nanoseconds: i64) {
        (0..4).for_each(|_| self.bed.turn());
        let clocks = self.bed.context.clocks.clone();
        clocks.step_to(clocks.now_virtual() + nanoseconds);
        (0..4).for_each(|_| self.bed.turn());
    }

    fn chardev(&self, id: &str, near: &UnixStream) {
        let socket = SocketSpec {
            address: SocketAddress::Fd(near.as_raw_fd().to_string()),
            server: false,
            wait: false,
            telnet: false,
            nodelay: false,
            reconnect: Duration::ZERO,
        };
        self.bed
            .context
            .chardevs
            .create(&ChardevSpec::new(id, BackendSpec::Socket(socket)))
            .unwrap();
    }
}

/// The frames of a dump: time in microseconds, length on the wire, bytes that were stored.
fn parse(dump: &[u8]) -> Vec<(u64, usize, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(dump[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4), word(20)), (0xa1b2_c3d4, 0x0004_0002, 1));
    let mut frames = Vec::new();
    let mut at = 24;
    while at < dump.len() {
        let stored = word(at + 8) as usize;
        let time = u64::from(word(at)) * 1_000_000 + u64::from(word(at + 4));
        let bytes = dump[at + 16..at + 16 + stored].to_vec();
        frames.push((time, word(at + 12) as usize, bytes));
        at += 16 + stored;
    }
    frames
}

#[test]
fn dumps_hold_what_goes_both_ways() {
    let mut link = link();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("dump");
    let filter = link
        .filter("f", "filter-dump", &format!("netdev=n,maxlen=100,file={}", file.display()))
        .unwrap();
    assert_eq!(link.near.send(&[1; 60]), Delivery::Taken);
    assert_eq!(link.far.send(&[2; 300]), Delivery::Taken);
    link.bed.frames(&link.near, 1);
    let frames = parse(&std::fs::read(&file).unwrap());
    let seen: Vec<_> = frames.iter().map(|(_, len, bytes)| (*len, &bytes[..])).collect();
    assert_eq!(seen, [(60, &[1; 60][..]), (300, &[2; 100])]);
    assert!(frames[0].0 <= frames[1].0);
    // A large segment is there as a wire would carry it.
    let mut large = vec![0; 54 + 2000];
    large[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    large[16..18].copy_from_slice(&2040u16.to_be_bytes());
    (large[23], large[46]) = (6, 5 << 4);
    let gso = Gso { kind: GsoKind::Tcp4, size: 1448, ecn: false, header_len: 54 };
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let parts = [Part::from(&large[..])];
    let frame = Frame::new(&parts, Offload { checksum, gso: Some(gso) });
    assert_eq!(link.near.netdev.cable.plug(Side::Guest, 0).send(&frame), Delivery::Taken);
    let lengths: Vec<_> = parse(&std::fs::read(&file).unwrap()).iter().map(|f| f.1).collect();
    assert_eq!(lengths, [60, 300, 1502, 606]);
    drop(filter);
    assert_eq!(link.near.send(&[1; 60]), Delivery::Taken);
    assert_eq!(parse(&std::fs::read(&file).unwrap()).len(), 4);
}

#[test]
fn buffers_keep_frames_for_a_while() {
    let mut link = link();
    let filter = link.filter("f", "filter-buffer", "netdev=n,interval=1000,queue=rx").unwrap();
    for n in 0..3 {
        assert_eq!(link.near.send(&[n; 60]), Delivery::Taken);
    }
    // What the back end sends is not its business.
    assert_eq!(link.far.send(&[9; 60]), Delivery::Taken);
    assert_eq!(link.bed.frames(&link.near, 1), [[9; 60]]);
    link.wait(999_999);
    assert!(link.far.take().is_empty());
    link.wait(1);
    assert_eq!(link.bed.frames(&link.far, 3), [[0; 60], [1; 60], [2; 60]]);
    let set = |property: &str, value: &str| filter.setter(property).unwrap()(value);
    assert_eq!(link.near.send(&[4; 60]), Delivery::Taken);
    set("status", "off").unwrap();
    assert_eq!(link.bed.frames(&link.far, 1), [[4; 60]], "it lets go of all");
    assert_eq!(link.near.send(&[5; 60]), Delivery::Taken);
    assert_eq!(link.bed.frames(&link.far, 1), [[5; 60]]);
    set("status", "on").unwrap();
    set("queue", "tx").unwrap();
    set("interval", "5").unwrap();
    assert_eq!(
        link.near.netdev.cable.filter_info(),
        "  - f: type=filter-buffer,interval=5,position=tail,status=on,insert=behind,netdev=n,queue=tx\n"
    );
    assert!(
        set("interval", "0").is_err() && set("status", "x").is_err() && set("queue", "x").is_err()
    );
    // What waits for a card without room waits here.
    link.near.set_room(0);
    assert_eq!(link.far.send(&[6; 60]), Delivery::Taken);
    link.wait(10_000_000);
    assert!(link.near.take().is_empty());
    link.near.set_room(9);
    link.wait(10_000_000);
    assert_eq!(link.bed.frames(&link.near, 1), [[6; 60]]);
}

#[test]
fn mirrors_copy_and_redirectors_divert() {
    let mut link = link();
    let pairs = [(); 3].map(|()| UnixStream::pair().unwrap());
    for (id, (near, far)) in ["c", "d", "e"].into_iter().zip(&pairs) {
        link.chardev(id, near);
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let [mut copy, mut out, mut inward] = pairs.each_ref().map(|(_, far)| far);
    let mirror = link.filter("m", "filter-mirror", "netdev=n,outdev=c,queue=rx").unwrap();
    let redirector = "netdev=n,outdev=d,indev=e,queue=rx,vnet_hdr_support=on";
    let _redirector = link.filter("r", "filter-redirector", redirector).unwrap();
    // What the guest sends meets the last filter first.
    assert_eq!(link.near.netdev.cable.filters(), ["m", "r"]);
    assert_eq!(link.near.send(&[7; 60]), Delivery::Taken);
    link.bed.turn();
    let mut record = [0; 68];
    out.read_exact(&mut record).unwrap();
    assert_eq!(record[..8], [0, 0, 0, 60, 0, 0, 0, 0]);
    assert_eq!(record[8..], [7; 60]);
    // What comes back goes on to the mirror and to the other guest.
    inward.write_all(&record).unwrap();
    assert_eq!(link.bed.frames(&link.far, 1), [[7; 60]]);
    let mut record = [0; 64];
    copy.read_exact(&mut record).unwrap();
    assert_eq!((&record[..4], &record[4..]), (&[0, 0, 0, 60][..], &[7; 60][..]));
    drop(mirror);
    assert_eq!(link.near.netdev.cable.filters(), ["r"]);
}

/// Words of QEMU 10.0.2.
#[test]
fn places_and_refusals() {
    let link = link();
    let dump = |id, props: &str| link.filter(id, "filter-dump", &format!("file=/dev/null,{props}"));
    let _filters = [
        dump("a", "netdev=n").unwrap(),
        dump("b", "netdev=n,position=head").unwrap(),
        dump("c", "netdev=n,position=id=a,insert=before").unwrap(),
        dump("d", "netdev=n,position=id=b").unwrap(),
    ];
    assert_eq!(link.near.netdev.cable.filters(), ["b", "d", "c", "a"]);
    let null = ChardevSpec::new("c", BackendSpec::Null);
    link.bed.context.chardevs.create(&null).unwrap();
    for (type_name, props, refusal) in [
        (
            "filter-dump",
            "netdev=x,file=/dev/null",
            "Parameter 'netdev' expects a network backend id",
        ),
        (
            "filter-dump",
            "netdev=n,file=/nonexistent/x",
            "net dump: can't open /nonexistent/x: No such file or directory",
        ),
        (
            "filter-dump",
            "netdev=n,file=/dev/null,maxlen=0",
            "Property 'filter-dump.maxlen' doesn't take value '0'",
        ),
        ("filter-dump", "netdev=n,file=/dev/null,position=id=x", "filter 'x' not found"),
        (
            "filter-dump",
            "netdev=n,file=/dev/null,position=x",
            "Parameter 'position' expects 'head', 'tail' or 'id=<id>'",
        ),
        (
            "filter-dump",
            "netdev=n,file=/dev/null,status=x",
            "Invalid value for netfilter status, should be 'on' or 'off'",
        ),
        (
            "filter-buffer",
            "netdev=n,interval=0",
            "Property 'filter-buffer.interval' requires a positive value",
        ),
        ("filter-mirror", "netdev=n,outdev=x", "Device 'x' not found"),
        (
            "filter-redirector",
            "netdev=n",
            "filter redirector needs 'indev' or 'outdev' at least one property set",
        ),
        (
            "filter-redirector",
            "netdev=n,indev=c,outdev=c",
            "'indev' and 'outdev' could not be same for filter redirector",
        ),
        ("filter-redirector", "netdev=n,indev=x", "IN Device 'x' not found"),
        ("filter-redirector", "netdev=n,outdev=x", "OUT Device 'x' not found"),
    ] {
        let error = link.filter("f", type_name, props).err().unwrap();
        assert_eq!(error.to_string(), refusal);
    }
}
