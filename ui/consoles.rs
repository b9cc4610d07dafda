//! All heads of a machine, and the thread that refreshes them.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use base::chardev::{VcKeyboard, VcScreen, VcScreens, VcSize};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::text::VcTerminal;
use crate::{Adapter, Console, Place};

/// Between frames while something changes.
const QUICK: Duration = Duration::from_millis(16);
/// Between looks for what comes of a key.
const HASTY: Duration = Duration::from_millis(4);
/// How many of these there are.
const HASTY_LOOKS: u32 = 8;
/// Between looks while nothing changes.
const SLOW: Duration = Duration::from_millis(250);
/// How many looks in vain there are before they become rarer.
const PATIENCE: u32 = 60;

/// What others tell the thread that refreshes; the later ones are more urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    #[default]
    None,
    /// Something is likely to change, or somebody to look.
    Nudge,
    /// Somebody has typed or pointed, and wants to see what comes of it.
    Typed,
}

/// A pause between two looks.
#[derive(Debug, PartialEq, Eq)]
struct Pause {
    /// How long it is at most.
    limit: Option<Duration>,
    /// What ends it before, and all that is more urgent; [`Call::None`]: nothing.
    until: Call,
}

/// When the next look is due, by what the last ones brought.
#[derive(Default)]
struct Rhythm {
    in_vain: u32,
    hasty: u32,
}

impl Rhythm {
    /// After a look that found a change, or did not.
    fn pause(&mut self, wanted: bool, found: bool) -> Pause {
        self.in_vain = if found { 0 } else { self.in_vain.saturating_add(1) };
        if !wanted {
            return Pause { limit: None, until: Call::Nudge };
        }
        if found {
            // However much is typed, there are no more frames than can be seen.
            self.hasty = 0;
            return Pause { limit: Some(QUICK), until: Call::None };
        }
        if self.hasty > 0 {
            self.hasty -= 1;
            return Pause { limit: Some(HASTY), until: Call::None };
        }
        if self.in_vain < PATIENCE {
            return Pause { limit: Some(QUICK), until: Call::Typed };
        }
        Pause { limit: Some(SLOW), until: Call::Nudge }
    }

    fn called(&mut self, call: Call) {
        if call >= Call::Nudge {
            self.in_vain = 0;
        }
        if call == Call::Typed {
            self.hasty = HASTY_LOOKS;
        }
    }
}

/// When the next frame is due.
#[derive(Default)]
pub(crate) struct Pace {
    call: Mutex<Call>,
    called: Condvar,
    consoles: Weak<Consoles>,
    started: OnceLock<()>,
}

impl Pace {
    /// Something is likely to change, or somebody to look.
    pub(crate) fn nudge(&self) {
        self.call(Call::Nudge);
    }

    fn call(&self, call: Call) {
        let mut last = self.call.lock();
        *last = call.max(*last);
        self.called.notify_all();
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

    /// Pauses, and says what was told meanwhile.
    fn wait(&self, pause: &Pause) -> Call {
        let mut call = self.call.lock();
        let goes_on = |call: &mut Call| pause.until == Call::None || *call < pause.until;
        match pause.limit {
            Some(limit) => {
                self.called.wait_while_for(&mut call, goes_on, limit);
            }
            None => self.called.wait_while(&mut call, goes_on),
        }
        std::mem::take(&mut call)
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

    /// Says that a viewer wants a frame: the next one comes quickly.
    pub fn nudge(&self) {
        self.pace.nudge();
    }

    /// Says that somebody typed or pointed: what the guest makes of it is looked for at once.
    pub fn typed(&self) {
        self.pace.call(Call::Typed);
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
    let mut rhythm = Rhythm::default();
    loop {
        let Some(all) = consoles.upgrade().map(|consoles| consoles.screens()) else { return };
        let (mut wanted, mut found) = (false, false);
        for console in all.iter().filter(|console| console.is_wanted()) {
            wanted = true;
            found |= console.refresh(false);
        }
        drop(all);
        let pause = rhythm.pause(wanted, found);
        rhythm.called(pace.wait(&pause));
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

    #[test]
    fn what_is_typed_is_looked_for_until_it_is_there() {
        let quick = |until| Pause { limit: Some(QUICK), until };
        let hasty = Pause { limit: Some(HASTY), until: Call::None };
        let mut rhythm = Rhythm::default();
        assert_eq!(rhythm.pause(true, false), quick(Call::Typed));
        rhythm.called(Call::Typed);
        assert_eq!(rhythm.pause(true, false), hasty);
        assert_eq!(rhythm.pause(true, false), hasty);
        // Frames that show something are no more frequent for it.
        assert_eq!(rhythm.pause(true, true), quick(Call::None));
        assert_eq!(rhythm.pause(true, false), quick(Call::Typed));
        // A guest that shows nothing is given up.
        rhythm.called(Call::Typed);
        let looks = (0..).take_while(|_| rhythm.pause(true, false) == hasty).count();
        assert_eq!(looks, HASTY_LOOKS as usize);
    }

    #[test]
    fn looks_become_rare_where_nothing_happens() {
        let mut rhythm = Rhythm::default();
        let slow = Pause { limit: Some(SLOW), until: Call::Nudge };
        let looks = (1..).take_while(|_| rhythm.pause(true, false) != slow).count();
        assert_eq!(looks, PATIENCE as usize - 1);
        rhythm.called(Call::None);
        assert_eq!(rhythm.pause(true, false), slow);
        rhythm.called(Call::Nudge);
        assert_eq!(rhythm.pause(true, false), Pause { limit: Some(QUICK), until: Call::Typed });
        assert_eq!(rhythm.pause(false, false), Pause { limit: None, until: Call::Nudge });
    }

    #[test]
    fn the_most_urgent_call_is_heard() {
        let pace = Pace::default();
        pace.call(Call::Typed);
        pace.nudge();
        assert_eq!(pace.wait(&Pause { limit: None, until: Call::Nudge }), Call::Typed);
        assert_eq!(
            pace.wait(&Pause { limit: Some(Duration::ZERO), until: Call::None }),
            Call::None
        );
    }
}
