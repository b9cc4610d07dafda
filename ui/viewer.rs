//! Who looks at a console.

use crate::{Cursor, Rect};

/// Somebody who looks at a console: a client of a server, a window, a terminal.
///
/// The methods are called by the thread that refreshes, one after the other. They only note what is
/// to be done and wake whoever does it: they never wait, and neither take the console's surface nor
/// attach or detach (the console has its surface and its viewers locked).
pub trait Viewer: Send + Sync {
    /// Whether the viewer would do something with a new frame now. While no viewer of a console
    /// would, its adapter is not asked for one; what changes meanwhile is part of the next frame.
    /// Call [`crate::Consoles::nudge`] when the answer becomes yes.
    fn wants_frame(&self) -> bool {
        true
    }

    /// These parts of the surface changed.
    fn damaged(&self, rects: &[Rect]);

    /// The surface has another size; all of it is new.
    fn resized(&self, width: u32, height: u32);

    /// The adapter's pointer moved or looks differently.
    fn cursor_changed(&self, cursor: &Cursor) {
        let _ = cursor;
    }
}
