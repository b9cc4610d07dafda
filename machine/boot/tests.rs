use super::entry::{RAX, RBX, RSI};
use super::*;
use hw::firmware::e820::{self, Kind, Layout};
use proptest::prelude::*;

const MEMORY: u64 = 256 << 20;

fn memory_map() -> Vec<Entry> {
    let layout =
        Layout { below_4g: MEMORY, above_4g: 0, hypertransport_hole: true, kvm_pages: false };
    e820::for_kernel(&layout, 0x2_0000)
}

fn request<'a>(kernel: &'a [u8], modules: &'a [Module], map: &'a [Entry]) -> Request<'a> {
    Request {
        name: "k",
        kernel,
        command_line: "console=ttyS0",
        modules,
        memory_map: map,
        usable_below_4g: MEMORY - 0x2_0000,
        rsdp: Some(0xf_5250),
        device_tree: Some(&[7; 32]),
        long_mode: true,
    }
}

fn start(kernel: &[u8], modules: &[Module]) -> Result<BootImage, BootError> {
    load(&request(kernel, modules, &memory_map()))
}

fn module(text: &str, length: usize) -> Module {
    Module { text: text.into(), data: vec![0xaa; length] }
}

/// Memory as the writes leave it.
fn read(image: &BootImage, address: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    for (at, data) in &image.writes {
        for (offset, byte) in data.iter().enumerate() {
            if let Some(place) =
                (at + offset as u64).checked_sub(address).and_then(|i| out.get_mut(i as usize))
            {
                *place = *byte;
            }
        }
    }
    out
}

fn read_u32(image: &BootImage, address: u64) -> u32 {
    u32::from_le_bytes(read(image, address, 4).try_into().unwrap())
}

