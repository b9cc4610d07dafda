//! Every interleaving of small programs over the structures that are shared without a lock around
//! the whole. Loom fails a model that panics in one of them, or in which all threads wait.

use std::sync::Arc;

use lockfree::clock::VirtualTime;
use lockfree::event_loop::LoopHandle;
use lockfree::kvm::Kick;
use lockfree::memory::{Client, PAGE_SIZE, PageTracking, one_page};
use lockfree::signals::{Signals, request};
use lockfree::sync::{AtomicU8, AtomicU32, Mutex, Ordering};
use loom::thread;

/// For models of which all interleavings would take minutes: mistakes show with few switches at the
/// worst places.
fn with_few_switches(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

/// A page of RAM of which one byte counts.
struct Page {
    byte: AtomicU8,
    tracking: PageTracking,
}

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Page { byte: AtomicU8::new(0), tracking: one_page() })
    }

    /// A guest's store.
    fn store(&self, value: u8) {
        self.byte.store(value, Ordering::Relaxed);
        self.tracking.written(0, 1);
    }

    fn load(&self) -> u8 {
        self.byte.load(Ordering::Relaxed)
    }

    fn take_dirty(&self) -> bool {
        let mut dirty = false;
        self.tracking.take_dirty(Client::Migration, 0, PAGE_SIZE, |_| dirty = true);
        dirty
    }

    /// What a decoder remembers: the generation, and the byte it decoded.
    fn decode(&self) -> (u32, u8) {
        let generation = self.tracking.protect_code(0);
        (generation, self.load())
    }

    /// Whether what was decoded is known to be out of date, or is not.
    fn is_sound(&self, (generation, byte): (u32, u8)) -> bool {
        byte == self.load() || self.tracking.generation(0).load(Ordering::Relaxed) != generation
    }
}

#[test]
fn a_store_is_sent_or_the_page_is_dirty_again() {
    loom::model(|| {
        let page = Page::new();
        let guest = {
            let page = page.clone();
            thread::spawn(move || page.store(1))
        };
        assert!(page.take_dirty(), "never looked at");
        let sent = page.load();
        guest.join().unwrap();
        assert!(sent == 1 || page.take_dirty());
    });
}

#[test]
fn code_that_is_overwritten_is_decoded_again() {
    loom::model(|| {
        let page = Page::new();
        let guest = {
            let page = page.clone();
            thread::spawn(move || page.store(1))
        };
        let decoded = page.decode();
        guest.join().unwrap();
        assert!(page.is_sound(decoded));
    });
}

/// The second decoder may find the flag set by the first.
#[test]
fn two_decoders_and_a_store() {
    loom::model(|| {
        let page = Page::new();
        let guest = {
            let page = page.clone();
            thread::spawn(move || page.store(1))
        };
        let other = {
            let page = page.clone();
            thread::spawn(move || page.decode())
        };
        let mine = page.decode();
        let others = other.join().unwrap();
        guest.join().unwrap();
        assert!(page.is_sound(mine) && page.is_sound(others));
    });
}

#[test]
fn the_clock_is_never_seen_half_changed() {
    with_few_switches(|| {
        let clock = Arc::new(VirtualTime::default());
        let main = {
            let clock = clock.clone();
            thread::spawn(move || {
                clock.set((true, -7));
                clock.set((false, 9));
            })
        };
        let seen = clock.get();
        assert!([(false, 0), (true, -7), (false, 9)].contains(&seen), "{seen:?}");
        main.join().unwrap();
        assert_eq!(clock.get(), (false, 9));
    });
}

