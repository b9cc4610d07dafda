//! `vc`: a text console of a display. What shows it, and has keys for it, is made by a display
//! ([`VcScreens`]); here is the way between it and the front end.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::link::Link;
use super::{Backend, CharEvent};
use crate::event_loop::{BottomHalf, LoopHandle};

/// How much waits for a front end that is busy; what is typed beyond it is lost.
const PENDING_MAX: usize = 1024;

/// How large a text console is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcSize {
    /// Characters in a line.
    pub columns: Option<u32>,
    /// Lines.
    pub rows: Option<u32>,
}

impl VcSize {
    /// From what was said of each side, in characters or else in pixels of a font of eight by sixteen.
    /// Zero is nothing.
    pub fn new(across: (Option<u64>, Option<u64>), down: (Option<u64>, Option<u64>)) -> Self {
        let side = |(characters, pixels): (Option<u64>, Option<u64>), size: u64| {
            let given = characters.filter(|count| *count > 0);
            let count = given.or(pixels.map(|pixels| pixels / size)).filter(|count| *count > 0);
            count.map(|count| count.min(u32::MAX.into()) as u32)
        };
        VcSize { columns: side(across, 8), rows: side(down, 16) }
    }
}

/// Shows what is written to a `vc`.
pub trait VcScreen: Send + Sync {
    /// The front end writes.
    fn write(&self, bytes: &[u8]);
}

/// Who has screens for `vc`.
pub trait VcScreens: Send + Sync {
    /// A screen for the device `label`, whose keys go to `keyboard`.
    fn open(&self, label: &str, size: VcSize, keyboard: VcKeyboard) -> Arc<dyn VcScreen>;
}

/// The way from a text console's keys to the front end.
#[derive(Clone, Default)]
pub struct VcKeyboard(Weak<Keys>);

impl VcKeyboard {
    /// Somebody types; from any thread.
    pub fn send(&self, bytes: &[u8]) {
        if let Some(keys) = self.0.upgrade() {
            let mut pending = keys.pending.lock();
            let room = PENDING_MAX.saturating_sub(pending.len());
            pending.extend(bytes.iter().take(room));
            drop(pending);
            keys.deliver.schedule();
        }
    }
}

/// What is typed, on its way.
struct Keys {
    link: Arc<Link>,
    pending: Mutex<VecDeque<u8>>,
    deliver: BottomHalf,
}

impl Keys {
    /// On the loop's thread.
    fn deliver(&self) {
        loop {
            let room = self.link.can_receive();
            let bytes: Vec<u8> = {
                let mut pending = self.pending.lock();
                let count = room.min(pending.len());
                pending.drain(..count).collect()
            };
            if bytes.is_empty() {
                return;
            }
            self.link.receive(&bytes);
        }
    }
}

/// The back end.
pub(super) struct Vc {
    keys: Arc<Keys>,
    screen: Arc<dyn VcScreen>,
}

impl Vc {
    pub(super) fn open(
        handle: &LoopHandle,
        link: &Arc<Link>,
        screens: &dyn VcScreens,
        label: &str,
        size: VcSize,
    ) -> Self {
        let keys = Arc::new_cyclic(|me: &Weak<Keys>| {
            let me = me.clone();
            let deliver = handle.bottom_half(move || {
                if let Some(keys) = me.upgrade() {
                    keys.deliver();
                }
            });
            Keys { link: link.clone(), pending: Mutex::default(), deliver }
        });
        let screen = screens.open(label, size, VcKeyboard(Arc::downgrade(&keys)));
        link.event(CharEvent::Opened);
        Vc { keys, screen }
    }
}

impl Backend for Vc {
    fn write(&self, bytes: &[u8]) -> usize {
        self.screen.write(bytes);
        bytes.len()
    }

    fn accept_input(&self) {
        self.keys.deliver.schedule();
    }

    fn filename(&self) -> String {
        "vc".into()
    }
}
