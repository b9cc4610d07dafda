//! PVH: the entry that Xen defines for unmodified 32- and 64-bit ELF kernels (xen/include/public/arch-x86/hvm/
//! start_info.h).

use super::elf::{self, Elf};
use super::entry::{self, RBX};
use super::low::{self, Free};
use super::{BootError, BootImage, HOLE, LOWEST_KERNEL, Module, PAGE, Request};

const NOTE_OWNER: &[u8] = b"Xen";
const NOTE_PHYS32_ENTRY: u64 = 18;
const START_MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_LENGTH: u64 = 56;
const MODULE_LENGTH: u64 = 32;
const MAP_ENTRY_LENGTH: u64 = 24;

/// Writes for segments, and the end of the highest one.
pub fn load_segments(
    request: &Request<'_>,
    elf: &Elf<'_>,
    image: &mut Parts,
) -> Result<u64, BootError> {
    let (mut end, mut total) = (0, 0_u64);
    for segment in &elf.segments {
        end = end.max(request.check_room(segment.address, segment.size)?);
        // Together they fit as well: else they lie on top of each other.
        total = total.saturating_add(segment.size);
        request.check_room(0, total)?;
        image.add(segment.address, segment.data, segment.size);
    }
    if end == 0 {
        return Err(request.damaged("it has no segments"));
    }
    Ok(end)
}

/// What an image is made of, before the entry state is known.
#[derive(Default)]
pub struct Parts {
    /// See [`BootImage::writes`].
    pub writes: Vec<(u64, Vec<u8>)>,
    /// See [`BootImage::clears`].
    pub clears: Vec<(u64, u64)>,
}

impl Parts {
    /// Adds bytes and the zeroes behind them, together `size`. What would lie where there is no memory is left out:
    /// linkers put the headers of a file before the first megabyte's end, and nobody reads them there.
    pub fn add(&mut self, address: u64, data: &[u8], size: u64) {
        let end = address + size;
        for part in [address..end.min(HOLE.start), address.max(HOLE.end)..end] {
            if part.is_empty() {
                continue;
            }
            let from = data.len().min((part.start - address) as usize);
            let to = data.len().min((part.end - address) as usize);
            let zeroes = part.start + (to - from) as u64..part.end;
            if from < to {
                self.writes.push((part.start, data[from..to].to_vec()));
            }
            if !zeroes.is_empty() {
                self.clears.push((zeroes.start, zeroes.end - zeroes.start));
            }
        }
    }
}

/// Places modules behind the kernel, each on a page of its own. Returns their addresses.
pub fn place_modules(
    request: &Request<'_>,
    modules: &[Module],
    kernel_end: u64,
    parts: &mut Parts,
) -> Result<Vec<u64>, BootError> {
    let mut next = kernel_end.max(LOWEST_KERNEL);
    let mut addresses = vec![];
    for module in modules {
        let length = module.data.len() as u64;
        let start = next.next_multiple_of(PAGE);
        let end = start.saturating_add(length);
        if end > request.usable_below_4g {
            return Err(BootError::InitrdTooLarge {
                max: request.usable_below_4g.saturating_sub(1),
                need: length,
            });
        }
        addresses.push(start);
        parts.writes.push((start, module.data.clone()));
        next = end;
    }
    Ok(addresses)
}

/// Texts in low memory: strings one behind the other, each ended by a zero. Returns their addresses.
pub fn place_texts<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    free: &mut Free,
    parts: &mut Parts,
) -> Result<Vec<u64>, BootError> {
    let (mut bytes, mut offsets) = (vec![], vec![]);
    for text in texts {
        offsets.push(bytes.len() as u64);
        bytes.extend(text.bytes().filter(|byte| *byte != 0));
        bytes.push(0);
    }
    let (max, need) = (low::END - low::TEXT, bytes.len() as u64);
    if need > max {
        return Err(BootError::CommandLineTooLong { max, need });
    }
    let at = free.take(low::TEXT, need)?;
    parts.writes.push((at, bytes));
    Ok(offsets.into_iter().map(|offset| at + offset).collect())
}

/// Loads a kernel by its PVH note.
pub fn load(request: &Request<'_>) -> Result<BootImage, BootError> {
    let elf = elf::parse(request.kernel).map_err(|what| request.damaged(what))?;
    let note = elf.note(NOTE_OWNER, NOTE_PHYS32_ENTRY).ok_or(BootError::NoPvhNote)?;
    let rip =
        elf::number(note, 0, 4).ok_or_else(|| request.damaged("the PVH note is too short"))?;
    let mut parts = Parts::default();
    let kernel_end = load_segments(request, &elf, &mut parts)?;
    let addresses = place_modules(request, request.modules, kernel_end, &mut parts)?;
    let mut free = Free::beside(&parts);
    let gdt = free.take(low::GDT, entry::GDT_LENGTH)?;

    let module_texts = request.modules.iter().map(|module| module.text.as_str());
    let texts = std::iter::once(request.command_line).chain(module_texts);
    let texts = place_texts(texts, &mut free, &mut parts)?;
    let (command_line, module_texts) = (texts[0], &texts[1..]);

    let map_offset = START_INFO_LENGTH + MODULE_LENGTH * addresses.len() as u64;
    let length = map_offset + MAP_ENTRY_LENGTH * request.memory_map.len() as u64;
    let info_at = free.take(low::PARAMETERS, length)?;
    let (modules_at, map_at) = (info_at + START_INFO_LENGTH, info_at + map_offset);
    let mut info: Vec<u8> = vec![];
    for value in [START_MAGIC, VERSION, 0, addresses.len() as u32] {
        info.extend(value.to_le_bytes());
    }
    for value in [modules_at, command_line, request.rsdp.unwrap_or(0), map_at] {
        info.extend(value.to_le_bytes());
    }
    info.extend((request.memory_map.len() as u32).to_le_bytes());
    info.extend([0; 4]);
    for ((module, address), text) in request.modules.iter().zip(&addresses).zip(module_texts) {
        for value in [*address, module.data.len() as u64, *text, 0] {
            info.extend(value.to_le_bytes());
        }
    }
    for entry in request.memory_map {
        info.extend(entry.base.to_le_bytes());
        info.extend(entry.length.to_le_bytes());
        info.extend((entry.kind as u32).to_le_bytes());
        info.extend([0; 4]);
    }
    parts.writes.push((info_at, info));

    let mut entry = entry::protected32(rip, gdt, &mut parts.writes);
    entry.gprs[RBX] = info_at;
    Ok(BootImage { writes: parts.writes, clears: parts.clears, screen_info: None, entry })
}
