//! The tables that are plain data (ACPI 6.4, chapter 5). Each function returns the body behind the common header.

use super::{Cpu, ExpressWindow, Numa, PowerManagement};

/// Length of the common header.
pub const HEADER_LENGTH: u32 = 36;
/// Offset of the checksum in the common header.
pub const CHECKSUM_OFFSET: u32 = 9;
/// Offset of the FACS address in the FADT.
pub const FADT_FACS_OFFSET: u32 = 36;
/// Offset of the DSDT address in the FADT.
pub const FADT_DSDT_OFFSET: u32 = 40;
/// Offset of the checksum in the root pointer.
pub const RSDP_CHECKSUM_OFFSET: u32 = 8;
/// Offset of the RSDT address in the root pointer.
pub const RSDP_RSDT_OFFSET: u32 = 16;

const APIC_BASE: u32 = 0xfee0_0000;
const IOAPIC_BASE: u32 = 0xfec0_0000;
const HPET_BASE: u64 = 0xfed0_0000;

/// A growing body.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Body {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u8(&mut self, value: u8) -> &mut Body {
        self.bytes(&[value])
    }
    fn u16(&mut self, value: u16) -> &mut Body {
        self.bytes(&value.to_le_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Body {
        self.bytes(&value.to_le_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Body {
        self.bytes(&value.to_le_bytes())
    }
}

/// The common header; the checksum is made at load time.
pub fn header(
    signature: &[u8; 4],
    revision: u8,
    body: usize,
    oem: &[u8; 6],
    table: &[u8; 8],
) -> Vec<u8> {
    const CREATOR: &[u8; 4] = b"BXPC";
    let mut out = Body::default();
    out.bytes(signature).u32(HEADER_LENGTH + body as u32).u8(revision).u8(0);
    out.bytes(oem).bytes(table).u32(1).bytes(CREATOR).u32(1);
    out.0
}

/// Root pointer of ACPI 1.0; `rsdt` is the offset of the RSDT in the tables.
pub fn rsdp(oem: &[u8; 6], rsdt: u32) -> Vec<u8> {
    let mut out = Body::default();
    out.bytes(b"RSD PTR ").u8(0).bytes(oem).u8(0).u32(rsdt);
    out.0
}

/// The firmware control structure, which has no common header.
pub fn facs() -> Vec<u8> {
    let mut out = Body::default();
    out.bytes(b"FACS").u32(64);
    out.0.resize(64, 0);
    out.0
}

/// Fixed hardware of the PIIX4; the FACS is at offset 0 of the tables, the DSDT at `dsdt`.
pub fn fadt(power: &PowerManagement, dsdt: u32) -> Vec<u8> {
    const MULTIPLE_APIC: u8 = 1;
    const SMI_COMMAND_PORT: u32 = 0xb2;
    const ACPI_ENABLE: u8 = 0xf1;
    const ACPI_DISABLE: u8 = 0xf0;
    const NO_C_STATE: u16 = 0xfff;
    const CENTURY_REGISTER: u8 = 0x32;
    // Caches need no flush for sleep; C1 works; the sleep button is a control method or absent; the RTC wakes from
    // S4; the platform timer is to be preferred.
    const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 15;

    let io = u32::from(power.io_base);
    let mut out = Body::default();
    out.u32(0).u32(dsdt).u8(MULTIPLE_APIC).u8(0).u16(power.sci_irq.into());
    out.u32(SMI_COMMAND_PORT).u8(ACPI_ENABLE).u8(ACPI_DISABLE).u8(0).u8(0);
    // PM1a and PM1b event, PM1a and PM1b control, PM2 control, timer, GPE0, GPE1; then their lengths.
    for port in [io, 0, io + 4, 0, 0, io + 8, power.gpe.0.into(), 0] {
        out.u32(port);
    }
    out.bytes(&[4, 2, 0, 4, power.gpe.1, 0, 0, 0]);
    out.u16(NO_C_STATE).u16(NO_C_STATE).u16(0).u16(0);
    out.bytes(&[0, 0, 0, 0, CENTURY_REGISTER]).u16(0).u8(0).u32(FLAGS);
    out.0
}

/// The MADT entry of a CPU: the short form while both identifiers fit, else the x2APIC form.
pub fn madt_cpu(uid: u32, apic_id: u32, enabled: bool) -> Vec<u8> {
    let mut out = Body::default();
    match (u8::try_from(uid), u8::try_from(apic_id)) {
        (Ok(uid), Ok(id)) if id != 0xff => out.bytes(&[0, 8, uid, id]).u32(enabled.into()),
        _ => out.bytes(&[9, 16]).u16(0).u32(apic_id).u32(enabled.into()).u32(uid),
    };
    out.0
}

/// Interrupt controllers: CPUs, the IOAPIC, and how ISA lines reach it.
pub fn madt(cpus: &[Cpu]) -> Vec<u8> {
    const PC_AT_COMPATIBLE: u32 = 1;
    const ACTIVE_HIGH_LEVEL: u16 = 0x0d;
    const PCI_LINES: [u8; 4] = [5, 9, 10, 11];
    let mut out = Body::default();
    out.u32(APIC_BASE).u32(PC_AT_COMPATIBLE);
    for (uid, cpu) in (0..).zip(cpus) {
        out.bytes(&madt_cpu(uid, cpu.apic_id, cpu.present));
    }
    out.bytes(&[1, 12, 0, 0]).u32(IOAPIC_BASE).u32(0);
    // The timer arrives at input 2.
    out.bytes(&[2, 10, 0, 0]).u32(2).u16(0);
    for line in PCI_LINES {
        out.bytes(&[2, 10, 0, line]).u32(line.into()).u16(ACTIVE_HIGH_LEVEL);
    }
    // NMI is LINT1 of all CPUs.
    if cpus.iter().any(|cpu| cpu.apic_id >= 0xff) {
        out.bytes(&[10, 12]).u16(0).u32(u32::MAX).bytes(&[1, 0, 0, 0]);
    } else {
        out.bytes(&[4, 6, 0xff]).u16(0).u8(1);
    }
    out.0
}

/// The high precision event timer.
pub fn hpet() -> Vec<u8> {
    const HARDWARE_ID: u32 = 0x8086_a201;
    let mut out = Body::default();
    out.u32(HARDWARE_ID).u32(0).u64(HPET_BASE).u8(0).u16(0).u8(0);
    out.0
}

/// Windows: the PM timer needs reading only once.
pub fn waet() -> Vec<u8> {
    const ACPI_PM_TIMER_GOOD: u32 = 1 << 1;
    ACPI_PM_TIMER_GOOD.to_le_bytes().to_vec()
}

/// Which CPUs and memory are near each other.
pub fn srat(cpus: &[Cpu], numa: &Numa) -> Vec<u8> {
    const ENABLED: u32 = 1;
    let mut out = Body::default();
    out.u32(1).u64(0);
    for cpu in cpus {
        let node = cpu.node.unwrap_or(0);
        let [low, high @ ..] = node.to_le_bytes();
        match u8::try_from(cpu.apic_id) {
            Ok(id) if id != 0xff => {
                out.bytes(&[0, 16, low, id]).u32(ENABLED).u8(0).bytes(&high).u32(0);
            }
            _ => {
                out.bytes(&[2, 24]).u16(0).u32(node).u32(cpu.apic_id).u32(ENABLED).u32(0).u32(0);
            }
        }
    }
    for memory in &numa.memory {
        srat_memory(&mut out, memory.node, memory.base, memory.length, ENABLED);
    }
    // A node may be cut by the hole below 4 GiB and the one below 1 MiB. The table's size depends only on the number
    // of nodes; what is left over is disabled.
    for _ in numa.memory.len()..numa.nodes as usize + 2 {
        srat_memory(&mut out, 0, 0, 0, 0);
    }
    out.0
}

fn srat_memory(out: &mut Body, node: u32, base: u64, length: u64, flags: u32) {
    out.bytes(&[1, 40]).u32(node).u16(0).u64(base).u64(length).u32(0).u32(flags).u64(0);
}

/// Distances between nodes, row by row.
pub fn slit(nodes: u32, distances: &[u8]) -> Vec<u8> {
    let mut out = Body::default();
    out.u64(nodes.into()).bytes(distances);
    out.0
}

/// The PCI Express configuration window of segment 0.
pub fn mcfg(window: &ExpressWindow) -> Vec<u8> {
    let mut out = Body::default();
    out.u64(0).u64(window.base).u16(0).u8(0).u8(window.last_bus).u32(0);
    out.0
}
