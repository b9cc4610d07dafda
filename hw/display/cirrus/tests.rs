//! The blitter beside one that goes byte by byte as the manual tells it, and what a guest may do to the
//! registers: nothing of it ends but in pictures.

use base::device::{self, Device, Shared};
use base::memory::RamBlock;
use proptest::prelude::*;

use super::blitter::{Blit, Raster};
use super::{Cirrus, Regions, region};
use crate::display::vga::Shows;
use crate::display::vga::testing::{self, Eyes};

const SIZE: usize = 4 << 20;
/// What operations reach in these tests, so that they meet.
const ARENA: u32 = 2048;

/// The registers of an operation.
#[derive(Clone, Debug)]
struct Setup {
    gfx: Vec<u8>,
}

fn setup() -> impl Strategy<Value = Setup> {
    let operation = prop::sample::select(vec![
        0x00_u8, 0x05, 0x06, 0x09, 0x0b, 0x0d, 0x0d, 0x0d, 0x0e, 0x50, 0x59, 0x6d, 0x90, 0x95,
        0xad, 0xd0, 0xd6, 0xda,
    ]);
    let mode = any::<u8>().prop_map(|mode| mode & !0x06);
    let size = (1..80_u32, 1..6_u32);
    let places = (0..ARENA, 0..ARENA, 0..120_u32, 0..120_u32);
    let colors = any::<[u8; 10]>();
    (operation, mode, 0..8_u8, 0..32_u8, size, places, colors).prop_map(
        |(operation, mode, extensions, left, (width, height), places, colors)| {
            let (to, from, to_pitch, from_pitch) = places;
            // Bits, patterns and what goes backwards are not combined by anybody.
            let mode = if mode & 0xc0 != 0 { mode & !0x01 } else { mode };
            let pixel = u32::from(mode >> 4 & 3) + 1;
            let width = width.next_multiple_of(pixel);
            let mut gfx = vec![0; 0x3a];
            let mut set = |at: usize, value: u32, bytes: usize| {
                gfx[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            };
            set(0x20, width - 1, 2);
            set(0x22, height - 1, 2);
            set(0x24, to_pitch, 2);
            set(0x26, from_pitch, 2);
            set(0x28, to + 4096, 3);
            set(0x2c, from + 4096, 3);
            for (at, color) in
                [0x00, 0x10, 0x12, 0x14, 0x01, 0x11, 0x13, 0x15, 0x34, 0x35].into_iter().zip(colors)
            {
                gfx[at] = color & 0x11;
            }
            gfx[0x2f] = if pixel == 3 { left } else { left & 7 };
            gfx[0x30] = mode;
            gfx[0x32] = operation;
            gfx[0x33] = extensions;
            Setup { gfx }
        },
    )
}

/// What the manual says, pixel by pixel.
fn oracle(gfx: &[u8], memory: &mut [u8]) {
    let number = |at: usize, bytes: usize| {
        (0..bytes).fold(0, |sum, n| sum | usize::from(gfx[at + n]) << (8 * n))
    };
    let (width, height) = (number(0x20, 2) + 1, number(0x22, 2) + 1);
    let mode = gfx[0x30];
    let (expand, pattern) = (mode & 0x80 != 0, mode & 0x40 != 0);
    let transparent = mode & 8 != 0;
    let solid = expand && pattern && gfx[0x33] & 4 != 0 && !transparent;
    let inverted = transparent && gfx[0x33] & 2 != 0;
    let pixel = usize::from(mode >> 4 & 3) + 1;
    let left = match pixel {
        3 => usize::from(gfx[0x2f] & 31),
        _ => usize::from(gfx[0x2f] & 7) * pixel,
    };
    let foreground = [gfx[0x01], gfx[0x11], gfx[0x13], gfx[0x15]];
    let background = [gfx[0x00], gfx[0x10], gfx[0x12], gfx[0x14]];
    let (to, from) = (number(0x28, 3), number(0x2c, 3));
    let (to_pitch, from_pitch) = (number(0x24, 2), number(0x26, 2));
    let step = if mode & 1 != 0 { -1 } else { 1 };
    let place = |start: usize, n: usize| (start as i64 + step * n as i64) as usize % SIZE;
    let target = |y: usize, n: usize| match pixel {
        2 | 4 if expand || pattern => {
            (place(to, y * to_pitch) & !(pixel - 1)).wrapping_add_signed(step as isize * n as isize)
        }
        _ => place(to, y * to_pitch + n),
    };
    let copy = memory.to_vec();
    for y in 0..height {
        // What is neither compared nor made of bits goes byte by byte.
        let unit = if expand || pattern || transparent { pixel } else { 1 };
        for x in (0..width).step_by(unit) {
            let bytes: Vec<usize> = (x..x + unit).collect();
            let mut source = Vec::new();
            let mut covered = true;
            if solid {
                source.extend(&foreground[..pixel]);
            } else if expand {
                let dot = x / pixel;
                let bits = match pattern {
                    true => copy[(from & !7) + (from + y) % 8],
                    // Lines of bits end at bytes. They are read line by line.
                    false => memory[from + y * (width / pixel).div_ceil(8) + dot / 8],
                };
                let set = (bits >> (7 - dot % 8) & 1 != 0) != inverted;
                let front = set != inverted;
                source.extend(if front { &foreground[..pixel] } else { &background[..pixel] });
                covered = set || !transparent;
            } else if pattern {
                let line = 8 * if pixel == 3 { 4 } else { pixel };
                let start = (from & !(8 * line - 1)) + (from + y) % 8 * line;
                source.extend(bytes.iter().map(|n| copy[start + n % (8 * pixel)]));
            } else {
                source.extend(bytes.iter().map(|n| memory[place(from, y * from_pitch + n)]));
            }
            let result: Vec<u8> = (bytes.iter().zip(&source))
                .map(|(n, s)| Raster::of(gfx[0x32]).apply(*s, memory[target(y, *n)]))
                .collect();
            if !expand && !pattern && transparent {
                let mut key = gfx[0x34..0x36].to_vec();
                key.truncate(pixel);
                if step < 0 {
                    key.reverse();
                }
                covered = pixel < 3 && result != key;
            }
            for (n, value) in bytes.iter().zip(result) {
                if covered && !((expand || pattern) && !solid && *n < left) {
                    memory[target(y, *n)] = value;
                }
            }
        }
    }
}

fn memory() -> (RamBlock, Vec<u8>) {
    let block = RamBlock::anonymous("vga.vram", SIZE as u64).unwrap();
    let mut bytes = vec![0; SIZE];
    // Colours are few, so that keys are met.
    let values = (0_u32..).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x11);
    bytes[..3 * 4096].iter_mut().zip(values).for_each(|(byte, value)| *byte = value);
    block.write(0, &bytes);
    (block, bytes)
}

