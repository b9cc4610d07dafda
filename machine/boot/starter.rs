//! What runs before a kernel that is started without firmware: an option ROM of ours, which has the ROM of the display
//! set up the screen, as firmware would, and hands the processor over to the machine.
//!
//! Behind firmware it is one of firmware's ROMs, and first in the order of what is booted.
//!
//! Kernels and programs expect a text mode and its BIOS when there is a display. Only the display's own ROM knows how
//! to make them, and it runs in real mode.

use super::entry::{self, CpuEntry};

/// Where option ROMs go.
pub const ROMS: u64 = 0xc_0000;
/// Where they end at the latest.
const ROMS_END: u64 = 0xe_0000;
/// More does not fit there.
pub const LARGEST: usize = (ROMS_END - ROMS) as usize;
/// The port that is written to when all is done. It exists until then.
pub const HANDOVER_PORT: u64 = 0x5f0;

/// ROMs are measured in such blocks, and their bytes add up to zero.
const BLOCK: usize = 512;
const BLOCKS: u8 = 3;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// A ROM's routine for setting up its device; ours has nothing to do when others call it.
const INITIALISE: usize = 3;
/// ROMs begin at multiples of 2 KiB.
const ALIGNMENT: u64 = 0x800;
const FAR_RETURN: u8 = 0xcb;
const INTERRUPT_RETURN: u8 = 0xcf;
/// Where interrupts end that nobody has taken.
const IGNORE: usize = 0x1c;
const CODE: usize = 0x20;
/// Where the header for plug and play is, and what it calls the ROM's product.
const PNP_HEADER: usize = 0x40;
const PNP_LENGTH: usize = 0x20;
const PRODUCT: usize = PNP_HEADER + PNP_LENGTH;
const PRODUCT_NAME: &[u8] = b"Kernel\0";
/// The stack grows down from here.
const STACK: u16 = 0x7000;

/// The display whose ROM runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayRom {
    /// What its ROM BAR or firmware's file has.
    pub image: Vec<u8>,
    /// Bus, device and function; ROMs of ISA displays do not look at it.
    pub place: u16,
}

impl DisplayRom {
    /// As much of the image as its header claims, if it is a ROM.
    fn contents(&self) -> Option<&[u8]> {
        let blocks = self.image.strip_prefix(&SIGNATURE)?.first()?;
        self.image.get(..usize::from(*blocks) * BLOCK).filter(|rom| !rom.is_empty())
    }
}

/// What to write where, and how the first processor starts.
pub fn prepare(display: Option<&DisplayRom>) -> (Vec<(u64, Vec<u8>)>, CpuEntry) {
    let called = display.and_then(|display| Some((display.contents()?, display.place)));
    let at = called.map_or(ROMS, |(rom, _)| ROMS + rom.len() as u64).next_multiple_of(ALIGNMENT);
    let called = called.filter(|_| at + ALIGNMENT <= ROMS_END);
    let at = if called.is_some() { at } else { ROMS };
    let segment = (at >> 4) as u16;
    let mut writes =
        vec![(0, interrupt_vectors(segment)), (at, rom(called.map(|(_, place)| place)))];
    writes.extend(called.map(|(rom, _)| (ROMS, rom.to_vec())));
    (writes, entry::big_real(segment, CODE as u16, STACK))
}

/// Interrupts come back at once until a ROM has taken them.
fn interrupt_vectors(segment: u16) -> Vec<u8> {
    let vector = u32::from(segment) << 16 | IGNORE as u32;
    vector.to_le_bytes().repeat(256)
}

fn rom(display: Option<u16>) -> Vec<u8> {
    let mut rom = vec![0; usize::from(BLOCKS) * BLOCK];
    rom[..INITIALISE].copy_from_slice(&[SIGNATURE[0], SIGNATURE[1], BLOCKS]);
    rom[INITIALISE] = FAR_RETURN;
    rom[IGNORE] = INTERRUPT_RETURN;
    let code = code(display);
    rom[CODE..CODE + code.len()].copy_from_slice(&code);
    balance(&mut rom);
    rom
}

/// The ROM for firmware to boot from.
pub fn boot_rom() -> Vec<u8> {
    let mut rom = rom(None);
    rom[PNP_POINTER..PNP_POINTER + 2].copy_from_slice(&(PNP_HEADER as u16).to_le_bytes());
    rom[PNP_HEADER..PRODUCT].copy_from_slice(&pnp_header());
    rom[PRODUCT..PRODUCT + PRODUCT_NAME.len()].copy_from_slice(PRODUCT_NAME);
    balance(&mut rom);
    rom
}

const PNP_POINTER: usize = 0x1a;

/// The expansion header of the Plug and Play BIOS Specification 1.0A, 3.2: a device to boot from, by its entry vector.
fn pnp_header() -> [u8; PNP_LENGTH] {
    const BOOTS: u8 = 1 << 2;
    let mut header = [0; PNP_LENGTH];
    header[..6].copy_from_slice(b"$PnP\x01\x02");
    header[0x10..0x12].copy_from_slice(&(PRODUCT as u16).to_le_bytes());
    header[0x15] = BOOTS;
    header[0x1a..0x1c].copy_from_slice(&(CODE as u16).to_le_bytes());
    header[9] = header.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    header
}

