//! A serial port: registers and FIFOs, a peer that sends, stalls and takes, and stepped time.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::Arbitrary;
use base::clock::Clocks;
use base::device::Device;
use base::event_loop::EventLoop;
use base::irq::{FnSink, IrqLine};
use base::memory::{AddressSpace, Region};
use hw::char::serial::Serial;
use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Size, Wire};

#[derive(Arbitrary, Debug)]
enum Action {
    Read {
        register: u8,
    },
    Write {
        register: u8,
        value: u8,
    },
    /// Wider than any register.
    ReadWide {
        port: u8,
        size: Size,
    },
    WriteWide {
        port: u8,
        size: Size,
        value: u64,
    },
    /// The guest sends without a look at the line status.
    Send {
        count: u8,
    },
    /// The connection takes no more.
    Stall,
    /// The peer sends.
    Arrive {
        bytes: [u8; 8],
        count: u8,
    },
    /// The peer takes.
    Take {
        count: u16,
    },
    Break,
    Advance {
        nanoseconds: u32,
    },
    Serve,
    Reset,
}

/// Interrupt identification: nothing pending.
const NONE: u8 = 1;

fuzz_target!(|actions: Vec<Action>| {
    let mut main_loop = EventLoop::new().expect("an event loop");
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let (chardev, mut wire) = Wire::pair(&main_loop);
    let level = Arc::new(AtomicBool::new(false));
    let seen = level.clone();
    let sink = FnSink(move |_, level| seen.store(level, Ordering::Relaxed));
    let (serial, region) = Serial::create(IrqLine::new(Arc::new(sink), 4), &clocks);
    let io = Region::container("io", 0x1_0000);
    io.add(&region, 0x3f8, 0);
    let ports = AddressSpace::new("io", io);
    Serial::attach(&serial, &chardev).expect("a free character device");

    for action in &actions {
        match *action {
            Action::Read { register } => drop(ports.read_uint(0x3f8 + u64::from(register % 8), 1)),
            Action::Write { register, value } => {
                ports.write_uint(0x3f8 + u64::from(register % 8), 1, value.into());
            }
            Action::ReadWide { port, size } => {
                ports.read_uint(0x3f0 + u64::from(port % 16), size.of_port());
            }
            Action::WriteWide { port, size, value } => {
                ports.write_uint(0x3f0 + u64::from(port % 16), size.of_port(), value);
            }
            Action::Send { count } => {
                for n in 0..u64::from(count % 32) {
                    ports.write_uint(0x3f8, 1, n);
                }
            }
            Action::Stall => wire.stall(),
            Action::Arrive { bytes, count } => wire.send(&bytes[..usize::from(count % 9)]),
            Action::Take { count } => drop(wire.receive(count.into())),
            Action::Break => chardev.send_break(),
            Action::Advance { nanoseconds } => {
                clocks.step_to(clocks.now_virtual() + i64::from(nanoseconds % 1_000_000_000));
            }
            Action::Serve => main_loop.run_once(&clocks, false).expect("a round"),
            Action::Reset => serial.lock().reset(),
        }
        // The wire says what the identification register says; reading that register may answer an
        // empty transmitter's interrupt, so it is read where the input asks for it only.
        if !level.load(Ordering::Relaxed) {
            let identified = ports.read_uint(0x3fa, 1) as u8 & 0xf;
            assert_eq!(identified, NONE, "an interrupt without its wire");
        }
    }
});
