//! Limits of bytes and requests per second, with bursts.
//!
//! Each limit is a bucket that requests fill and that leaks at the rate of the limit. A request begins
//! when its buckets are not fuller than their capacity; it reserves its part at once, so that the
//! order is kept.

pub mod options;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::backend::Helper;
use crate::driver::{Change, Driver, Extent, Io, Preallocation, Reopening, ZeroFlags};
use crate::node::{Claim, Node, Role};
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

/// The largest value of any limit.
pub const MAX: u64 = 1_000_000_000_000_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    BpsTotal,
    BpsRead,
    BpsWrite,
    IopsTotal,
    IopsRead,
    IopsWrite,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [
        Kind::BpsTotal,
        Kind::BpsRead,
        Kind::BpsWrite,
        Kind::IopsTotal,
        Kind::IopsRead,
        Kind::IopsWrite,
    ];

    /// The name in options.
    pub fn name(self) -> &'static str {
        match self {
            Kind::BpsTotal => "bps-total",
            Kind::BpsRead => "bps-read",
            Kind::BpsWrite => "bps-write",
            Kind::IopsTotal => "iops-total",
            Kind::IopsRead => "iops-read",
            Kind::IopsWrite => "iops-write",
        }
    }

    fn counts_bytes(self) -> bool {
        matches!(self, Kind::BpsTotal | Kind::BpsRead | Kind::BpsWrite)
    }

    fn concerns(self, write: bool) -> bool {
        match self {
            Kind::BpsTotal | Kind::IopsTotal => true,
            Kind::BpsRead | Kind::IopsRead => !write,
            Kind::BpsWrite | Kind::IopsWrite => write,
        }
    }
}

/// One limit; none if the rate is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Per second, in the long run.
    pub rate: u64,
    /// Per second, in a burst.
    pub burst: u64,
    /// Seconds that a burst may last.
    pub burst_length: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { rate: 0, burst: 0, burst_length: 1 }
    }
}

/// All limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    limits: [Limit; 6],
    /// Requests longer than this count as several.
    pub iops_size: u64,
}

impl Limits {
    /// One of them.
    pub fn of(&self, kind: Kind) -> Limit {
        self.limits[kind as usize]
    }

    /// One of them, to change.
    pub fn of_mut(&mut self, kind: Kind) -> &mut Limit {
        &mut self.limits[kind as usize]
    }

    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.limits.iter().any(|limit| limit.rate > 0)
    }

    /// Refuses limits that contradict each other.
    pub fn check(&self) -> Result<()> {
        type Field = fn(&Limit) -> u64;
        let has = |kind, field: Field| field(&self.of(kind)) > 0;
        let (rate, burst): (Field, Field) = (|limit| limit.rate, |limit| limit.burst);
        for [total, read, write] in [
            [Kind::BpsTotal, Kind::BpsRead, Kind::BpsWrite],
            [Kind::IopsTotal, Kind::IopsRead, Kind::IopsWrite],
        ] {
            for field in [rate, burst] {
                if has(total, field) && (has(read, field) || has(write, field)) {
                    return Err(Error::invalid(
                        "bps/iops/max total values and read/write values cannot be used at the \
                         same time",
                    ));
                }
            }
        }
        let iops = [Kind::IopsTotal, Kind::IopsRead, Kind::IopsWrite];
        if self.iops_size > 0 && !iops.into_iter().any(|kind| has(kind, rate)) {
            return Err(Error::invalid("iops size requires an iops value to be set"));
        }
        for limit in &self.limits {
            let fault = if limit.rate > MAX || limit.burst > MAX {
                format!("bps/iops/max values must be within [0, {MAX}]")
            } else if limit.burst_length == 0 {
                "the burst length cannot be 0".into()
            } else if limit.burst_length > 1 && limit.burst == 0 {
                "burst length set without burst rate".into()
            } else if limit.burst > 0 && limit.burst_length > MAX / limit.burst {
                "burst length too high for this burst rate".into()
            } else if limit.burst > 0 && limit.rate == 0 {
                "bps_max/iops_max require corresponding bps/iops values".into()
            } else if limit.burst > 0 && limit.burst < limit.rate {
                "bps_max/iops_max cannot be lower than bps/iops".into()
            } else {
                continue;
            };
            return Err(Error::invalid(fault));
        }
        Ok(())
    }
}

