//! The memory map of a PC.

use std::sync::Arc;

use base::memory::{AddressSpace, RamBlock, RamError, Region};
use hw::pci::pam::LowMemory;

/// Where RAM that does not fit below 4 GiB goes on.
pub const ABOVE_4G: u64 = 1 << 32;
/// Most RAM below 4 GiB.
const LOW_RAM_MAX: u64 = 0xe000_0000;
/// RAM below 4 GiB when there is more than that.
const LOW_RAM_SPLIT: u64 = 0xc000_0000;

const OPTION_ROM: u64 = 0xc_0000;
const OPTION_ROM_SIZE: u64 = 0x2_0000;
/// How much of the BIOS, from its end, is seen below 1 MiB.
const ISA_BIOS_MAX: u64 = 0x2_0000;
const MIB: u64 = 0x10_0000;

/// RAM and the regions that show it.
pub struct PcMemory {
    /// Memory as everybody sees it.
    pub memory: AddressSpace,
    /// Memory as processors in system management mode see it.
    pub smm: AddressSpace,
    /// I/O ports.
    pub ports: AddressSpace,
    /// The regions the host bridge switches.
    pub low: LowMemory,
    /// All RAM and nothing else, below and above 4 GiB in one piece.
    pub ram: AddressSpace,
    /// Bytes of RAM below 4 GiB.
    pub below_4g: u64,
    /// Bytes of RAM above 4 GiB.
    pub above_4g: u64,
}

/// How much of `size` bytes of RAM lies below 4 GiB; the rest lies above. `limit` is the operator's.
pub fn split(size: u64, limit: Option<u64>) -> (u64, u64) {
    let low = match limit.filter(|&limit| limit > 0) {
        Some(limit) => limit.min(LOW_RAM_MAX),
        None if size >= LOW_RAM_MAX => LOW_RAM_SPLIT,
        None => LOW_RAM_MAX,
    };
    let below = size.min(low);
    (below, size - below)
}

impl PcMemory {
    /// Lays out `size` bytes of RAM.
    pub fn new(all: Region, size: u64, max_below_4g: Option<u64>) -> Self {
        let (below_4g, above_4g) = split(size, max_below_4g);
        let system = Region::container("system", 1 << 64);
        let pci = Region::container("pci", 1 << 64);
        system.add(&Region::alias("ram-below-4g", &all, 0, below_4g.into()), 0, 0);
        if above_4g > 0 {
            let high = Region::alias("ram-above-4g", &all, below_4g, above_4g.into());
            system.add(&high, ABOVE_4G, 0);
        }
        system.add(&Region::alias("pci", &pci, 0, 1 << 64), 0, -1);
        let smm = Region::container("memory", 1 << 64);
        smm.add(&Region::alias("memory", &system, 0, 1 << 64), 0, 0);
        let io = Region::container("io", 1 << 16);
        PcMemory {
            memory: AddressSpace::new("memory", system.clone()),
            smm: AddressSpace::new("cpu-smm", smm.clone()),
            ports: AddressSpace::with_unassigned("I/O", io, 0xff),
            ram: AddressSpace::new("ram", all.clone()),
            low: LowMemory { system, smm, ram: all, pci },
            below_4g,
            above_4g,
        }
    }

    /// Places the BIOS at the end of 4 GiB and its tail below 1 MiB, and room for option ROMs.
    pub fn place_bios(&self, image: &[u8]) -> Result<(), RamError> {
        let block = Arc::new(RamBlock::anonymous("pc.bios", image.len() as u64)?);
        block.write(0, image);
        let bios = Region::rom(block);
        self.low.pci.add(&bios, ABOVE_4G - image.len() as u64, 0);
        self.place_low_roms(&bios, image.len() as u64)
    }

    /// Places flash memory below 4 GiB, the first chip at the end, and the first one's tail as a BIOS.
    pub fn place_flash(&self, chips: &[(Region, &Arc<RamBlock>)]) -> Result<(), RamError> {
        let mut end = ABOVE_4G;
        for (region, block) in chips {
            end -= block.len();
            self.low.pci.add(region, end, 0);
        }
        match chips.first() {
            Some((_, block)) => self.place_low_roms(&Region::rom((*block).clone()), block.len()),
            None => Ok(()),
        }
    }

    /// The tail of the firmware as old software sees it, and room for option ROMs.
    fn place_low_roms(&self, firmware: &Region, size: u64) -> Result<(), RamError> {
        let tail = size.min(ISA_BIOS_MAX);
        let isa_bios = Region::alias("isa-bios", firmware, size - tail, tail.into());
        self.low.pci.add(&isa_bios, MIB - tail, 1);
        let roms = RamBlock::anonymous("pc.rom", OPTION_ROM_SIZE)?;
        self.low.pci.add(&Region::rom(Arc::new(roms)), OPTION_ROM, 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_at_the_hole() {
        const GIB: u64 = 1 << 30;
        assert_eq!(split(512 << 20, None), (512 << 20, 0));
        assert_eq!(split(LOW_RAM_MAX - 4096, None), (LOW_RAM_MAX - 4096, 0));
        assert_eq!(split(4 * GIB, None), (3 * GIB, GIB));
        assert_eq!(split(4 * GIB, Some(2 * GIB)), (2 * GIB, 2 * GIB));
    }

    #[test]
    fn the_bios_is_seen_twice() {
        let ram = Arc::new(RamBlock::anonymous("pc.ram", 16 << 20).unwrap());
        let map = PcMemory::new(Region::ram(ram), 16 << 20, None);
        let mut image = vec![0; 0x4_0000];
        image[0x3_fff0] = 0xea;
        map.place_bios(&image).unwrap();
        assert_eq!(map.memory.read_uint(0xffff_fff0, 1), 0xea);
        assert_eq!(map.memory.read_uint(0x1_0000_0000 - 0x4_0000, 1), 0);
        map.memory.write_uint(0xffff_fff0, 1, 0);
        assert_eq!(map.memory.read_uint(0xffff_fff0, 1), 0xea);
    }
}
