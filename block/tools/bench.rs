//! `qemu-img bench`

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use base::options::number::{SizeError, parse_size};

use super::access::Access;
use super::args::common::{CACHE, FORMAT, IMAGE_OPTS, QUIET, SHARE};
use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output};
use crate::engine::{Pool, Uring, block_on, spawn};
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
    count: u64,
    depth: u64,
    size: u64,
    step: u64,
    at: u64,
    write: Option<u8>,
    flush_interval: u64,
    drain: bool,
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
    let load = Load {
        node,
        count,
        depth,
        size,
        step,
        at,
        write: write.then_some(pattern as u8),
        flush_interval,
        drain: !args.has("no-drain"),
    };
    let began = Instant::now();
    load.run().map_err(|error| Failure::new(format!("Failed request: {error}")))?;
    let took = began.elapsed().as_secs_f64();
    output.print(&format!("Run completed in {took:.3} seconds.\n"));
    Ok(0)
}

impl Load {
    /// Keeps `depth` requests going until all are done.
    fn run(&self) -> Result<()> {
        let len = self.node.len()?;
        let (send, done) = channel();
        let buffers: Vec<Vector> = (0..self.depth.min(self.count))
            .map(|_| {
                let buffer = Vector::aligned(self.size as usize);
                buffer.fill(self.write.unwrap_or(0));
                buffer
            })
            .collect();
        let mut free: Vec<usize> = (0..buffers.len()).collect();
        let (mut sent, mut at) = (0, self.at);
        let (mut flush_due, mut flushing) = (false, false);
        while sent < self.count || free.len() < buffers.len() || flushing {
            let idle = free.len() == buffers.len();
            if flush_due && !flushing && (idle || !self.drain) {
                (flush_due, flushing) = (false, true);
                let (node, send) = (self.node.clone(), send.clone());
                let tell = move |result| drop(send.send((None, result)));
                spawn(async move { node.flush().await }, tell);
            }
            let held = self.drain && (flush_due || flushing);
            if sent < self.count
                && !held
                && let Some(slot) = free.pop()
            {
                // A request that would go beyond the end begins again at the front.
                if at + self.size > len && self.at + self.size <= len {
                    at = self.at;
                }
                let request = self.request(at, len, buffers[slot].clone());
                let send = send.clone();
                // Nobody listens any more after a failure.
                spawn(request, move |result| drop(send.send((Some(slot), result))));
                at += self.step;
                sent += 1;
                flush_due |= self.flush_interval > 0 && sent % self.flush_interval == 0;
                continue;
            }
            let Ok((slot, result)) = done.recv() else { break };
            result?;
            match slot {
                Some(slot) => free.push(slot),
                None => flushing = false,
            }
        }
        block_on(self.node.close())
    }

    fn request(
        &self,
        at: u64,
        len: u64,
        data: Vector,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let (node, write) = (self.node.clone(), self.write.is_some());
        let inside = at.checked_add(self.size).is_some_and(|end| end <= len);
        async move {
            match (inside, write) {
                (false, _) => Err(Error::from_errno(libc::EIO)),
                (true, true) => node.write(at, data).await,
                (true, false) => node.read(at, data).await,
            }
        }
    }
}
