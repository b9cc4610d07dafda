//! `qemu-img compare`

use super::access::{Access, check_cache};
use super::args::common::{IMAGE_OPTS, OBJECT, PROGRESS, QUIET, SHARE};
use super::args::{Args, Command, flag, value};
use super::progress::Progress;
use super::{Failure, Outcome, Output};
use std::ops::Range;

use crate::Result;
use crate::engine::block_on;
use crate::node::Node;
use crate::qcow2::Purpose;
use crate::vector::Vector;

pub(super) const COMMAND: Command = Command {
    name: "compare",
    about: "Check if two images have the same contents",
    operands: "FILE1 FILE2",
    options: &[
        QUIET,
        PROGRESS,
        value(Some('f'), "a-format", "FMT", "the format of FILE1"),
        value(Some('F'), "b-format", "FMT", "the format of FILE2"),
        IMAGE_OPTS,
        flag(Some('s'), "strict", "the sizes must be the same, too"),
        value(Some('T'), "cache", "CACHE_MODE", "cache mode of both (writeback)"),
        SHARE,
        OBJECT,
    ],
    run,
};

/// How much makes progress.
const STEP: u64 = 2 << 20;
/// What is compared at once: short enough for the processor's cache.
const PIECE: u64 = 256 << 10;

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let [first, second] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let quiet = args.has("quiet");
    let trouble = |code| move |failure: Failure| failure.with_code(code);
    check_cache(args, "cache", "source ").map_err(trouble(2))?;
    let image_opts = args.has("image-opts");
    let mut open = |name: &String, format: &str| {
        let format = args.get(format);
        if image_opts && format.is_some() {
            let text = "--image-opts and --format are mutually exclusive";
            return Err(Failure::new(text).with_code(2));
        }
        let access = Access {
            image_opts,
            share: args.has("force-share"),
            ..Access::new(Purpose::Read, &args.objects)
        };
        access
            .format(format)
            .cache(args.get("cache"))
            .open(name, output)
            .map_err(|error| Failure::from(error).with_code(2))
    };
    let (a, b) = (open(first, "a-format")?, open(second, "b-format")?);
    let (a_len, b_len) = (a.len()?, b.len()?);
    let longest = a_len.max(b_len);
    let mut progress = Progress::new(args.has("progress") && !quiet, longest, output);
    let verdict =
        compare(args.has("strict"), quiet, (&a, a_len), (&b, b_len), &mut progress, output);
    progress.end(output);
    verdict.map_err(|error| Failure::from(error).with_code(3))
}

fn compare(
    strict: bool,
    quiet: bool,
    (a, a_len): (&Node, u64),
    (b, b_len): (&Node, u64),
    progress: &mut Progress,
    output: &mut Output<'_>,
) -> Result<u8> {
    let say = |output: &mut Output<'_>, text: &str| {
        if !quiet {
            output.print(text);
        }
    };
    if strict && a_len != b_len {
        say(output, "Strict mode: Image size mismatch!\n");
        return Ok(1);
    }
    let common = a_len.min(b_len);
    let found = block_on(first_difference(a, Some(b), 0..common, progress, output))?;
    let found = match found {
        None if a_len != b_len => {
            say(output, "Warning: Image size mismatch!\n");
            let (longer, len) = if a_len > b_len { (a, a_len) } else { (b, b_len) };
            block_on(first_difference(longer, None, common..len, progress, output))?
        }
        found => found,
    };
    match found {
        Some(at) => say(output, &format!("Content mismatch at offset {at}!\n")),
        None => say(output, "Images are identical.\n"),
    }
    Ok(u8::from(found.is_some()))
}

/// Where two nodes, or a node and zeroes, differ first: the sector, as QEMU tells it.
async fn first_difference(
    a: &Node,
    b: Option<&Node>,
    range: Range<u64>,
    progress: &mut Progress,
    output: &mut Output<'_>,
) -> Result<Option<u64>> {
    let (mut at, end) = (range.start, range.end);
    let buffers = [(); 2].map(|()| Vector::zeroed(PIECE as usize));
    while at < end {
        let left = a.status(at, end - at).await?;
        let (right_zero, len) = match b {
            Some(b) => {
                let right = b.status(at, left.len).await?;
                (right.zero, right.len)
            }
            None => (true, left.len),
        };
        if left.zero && right_zero {
            at += len;
            progress.advance(len, output);
            continue;
        }
        let len = len.min(STEP);
        // What is all zeroes is like nothing.
        let sides = [Some(a).filter(|_| !left.zero), b.filter(|_| !right_zero)];
        if let Some(differs) = difference_within(sides, &buffers, at..at + len).await? {
            return Ok(Some(differs & !511));
        }
        at += len;
        progress.advance(len, output);
    }
    Ok(None)
}

/// Where two sides differ first; one that is not there has zeroes.
async fn difference_within(
    sides: [Option<&Node>; 2],
    buffers: &[Vector; 2],
    range: Range<u64>,
) -> Result<Option<u64>> {
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(PIECE) as usize;
        let mut pieces = [Vector::zeroed(0), Vector::zeroed(0)];
        for ((piece, buffer), node) in pieces.iter_mut().zip(buffers).zip(sides) {
            if let Some(node) = node {
                *piece = buffer.slice(0, len);
                node.read(at, piece.clone()).await?;
            }
        }
        let [left, right] = &pieces;
        if let Some(differs) = left.first_difference(right) {
            return Ok(Some(at + differs as u64));
        }
        at += len as u64;
    }
    Ok(None)
}
