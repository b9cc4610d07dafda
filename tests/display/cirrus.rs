//! The CL-GD5446: its modes, its blitter, its pointer.

use crate::boot_sector::BootSector;
use crate::modes::{mode, show_on, text, vesa};
use anyhow::Result;

const COLOR_TEXT: u16 = 0xb800;
const GRAPHICS: u16 = 0xa000;
const SEQUENCER: u16 = 0x3c4;
const CONTROLLER: u16 = 0x3ce;
const CRTC: u16 = 0x3d4;

fn show(name: &str, sector: BootSector) -> Result<()> {
    show_on("cirrus", &format!("cirrus-{name}"), sector)
}

/// 640x480 in 256 colours, half of it filled.
fn canvas() -> BootSector {
    vesa(0x101).fill(GRAPHICS, 32768, 7)
}

/// Registers of the blitter in the order of their numbers.
struct Blit {
    width: u16,
    height: u16,
    to: u32,
    from: u32,
    mode: u8,
    operation: u8,
    extensions: u8,
    left: u8,
}

const COPY: Blit = Blit {
    width: 200,
    height: 60,
    to: 640 * 240 + 100,
    from: 640 * 10 + 33,
    mode: 0,
    operation: 0x0d,
    extensions: 0,
    left: 0,
};

impl Blit {
    /// Lets the blitter do it.
    fn on(&self, sector: BootSector) -> BootSector {
        let [width, height] = [self.width - 1, self.height - 1].map(u16::to_le_bytes);
        let [pitch, _] = [640_u16.to_le_bytes(); 2];
        let ([a, b, c, _], [d, e, f, _]) = (self.to.to_le_bytes(), self.from.to_le_bytes());
        sector.registers(
            CONTROLLER,
            &[
                (0x20, width[0]),
                (0x21, width[1]),
                (0x22, height[0]),
                (0x23, height[1]),
                (0x24, pitch[0]),
                (0x25, pitch[1]),
                (0x26, pitch[0]),
                (0x27, pitch[1]),
                (0x28, a),
                (0x29, b),
                (0x2a, c),
                (0x2c, d),
                (0x2d, e),
                (0x2e, f),
                (0x2f, self.left),
                (0x30, self.mode),
                (0x32, self.operation),
                (0x33, self.extensions),
                (0x31, 0x02),
            ],
        )
    }
}

#[test]
fn modes() -> Result<()> {
    show("text-80", text(3).fill(COLOR_TEXT, 2000, 7))?;
    show("cga", mode(4).fill(COLOR_TEXT, 8192, 7))?;
    show("planar", mode(0x12).fill_planes(GRAPHICS, 19200))?;
    show("chained", mode(0x13).fill(GRAPHICS, 32000, 7))?;
    // 8, 15, 16 and 24 bits.
    for number in [0x101, 0x110, 0x111, 0x112, 0x115] {
        show(&format!("vesa-{number:x}"), vesa(number).fill(GRAPHICS, 32768, 7))?;
    }
    Ok(())
}

#[test]
fn memory_has_banks() -> Result<()> {
    // The BIOS has banks counted in units of 16 KiB: this one is in the middle of the screen.
    let second = vesa(0x101).register(CONTROLLER, 9, 8).fill(GRAPHICS, 32768, 3);
    show("bank", second)?;
    let both = vesa(0x101).registers(CONTROLLER, &[(0x0b, 0x21), (9, 2), (10, 1)]);
    show("two-banks", both.fill(GRAPHICS, 32768, 5))?;
    // Bits become pixels of two colours, and of one.
    let expanded = [(0x0b, 0x26), (5, 0x45), (0, 0x2a), (1, 0x5c)];
    show("write-mode-5", vesa(0x101).registers(CONTROLLER, &expanded).fill(GRAPHICS, 4096, 9))?;
    let expanded = [(0x0b, 0x26), (5, 0x44), (1, 0x33)];
    show("write-mode-4", canvas().registers(CONTROLLER, &expanded).fill(GRAPHICS, 2048, 9))?;
    let scrolled = canvas().registers(CRTC, &[(0x0d, 0x40), (0x0c, 0x10), (0x1b, 0x22)]);
    show("scrolled", scrolled)
}

