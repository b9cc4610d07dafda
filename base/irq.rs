//! Interrupt lines: wires from a device to whoever takes the interrupt.
//!
//! A line carries a level. Setting it calls the sink at once, with the device's lock held, so the
//! order of locks is: device, interrupt controller, vCPU mailbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

/// The receiving end of numbered interrupt inputs.
pub trait IrqSink: Send + Sync {
    /// Input `n` now has this level. Called for every change, and possibly again with the same level.
    fn set_irq(&self, n: u32, level: bool);
}

/// The sending end of an interrupt wire. Clones drive the same wire (the last one to set it wins; use
/// [`IrqLine::shared`] for wires that several devices pull).
#[derive(Clone, Default)]
pub struct IrqLine(Option<Arc<Wire>>);

struct Wire {
    sink: Arc<dyn IrqSink>,
    n: u32,
    level: AtomicBool,
    /// Looks on: a test that drives the machine.
    watcher: ArcSwapOption<Watcher>,
}

impl IrqLine {
    /// A wire to input `n` of a sink.
    pub fn new(sink: Arc<dyn IrqSink>, n: u32) -> Self {
        let level = AtomicBool::new(false);
        IrqLine(Some(Arc::new(Wire { sink, n, level, watcher: ArcSwapOption::empty() })))
    }

    /// A wire that ends nowhere.
    pub fn unconnected() -> Self {
        IrqLine(None)
    }

    /// Drives the wire.
    pub fn set(&self, level: bool) {
        if let Some(wire) = &self.0 {
            wire.level.store(level, Ordering::Relaxed);
            wire.sink.set_irq(wire.n, level);
            if let Some(watcher) = &*wire.watcher.load() {
                watcher(wire.n, level);
            }
        }
    }

    /// From now on `watcher` is told whenever the wire is driven, with the driver's locks held; its
    /// number is that of the input at the other end.
    pub fn watch(&self, watcher: impl Fn(u32, bool) + Send + Sync + 'static) {
        if let Some(wire) = &self.0 {
            wire.watcher.store(Some(Arc::new(Box::new(watcher))));
        }
    }

    /// Drives the wire high.
    pub fn raise(&self) {
        self.set(true);
    }

    /// Drives the wire low.
    pub fn lower(&self) {
        self.set(false);
    }

    /// Drives the wire high and low again: an edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// The level that was driven last.
    pub fn level(&self) -> bool {
        self.0.as_ref().is_some_and(|wire| wire.level.load(Ordering::Relaxed))
    }

    /// Splits the wire into `count` inputs, any of which holds it high.
    pub fn shared(&self, count: u32) -> Vec<IrqLine> {
        let or: Arc<dyn IrqSink> = Arc::new(WiredOr {
            output: self.clone(),
            high: Mutex::new(vec![false; count as usize]),
        });
        (0..count).map(|n| IrqLine::new(or.clone(), n)).collect()
    }
}

impl std::fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(wire) => write!(f, "IrqLine({}: {})", wire.n, u8::from(self.level())),
            None => write!(f, "IrqLine(unconnected)"),
        }
    }
}

struct WiredOr {
    output: IrqLine,
    high: Mutex<Vec<bool>>,
}

impl IrqSink for WiredOr {
    fn set_irq(&self, n: u32, level: bool) {
        let mut high = self.high.lock();
        if let Some(input) = high.get_mut(n as usize) {
            *input = level;
        }
        // Driven under the lock, so that the output never lags behind the inputs.
        self.output.set(high.iter().any(|&high| high));
    }
}

/// A sink whose target is connected later: breaks the circle when two parts of a board need each
/// other, and lets a test listen in.
#[derive(Default)]
pub struct Patch {
    target: ArcSwapOption<Box<dyn IrqSink>>,
}

impl Patch {
    /// Connects the target; levels set before are not replayed.
    pub fn connect(&self, target: impl IrqSink + 'static) {
        self.target.store(Some(Arc::new(Box::new(target))));
    }
}

