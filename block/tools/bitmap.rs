//! `qemu-img bitmap`, and copying bitmaps to another image.

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT};
use super::args::{Args, Command, flag, value};
use super::create::parse_size;
use super::output::Output;
use super::{Failure, Outcome};
use crate::driver::{BitmapChange, BitmapInfo, Bitmaps};
use crate::engine::block_on;
use crate::node::Node;
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "bitmap",
    about: "Perform modifications of the persistent bitmap in the image",
    operands: "FILE BITMAP",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        flag(None, "add", "a new bitmap, which records writes"),
        value(Some('g'), "granularity", "SIZE", "what a bit of the new bitmap stands for"),
        flag(None, "remove", "forget the bitmap"),
        flag(None, "clear", "forget what it has recorded"),
        flag(None, "enable", "record writes from now on"),
        flag(None, "disable", "record no more"),
        value(None, "merge", "SOURCE", "record what this other bitmap has"),
        value(Some('b'), "source-file", "SRC_FILE", "that one is in another image"),
        value(Some('F'), "source-format", "SRC_FMT", "the format of SRC_FILE"),
        OBJECT,
    ],
    run,
};

const ACTIONS: [&str; 6] = ["add", "remove", "clear", "enable", "disable", "merge"];

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let granularity = args.get("granularity").map(granularity).transpose()?;
    let actions: Vec<_> = args.in_order().filter(|(option, _)| ACTIONS.contains(option)).collect();
    if actions.is_empty() {
        return Err(Failure::new(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
        ));
    }
    let has = |wanted| actions.iter().any(|(action, _)| *action == wanted);
    if granularity.is_some() && !has("add") {
        return Err(Failure::new("granularity only supported with --add"));
    }
    if args.has("source-format") && !args.has("source-file") {
        return Err(Failure::new("-F only supported with -b"));
    }
    if args.has("source-file") && !has("merge") {
        return Err(Failure::new("Merge bitmap source file only supported with --merge"));
    }
    let [name, bitmap] = args.operands.as_slice() else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    let node = Access::from_args(args, Purpose::Write)?.open(name, output)?;
    let source = match args.get("source-file") {
        None => None,
        Some(file) => {
            let access = Access::new(Purpose::Read, &args.objects).without_backing();
            let access = access.format(args.get("source-format"));
            Some(access.open(file, output)?)
        }
    };
    for (action, value) in actions {
        let done = match action {
            "add" => node.add_dirty_bitmap(bitmap, granularity, true, true),
            "merge" => node.merge_dirty_bitmap(bitmap, source.as_deref().unwrap_or(&node), value),
            "remove" => node.change_dirty_bitmap(bitmap, BitmapChange::Remove),
            "clear" => node.change_dirty_bitmap(bitmap, BitmapChange::Clear),
            _ => node.change_dirty_bitmap(bitmap, BitmapChange::Enable(action == "enable")),
        };
        done.map_err(|error| {
            Failure::new(format!("Operation {action} on bitmap {bitmap} failed: {error}"))
        })?;
    }
    block_on(node.close())?;
    Ok(0)
}

fn granularity(text: &str) -> std::result::Result<u64, Failure> {
    parse_size(text).map_err(|failure| {
        Failure::new(failure.text.replacen("Invalid image size", "Invalid granularity", 1))
    })
}

/// Bitmaps of one image, on their way to another.
pub(super) struct Copying<'a> {
    from: &'a Node,
    wanted: Vec<BitmapInfo>,
}

impl<'a> Copying<'a> {
    /// All of an image, but for those that are worth nothing, if these may be skipped.
    pub(super) fn new(from: &'a Node, skip_broken: bool) -> std::result::Result<Self, Failure> {
        let lacking = || Failure::new("Source lacks bitmap support");
        let wanted = from.driver().bitmaps().ok_or_else(lacking)?.list();
        // QEMU has its list the other way round.
        if let Some(broken) = wanted.iter().rev().find(|info| info.inconsistent && !skip_broken) {
            return Err(Failure::new(format!(
                "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img \
                 bitmap --remove' to delete it",
                broken.name
            )));
        }
        Ok(Self { from, wanted })
    }

    /// Gives them to another image.
    pub(super) fn copy(
        &self,
        to: &Node,
        output: &mut Output<'_>,
    ) -> std::result::Result<(), Failure> {
        let taken = to.driver().bitmaps().map(Bitmaps::list).unwrap_or_default();
        for info in self.wanted.iter().rev() {
            if info.inconsistent {
                let text = format!("warning: Skipping inconsistent bitmap '{}'", info.name);
                output.report(&text);
            } else if taken.iter().any(|other| other.name == info.name) {
                let name = &info.name;
                let text = format!("Failed to create bitmap {name}: Bitmap already exists: {name}");
                return Err(Failure::new(text));
            }
        }
        for info in self.wanted.iter().filter(|info| !info.inconsistent) {
            let name = &info.name;
            let added = to.add_dirty_bitmap(name, Some(info.granularity), info.enabled, true);
            added.map_err(|error| {
                Failure::new(format!("Failed to create bitmap {name}: {error}"))
            })?;
            to.merge_dirty_bitmap(name, self.from, name).map_err(|error| {
                Failure::new(format!("Failed to populate bitmap {name}: {error}"))
            })?;
        }
        Ok(())
    }
}
