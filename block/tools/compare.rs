//! `qemu-img compare`

use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output, open_image};
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
        value(Some('f'), "a-format", "FMT", "specifies FILE1 image format"),
        value(Some('F'), "b-format", "FMT", "specifies FILE2 image format"),
        flag(Some('s'), "strict", "strict mode, also check if sizes are equal"),
        flag(Some('U'), "force-share", "open images in shared mode for concurrent access"),
        flag(Some('q'), "quiet", "quiet mode (produce only error messages if any)"),
    ],
    run,
};

const CHUNK: u64 = 2 << 20;

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let [first, second] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let (share, quiet) = (args.has("force-share"), args.has("quiet"));
    let mut open = |name: &String, format: &str| {
        open_image(name, args.get(format), Purpose::Read, share, output)
            .map_err(|error| Failure::from(error).with_code(2))
    };
    let (a, b) = (open(first, "a-format")?, open(second, "b-format")?);
    let trouble = |error| Failure::from(error).with_code(3);
    let (a_len, b_len) = (a.len()?, b.len()?);
    let mut say = |text: &str| {
        if !quiet {
            output.print(text);
        }
    };
    if args.has("strict") && a_len != b_len {
        say("Strict mode: Image size mismatch!\n");
        return Ok(1);
    }
    let common = a_len.min(b_len);
    if let Some(at) = block_on(first_difference(&a, Some(&b), 0, common)).map_err(trouble)? {
        say(&format!("Content mismatch at offset {at}!\n"));
        return Ok(1);
    }
    if a_len != b_len {
        say("Warning: Image size mismatch!\n");
        let (longer, len) = if a_len > b_len { (&a, a_len) } else { (&b, b_len) };
        let at = block_on(first_difference(longer, None, common, len)).map_err(trouble)?;
        if let Some(at) = at {
            say(&format!("Content mismatch at offset {at}!\n"));
            return Ok(1);
        }
    }
    say("Images are identical.\n");
    Ok(0)
}

/// Where two nodes, or a node and zeroes, differ first: the sector, as QEMU tells it.
async fn first_difference(
    a: &Node,
    b: Option<&Node>,
    mut at: u64,
    end: u64,
) -> Result<Option<u64>> {
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
            continue;
        }
        let len = len.min(CHUNK);
        let left = bytes(a, at, len, left.zero).await?;
        let right = match b {
            Some(b) => bytes(b, at, len, right_zero).await?,
            None => vec![0; len as usize],
        };
        if left != right {
            let differs = left.iter().zip(&right).position(|(a, b)| a != b).unwrap_or(0) as u64;
            return Ok(Some(at + (differs & !511)));
        }
        at += len;
    }
    Ok(None)
}

async fn bytes(node: &Node, at: u64, len: u64, zero: bool) -> Result<Vec<u8>> {
    if zero {
        return Ok(vec![0; len as usize]);
    }
    let into = Vector::zeroed(len as usize);
    node.read(at, into.clone()).await?;
    Ok(into.to_vec())
}
