//! Multiboot 1 (Multiboot Specification 0.6.96).

use super::elf::{self, number};
use super::entry::{self, RAX, RBX};
use super::low::{self, Free};
use super::pvh::{Parts, load_segments, place_modules, place_texts};
use super::{BootError, BootImage, Request};
use hw::firmware::e820::Kind;

const HEADER_MAGIC: u64 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies within so many bytes.
const SEARCH: usize = 8192;
const HAS_ADDRESSES: u32 = 1 << 16;
/// Page-aligned modules and memory information.
const KNOWN_REQUIREMENTS: u32 = 0b11;
const REQUIREMENTS: u32 = 0xffff;

const LOADER_NAME: &str = "qemu";
const INFO_LENGTH: u64 = 88;
const MODULE_LENGTH: u64 = 16;

/// The header of an image.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    offset: usize,
    flags: u32,
}

/// Finds the header; its three fields add up to zero.
pub fn find_header(file: &[u8]) -> Option<Header> {
    let end = file.len().min(SEARCH);
    (0..end).step_by(4).find_map(|offset| {
        let field = |at: usize| number(&file[..end], offset + at, 4);
        if field(0)? != HEADER_MAGIC {
            return None;
        }
        let (flags, checksum) = (field(4)? as u32, field(8)? as u32);
        let sum = (HEADER_MAGIC as u32).wrapping_add(flags).wrapping_add(checksum);
        (sum == 0).then_some(Header { offset, flags })
    })
}

/// A module as `-initrd` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleName {
    /// File to read.
    pub file: String,
    /// File name and arguments, as the kernel sees them.
    pub text: String,
}

/// Takes `-initrd "file args,file args"` apart; a doubled comma stands for one.
pub fn split_modules(option: &str) -> Vec<ModuleName> {
    let mut texts = vec![String::new()];
    let mut letters = option.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            texts.push(String::new());
        } else if let Some(text) = texts.last_mut() {
            text.push(letter);
        }
    }
    let module =
        |text: String| ModuleName { file: text.split(' ').next().unwrap_or_default().into(), text };
    texts.into_iter().filter(|text| !text.is_empty()).map(module).collect()
}

/// Loads a Multiboot kernel.
pub fn load(request: &Request<'_>, header: &Header) -> Result<BootImage, BootError> {
    if header.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS != 0 {
        return Err(BootError::MultibootFlags { file: request.name.into(), flags: header.flags });
    }
    let mut parts = Parts::default();
    let (rip, kernel_end) = if header.flags & HAS_ADDRESSES != 0 {
        load_by_addresses(request, header, &mut parts)?
    } else {
        let elf = elf::parse(request.kernel).map_err(|what| request.damaged(what))?;
        (elf.entry, load_segments(request, &elf, &mut parts)?)
    };
    if u32::try_from(rip).is_err() {
        return Err(request.damaged("the entry point lies above 4 GiB"));
    }
    let addresses = place_modules(request, request.modules, kernel_end, &mut parts)?;

    let mut free = Free::beside(&parts);
    let gdt = free.take(low::GDT, entry::GDT_LENGTH)?;

    let command_line = format!("{} {}", request.name, request.command_line);
    let module_texts = request.modules.iter().map(|module| module.text.as_str());
    let texts = [command_line.as_str(), LOADER_NAME].into_iter().chain(module_texts);
    let texts = place_texts(texts, &mut free, &mut parts)?;
    let (command_line, loader_name, module_texts) = (texts[0], texts[1], &texts[2..]);

    let map = memory_map(request);
    let map_offset = INFO_LENGTH + MODULE_LENGTH * addresses.len() as u64;
    let info_at = free.take(low::PARAMETERS, map_offset + map.len() as u64)?;
    let (modules_at, map_at) = (info_at + INFO_LENGTH, info_at + map_offset);
    let mut info = Information::default();
    const MEMORY: u32 = 1 << 0;
    const BOOT_DEVICE: u32 = 1 << 1;
    const COMMAND_LINE: u32 = 1 << 2;
    const MODULES: u32 = 1 << 3;
    const MEMORY_MAP: u32 = 1 << 6;
    const NAME: u32 = 1 << 9;
    const FIRST_DISK: u32 = 0x8000_ffff;
    const LOWER_KIB: u32 = 639;
    info.set(0, MEMORY | BOOT_DEVICE | COMMAND_LINE | MODULES | MEMORY_MAP | NAME);
    info.set(4, LOWER_KIB);
    info.set(8, (contiguous_upper(request) >> 10) as u32);
    info.set(12, FIRST_DISK);
    info.set(16, command_line as u32);
    info.set(20, addresses.len() as u32);
    info.set(24, modules_at as u32);
    info.set(44, map.len() as u32);
    info.set(48, map_at as u32);
    info.set(64, loader_name as u32);
    let mut bytes = info.0.to_vec();
    for ((module, address), text) in request.modules.iter().zip(&addresses).zip(module_texts) {
        let end = *address + module.data.len() as u64;
        for value in [*address, end, *text, 0] {
            bytes.extend((value as u32).to_le_bytes());
        }
    }
    bytes.extend(map);
    parts.writes.push((info_at, bytes));

    let mut entry = entry::protected32(rip, gdt, &mut parts.writes);
    entry.gprs[RAX] = LOADER_MAGIC;
    entry.gprs[RBX] = info_at;
    Ok(BootImage { writes: parts.writes, clears: parts.clears, screen_info: None, entry })
}

