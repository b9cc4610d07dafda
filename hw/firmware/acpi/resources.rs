//! Resource descriptors for `_CRS` and `_PRS` (ACPI 6.4, 6.4).

use super::aml::{self, Aml};

/// One descriptor.
#[derive(Clone, Debug)]
pub struct Resource(Vec<u8>);

/// Kind of an address window that a bridge passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Memory with side effects.
    Memory,
    /// Memory that may be cached.
    CacheableMemory,
}

/// A buffer that holds the given descriptors.
pub fn template(resources: impl IntoIterator<Item = Resource>) -> Aml {
    let mut bytes: Vec<u8> = resources.into_iter().flat_map(|resource| resource.0).collect();
    // End tag; a checksum byte of zero means "not checked".
    bytes.extend([0x79, 0x00]);
    aml::buffer(&bytes)
}

/// Ports at a fixed place, decoded with 16 bits.
pub fn io(base: u16, alignment: u8, length: u8) -> Resource {
    let [low, high] = base.to_le_bytes();
    Resource(vec![0x47, 0x01, low, high, low, high, alignment, length])
}

/// An ISA interrupt: edge triggered, active high, exclusive.
pub fn irq(line: u8) -> Resource {
    let [low, high] = (1u16 << (line & 15)).to_le_bytes();
    Resource(vec![0x22, low, high])
}

/// An 8-bit ISA DMA channel in compatibility mode.
pub fn dma(channel: u8) -> Resource {
    Resource(vec![0x2a, 1 << (channel & 7), 0x00])
}

/// Global interrupts: level triggered, active high, shared. One or several to choose from.
pub fn interrupts(lines: &[u32]) -> Resource {
    const CONSUMER_LEVEL_HIGH_SHARED: u8 = 0x09;
    let length = (2 + 4 * lines.len()) as u16;
    let mut out = vec![0x89];
    out.extend(length.to_le_bytes());
    out.extend([CONSUMER_LEVEL_HIGH_SHARED, lines.len() as u8]);
    out.extend(lines.iter().flat_map(|line| line.to_le_bytes()));
    Resource(out)
}

/// Offset of the first interrupt number in [`interrupts`].
pub const INTERRUPTS_NUMBER: u64 = 5;

/// Read-only memory at a fixed 32-bit address.
pub fn memory32_fixed(base: u32, length: u32) -> Resource {
    let mut out = vec![0x86, 0x09, 0x00, 0x00];
    out.extend(base.to_le_bytes());
    out.extend(length.to_le_bytes());
    Resource(out)
}

// General flags: minimum and maximum are fixed, positive decoding, the device produces the range.
const FIXED_PRODUCER: u8 = 0x0c;

/// Head of an address space descriptor: tag, length, resource type, general and type-specific flags.
fn address_space(tag: u8, kind: u8, type_flags: u8, numbers: &[u8]) -> Resource {
    let mut out = vec![tag];
    out.extend((3 + numbers.len() as u16).to_le_bytes());
    out.extend([kind, FIXED_PRODUCER, type_flags]);
    out.extend_from_slice(numbers);
    Resource(out)
}

fn words(first: u16, last: u16) -> Vec<u8> {
    let length = last.wrapping_sub(first).wrapping_add(1);
    [0, first, last, 0, length].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Bus numbers `first..=last` behind a bridge.
pub fn bus_numbers(first: u16, last: u16) -> Resource {
    address_space(0x88, 2, 0, &words(first, last))
}

/// Ports `first..=last` behind a bridge.
pub fn io_window(first: u16, last: u16) -> Resource {
    const ENTIRE_RANGE: u8 = 3;
    address_space(0x88, 1, ENTIRE_RANGE, &words(first, last))
}

fn memory_flags(window: Window) -> u8 {
    const READ_WRITE: u8 = 1;
    const CACHEABLE: u8 = 1 << 1;
    match window {
        Window::Memory => READ_WRITE,
        Window::CacheableMemory => READ_WRITE | CACHEABLE,
    }
}

/// Memory `first..=last` below 4 GiB behind a bridge.
pub fn memory32_window(window: Window, first: u32, last: u32) -> Resource {
    let length = last.wrapping_sub(first).wrapping_add(1);
    let numbers = [0, first, last, 0, length];
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    address_space(0x87, 0, memory_flags(window), &bytes)
}

/// Memory `first..=last` anywhere behind a bridge.
pub fn memory64_window(window: Window, first: u64, last: u64) -> Resource {
    let length = last.wrapping_sub(first).wrapping_add(1);
    let numbers = [0, first, last, 0, length];
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    address_space(0x8a, 0, memory_flags(window), &bytes)
}
