//! Announcements in rounds: a network that has not learnt where a guest is hears it again later.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use base::clock::{ClockKind, Clocks, Timer};
use hw::net::card::{NicEntry, Nics};
use parking_lot::Mutex;

const MILLISECOND: i64 = 1_000_000;
/// Rounds of one announcement, at most.
const MAX_ROUNDS: i64 = 1000;
/// Delays in milliseconds, at most.
const MAX_DELAY: i64 = 100_000;

/// How, and how often, cards tell the network where they are; times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Between the first round and the second.
    pub initial: i64,
    /// Between any two, at most.
    pub max: i64,
    /// How often in all.
    pub rounds: i64,
    /// By how much each delay is longer than the one before.
    pub step: i64,
    /// Which cards; all, if none is named.
    pub interfaces: Option<Vec<String>>,
    /// What it is called: a new one takes the place of an old one of the same name.
    pub id: Option<String>,
}

impl Default for Announcement {
    fn default() -> Self {
        Announcement { initial: 50, max: 550, rounds: 5, step: 100, interfaces: None, id: None }
    }
}

/// Announcements that are under way, by what they are called.
#[derive(Default)]
pub(crate) struct Announcer(Mutex<BTreeMap<String, Rounds>>);

struct Rounds {
    what: Announcement,
    done: i64,
    timer: Timer,
}

impl Announcer {
    /// Begins an announcement with its first round.
    pub fn begin(self: &Arc<Self>, nics: &Arc<Nics>, clocks: &Clocks, what: Announcement) {
        let id = what.id.clone().unwrap_or_default();
        let (me, nics, name): (Weak<Self>, _, _) = (Arc::downgrade(self), nics.clone(), id.clone());
        let for_later = clocks.clone();
        let timer = clocks.timer(ClockKind::Realtime, move || {
            if let Some(me) = me.upgrade() {
                me.next(&nics, &for_later, &name);
            }
        });
        timer.set(clocks.now(ClockKind::Realtime));
        self.0.lock().insert(id, Rounds { what, done: 0, timer });
    }

    fn next(&self, nics: &Nics, clocks: &Clocks, id: &str) {
        let mut all = self.0.lock();
        let Some(rounds) = all.get_mut(id) else { return };
        let Announcement { initial, max, step, .. } = rounds.what;
        let interfaces = rounds.what.interfaces.clone();
        let delay = step.saturating_mul(rounds.done).saturating_add(initial).min(max);
        rounds.done += 1;
        if rounds.done < rounds.what.rounds.min(MAX_ROUNDS) {
            let delay = delay.clamp(0, MAX_DELAY) * MILLISECOND;
            rounds.timer.set(clocks.now(ClockKind::Realtime) + delay);
        }
        drop(all);
        let named =
            |nic: &NicEntry| interfaces.as_ref().is_none_or(|names| names.contains(&nic.name));
        nics.list().iter().filter(|nic| named(nic)).for_each(NicEntry::announce);
    }
}
