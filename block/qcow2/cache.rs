//! Tables of the image that are in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::node::Node;
use crate::vector::Vector;

struct Table {
    bytes: Vec<u8>,
    dirty: bool,
    used: AtomicU64,
}

/// Tables of one kind, by their place in the file.
pub struct Cache {
    tables: HashMap<u64, Table>,
    clock: AtomicU64,
    dirty: usize,
    limit: usize,
}

impl Cache {
    /// A cache that should not hold more than `limit` tables.
    pub fn new(limit: usize) -> Self {
        Self { tables: HashMap::new(), clock: AtomicU64::new(0), dirty: 0, limit }
    }

    /// From now on it should not hold more than `limit` tables.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// A table, if it is here.
    pub fn get(&self, at: u64) -> Option<&[u8]> {
        let table = self.tables.get(&at)?;
        table.used.store(self.tick(), Ordering::Relaxed);
        Some(&table.bytes)
    }

    /// A table that is to be changed.
    pub fn get_mut(&mut self, at: u64) -> Option<&mut [u8]> {
        let now = self.tick();
        let table = self.tables.get_mut(&at)?;
        *table.used.get_mut() = now;
        self.dirty += usize::from(!std::mem::replace(&mut table.dirty, true));
        Some(&mut table.bytes)
    }

    /// Adds a table.
    pub fn insert(&mut self, at: u64, bytes: Vec<u8>, dirty: bool) {
        let used = AtomicU64::new(self.tick());
        self.forget(at);
        self.dirty += usize::from(dirty);
        self.tables.insert(at, Table { bytes, dirty, used });
    }

    /// Drops a table, with its changes: it is no table any more.
    pub fn forget(&mut self, at: u64) {
        if let Some(table) = self.tables.remove(&at) {
            self.dirty -= usize::from(table.dirty);
        }
    }

    /// Drops all tables; nothing is dirty.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.dirty = 0;
    }

    /// Whether a table has changes that are not in the file.
    pub fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.tables.len() >= self.limit
    }

    /// The places of tables with changes.
    pub fn dirty_places(&self) -> Vec<u64> {
        let dirty = self.tables.iter().filter(|(_, table)| table.dirty);
        let mut places: Vec<u64> = dirty.map(|(&at, _)| at).collect();
        places.sort_unstable();
        places
    }

    /// Writes what has changed; tests know each write by the name of an event.
    pub async fn write_back(&mut self, file: &Node, event: &str) -> Result<()> {
        for at in self.dirty_places() {
            if let Some(table) = self.tables.get_mut(&at) {
                file.event(event).await;
                file.write(at, Vector::from(&table.bytes[..])).await?;
                table.dirty = false;
                self.dirty -= 1;
            }
        }
        Ok(())
    }

    /// Forgets the older half of what is clean.
    pub fn shrink(&mut self) {
        let ages = self.tables.values().map(|table| table.used.load(Ordering::Relaxed));
        let mut ages: Vec<u64> = ages.collect();
        ages.sort_unstable();
        let middle = ages.get(ages.len() / 2).copied().unwrap_or(0);
        self.tables.retain(|_, table| table.dirty || *table.used.get_mut() >= middle);
    }
}
