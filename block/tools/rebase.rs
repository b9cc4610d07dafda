//! `qemu-img rebase`

use std::sync::Arc;

use super::access::{Access, check_cache};
use super::args::common::{CACHE, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, SHARE};
use super::args::{Args, Command, flag, value};
use super::progress::Progress;
use super::{Failure, Outcome, Output};
use crate::engine::block_on;
use crate::format::driver_names;
use crate::node::{Node, Role};
use crate::open::full_backing_name;
use crate::qcow2::{AmendOptions, Purpose};
use crate::vector::Vector;
use crate::{Error, Result};

pub(super) const COMMAND: Command = Command {
    name: "rebase",
    about: "Change backing file of the image",
    operands: "FILE",
    options: &[
        QUIET,
        PROGRESS,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        value(Some('b'), "backing", "BACKING_FILE|\"\"", "the new image below, or none"),
        value(Some('F'), "backing-format", "BACKING_FMT", "its format"),
        value(Some('T'), "backing-cache", "CACHE", "its cache mode (writeback)"),
        flag(Some('u'), "backing-unsafe", "only change the name"),
        flag(Some('c'), "compress", "store what is copied compressed"),
        SHARE,
        OBJECT,
    ],
    run,
};

/// What is compared at once.
const CHUNK: u64 = 2 << 20;

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let unsafely = args.has("backing-unsafe");
    let Some(new_name) = args.get("backing").or(unsafely.then_some("")) else {
        let text = "Must specify backing file (-b) or use unsafe mode (-u)";
        return Err(Failure::usage(text));
    };
    let mut access = Access::from_args(args, Purpose::Write)?;
    access.share = false;
    check_cache(args, "cache", "")?;
    check_cache(args, "backing-cache", "source ")?;
    access.no_backing = unsafely;
    let node = access.open(name, output)?;
    let compress = args.has("compress") && !unsafely;
    let new_format = args.get("backing-format");
    let shown = args.has("progress") && !args.has("quiet");
    if let Some(format) = new_format.filter(|format| !driver_names().contains(format)) {
        return Err(Failure::new(format!("Invalid format name: '{format}'")));
    }
    let mut progress = None;
    if !unsafely {
        let new = match new_name {
            "" => None,
            _ => {
                let path = full_backing_name(&node.location(), new_name);
                let mut access = Access::new(Purpose::Read, &args.objects).format(new_format);
                access.share = args.has("force-share");
                let fail = |error| format!("Could not open new backing file '{new_name}': {error}");
                Some(access.open_plain(&path, output).map_err(|e| Failure::new(fail(e)))?)
            }
        };
        let old = node.child(Role::Backing);
        let started = Progress::new(shown, node.len()?, output);
        let progress = progress.insert(started);
        let task = Rebase { node: &node, old, new, compress };
        block_on(task.keep_contents(progress, output))?;
    }
    let mut progress = match progress {
        Some(progress) => progress,
        None => Progress::new(shown, 1, output),
    };
    let backing =
        (!new_name.is_empty()).then(|| (new_name.to_owned(), new_format.map(str::to_owned)));
    let changed = match &backing {
        Some((_, None)) => Err("backing format must be specified".to_owned()),
        _ => block_on(async {
            node.flush().await?;
            let unsupported = || Error::from_errno(libc::ENOTSUP);
            let image = node.driver().as_qcow2().ok_or_else(unsupported)?;
            let backing = Some(backing.unwrap_or_default());
            image.amend(&AmendOptions { backing, ..AmendOptions::default() }).await
        })
        .map_err(|error| error.to_string()),
    };
    match changed {
        Ok(()) => {
            block_on(node.close())?;
            progress.finish(output);
        }
        Err(error) => {
            progress.advance(0, output);
            return Err(Failure::new(format!(
                "Could not change the backing file to '{new_name}': {error}"
            )));
        }
    }
    Ok(0)
}

struct Rebase<'a> {
    node: &'a Node,
    old: Option<Arc<Node>>,
    new: Option<Arc<Node>>,
    compress: bool,
}

impl Rebase<'_> {
    /// Copies into the image what would look different over the new backing file.
    async fn keep_contents(&self, progress: &mut Progress, output: &mut Output<'_>) -> Result<()> {
        let len = self.node.len()?;
        let cluster = self.node.driver().cluster_size().unwrap_or(65536);
        let mut at = 0;
        while at < len {
            let extent = self.node.driver().status(at, (len - at).min(CHUNK)).await?;
            if !extent.allocated {
                self.keep(at, extent.len, cluster).await?;
            }
            at += extent.len;
            if at < len {
                progress.advance(extent.len, output);
            }
        }
        Ok(())
    }

    async fn keep(&self, at: u64, len: u64, cluster: u64) -> Result<()> {
        if zero(self.old.as_ref(), at, len).await? && zero(self.new.as_ref(), at, len).await? {
            return Ok(());
        }
        let before = read(self.old.as_ref(), at, len).await?;
        let after = read(self.new.as_ref(), at, len).await?;
        let differs = |piece: usize| {
            let end = (piece + cluster as usize).min(before.len());
            before[piece..end] != after[piece..end]
        };
        let mut from = 0;
        while from < before.len() {
            let mut end = from + cluster as usize;
            if differs(from) {
                while !self.compress && end < before.len() && differs(end) {
                    end += cluster as usize;
                }
                let piece = &before[from..end.min(before.len())];
                let start = at + from as u64;
                if self.compress {
                    self.node.write_compressed(start, Vector::from(piece)).await?;
                } else {
                    self.node.write(start, Vector::from(piece)).await?;
                }
            }
            from = end;
        }
        Ok(())
    }
}

/// Whether a backing file shows nothing but zeroes; so does none.
async fn zero(backing: Option<&Arc<Node>>, at: u64, len: u64) -> Result<bool> {
    let Some(node) = backing else { return Ok(true) };
    let end = node.len()?.min(at + len);
    let mut at = at;
    while at < end {
        let extent = node.status(at, end - at).await?;
        if !extent.zero {
            return Ok(false);
        }
        at += extent.len.max(1);
    }
    Ok(true)
}

/// What a backing file shows; zeroes behind its end.
async fn read(backing: Option<&Arc<Node>>, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    if let Some(node) = backing {
        let there = node.len()?.saturating_sub(at).min(len);
        let into = Vector::zeroed(there as usize);
        node.read(at, into.clone()).await?;
        into.read(0, &mut bytes[..there as usize]);
    }
    Ok(bytes)
}
