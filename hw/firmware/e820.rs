//! The memory map that firmware reports, and its form in the fw_cfg file `etc/e820`.

/// Kind of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free for use.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
    /// Tables that may be reused once read.
    Acpi = 3,
    /// Kept over sleep.
    AcpiNvs = 4,
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub base: u64,
    /// Number of bytes.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
}

/// fw_cfg file with the map.
pub const FILE: &str = "etc/e820";

const HIGH_START: u64 = 4 << 30;

/// What decides about the map.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// RAM from address 0.
    pub below_4g: u64,
    /// RAM from 4 GiB.
    pub above_4g: u64,
    /// Whether the range that AMD processors keep for HyperTransport, below 1 TiB, is left out. Machine types before
    /// 7.1 do not say so.
    pub hypertransport_hole: bool,
    /// Whether KVM keeps pages of its own in front of the firmware's ROM.
    pub kvm_pages: bool,
}

const HYPERTRANSPORT: Entry =
    Entry { base: 0xfd_0000_0000, length: 0x3_0000_0000, kind: Kind::Reserved };
const KVM_PAGES: Entry = Entry { base: 0xfeff_c000, length: 0x4000, kind: Kind::Reserved };

/// What the machine tells firmware: all of RAM, and what firmware cannot know of. Firmware makes its own map of it.
pub fn for_firmware(layout: &Layout) -> Vec<Entry> {
    let mut entries = vec![];
    entries.extend(layout.kvm_pages.then_some(KVM_PAGES));
    entries.extend(layout.hypertransport_hole.then_some(HYPERTRANSPORT));
    entries.push(Entry { base: 0, length: layout.below_4g, kind: Kind::Ram });
    entries.push(Entry { base: HIGH_START, length: layout.above_4g, kind: Kind::Ram });
    entries.retain(|entry| entry.length > 0);
    entries
}

/// What a kernel that is booted directly is told: the map that firmware would make. `reserved_top` bytes at the end
/// of low memory hold tables.
pub fn for_kernel(layout: &Layout, reserved_top: u64) -> Vec<Entry> {
    const BASE_END: u64 = 0x9_fc00;
    const ROM_START: u64 = 0xf_0000;
    const EXTENDED_START: u64 = 0x10_0000;
    const FLASH_START: u64 = 0xfffc_0000;
    let entry =
        |from: u64, to: u64, kind| Entry { base: from, length: to.saturating_sub(from), kind };
    let below_4g = layout.below_4g;
    let top = below_4g.saturating_sub(reserved_top);
    let mut entries = vec![
        entry(0, BASE_END.min(below_4g), Kind::Ram),
        entry(BASE_END, 0xa_0000, Kind::Reserved),
        entry(ROM_START, EXTENDED_START, Kind::Reserved),
        entry(EXTENDED_START, top, Kind::Ram),
        entry(top, below_4g, Kind::Reserved),
    ];
    entries.extend(layout.kvm_pages.then_some(KVM_PAGES));
    entries.push(entry(FLASH_START, HIGH_START, Kind::Reserved));
    entries.push(entry(HIGH_START, HIGH_START.saturating_add(layout.above_4g), Kind::Ram));
    entries.extend(layout.hypertransport_hole.then_some(HYPERTRANSPORT));
    entries.retain(|entry| entry.length > 0);
    entries
}

/// The map as 20-byte records, as in fw_cfg and in the kernel's boot parameters.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let record = |entry: &Entry| {
        let mut out = entry.base.to_le_bytes().to_vec();
        out.extend(entry.length.to_le_bytes());
        out.extend((entry.kind as u32).to_le_bytes());
        out
    };
    entries.iter().flat_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(below_4g: u64, above_4g: u64, kvm_pages: bool) -> Layout {
        Layout { below_4g, above_4g, hypertransport_hole: true, kvm_pages }
    }

    #[test]
    fn firmware_map_equals_the_recorded_one() {
        let bytes = encode(&for_firmware(&layout(512 << 20, 0, false)));
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..20], *b"\0\0\0\0\xfd\0\0\0\0\0\0\0\x03\0\0\0\x02\0\0\0");
        assert_eq!(bytes[20..], *b"\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0\x01\0\0\0");
    }

    #[test]
    fn kernel_map_is_ordered_and_disjoint() {
        for (below, above) in [(64 << 20, 0), (3 << 30, 5 << 30)] {
            let map = for_kernel(&layout(below, above, true), 0x2_0000);
            assert!(map.windows(2).all(|pair| pair[0].base + pair[0].length <= pair[1].base));
            let ram: u64 =
                map.iter().filter(|entry| entry.kind == Kind::Ram).map(|entry| entry.length).sum();
            assert_eq!(ram, below + above - 0x2_0000 - (0x10_0000 - 0x9_fc00));
        }
    }
}
