//! What a monitor says about itself (VESA Enhanced EDID Standard, release A, revision 2).

use ui::SizeWish;

/// A monitor.
#[derive(Clone, Debug)]
pub struct Edid {
    /// The size that it prefers.
    pub preferred: (u32, u32),
}

impl Edid {
    /// Prefers another size.
    pub fn prefer(&mut self, wish: SizeWish) {
        self.preferred = (wish.width, wish.height);
    }

    /// Its description.
    pub fn bytes(&self) -> Vec<u8> {
        vec![0; 128]
    }
}
