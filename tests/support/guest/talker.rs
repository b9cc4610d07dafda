//! A guest's program that talks to a server in ways that shells cannot.
//!
//! - `talker connect ADDRESS COUNT`: connects and waits for the server to close, again and again.
//! - `talker flows ADDRESS COUNT SECONDS`: opens connections to a server that echoes, and talks through
//!   all of them for a while.

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// As long the echo of a message may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(address: &str, count: usize) -> Result<()> {
    for _ in 0..count {
        TcpStream::connect(address)?.read_to_end(&mut Vec::new())?;
    }
    println!("rhea-talker: {count} connections");
    Ok(())
}

fn message(flow: usize, round: u64) -> [u8; 64] {
    let mut message = [flow as u8; 64];
    message[..8].copy_from_slice(&round.to_le_bytes());
    message[8..16].copy_from_slice(&flow.to_le_bytes());
    message
}

fn flows(address: &str, count: usize, seconds: u64) -> Result<()> {
    let mut flows = Vec::new();
    for _ in 0..count {
        let flow = TcpStream::connect(address)?;
        flow.set_read_timeout(Some(PATIENCE))?;
        flows.push(flow);
    }
    println!("rhea-talker: {count} flows");
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        for (number, flow) in flows.iter_mut().enumerate() {
            flow.write_all(&message(number, rounds))?;
        }
        for (number, flow) in flows.iter_mut().enumerate() {
            let mut echo = [0; 64];
            flow.read_exact(&mut echo)?;
            assert_eq!(echo, message(number, rounds), "flow {number}");
        }
        rounds += 1;
    }
    println!("rhea-talker: {rounds} rounds, none lost");
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("a number");
    match args[..] {
        ["connect", address, count] => connect(address, number(count)),
        ["flows", address, count, seconds] => {
            flows(address, number(count), number(seconds) as u64)
        }
        _ => panic!("connect ADDRESS COUNT, or flows ADDRESS COUNT SECONDS"),
    }
}
