//! `base/clock`: the virtual clock's pair of words.

#[path = "../../base/clock/virtual_time.rs"]
mod virtual_time;

/// The pair.
#[derive(Default)]
pub struct VirtualTime(virtual_time::VirtualTime);

impl VirtualTime {
    /// Both words.
    pub fn get(&self) -> (bool, i64) {
        self.0.read(|running, offset| (running, offset))
    }

    /// Replaces both.
    pub fn set(&self, new: (bool, i64)) {
        self.0.update(|_, _| new);
    }
}
