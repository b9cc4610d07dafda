//! Programmable attribute map and SMRAM: which of RAM and the PCI bus answers below 1 MiB
//! (82441FX datasheet, 3.2.18 and 3.2.22). Intel's later host bridges have the same registers.

use base::memory::Region;

/// The regions a host bridge switches between.
pub struct LowMemory {
    /// What processors and devices see.
    pub system: Region,
    /// What processors see in system management mode: everything of `system`, and SMRAM.
    pub smm: Region,
    /// RAM from address 0.
    pub ram: Region,
    /// The PCI bus's memory.
    pub pci: Region,
}

/// Number of PAM registers.
pub const PAM_REGISTERS: usize = 7;

const VGA_START: u64 = 0xa_0000;
const VGA_SIZE: u64 = 0x2_0000;

struct Segment {
    /// Shown while neither reads nor writes go to RAM.
    pci: Region,
    /// Shown while reads go to RAM and writes do not.
    rom: Region,
}

/// The segments between 768 KiB and 1 MiB, and the SMRAM window at 640 KiB.
pub struct Pam {
    /// One per attribute nibble, register 0 low to register 6 high.
    segments: Vec<Option<Segment>>,
    vga_window: Region,
    smram: Region,
}

/// Start and size of the segment that a nibble controls; the low nibble of register 0 is reserved.
fn segment_place(nibble: usize) -> Option<(u64, u64)> {
    match nibble {
        0 => None,
        1 => Some((0xf_0000, 0x1_0000)),
        n => Some((0xc_0000 + (n as u64 - 2) * 0x4000, 0x4000)),
    }
}

impl Pam {
    /// Builds the windows into the low memory, with everything going to PCI.
    pub fn new(low: &LowMemory) -> Self {
        let window = |name: &str, target: &Region, at: u64, size: u64| {
            Region::alias(name, target, at, size.into())
        };
        let segments = (0..2 * PAM_REGISTERS)
            .map(|nibble| {
                let (start, size) = segment_place(nibble)?;
                let pci = window("pam-pci", &low.pci, start, size);
                let rom = window("pam-rom", &low.ram, start, size);
                rom.configure(false, true);
                low.system.add(&pci, start, 1);
                low.system.add(&rom, start, 1);
                Some(Segment { pci, rom })
            })
            .collect();
        let vga_window = window("smram-region", &low.pci, VGA_START, VGA_SIZE);
        low.system.add(&vga_window, VGA_START, 1);
        let smram = window("smram-low", &low.ram, VGA_START, VGA_SIZE);
        smram.set_enabled(false);
        low.smm.add(&smram, VGA_START, 2);
        Pam { segments, vga_window, smram }
    }

    /// Applies PAM register `n`.
    pub fn set_attributes(&self, n: usize, value: u8) {
        for half in 0..2 {
            let attributes = value >> (4 * half) & 3;
            if let Some(Some(segment)) = self.segments.get(2 * n + half) {
                // Writes to RAM with reads from PCI are treated as RAM, as in QEMU: no firmware relies
                // on it, since all know QEMU.
                segment.pci.set_enabled(attributes == 0);
                segment.rom.configure(attributes == 1, true);
            }
        }
    }

    /// Applies the SMRAM control register.
    pub fn set_smram(&self, value: u8) {
        const OPEN: u8 = 1 << 6;
        const CLOSED: u8 = 1 << 5;
        const ENABLED: u8 = 1 << 3;
        self.vga_window.set_enabled(value & OPEN == 0);
        self.smram.set_enabled(value & ENABLED != 0 && value & CLOSED == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::memory::{AddressSpace, RamBlock};
    use std::sync::Arc;

    struct Bed {
        memory: AddressSpace,
        smm: AddressSpace,
        pam: Pam,
    }

    /// RAM is filled with 0x11, the PCI side of 640 KiB to 1 MiB with 0x22.
    fn bed() -> Bed {
        let ram = Arc::new(RamBlock::anonymous("pc.ram", 0x10_0000).unwrap());
        ram.fill(0, 0x10_0000, 0x11);
        let rom = Arc::new(RamBlock::anonymous("pc.rom", 0x6_0000).unwrap());
        rom.fill(0, 0x6_0000, 0x22);
        let system = Region::container("system", 1 << 64);
        let pci = Region::container("pci", 1 << 64);
        pci.add(&Region::rom(rom), VGA_START, 0);
        let ram = Region::ram(ram);
        system.add(&ram, 0, 0);
        system.add(&Region::alias("pci", &pci, 0, 1 << 64), 0, -1);
        let smm = Region::container("smm", 1 << 64);
        smm.add(&Region::alias("system", &system, 0, 1 << 64), 0, 0);
        let low = LowMemory { system: system.clone(), smm: smm.clone(), ram, pci };
        let pam = Pam::new(&low);
        Bed { memory: AddressSpace::new("memory", system), smm: AddressSpace::new("smm", smm), pam }
    }

    #[test]
    fn attributes_choose_between_pci_and_ram() {
        let Bed { memory, pam, .. } = bed();
        assert_eq!(memory.read_uint(0xf_fff0, 1), 0x22);
        pam.set_attributes(0, 0x10);
        assert_eq!(memory.read_uint(0xf_fff0, 1), 0x11);
        memory.write_uint(0xf_fff0, 1, 0x33);
        assert_eq!(memory.read_uint(0xf_fff0, 1), 0x11, "read-only");
        pam.set_attributes(0, 0x30);
        memory.write_uint(0xf_fff0, 1, 0x33);
        assert_eq!(memory.read_uint(0xf_fff0, 1), 0x33);
        pam.set_attributes(3, 0x03);
        assert_eq!(memory.read_uint(0xd_0000, 1), 0x11);
        assert_eq!(memory.read_uint(0xd_4000, 1), 0x22);
    }

    #[test]
    fn smram_is_seen_in_smm_only_unless_open() {
        let Bed { memory, smm, pam } = bed();
        assert_eq!((memory.read_uint(VGA_START, 1), smm.read_uint(VGA_START, 1)), (0x22, 0x22));
        pam.set_smram(0x0a);
        assert_eq!((memory.read_uint(VGA_START, 1), smm.read_uint(VGA_START, 1)), (0x22, 0x11));
        pam.set_smram(0x4a);
        assert_eq!((memory.read_uint(VGA_START, 1), smm.read_uint(VGA_START, 1)), (0x11, 0x11));
    }
}
