use std::io::IoSlice;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::super::tests::{Bed, Client, read_exactly, spec};
use super::super::{CharEvent, ChardevSpec};
use super::*;

const LOOPBACK: &str = "host=127.0.0.1,port=0,server=on,wait=off";

fn port_of(filename: &str) -> u16 {
    let digits = filename.strip_suffix(",server=on").unwrap().rsplit(':').next().unwrap();
    digits.parse().unwrap()
}

#[test]
fn a_unix_server_serves_one_peer_after_the_other() {
    let mut bed = Bed::new();
    let path = bed.path("s");
    let device = bed.make(&format!("socket,id=s,path={path},server=on,wait=off"));
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    assert_eq!(device.filename(), format!("disconnected:unix:{path},server=on"));
    assert_eq!(port.write(b"dropped"), 7);

    let mut first = UnixStream::connect(&path).unwrap();
    let mut second = UnixStream::connect(&path).unwrap();
    bed.until(|| port.is_connected());
    assert_eq!(device.filename(), format!("unix:{path},server=on"));
    first.write_all(b"1").unwrap();
    second.write_all(b"2").unwrap();
    bed.until(|| client.has(b"1"));
    assert_eq!(port.write(b"one"), 3);
    assert_eq!(read_exactly(&mut first, 3), b"one");
    drop(first);
    bed.until(|| client.has(b"12"));
    assert_eq!(port.write(b"two"), 3);
    assert_eq!(read_exactly(&mut second, 3), b"two");
    let opened_twice = [CharEvent::Opened, CharEvent::Closed, CharEvent::Opened];
    assert_eq!(*client.events.lock(), opened_twice);

    drop((port, device));
    bed.chardevs.remove("s").unwrap();
    assert!(!Path::new(&path).exists());
}

#[test]
fn abstract_names_may_be_padded() {
    let bed = Bed::new();
    let name = format!("rhea-test-{}", std::process::id());
    let options = format!("path={name},abstract=on,server=on,wait=off");
    let tight = bed.make(&format!("socket,id=t,{options}"));
    let padded = bed.make(&format!("socket,id=p,{options},tight=off"));
    assert_eq!(
        tight.filename(),
        format!("disconnected:unix:{name},abstract=on,tight=on,server=on")
    );
    assert_eq!(padded.filename(), format!("disconnected:unix:{name},abstract=on,server=on"));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok());
    let client = spec(&format!("socket,id=c,path={name},abstract=on,tight=off"));
    assert!(bed.chardevs.create(&client).is_ok());
}

#[test]
fn a_tcp_server_shows_both_ends() {
    let mut bed = Bed::new();
    let device = bed.make(&format!("socket,id=s,{LOOPBACK},nodelay=on"));
    let name = device.filename();
    assert!(name.starts_with("disconnected:tcp:127.0.0.1:"), "{name}");
    let number = port_of(&name);
    let peer = TcpStream::connect(("127.0.0.1", number)).unwrap();
    bed.until(|| device.filename() != name);
    let local = peer.local_addr().unwrap();
    assert_eq!(device.filename(), format!("tcp:127.0.0.1:{number},server=on <-> {local}"));
}

#[test]
fn a_server_takes_the_next_free_port() {
    let bed = Bed::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let options = format!("socket,id=s,host=127.0.0.1,port={number},server=on,wait=off");
    assert_eq!(bed.error(&options), "Failed to find an available port: Address already in use");
    let device = bed.make(&format!("{options},to={}", number.saturating_add(50)));
    assert!(port_of(&device.filename()) > number);
}

#[test]
fn waiting_for_a_connection_ends_with_one() {
    let bed = Bed::new();
    let path = bed.path("s");
    let connect_path = path.clone();
    let peer = std::thread::spawn(move || {
        loop {
            if let Ok(stream) = UnixStream::connect(&connect_path) {
                return stream;
            }
            std::thread::yield_now();
        }
    });
    let device = bed.make(&format!("socket,id=s,path={path},server=on"));
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    assert!(port.is_connected() && client.saw(CharEvent::Opened));
    assert_eq!(port.write(b"hi"), 2);
    assert_eq!(read_exactly(&mut peer.join().unwrap(), 2), b"hi");
}

#[test]
fn telnet_negotiates_and_understands_commands() {
    let mut bed = Bed::new();
    let device = bed.make(&format!("socket,id=s,{LOOPBACK},telnet=on"));
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    let name = device.filename();
    assert!(name.starts_with("disconnected:telnet:127.0.0.1:"));
    let mut peer = TcpStream::connect(("127.0.0.1", port_of(&name))).unwrap();
    bed.until(|| port.is_connected());
    let greeting = b"\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00";
    assert_eq!(read_exactly(&mut peer, 12), greeting);

    peer.write_all(b"\xff\xfd\x01a\xff\xf3\xff\xfb\x00b\xff\xffc").unwrap();
    bed.until(|| client.has(b"ab\xffc"));
    assert!(client.saw(CharEvent::Break));
    assert_eq!(port.write(b"x\xffy\xff"), 4);
    assert_eq!(read_exactly(&mut peer, 6), b"x\xff\xffy\xff\xff");
}

