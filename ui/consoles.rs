//! All heads of a machine, and the thread that refreshes them.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use base::chardev::{VcKeyboard, VcScreen, VcScreens, VcSize};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::text::VcTerminal;
use crate::{Adapter, Console, Place};

/// Between frames while something changes.
const QUICK: Duration = Duration::from_millis(16);
/// Between looks while nothing does.
const SLOW: Duration = Duration::from_millis(250);
/// How many looks in vain there are before they become rarer.
const PATIENCE: u32 = 60;

/// When the next frame is due.
#[derive(Default)]
pub(crate) struct Pace {
    hurried: Mutex<bool>,
    changed: Condvar,
    consoles: Weak<Consoles>,
    started: OnceLock<()>,
}

impl Pace {
    /// Something is likely to change, or somebody to look.
    pub(crate) fn nudge(&self) {
        *self.hurried.lock() = true;
        self.changed.notify_all();
    }

    /// Somebody looks: from now on there is a thread that refreshes.
    pub(crate) fn start(self: &Arc<Self>) {
        self.started.get_or_init(|| {
            let (consoles, pace) = (self.consoles.clone(), self.clone());
            let thread = base::thread::builder("display").spawn(move || serve(&consoles, &pace));
            if let Err(error) = thread {
                let reason = base::report::strerror(&error);
                base::error_report!("cannot start the thread that refreshes displays: {reason}");
            }
        });
        self.nudge();
    }

    /// Waits for a nudge; says whether there was one.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let mut hurried = self.hurried.lock();
        if !*hurried {
            match limit {
                Some(limit) => {
                    self.changed.wait_for(&mut hurried, limit);
                }
                None => self.changed.wait(&mut hurried),
            }
        }
        std::mem::take(&mut hurried)
    }
}

/// All heads of a machine, in order.
pub struct Consoles {
    list: RwLock<Vec<Arc<Console>>>,
    /// Screens of character devices.
    texts: RwLock<Vec<Arc<Console>>>,
    pace: Arc<Pace>,
}

impl Consoles {
    /// None yet. The thread that refreshes them starts when somebody looks, and ends when the consoles
    /// are dropped.
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Consoles {
            list: RwLock::default(),
            texts: RwLock::default(),
            pace: Arc::new(Pace { consoles: me.clone(), ..Pace::default() }),
        })
    }

    /// Adds a head.
    pub fn add(&self, label: &str, place: Place, adapter: Arc<dyn Adapter>) -> Arc<Console> {
        let mut list = self.list.write();
        let index = list.last().map_or(0, |last| last.index() + 1);
        let console = Console::new(index, label, place, adapter, self.pace.clone());
        list.push(console.clone());
        console
    }

    /// Takes the heads of a device away that was unplugged, by its path.
    pub fn remove(&self, path: &str) {
        self.list.write().retain(|console| console.place().path != path);
    }

    /// All heads.
    pub fn all(&self) -> Vec<Arc<Console>> {
        self.list.read().clone()
    }

    /// All heads, and after them the screens of monitors and of serial ports: what people switch
    /// between.
    pub fn screens(&self) -> Vec<Arc<Console>> {
        let mut all = self.all();
        all.extend(self.texts.read().iter().cloned());
        all
    }

    /// The head that people see first.
    pub fn first(&self) -> Option<Arc<Console>> {
        self.list.read().first().cloned()
    }

    /// The head of a device, by id or path.
    pub fn of_device(&self, device: &str, head: u32) -> Option<Arc<Console>> {
        let is = |place: &Place| {
            (place.device.as_deref() == Some(device) || place.path == device) && place.head == head
        };
        self.list.read().iter().find(|console| is(console.place())).cloned()
    }

    /// Says that something is likely to change soon (somebody typed), or that a viewer wants a frame:
    /// the next frame comes quickly.
    pub fn nudge(&self) {
        self.pace.nudge();
    }
}

impl VcScreens for Consoles {
    fn open(&self, label: &str, size: VcSize, keyboard: VcKeyboard) -> Arc<dyn VcScreen> {
        let pace = self.pace.clone();
        let terminal = VcTerminal::new(label, size, keyboard, move || pace.nudge());
        let mut texts = self.texts.write();
        let index = texts.len();
        texts.push(Console::of_text(index, terminal.clone(), self.pace.clone()));
        terminal
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        self.pace.nudge();
    }
}

fn serve(consoles: &Weak<Consoles>, pace: &Pace) {
    let mut in_vain = 0;
    loop {
        let Some(all) = consoles.upgrade().map(|consoles| consoles.screens()) else { return };
        let mut wanted = false;
        for console in all.iter().filter(|console| console.is_wanted()) {
            wanted = true;
            if console.refresh(false) {
                in_vain = 0;
            }
        }
        drop(all);
        in_vain += 1;
        let nudged = match (wanted, in_vain < PATIENCE) {
            (false, _) => pace.wait(None),
            (true, false) => pace.wait(Some(SLOW)),
            (true, true) => {
                // Whoever hurries now still gets no more frames than can be seen.
                std::thread::sleep(QUICK);
                false
            }
        };
        if nudged {
            in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::tests::{Lamp, Log};

    #[test]
    fn heads_are_found_by_device_and_number() {
        let consoles = Consoles::new();
        let place = |head| Place { device: Some("card".into()), path: "/card".into(), head };
        consoles.add("zero", place(0), Arc::new(Lamp::default()));
        consoles.add("one", place(1), Arc::new(Lamp::default()));
        let found = consoles.of_device("card", 1).map(|console| console.index());
        assert_eq!(found, Some(1));
        assert!(consoles.of_device("/card", 0).is_some());
        assert!(consoles.of_device("card", 2).is_none());
        consoles.remove("/card");
        assert!(consoles.first().is_none());
    }

    #[test]
    fn who_looks_sees_what_changes() {
        let consoles = Consoles::new();
        let lamp = Arc::new(Lamp::default());
        let console = consoles.add("Lamp", Place::default(), lamp.clone());
        let (log, told) = Log::new();
        let _attachment = console.attach(log);
        assert_eq!(told.iter().take(2).collect::<Vec<_>>(), ["2x2", "damaged 1"]);
        lamp.switch(true);
        assert_eq!(told.iter().next().as_deref(), Some("damaged 1"));
        assert_eq!(console.surface().pixels(), [1; 4]);
    }
}
