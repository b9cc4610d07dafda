//! Linux kernels (Documentation/arch/x86/boot.rst and zero-page.rst of the kernel).

use super::elf::number;
use super::entry::{self, CpuEntry, RSI};
use super::{BootError, BootImage, LOWEST_KERNEL, LoaderFiles, PAGE, Request, low};
use hw::firmware::e820;

const SECTOR: usize = 512;
const PARAMETERS_LENGTH: usize = 0x1000;
/// Our number in the list of boot loaders.
const LOADER_ID: u8 = 0xb0;
const LOADED_HIGH: u8 = 1 << 0;
const CAN_USE_HEAP: u8 = 1 << 7;
const XLF_KERNEL_64: u64 = 1 << 0;
const ENTRY_64_OFFSET: u64 = 0x200;
const SETUP_DTB: u32 = 2;
/// Limit for initial RAM disks before kernels could say theirs.
const OLD_INITRD_MAX: u64 = 0x37ff_ffff;
const MAP_ENTRIES: usize = 128;
/// The video mode that is there already.
const NORMAL_VIDEO: u16 = 0xffff;
const CMDLINE_MAGIC: u16 = 0xa33f;
/// Distance of the command line from setup code at 0x90000, and the room there.
const OLD_CL_OFFSET: u64 = 0x9000;
const OLD_CL_ROOM: u64 = 0x800;

/// Offsets in the setup header, the same in the file and in the boot parameters.
mod field {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const VID_MODE: usize = 0x1fa;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const SETUP_DATA: usize = 0x250;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

/// Offsets in the boot parameters outside of the setup header, and in the sector of old kernels.
mod parameter {
    pub const OLD_CL_MAGIC: usize = 0x20;
    pub const OLD_CL_OFFSET: usize = 0x22;
    pub const ACPI_RSDP: usize = 0x70;
    pub const ALT_MEM_K: usize = 0x1e0;
    pub const MAP_COUNT: usize = 0x1e8;
    pub const MAP: usize = 0x2d0;
}

/// Whether the file has a setup header.
pub fn is_linux(file: &[u8]) -> bool {
    file.get(field::MAGIC..field::MAGIC + 4) == Some(b"HdrS")
        && number(file, field::BOOT_FLAG, 2) == Some(0xaa55)
}

/// How the kernel is entered, from the most to the least comfortable way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Long64,
    Protected32,
    Real,
}

struct Kernel<'a> {
    file: &'a [u8],
    version: u64,
    /// Real-mode part.
    setup: &'a [u8],
    /// Protected-mode part.
    payload: &'a [u8],
}

