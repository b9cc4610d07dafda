//! Copying a disk: reading, finding zeroes and compressing on several threads, writing in order unless
//! that does not matter.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::line::Line;
use super::progress::Progress;
use super::{Failure, Output};
use crate::driver::{Packed, ZeroFlags};
use crate::engine::block_on;
use crate::node::{Node, Role};
use crate::vector::Vector;
use crate::{Error, Result};

/// What is read at once.
const CHUNK: u64 = 2 << 20;
/// As much may be ready and wait for its turn to be written, where that goes in order: what compresses badly takes
/// its time, and the others go on meanwhile.
const READY: u64 = 8 << 20;
/// What is lost at least where the source cannot be read.
const SECTOR: usize = 512;

/// One of the images that make up the disk.
pub(super) struct Source {
    node: Arc<Node>,
    len: u64,
}

impl Source {
    pub(super) fn of(node: Arc<Node>) -> Result<Self> {
        let len = node.len()?;
        Ok(Self { node, len })
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }
}

/// What is copied: images, one after the other.
pub(super) struct Job {
    pub(super) sources: Vec<Source>,
    pub(super) len: u64,
}

/// How it is copied.
pub(super) struct Plan {
    /// Runs of zeroes at least this long are not written; 0: everything is.
    pub(super) sparse: u64,
    pub(super) compress: bool,
    pub(super) parallel: usize,
    pub(super) in_order: bool,
    /// What cannot be read becomes zeroes.
    pub(super) salvage: bool,
    /// And nothing is said of it.
    pub(super) quiet: bool,
    /// Bytes per second.
    pub(super) rate: Option<u64>,
    /// The target reads as zeroes.
    pub(super) fresh: bool,
    /// What the source has from its backing file, the target has, too.
    pub(super) onto_backing: bool,
}

impl Job {
    pub(super) fn measured(mut self) -> std::result::Result<Self, Failure> {
        let mut lens = self.sources.iter().map(|source| source.len);
        let sum = lens.try_fold(0_u64, u64::checked_add).filter(|&len| len <= i64::MAX as u64);
        self.len = sum.ok_or_else(|| Failure::new("Image size too large"))?;
        Ok(self)
    }

    /// The image at an offset of the disk, and the offset in it.
    fn find(&self, at: u64) -> Result<(&Source, u64)> {
        let mut inside = at;
        for source in &self.sources {
            if inside < source.len {
                return Ok((source, inside));
            }
            inside -= source.len;
        }
        Err(Error::from_errno(libc::EIO))
    }

    /// How many bytes hold data, or are written although they are zeroes.
    fn data(&self, plan: &Plan) -> Result<u64> {
        let mut cursor = Cursor { job: self, plan, cluster: 1, at: 0, number: 0, known: None };
        let mut bytes = 0;
        while cursor.at < self.len {
            let (range, kind) = cursor.look()?;
            bytes += if counts(kind, plan) { range.end - range.start } else { 0 };
            cursor.at = range.end;
        }
        Ok(bytes)
    }

    fn read(&self, at: u64, into: &Vector) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let (source, inside) = self.find(at + done as u64)?;
            let len = (source.len - inside).min((into.len() - done) as u64) as usize;
            block_on(source.node.read(inside, into.slice(done, len)))?;
            done += len;
        }
        Ok(())
    }

    /// Reads what can be read, sector by sector; the others become zeroes.
    fn salvage(&self, at: u64, into: &Vector, reports: &Sender<Report>) {
        for done in (0..into.len()).step_by(SECTOR) {
            let sector = into.slice(done, SECTOR);
            if let Err(error) = self.read(at + done as u64, &sector) {
                let text = format!("error while reading offset {}: {error}", at + done as u64);
                // Who listens has not gone before all workers have.
                let _ = reports.send(Report::Warning(text));
                sector.fill(0);
            }
        }
    }
}

/// What is to be done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    /// The backing file shows, in the target as in the source.
    Below,
}

/// Whether it makes progress.
fn counts(kind: Kind, plan: &Plan) -> bool {
    kind == Kind::Data || (kind == Kind::Zero && plan.sparse == 0)
}

struct Chunk {
    number: u64,
    range: Range<u64>,
    kind: Kind,
}

/// Hands out the chunks of the disk.
struct Cursor<'a> {
    job: &'a Job,
    plan: &'a Plan,
    /// What the target allocates at once: compressed clusters are written whole.
    cluster: u64,
    at: u64,
    number: u64,
    /// What is known of the range ahead.
    known: Option<(Range<u64>, Kind)>,
}

