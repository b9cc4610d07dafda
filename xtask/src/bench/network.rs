//! Rows about the network: TCP between a guest and a server on the host's loopback interface, through
//! the user-mode network or through passt.

use super::machine::Contender;
use super::results::{Measured, Metric, Unit};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testbed::{host, modules, programs};

/// Round trips that are taken, and those before, which do not count.
const ROUND_TRIPS: usize = 2000;
const WARM_UP: usize = 200;
/// Connections that are made.
const CONNECTIONS: usize = 500;
/// Bytes that go each way; `guest/network-bench` sends as many.
const LEN: usize = 64 << 20;
const PIECE: usize = 1 << 18;

/// Through the emulator's own user-mode network, by a card.
pub fn by_user(who: &Contender, card: &str) -> Result<Measured> {
    measure(who, card, card, "user")
}

/// Through passt, which is a process of its own.
pub fn by_passt(who: &Contender) -> Result<Measured> {
    let scratch = Passt::scratch()?;
    let socket = scratch.path().join("socket");
    let _passt = Passt::start(&socket)?;
    let netdev = format!("stream,addr.type=unix,addr.path={}", socket.display());
    measure(who, "virtio-net-pci", "passt", &netdev)
}

/// Passt, which ends with this at the latest.
pub struct Passt(Child);

impl Passt {
    /// A directory for its socket.
    pub fn scratch() -> Result<TempDir> {
        let scratch = tempfile::tempdir()?;
        // Started by root, passt becomes nobody, who is to make its socket there.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
        Ok(scratch)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn start(socket: &Path) -> Result<Self> {
        let mut command = host::program("passt", "passt").map_err(|reason| anyhow!(reason))?;
        command.args(["--foreground", "--quiet", "--one-off", "--ipv4-only"]);
        command.args(["--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2"]);
        let child = command.arg("--socket").arg(socket).stderr(Stdio::null()).spawn()?;
        let passt = Self(child);
        let begun = Instant::now();
        while !socket.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "passt does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(passt)
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Echo latency, time for a connection, and cost of a KiB each way.
fn measure(who: &Contender, card: &str, name: &str, netdev: &str) -> Result<Measured> {
    let guest = modules::network_with(&programs::talker()?)?;
    let (echo, latency) = serve(echo)?;
    let (from, download) = serve(download)?;
    let (to, upload) = serve(upload)?;
    let (end, connections) = accept()?;
    let ports = format!("rhea.echo={echo} rhea.from={from} rhea.to={to}");
    let scripts = format!(
        "network,network-bench,network-talker,poweroff {ports} \
         rhea.talk=connect,10.0.2.2:{end},{CONNECTIONS} rhea.bench=1"
    );
    let ended = who
        .launch()
        .args(["-nographic", "-no-reboot", "-vga", "none", "-m", "512"])
        .args(["-netdev", &format!("{netdev},id=n"), "-device", &format!("{card},netdev=n")])
        .kernel(&guest.kernel, &guest.initrd, &scripts)
        .run()?;
    let result = |thread: JoinHandle<io::Result<f64>>| {
        thread.join().ok().context("a server")?.with_context(|| ended.stdout.clone())
    };
    let metric = |which: &str, what: &str| {
        let what = format!("{name}: {what}");
        Metric::new(&format!("network/{name}/{which}"), &what, Unit::Nanoseconds)
    };
    Ok(vec![
        (metric("echo", "a byte to the guest and back, TCP"), result(latency)?),
        (metric("connect", "a connection made and closed"), result(connections)?),
        (metric("download", "a KiB to the guest, TCP"), result(download)?),
        (metric("upload", "a KiB from the guest, TCP"), result(upload)?),
    ])
}

/// Serves one connection; returns its port.
fn serve(serve: fn(TcpStream) -> io::Result<f64>) -> Result<(u16, JoinHandle<io::Result<f64>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    Ok((port, thread::spawn(move || serve(listener.accept()?.0))))
}

/// Takes connections and closes them; the median time from one to the next.
fn accept() -> Result<(u16, JoinHandle<io::Result<f64>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let times = move || {
        let mut times = Vec::with_capacity(CONNECTIONS);
        let mut begun = Instant::now();
        for _ in 0..CONNECTIONS {
            drop(listener.accept()?);
            times.push(begun.elapsed());
            begun = Instant::now();
        }
        times.sort();
        Ok(nanoseconds(times[CONNECTIONS / 2]))
    };
    Ok((port, thread::spawn(times)))
}

/// Median time of a round trip.
fn echo(mut stream: TcpStream) -> io::Result<f64> {
    stream.set_nodelay(true)?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..WARM_UP + ROUND_TRIPS {
        let begun = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        times.push(begun.elapsed());
    }
    let mut times = times.split_off(WARM_UP);
    times.sort();
    Ok(nanoseconds(times[ROUND_TRIPS / 2]))
}

/// Time for a KiB, until the guest has taken all.
fn download(mut stream: TcpStream) -> io::Result<f64> {
    let piece = vec![0x5a; PIECE];
    let begun = Instant::now();
    for _ in 0..LEN / PIECE {
        stream.write_all(&piece)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The guest closes when it has seen the end.
    let _ = stream.read(&mut [0])?;
    Ok(per_kib(begun.elapsed(), LEN))
}

fn upload(mut stream: TcpStream) -> io::Result<f64> {
    let mut piece = vec![0; PIECE];
    let mut len = stream.read(&mut piece)?;
    let begun = Instant::now();
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(per_kib(begun.elapsed(), len)),
            more => len += more,
        }
    }
}

pub fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn per_kib(time: Duration, len: usize) -> f64 {
    nanoseconds(time) / (len as f64 / 1024.0)
}
