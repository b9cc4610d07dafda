//! SMBIOS tables: inventory data about the machine (DMTF DSP0134).
//!
//! [`Config`] holds what `-smbios` says, [`Hardware`] what the board has; [`Config::build`] makes the two files that
//! firmware finds in fw_cfg. For a direct boot, [`SmbiosFiles::anchor_at`] completes the entry point.

mod config;
mod structure;

pub use config::*;
use structure::Structure;

/// Entry point format, and with it the version that the structures follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryPoint {
    /// SMBIOS 2.8, tables below 4 GiB.
    #[default]
    Bits32,
    /// SMBIOS 3.0.
    Bits64,
}

/// What the tables say about the board.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Entry point format.
    pub entry_point: EntryPoint,
    /// Default manufacturer.
    pub manufacturer: String,
    /// Default product name.
    pub product: String,
    /// Default version: the machine type.
    pub version: String,
    /// Identity of the machine when `-smbios type=1` gives none.
    pub uuid: Uuid,
    /// CPUID leaf 1: EAX (signature) and EDX (features).
    pub processor_id: (u32, u32),
    /// Number of sockets, empty ones included.
    pub sockets: u32,
    /// Cores in each socket.
    pub cores_per_socket: u32,
    /// Threads in each socket.
    pub threads_per_socket: u32,
    /// Memory below and from 4 GiB.
    pub memory: (u64, u64),
    /// Largest module in which the memory is presented.
    pub largest_module: u64,
}

/// What [`Config::build`] makes.
#[derive(Clone, Debug)]
pub struct SmbiosFiles {
    /// Entry point without address and checksums, as in the fw_cfg file `etc/smbios/smbios-anchor`.
    pub anchor: Vec<u8>,
    /// Structures, as in the fw_cfg file `etc/smbios/smbios-tables`.
    pub tables: Vec<u8>,
}

/// fw_cfg file with the entry point.
pub const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";
/// fw_cfg file with the structures.
pub const TABLES_FILE: &str = "etc/smbios/smbios-tables";

impl SmbiosFiles {
    /// The entry point for structures that lie at `address`. `None` if its format cannot express the address.
    pub fn anchor_at(&self, address: u64) -> Option<Vec<u8>> {
        fn balance(bytes: &mut [u8], at: usize) {
            let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            bytes[at] = bytes[at].wrapping_sub(sum);
        }
        let mut anchor = self.anchor.clone();
        if anchor.starts_with(b"_SM3_") {
            anchor[16..24].copy_from_slice(&address.to_le_bytes());
            balance(&mut anchor, 5);
        } else {
            anchor[24..28].copy_from_slice(&u32::try_from(address).ok()?.to_le_bytes());
            balance(&mut anchor[16..], 5);
            balance(&mut anchor, 4);
        }
        Some(anchor)
    }
}

impl Config {
    /// With a structure about the firmware, which firmware adds itself where there is one. The date is the one that
    /// SeaBIOS gives, since operating systems judge by it which workarounds a machine needs.
    pub fn with_firmware(&self) -> Self {
        let own = || Bios {
            vendor: Some("Rhea".into()),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            date: Some("04/01/2014".into()),
            ..Bios::default()
        };
        let mut config = self.clone();
        config.bios.get_or_insert_with(own);
        config
    }

    /// Builds all structures.
    pub fn build(&self, hardware: &Hardware) -> SmbiosFiles {
        let mut structures: Vec<Vec<u8>> = self.raw_structures().to_vec();
        for (kind, made) in [
            (0, self.bios.iter().map(bios).collect::<Vec<_>>()),
            (1, vec![self.system_structure(hardware)]),
            (2, self.board.iter().map(|board| board_structure(board, hardware)).collect()),
            (3, vec![self.chassis_structure(hardware)]),
            (
                4,
                (0..hardware.sockets)
                    .map(|socket| self.processor_structure(socket, hardware))
                    .collect(),
            ),
            (8, enumerated(&self.ports, port_structure)),
            (9, enumerated(&self.slots, slot_structure)),
            (11, self.oem_strings.iter().map(oem_structure).collect()),
        ] {
            if !self.has_raw(kind) {
                structures.extend(made.into_iter().map(Structure::finish));
            }
        }
        let memory = self.memory_structures(hardware);
        structures.extend(
            memory.into_iter().filter(|made| !self.has_raw(made.kind())).map(Structure::finish),
        );
        if !self.has_raw(32) {
            let mut boot = Structure::new(32, 0x2000);
            boot.bytes(&[0; 7]);
            structures.push(boot.finish());
        }
        if !self.has_raw(41) {
            let made = enumerated(&self.onboard, onboard_structure);
            structures.extend(made.into_iter().map(Structure::finish));
        }
        if !self.has_raw(127) {
            structures.push(Structure::new(127, 0x7f00).finish());
        }
        let anchor = match hardware.entry_point {
            EntryPoint::Bits32 => anchor32(&structures),
            EntryPoint::Bits64 => anchor64(&structures),
        };
        SmbiosFiles { anchor, tables: structures.concat() }
    }

