//! Rows about the network: TCP between a guest and a server on the host's loopback interface, through
//! the user-mode network.

use super::machine::Contender;
use super::results::{Measured, Metric, Unit};
use anyhow::{Context, Result};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use testbed::modules;

/// Round trips that are taken, and those before, which do not count.
const ROUND_TRIPS: usize = 2000;
const WARM_UP: usize = 200;
/// Bytes that go each way; `guest/network-bench` sends as many.
const LEN: usize = 64 << 20;
const PIECE: usize = 1 << 18;

/// Echo latency and cost of a KiB each way, through a card.
pub fn measure(who: &Contender, card: &str) -> Result<Measured> {
    let guest = modules::network()?;
    let (echo, latency) = serve(echo)?;
    let (from, download) = serve(download)?;
    let (to, upload) = serve(upload)?;
    let scripts = format!(
        "network,network-bench,poweroff rhea.echo={echo} rhea.from={from} rhea.to={to} rhea.bench=1"
    );
    let ended = who
        .launch()
        .args(["-nographic", "-no-reboot", "-vga", "none", "-m", "512"])
        .args(["-netdev", "user,id=n", "-device", &format!("{card},netdev=n")])
        .kernel(&guest.kernel, &guest.initrd, &scripts)
        .run()?;
    let result = |thread: JoinHandle<io::Result<f64>>| {
        thread.join().ok().context("a server")?.with_context(|| ended.stdout.clone())
    };
    let metric = |name: &str, what: &str| {
        Metric::new(&format!("network/{card}/{name}"), what, Unit::Nanoseconds)
    };
    Ok(vec![
        (metric("echo", "a byte to the guest and back, TCP"), result(latency)?),
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

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn per_kib(time: Duration, len: usize) -> f64 {
    nanoseconds(time) / (len as f64 / 1024.0)
}
