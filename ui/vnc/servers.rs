//! All servers of a machine.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Server;

/// All servers of a machine, in order.
#[derive(Default)]
pub struct Servers(Mutex<Vec<Arc<Server>>>);

impl Servers {
    /// The name of a server that was not given one.
    pub fn free_id(&self) -> String {
        let servers = self.0.lock();
        let is_free = |id: &String| servers.iter().all(|server| server.id() != id);
        let numbered = (2..).map(|number: u64| format!("vnc{number}"));
        // There are more numbers than servers.
        std::iter::once("default".to_owned()).chain(numbered).find(is_free).unwrap_or_default()
    }

    /// Adds a server.
    pub fn add(&self, server: Arc<Server>) {
        self.0.lock().push(server);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Server>> {
        self.0.lock().clone()
    }

    /// The server of a name, or the first.
    pub fn find(&self, id: Option<&str>) -> Option<Arc<Server>> {
        let servers = self.0.lock();
        servers.iter().find(|server| id.is_none_or(|id| server.id() == id)).cloned()
    }

    /// The machine ends.
    pub fn close(&self) {
        self.0.lock().drain(..).for_each(|server| server.close());
    }
}