    fn system_structure(&self, hardware: &Hardware) -> Structure {
        let system = &self.system;
        let mut out = Structure::new(1, 0x100);
        out.string(or_default(&system.manufacturer, &hardware.manufacturer));
        out.string(or_default(&system.product, &hardware.product));
        out.string(or_default(&system.version, &hardware.version));
        out.string(system.serial.as_deref());
        out.bytes(&system.uuid.unwrap_or(hardware.uuid).to_little_endian());
        const POWER_SWITCH: u8 = 6;
        out.u8(POWER_SWITCH);
        out.string(system.sku.as_deref()).string(system.family.as_deref());
        out
    }

    fn chassis_structure(&self, hardware: &Hardware) -> Structure {
        const OTHER: u8 = 1;
        const SAFE: u8 = 3;
        const SECURITY_UNKNOWN: u8 = 2;
        let chassis = &self.chassis;
        let mut out = Structure::new(3, 0x300);
        out.string(or_default(&chassis.manufacturer, &hardware.manufacturer)).u8(OTHER);
        out.string(or_default(&chassis.version, &hardware.version));
        out.string(chassis.serial.as_deref()).string(chassis.asset.as_deref());
        out.bytes(&[SAFE, SAFE, SAFE, SECURITY_UNKNOWN]).u32(0).bytes(&[0; 4]);
        out.string(chassis.sku.as_deref());
        out
    }

    fn processor_structure(&self, socket: u32, hardware: &Hardware) -> Structure {
        const CENTRAL_PROCESSOR: u8 = 3;
        const FAMILY_IN_SECOND_FIELD: u8 = 0xfe;
        const SOCKETED_AND_ENABLED: u8 = 0x41;
        const UPGRADE_OTHER: u8 = 1;
        const NO_CACHE: u16 = 0xffff;
        const CHARACTERISTICS_UNKNOWN: u16 = 1 << 1;
        let processor = &self.processor;
        let (cores, threads) = (hardware.cores_per_socket, hardware.threads_per_socket);
        let byte = |count: u32| u8::try_from(count).unwrap_or(u8::MAX);
        let word = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let signature =
            u64::from(hardware.processor_id.0) | u64::from(hardware.processor_id.1) << 32;

        let mut out = Structure::new(4, 0x400u16.wrapping_add(socket as u16));
        out.string(Some(&format!("{} {socket}", processor.socket_prefix)));
        out.bytes(&[CENTRAL_PROCESSOR, FAMILY_IN_SECOND_FIELD]);
        out.string(or_default(&processor.manufacturer, &hardware.manufacturer));
        out.bytes(&processor.id.unwrap_or(signature).to_le_bytes());
        out.string(or_default(&processor.version, &hardware.version));
        out.u8(0).u16(0).u16(processor.max_speed).u16(processor.current_speed);
        out.bytes(&[SOCKETED_AND_ENABLED, UPGRADE_OTHER]);
        out.u16(NO_CACHE).u16(NO_CACHE).u16(NO_CACHE);
        out.string(processor.serial.as_deref()).string(processor.asset.as_deref());
        out.string(processor.part.as_deref());
        out.bytes(&[byte(cores), byte(cores), byte(threads)]);
        out.u16(CHARACTERISTICS_UNKNOWN).u16(processor.family);
        if hardware.entry_point == EntryPoint::Bits64 {
            out.u16(word(cores)).u16(word(cores)).u16(word(threads));
        }
        out
    }