#[test]
fn a_client_that_reconnects_finds_the_server_when_it_comes() {
    let mut bed = Bed::new();
    let path = bed.path("late");
    let device = bed.make(&format!("socket,id=c,path={path},reconnect-ms=1"));
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();
    assert_eq!(device.filename(), format!("disconnected:unix:{path}"));
    bed.settle();
    assert!(!port.is_connected());

    let listener = UnixListener::bind(&path).unwrap();
    bed.until(|| port.is_connected());
    drop(listener.accept().unwrap());
    bed.until(|| client.saw(CharEvent::Closed));
    bed.until(|| port.is_connected());
    let mut peer = listener.accept().unwrap().0;
    peer.write_all(b"again").unwrap();
    bed.until(|| client.has(b"again"));
}

#[test]
fn a_client_without_reconnect_fails_at_once() {
    let bed = Bed::new();
    let path = bed.path("nobody");
    assert_eq!(
        bed.error(&format!("socket,id=c,path={path}")),
        format!("Failed to connect to '{path}': No such file or directory")
    );
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(
        bed.error(&format!("socket,id=c,host=127.0.0.1,port={free}")),
        format!("Failed to connect to '127.0.0.1:{free}': Connection refused")
    );
}

#[test]
fn addresses_that_make_no_sense_are_named() {
    let bed = Bed::new();
    let failed = "address resolution failed for";
    let server = "server=on,wait=off";
    assert_eq!(
        bed.error(&format!("socket,id=s,host=127.0.0.1,port=xx,{server}")),
        format!("{failed} 127.0.0.1:xx: Servname not supported for ai_socktype")
    );
    assert_eq!(
        bed.error(&format!("socket,id=s,host=127.0.0.1,port=1,ipv4=off,{server}")),
        format!("{failed} 127.0.0.1:1: Address family for hostname not supported")
    );
    assert_eq!(
        bed.error(&format!("socket,id=s,path=/nodir/x,{server}")),
        "Failed to bind socket to /nodir/x: No such file or directory"
    );
    let long = "x".repeat(200);
    assert_eq!(
        bed.error(&format!("socket,id=s,path={long},{server}")),
        format!("UNIX socket path '{long}' is too long\nPath must be less than 108 bytes")
    );
    assert_eq!(bed.error("socket,id=s,fd=abc"), "Unable to parse FD number abc");
    assert_eq!(bed.error("socket,id=s,fd=9999"), "File descriptor '9999' is not a socket");
    let file = std::fs::File::open("/dev/null").unwrap();
    let number = file.as_raw_fd();
    assert_eq!(
        bed.error(&format!("socket,id=s,fd={number}")),
        format!("File descriptor '{number}' is not a socket")
    );
}

#[test]
fn a_listening_descriptor_may_be_passed() {
    let mut bed = Bed::new();
    let path = bed.path("s");
    let listener = UnixListener::bind(&path).unwrap();
    let number = listener.as_raw_fd();
    let device = bed.make(&format!("socket,id=s,fd={number},server=on,wait=off"));
    drop(listener);
    assert_eq!(device.filename(), format!("disconnected:unix:{path},server=on"));
    let _peer = UnixStream::connect(&path).unwrap();
    bed.until(|| device.filename() == format!("unix:{path},server=on"));
}

#[test]
fn a_descriptor_arrives_with_the_bytes_it_was_sent_with() {
    let mut bed = Bed::new();
    let (ours, peer) = UnixStream::pair().unwrap();
    let spec = ChardevSpec::new(
        "s",
        super::super::BackendSpec::Socket(SocketSpec {
            address: SocketAddress::Fd(ours.as_raw_fd().to_string()),
            server: false,
            wait: false,
            telnet: false,
            nodelay: false,
            reconnect: std::time::Duration::ZERO,
        }),
    );
    let device = bed.chardevs.create(&spec).unwrap();
    drop(ours);
    let client = Client::eager();
    let port = device.attach(client.clone()).unwrap();

    let (mut kept, passed) = UnixStream::pair().unwrap();
    let numbers = [passed.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&numbers)];
    let text = [IoSlice::new(b"getfd")];
    sendmsg::<()>(peer.as_raw_fd(), &text, &control, MsgFlags::empty(), None).unwrap();
    drop(passed);
    bed.until(|| client.has(b"getfd"));
    let mut received = UnixStream::from(port.take_fd().unwrap());
    assert!(port.take_fd().is_none());
    kept.write_all(b"same").unwrap();
    assert_eq!(read_exactly(&mut received, 4), b"same");
}
