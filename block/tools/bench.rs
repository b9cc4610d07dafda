//! `qemu-img bench`

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use parking_lot::Mutex;

use base::options::number::{SizeError, parse_size};

use super::access::Access;
use super::args::common::{CACHE, FORMAT, IMAGE_OPTS, QUIET, SHARE};
use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output};
use crate::engine::{Pool, Uring, block_on, spawn};
use crate::lock::RwLock;
use crate::node::Node;
use crate::qcow2::Purpose;
use crate::vector::Vector;
use crate::{Error, Result};

pub(super) const COMMAND: Command = Command {
    name: "bench",
    about: "Run simple image benchmark",
    operands: "FILE",
    options: &[
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        value(Some('c'), "count", "COUNT", "how many requests (75000)"),
        value(Some('s'), "buffer-size", "BUFFER_SIZE", "bytes of each (4096)"),
        value(Some('d'), "depth", "DEPTH", "requests at a time (64)"),
        value(Some('o'), "offset", "OFFSET", "where the first begins"),
        value(Some('S'), "step-size", "STEP_SIZE", "bytes from one to the next"),
        value(Some('i'), "aio", "AIO", "threads, native or io_uring"),
        flag(Some('n'), "native", "the same as -i native"),
        flag(Some('w'), "write", "write instead of reading"),
        value(None, "pattern", "PATTERN", "the byte that is written (0)"),
        value(None, "flush-interval", "FLUSH_INTERVAL", "flush after so many requests"),
        flag(None, "no-drain", "flush while requests are pending"),
        SHARE,
    ],
    run,
};

/// A number in a range.
fn number(
    args: &Args,
    option: &str,
    what: &str,
    range: (u64, u64),
) -> std::result::Result<Option<u64>, Failure> {
    let (least, most) = range;
    let Some(text) = args.get(option) else { return Ok(None) };
    match parse_size(text, 1) {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        Err(SizeError::Malformed) => {
            Err(Failure::new(format!("Invalid {what} specified: '{text}'.")))
        }
        _ => {
            let range = format!("Must be between {least} and {most}.");
            Err(Failure::new(format!("Invalid {what} specified. {range}")))
        }
    }
}

struct Load {
    node: Arc<Node>,
    len: u64,
    count: u64,
    depth: u64,
    size: u64,
    step: u64,
    write: Option<u8>,
    flush_interval: u64,
    /// Requests hold it while they run, flushes alone.
    gate: Option<RwLock<()>>,
    cursor: Mutex<Cursor>,
}

/// What comes next.
struct Cursor {
    sent: u64,
    at: u64,
    flush_due: bool,
}

