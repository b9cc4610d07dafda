//! What a kernel says on the serial port: the lines of the Test Anything Protocol.

use crate::cpu::{inb, outb};
use core::fmt::{self, Write};

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while inb(0x3fd) & 0x20 == 0 {}
            outb(0x3f8, byte);
        }
        Ok(())
    }
}

static mut COUNT: u32 = 0;
static mut FAILED: u32 = 0;

pub fn print(text: fmt::Arguments<'_>) {
    let _ = Serial.write_fmt(text);
}

#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::tap::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// One test: its name, whether it passed, and what to say if not.
pub fn report(name: fmt::Arguments<'_>, passed: bool, why: fmt::Arguments<'_>) {
    unsafe {
        COUNT += 1;
        let count = COUNT;
        if passed {
            say!("ok {count} - {name}");
        } else {
            FAILED += 1;
            say!("not ok {count} - {name} # {why}");
        }
    }
}

/// A condition that must hold.
#[macro_export]
macro_rules! check {
    ($passed:expr, $($name:tt)*) => {
        $crate::tap::report(format_args!($($name)*), $passed, format_args!("{}", stringify!($passed)))
    };
}

/// Two values that must be equal.
#[macro_export]
macro_rules! check_eq {
    ($got:expr, $want:expr, $($name:tt)*) => {{
        let (got, want) = ($got, $want);
        $crate::tap::report(
            format_args!($($name)*), got == want, format_args!("{got:x?}, not {want:x?}"))
    }};
}

/// Says that something cannot be tested on this processor.
pub fn skip(what: &str) {
    say!("# skip {what}");
}

/// Says how many tests there were, and ends the machine.
pub fn finish() -> ! {
    unsafe {
        let (count, failed) = (COUNT, FAILED);
        say!("1..{count}");
        if failed != 0 {
            say!("# {failed} failed");
        }
        exit(u32::from(failed != 0));
    }
}

/// Ends the machine through isa-debug-exit.
pub fn exit(code: u32) -> ! {
    crate::cpu::outl(0xf4, code);
    loop {
        unsafe { core::arch::asm!("cli", "hlt") };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("Bail out! {info}");
    exit(2)
}
