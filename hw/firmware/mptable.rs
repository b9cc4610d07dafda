//! The MultiProcessor table (Intel MultiProcessor Specification 1.4), for kernels without ACPI.

/// One processor.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    /// Local APIC identifier; entries hold eight bits, others are left out.
    pub apic_id: u32,
    /// Whether it starts the system.
    pub boot: bool,
}

/// Input of the IOAPIC that receives the ISA timer.
const TIMER_INPUT: u8 = 2;
const IOAPIC_VERSION: u8 = 0x11;
const IOAPIC_BASE: u32 = 0xfec0_0000;
const APIC_BASE: u32 = 0xfee0_0000;
const APIC_VERSION: u8 = 0x14;
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
const POINTER_LENGTH: u32 = 16;

/// The floating pointer followed by the configuration table, for the given 16-byte aligned address. `cpuid` is EAX
/// and EDX of leaf 1; `pci` lists slot, pin (0 is INTA) and IOAPIC input of PCI devices.
pub fn build(
    address: u32,
    processors: &[Processor],
    cpuid: (u32, u32),
    pci: &[(u8, u8, u8)],
) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = vec![];
    for processor in processors {
        if let Ok(id) = u8::try_from(processor.apic_id) {
            const ENABLED: u8 = 1;
            const BOOT: u8 = 2;
            let flags = if processor.boot { ENABLED | BOOT } else { ENABLED };
            let mut entry = vec![0, id, APIC_VERSION, flags];
            entry.extend(cpuid.0.to_le_bytes());
            entry.extend(cpuid.1.to_le_bytes());
            entry.extend([0; 8]);
            entries.push(entry);
        }
    }
    entries.push([&[1, PCI_BUS][..], b"PCI   "].concat());
    entries.push([&[1, ISA_BUS][..], b"ISA   "].concat());
    entries.push([&[2, 0, IOAPIC_VERSION, 1][..], &IOAPIC_BASE.to_le_bytes()].concat());

    const VECTORED: u8 = 0;
    const NMI: u8 = 1;
    const EXTERNAL: u8 = 3;
    const IOAPIC: u8 = 0;
    const ACTIVE_HIGH: u8 = 1;
    const ALL_APICS: u8 = 0xff;
    for &(slot, pin, input) in pci {
        entries.push(vec![
            3,
            VECTORED,
            ACTIVE_HIGH,
            0,
            PCI_BUS,
            slot << 2 | pin & 3,
            IOAPIC,
            input,
        ]);
    }
    // Lines 5, 9, 10 and 11 belong to PCI; 2 is the cascade.
    for line in (0..16).filter(|line| ![2, 5, 9, 10, 11].contains(line)) {
        let input = if line == 0 { TIMER_INPUT } else { line };
        entries.push(vec![3, VECTORED, 0, 0, ISA_BUS, line, IOAPIC, input]);
    }
    entries.push(vec![4, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![4, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);

    let mut table = b"PCMP\0\0\x04\0BOCHSCPU0.1         ".to_vec();
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(APIC_BASE.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries.concat());
    let length = table.len() as u16;
    table[4..6].copy_from_slice(&length.to_le_bytes());
    balance(&mut table, 7);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend((address + POINTER_LENGTH).to_le_bytes());
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    balance(&mut pointer, 10);
    [pointer, table].concat()
}

/// Sets the byte at `at` so that all bytes add up to zero.
pub(super) fn balance(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = bytes[at].wrapping_sub(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_equals_the_recorded_table() {
        let boot = Processor { apic_id: 0, boot: true };
        let bytes = build(0xf_5420, &[boot], (0x6_0fb1, 0x078b_fbfd), &[(1, 0, 9)]);
        // Pointer and head as firmware writes them for this board.
        assert_eq!(bytes[..16], *b"_MP_\x30\x54\x0f\0\x01\x04\x0d\0\0\0\0\0");
        assert_eq!(bytes[16..24], *b"PCMP\xc8\0\x04\x66");
        assert_eq!(bytes.len(), 16 + 200);
    }

    #[test]
    fn processors_beyond_eight_bits_are_left_out() {
        let ids = [0, 1, 0x180].map(|apic_id| Processor { apic_id, boot: apic_id == 0 });
        assert_eq!(build(0, &ids, (0, 0), &[]).len(), build(0, &ids[..2], (0, 0), &[]).len());
    }
}
