//! ACPI tables of the i440FX board, from a plain description of it.
//!
//! [`build`] turns a [`Board`] into the three files that firmware finds in fw_cfg: the tables with all addresses
//! still relative, the root pointer, and the loader script that relocates both ([`loader`]). For a direct boot
//! [`place`] runs the same script against addresses that we choose.

pub mod aml;
mod cpus;
mod dsdt;
mod isa;
pub mod loader;
mod pci;
mod resources;
mod tables;

use loader::{Command, Image, LoaderError, Script, Zone};

/// Identification in every table header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oem {
    /// Six characters, padded.
    pub id: [u8; 6],
    /// Eight characters, padded.
    pub table_id: [u8; 8],
}

impl Default for Oem {
    fn default() -> Oem {
        Oem { id: *b"BOCHS ", table_id: *b"BXPC    " }
    }
}

/// One possible CPU, in the order of the hotplug controller's selector.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Local APIC identifier.
    pub apic_id: u32,
    /// Whether it is there at power-on.
    pub present: bool,
    /// Whether it can be taken out (the boot CPU cannot).
    pub removable: bool,
    /// NUMA node, when the machine has nodes.
    pub node: Option<u32>,
}

/// The fixed power management hardware.
#[derive(Clone, Debug)]
pub struct PowerManagement {
    /// First port of the PIIX4 power management block.
    pub io_base: u16,
    /// Interrupt of the SCI.
    pub sci_irq: u8,
    /// First port and length of the general purpose event block.
    pub gpe: (u16, u8),
    /// Whether the machine can suspend to RAM.
    pub s3: bool,
    /// The sleep type that means "suspend to disk", when the machine can.
    pub s4: Option<u8>,
}

impl Default for PowerManagement {
    fn default() -> PowerManagement {
        PowerManagement { io_base: 0x600, sci_irq: 9, gpe: (0xafe0, 4), s3: true, s4: Some(2) }
    }
}

/// What sits at a function of a PCI bus.
#[derive(Clone, Debug)]
pub enum PciKind {
    /// Anything that needs no description of its own.
    Plain,
    /// A display adapter, kept powered in every sleep state.
    Display,
    /// The ISA bridge with the devices behind it.
    IsaBridge(IsaDevices),
    /// A PCI bridge with its secondary bus.
    Bridge(PciBus),
}

/// One function on a PCI bus.
#[derive(Clone, Debug)]
pub struct PciFunction {
    /// Slot and function: `slot << 3 | function`.
    pub devfn: u8,
    /// What it is.
    pub kind: PciKind,
    /// Whether it may be unplugged at run time.
    pub hotpluggable: bool,
}

/// A PCI bus.
#[derive(Clone, Debug, Default)]
pub struct PciBus {
    /// The bus's number in the hotplug controller's selector, when cards can be plugged there at run time.
    pub hotplug_number: Option<u32>,
    /// What is on it, by ascending `devfn`.
    pub functions: Vec<PciFunction>,
}

/// Floppy drives that the controller can announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloppyDrive {
    /// Drive type as in CMOS register 0x10: 2 is 1.2 MB, 4 is 1.44 MB, 5 is 2.88 MB.
    pub kind: u8,
    /// Highest cylinder, sector count and highest head.
    pub geometry: (u8, u8, u8),
}

/// Devices behind the ISA bridge.
#[derive(Clone, Debug)]
pub struct IsaDevices {
    /// Port of the panic event device.
    pub pvpanic: Option<u16>,
    /// PS/2 keyboard and mouse.
    pub keyboard: bool,
    /// Floppy controller with its two drives.
    pub floppy: Option<[Option<FloppyDrive>; 2]>,
    /// Parallel ports 1 to 3.
    pub parallel: Vec<LegacyPort>,
    /// Serial ports COM1 to COM4, in the order in which they are listed.
    pub serial: Vec<LegacyPort>,
    /// Real-time clock.
    pub rtc: bool,
}

/// A serial or parallel port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyPort {
    /// Number, from 1.
    pub number: u8,
    /// First of eight ports.
    pub io_base: u16,
    /// Interrupt.
    pub irq: u8,
}

/// A stretch of memory with the NUMA node it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumaMemory {
    /// Node.
    pub node: u32,
    /// First address.
    pub base: u64,
    /// Number of bytes.
    pub length: u64,
}

/// NUMA topology.
#[derive(Clone, Debug, Default)]
pub struct Numa {
    /// Number of nodes.
    pub nodes: u32,
    /// Memory by ascending address, see [`numa_memory`].
    pub memory: Vec<NumaMemory>,
    /// Distance from each node to each node, row by row; `None` when none was given.
    pub distances: Option<Vec<u8>>,
}

/// A PCI Express configuration window.
#[derive(Clone, Copy, Debug)]
pub struct ExpressWindow {
    /// First address.
    pub base: u64,
    /// Last bus it covers.
    pub last_bus: u8,
}

