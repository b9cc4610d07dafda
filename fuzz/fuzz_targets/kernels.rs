//! Kernel images of all formats, damaged: they are refused or loaded, and stay where they may be.
#![no_main]

use arbitrary::Arbitrary;
use hw::firmware::e820::{self, Layout};
use libfuzzer_sys::fuzz_target;
use machine::boot::{Module, Request, load};

const MEMORY: u64 = 64 << 20;
const TABLES: u64 = 0x2_0000;
/// The interrupt table and the BIOS data area are nobody's.
const FIRST_BYTE: u64 = 0x400;

#[derive(Arbitrary, Debug)]
enum Format {
    Linux { version: u16, load_flags: u8, extended_flags: u16, sectors: u8 },
    Elf { wide: bool, headers: Vec<Header>, entry: u32, header_size: u16, multiboot: Option<u32> },
    Multiboot { flags: u16, at: u8, header: u32, load: u32, end: u32, bss: u32, entry: u32 },
    Anything,
}

/// A program header.
#[derive(Arbitrary, Debug)]
struct Header {
    note: bool,
    offset: u16,
    address: u32,
    file_size: u16,
    size: u32,
    align: u8,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    format: Format,
    patches: Vec<(u16, u32)>,
    modules: Vec<u16>,
    command_line: u16,
    long_mode: bool,
    rest: &'a [u8],
}

struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn multiboot(&mut self, at: usize, flags: u32) {
        const MAGIC: u32 = 0x1bad_b002;
        self.put32(at, MAGIC);
        self.put32(at + 4, flags);
        self.put32(at + 8, 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags));
    }

    fn build(format: &Format) -> Self {
        let mut image = Image(Vec::new());
        match *format {
            Format::Linux { version, load_flags, extended_flags, sectors } => {
                image.put(0x1f1, &[sectors]);
                image.put(0x1fe, b"\x55\xaa\xeb\x66HdrS");
                image.put(0x206, &version.to_le_bytes());
                image.put(0x211, &[load_flags]);
                image.put32(0x214, 0x10_0000);
                image.put32(0x22c, 0x7fff_ffff);
                image.put(0x234, &[1]);
                image.put(0x236, &extended_flags.to_le_bytes());
                image.put32(0x258, 0x100_0000);
                image.put32(0x260, 0x10_0000);
            }
            Format::Elf { wide, ref headers, entry, header_size, multiboot } => {
                image.elf(wide, headers, entry, header_size);
                if let Some(flags) = multiboot {
                    image.multiboot(0xf00, flags & 0x1_ffff);
                }
            }
            Format::Multiboot { flags, at, header, load, end, bss, entry } => {
                let at = 4 * usize::from(at);
                image.multiboot(at, 0x1_0000 | u32::from(flags));
                for (n, value) in [header, load, end, bss, entry].into_iter().enumerate() {
                    image.put32(at + 12 + 4 * n, value);
                }
            }
            Format::Anything => {}
        }
        image
    }

    fn elf(&mut self, wide: bool, headers: &[Header], entry: u32, header_size: u16) {
        let (class, first) = if wide { (2, 64_usize) } else { (1, 52) };
        self.put(0, &[0x7f, b'E', b'L', b'F', class, 1, 1]);
        self.put(18, &[if wide { 62 } else { 3 }]);
        self.put32(24, entry);
        self.put32(if wide { 32 } else { 28 }, first as u32);
        let counts = if wide { 54 } else { 42 };
        self.put(counts, &header_size.to_le_bytes());
        self.put(counts + 2, &(headers.len() as u16).to_le_bytes());
        for (n, header) in headers.iter().enumerate() {
            let at = first + n * usize::from(header_size);
            self.put32(at, if header.note { 4 } else { 1 });
            // Offset, virtual and physical address, sizes, alignment.
            let fields: &[usize] =
                if wide { &[8, 16, 24, 32, 40, 48] } else { &[4, 8, 12, 16, 20, 28] };
            let values = [
                u32::from(header.offset),
                header.address,
                header.address,
                header.file_size.into(),
                header.size,
                header.align.into(),
            ];
            for (field, value) in fields.iter().zip(values) {
                self.put32(at + field, value);
            }
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let mut image = Image::build(&input.format);
    for &(at, value) in &input.patches {
        image.put32(usize::from(at), value);
    }
    image.0.extend(input.rest);
    let modules: Vec<_> = input
        .modules
        .iter()
        .map(|&length| Module { text: "a module".into(), data: vec![0xaa; length.into()] })
        .collect();
    let layout =
        Layout { below_4g: MEMORY, above_4g: 0, hypertransport_hole: true, kvm_pages: false };
    let loaded = load(&Request {
        name: "kernel",
        kernel: &image.0,
        command_line: &"x".repeat(input.command_line.into()),
        modules: &modules,
        memory_map: &e820::for_kernel(&layout, TABLES),
        usable_below_4g: MEMORY - TABLES,
        rsdp: Some(0xf_0000),
        device_tree: Some(&[7; 32]),
        long_mode: input.long_mode,
    });
    let Ok(loaded) = loaded else { return };
    let writes = loaded.writes.iter().map(|(at, data)| (*at, data.len() as u64));
    for (at, len) in writes.chain(loaded.clears) {
        assert!(
            at >= FIRST_BYTE && at.checked_add(len).is_some_and(|end| end <= MEMORY - TABLES),
            "{at:#x}+{len:#x}"
        );
    }
});