    /// The memory array, its modules, and the addresses it appears at.
    fn memory_structures(&self, hardware: &Hardware) -> Vec<Structure> {
        let (below, above) = hardware.memory;
        let total = below.saturating_add(above);
        let largest = hardware.largest_module.max(1);
        // Handles are 16 bits wide; a module count beyond that cannot be expressed.
        let modules = total.div_ceil(largest).clamp(1, 0x100) as u16;
        let mut out = vec![memory_array(total, modules)];
        for module in 0..modules {
            let size = total.saturating_sub(largest * u64::from(module)).min(largest);
            out.push(self.memory_device(module, size));
        }
        const HIGH_START: u64 = 4 << 30;
        let ranges = [(0, below), (HIGH_START, above)];
        for (number, (start, length)) in
            (0..).zip(ranges.into_iter().filter(|(_, length)| *length > 0))
        {
            out.push(mapped_address(number, start, length));
        }
        out
    }

    fn memory_device(&self, module: u16, size: u64) -> Structure {
        const FORM_DIMM: u8 = 9;
        const TYPE_RAM: u8 = 7;
        const DETAIL_OTHER: u16 = 1 << 1;
        const WIDTH_UNKNOWN: u16 = 0xffff;
        const SIZE_IN_EXTENDED_FIELD: u16 = 0x7fff;
        let memory = &self.memory;
        let mib = size.div_ceil(1 << 20);
        let (size, extended) = match u16::try_from(mib) {
            Ok(size) if size < SIZE_IN_EXTENDED_FIELD => (size, 0),
            _ => (SIZE_IN_EXTENDED_FIELD, u32::try_from(mib).unwrap_or(u32::MAX)),
        };
        let mut out = Structure::new(17, 0x1100u16.wrapping_add(module));
        out.u16(MEMORY_ARRAY)
            .u16(NO_ERROR_INFORMATION)
            .u16(WIDTH_UNKNOWN)
            .u16(WIDTH_UNKNOWN)
            .u16(size);
        out.bytes(&[FORM_DIMM, 0]);
        out.string(Some(&format!(
            "{} {module}",
            memory.locator_prefix.as_deref().unwrap_or("DIMM")
        )));
        out.string(memory.bank.as_deref()).u8(TYPE_RAM).u16(DETAIL_OTHER).u16(memory.speed);
        out.string(Some(memory.manufacturer.as_deref().unwrap_or("QEMU")));
        out.string(memory.serial.as_deref())
            .string(memory.asset.as_deref())
            .string(memory.part.as_deref());
        out.u8(0).u32(extended).u16(memory.speed).u16(0).u16(0).u16(0);
        out
    }
}

const MEMORY_ARRAY: u16 = 0x1000;
const NO_ERROR_INFORMATION: u16 = 0xfffe;

fn or_default<'a>(value: &'a Option<String>, default: &'a str) -> Option<&'a str> {
    Some(value.as_deref().unwrap_or(default))
}

fn enumerated<T>(items: &[T], make: impl Fn(u16, &T) -> Structure) -> Vec<Structure> {
    (0..).zip(items).map(|(number, item)| make(number, item)).collect()
}

fn bios(bios: &Bios) -> Structure {
    const SEGMENT: u16 = 0xe800;
    const CHARACTERISTICS_UNSUPPORTED: u64 = 1 << 3;
    const TARGETED_CONTENT: u8 = 1 << 2;
    const UEFI: u8 = 1 << 3;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    let mut out = Structure::new(0, 0);
    out.string(bios.vendor.as_deref()).string(bios.version.as_deref()).u16(SEGMENT);
    out.string(bios.date.as_deref()).u8(0).bytes(&CHARACTERISTICS_UNSUPPORTED.to_le_bytes());
    out.u8(0).u8(TARGETED_CONTENT | VIRTUAL_MACHINE | if bios.uefi { UEFI } else { 0 });
    out.bytes(&bios.release.map_or([0, 0], |(major, minor)| [major, minor])).bytes(&[0xff, 0xff]);
    out
}

fn board_structure(board: &BaseBoard, hardware: &Hardware) -> Structure {
    const HOSTING_BOARD: u8 = 1;
    const CHASSIS: u16 = 0x300;
    const MOTHERBOARD: u8 = 0x0a;
    let mut out = Structure::new(2, 0x200);
    out.string(or_default(&board.manufacturer, &hardware.manufacturer));
    out.string(or_default(&board.product, &hardware.product));
    out.string(or_default(&board.version, &hardware.version));
    out.string(board.serial.as_deref()).string(board.asset.as_deref()).u8(HOSTING_BOARD);
    out.string(board.location.as_deref()).u16(CHASSIS).bytes(&[MOTHERBOARD, 0]);
    out
}