/// The board as the tables describe it.
#[derive(Clone, Debug)]
pub struct Board {
    /// Identification.
    pub oem: Oem,
    /// All possible CPUs.
    pub cpus: Vec<Cpu>,
    /// Power management.
    pub power: PowerManagement,
    /// `_UID` of the PCI root; machine types before 5.2 say 1, later ones 0.
    pub pci_root_uid: u8,
    /// The root bus.
    pub pci: PciBus,
    /// Memory below 4 GiB that PCI devices may use: first and last address.
    pub pci_window: (u32, u32),
    /// The same above 4 GiB.
    pub pci_window64: Option<(u64, u64)>,
    /// PCI Express configuration window.
    pub express: Option<ExpressWindow>,
    /// First port of the CPU hotplug controller.
    pub cpu_hotplug: Option<u16>,
    /// First port of the PCI hotplug controller.
    pub pci_hotplug: Option<u16>,
    /// First port of fw_cfg.
    pub fw_cfg: Option<u16>,
    /// High precision event timer.
    pub hpet: bool,
    /// NUMA topology.
    pub numa: Option<Numa>,
    /// Generation identifier of the virtual machine, as it lies in memory.
    pub generation_id: Option<[u8; 16]>,
}

/// fw_cfg file with the tables.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// fw_cfg file with the root pointer.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// fw_cfg file with the loader script.
pub const LOADER_FILE: &str = "etc/table-loader";
/// fw_cfg file with the generation identifier's page.
pub const GENERATION_ID_FILE: &str = "etc/vmgenid_guid";
/// fw_cfg file into which firmware writes the address of the generation identifier.
pub const GENERATION_ID_ADDRESS_FILE: &str = "etc/vmgenid_addr";

/// Where the generation identifier lies in its page: firmware puts a header in front.
pub const GENERATION_ID_OFFSET: u32 = 0x28;
const GENERATION_ID_PAGE: usize = 0x1000;

/// The tables are padded, so that what firmware reserves does not depend on the number of devices.
const TABLES_ALIGNMENT: usize = 0x2_0000;
const LOADER_ALIGNMENT: usize = 0x1000;

/// What [`build`] makes.
#[derive(Clone, Debug)]
pub struct AcpiFiles {
    /// Contents of [`TABLES_FILE`].
    pub tables: Vec<u8>,
    /// Contents of [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// The script; its encoding is the contents of [`LOADER_FILE`].
    pub script: Script,
    /// Contents of [`GENERATION_ID_FILE`].
    pub generation_id: Option<Vec<u8>>,
}

impl AcpiFiles {
    /// Contents of [`LOADER_FILE`].
    pub fn loader_file(&self) -> Vec<u8> {
        let mut bytes = self.script.encode();
        bytes.resize(bytes.len().next_multiple_of(LOADER_ALIGNMENT), 0);
        bytes
    }

    /// The read-only files to offer in fw_cfg, by name.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![
            (RSDP_FILE, self.rsdp.clone()),
            (TABLES_FILE, self.tables.clone()),
            (LOADER_FILE, self.loader_file()),
        ];
        files.extend(self.generation_id.iter().map(|page| (GENERATION_ID_FILE, page.clone())));
        files
    }
}

/// Collects tables and what has to be done to them at load time.
struct Assembly {
    tables: Vec<u8>,
    commands: Vec<Command>,
    oem: Oem,
}

impl Assembly {
    /// Appends a table with a header and has its checksum made after relocation. Returns its offset.
    fn table(&mut self, signature: &[u8; 4], revision: u8, table_id: &[u8; 8], body: &[u8]) -> u32 {
        let start = self.tables.len() as u32;
        self.tables.extend(tables::header(signature, revision, body.len(), &self.oem.id, table_id));
        self.tables.extend_from_slice(body);
        start
    }

    fn standard(&mut self, signature: &[u8; 4], revision: u8, body: &[u8]) -> u32 {
        let table_id = self.oem.table_id;
        let start = self.table(signature, revision, &table_id, body);
        self.checksum(start);
        start
    }

    /// Has the 32-bit offset at `at` turned into the address of that place in `source`.
    fn pointer(&mut self, at: u32, source: &str) {
        self.commands.push(Command::AddPointer {
            file: TABLES_FILE.into(),
            source: source.into(),
            offset: at,
            size: 4,
        });
    }

    fn checksum(&mut self, start: u32) {
        self.commands.push(Command::AddChecksum {
            file: TABLES_FILE.into(),
            offset: start + tables::CHECKSUM_OFFSET,
            start,
            length: self.tables.len() as u32 - start,
        });
    }
}

