//! `qemu-img map`

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use super::args::{Args, Command, value};
use super::create::parse_size;
use super::{Failure, Outcome, Output};
use crate::driver::Extent;
use crate::engine::block_on;
use crate::node::{Node, Role};
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "map",
    about: "Dump image metadata",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        value(Some('s'), "start-offset", "OFFSET", "begin here"),
        value(Some('l'), "max-length", "LENGTH", "and end after so many bytes"),
        OUTPUT,
        SHARE,
        OBJECT,
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let json = args.json()?;
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let limit = |option: &str, what: &str| {
        let name = |failure: Failure| Failure::new(failure.text.replacen("image size", what, 1));
        args.get(option).map(|text| parse_size(text).map_err(name)).transpose()
    };
    let start = limit("start-offset", "start offset")?.unwrap_or(0);
    let most = limit("max-length", "max length")?.unwrap_or(u64::MAX);
    let node = Access::from_args(args, Purpose::Read)?.open(name, output)?;
    let end = node.len()?.min(start.saturating_add(most));
    let mut extents = collect(&node, start, end)?;
    if json {
        if extents.is_empty() {
            extents.push((start, Extent::default()));
        }
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
        0 => {
            let data = node.child(Role::Data).or_else(|| node.child(Role::File))?;
            Some(data.filename())
        }
        _ => file_of(&*node.child(Role::Backing)?, depth - 1),
    }
}

/// Everything there is, alike neighbours as one.
fn collect(node: &Node, mut at: u64, end: u64) -> Result<Vec<(u64, Extent)>, Failure> {
    let mut extents: Vec<(u64, Extent)> = Vec::new();
    while at < end {
        let extent = block_on(node.status(at, end - at))
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
