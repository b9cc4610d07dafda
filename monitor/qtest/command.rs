//! The commands of the test protocol.

use base::irq::IrqSink;
use base::memory::AddressSpace;
use base::object::Object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::sync::Arc;

use super::{Server, Side};

/// Most bytes that one command may move.
const MAX_LENGTH: u64 = 256 << 20;

/// An answer; `Err` for one that says why not.
type Answer = Result<String, String>;

fn ok() -> Answer {
    Ok("OK".into())
}

impl Server {
    /// Executes one line and returns its answer.
    pub(super) fn execute(&self, line: &str) -> String {
        self.try_execute(line).unwrap_or_else(|refusal| refusal)
    }

    fn try_execute(&self, line: &str) -> Answer {
        let mut words = Words(line.split(' '));
        let verb = words.next()?;
        let Some(board) = self.target.vm.board() else {
            return Err("FAIL The machine is not there yet".into());
        };
        match verb {
            "inb" | "inw" | "inl" => {
                let size = width(verb);
                let value = board.ports().read_uint(words.port()?, size);
                Ok(format!("OK 0x{value:04x}"))
            }
            "outb" | "outw" | "outl" => {
                let (port, value) = (words.port()?, words.number()?);
                board.ports().write_uint(port, width(verb), value);
                ok()
            }
            "readb" | "readw" | "readl" | "readq" => {
                let value = board.memory().read_uint(words.number()?, width(verb));
                Ok(format!("OK 0x{value:016x}"))
            }
            "writeb" | "writew" | "writel" | "writeq" => {
                let (address, value) = (words.number()?, words.number()?);
                board.memory().write_uint(address, width(verb), value);
                ok()
            }
            "read" => {
                let bytes = words.load(board.memory())?;
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(format!("OK 0x{digits}"))
            }
            "b64read" => Ok(format!("OK {}", BASE64.encode(words.load(board.memory())?))),
            "write" => {
                let (address, length) = (words.number()?, words.length()?);
                let bytes = from_hex(words.next()?, length)?;
                board.memory().write(address, &bytes);
                ok()
            }
            "b64write" => {
                let (address, length) = (words.number()?, words.length()?);
                let mut bytes = BASE64
                    .decode(words.next()?)
                    .map_err(|_| "ERR invalid base64 data".to_owned())?;
                bytes.truncate(length);
                board.memory().write(address, &bytes);
                ok()
            }
            "memset" => {
                let (address, length) = (words.number()?, words.length()?);
                let byte = words.number()? as u8;
                board.memory().write(address, &vec![byte; length]);
                ok()
            }
            "endianness" => Ok("OK little".into()),
            "clock_step" | "clock_set" if self.owns_clock => self.move_clock(verb, &mut words),
            "irq_intercept_in" => self.intercept(&self.device(words.next()?)?, Side::Inputs),
            "irq_intercept_out" => {
                let device = self.device(words.next()?)?;
                // QEMU's devices name some of their outputs; none is named here.
                if words.next().is_ok() {
                    return Err("FAIL No intercepts installed".into());
                }
                self.intercept(&device, Side::Outputs)
            }
            "set_irq_in" => {
                let device = self.device(words.next()?)?;
                let unknown = || "FAIL Unknown input".to_owned();
                let inputs = device.inputs().ok_or_else(unknown)?;
                if words.next()? != "unnamed-gpio-in" {
                    return Err(unknown());
                }
                let (n, level) = (words.number()?, words.number()?);
                inputs.set_irq(u32::try_from(n).map_err(|_| unknown())?, level != 0);
                ok()
            }
            _ => Err(format!("FAIL Unknown command '{verb}'")),
        }
    }

    /// The device at a path, or at the only path that ends so.
    fn device(&self, path: &str) -> Result<Arc<Object>, String> {
        let found = self.target.object(path).map(|(_, object)| object);
        let device = found.ok().filter(|object| object.is_device());
        device.ok_or_else(|| "FAIL Unknown device".to_owned())
    }

