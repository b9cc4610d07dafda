//! Firmware tables for a kernel that is booted without firmware: found in the same places, with the same contents.

use super::BootError;
use hw::firmware::acpi::loader::Zone;
use hw::firmware::acpi::{self, AcpiFiles};
use hw::firmware::mptable::{self, Processor};
use hw::firmware::pirq;
use hw::firmware::smbios::SmbiosFiles;

/// What goes into the tables.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// ACPI tables, unless switched off.
    pub acpi: Option<&'a AcpiFiles>,
    /// SMBIOS structures.
    pub smbios: Option<&'a SmbiosFiles>,
    /// CPUs for the MultiProcessor table.
    pub processors: &'a [Processor],
    /// CPUID leaf 1: EAX and EDX.
    pub cpuid: (u32, u32),
    /// PCI interrupts for the MultiProcessor table: slot, pin and IOAPIC input.
    pub pci_interrupts: &'a [(u8, u8, u8)],
    /// Memory below 4 GiB.
    pub below_4g: u64,
}

/// Where the tables went.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Bytes to write, with their addresses. Those from 0xF0000 on lie in the shadow of the firmware's ROM.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Address of the ACPI root pointer.
    pub rsdp: Option<u64>,
    /// Address of the FACS, where an operating system says how it wants to be woken.
    pub facs: Option<u64>,
    /// Bytes taken at the end of low memory, to be reserved in the memory map.
    pub reserved_top: u64,
    /// Addresses that devices asked for, by fw_cfg file.
    pub reports: Vec<(String, Vec<u8>)>,
}

/// What firmware may take at the end of low memory for the tables that it places.
pub const RESERVED_BY_FIRMWARE: u64 = 0x2_8000;

/// The part of the ROM segment that holds root pointers and small tables.
const SEGMENT: std::ops::Range<u64> = 0xf_0000..0x10_0000;
/// Kernels look for most root pointers on such boundaries only.
const PARAGRAPH: u64 = 16;

struct Allocator {
    segment_next: u64,
    top: u64,
}

impl Allocator {
    fn segment(&mut self, size: u64, align: u64) -> Option<u64> {
        let start = self.segment_next.checked_next_multiple_of(align.max(1))?;
        let end = start.checked_add(size).filter(|end| *end <= SEGMENT.end)?;
        self.segment_next = end;
        Some(start)
    }

    fn high(&mut self, size: u64, align: u64) -> Option<u64> {
        let start = self.top.checked_sub(size)?;
        self.top = start - start % align.max(1);
        (self.top >= SEGMENT.end).then_some(self.top)
    }
}

/// Places all tables.
pub fn place(inputs: &Inputs<'_>) -> Result<Placed, BootError> {
    let mut allocator = Allocator { segment_next: SEGMENT.start, top: inputs.below_4g };
    let mut placed = Placed::default();
    let no_room = BootError::NoRoomForTables;

    let pirq = pirq::build();
    let at = allocator.segment(pirq.len() as u64, PARAGRAPH).ok_or(no_room.clone())?;
    placed.writes.push((at, pirq));

    // The table's size does not depend on where it lies.
    let table = |at| mptable::build(at, inputs.processors, inputs.cpuid, inputs.pci_interrupts);
    let at = allocator.segment(table(0).len() as u64, PARAGRAPH).ok_or(no_room.clone())?;
    placed.writes.push((at, table(at as u32)));

    if let Some(files) = inputs.smbios {
        let tables_at = match allocator.segment(files.tables.len() as u64, PARAGRAPH) {
            Some(at) => at,
            None => {
                allocator.high(files.tables.len() as u64, super::PAGE).ok_or(no_room.clone())?
            }
        };
        let anchor = files.anchor_at(tables_at).ok_or(no_room.clone())?;
        let at = allocator.segment(anchor.len() as u64, PARAGRAPH).ok_or(no_room.clone())?;
        placed.writes.push((at, anchor));
        placed.writes.push((tables_at, files.tables.clone()));
    }
    if let Some(files) = inputs.acpi {
        let image = acpi::place(files, |size, align, zone| match zone {
            Zone::BiosSegment => allocator.segment(size, align),
            Zone::High => allocator.high(size, align),
        })
        .map_err(|_| no_room)?;
        placed.rsdp = image.address(acpi::RSDP_FILE);
        // It is the first of the tables, for its alignment.
        placed.facs = image.address(acpi::TABLES_FILE);
        placed.writes.extend(image.files.into_iter().map(|(_, address, data)| (address, data)));
        placed.reports = image.reports;
    }
    placed.reserved_top = inputs.below_4g - allocator.top;
    Ok(placed)
}