/// What is in a bucket: of the limit, and of the burst.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    long: f64,
    short: f64,
}

impl Level {
    fn leak(&mut self, limit: &Limit, seconds: f64) {
        self.long = (self.long - limit.rate as f64 * seconds).max(0.0);
        self.short = (self.short - limit.burst as f64 * seconds).max(0.0);
    }

    /// Seconds until a request may begin.
    fn wait(&self, limit: &Limit) -> f64 {
        let (rate, burst) = (limit.rate as f64, limit.burst as f64);
        // Without a burst, a tenth of a second's worth may come at once.
        let room = if limit.burst == 0 { rate / 10.0 } else { burst * limit.burst_length as f64 };
        let mut wait = (self.long - room) / rate;
        if limit.burst_length > 1 {
            wait = wait.max((self.short - burst / 10.0) / burst);
        }
        wait.max(0.0)
    }
}

#[derive(Debug)]
struct State {
    limits: Limits,
    levels: [Level; 6],
    last: Option<Instant>,
}

/// Limits that several disks share.
#[derive(Debug)]
pub struct Group {
    name: String,
    state: Mutex<State>,
}

impl Group {
    /// A group with limits that have been checked.
    pub fn new(name: &str, limits: Limits) -> Arc<Self> {
        let state = State { limits, levels: Default::default(), last: None };
        Arc::new(Self { name: name.to_owned(), state: Mutex::new(state) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }

    /// Sets limits that have been checked. What was used up is forgotten.
    pub fn set_limits(&self, limits: Limits) {
        let mut state = self.state.lock();
        *state = State { limits, levels: Default::default(), last: None };
    }

    /// Reserves a request's part; returns how long it has to wait.
    pub fn reserve(&self, write: bool, bytes: u64, now: Instant) -> Duration {
        let mut state = self.state.lock();
        let State { limits, levels, last } = &mut *state;
        let seconds = last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        *last = Some(now);
        let iops_size = limits.iops_size;
        let mut wait: f64 = 0.0;
        for kind in Kind::ALL {
            let limit = limits.of(kind);
            if limit.rate == 0 {
                continue;
            }
            let level = &mut levels[kind as usize];
            level.leak(&limit, seconds);
            if kind.concerns(write) {
                wait = wait.max(level.wait(&limit));
                let units = match kind.counts_bytes() {
                    true => bytes as f64,
                    false if iops_size > 0 && bytes > iops_size => bytes as f64 / iops_size as f64,
                    false => 1.0,
                };
                level.long += units;
                level.short += units;
            }
        }
        Duration::from_secs_f64(wait)
    }
}

/// The filter `throttle`.
pub struct Throttle {
    file: Arc<Node>,
    group: RwLock<Arc<Group>>,
    helper: Arc<Helper>,
}

impl Throttle {
    /// A filter over a node.
    pub fn new(file: Arc<Node>, group: Arc<Group>, helper: Arc<Helper>) -> Self {
        Self { file, group: RwLock::new(group), helper }
    }

    async fn wait(&self, write: bool, bytes: u64) {
        let now = Instant::now();
        let group = self.group.read().clone();
        let wait = group.reserve(write, bytes, now);
        if !wait.is_zero() {
            Sleep { helper: &self.helper, until: now + wait, over: None }.await;
        }
    }
}

struct Sleep<'a> {
    helper: &'a Arc<Helper>,
    until: Instant,
    over: Option<Arc<AtomicBool>>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(over) = &self.over {
            return if over.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending };
        }
        let over = Arc::new(AtomicBool::new(false));
        let (flag, waker) = (over.clone(), context.waker().clone());
        let wake = move || {
            flag.store(true, Ordering::Release);
            waker.wake();
        };
        self.helper.at(self.until, Box::new(wake));
        self.over = Some(over);
        Poll::Pending
    }
}

/// Takes the name of the group that is to limit something.
pub(crate) fn take_group(
    options: &mut Options,
    find: impl FnOnce(&str) -> Option<Arc<Group>>,
) -> Result<Arc<Group>> {
    let name = options.text("throttle-group");
    let name = name.ok_or_else(|| Error::invalid("Please specify a throttle group"))?;
    find(&name).ok_or_else(|| Error::invalid(format!("Throttle group '{name}' does not exist")))
}