    /// Reports a device's interrupts from now on; one side of one device at a time.
    fn intercept(&self, device: &Arc<Object>, side: Side) -> Answer {
        let me = self.this.clone();
        let report = move |n: u32, level| {
            if let Some(server) = me.upgrade() {
                server.irq_driven(n, level);
            }
        };
        let mut intercepted = self.intercepted.lock();
        match &*intercepted {
            Some((known, which)) if Arc::ptr_eq(known, device) && *which == side => return ok(),
            Some(_) => return Err("FAIL IRQ intercept already enabled".into()),
            None => {}
        }
        match side {
            Side::Inputs => {
                let inputs = device.inputs().ok_or("FAIL No intercepts installed")?;
                inputs.watch(report);
            }
            Side::Outputs if device.outputs().is_empty() => {
                return Err("FAIL No intercepts installed".into());
            }
            Side::Outputs => {
                for (n, output) in (0..).zip(device.outputs()) {
                    let report = report.clone();
                    output.watch(move |_, level| report(n, level));
                }
            }
        }
        *intercepted = Some((device.clone(), side));
        ok()
    }

    /// Moves the guest's clock, and answers what time it is.
    fn move_clock(&self, verb: &str, words: &mut Words<'_>) -> Answer {
        let clocks = self.target.vm.clocks();
        let now = clocks.now_virtual();
        let target = match (verb, words.optional_number()?) {
            ("clock_step", Some(step)) => now.saturating_add_unsigned(step),
            ("clock_step", None) => clocks.next_virtual_deadline().unwrap_or(now),
            (_, Some(time)) => i64::try_from(time).unwrap_or(i64::MAX),
            (_, None) => return Err(missing()),
        };
        clocks.step_to(target);
        Ok(format!("OK {}", clocks.now_virtual()))
    }
}

fn missing() -> String {
    "FAIL A word is missing".into()
}

/// The number of bytes that a verb's last letter stands for.
fn width(verb: &str) -> u8 {
    match verb.as_bytes().last() {
        Some(b'b') => 1,
        Some(b'w') => 2,
        Some(b'l') => 4,
        _ => 8,
    }
}

/// The words of a line after those already taken.
struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(missing)
    }

    fn optional_number(&mut self) -> Result<Option<u64>, String> {
        self.0.next().map(parse_number).transpose()
    }

    fn number(&mut self) -> Result<u64, String> {
        parse_number(self.next()?)
    }

    fn port(&mut self) -> Result<u64, String> {
        let port = self.number()?;
        if port > 0xffff { Err("FAIL No such port".into()) } else { Ok(port) }
    }

    fn length(&mut self) -> Result<usize, String> {
        let length = self.number()?;
        if length > MAX_LENGTH {
            return Err("ERR invalid argument size".into());
        }
        Ok(length as usize)
    }

    fn load(&mut self, memory: &AddressSpace) -> Result<Vec<u8>, String> {
        let (address, length) = (self.number()?, self.length()?);
        let mut bytes = vec![0; length];
        memory.read(address, &mut bytes);
        Ok(bytes)
    }
}

/// A number as C writes it: hexadecimal after `0x`, octal after `0`, and negative ones wrap around.
fn parse_number(text: &str) -> Result<u64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let parsed = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    let value = parsed.map_err(|_| format!("FAIL Not a number '{text}'"))?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// Bytes from `0x` and digits, cut or filled with zeros to `length`.
fn from_hex(text: &str, length: usize) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix("0x").ok_or("ERR invalid argument size")?;
    let mut bytes = vec![0; length];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16);
        let low = char::from(pair[1]).to_digit(16);
        let (Some(high), Some(low)) = (high, low) else {
            return Err("ERR not hexadecimal data".into());
        };
        *byte = (high << 4 | low) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_in_c() {
        assert_eq!(parse_number("0x10"), Ok(16));
        assert_eq!(parse_number("010"), Ok(8));
        assert_eq!(parse_number("0"), Ok(0));
        assert_eq!(parse_number("-1"), Ok(u64::MAX));
        for bad in ["", "08", "zz", "0xfffffffffffffffff", "1 "] {
            assert!(parse_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn data_is_cut_or_filled() {
        assert_eq!(from_hex("0x1122", 4), Ok(vec![0x11, 0x22, 0, 0]));
        assert_eq!(from_hex("0x112233", 2), Ok(vec![0x11, 0x22]));
        assert!(from_hex("zz", 2).is_err());
        assert!(from_hex("0xzz", 2).is_err());
    }
}