impl IrqSink for Patch {
    fn set_irq(&self, n: u32, level: bool) {
        if let Some(target) = &*self.target.load() {
            target.set_irq(n, level);
        }
    }
}

type Watcher = Box<dyn Fn(u32, bool) + Send + Sync>;

/// A sink in front of another, at which somebody may look on: a test that drives the machine.
pub struct Probe {
    target: Arc<dyn IrqSink>,
    watcher: ArcSwapOption<Watcher>,
    /// Levels of the first inputs, and how often they rose.
    high: AtomicU32,
    rises: [AtomicU64; COUNTED],
}

/// Inputs whose edges a probe counts.
const COUNTED: usize = 24;

impl Probe {
    /// A probe that passes everything on to `target`.
    pub fn new(target: Arc<dyn IrqSink>) -> Self {
        Probe {
            target,
            watcher: ArcSwapOption::empty(),
            high: AtomicU32::new(0),
            rises: [const { AtomicU64::new(0) }; COUNTED],
        }
    }

    /// The inputs that have risen, and how often.
    pub fn rises(&self) -> Vec<(usize, u64)> {
        let counts = self.rises.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }

    fn count(&self, n: u32, level: bool) {
        let Some(rises) = self.rises.get(n as usize) else { return };
        let bit = 1 << n;
        if !level {
            self.high.fetch_and(!bit, Ordering::Relaxed);
        } else if self.high.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            rises.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on `watcher` is told of every call, with the caller's locks held.
    pub fn watch(&self, watcher: impl Fn(u32, bool) + Send + Sync + 'static) {
        self.watcher.store(Some(Arc::new(Box::new(watcher))));
    }
}

impl IrqSink for Probe {
    fn set_irq(&self, n: u32, level: bool) {
        self.count(n, level);
        self.target.set_irq(n, level);
        if let Some(watcher) = &*self.watcher.load() {
            watcher(n, level);
        }
    }
}

/// A sink that calls a closure; for glue and tests.
pub struct FnSink<F>(pub F);

impl<F: Fn(u32, bool) + Send + Sync> IrqSink for FnSink<F> {
    fn set_irq(&self, n: u32, level: bool) {
        (self.0)(n, level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Log = Arc<Mutex<Vec<(u32, bool)>>>;

    fn recorder() -> (Arc<dyn IrqSink>, Log) {
        let log = Log::default();
        let sink = log.clone();
        (Arc::new(FnSink(move |n, level| sink.lock().push((n, level)))), log)
    }

    #[test]
    fn a_pulse_is_an_edge() {
        let (sink, log) = recorder();
        IrqLine::new(sink, 4).pulse();
        assert_eq!(*log.lock(), [(4, true), (4, false)]);
    }

    #[test]
    fn a_probe_passes_on_and_tells() {
        let ((sink, log), (watcher, seen)) = (recorder(), recorder());
        let probe = Probe::new(sink);
        probe.set_irq(1, true);
        probe.watch(move |n, level| watcher.set_irq(n, level));
        probe.set_irq(2, true);
        assert_eq!(*log.lock(), [(1, true), (2, true)]);
        assert_eq!(*seen.lock(), [(2, true)]);
        probe.set_irq(2, true);
        probe.set_irq(2, false);
        probe.set_irq(2, true);
        assert_eq!(probe.rises(), [(1, 1), (2, 2)]);
    }

    #[test]
    fn a_shared_wire_is_high_while_anyone_pulls() {
        let (sink, log) = recorder();
        let line = IrqLine::new(sink, 9);
        let inputs = line.shared(2);
        inputs[0].raise();
        inputs[1].raise();
        inputs[0].lower();
        assert!(line.level());
        inputs[1].lower();
        assert!(!line.level());
        assert_eq!(log.lock().last(), Some(&(9, false)));
    }
}
