//! The window in the first megabyte, where it shows memory as it lies.

use base::memory::Region;

/// Where the window shows memory: offset in the window, offset in memory, size.
type Place = (u64, u64, u64);

/// The window.
pub struct Window {
    container: Region,
    memory: Region,
    shown: Option<(Place, Region)>,
}

impl Window {
    /// A window that shows none of `memory` yet.
    pub fn new(container: &Region, memory: &Region) -> Self {
        Window { container: container.clone(), memory: memory.clone(), shown: None }
    }

    /// Shows memory here, or nowhere.
    pub fn show(&mut self, place: Option<Place>) {
        let size = self.memory.size();
        let place = place.filter(|(_, from, len)| u128::from(from + len) <= size);
        if self.shown.as_ref().map(|(place, _)| *place) == place {
            return;
        }
        if let Some((_, region)) = self.shown.take() {
            self.container.remove(&region);
        }
        if let Some((at, from, len)) = place {
            let region = Region::alias("vga.chain4", &self.memory, from, len.into());
            self.container.add(&region, at, 1);
            self.shown = Some(((at, from, len), region));
        }
    }
}