fn port_structure(number: u16, port: &PortConnector) -> Structure {
    let mut out = Structure::new(8, 0u16.wrapping_add(number));
    out.string(port.internal.as_deref()).u8(0).string(port.external.as_deref());
    out.u8(port.connector_type).u8(port.port_type);
    out
}

fn slot_structure(number: u16, slot: &SystemSlot) -> Structure {
    let mut out = Structure::new(9, 0x900u16.wrapping_add(number));
    out.string(slot.designation.as_deref());
    out.bytes(&[slot.kind, slot.width, slot.usage, slot.length]).u16(slot.id);
    out.bytes(&slot.characteristics);
    match slot.pci_address {
        Some((bus, devfn)) => out.u16(0).u8(bus).u8(devfn),
        None => out.u16(0xff).u8(0xff).u8(0xff),
    };
    out
}

fn oem_structure(strings: &OemStrings) -> Structure {
    let mut out = Structure::new(11, 0x0e00);
    out.u8(u8::try_from(strings.values.len()).unwrap_or(u8::MAX));
    for value in &strings.values {
        out.text(value);
    }
    out
}

fn memory_array(total: u64, modules: u16) -> Structure {
    const LOCATION_OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    const MULTI_BIT_ECC: u8 = 6;
    const CAPACITY_IN_EXTENDED_FIELD: u32 = 0x8000_0000;
    let kib = total >> 10;
    let (capacity, extended) = match u32::try_from(kib) {
        Ok(kib) if kib < CAPACITY_IN_EXTENDED_FIELD => (kib, 0),
        _ => (CAPACITY_IN_EXTENDED_FIELD, total),
    };
    let mut out = Structure::new(16, MEMORY_ARRAY);
    out.bytes(&[LOCATION_OTHER, SYSTEM_MEMORY, MULTI_BIT_ECC])
        .u32(capacity)
        .u16(NO_ERROR_INFORMATION);
    out.u16(modules).bytes(&extended.to_le_bytes());
    out
}

fn mapped_address(number: u16, start: u64, length: u64) -> Structure {
    let last = start.saturating_add(length) - 1;
    let kib = |address: u64| u32::try_from(address >> 10).ok().filter(|kib| *kib < u32::MAX);
    let mut out = Structure::new(19, 0x1300u16.wrapping_add(number));
    match (kib(start), kib(last)) {
        (Some(start), Some(last)) => {
            out.u32(start).u32(last).u16(MEMORY_ARRAY).u8(1).bytes(&[0; 16])
        }
        _ => {
            out.u32(u32::MAX).u32(u32::MAX).u16(MEMORY_ARRAY).u8(1);
            out.bytes(&start.to_le_bytes()).bytes(&last.to_le_bytes())
        }
    };
    out
}

fn onboard_structure(number: u16, device: &OnboardDevice) -> Structure {
    const ENABLED: u8 = 0x80;
    let mut out = Structure::new(41, 0x2900u16.wrapping_add(number));
    out.string(device.designation.as_deref()).u8(ENABLED | device.kind).u8(device.instance).u16(0);
    let (bus, devfn) = device.pci_address.unwrap_or_default();
    out.bytes(&[bus, devfn]);
    out
}

fn anchor32(structures: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let largest = structures.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = b"_SM_\0\x1f\x02\x08".to_vec();
    out.extend(word(largest));
    out.extend([0; 6]);
    out.extend(b"_DMI_\0");
    out.extend(word(structures.iter().map(Vec::len).sum()));
    out.extend([0; 4]);
    out.extend(word(structures.len()));
    out.push(0x28);
    out
}

fn anchor64(structures: &[Vec<u8>]) -> Vec<u8> {
    let length: usize = structures.iter().map(Vec::len).sum();
    let mut out = b"_SM3_\0\x18\x03\0\0\x01\0".to_vec();
    out.extend((length as u32).to_le_bytes());
    out.extend([0; 8]);
    out
}

#[cfg(test)]
mod tests;
