//! The XSAVE image (SDM vol. 1, 13.4) between the architectural state and the kernel.

use kvm_bindings::kvm_xsave;

use super::cpuid::xsave_component;
use crate::fpu::x87::X87;
use crate::state::{CpuState, VecReg, xcr0};

const MXCSR: usize = 24;
const XMM: usize = 160;
/// End of the area that FXSAVE knows.
const HEADER: usize = 512;
const SIZE: usize = 4096;

/// An image in the standard format, as bytes.
pub(super) struct Image(Box<[u8; SIZE]>);

/// Where a component lies in the image, if the host has it.
fn component(mask: u64) -> Option<(usize, usize)> {
    let (offset, size) = xsave_component(mask.trailing_zeros())?;
    (offset.checked_add(size)? <= SIZE).then_some((offset, size))
}

impl Image {
    /// The image that the kernel gave.
    pub fn new(xsave: &kvm_xsave) -> Self {
        let mut bytes = Box::new([0; SIZE]);
        for (to, from) in bytes.chunks_exact_mut(4).zip(xsave.region) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        Image(bytes)
    }

    /// The image for the kernel.
    pub fn to_kvm(&self) -> kvm_xsave {
        let mut xsave = kvm_xsave::default();
        for (to, from) in xsave.region.iter_mut().zip(self.0.chunks_exact(4)) {
            *to = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
        xsave
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0.get(at + i).copied().unwrap_or(0))
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.0.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// Components that the image holds; the others are in their initial state.
    fn present(&self) -> u64 {
        u64::from_le_bytes(self.get(HEADER))
    }

    fn holds(&self, mask: u64) -> bool {
        self.present() & mask != 0
    }

    /// Copies what the image says into the state.
    pub fn load(&self, state: &mut CpuState) {
        state.x87 = X87::default();
        if self.holds(xcr0::X87) {
            state.x87.fxrstor(true, &self.get(0));
        }
        state.mxcsr = u32::from_le_bytes(self.get(MXCSR));
        state.vec = [VecReg::default(); 32];
        state.opmask = [0; 8];
        state.pkru = 0;
        if self.holds(xcr0::SSE) {
            self.load_lanes(&mut state.vec[..16], XMM, 16, 0);
        }
        if let Some((offset, _)) = component(xcr0::AVX).filter(|_| self.holds(xcr0::AVX)) {
            self.load_lanes(&mut state.vec[..16], offset, 16, 1);
        }
        if let Some((offset, _)) = component(xcr0::ZMM_HIGH).filter(|_| self.holds(xcr0::ZMM_HIGH))
        {
            self.load_lanes(&mut state.vec[..16], offset, 32, 2);
        }
        if let Some((offset, _)) =
            component(xcr0::ZMM_16_31).filter(|_| self.holds(xcr0::ZMM_16_31))
        {
            self.load_lanes(&mut state.vec[16..], offset, 64, 0);
        }
        if let Some((offset, _)) = component(xcr0::OPMASK).filter(|_| self.holds(xcr0::OPMASK)) {
            for (n, mask) in state.opmask.iter_mut().enumerate() {
                *mask = u64::from_le_bytes(self.get(offset + 8 * n));
            }
        }
        if let Some((offset, _)) = component(xcr0::PKRU).filter(|_| self.holds(xcr0::PKRU)) {
            state.pkru = u32::from_le_bytes(self.get(offset));
        }
    }

    /// `size` bytes of each register, which begin at 16-byte element `first`.
    fn load_lanes(&self, regs: &mut [VecReg], offset: usize, size: usize, first: usize) {
        for (n, reg) in regs.iter_mut().enumerate() {
            for lane in 0..size / 16 {
                reg.0[first + lane] = u128::from_le_bytes(self.get(offset + n * size + 16 * lane));
            }
        }
    }

    fn store_lanes(&mut self, regs: &[VecReg], offset: usize, size: usize, first: usize) {
        for (n, reg) in regs.iter().enumerate() {
            for lane in 0..size / 16 {
                self.set(offset + n * size + 16 * lane, &reg.0[first + lane].to_le_bytes());
            }
        }
    }

    /// Copies the state into the image. Only components that the guest has enabled are marked as
    /// present.
    pub fn store(&mut self, state: &CpuState, enabled: u64) {
        let mut legacy: [u8; HEADER] = self.get(0);
        state.x87.fxsave(true, &mut legacy);
        self.set(0, &legacy);
        self.set(MXCSR, &state.mxcsr.to_le_bytes());
        self.store_lanes(&state.vec[..16], XMM, 16, 0);
        let mut present = self.present() | xcr0::X87 | xcr0::SSE;
        let mut part = |mask: u64| {
            let place = component(mask).filter(|_| enabled & mask != 0)?;
            present |= mask;
            Some(place.0)
        };
        let [avx, high, upper, opmask, pkru] =
            [xcr0::AVX, xcr0::ZMM_HIGH, xcr0::ZMM_16_31, xcr0::OPMASK, xcr0::PKRU].map(&mut part);
        if let Some(offset) = avx {
            self.store_lanes(&state.vec[..16], offset, 16, 1);
        }
        if let Some(offset) = high {
            self.store_lanes(&state.vec[..16], offset, 32, 2);
        }
        if let Some(offset) = upper {
            self.store_lanes(&state.vec[16..], offset, 64, 0);
        }
        if let Some(offset) = opmask {
            for (n, mask) in state.opmask.iter().enumerate() {
                self.set(offset + 8 * n, &mask.to_le_bytes());
            }
        }
        if let Some(offset) = pkru {
            self.set(offset, &state.pkru.to_le_bytes());
        }
        self.set(HEADER, &present.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_state_survives_the_image() {
        let mut state = CpuState::at_reset(0);
        for (n, reg) in state.vec.iter_mut().enumerate().take(16) {
            reg.0 = [n as u128 + 1, (n as u128) << 64, 0, 0];
        }
        state.mxcsr = 0x1fa0;
        state.x87.set_control(0x27f);
        state.x87.set_mmx(3, 0x1122_3344_5566_7788);
        let mut image = Image::new(&kvm_xsave::default());
        image.store(&state, xcr0::X87 | xcr0::SSE | xcr0::AVX);
        let mut loaded = CpuState::at_reset(0);
        Image::new(&image.to_kvm()).load(&mut loaded);
        assert_eq!(loaded.mxcsr, state.mxcsr);
        assert_eq!(loaded.x87, state.x87);
        if component(xcr0::AVX).is_some() {
            assert_eq!(loaded.vec, state.vec);
        }
    }

    #[test]
    fn absent_components_read_as_initial() {
        let mut image = Image::new(&kvm_xsave::default());
        image.set(XMM, &[0xff; 16]);
        let mut state = CpuState::at_reset(0);
        image.load(&mut state);
        assert_eq!(state.vec[0], VecReg::default());
    }
}