fn read_text(image: &BootImage, address: u32) -> String {
    let bytes = read(image, address.into(), 200);
    String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

fn put32(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A bzImage of two setup sectors and a payload of one page.
fn bzimage(version: u16, loadflags: u8, xloadflags: u16) -> Vec<u8> {
    let mut file = vec![0; 3 * 512];
    file[0x1f1] = 2;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x206].copy_from_slice(b"\xeb\x66HdrS");
    file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
    file[0x211] = loadflags;
    put32(&mut file, 0x214, 0x10_0000);
    put32(&mut file, 0x22c, 0x7fff_ffff);
    file[0x234] = 1;
    file[0x236..0x238].copy_from_slice(&xloadflags.to_le_bytes());
    put32(&mut file, 0x258, 0x100_0000);
    put32(&mut file, 0x260, 0x10_0000);
    file.resize(3 * 512 + 0x1000, 0x90);
    file
}

#[test]
fn linux_is_entered_in_long_mode() {
    let image = start(&bzimage(0x20f, 1, 1), &[module("", 5000)]).unwrap();
    assert_eq!(image.entry.mode, Mode::Long64);
    assert_eq!(image.entry.rip, 0x10_0200);
    assert_eq!((image.entry.cs.selector, image.entry.data.selector), (0x10, 0x18));
    let page = image.entry.gprs[RSI];
    assert_eq!(read(&image, page + 0x202, 4), b"HdrS");
    assert_eq!(read_text(&image, read_u32(&image, page + 0x228)), "console=ttyS0");
    assert_eq!(read_u32(&image, page + 0x21c), 5000);
    assert_eq!(read_u32(&image, page + 0x70), 0xf_5250);
    let initrd = u64::from(read_u32(&image, page + 0x218));
    assert_eq!((initrd % PAGE, read(&image, initrd, 2)), (0, vec![0xaa, 0xaa]));
    // Device tree: no successor, type 2, 32 bytes.
    let tree = u64::from(read_u32(&image, page + 0x250));
    assert_eq!(read(&image, tree, 17)[..], [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 32, 0, 0, 0, 7]);
    let map = memory_map();
    assert_eq!(read(&image, page + 0x1e8, 1), [map.len() as u8]);
    assert_eq!(read(&image, page + 0x2d0, map.len() * 20), e820::encode(&map));
}

/// Walks the page tables as a CPU does.
#[test]
fn identity_map_covers_four_gibibytes() {
    let image = start(&bzimage(0x20f, 1, 1), &[]).unwrap();
    let entry = |table: u64, index: u64| {
        u64::from_le_bytes(read(&image, table + 8 * index, 8).try_into().unwrap())
    };
    const TABLE: u64 = 0xf_ffff_f000;
    for address in [0u64, 0x12_3456, 0x4020_0000, 0xffff_ffff] {
        let directory_pointer = entry(image.entry.cr3, address >> 39 & 511) & TABLE;
        let directory = entry(directory_pointer, address >> 30 & 511) & TABLE;
        let page = entry(directory, address >> 21 & 511);
        assert_eq!(page & 0x83, 0x83);
        assert_eq!(page & TABLE | address & 0x1f_ffff, address);
    }
}

#[test]
fn linux_without_long_mode_is_entered_in_protected_mode() {
    for file in [bzimage(0x20f, 1, 0), bzimage(0x206, 1, 0)] {
        let image = start(&file, &[]).unwrap();
        assert_eq!(
            (image.entry.mode, image.entry.rip, image.entry.cr0 & 0x8000_0001),
            (Mode::Protected32, 0x10_0000, 1)
        );
    }
    let file = bzimage(0x20f, 1, 1);
    let map = memory_map();
    let old_cpu = Request { long_mode: false, ..request(&file, &[], &map) };
    assert_eq!(load(&old_cpu).unwrap().entry.mode, Mode::Protected32);
}

#[test]
fn old_kernels_run_their_setup_code() {
    let image = start(&bzimage(0x201, 1, 0), &[]).unwrap();
    assert_eq!(
        (image.entry.mode, image.entry.cs.selector, image.entry.data.selector),
        (Mode::Real, 0x9020, 0x9000)
    );
    assert_eq!(read(&image, 0x9_0020, 4), [0x3f, 0xa3, 0x00, 0x90]);
    assert_eq!(read_text(&image, 0x9_9000), "console=ttyS0");
    let zimage = start(&bzimage(0x203, 0, 0), &[]).unwrap();
    assert_eq!((zimage.entry.mode, read(&zimage, 0x1_0000, 2)), (Mode::Real, vec![0x90, 0x90]));
    // A memory disk calls itself a high kernel of protocol 2.03 and has no 32-bit entry.
    let disk = start(&bzimage(0x203, 1, 0), &[]).unwrap();
    assert_eq!((disk.entry.mode, disk.entry.cs.selector), (Mode::Real, 0x1020));
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = bzimage(0x20f, 1, 1);
    assert!(matches!(
        start(&file, &[module("", MEMORY as usize)]),
        Err(BootError::InitrdTooLarge { .. })
    ));
    let mut greedy = file.clone();
    put32(&mut greedy, 0x260, 0x8000_0000);
    assert!(matches!(start(&greedy, &[]), Err(BootError::KernelTooLarge { .. })));
    let map = memory_map();
    let text = "x".repeat(1 << 20);
    let long = Request { command_line: &text, ..request(&file, &[], &map) };
    assert!(matches!(load(&long), Err(BootError::CommandLineTooLong { .. })));
    assert_eq!(
        start(b"", &[]).unwrap_err().to_string(),
        "could not load kernel 'k': No such file or directory"
    );
    assert_eq!(start(&[1; 4096], &[]).unwrap_err().to_string(), "invalid kernel header");
    assert!(matches!(start(&file[..3 * 512], &[]), Err(BootError::Damaged { .. })));
}

/// A 32-bit ELF kernel of one segment at 1 MiB with a page of zeros behind it, and a note.
fn elf32(note: bool, multiboot: Option<u32>) -> Vec<u8> {
    let mut file = vec![0; 0x200];
    file[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    file[18] = 3;
    put32(&mut file, 24, 0x10_0010);
    put32(&mut file, 28, 52);
    file[42] = 32;
    file[44] = 1 + u8::from(note);
    for (index, value) in
        [1, 0x100, 0x10_0000, 0x10_0000, 0x100, 0x1100, 7, 0x1000].into_iter().enumerate()
    {
        put32(&mut file, 52 + 4 * index, value);
    }
    for (index, value) in [4, 0xe0, 0, 0, 20, 20, 4, 4].into_iter().enumerate() {
        put32(&mut file, 84 + 4 * index, value);
    }
    file[0xe0..0xf4].copy_from_slice(b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x20\0\x10\0");
    if let Some(flags) = multiboot {
        put32(&mut file, 0x100, 0x1bad_b002);
        put32(&mut file, 0x104, flags);
        put32(&mut file, 0x108, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags));
    }
    file
}

/// A small file must not ask for thousands of copies of itself.
#[test]
fn segments_on_top_of_each_other_are_refused() {
    let mut same_header = elf32(true, None);
    same_header[42] = 0;
    same_header[44..46].copy_from_slice(&[0xff, 0xff]);
    let error = start(&same_header, &[]).unwrap_err().to_string();
    assert_eq!(error, "kernel 'k' is damaged: program headers overlap");
    let mut same_memory = elf32(false, Some(3));
    same_memory[44] = 2;
    for header in [52, 84] {
        for (index, value) in
            [1, 0x100, 0x10_0000, 0x10_0000, 0x100, 0xa00_0000, 7, 4].into_iter().enumerate()
        {
            put32(&mut same_memory, header + 4 * index, value);
        }
    }
    assert!(matches!(start(&same_memory, &[]), Err(BootError::KernelTooLarge { .. })));
}

#[test]
fn pvh_kernels_get_a_start_info() {
    let image = start(&elf32(true, None), &[module("initrd arg", 10)]).unwrap();
    assert_eq!((image.entry.mode, image.entry.rip), (Mode::Protected32, 0x10_0020));
    assert_eq!(image.clears, [(0x10_0100, 0x1000)]);
    let info = image.entry.gprs[RBX];
    assert_eq!(read_u32(&image, info), 0x336e_c578);
    assert_eq!(read_u32(&image, info + 12), 1);
    let module = u64::from(read_u32(&image, info + 16));
    assert_eq!(u64::from(read_u32(&image, module)) % PAGE, 0);
    assert_eq!(read_text(&image, read_u32(&image, module + 16)), "initrd arg");
    assert_eq!(read_text(&image, read_u32(&image, info + 24)), "console=ttyS0");
    assert_eq!(read_u32(&image, info + 32), 0xf_5250);
    let map = u64::from(read_u32(&image, info + 40));
    assert_eq!(read_u32(&image, map + 16), Kind::Ram as u32);
    assert_eq!(
        start(&elf32(false, None), &[]).unwrap_err().to_string(),
        "Error loading uncompressed kernel without PVH ELF Note"
    );
}

#[test]
fn multiboot_kernels_get_modules_and_a_memory_map() {
    let modules = [module("a one", 100), module("b", 200)];
    let image = start(&elf32(false, Some(3)), &modules).unwrap();
    assert_eq!((image.entry.rip, image.entry.gprs[RAX]), (0x10_0010, 0x2bad_b002));
    let info = image.entry.gprs[RBX];
    assert_eq!(read_u32(&image, info), 0x24f);
    assert_eq!(read_text(&image, read_u32(&image, info + 16)), "k console=ttyS0");
    assert_eq!(read_u32(&image, info + 20), 2);
    let list = u64::from(read_u32(&image, info + 24));
    let (first, end) = (read_u32(&image, list), read_u32(&image, list + 4));
    assert_eq!((first % 4096, end - first), (0, 100));
    assert!(u64::from(first) >= 0x10_1100);
    assert_eq!(read_text(&image, read_u32(&image, list + 8)), "a one");
    assert_eq!(read_u32(&image, info + 44) as usize, memory_map().len() * 24);
    assert_eq!(read_text(&image, read_u32(&image, info + 64)), "qemu");
    assert!(matches!(
        start(&elf32(false, Some(4)), &[]),
        Err(BootError::MultibootFlags { flags: 4, .. })
    ));
}

/// Whoever runs in real mode must lie where others have their boot information.
#[test]
fn kernels_in_low_memory_are_not_written_over() {
    let low_kernel = |base: u32, size: u32| {
        let mut file = elf32(false, Some(3));
        put32(&mut file, 24, base + 0x10);
        for (index, value) in [1, 0x100, base, base, 0x100, size].into_iter().enumerate() {
            put32(&mut file, 52 + 4 * index, value);
        }
        file
    };
    let image = start(&low_kernel(0x4000, 0x2_0000), &[module("m", 100)]).unwrap();
    assert_eq!(image.entry.rip, 0x4010);
    assert_eq!(image.clears, [(0x4100, 0x1_ff00)]);
    let info = image.entry.gprs[RBX];
    let module = read_u32(&image, u64::from(read_u32(&image, info + 24)));
    assert!(u64::from(module) >= LOWEST_KERNEL);
    assert_eq!(read_text(&image, read_u32(&image, info + 16)), "k console=ttyS0");
    let kernel =
        image.writes.iter().filter(|(at, data)| *at < 0x2_4000 && at + data.len() as u64 > 0x4000);
    assert_eq!(kernel.count(), 1, "nothing else is where the kernel is");
    let error = start(&low_kernel(0x600, 0x9_0000), &[]).unwrap_err().to_string();
    assert!(error.starts_with("no memory below 640 KiB is left for"), "{error}");
}

/// Linkers put the file's headers before a kernel that is to be at 1 MiB.
#[test]
fn what_lies_in_the_hole_is_left_out() {
    let mut file = elf32(false, Some(3));
    for (index, value) in [1, 0, 0xf_ff00, 0xf_ff00, 0x200, 0x1200].into_iter().enumerate() {
        put32(&mut file, 52 + 4 * index, value);
    }
    let image = start(&file, &[]).unwrap();
    assert_eq!(read_u32(&image, LOWEST_KERNEL), 0x1bad_b002);
    assert!(image.writes.iter().all(|(at, _)| !HOLE.contains(at)));
    assert_eq!(image.clears, [(0x10_0100, 0x1000)]);
}

#[test]
fn multiboot_addresses_take_the_place_of_elf() {
    let mut file = vec![0; 0x100];
    let flags = 0x1_0000u32;
    let header = [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)];
    for (index, value) in
        header.into_iter().chain([0x20_0010, 0x20_0000, 0, 0x20_2000, 0x20_0040]).enumerate()
    {
        put32(&mut file, 0x20 + 4 * index, value);
    }
    // Nothing to load, to nowhere.
    let mut nowhere = file.clone();
    for (index, value) in [0xaeae_aeae_u32, 0xaeae_ae8e, 0xaeae_ae8e].into_iter().enumerate() {
        put32(&mut nowhere, 0x2c + 4 * index, value);
    }
    assert!(matches!(start(&nowhere, &[]), Err(BootError::KernelTooLarge { .. })));
    let image = start(&file, &[]).unwrap();
    assert_eq!(image.entry.rip, 0x20_0040);
    // The header is 16 bytes behind the load address, thus loading starts 16 bytes into the file.
    assert_eq!(read(&image, 0x20_0010, 4), 0x1bad_b002u32.to_le_bytes());
    assert_eq!(image.clears, [(0x20_00f0, 0x1f10)]);
}

#[test]
fn module_option_is_taken_apart() {
    let names = split_modules("a b,c,d,,e f");
    let expected = [("a", "a b"), ("c", "c"), ("d,e", "d,e f")];
    assert!(names.iter().map(|name| (name.file.as_str(), name.text.as_str())).eq(expected));
}

/// The distribution's kernel, when the cache holds one.
#[test]
fn a_real_kernel_is_entered_in_long_mode() {
    let cache = std::env::var_os("RHEA_CACHE").map(std::path::PathBuf::from);
    let kernels =
        cache.and_then(|cache| std::fs::read_dir(cache).ok()).into_iter().flatten().flatten();
    let kernel = kernels.map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    });
    let Some(kernel) = kernel else {
        println!("skipped: RHEA_CACHE holds no vmlinuz");
        return;
    };
    let image = start(&std::fs::read(kernel).unwrap(), &[module("", 1 << 20)]).unwrap();
    assert_eq!((image.entry.mode, image.entry.rip), (Mode::Long64, 0x10_0200));
    assert_eq!(read(&image, image.entry.gprs[RSI] + 0x1fe, 2), [0x55, 0xaa]);
}

