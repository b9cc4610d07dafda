//! All back ends of a machine, by id.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Backend, Cable, NetError};

/// A back end and its cable.
#[derive(Clone)]
pub struct Netdev {
    /// The name of its type (`user`, `tap`, ...).
    pub kind: &'static str,
    /// The cable.
    pub cable: Arc<Cable>,
    /// What owns the host's end of it.
    pub backend: Arc<dyn Backend>,
}

impl Netdev {
    /// Its id.
    pub fn id(&self) -> &str {
        self.cable.id()
    }

    /// The back end, if it is of type `T`.
    pub fn downcast<T: Backend>(&self) -> Option<Arc<T>> {
        let backend: Arc<dyn Any + Send + Sync> = self.backend.clone();
        backend.downcast().ok()
    }
}

/// The back ends, in the order in which they were made.
#[derive(Default)]
pub struct Networks(Mutex<Vec<Netdev>>);

impl Networks {
    /// Adds one, unless there is one of that id.
    pub fn add(&self, netdev: Netdev) -> Result<(), NetError> {
        let mut all = self.0.lock();
        if all.iter().any(|other| other.id() == netdev.id()) {
            return Err(duplicate(netdev.id()));
        }
        all.push(netdev);
        Ok(())
    }

    /// Fails if there is one of that id already: to be asked before the host's resources are taken.
    pub fn check_free(&self, id: &str) -> Result<(), NetError> {
        if self.get(id).is_some() { Err(duplicate(id)) } else { Ok(()) }
    }

    /// The one of that id.
    pub fn get(&self, id: &str) -> Option<Netdev> {
        self.0.lock().iter().find(|netdev| netdev.id() == id).cloned()
    }

    /// Takes one away; it is closed when the last user lets go. Its card stays, without a peer.
    pub fn remove(&self, id: &str) -> Result<Netdev, NetError> {
        let mut all = self.0.lock();
        let place = all.iter().position(|netdev| netdev.id() == id);
        place.map(|at| all.remove(at)).ok_or_else(|| NetError::NotFound(id.into()))
    }

    /// The program ends: all of them go, and what they have made on the host with them.
    pub fn close(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        // Whoever goes may look for others.
        drop(all);
    }

    /// All of them.
    pub fn list(&self) -> Vec<Netdev> {
        self.0.lock().clone()
    }
}

fn duplicate(id: &str) -> NetError {
    NetError::Duplicate(id.into())
}
