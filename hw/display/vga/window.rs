//! The processor's windows to memory, where they show it as it lies.

use base::memory::Region;

/// Where a window shows memory: offset in the window, offset in memory, size.
pub type Place = (u64, u64, u64);

/// A window. Accesses that find no memory in it are the adapter's to answer.
pub struct Window {
    container: Region,
    memory: Region,
    shown: Vec<(Place, Region)>,
}

impl Window {
    /// A window that shows none of `memory` yet.
    pub fn new(container: &Region, memory: &Region) -> Self {
        Window { container: container.clone(), memory: memory.clone(), shown: Vec::new() }
    }

    /// Shows memory at these places, and only there.
    pub fn show(&mut self, places: impl IntoIterator<Item = Place>) {
        let size = self.memory.size();
        let fits = |&(_, from, len): &Place| u128::from(from + len) <= size;
        let places: Vec<_> = places.into_iter().filter(fits).collect();
        if self.shown.iter().map(|(place, _)| *place).eq(places.iter().copied()) {
            return;
        }
        for (_, region) in self.shown.drain(..) {
            self.container.remove(&region);
        }
        for (at, from, len) in places {
            let region = Region::alias("vga.chain4", &self.memory, from, len.into());
            self.container.add(&region, at, 1);
            self.shown.push(((at, from, len), region));
        }
    }
}