#[test]
fn tables_go_where_kernels_look() {
    use hw::firmware::mptable::Processor;
    use hw::firmware::smbios;
    let hardware = smbios::Hardware {
        entry_point: smbios::EntryPoint::Bits32,
        manufacturer: "QEMU".into(),
        product: "Standard PC".into(),
        version: "pc".into(),
        uuid: smbios::Uuid::default(),
        processor_id: (0, 0),
        sockets: 200,
        cores_per_socket: 1,
        threads_per_socket: 1,
        memory: (MEMORY, 0),
        largest_module: 1 << 40,
    };
    let files = smbios::Config::default().build(&hardware);
    let inputs = tables::Inputs {
        acpi: None,
        smbios: Some(&files),
        processors: &[Processor { apic_id: 0, boot: true }],
        cpuid: (0, 0),
        pci_interrupts: &[],
        below_4g: MEMORY,
    };
    let placed = tables::place(&inputs).unwrap();
    for signature in [&b"$PIR"[..], b"_MP_", b"_SM_"] {
        let found = placed.writes.iter().find(|(_, data)| data.starts_with(signature)).unwrap();
        assert!(found.0 % 16 == 0 && (0xf_0000..0x10_0000).contains(&found.0));
    }
    let mut ends: Vec<_> =
        placed.writes.iter().map(|(at, data)| (*at, at + data.len() as u64)).collect();
    ends.sort();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

proptest! {
    /// A damaged image is refused or loaded, but never leaves the memory it may use, and never panics.
    #[test]
    fn hostile_images_stay_in_bounds(
        which in 0usize..6,
        damage in proptest::collection::vec((0usize..0x280, any::<u32>()), 0..6),
        cut in 0usize..0x2000,
    ) {
        let mut file = match which {
            0 => bzimage(0x20f, 1, 1),
            1 => bzimage(0x201, 0, 0),
            2 => elf32(true, None),
            3 => elf32(false, Some(3)),
            4 => elf32(false, Some(0x1_0003)),
            _ => { let mut wide = elf32(true, None); wide[4] = 2; wide }
        };
        for (at, value) in damage {
            if at + 4 <= file.len() {
                put32(&mut file, at, value);
            }
        }
        file.truncate(file.len().saturating_sub(cut % file.len()));
        if let Ok(image) = start(&file, &[module("m", 100)]) {
            for (at, length) in image.writes.iter().map(|(at, data)| (*at, data.len() as u64)).chain(image.clears) {
                prop_assert!(at + length <= MEMORY - 0x2_0000, "{:#x}+{:#x}", at, length);
                prop_assert!(at + length <= HOLE.start || at >= HOLE.end, "{:#x}+{:#x}", at, length);
            }
        }
    }
}