#[test]
fn the_blitter_copies() -> Result<()> {
    show("copy", COPY.on(canvas()))?;
    // Two operations are exchanged in QEMU: see docs/display.md.
    let all = [0x00, 0x05, 0x09, 0x0b, 0x0e, 0x50, 0x59, 0x6d, 0x95, 0xad, 0xd0, 0xd6];
    for operation in all {
        let over = Blit { to: 640 * 40 + 77, operation, ..COPY };
        show(&format!("operation-{operation:x}"), over.on(canvas()))?;
    }
    let smeared = Blit { to: 640 * 12 + 40, ..COPY };
    show("forwards", smeared.on(canvas()))?;
    let backwards = Blit { to: 640 * 90 + 300, from: 640 * 88 + 299, mode: 1, ..COPY };
    show("backwards", backwards.on(canvas()))
}

#[test]
fn the_blitter_fills() -> Result<()> {
    let colors = |sector: BootSector| {
        sector.registers(CONTROLLER, &[(0, 0x21), (1, 0x4c), (0x34, 0x25), (0x35, 0x25)])
    };
    for (name, blit) in [
        ("solid", Blit { mode: 0xc0, extensions: 4, ..COPY }),
        ("solid-xor", Blit { mode: 0xc0, extensions: 4, operation: 0x59, to: 640 * 5, ..COPY }),
        ("pattern", Blit { mode: 0x40, from: 64 * 9, ..COPY }),
        ("pattern-left", Blit { mode: 0x40, from: 64 * 9, left: 3, ..COPY }),
        ("bits-pattern", Blit { mode: 0xc0, from: 64 * 9, ..COPY }),
        ("bits-pattern-clear", Blit { mode: 0xc8, from: 64 * 9, to: 640 * 4, ..COPY }),
        ("bits", Blit { mode: 0x80, ..COPY }),
        ("bits-left", Blit { mode: 0x80, left: 5, ..COPY }),
        ("bits-clear", Blit { mode: 0x88, to: 640 * 40 + 11, ..COPY }),
        ("bits-clear-inverted", Blit { mode: 0x88, extensions: 2, to: 640 * 40 + 11, ..COPY }),
        ("keyed", Blit { mode: 0x08, to: 640 * 40 + 7, ..COPY }),
        ("keyed-xor", Blit { mode: 0x08, to: 640 * 40 + 7, operation: 0x59, ..COPY }),
        ("keyed-pattern", Blit { mode: 0x48, from: 64 * 9, to: 640 * 40 + 7, ..COPY }),
        ("wide-pixels", Blit { mode: 0x90, width: 200, ..COPY }),
        ("wide-pattern", Blit { mode: 0x50, width: 200, from: 128 * 9, ..COPY }),
        ("three-bytes", Blit { mode: 0xa0, width: 201, ..COPY }),
        ("three-bytes-pattern", Blit { mode: 0x60, width: 201, from: 256 * 9, ..COPY }),
        ("three-bytes-left", Blit { mode: 0xa8, width: 201, left: 6, ..COPY }),
        ("four-bytes", Blit { mode: 0xb0, width: 200, ..COPY }),
    ] {
        show(name, blit.on(colors(canvas())))?;
    }
    Ok(())
}

#[test]
fn the_processor_sends_to_the_blitter() -> Result<()> {
    let sent = Blit { mode: 0x04, width: 201, ..COPY }.on(canvas());
    show("sent", sent.fill(GRAPHICS, 51 * 60 * 2, 11))?;
    let colors = canvas().registers(CONTROLLER, &[(0, 0x21), (1, 0x4c)]);
    let bits = Blit { mode: 0x84, width: 201, ..COPY }.on(colors);
    show("sent-bits", bits.fill(GRAPHICS, 26 * 60 / 2, 11))?;
    let pattern = Blit { mode: 0x44, ..COPY }.on(canvas());
    show("sent-pattern", pattern.fill(GRAPHICS, 32, 11))
}

#[test]
fn the_pointer_is_over_the_picture() -> Result<()> {
    // Patterns are in the last 16 KiB, its colours the first and the last of the DAC's own.
    let pattern = || {
        canvas()
            .registers(CONTROLLER, &[(0x0b, 0x20), (9, 0xff)])
            .fill(GRAPHICS, 1024, 13)
            .register(CONTROLLER, 9, 0)
            .register(SEQUENCER, 0x12, 2)
            .color(0, [63, 10, 0])
            .color(15, [0, 40, 63])
    };
    let small = [(0x50, 9), (0x11, 12), (0x13, 3), (0x12, 1)];
    show("pointer", pattern().registers(SEQUENCER, &small))?;
    let large = [(0x10, 79), (0x31, 59), (0x13, 4), (0x12, 5)];
    show("large-pointer", pattern().registers(SEQUENCER, &large))
}
