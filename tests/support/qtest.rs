//! A client of the qtest protocol, by which a machine is driven without a CPU.
//!
//! A request is one line; its answer is `OK ...` or a line that starts with
//! something else. `IRQ raise N` and `IRQ lower N` come in between, once a
//! device's lines are intercepted.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A connection to a machine under test.
pub struct QTest {
    reader: BufReader<UnixStream>,
    levels: BTreeMap<u32, bool>,
    edges: Vec<(u32, bool)>,
}

impl QTest {
    /// Talks qtest over `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream), levels: BTreeMap::new(), edges: Vec::new() }
    }

    /// Sends one line and returns what follows `OK`.
    pub fn command(&mut self, line: &str) -> Result<String> {
        self.reader
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("cannot send {line:?}"))?;
        loop {
            let mut answer = String::new();
            if self.reader.read_line(&mut answer).context("no answer from qtest")? == 0 {
                bail!("the qtest connection was closed after {line:?}");
            }
            let answer = answer.trim_end();
            if let Some(irq) = answer.strip_prefix("IRQ ") {
                self.note_irq(irq)?;
            } else if let Some(rest) = answer.strip_prefix("OK") {
                return Ok(rest.trim_start().to_owned());
            } else {
                bail!("{line:?} was answered by {answer:?}");
            }
        }
    }

    fn note_irq(&mut self, text: &str) -> Result<()> {
        let (raised, number) = match text.split_once(' ') {
            Some(("raise", number)) => (true, number),
            Some(("lower", number)) => (false, number),
            _ => bail!("not an interrupt: {text:?}"),
        };
        let number = number.parse().with_context(|| format!("not an interrupt: {text:?}"))?;
        self.levels.insert(number, raised);
        self.edges.push((number, raised));
        Ok(())
    }

    fn value(&mut self, line: &str) -> Result<u64> {
        let text = self.command(line)?;
        parse_number(&text).with_context(|| format!("{line:?} was answered by {text:?}"))
    }

    /// Reads a byte from an I/O port.
    pub fn inb(&mut self, port: u16) -> Result<u8> {
        Ok(self.value(&format!("inb {port:#x}"))? as u8)
    }

    /// Reads two bytes from an I/O port.
    pub fn inw(&mut self, port: u16) -> Result<u16> {
        Ok(self.value(&format!("inw {port:#x}"))? as u16)
    }

    /// Reads four bytes from an I/O port.
    pub fn inl(&mut self, port: u16) -> Result<u32> {
        Ok(self.value(&format!("inl {port:#x}"))? as u32)
    }

    /// Writes a byte to an I/O port.
    pub fn outb(&mut self, port: u16, value: u8) -> Result<()> {
        self.command(&format!("outb {port:#x} {value:#x}")).map(drop)
    }

    /// Writes two bytes to an I/O port.
    pub fn outw(&mut self, port: u16, value: u16) -> Result<()> {
        self.command(&format!("outw {port:#x} {value:#x}")).map(drop)
    }

    /// Writes four bytes to an I/O port.
    pub fn outl(&mut self, port: u16, value: u32) -> Result<()> {
        self.command(&format!("outl {port:#x} {value:#x}")).map(drop)
    }

    /// Reads one byte of memory.
    pub fn readb(&mut self, address: u64) -> Result<u8> {
        Ok(self.value(&format!("readb {address:#x}"))? as u8)
    }

    /// Reads two bytes of memory.
    pub fn readw(&mut self, address: u64) -> Result<u16> {
        Ok(self.value(&format!("readw {address:#x}"))? as u16)
    }

    /// Reads four bytes of memory.
    pub fn readl(&mut self, address: u64) -> Result<u32> {
        Ok(self.value(&format!("readl {address:#x}"))? as u32)
    }

    /// Reads eight bytes of memory.
    pub fn readq(&mut self, address: u64) -> Result<u64> {
        self.value(&format!("readq {address:#x}"))
    }

    /// Writes one byte of memory.
    pub fn writeb(&mut self, address: u64, value: u8) -> Result<()> {
        self.store("writeb", address, value.into())
    }

    /// Writes two bytes of memory.
    pub fn writew(&mut self, address: u64, value: u16) -> Result<()> {
        self.store("writew", address, value.into())
    }

    /// Writes four bytes of memory.
    pub fn writel(&mut self, address: u64, value: u32) -> Result<()> {
        self.store("writel", address, value.into())
    }

    /// Writes eight bytes of memory.
    pub fn writeq(&mut self, address: u64, value: u64) -> Result<()> {
        self.store("writeq", address, value)
    }

    fn store(&mut self, verb: &str, address: u64, value: u64) -> Result<()> {
        self.command(&format!("{verb} {address:#x} {value:#x}")).map(drop)
    }

    /// Reads a run of memory.
    pub fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let text = self.command(&format!("read {address:#x} {length:#x}"))?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        let bytes: Option<Vec<u8>> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        bytes.filter(|bytes| bytes.len() == length).context("not the bytes asked for")
    }

    /// Writes a run of memory.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.command(&format!("write {address:#x} {:#x} 0x{digits}", bytes.len())).map(drop)
    }

    /// Reads a run of memory, carried as base64.
    pub fn b64read(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let text = self.command(&format!("b64read {address:#x} {length:#x}"))?;
        BASE64.decode(text).context("not base64")
    }

    /// Writes a run of memory, carried as base64.
    pub fn b64write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let text = BASE64.encode(bytes);
        self.command(&format!("b64write {address:#x} {:#x} {text}", bytes.len())).map(drop)
    }

    /// Fills a run of memory with one byte.
    pub fn memset(&mut self, address: u64, length: usize, byte: u8) -> Result<()> {
        self.command(&format!("memset {address:#x} {length:#x} {byte:#x}")).map(drop)
    }

    /// Advances the virtual clock by so many nanoseconds; returns the time.
    pub fn clock_step(&mut self, nanoseconds: u64) -> Result<u64> {
        self.value(&format!("clock_step {nanoseconds}"))
    }

    /// Advances the virtual clock to the next timer; returns the time.
    pub fn clock_step_to_timer(&mut self) -> Result<u64> {
        self.value("clock_step")
    }

    /// Advances the virtual clock to a time; returns the time.
    pub fn clock_set(&mut self, nanoseconds: u64) -> Result<u64> {
        self.value(&format!("clock_set {nanoseconds}"))
    }

    /// Reports the input lines of the device at a QOM path from now on.
    pub fn irq_intercept_in(&mut self, path: &str) -> Result<()> {
        self.command(&format!("irq_intercept_in {path}")).map(drop)
    }

    /// Reports the output lines of the device at a QOM path from now on.
    pub fn irq_intercept_out(&mut self, path: &str) -> Result<()> {
        self.command(&format!("irq_intercept_out {path}")).map(drop)
    }

    /// Drives an input line; `unnamed-gpio-in` is the name of unnamed ones.
    pub fn set_irq_in(
        &mut self,
        path: &str,
        name: &str,
        number: u32,
        level: impl Display,
    ) -> Result<()> {
        self.command(&format!("set_irq_in {path} {name} {number} {level}")).map(drop)
    }

    /// The machine's byte order: `little` or `big`.
    pub fn endianness(&mut self) -> Result<String> {
        self.command("endianness")
    }

    /// The level of an intercepted line, as last reported. Lines are reported
    /// in between answers, so send a command after what should move one.
    pub fn irq_level(&self, number: u32) -> bool {
        self.levels.get(&number).copied().unwrap_or(false)
    }

    /// The edges reported since the last call: line and new level.
    pub fn take_edges(&mut self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.edges)
    }
}

fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