impl Cursor<'_> {
    fn look(&mut self) -> Result<(Range<u64>, Kind)> {
        if let Some((range, kind)) = &self.known
            && self.at < range.end
        {
            return Ok((self.at..range.end, *kind));
        }
        let (source, inside) = self.job.find(self.at)?;
        let len = source.len - inside;
        let known = match self.plan.onto_backing {
            true => block_on(source.node.driver().status(inside, len))?,
            false => block_on(source.node.status(inside, len))?,
        };
        let below = !known.allocated && source.node.child(Role::Backing).is_some();
        let kind = match () {
            () if self.plan.onto_backing && below => Kind::Below,
            () if known.zero => Kind::Zero,
            () => Kind::Data,
        };
        let range = self.at..self.at + known.len.max(1);
        self.known = Some((range.clone(), kind));
        Ok((range, kind))
    }

    fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if self.at >= self.job.len {
                return Ok(None);
            }
            let (range, kind) = self.cut()?;
            self.at = range.end;
            let idle = match kind {
                Kind::Data => false,
                Kind::Zero => self.plan.fresh && (self.plan.sparse > 0 || self.plan.compress),
                Kind::Below => true,
            };
            if !idle {
                let number = self.number;
                self.number += 1;
                return Ok(Some(Chunk { number, range, kind }));
            }
        }
    }

    /// What comes next, and is done at once.
    fn cut(&mut self) -> Result<(Range<u64>, Kind)> {
        let (mut range, mut kind) = self.look()?;
        if self.plan.compress {
            let whole = range.end == self.job.len || range.end % self.cluster == 0;
            let end = if whole { range.end } else { range.end / self.cluster * self.cluster };
            if kind == Kind::Data || end <= range.start {
                // A cluster with anything in it is read as a whole.
                kind = Kind::Data;
                range.end = (range.start + self.cluster).min(self.job.len);
            } else {
                range.end = end;
            }
        } else if kind == Kind::Data {
            range.end = range.end.min(range.start + CHUNK);
        }
        Ok((range, kind))
    }
}

/// What workers tell.
enum Report {
    Done(u64),
    Warning(String),
    Failed(Failure),
}

struct Work<'a> {
    job: &'a Job,
    to: &'a Node,
    plan: &'a Plan,
    cursor: Mutex<Option<Cursor<'a>>>,
    /// What is ready, where it is written in order.
    line: Option<Line<Ready>>,
    /// Memory of chunks that have been written.
    memory: Mutex<Vec<Vector>>,
    /// How long each of them is.
    longest: u64,
    began: Instant,
    moved: Mutex<u64>,
    /// Somebody sees the progress.
    tells_all: bool,
    /// Bytes that are done and were not told of.
    untold: AtomicU64,
}

/// Copies a disk.
pub(super) fn copy(
    job: &Job,
    to: &Node,
    plan: &Plan,
    progress: &mut Progress,
    output: &mut Output<'_>,
) -> std::result::Result<(), Failure> {
    let cluster = to.driver().cluster_size().unwrap_or(65536);
    let cursor = Cursor { job, plan, cluster, at: 0, number: 0, known: None };
    let longest = if plan.compress { cluster } else { CHUNK };
    let room = plan.parallel.max((READY / longest) as usize);
    let work = Work {
        job,
        to,
        plan,
        cursor: Mutex::new(Some(cursor)),
        line: plan.in_order.then(|| Line::new(room)),
        memory: Mutex::default(),
        longest,
        began: Instant::now(),
        moved: Mutex::new(0),
        tells_all: progress.is_shown(),
        untold: AtomicU64::new(0),
    };
    // Only what will be read counts; looking for it costs as much as finding it later.
    progress.set_total(if progress.is_shown() { job.data(plan)? } else { job.len });
    let mut failed = None;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = plan.parallel.min(2 * cores);
    std::thread::scope(|scope| {
        let (send, reports) = channel();
        for _ in 0..workers {
            let (work, send) = (&work, send.clone());
            scope.spawn(move || work.run(&send));
        }
        drop(send);
        for report in reports {
            match report {
                Report::Done(bytes) => progress.advance(bytes, output),
                Report::Warning(text) if plan.quiet => drop(text),
                Report::Warning(text) => output.report(&format!("warning: {text}")),
                Report::Failed(failure) => failed = failed.take().or(Some(failure)),
            }
        }
    });
    failed.map_or(Ok(()), Err)
}

/// A chunk that only has to be written.
struct Ready {
    chunk: Chunk,
    data: Vector,
    /// The memory that `data` is a part of.
    memory: Vector,
    packed: Option<Packed>,
}

