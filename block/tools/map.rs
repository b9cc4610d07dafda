//! `qemu-img map`

use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output, open_image};
use crate::driver::Extent;
use crate::engine::block_on;
use crate::node::{Node, Role};
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "map",
    about: "Dump image metadata",
    operands: "FILE",
    options: &[
        value(Some('f'), "format", "FMT", "specifies FILE image format"),
        flag(Some('U'), "force-share", "open the image in shared mode for concurrent access"),
        value(None, "output", "human|json", "specifies output format (default: human)"),
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let json = args.json()?;
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let share = args.has("force-share");
    let node = open_image(name, args.get("format"), Purpose::Read, share, output)?;
    let extents = collect(&node)?;
    if json {
        let lines: Vec<String> = extents.iter().map(|(at, extent)| line(*at, extent)).collect();
        output.print(&format!("[{}]\n", lines.join(",\n")));
        return Ok(0);
    }
    output.print(&format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to"));
    for (at, extent) in extents.iter().filter(|(_, extent)| extent.data && !extent.zero) {
        let Some(offset) = extent.offset else {
            return Err(Failure::new("File contains external, encrypted or compressed clusters."));
        };
        let file = file_of(&node, extent.depth).unwrap_or_default();
        // As C prints it: nothing in front of zero.
        let hex = |number: u64| if number == 0 { "0".into() } else { format!("{number:#x}") };
        output.print(&format!(
            "{:<16}{:<16}{:<16}{file}\n",
            hex(*at),
            hex(extent.len),
            hex(offset)
        ));
    }
    Ok(0)
}

/// The file name of the image some backing files down.
fn file_of(node: &Node, depth: u32) -> Option<String> {
    match depth {
        0 => Some(node.child(Role::File)?.filename().to_owned()),
        _ => file_of(node.child(Role::Backing)?, depth - 1),
    }
}

/// Everything there is, alike neighbours as one.
fn collect(node: &Node) -> Result<Vec<(u64, Extent)>, Failure> {
    let len = node.len()?;
    let mut extents: Vec<(u64, Extent)> = Vec::new();
    let mut at = 0;
    while at < len {
        let extent = block_on(node.status(at, len - at))
            .map_err(|error| Failure::new(format!("Failed to read image metadata: {error}")))?;
        let next = at + extent.len;
        match extents.last_mut() {
            Some((start, last)) if continues(*start, last, at, &extent) => last.len = next - *start,
            _ => extents.push((at, extent)),
        }
        at = next;
    }
    Ok(extents)
}

fn continues(start: u64, last: &Extent, at: u64, next: &Extent) -> bool {
    let joined = match (last.offset, next.offset) {
        (Some(here), Some(there)) => here + (at - start) == there,
        (here, there) => here == there,
    };
    let rest = |extent: &Extent| Extent { len: 0, offset: None, ..extent.clone() };
    joined && rest(last) == rest(next)
}

fn line(at: u64, extent: &Extent) -> String {
    let offset = extent.offset.map(|offset| format!(", \"offset\": {offset}"));
    format!(
        "{{ \"start\": {at}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
         \"data\": {}, \"compressed\": {}{}}}",
        extent.len,
        extent.depth,
        extent.allocated,
        extent.zero,
        extent.data,
        extent.compressed,
        offset.unwrap_or_default()
    )
}