/// Has the last byte make the sum of all zero.
fn balance(rom: &mut [u8]) {
    if let Some((last, rest)) = rom.split_last_mut() {
        *last = rest.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    }
}

fn code(display: Option<u16>) -> Vec<u8> {
    let mut code = Vec::new();
    if let Some(place) = display {
        // mov ax, place; call far ROMS:INITIALISE (PCI Firmware Specification 3.2, 5.2.1.21)
        code.push(0xb8);
        code.extend(place.to_le_bytes());
        code.push(0x9a);
        code.extend((INITIALISE as u16).to_le_bytes());
        code.extend(((ROMS >> 4) as u16).to_le_bytes());
        // mov ax, 3; int 10h: 80 columns and 25 rows of text
        code.extend([0xb8, 3, 0, 0xcd, 0x10]);
    }
    // mov dx, HANDOVER_PORT; out dx, al
    code.push(0xba);
    code.extend((HANDOVER_PORT as u16).to_le_bytes());
    code.push(0xee);
    // stop: cli; hlt; jmp stop
    code.extend([0xfa, 0xf4, 0xeb, 0xfc]);
    code
}

/// What the display's BIOS says of the screen, for kernels that do not ask it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    mode: u8,
    columns: u8,
    rows: u8,
    /// Lines of a character.
    points: u16,
    cursor: (u8, u8),
}

impl Screen {
    /// How much of memory, from its beginning, [`read`](Self::read) looks at.
    pub const BIOS_DATA_END: usize = 0x500;

    /// Reads the BIOS data area, which a display's ROM has filled; `None` if none has.
    pub fn read(memory: &[u8]) -> Option<Screen> {
        let byte = |at: usize| memory.get(at).copied().filter(|value| *value > 0);
        Some(Screen {
            mode: byte(0x449)?,
            columns: byte(0x44a)?,
            rows: byte(0x484)?.checked_add(1)?,
            points: byte(0x485)?.into(),
            cursor: (*memory.get(0x450)?, *memory.get(0x451)?),
        })
    }

    /// Linux's `struct screen_info`, as its own setup code would fill it
    /// (Documentation/arch/x86/zero-page.rst): a VGA in a text mode.
    pub fn for_linux(&self) -> [u8; 0x12] {
        /// Colour, 256 KiB: what function 12h of the video BIOS says of every VGA.
        const EGA_INFORMATION: u8 = 3;
        const IS_VGA: u8 = 1;
        let mut info = [0; 0x12];
        (info[0], info[1]) = self.cursor;
        info[6] = self.mode;
        info[7] = self.columns;
        info[0xa] = EGA_INFORMATION;
        info[0xe] = self.rows;
        info[0xf] = IS_VGA;
        info[0x10..0x12].copy_from_slice(&self.points.to_le_bytes());
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn display(blocks: u8, len: usize) -> DisplayRom {
        let mut image = vec![0; len];
        image[..3].copy_from_slice(&[0x55, 0xaa, blocks]);
        DisplayRom { image, place: 0x0010 }
    }

    #[test]
    fn roms_add_up_to_zero_and_follow_each_other() {
        let (writes, entry) = prepare(Some(&display(77, 0x1_0000)));
        let (at, rom) = &writes[1];
        assert_eq!(*at, 0xc_a000, "behind 77 blocks, at the next 2 KiB");
        assert_eq!(rom.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(writes[2].1.len(), 77 * 512);
        assert_eq!((entry.cs.base, entry.rip), (0xc_a000, 0x20));
        assert_eq!(rom[0x20..0x28], [0xb8, 0x10, 0, 0x9a, 3, 0, 0, 0xc0]);
    }

    #[test]
    fn firmware_finds_where_to_boot() {
        let rom = boot_rom();
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let header = &rom[0x40..0x60];
        assert_eq!((sum(&rom), sum(header)), (0, 0));
        assert_eq!((&rom[0x1a..0x1c], &header[..4]), (&[0x40, 0][..], &b"$PnP"[..]));
        let entry = usize::from(header[0x1a]);
        assert_eq!(rom[entry..entry + 4], [0xba, 0xf0, 0x05, 0xee], "mov dx, 5f0h; out dx, al");
    }

    #[test]
    fn what_is_no_rom_is_not_called() {
        for bad in [
            DisplayRom { image: vec![], place: 0 },
            DisplayRom { image: vec![0x55, 0xaa], place: 0 },
            display(0, 512),
            display(4, 3 * 512),
            display(255, 0x2_0000),
        ] {
            assert_eq!(prepare(Some(&bad)), prepare(None), "{} bytes", bad.image.len());
        }
        assert_eq!(prepare(None).0[1].0, ROMS);
    }

    #[test]
    fn the_screen_is_what_the_bios_says() {
        let mut memory = vec![0; Screen::BIOS_DATA_END];
        assert_eq!(Screen::read(&memory), None);
        memory[0x449..0x44b].copy_from_slice(&[3, 80]);
        memory[0x450..0x452].copy_from_slice(&[5, 7]);
        memory[0x484..0x486].copy_from_slice(&[24, 16]);
        let info = Screen::read(&memory).unwrap().for_linux();
        assert_eq!(info, [5, 7, 0, 0, 0, 0, 3, 80, 0, 0, 3, 0, 0, 0, 25, 1, 16, 0]);
    }
}