impl Work<'_> {
    /// Copies chunks until there are no more, or somebody has failed.
    fn run(&self, reports: &Sender<Report>) {
        loop {
            let mut cursor = self.cursor.lock();
            let next = cursor.as_mut().map_or(Ok(None), Cursor::next);
            drop(cursor);
            let chunk = match next {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return,
                Err(error) => {
                    let text = format!("error while reading block status: {error}");
                    return self.fail(Failure::new(text), reports);
                }
            };
            let write = |ready| self.write(ready, reports);
            let number = chunk.number;
            let result = self.prepare(chunk, reports).and_then(|ready| match &self.line {
                Some(line) => line.enter(number, ready, write),
                None => write(ready),
            });
            if let Err(failure) = result {
                return self.fail(failure, reports);
            }
        }
    }

    fn fail(&self, failure: Failure, reports: &Sender<Report>) {
        *self.cursor.lock() = None;
        self.line.iter().for_each(Line::close);
        // Who listens has not gone before all workers have.
        let _ = reports.send(Report::Failed(failure));
    }

    /// Memory for a chunk.
    fn memory(&self) -> Vector {
        let old = self.memory.lock().pop();
        old.unwrap_or_else(|| Vector::aligned(self.longest as usize))
    }

    /// Reads a chunk, and compresses it.
    fn prepare(
        &self,
        chunk: Chunk,
        reports: &Sender<Report>,
    ) -> std::result::Result<Ready, Failure> {
        let Range { start, end } = chunk.range;
        if chunk.kind != Kind::Data {
            let nothing = Vector::zeroed(0);
            return Ok(Ready { chunk, data: nothing.clone(), memory: nothing, packed: None });
        }
        let memory = self.memory();
        let data = memory.slice(0, (end - start) as usize);
        match self.job.read(start, &data) {
            Ok(()) => {}
            Err(_) if self.plan.salvage => self.job.salvage(start, &data, reports),
            Err(error) => {
                let text = format!("error while reading at byte {start}: {error}");
                return Err(Failure::new(text));
            }
        }
        self.slow_down(end - start);
        let packs = self.plan.compress && !(self.plan.sparse > 0 && data.is_zero());
        let packed = if packs { Some(self.to.driver().pack(&data)?) } else { None };
        Ok(Ready { chunk, data, memory, packed })
    }

    fn write(&self, ready: Ready, reports: &Sender<Report>) -> std::result::Result<(), Failure> {
        let Ready { chunk, data, memory, packed } = ready;
        let Range { start, end } = chunk.range;
        let written = match (chunk.kind, packed) {
            (Kind::Below, _) => Ok(()),
            (Kind::Zero, _) => self.zero(start, end - start),
            (Kind::Data, Some(packed)) => {
                block_on(self.to.write_packed(start, data.clone(), packed))
            }
            (Kind::Data, None) => self.store(start, &data),
        };
        written.map_err(|error| {
            Failure::new(format!("error while writing at byte {start}: {error}"))
        })?;
        if counts(chunk.kind, self.plan) {
            self.tell(end - start, reports);
        }
        if !memory.is_empty() {
            self.memory.lock().push(memory);
        }
        Ok(())
    }

    /// Bytes are done. Who listens is woken for each, so less often if nobody sees it.
    fn tell(&self, bytes: u64, reports: &Sender<Report>) {
        let untold = self.untold.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.tells_all || untold >= self.job.len / 100 {
            let bytes = self.untold.swap(0, Ordering::Relaxed);
            let _ = reports.send(Report::Done(bytes));
        }
    }

    /// Keeps to the rate.
    fn slow_down(&self, len: u64) {
        let Some(rate) = self.plan.rate.filter(|&rate| rate > 0) else { return };
        let due = {
            let mut moved = self.moved.lock();
            *moved += len;
            Duration::from_secs_f64(*moved as f64 / rate as f64)
        };
        if let Some(wait) = due.checked_sub(self.began.elapsed()) {
            std::thread::sleep(wait);
        }
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        if self.plan.sparse == 0 && !self.plan.compress {
            let mut done = 0;
            while done < len {
                let now = (len - done).min(CHUNK);
                block_on(self.to.write(at + done, Vector::zeroed(now as usize)))?;
                done += now;
            }
            return Ok(());
        }
        if self.plan.fresh {
            return Ok(());
        }
        block_on(self.to.write_zeroes(at, len, ZeroFlags { unmap: !self.plan.onto_backing }))
    }

    /// Writes a chunk, leaving out its runs of zeroes.
    fn store(&self, at: u64, data: &Vector) -> Result<()> {
        if self.plan.compress {
            return self.zero(at, data.len() as u64);
        }
        if self.plan.sparse == 0 {
            return block_on(self.to.write(at, data.clone()));
        }
        let grain = self.plan.sparse as usize;
        let zero_at = |from: usize| data.is_zero_at(from, grain);
        let mut from = 0;
        while from < data.len() {
            let zeroes = zero_at(from);
            let mut end = from + grain;
            while end < data.len() && zero_at(end) == zeroes {
                end += grain;
            }
            let end = end.min(data.len());
            let len = end - from;
            match zeroes {
                true => self.zero(at + from as u64, len as u64)?,
                false => block_on(self.to.write(at + from as u64, data.slice(from, len)))?,
            }
            from = end;
        }
        Ok(())
    }
}
