//! The memory images of the x87 state: FSTENV, FSAVE and the legacy area of FXSAVE.

use super::X87;
use crate::fpu::format::{Class, F80, Float};

/// Layout of the environment; operand size and processor mode choose it (SDM volume 1, figures 8-9 to
/// 8-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvLayout {
    /// 14 bytes, real-address and virtual-8086 mode.
    Real16,
    /// 14 bytes, protected mode.
    Protected16,
    /// 28 bytes, real-address and virtual-8086 mode.
    Real32,
    /// 28 bytes, protected and long mode.
    Protected32,
}

impl EnvLayout {
    /// Size of the environment in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Real16 | Self::Protected16 => 14,
            Self::Real32 | Self::Protected32 => 28,
        }
    }
}

/// Size of the largest FSAVE image; those of the 14-byte layouts end 14 bytes earlier.
pub const FSAVE_SIZE: usize = 108;

fn read<const N: usize>(image: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(source) = image.get(at..at + N) {
        bytes.copy_from_slice(source);
    }
    bytes
}

fn read_u16(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(read(image, at))
}

fn read_u32(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(read(image, at))
}

fn write(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = image.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

impl X87 {
    /// The full tag word: 0 valid, 1 zero, 2 special, 3 empty, two bits per physical register.
    pub fn full_tags(&self) -> u16 {
        (0..8).rev().fold(0, |tags, index| tags << 2 | self.full_tag(index))
    }

    fn full_tag(&self, index: u8) -> u16 {
        if self.valid & 1 << index == 0 {
            return 3;
        }
        let value = self.register(index).unpack();
        match value.class {
            Class::Zero => 1,
            Class::Finite if !value.denormal => 0,
            _ => 2,
        }
    }

    /// Replaces the tags by a full tag word; only empty or not counts.
    pub fn set_full_tags(&mut self, tags: u16) {
        self.valid = (0..8).filter(|i| tags >> (2 * i) & 3 != 3).fold(0, |valid, i| valid | 1 << i);
    }

    /// The FNSTENV image, in the first `layout.size()` bytes; then masks all exceptions, as FNSTENV
    /// does.
    pub fn fnstenv(&mut self, layout: EnvLayout) -> [u8; 28] {
        let mut image = [0; 28];
        self.store_environment(layout, &mut image);
        self.control |= 0x3f;
        image
    }

    fn store_environment(&self, layout: EnvLayout, image: &mut [u8]) {
        let linear =
            |segment: u16, offset: u64| (u32::from(segment) << 4).wrapping_add(offset as u32);
        let (ip, dp) = (linear(self.fcs, self.fip), linear(self.fds, self.fdp));
        let fop = self.fop & 0x7ff;
        let words = match layout {
            EnvLayout::Real16 => [ip, u32::from(fop) | (ip >> 4 & 0xf000), dp, dp >> 4 & 0xf000],
            EnvLayout::Protected16 => {
                [self.fip as u32, self.fcs.into(), self.fdp as u32, self.fds.into()]
            }
            EnvLayout::Real32 => [
                ip | 0xffff_0000,
                u32::from(fop) | (ip >> 4 & 0x0fff_f000),
                dp | 0xffff_0000,
                dp >> 4 & 0x0fff_f000,
            ],
            EnvLayout::Protected32 => [
                self.fip as u32,
                u32::from(self.fcs) | u32::from(fop) << 16,
                self.fdp as u32,
                u32::from(self.fds) | 0xffff_0000,
            ],
        };
        let controls = [self.control, self.status(), self.full_tags()]
            .map(|word| u32::from(word) | 0xffff_0000);
        let width = layout.size() / 7;
        for (i, value) in controls.iter().chain(&words).enumerate() {
            write(image, i * width, &value.to_le_bytes()[..width]);
        }
    }

    /// FLDENV, from at least `layout.size()` bytes.
    pub fn fldenv(&mut self, layout: EnvLayout, image: &[u8]) {
        let width = layout.size() / 7;
        let field = |i: usize| match width {
            2 => u32::from(read_u16(image, 2 * i)),
            _ => read_u32(image, 4 * i),
        };
        self.set_control(field(0) as u16);
        self.set_status(field(1) as u16);
        self.set_full_tags(field(2) as u16);
        let [ip, cs, dp, ds] = [3, 4, 5, 6].map(field);
        match layout {
            EnvLayout::Protected16 | EnvLayout::Protected32 => {
                (self.fip, self.fcs) = (ip.into(), cs as u16);
                (self.fdp, self.fds) = (dp.into(), ds as u16);
                if layout == EnvLayout::Protected32 {
                    self.fop = (cs >> 16) as u16 & 0x7ff;
                }
            }
            EnvLayout::Real16 | EnvLayout::Real32 => {
                (self.fip, self.fcs) = (u64::from(ip & 0xffff | (cs & 0x0fff_f000) << 4), 0);
                (self.fdp, self.fds) = (u64::from(dp & 0xffff | (ds & 0x0fff_f000) << 4), 0);
                self.fop = cs as u16 & 0x7ff;
            }
        }
    }

    /// The FNSAVE image, in the first `layout.size() + 80` bytes; then initialises, as FNSAVE does.
    pub fn fnsave(&mut self, layout: EnvLayout) -> [u8; FSAVE_SIZE] {
        let mut image = [0; FSAVE_SIZE];
        self.store_environment(layout, &mut image);
        for i in 0..8 {
            write(&mut image, layout.size() + 10 * usize::from(i), &self.st(i).to_bytes());
        }
        self.fninit();
        image
    }

    /// FRSTOR, from at least `layout.size() + 80` bytes.
    pub fn frstor(&mut self, layout: EnvLayout, image: &[u8]) {
        self.fldenv(layout, image);
        for i in 0..8 {
            let value = F80::from_bytes(read(image, layout.size() + 10 * usize::from(i)));
            self.set_register(self.physical(i), value);
        }
    }

    /// Writes the x87 part of an FXSAVE area: bytes 0 to 23 and 32 to 159. `wide` is REX.W: 64-bit
    /// pointers without selectors.
    pub fn fxsave(&self, wide: bool, area: &mut [u8; 512]) {
        write(area, 0, &self.control.to_le_bytes());
        write(area, 2, &self.status().to_le_bytes());
        write(area, 4, &[self.valid, 0]);
        write(area, 6, &(self.fop & 0x7ff).to_le_bytes());
        for (at, offset, segment) in [(8, self.fip, self.fcs), (16, self.fdp, self.fds)] {
            let pointer =
                if wide { offset } else { offset & 0xffff_ffff | u64::from(segment) << 32 };
            write(area, at, &pointer.to_le_bytes());
        }
        for i in 0..8 {
            let mut slot = [0; 16];
            write(&mut slot, 0, &self.st(i).to_bytes());
            write(area, 32 + 16 * usize::from(i), &slot);
        }
    }

    /// Loads the x87 part of an FXSAVE area.
    pub fn fxrstor(&mut self, wide: bool, area: &[u8; 512]) {
        self.set_control(read_u16(area, 0));
        self.set_status(read_u16(area, 2));
        self.valid = area[4];
        self.fop = read_u16(area, 6) & 0x7ff;
        let pointer = |at| {
            let value = u64::from_le_bytes(read(area, at));
            if wide { (value, 0) } else { (value & 0xffff_ffff, (value >> 32) as u16) }
        };
        (self.fip, self.fcs) = pointer(8);
        (self.fdp, self.fds) = pointer(16);
        for i in 0..8 {
            self.set_register(
                self.physical(i),
                F80::from_bytes(read(area, 32 + 16 * usize::from(i))),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> X87 {
        let mut x87 = X87::default();
        x87.set_control(0x027f);
        x87.set_status(0x3841);
        x87.set_abridged_tags(0x80);
        (x87.fop, x87.fcs, x87.fip) = (0x5ab, 0xf123, 0x4567);
        (x87.fds, x87.fdp) = (0x8000, 0x9abc);
        x87
    }

    fn words(image: &[u8]) -> Vec<u16> {
        image.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word)).collect()
    }

    /// SDM volume 1, figures 8-9 to 8-12. Linear addresses: 0xf123 * 16 + 0x4567 = 0xf5797, and
    /// 0x8000 * 16 + 0x9abc = 0x89abc.
    #[test]
    fn environments_are_laid_out_by_mode_and_operand_size() {
        let image = |layout: EnvLayout| words(&state().fnstenv(layout)[..layout.size()]);
        let head = [0x027f, 0x3841, 0x7fff];
        let long_head = [0x027f, 0xffff, 0x3841, 0xffff, 0x7fff, 0xffff];
        assert_eq!(
            image(EnvLayout::Protected16),
            [&head[..], &[0x4567, 0xf123, 0x9abc, 0x8000]].concat()
        );
        assert_eq!(
            image(EnvLayout::Real16),
            [&head[..], &[0x5797, 0xf5ab, 0x9abc, 0x8000]].concat()
        );
        assert_eq!(
            image(EnvLayout::Protected32),
            [&long_head[..], &[0x4567, 0, 0xf123, 0x05ab, 0x9abc, 0, 0x8000, 0xffff]].concat()
        );
        assert_eq!(
            image(EnvLayout::Real32),
            [&long_head[..], &[0x5797, 0xffff, 0xf5ab, 0, 0x9abc, 0xffff, 0x8000, 0]].concat()
        );
    }

    #[test]
    fn environments_load_what_they_hold() {
        for layout in
            [EnvLayout::Real16, EnvLayout::Protected16, EnvLayout::Real32, EnvLayout::Protected32]
        {
            let image = state().fnsave(layout);
            let mut loaded = X87::default();
            loaded.frstor(layout, &image);
            assert_eq!(loaded.clone().fnsave(layout), image, "{layout:?}");
        }
    }
}
