//! What the virtual clock goes by.

/// What the virtual clock goes by while it runs, in place of real time: how many instructions the
/// guest has executed.
pub trait Pace: Send + Sync {
    /// Nanoseconds since some beginning.
    fn elapsed(&self) -> i64;
    /// The earliest timer of the virtual clock is another one than before. Called on any thread,
    /// with devices locked.
    fn deadline_moved(&self);
}