proptest! {
    #[test]
    fn the_blitter_does_what_the_manual_says(setup in setup()) {
        let (block, mut bytes) = memory();
        let blit = Blit::decode(&setup.gfx).unwrap();
        // A line of bits that is drawn over itself is read as a whole.
        let expands = setup.gfx[0x30] & 0xc0 == 0x80;
        if expands {
            let fresh = 16 << 10;
            block.write(fresh, &bytes[4096..3 * 4096]);
            bytes.copy_within(4096..3 * 4096, fresh as usize);
            let mut gfx = setup.gfx.clone();
            let from = u32::from_le_bytes([gfx[0x2c], gfx[0x2d], gfx[0x2e], 0]) - 4096;
            gfx[0x2c..0x2f].copy_from_slice(&(from + fresh as u32).to_le_bytes()[..3]);
            Blit::decode(&gfx).unwrap().run(&block);
            oracle(&gfx, &mut bytes);
        } else {
            blit.run(&block);
            oracle(&setup.gfx, &mut bytes);
        }
        let mut seen = vec![0; SIZE];
        block.read(0, &mut seen);
        let first = seen.iter().zip(&bytes).position(|(a, b)| a != b);
        prop_assert!(first.is_none(), "at {first:x?}");
    }

    /// What the processor sends is drawn as what is in memory.
    #[test]
    fn the_processor_may_send_it(setup in setup(), sent in prop::collection::vec(any::<u8>(), 640)) {
        let (there, _) = memory();
        let mut gfx = setup.gfx.clone();
        gfx[0x30] &= !1;
        let (device, _regions) = cirrus();
        {
            let device = &mut *device.lock();
            let mut all = vec![0; SIZE];
            there.read(0, &mut all);
            device.memory().write(0, &all);
            gfx[0x30] |= 4;
            for (index, value) in gfx.iter().enumerate().filter(|(index, _)| *index != 0x31) {
                device.st.write_gfx(index, *value);
            }
            let effect = device.st.write_gfx(0x31, 2);
            device.apply(effect);
        }
        let blit = Blit::decode(&gfx).unwrap();
        let Some((len, lines)) = blit.expects() else {
            // A solid colour is not sent.
            return Ok(());
        };
        let sent: Vec<u8> = sent.into_iter().cycle().take(len * lines as usize).collect();
        for (n, byte) in sent.iter().enumerate() {
            prop_assert_eq!(device.lock().st.read_gfx(0x31) & 1, 1, "busy");
            device.lock().write(region::BLITTER, n as u64, 1, (*byte).into());
        }
        prop_assert_eq!(device.lock().st.read_gfx(0x31) & 1, 0);
        // The same lines from memory nobody draws on.
        let fresh = 64 << 10;
        for (y, line) in sent.chunks(len).enumerate() {
            let at = match blit.is_pattern() {
                true => fresh,
                false => fresh + y as u64 * packed(&gfx),
            };
            let len = if blit.is_pattern() { len } else { packed(&gfx) as usize };
            there.write(at, &line[..len]);
        }
        gfx[0x30] &= !4;
        let row = u32::from(gfx[0x2c]) & 7;
        let pitch = (packed(&gfx) as u16).to_le_bytes();
        gfx[0x26..0x28].copy_from_slice(&pitch);
        let from = fresh as u32 + if blit.is_pattern() { row } else { 0 };
        gfx[0x2c..0x2f].copy_from_slice(&from.to_le_bytes()[..3]);
        Blit::decode(&gfx).unwrap().run(&there);
        let mut seen = [vec![0; 64 << 10], vec![0; 64 << 10]];
        device.lock().memory().read(0, &mut seen[0]);
        there.read(0, &mut seen[1]);
        prop_assert!(seen[0] == seen[1]);
    }
}