impl<'a> Kernel<'a> {
    fn parse(request: &Request<'a>) -> Result<Kernel<'a>, BootError> {
        let file = request.kernel;
        let sectors = match number(file, field::SETUP_SECTS, 1) {
            Some(0) | None => 4,
            Some(sectors) => sectors as usize,
        };
        let setup_length = (sectors + 1) * SECTOR;
        let (setup, payload) = file
            .split_at_checked(setup_length)
            .ok_or_else(|| request.damaged("its setup code is truncated"))?;
        if payload.is_empty() {
            return Err(request.damaged("it has no code behind its setup code"));
        }
        let version = number(file, field::VERSION, 2).unwrap_or(0);
        if version < 0x200 {
            return Err(BootError::UnknownFormat);
        }
        Ok(Kernel { file, version, setup, payload })
    }

    /// A field of the header that exists since `version`.
    fn since(&self, version: u64, at: usize, size: usize) -> Option<u64> {
        // The header is as long as its jump over itself; what lies behind is code.
        let end = field::MAGIC + usize::from(self.file.get(field::JUMP).copied().unwrap_or(0));
        if self.version < version || at + size > end {
            return None;
        }
        number(self.file, at, size)
    }

    fn way(&self, command_line: &str, long_mode: bool) -> Way {
        let loaded_high = number(self.file, field::LOADFLAGS, 1)
            .is_some_and(|flags| flags as u8 & LOADED_HIGH != 0);
        let has_64 =
            self.since(0x20c, field::XLOADFLAGS, 2).is_some_and(|flags| flags & XLF_KERNEL_64 != 0);
        match () {
            // Older kernels and what calls itself one, like memory disks, know no other entry.
            _ if !loaded_high || self.version < 0x206 => Way::Real,
            // Programs that call themselves Linux to be loaded, like iPXE, have no other entry.
            _ if self.code32_start() == 0 => Way::Real,
            // The kernel's own setup code has the BIOS of the display set the mode.
            _ if video_mode(command_line) != NORMAL_VIDEO => Way::Real,
            _ if has_64 && long_mode => Way::Long64,
            _ => Way::Protected32,
        }
    }

    /// Where the kernel wants to be loaded; others have no code for protected mode.
    fn code32_start(&self) -> u64 {
        number(self.file, field::CODE32_START, 4).unwrap_or(0)
    }

    /// Where the protected-mode part goes, and the end of the memory that it needs before it knows the memory map.
    fn place(&self, request: &Request<'_>, way: Way) -> Result<(u64, u64), BootError> {
        let length = self.payload.len() as u64;
        let loaded_high =
            self.setup.get(field::LOADFLAGS).is_some_and(|flags| flags & LOADED_HIGH != 0);
        if way == Way::Real && !loaded_high {
            // A zImage goes to the first 512 KiB, below its setup code.
            let room = low::END - low::REAL_MODE;
            if length > room {
                return Err(BootError::KernelTooLarge {
                    file: request.name.into(),
                    need: length,
                    room,
                });
            }
            return Ok((low::REAL_MODE, LOWEST_KERNEL));
        }
        let fixed = self.since(0x205, field::RELOCATABLE, 1).unwrap_or(0) == 0;
        let start = match self.code32_start() {
            start if fixed && start >= LOWEST_KERNEL => start,
            _ => LOWEST_KERNEL,
        };
        let preferred = self.since(0x20a, field::PREF_ADDRESS, 8).unwrap_or(start).max(start);
        let runtime = self.since(0x20a, field::INIT_SIZE, 4).unwrap_or(0);
        let end = request.check_room(start, length)?.max(request.check_room(preferred, runtime)?);
        Ok((start, end))
    }

    /// The boot parameters: the kernel's own header in an otherwise empty page.
    fn parameters(&self) -> Vec<u8> {
        let mut page = vec![0; PARAMETERS_LENGTH];
        let end = (field::MAGIC + usize::from(self.file[field::JUMP]))
            .min(self.file.len())
            .min(parameter::MAP);
        page[field::SETUP_SECTS..end].copy_from_slice(&self.file[field::SETUP_SECTS..end]);
        page
    }
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Whether the kernel begins with code that calls the BIOS.
pub fn calls_bios(request: &Request<'_>) -> bool {
    Kernel::parse(request)
        .is_ok_and(|kernel| kernel.way(request.command_line, request.long_mode) == Way::Real)
}

/// Loads a kernel image.
pub fn load(request: &Request<'_>) -> Result<BootImage, BootError> {
    let kernel = Kernel::parse(request)?;
    let way = kernel.way(request.command_line, request.long_mode);
    let Parts { code, setup: (setup_at, mut page), command_line, initrd, setup_data } =
        place(request, &kernel, way)?;
    let start = code.0;
    let mut writes = vec![code, command_line];
    writes.extend(initrd);
    if way != Way::Real {
        if let Some((at, _)) = &setup_data {
            put(&mut page, field::SETUP_DATA, &at.to_le_bytes());
        }
        writes.extend(setup_data);
        describe_memory(request, &mut page);
        put(&mut page, parameter::ACPI_RSDP, &request.rsdp.unwrap_or(0).to_le_bytes());
        put(&mut page, field::CODE32_START, &(start as u32).to_le_bytes());
    }
    let entry = enter(way, start, setup_at, page, &mut writes);
    let screen_info = (way != Way::Real).then_some(low::PARAMETERS);
    Ok(BootImage { writes, clears: vec![], screen_info, entry })
}

/// What a boot loader in firmware puts into memory before it runs the kernel's setup code.
pub fn for_loader(request: &Request<'_>) -> Result<LoaderFiles, BootError> {
    let kernel = Kernel::parse(request)?;
    let Parts { code, setup, command_line, initrd, .. } = place(request, &kernel, Way::Real)?;
    Ok(LoaderFiles { setup, code, command_line, initrd: initrd.unwrap_or_default() })
}

/// The parts of a kernel, each with its place.
struct Parts {
    code: (u64, Vec<u8>),
    /// Setup code, or the parameters that it would make.
    setup: (u64, Vec<u8>),
    command_line: (u64, Vec<u8>),
    initrd: Option<(u64, Vec<u8>)>,
    /// What is handed over besides the parameters.
    setup_data: Option<(u64, Vec<u8>)>,
}

fn place(request: &Request<'_>, kernel: &Kernel<'_>, way: Way) -> Result<Parts, BootError> {
    let (start, end) = kernel.place(request, way)?;
    let old = kernel.version < 0x202;
    let setup_at = if old || start < LOWEST_KERNEL { low::END } else { low::REAL_MODE };
    let mut page = match way {
        Way::Real => kernel.setup.to_vec(),
        _ => kernel.parameters(),
    };
    page.resize(page.len().max(PARAMETERS_LENGTH), 0);

    put(&mut page, field::TYPE_OF_LOADER, &[LOADER_ID]);
    put(&mut page, field::VID_MODE, &video_mode(request.command_line).to_le_bytes());
    if kernel.version >= 0x201 {
        const HEAP_END: u16 = 0xe000 - 0x200;
        page[field::LOADFLAGS] |= CAN_USE_HEAP;
        put(&mut page, field::HEAP_END_PTR, &HEAP_END.to_le_bytes());
    }
    let (command_line_at, room) = match setup_at {
        low::REAL_MODE => (low::TEXT, low::END - low::TEXT),
        _ => (setup_at + OLD_CL_OFFSET, OLD_CL_ROOM),
    };
    let mut command_line: Vec<u8> =
        request.command_line.bytes().filter(|byte| *byte != 0).collect();
    command_line.push(0);
    if command_line.len() as u64 > room {
        return Err(BootError::CommandLineTooLong { max: room, need: command_line.len() as u64 });
    }
    if old {
        put(&mut page, parameter::OLD_CL_MAGIC, &CMDLINE_MAGIC.to_le_bytes());
        put(&mut page, parameter::OLD_CL_OFFSET, &(OLD_CL_OFFSET as u16).to_le_bytes());
    } else {
        put(&mut page, field::CMD_LINE_PTR, &(command_line_at as u32).to_le_bytes());
    }
    let setup_data = setup_data(request, kernel, end);
    let ends = setup_data.iter().map(|(at, data)| at + data.len() as u64);
    let initrd = place_initrd(request, kernel, ends.fold(end, u64::max), &mut page)?;
    Ok(Parts {
        code: (start, kernel.payload.to_vec()),
        setup: (setup_at, page),
        command_line: (command_line_at, command_line),
        initrd,
        setup_data,
    })
}

/// Hands over the parameters in the way that the entry wants them.
fn enter(
    way: Way,
    start: u64,
    setup_at: u64,
    page: Vec<u8>,
    writes: &mut Vec<(u64, Vec<u8>)>,
) -> CpuEntry {
    if way == Way::Real {
        writes.push((setup_at, page));
        let segment = (setup_at >> 4) as u16;
        // Execution starts one sector behind the setup code's first.
        return entry::real(segment + (SECTOR >> 4) as u16, 0, segment, 0xe000);
    }
    writes.push((low::PARAMETERS, page));
    writes.extend(bios_data());
    let mut entry = match way {
        Way::Long64 => entry::long64(start + ENTRY_64_OFFSET, writes),
        _ => entry::protected32(start, low::GDT, writes),
    };
    entry.gprs[RSI] = low::PARAMETERS;
    entry
}

/// What kernels read from the BIOS data area to find the end of base memory: the extended data area's segment and the
/// size in KiB.
fn bios_data() -> [(u64, Vec<u8>); 2] {
    const EXTENDED_SEGMENT: u16 = 0x9fc0;
    const BASE_KIB: u16 = 639;
    [(0x40e, EXTENDED_SEGMENT.to_le_bytes().to_vec()), (0x413, BASE_KIB.to_le_bytes().to_vec())]
}

/// `vga=` is an argument to the boot loader.
fn video_mode(command_line: &str) -> u16 {
    let value =
        command_line.split_ascii_whitespace().rev().find_map(|word| word.strip_prefix("vga="));
    match value {
        Some("ext") => 0xfffe,
        Some("ask") => 0xfffd,
        Some(value) => match value.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).unwrap_or(NORMAL_VIDEO),
            None => value.parse().unwrap_or(NORMAL_VIDEO),
        },
        None => NORMAL_VIDEO,
    }
}

