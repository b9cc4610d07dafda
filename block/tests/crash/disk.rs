//! A disk in memory that remembers every write and every barrier, and shows what could be left of it
//! after a power cut.

use std::sync::Arc;

use block::Error;
use block::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use block::node::Node;
use block::vector::Vector;
use parking_lot::Mutex;

const SECTOR: usize = 512;
/// It does not grow beyond this.
const LARGEST: usize = 64 << 20;

/// What reached the disk.
#[derive(Clone)]
pub enum Step {
    Write { at: usize, bytes: Arc<[u8]> },
    Zero { at: usize, len: usize },
    Truncate { len: usize },
    Barrier,
}

impl Step {
    /// Does it, except for the sectors that are `lost`.
    fn apply(&self, bytes: &mut Vec<u8>, mut lost: impl FnMut() -> bool) {
        let (at, len) = match self {
            Self::Write { at, bytes } => (*at, bytes.len()),
            Self::Zero { at, len } => (*at, *len),
            Self::Truncate { len } => return bytes.resize(*len, 0),
            Self::Barrier => return,
        };
        if bytes.len() < at + len {
            bytes.resize(at + len, 0);
        }
        let mut from = at;
        while from < at + len {
            let to = ((from / SECTOR + 1) * SECTOR).min(at + len);
            if !lost() {
                match self {
                    Self::Write { bytes: new, .. } => {
                        bytes[from..to].copy_from_slice(&new[from - at..to - at]);
                    }
                    _ => bytes[from..to].fill(0),
                }
            }
            from = to;
        }
    }
}

#[derive(Clone, Default)]
struct State {
    /// Before all steps.
    start: Vec<u8>,
    now: Vec<u8>,
    steps: Vec<Step>,
}

/// A handle to the disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

/// A small generator of numbers, so that a failure can be run again.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

impl Disk {
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { start: bytes.clone(), now: bytes, steps: Vec::new() })))
    }

    pub fn node(&self) -> Arc<Node> {
        Node::new(None, "disk", false, Box::new(self.clone()), Vec::new())
    }

    /// What it holds now.
    #[allow(dead_code)] // Not every test that has a disk looks at it as a whole.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().now.clone()
    }

    /// How many steps were taken.
    pub fn steps(&self) -> usize {
        self.0.lock().steps.len()
    }

    /// Forgets the past: everything is on the platter.
    pub fn settle(&self) {
        let mut state = self.0.lock();
        state.start = state.now.clone();
        state.steps.clear();
    }

    fn take<'a>(&self, step: Step) -> Io<'a, ()> {
        let end = match &step {
            Step::Write { at, bytes } => at.saturating_add(bytes.len()),
            Step::Zero { at, len } => at.saturating_add(*len),
            Step::Truncate { len } => *len,
            Step::Barrier => 0,
        };
        if end > LARGEST {
            return Box::pin(std::future::ready(Err(Error::from_errno(libc::EFBIG))));
        }
        let mut state = self.0.lock();
        step.apply(&mut state.now, || false);
        state.steps.push(step);
        done()
    }

    /// Walks along all moments at which the power may fail. For each it gives the number of steps that
    /// were begun and some of the contents that the disk may have then: what was written since the last
    /// barrier is there, or not, or in part, sector by sector.
    pub fn cuts(&self, dice: &mut Dice, mut each: impl FnMut(usize, Vec<u8>)) {
        let State { start, steps, .. } = self.0.lock().clone();
        let mut durable = start;
        let mut pending: Vec<&Step> = Vec::new();
        each(0, durable.clone());
        for (index, step) in steps.iter().enumerate() {
            if matches!(step, Step::Barrier) {
                pending.drain(..).for_each(|step| step.apply(&mut durable, || false));
                continue;
            }
            pending.push(step);
            let mut whole = durable.clone();
            pending.iter().for_each(|step| step.apply(&mut whole, || false));
            each(index + 1, whole);
            // The newest alone: it overtook the others.
            let mut newest = durable.clone();
            step.apply(&mut newest, || false);
            each(index + 1, newest);
            for _ in 0..2 {
                let mut some = durable.clone();
                for step in &pending {
                    let fate = dice.roll(3);
                    step.apply(&mut some, || fate == 0 || fate == 1 && dice.roll(2) == 0);
                }
                each(index + 1, some);
            }
        }
        pending.into_iter().for_each(|step| {
            if dice.roll(2) == 0 {
                step.apply(&mut durable, || false);
            }
        });
        each(steps.len() + 1, durable);
    }
}

fn done<'a>() -> Io<'a, ()> {
    Box::pin(std::future::ready(Ok(())))
}

impl Driver for Disk {
    fn name(&self) -> &'static str {
        "file"
    }

    fn len(&self) -> block::Result<u64> {
        Ok(self.0.lock().now.len().next_multiple_of(SECTOR) as u64)
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        into.fill(0);
        let state = self.0.lock();
        let from = (at as usize).min(state.now.len());
        let to = (from + into.len()).min(state.now.len());
        into.write(0, &state.now[from..to]);
        done()
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        self.take(Step::Write { at: at as usize, bytes: from.to_vec().into() })
    }

    fn write_zeroes(&self, at: u64, len: u64, _: ZeroFlags) -> Io<'_, ()> {
        self.take(Step::Zero { at: at as usize, len: len as usize })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        self.take(Step::Zero { at: at as usize, len: len as usize })
    }

    fn flush(&self) -> Io<'_, ()> {
        self.take(Step::Barrier)
    }

    fn truncate(&self, len: u64, _: Preallocation) -> Io<'_, ()> {
        self.take(Step::Truncate { len: len as usize })
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        let extent =
            Extent { len, data: true, allocated: true, offset: Some(at), ..Extent::default() };
        Box::pin(std::future::ready(Ok(extent)))
    }
}