enum Next {
    Request(u64),
    Flush,
    Done,
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    const INT: u64 = i32::MAX as u64;
    let count = number(args, "count", "request count", (1, INT))?.unwrap_or(75000);
    let depth = number(args, "depth", "queue depth", (1, INT))?.unwrap_or(64);
    let at = number(args, "offset", "offset", (0, i64::MAX as u64))?.unwrap_or(0);
    let size = number(args, "buffer-size", "buffer size", (1, INT))?.unwrap_or(4096);
    let step = number(args, "step-size", "step size", (0, INT))?.unwrap_or(0);
    let pattern = number(args, "pattern", "pattern byte", (0, 255))?.unwrap_or(0);
    let flush_interval = number(args, "flush-interval", "flush interval", (0, INT))?.unwrap_or(0);
    if let Some(aio) =
        args.get("aio").filter(|aio| !["threads", "native", "io_uring"].contains(aio))
    {
        return Err(Failure::new(format!("Invalid aio option: {aio}")));
    }
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let write = args.has("write");
    if !write && flush_interval > 0 {
        return Err(Failure::new("--flush-interval is only available in write tests"));
    }
    if flush_interval > 0 && flush_interval < depth {
        return Err(Failure::new("Flush interval can't be smaller than depth"));
    }
    let modes = ["none", "off", "directsync", "writeback", "writethrough", "unsafe"];
    if args.get("cache").is_some_and(|mode| !modes.contains(&mode)) {
        return Err(Failure::new("Invalid cache mode"));
    }
    let purpose = if write { Purpose::Write } else { Purpose::Read };
    let mut access = Access::from_args(args, purpose)?.cache(args.get("cache"));
    let aio = if args.has("native") { Some("native") } else { args.get("aio") };
    let direct = matches!(args.get("cache"), Some("none" | "off" | "directsync"));
    if aio == Some("native") && !direct {
        return Err(Failure::new(format!(
            "Could not open '{name}': aio=native was specified, but it requires cache.direct=on, \
             which was not specified."
        )));
    }
    access.io = Some(match aio {
        Some("native" | "io_uring") => Arc::new(Uring::new()?),
        // Past the host's cache every request waits, which the kernel does best by itself.
        None if direct => match Uring::new() {
            Ok(ring) => Arc::new(ring),
            Err(_) => Arc::new(Pool::new()),
        },
        _ => Arc::new(Pool::new()),
    });
    let node = access.open(name, output)?;
    let kind = if write { "write" } else { "read" };
    let step = if step == 0 { size } else { step };
    output.print(&format!(
        "Sending {count} {kind} requests, {size} bytes each, {depth} in parallel (starting at \
         offset {at}, step size {step})\n"
    ));
    if flush_interval > 0 {
        output.print(&format!("Sending flush every {flush_interval} requests\n"));
    }
    let drains = flush_interval > 0 && !args.has("no-drain");
    let load = Arc::new(Load {
        len: node.len()?,
        node,
        count,
        depth,
        size,
        step,
        write: write.then_some(pattern as u8),
        flush_interval,
        gate: drains.then(RwLock::default),
        cursor: Mutex::new(Cursor { sent: 0, at, flush_due: false }),
    });
    let began = Instant::now();
    let failed = |error| Failure::new(format!("Failed request: {error}"));
    load.run().map_err(failed)?;
    let took = began.elapsed().as_secs_f64();
    output.print(&format!("Run completed in {took:.3} seconds.\n"));
    // What has not reached the disk does now, which no request has asked for: so it is not measured.
    block_on(load.node.close()).map_err(failed)?;
    Ok(0)
}

impl Load {
    /// Keeps `depth` requests going until all are done: each goes on where it has ended, on the thread
    /// that heard of its end.
    fn run(self: &Arc<Self>) -> Result<()> {
        let (send, ended) = channel();
        for _ in 0..self.depth.min(self.count) {
            let (load, send) = (self.clone(), send.clone());
            // Nobody listens any more after a failure.
            spawn(async move { load.go_on().await }, move |result| drop(send.send(result)));
        }
        drop(send);
        ended.iter().try_for_each(|result| result)
    }

    /// One request after the other.
    async fn go_on(&self) -> Result<()> {
        let buffer = Vector::aligned(self.size as usize);
        buffer.fill(self.write.unwrap_or(0));
        loop {
            match self.next() {
                Next::Request(at) => {
                    let _with_others = match &self.gate {
                        Some(gate) => Some(gate.read().await),
                        None => None,
                    };
                    self.request(at, buffer.clone()).await?;
                }
                Next::Flush => {
                    let _alone = match &self.gate {
                        Some(gate) => Some(gate.write().await),
                        None => None,
                    };
                    self.node.flush().await?;
                }
                Next::Done => return Ok(()),
            }
        }
    }

    fn next(&self) -> Next {
        let mut cursor = self.cursor.lock();
        if std::mem::take(&mut cursor.flush_due) {
            return Next::Flush;
        }
        if cursor.sent == self.count {
            return Next::Done;
        }
        let at = cursor.at;
        // Around the disk, whether or not the next request fits before its end.
        cursor.at = at.saturating_add(self.step) % self.len.max(1);
        cursor.sent += 1;
        cursor.flush_due =
            self.flush_interval > 0 && cursor.sent.is_multiple_of(self.flush_interval);
        Next::Request(at)
    }

    async fn request(&self, at: u64, data: Vector) -> Result<()> {
        let inside = at.checked_add(self.size).is_some_and(|end| end <= self.len);
        match (inside, self.write) {
            (false, _) => Err(Error::from_errno(libc::EIO)),
            (true, Some(_)) => self.node.write(at, data).await,
            (true, None) => self.node.read(at, data).await,
        }
    }
}