impl Driver for Throttle {
    fn name(&self) -> &'static str {
        "throttle"
    }

    fn changeable(&self) -> &'static [&'static str] {
        &["throttle-group"]
    }

    fn prepare(&self, options: &mut Options, around: &Reopening<'_>) -> Result<Change<'_>> {
        let group = take_group(options, |name| around.graph.throttle_group(name))?;
        Ok(Box::new(move || {
            *self.group.write() = group;
            Box::pin(std::future::ready(Ok(())))
        }))
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.wait(false, into.len() as u64).await;
            self.file.read(at, into).await
        })
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.wait(true, from.len() as u64).await;
            self.file.write(at, from).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            self.wait(true, len).await;
            self.file.write_zeroes(at, len, flags).await
        })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move {
            self.wait(true, len).await;
            self.file.discard(at, len).await
        })
    }

    fn flush(&self) -> Io<'_, ()> {
        self.file.flush()
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        self.file.truncate(len, preallocation)
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        self.file.status(at, len)
    }

    fn cluster_size(&self) -> Option<u64> {
        self.file.driver().cluster_size()
    }

    fn child_claim(&self, _: Role, above: Claim, _: bool) -> Claim {
        above
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(set: &[(Kind, u64, u64, u64)]) -> Limits {
        let mut limits = Limits::default();
        for &(kind, rate, burst, burst_length) in set {
            *limits.of_mut(kind) = Limit { rate, burst, burst_length };
        }
        limits
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn contradictions_are_refused() {
        for (set, refusal) in [
            (
                &[(Kind::BpsTotal, 3, 0, 1), (Kind::BpsRead, 4, 0, 1)][..],
                "bps/iops/max total values and read/write values cannot be used at the same time",
            ),
            (
                &[(Kind::IopsTotal, 0, 5, 1)],
                "bps_max/iops_max require corresponding bps/iops values",
            ),
            (&[(Kind::IopsTotal, 10, 5, 1)], "bps_max/iops_max cannot be lower than bps/iops"),
            (&[(Kind::BpsTotal, 10, 100, 0)], "the burst length cannot be 0"),
            (
                &[(Kind::BpsTotal, MAX + 1, 0, 1)],
                "bps/iops/max values must be within [0, 1000000000000000]",
            ),
        ] {
            assert_eq!(limits(set).check().map_err(|error| error.to_string()), Err(refusal.into()));
        }
        let size = Limits { iops_size: 5, ..Limits::default() };
        let refusal = "iops size requires an iops value to be set";
        assert_eq!(size.check().map_err(|error| error.to_string()), Err(refusal.into()));
    }

    /// Requests that all come at once are spread over the time that the limit gives them.
    #[test]
    fn the_rate_is_kept_in_the_long_run() {
        let group = Group::new("g", limits(&[(Kind::IopsTotal, 100, 0, 1)]));
        let now = Instant::now();
        let waits: Vec<_> = (0..1000).map(|n| group.reserve(n % 2 == 0, 512, now)).collect();
        assert!(waits[..10].iter().all(Duration::is_zero), "a tenth of a second's worth");
        let last = waits[999].as_secs_f64();
        assert!((9.8..10.0).contains(&last), "{last}");
        assert!(waits.is_sorted());
        let later = group.reserve(true, 512, now + Duration::from_secs(20));
        assert!(later.is_zero());
    }

    #[test]
    fn bursts_are_quicker_for_a_while() {
        let group = Group::new("g", limits(&[(Kind::BpsWrite, 1000, 10_000, 2)]));
        let now = Instant::now();
        assert!(group.reserve(false, 1 << 30, now).is_zero(), "reads are free");
        let waits: Vec<_> = (0..30).map(|_| group.reserve(true, 1000, now)).collect();
        let wait = |n: usize| waits[n].as_secs_f64();
        assert!((1.5..2.0).contains(&wait(19)), "at the rate of the burst: {}", wait(19));
        assert!(wait(29) > 8.0, "then at the limit: {}", wait(29));
    }
}
