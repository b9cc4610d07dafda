//! Drives whose media come and go.

use std::sync::{Arc, Weak};

use super::{Backend, Event};

/// What a device hears of its medium. Called with no lock of the block layer held.
pub trait Drive: Send + Sync {
    /// Whether media can be changed while it runs.
    fn is_removable(&self) -> bool {
        false
    }

    /// Whether it has a tray that opens and closes.
    fn has_tray(&self) -> bool {
        false
    }

    /// Whether the tray is open.
    fn is_tray_open(&self) -> bool {
        false
    }

    /// Whether the guest keeps the tray shut.
    fn is_locked(&self) -> bool {
        false
    }

    /// The operator moves the tray, or changes the medium of a drive without one: loaded, or gone.
    fn medium_changed(&self, _loaded: bool) {}

    /// The operator asks the guest to open the tray; with `force` it will be opened anyway.
    fn eject_requested(&self, _force: bool) {}

    /// The medium's length has changed.
    fn resized(&self) {}
}

impl Backend {
    /// The device, if it listens.
    pub fn drive(&self) -> Option<Arc<dyn Drive>> {
        self.state.lock().user.as_ref()?.drive.as_ref().and_then(Weak::upgrade)
    }

    /// Whether a device uses it.
    pub fn is_used(&self) -> bool {
        self.state.lock().user.is_some()
    }

    /// The device has moved its tray: tells the monitors.
    pub fn tray_moved(&self, open: bool) {
        let id = {
            let state = self.state.lock();
            let user = state.user.as_ref();
            user.map(|user| user.what.name().to_owned())
        };
        let id = id.unwrap_or_default();
        self.events.tell(Event::TrayMoved { device: self.name.clone(), id, open });
    }

    /// The operator moves the tray, or changes the medium of a drive without one. The monitors are
    /// told if the tray has moved by it.
    pub fn change_medium(&self, loaded: bool) {
        let Some(drive) = self.drive() else { return };
        let was_open = drive.is_tray_open();
        drive.medium_changed(loaded);
        if drive.has_tray() && was_open != drive.is_tray_open() {
            self.tray_moved(!was_open);
        }
    }
}
