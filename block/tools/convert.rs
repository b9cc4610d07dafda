//! `qemu-img convert`

use std::sync::Arc;

use super::args::{Args, Command, flag, value};
use super::create::make;
use super::options::{NewImage, help};
use super::{Failure, Outcome, Output, open_image, text};
use crate::Result;
use crate::driver::ZeroFlags;
use crate::engine::block_on;
use crate::node::Node;
use crate::qcow2::Purpose;
use crate::vector::Vector;

pub(super) const COMMAND: Command = Command {
    name: "convert",
    about: "Copy one image to another with optional format conversion",
    operands: "SRC_FILE DST_FILE",
    options: &[
        value(Some('f'), "source-format", "SRC_FMT", "specifies format of the source image"),
        value(Some('O'), "target-format", "DST_FMT", "specifies format of the new image"),
        value(Some('o'), "target-format-options", "DST_OPTS", "options of the new image"),
        value(Some('S'), "sparse-size", "SPARSE_SIZE", "zeroes of at least this size stay holes"),
        flag(Some('c'), "compress", "create compressed output image"),
        flag(Some('n'), "no-create", "do not create the target image"),
        flag(Some('p'), "progress", "show progress information"),
        flag(Some('q'), "quiet", "quiet mode (produce only error messages if any)"),
        flag(Some('U'), "force-share", "open images in shared mode for concurrent access"),
    ],
    run,
};

const CHUNK: u64 = 2 << 20;

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let format = args.get("target-format").unwrap_or("raw");
    let given: Vec<&str> = args.all("target-format-options").collect();
    if let Some(text) = help(format, &given) {
        output.print(text);
        return Ok(0);
    }
    let [source, target] = args.operands.as_slice() else {
        return Err(Failure::usage("Must specify image file name"));
    };
    let sparse = match args.get("sparse-size") {
        None => 4096,
        Some(size) => {
            let wrong = || Failure::new("Invalid buffer size for sparse output specified.");
            text::parse(size).filter(|size| size % 512 == 0).ok_or_else(wrong)?
        }
    };
    let compress = args.has("compress");
    if compress && format != "qcow2" {
        return Err(Failure::new("Compression not supported for this file format"));
    }
    let share = args.has("force-share");
    let from = open_image(source, args.get("source-format"), Purpose::Read, share, output)?;
    let len = from.len()?;
    let fresh = !args.has("no-create");
    if fresh {
        let mut new = NewImage::parse(target, format, &given)?;
        if new.options.backing.is_some() {
            let text = "Cannot convert onto a backing file yet: use create and no backing_file";
            return Err(Failure::new(text));
        }
        new.options.size = len;
        make(target, &new).map_err(|error| {
            Failure::new(format!("{target}: error while converting {format}: {error}"))
        })?;
    }
    let to = open_image(target, Some(format), Purpose::Write, false, output)?;
    if to.len()? < len {
        return Err(Failure::new("output file is smaller than input file"));
    }
    let progress = args.has("progress") && !args.has("quiet");
    let plan = Plan { sparse, compress, fresh, progress };
    block_on(copy(&from, &to, &plan, output))?;
    Ok(0)
}

struct Plan {
    /// Runs of zeroes at least this long are not written; 0: everything is.
    sparse: u64,
    compress: bool,
    /// The target reads as zeroes.
    fresh: bool,
    progress: bool,
}

async fn copy(from: &Arc<Node>, to: &Node, plan: &Plan, output: &mut Output<'_>) -> Result<()> {
    let len = from.len()?;
    let cluster = to.driver().cluster_size().unwrap_or(65536);
    let mut show = |done: u64| {
        if plan.progress {
            let percent = if len == 0 { 100.0 } else { done as f64 * 100.0 / len as f64 };
            output.print(&format!("    ({percent:.2}/100%)\r"));
        }
    };
    show(0);
    let mut at = 0;
    while at < len {
        let extent = from.status(at, len - at).await?;
        // Compressed clusters are written whole: never stop inside one.
        let zeroes = match (extent.zero, plan.compress) {
            (true, true) => {
                let end = at + extent.len;
                if end == len { extent.len } else { (end & !(cluster - 1)).saturating_sub(at) }
            }
            (true, false) => extent.len,
            (false, _) => 0,
        };
        if zeroes > 0 {
            zero(to, at, zeroes, plan).await?;
            at += zeroes;
        } else {
            let chunk = if plan.compress { cluster } else { CHUNK.min(extent.len) };
            let chunk = chunk.min(len - at);
            let data = Vector::zeroed(chunk as usize);
            from.read(at, data.clone()).await?;
            store(to, at, data, plan, cluster).await?;
            at += chunk;
        }
        show(at);
    }
    to.flush().await?;
    show(len);
    if plan.progress {
        output.print("\n");
    }
    Ok(())
}

async fn zero(to: &Node, at: u64, len: u64, plan: &Plan) -> Result<()> {
    if plan.fresh && plan.sparse > 0 {
        return Ok(());
    }
    if plan.sparse > 0 {
        return to.write_zeroes(at, len, ZeroFlags { unmap: true }).await;
    }
    let mut done = 0;
    while done < len {
        let now = (len - done).min(CHUNK);
        to.write(at + done, Vector::zeroed(now as usize)).await?;
        done += now;
    }
    Ok(())
}

/// Writes a chunk, leaving out its runs of zeroes.
async fn store(to: &Node, at: u64, data: Vector, plan: &Plan, cluster: u64) -> Result<()> {
    let bytes = data.to_vec();
    if plan.compress {
        if bytes.iter().all(|&byte| byte == 0) {
            return zero(to, at, bytes.len() as u64, plan).await;
        }
        debug_assert!(at.is_multiple_of(cluster));
        return to.write_compressed(at, data).await;
    }
    if plan.sparse == 0 {
        return to.write(at, data).await;
    }
    let grain = plan.sparse as usize;
    let is_zero =
        |from: usize| bytes[from..(from + grain).min(bytes.len())].iter().all(|&byte| byte == 0);
    let mut from = 0;
    while from < bytes.len() {
        let zeroes = is_zero(from);
        let mut end = from + grain;
        while end < bytes.len() && is_zero(end) == zeroes {
            end += grain;
        }
        let end = end.min(bytes.len());
        if zeroes {
            zero(to, at + from as u64, (end - from) as u64, plan).await?;
        } else {
            to.write(at + from as u64, data.slice(from, end - from)).await?;
        }
        from = end;
    }
    Ok(())
}