/// Bytes of a line without what fills it up.
fn packed(gfx: &[u8]) -> u64 {
    let width = u64::from(gfx[0x20]) + (u64::from(gfx[0x21]) << 8) + 1;
    let pixel = u64::from(gfx[0x30] >> 4 & 3) + 1;
    if gfx[0x30] & 0x80 != 0 { width.div_ceil(pixel).div_ceil(8) } else { width }
}

fn cirrus() -> (Shared<Cirrus>, Regions) {
    let cirrus = Cirrus::new(SIZE as u32, true).unwrap();
    let device = device::share(|_| cirrus);
    let regions = Regions::of(&device);
    testing::switch_on(&device);
    (device, regions)
}

/// What a guest may do.
#[derive(Clone, Debug)]
enum Step {
    Vga(testing::Step),
    Mmio(u64, u32),
    Aperture(u64, u64),
    Blitter(u64),
    HiddenDac(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        14 => testing::step(0x3a).prop_map(Step::Vga),
        3 => (0..0x150_u64, any::<u32>()).prop_map(|(at, v)| Step::Mmio(at, v)),
        3 => (0..SIZE as u64 * 2, any::<u64>()).prop_map(|(at, v)| Step::Aperture(at, v)),
        1 => any::<u64>().prop_map(Step::Blitter),
        1 => any::<u8>().prop_map(Step::HiddenDac),
    ]
}

proptest! {
    #[test]
    fn what_changed_is_all_that_changed(steps in prop::collection::vec(step(), 1..80)) {
        let (device, _regions) = cirrus();
        let mut eyes = Eyes::on(&device, region::WINDOW);
        for step in steps {
            match step {
                Step::Vga(step) => eyes.take(&step),
                Step::Mmio(at, value) => {
                    let device = &mut *device.lock();
                    device.read(region::MMIO, at, 4);
                    device.write(region::MMIO, at, 4, value.into());
                }
                Step::Aperture(at, value) => {
                    let device = &mut *device.lock();
                    device.read(region::APERTURE, at, 8);
                    device.write(region::APERTURE, at, 8, value);
                }
                Step::Blitter(value) => device.lock().write(region::BLITTER, 0, 8, value),
                Step::HiddenDac(value) => {
                    for _ in 0..4 {
                        device.lock().read(0x3c6, 0, 1);
                    }
                    testing::write(&device, 0x3c6, value);
                }
            }
        }
        eyes.compare()?;
    }
}