/// The initial RAM disk goes as high as the kernel allows; further modules are appended to it.
fn place_initrd(
    request: &Request<'_>,
    kernel: &Kernel<'_>,
    kernel_end: u64,
    page: &mut [u8],
) -> Result<Option<(u64, Vec<u8>)>, BootError> {
    let size: u64 = request.modules.iter().map(|module| module.data.len() as u64).sum();
    if size == 0 {
        return Ok(None);
    }
    let highest = kernel
        .since(0x203, field::INITRD_ADDR_MAX, 4)
        .filter(|max| *max > 0)
        .unwrap_or(OLD_INITRD_MAX);
    let max = highest.min(request.usable_below_4g.saturating_sub(1));
    let too_large = BootError::InitrdTooLarge { max, need: size };
    let start = (max + 1).checked_sub(size).ok_or(too_large.clone())? & !(PAGE - 1);
    let (Ok(start32), Ok(size32)) = (u32::try_from(start), u32::try_from(size)) else {
        return Err(too_large);
    };
    if start < kernel_end {
        return Err(too_large);
    }
    put(page, field::RAMDISK_IMAGE, &start32.to_le_bytes());
    put(page, field::RAMDISK_SIZE, &size32.to_le_bytes());
    let data = request.modules.iter().flat_map(|module| module.data.iter().copied()).collect();
    Ok(Some((start, data)))
}

/// What is handed over besides the parameters, with its place: the device tree, which can be large and
/// goes behind the kernel.
fn setup_data(
    request: &Request<'_>,
    kernel: &Kernel<'_>,
    kernel_end: u64,
) -> Option<(u64, Vec<u8>)> {
    kernel.since(0x209, field::SETUP_DATA, 8)?;
    let tree = request.device_tree?;
    // No successor.
    let mut node = 0_u64.to_le_bytes().to_vec();
    node.extend(SETUP_DTB.to_le_bytes());
    node.extend((tree.len() as u32).to_le_bytes());
    node.extend(tree);
    Some((kernel_end.next_multiple_of(PAGE), node))
}

/// The memory map, and for kernels that do not read it the size of memory above 1 MiB.
fn describe_memory(request: &Request<'_>, page: &mut [u8]) {
    let map = &request.memory_map[..request.memory_map.len().min(MAP_ENTRIES)];
    page[parameter::MAP_COUNT] = map.len() as u8;
    put(page, parameter::MAP, &e820::encode(map));
    let extended_kib = request.usable_below_4g.saturating_sub(LOWEST_KERNEL) >> 10;
    put(page, parameter::ALT_MEM_K, &(extended_kib as u32).to_le_bytes());
}
