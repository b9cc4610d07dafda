//! One head: its picture, and who looks at it.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::consoles::Pace;
use crate::text::{self, VcTerminal};
use crate::{Adapter, Cursor, SizeWish, Surface, TextScreen, Viewer};

/// Which head of which device a console shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The device's id, if the operator gave it one.
    pub device: Option<String>,
    /// Path of the device in the object tree.
    pub path: String,
    /// Number of the head.
    pub head: u32,
}

/// One head: its picture, and who looks at it.
pub struct Console {
    index: usize,
    label: String,
    place: Place,
    adapter: Arc<dyn Adapter>,
    terminal: Option<Arc<VcTerminal>>,
    surface: RwLock<Surface>,
    viewers: Mutex<Vec<Arc<dyn Viewer>>>,
    cursor: Mutex<Cursor>,
    pace: Arc<Pace>,
}

impl Console {
    pub(crate) fn new(
        index: usize,
        label: &str,
        place: Place,
        adapter: Arc<dyn Adapter>,
        pace: Arc<Pace>,
    ) -> Arc<Self> {
        Arc::new(Console {
            index,
            label: label.into(),
            place,
            adapter,
            terminal: None,
            surface: RwLock::default(),
            viewers: Mutex::default(),
            cursor: Mutex::default(),
            pace,
        })
    }

    /// The screen and the keys of a character device.
    pub(crate) fn of_text(index: usize, terminal: Arc<VcTerminal>, pace: Arc<Pace>) -> Arc<Self> {
        let (label, adapter) = (terminal.label().to_owned(), terminal.clone());
        Arc::new(Console {
            index,
            label,
            place: Place::default(),
            adapter,
            terminal: Some(terminal),
            surface: RwLock::default(),
            viewers: Mutex::default(),
            cursor: Mutex::default(),
            pace,
        })
    }

    /// What takes keys here, if that is not the guest.
    pub fn terminal(&self) -> Option<&Arc<VcTerminal>> {
        self.terminal.as_ref()
    }

    /// Its number among the consoles.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What people call it, such as `VGA`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What it shows.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its picture as of the last refresh. Whoever encodes it copies what it needs and lets go: the
    /// next refresh waits.
    pub fn surface(&self) -> RwLockReadGuard<'_, Surface> {
        self.surface.read()
    }

    /// The adapter's pointer as of the last refresh.
    pub fn cursor(&self) -> Cursor {
        self.cursor.lock().clone()
    }

    /// The screen as characters, while it consists of them.
    pub fn text(&self) -> Option<TextScreen> {
        self.adapter.text()
    }

    /// Whether the guest can be told what size viewers would like.
    pub fn takes_wishes(&self) -> bool {
        self.adapter.takes_wishes()
    }

    /// Tells the guest what size a viewer would like.
    pub fn wish_size(&self, wish: SizeWish) {
        self.adapter.wish_size(wish);
    }

    /// From now on `viewer` is told of changes, until what is returned is dropped. It is told of the
    /// size and the pointer at once, and of all content with the next frame.
    pub fn attach(self: &Arc<Self>, viewer: Arc<dyn Viewer>) -> Attachment {
        self.refresh(false);
        {
            let surface = self.surface.read();
            viewer.resized(surface.width(), surface.height());
            viewer.cursor_changed(&self.cursor.lock());
            viewer.damaged(&[surface.bounds()]);
            self.viewers.lock().push(viewer.clone());
        }
        self.pace.start();
        Attachment { console: Arc::downgrade(self), viewer }
    }

    /// Whether anybody looks.
    pub fn is_watched(&self) -> bool {
        !self.viewers.lock().is_empty()
    }

    /// Whether anybody would do something with a new frame.
    pub(crate) fn is_wanted(&self) -> bool {
        self.viewers.lock().iter().any(|viewer| viewer.wants_frame())
    }

    /// Brings the picture up to date and tells the viewers; says whether anything changed.
    pub fn refresh(&self, full: bool) -> bool {
        let mut surface = self.surface.write();
        let mut damage = self.adapter.refresh(&mut surface, full);
        if surface.bounds().is_empty() {
            damage = text::notice(&mut surface, text::NOT_INITIALIZED);
        }
        let pointer = self.adapter.cursor();
        let moved = {
            let mut cursor = self.cursor.lock();
            let moved = *cursor != pointer;
            cursor.clone_from(&pointer);
            moved
        };
        let viewers = self.viewers.lock();
        for viewer in viewers.iter() {
            if damage.resized {
                viewer.resized(surface.width(), surface.height());
                viewer.damaged(&[surface.bounds()]);
            } else if !damage.rects.is_empty() {
                viewer.damaged(&damage.rects);
            }
            if moved {
                viewer.cursor_changed(&pointer);
            }
        }
        moved || !damage.is_empty()
    }

    /// A copy of what is shown at this moment.
    pub fn snapshot(&self) -> Surface {
        self.refresh(false);
        self.surface.read().clone()
    }
}

/// A viewer's tie to a console; dropping it unties.
pub struct Attachment {
    console: Weak<Console>,
    viewer: Arc<dyn Viewer>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(console) = self.console.upgrade() {
            console.viewers.lock().retain(|viewer| !Arc::ptr_eq(viewer, &self.viewer));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::{Damage, Rect};

    /// Shows what it is told to, of 2 times 2 pixels.
    #[derive(Default)]
    pub(crate) struct Lamp {
        pub lit: AtomicBool,
        pub switched: AtomicBool,
    }

    impl Lamp {
        pub fn switch(&self, lit: bool) {
            self.lit.store(lit, Ordering::SeqCst);
            self.switched.store(true, Ordering::SeqCst);
        }
    }

    impl Adapter for Lamp {
        fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
            let resized = surface.resize(2, 2);
            if !self.switched.swap(false, Ordering::SeqCst) && !full && !resized {
                return Damage::default();
            }
            surface.pixels_mut().fill(self.lit.load(Ordering::SeqCst).into());
            Damage { resized, ..Damage::all(surface) }
        }
    }

    pub(crate) struct Log(pub Mutex<Sender<String>>);

    impl Log {
        pub fn new() -> (Arc<Self>, Receiver<String>) {
            let (send, receive) = channel();
            (Arc::new(Log(Mutex::new(send))), receive)
        }
        fn note(&self, text: String) {
            // The test may have seen enough.
            let _ = self.0.lock().send(text);
        }
    }

    impl Viewer for Log {
        fn damaged(&self, rects: &[Rect]) {
            self.note(format!("damaged {}", rects.len()));
        }
        fn resized(&self, width: u32, height: u32) {
            self.note(format!("{width}x{height}"));
        }
    }

    #[test]
    fn viewers_are_told_until_they_leave() {
        let lamp = Arc::new(Lamp::default());
        let console = Console::new(0, "Lamp", Place::default(), lamp.clone(), Arc::default());
        let (log, told) = Log::new();
        let attachment = console.attach(log);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["2x2", "damaged 1"]);
        assert!(!console.refresh(false), "nothing has changed");
        lamp.switch(true);
        assert!(console.refresh(false));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["damaged 1"]);
        assert_eq!(console.surface().pixels(), [1; 4]);
        drop(attachment);
        assert!(!console.is_watched());
        lamp.switch(false);
        assert_eq!(console.snapshot().pixels(), [0; 4]);
        assert_eq!(told.try_iter().count(), 0);
    }
}