#[test]
fn a_sleeping_processor_misses_no_request() {
    loom::model(|| {
        let signals = Arc::new(Signals::default());
        let posters: Vec<_> = [request::INTR, request::STOP]
            .map(|bit| {
                let signals = signals.clone();
                thread::spawn(move || signals.post(bit))
            })
            .into();
        let mut served = 0;
        while served != request::INTR | request::STOP {
            signals.wait(request::INTR | request::STOP);
            served |= signals.take(request::INTR | request::STOP);
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        assert_eq!(signals.pending(), 0);
    });
}

/// Whether the second comes before the first is taken or after it: each is served once.
#[test]
fn two_nmis_are_two() {
    loom::model(|| {
        let signals = Arc::new(Signals::default());
        let posters = [(); 2].map(|()| {
            let signals = signals.clone();
            thread::spawn(move || signals.post(request::NMI))
        });
        for _ in 0..2 {
            signals.wait(request::NMI);
            assert!(signals.take_nmi());
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        assert!(!signals.take_nmi());
        assert_eq!(signals.pending(), 0);
    });
}

/// The owner of a processor that KVM runs looks at its mailbox only outside of guest code.
#[test]
fn a_request_gets_a_processor_out_of_guest_code() {
    loom::model(|| {
        let (signals, kick) = (Arc::new(Signals::default()), Arc::new(Kick::default()));
        let kicked = kick.clone();
        signals.set_kick(move || kicked.kick());
        let poster = {
            let signals = signals.clone();
            thread::spawn(move || signals.post(request::STOP))
        };
        while signals.take(request::STOP) == 0 {
            kick.enter();
            if signals.pending() & request::STOP == 0 {
                kick.run();
            }
            kick.leave();
        }
        poster.join().unwrap();
    });
}

/// A local APIC in small: one interrupt that can be pending. The real one has a timer and a bus, but
/// changes its registers and the mailbox's bit by the same steps under the same lock.
struct Apic {
    pending: Mutex<bool>,
    signals: Arc<Signals>,
}

impl Apic {
    fn change(&self, pending: bool) {
        let mut register = self.pending.lock();
        *register = pending;
        let posted = self.signals.pending() & request::INTR != 0;
        match *register {
            true if !posted => self.signals.post(request::INTR),
            false if posted => drop(self.signals.take(request::INTR)),
            _ => {}
        }
    }
}

#[test]
fn the_mailbox_agrees_with_the_apic() {
    loom::model(|| {
        let signals = Arc::new(Signals::default());
        let apic = Arc::new(Apic { pending: Mutex::new(false), signals: signals.clone() });
        let device = {
            let apic = apic.clone();
            thread::spawn(move || {
                apic.change(true);
                apic.change(false);
            })
        };
        let other = {
            let signals = signals.clone();
            thread::spawn(move || signals.post(request::NMI))
        };
        apic.change(true);
        device.join().unwrap();
        other.join().unwrap();
        let announced = signals.pending() & request::INTR != 0;
        assert_eq!(announced, *apic.pending.lock());
        assert_ne!(signals.pending() & request::NMI, 0);
    });
}

/// The callback must run after the last request, and see what was stored before it.
#[test]
fn a_bottom_half_runs_after_every_request() {
    with_few_switches(|| {
        let main_loop = LoopHandle::default();
        let notes = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let seen = Arc::new(AtomicU32::new(0));
        let bottom_half = {
            let (notes, seen) = (notes.clone(), seen.clone());
            main_loop.bottom_half(move || {
                let sum = notes.iter().map(|note| note.load(Ordering::Relaxed)).sum();
                seen.store(sum, Ordering::Relaxed);
            })
        };
        let posters: Vec<_> = [0, 1]
            .map(|n| {
                let (notes, bottom_half) = (notes.clone(), bottom_half.clone());
                thread::spawn(move || {
                    notes[n].store(1, Ordering::Relaxed);
                    bottom_half.schedule();
                })
            })
            .into();
        while seen.load(Ordering::Relaxed) != 2 {
            main_loop.run_once();
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
    });
}

/// An address space in small: the view behind `arc_swap` is one word here. A processor caches what
/// the view says together with the generation it read first, and trusts it while that stands.
#[test]
fn translations_of_an_old_view_have_an_old_generation() {
    loom::model(|| {
        let space = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let changer = {
            let space = space.clone();
            thread::spawn(move || {
                let (view, generation) = &*space;
                view.swap(1, Ordering::AcqRel);
                generation.fetch_add(1, Ordering::Release);
            })
        };
        let (view, generation) = &*space;
        let cached = (generation.load(Ordering::Acquire), view.load(Ordering::Acquire));
        changer.join().unwrap();
        assert!(cached.1 == 1 || cached.0 != generation.load(Ordering::Acquire), "{cached:?}");
    });
}
