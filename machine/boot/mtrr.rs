//! Memory types as firmware sets them up (Intel SDM volume 3, 12.11): everything is cached but the window of old
//! display adapters and what lies between RAM and 4 GiB; ROM is write-protected. Without them an operating system
//! leaves its page attribute table alone.

use cpu::state::Msrs;

const UNCACHABLE: u64 = 0;
const WRITE_PROTECTED: u8 = 5;
const WRITE_BACK: u8 = 6;

/// In the default type register: MTRRs, and those for fixed ranges, count.
const ENABLE: u64 = 1 << 11 | 1 << 10;
/// In a mask: the range counts.
const VALID: u64 = 1 << 11;

const FOUR_GIB: u64 = 1 << 32;

/// Sets the registers of one processor.
pub fn set(msrs: &mut Msrs, below_4g: u64, phys_bits: u32) {
    let all = |kind: u8| u64::from_ne_bytes([kind; 8]);
    // 0 to 0x7FFFF, 0x80000 to 0x9FFFF; 0xA0000 to 0xBFFFF; eight times 32 KiB from 0xC0000 on.
    msrs.mtrr_fixed = [all(WRITE_PROTECTED); 11];
    msrs.mtrr_fixed[..2].fill(all(WRITE_BACK));
    msrs.mtrr_fixed[2] = UNCACHABLE;
    // One range up to 4 GiB: its size is a power of two, and it leaves out all RAM.
    let hole = [2 << 30, 3 << 30, 7 << 29].into_iter().find(|start| *start >= below_4g);
    msrs.mtrr_var = Default::default();
    if let Some(start) = hole {
        let address_bits = (1u64 << phys_bits) - 1;
        let mask = address_bits & !(FOUR_GIB - start - 1);
        msrs.mtrr_var[0] = (start | UNCACHABLE, mask | VALID);
    }
    msrs.mtrr_def_type = ENABLE | u64::from(WRITE_BACK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::state::CpuState;

    fn hole(below_4g: u64) -> (u64, u64) {
        let mut state = CpuState::at_reset(0);
        set(&mut state.msr, below_4g, 40);
        state.msr.mtrr_var[0]
    }

    #[test]
    fn the_hole_below_4_gib_is_not_cached() {
        assert_eq!(hole(512 << 20), (0x8000_0000, 0xff_8000_0800));
        assert_eq!(hole(3 << 30), (0xc000_0000, 0xff_c000_0800));
        assert_eq!(hole(7 << 29), (0xe000_0000, 0xff_e000_0800));
        assert_eq!(hole(0xf000_0000), (0, 0), "no power of two is left");
    }
}
