//! PVH: the entry that Xen defines for unmodified 32- and 64-bit ELF kernels (xen/include/public/arch-x86/hvm/
//! start_info.h).

use super::elf::{self, Elf};
use super::entry::{self, RBX};
use super::{BootError, BootImage, Module, PAGE, Request, low};

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
        request.check_room(super::LOWEST_KERNEL, total)?;
        let in_file = segment.data.len() as u64;
        image.writes.push((segment.address, segment.data.to_vec()));
        if segment.size > in_file {
            image.clears.push((segment.address + in_file, segment.size - in_file));
        }
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

/// Places modules behind the kernel, each on a page of its own. Returns their addresses.
pub fn place_modules(
    request: &Request<'_>,
    modules: &[Module],
    kernel_end: u64,
    parts: &mut Parts,
) -> Result<Vec<u64>, BootError> {
    let mut next = kernel_end;
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

/// Text in low memory: strings one behind the other, each ended by a zero.
pub struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// Nothing yet.
    pub fn new() -> Text {
        Text { bytes: vec![] }
    }

    /// Adds a string and returns its address.
    pub fn add(&mut self, text: &str) -> u64 {
        let address = low::TEXT + self.bytes.len() as u64;
        self.bytes.extend(text.bytes().filter(|byte| *byte != 0));
        self.bytes.push(0);
        address
    }

    /// The write, if all fits.
    pub fn finish(self) -> Result<(u64, Vec<u8>), BootError> {
        let (max, need) = (low::END - low::TEXT, self.bytes.len() as u64);
        if need > max {
            return Err(BootError::CommandLineTooLong { max, need });
        }
        Ok((low::TEXT, self.bytes))
    }
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

    let mut text = Text::new();
    let command_line = text.add(request.command_line);
    let module_texts: Vec<u64> =
        request.modules.iter().map(|module| text.add(&module.text)).collect();
    parts.writes.push(text.finish()?);

    let modules_at = low::PARAMETERS + START_INFO_LENGTH;
    let map_at = modules_at + MODULE_LENGTH * addresses.len() as u64;
    if map_at + MAP_ENTRY_LENGTH * request.memory_map.len() as u64 > low::PAGE_TABLES {
        return Err(request.damaged("too many modules"));
    }
    let mut info: Vec<u8> = vec![];
    for value in [START_MAGIC, VERSION, 0, addresses.len() as u32] {
        info.extend(value.to_le_bytes());
    }
    for value in [modules_at, command_line, request.rsdp.unwrap_or(0), map_at] {
        info.extend(value.to_le_bytes());
    }
    info.extend((request.memory_map.len() as u32).to_le_bytes());
    info.extend([0; 4]);
    for ((module, address), text) in request.modules.iter().zip(&addresses).zip(&module_texts) {
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
    parts.writes.push((low::PARAMETERS, info));

    let mut entry = entry::protected32(rip, &mut parts.writes);
    entry.gprs[RBX] = low::PARAMETERS;
    Ok(BootImage { writes: parts.writes, clears: parts.clears, screen_info: None, entry })
}
