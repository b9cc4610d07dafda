//! `qemu-img commit`

use std::sync::Arc;

use super::access::{Access, check_cache};
use super::args::common::{CACHE, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET};
use super::args::{Args, Command, flag, value};
use super::convert::rate;
use super::progress::Progress;
use super::{Failure, Outcome, Output};
use crate::Error;
use crate::commit::merge;
use crate::driver::Preallocation;
use crate::engine::block_on;
use crate::node::Node;
use crate::open::full_backing_name;
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "commit",
    about: "Commit image to its backing file",
    operands: "FILE",
    options: &[
        QUIET,
        PROGRESS,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        flag(Some('d'), "drop", "leave FILE as it is afterwards"),
        value(Some('b'), "base", "BASE_IMG", "commit to this image below, not the nearest"),
        value(Some('r'), "rate", "RATE", "bytes per second at most"),
        OBJECT,
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let rate = rate(args)?;
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let access = Access::from_args(args, Purpose::Write)?.cache(args.get("cache"));
    check_cache(args, "cache", "")?;
    // Without a lock on what is below: it will be written.
    let top = access.clone().without_backing().open(name, output)?;
    let mut layers = vec![top.clone()];
    let none = || Failure::new("Image does not have a backing file");
    let wanted = args.get("base");
    let (mut below, mut format) = next_layer(&top).ok_or_else(none)?;
    while let Some(wanted) = wanted
        && wanted != below
    {
        let missing = format!("Did not find '{wanted}' in the backing chain of '{name}'");
        let access =
            Access::new(Purpose::Read, &args.objects).format(format.as_deref()).without_backing();
        let layer = access.open(&below, output)?;
        let next = next_layer(&layer).ok_or_else(|| Failure::new(missing))?;
        layers.push(layer);
        (below, format) = next;
    }
    let base = Access::new(Purpose::Write, &args.objects).format(format.as_deref());
    let base = base.open(&below, output)?;
    let len = top.len()?;
    if base.len()? < len {
        block_on(base.truncate(len, Preallocation::Off))?;
    }
    let shown = args.has("progress") && !args.has("quiet");
    let mut progress = Progress::new(shown, len, output);
    let began = std::time::Instant::now();
    let mut at = 0;
    while at < len {
        let done = match block_on(merge(&layers, &base, at, len - at)) {
            Ok(done) => done,
            Err(error) => {
                progress.end(output);
                return Err(error.context("Block job failed").into());
            }
        };
        at += done;
        progress.advance(done, output);
        if let Some(rate) = rate.filter(|&rate| rate > 0) {
            let due = std::time::Duration::from_secs_f64(at as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    block_on(base.close())?;
    if wanted.is_none() && !args.has("drop") {
        block_on(async {
            top.driver()
                .as_qcow2()
                .ok_or_else(|| Error::from_errno(libc::ENOTSUP))?
                .make_empty()
                .await
        })
        .map_err(|error| Failure::new(format!("Failed to empty {name}: {error}")))?;
    }
    block_on(top.close())?;
    progress.finish(output);
    if !args.has("quiet") {
        output.print("Image committed.\n");
    }
    Ok(0)
}

/// The image below, by name and format.
fn next_layer(node: &Arc<Node>) -> Option<(String, Option<String>)> {
    let (name, format) = node.driver().backing_name()?;
    Some((full_backing_name(&node.location(), &name), format))
}