/// The information structure; fields by their offset.
struct Information([u8; INFO_LENGTH as usize]);

impl Default for Information {
    fn default() -> Information {
        Information([0; INFO_LENGTH as usize])
    }
}

impl Information {
    fn set(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Loads an image whose header says where it goes. Returns entry point and end.
fn load_by_addresses(
    request: &Request<'_>,
    header: &Header,
    parts: &mut Parts,
) -> Result<(u64, u64), BootError> {
    let field = |at: usize| {
        number(request.kernel, header.offset + at, 4)
            .ok_or_else(|| request.damaged("the Multiboot header is truncated"))
    };
    let (header_address, load_address) = (field(12)?, field(16)?);
    let (load_end, bss_end, entry) = (field(20)?, field(24)?, field(28)?);
    // The header's own address and place tell where in the file loading starts.
    let before =
        header_address.checked_sub(load_address).and_then(|before| usize::try_from(before).ok());
    let start = before.and_then(|before| header.offset.checked_sub(before));
    let start = start.ok_or_else(|| request.damaged("the Multiboot load address is impossible"))?;
    let rest = request.kernel.get(start..).unwrap_or_default();
    let length = match load_end {
        0 => rest.len() as u64,
        end => end
            .checked_sub(load_address)
            .ok_or_else(|| request.damaged("the Multiboot load end is impossible"))?,
    };
    let data = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let data =
        data.ok_or_else(|| request.damaged("the file is shorter than its Multiboot header says"))?;
    let end = (load_address + length).max(bss_end);
    request.check_room(load_address, end - load_address)?;
    parts.add(load_address, data, end - load_address);
    Ok((entry, end))
}

fn contiguous_upper(request: &Request<'_>) -> u64 {
    let first = request
        .memory_map
        .iter()
        .find(|entry| entry.kind == Kind::Ram && entry.base == super::LOWEST_KERNEL);
    first.map_or(0, |entry| entry.length)
}

fn memory_map(request: &Request<'_>) -> Vec<u8> {
    const REST_OF_ENTRY: u32 = 20;
    let record = |entry: &hw::firmware::e820::Entry| {
        let mut out = REST_OF_ENTRY.to_le_bytes().to_vec();
        out.extend(entry.base.to_le_bytes());
        out.extend(entry.length.to_le_bytes());
        out.extend((entry.kind as u32).to_le_bytes());
        out
    };
    request.memory_map.iter().flat_map(record).collect()
}