/// Builds the tables of a board.
pub fn build(board: &Board) -> AcpiFiles {
    let mut commands = vec![allocate(RSDP_FILE, 16, Zone::BiosSegment)];
    if board.generation_id.is_some() {
        commands.push(allocate(GENERATION_ID_FILE, GENERATION_ID_PAGE as u32, Zone::High));
    }
    commands.push(allocate(TABLES_FILE, 64, Zone::High));

    let mut out = Assembly { tables: tables::facs(), commands, oem: board.oem.clone() };
    let mut roots = Vec::new();

    let dsdt = out.standard(b"DSDT", 1, &dsdt::build(board));

    let table_id = out.oem.table_id;
    let fadt = out.table(b"FACP", 1, &table_id, &tables::fadt(&board.power, dsdt));
    out.pointer(fadt + tables::FADT_FACS_OFFSET, TABLES_FILE);
    out.pointer(fadt + tables::FADT_DSDT_OFFSET, TABLES_FILE);
    out.checksum(fadt);
    roots.push(fadt);

    roots.push(out.standard(b"APIC", 3, &tables::madt(&board.cpus)));

    if board.generation_id.is_some() {
        let (body, address_at) = dsdt::generation_id();
        let start = out.table(b"SSDT", 1, b"VMGENID\0", &body);
        out.commands.push(Command::WritePointer {
            file: GENERATION_ID_ADDRESS_FILE.into(),
            source: GENERATION_ID_FILE.into(),
            offset: 0,
            source_offset: GENERATION_ID_OFFSET,
            size: 8,
        });
        out.pointer(start + tables::HEADER_LENGTH + address_at, GENERATION_ID_FILE);
        out.checksum(start);
        roots.push(start);
    }
    if board.hpet {
        roots.push(out.standard(b"HPET", 1, &tables::hpet()));
    }
    if let Some(numa) = &board.numa {
        roots.push(out.standard(b"SRAT", 1, &tables::srat(&board.cpus, numa)));
        if let Some(distances) = &numa.distances {
            roots.push(out.standard(b"SLIT", 1, &tables::slit(numa.nodes, distances)));
        }
    }
    if let Some(window) = &board.express {
        roots.push(out.standard(b"MCFG", 1, &tables::mcfg(window)));
    }
    roots.push(out.standard(b"WAET", 1, &tables::waet()));

    let body: Vec<u8> = roots.iter().flat_map(|root| root.to_le_bytes()).collect();
    let rsdt = out.table(b"RSDT", 1, &table_id, &body);
    for entry in 0..roots.len() as u32 {
        out.pointer(rsdt + tables::HEADER_LENGTH + 4 * entry, TABLES_FILE);
    }
    out.checksum(rsdt);

    let rsdp = tables::rsdp(&board.oem.id, rsdt);
    out.commands.push(Command::AddPointer {
        file: RSDP_FILE.into(),
        source: TABLES_FILE.into(),
        offset: tables::RSDP_RSDT_OFFSET,
        size: 4,
    });
    out.commands.push(Command::AddChecksum {
        file: RSDP_FILE.into(),
        offset: tables::RSDP_CHECKSUM_OFFSET,
        start: 0,
        length: rsdp.len() as u32,
    });

    let mut tables = out.tables;
    tables.resize(tables.len().next_multiple_of(TABLES_ALIGNMENT), 0);
    AcpiFiles {
        tables,
        rsdp,
        script: Script(out.commands),
        generation_id: board.generation_id.map(|id| {
            let mut page = vec![0; GENERATION_ID_PAGE];
            let start = GENERATION_ID_OFFSET as usize;
            page[start..start + id.len()].copy_from_slice(&id);
            page
        }),
    }
}

fn allocate(file: &str, align: u32, zone: Zone) -> Command {
    Command::Allocate { file: file.into(), align, zone }
}

/// Relocates the files for a direct boot. `allocate` hands out guest memory: size, alignment and zone to address.
pub fn place(
    files: &AcpiFiles,
    allocate: impl FnMut(u64, u64, Zone) -> Option<u64>,
) -> Result<Image, LoaderError> {
    let mut inputs = files.files();
    if files.generation_id.is_some() {
        inputs.push((GENERATION_ID_ADDRESS_FILE, vec![0; 8]));
    }
    loader::execute(&files.script, inputs, allocate)
}

/// Cuts the memory of NUMA nodes, laid out one after the other, at the holes of the PC's address map: 640 KiB to
/// 1 MiB, and from the end of low memory to 4 GiB.
pub fn numa_memory(node_sizes: &[u64], below_4g: u64) -> Vec<NumaMemory> {
    const BASE_END: u64 = 640 << 10;
    const EXTENDED_START: u64 = 1 << 20;
    const HIGH_START: u64 = 4 << 30;
    // Offset in RAM, where it appears, and how far: memory behind 640 KiB is covered by ROM and lost.
    let stretches = [
        (0, BASE_END, 0),
        (EXTENDED_START, below_4g, EXTENDED_START),
        (below_4g, u64::MAX, HIGH_START),
    ];
    let mut out = Vec::new();
    let mut start = 0u64;
    for (node, size) in node_sizes.iter().enumerate() {
        let end = start.saturating_add(*size);
        for (from, to, address) in stretches {
            let (first, last) = (start.max(from), end.min(to));
            if first < last {
                out.push(NumaMemory {
                    node: node as u32,
                    base: address + (first - from),
                    length: last - first,
                });
            }
        }
        start = end;
    }
    out
}

#[cfg(test)]
mod tests;
