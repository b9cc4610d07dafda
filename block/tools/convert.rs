//! `qemu-img convert`: its arguments. The copying is in [`super::copy`].

use std::sync::Arc;

use super::access::{Access, check_cache};
use super::args::common::{OBJECT, PROGRESS, QUIET, SHARE, SOURCE_CACHE};
use super::args::{Args, Command, flag, value};
use super::bitmap::Copying;
use super::copy::{Job, Plan, Source, copy};
use super::create::{help_for, make, parse_size};
use super::creation::{Chosen, asks_for_help, join};
use super::formats::{Creator, creator};
use super::progress::Progress;
use super::{Failure, Outcome, Output, snapshot};
use crate::engine::block_on;
use crate::node::{Node, Role};
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "convert",
    about: "Copy one image to another with optional format conversion",
    operands: "SRC_FILE [SRC_FILE2 ...] DST_FILE",
    options: &[
        QUIET,
        PROGRESS,
        value(Some('f'), "source-format", "SRC_FMT", "the format of the sources"),
        flag(None, "image-opts", "the sources are lists of options, not names"),
        flag(None, "source-image-opts", "the same"),
        value(Some('l'), "source-snapshot", "SNAPSHOT", "copy this snapshot of the source"),
        SOURCE_CACHE,
        value(Some('O'), "target-format", "DST_FMT", "the format of the new image (raw)"),
        flag(None, "target-image-opts", "DST_FILE is a list of options, not a name"),
        value(Some('o'), "target-options", "DST_OPTS", "options of the new image"),
        flag(Some('c'), "compress", "store clusters compressed"),
        value(Some('t'), "target-cache", "DST_CACHE", "cache mode of the new image (unsafe)"),
        value(Some('B'), "backing", "BACKING_FILE", "the image below the new one"),
        value(Some('F'), "backing-format", "BACKING_FMT", "the format of BACKING_FILE"),
        flag(Some('n'), "no-create", "the target is there already"),
        flag(None, "target-is-zero", "and reads as zeroes"),
        value(Some('S'), "sparse-size", "SPARSE_SIZE", "zeroes of this size are left out (4k)"),
        flag(None, "bitmaps", "copy bitmaps, too"),
        flag(None, "skip-broken-bitmaps", "but not broken ones"),
        SHARE,
        value(Some('r'), "rate", "RATE", "bytes per second at most"),
        value(Some('m'), "parallel", "NUM_COROUTINES", "how much to do at a time (8)"),
        flag(Some('C'), "copy-range-offloading", "let the file system copy"),
        flag(None, "salvage", "what cannot be read becomes zeroes"),
        flag(Some('W'), "oob-writes", "write in any order"),
        OBJECT,
    ],
    run,
};

fn fail<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(text))
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let has = |option| args.has(option);
    let format = args.get("target-format").unwrap_or("raw");
    let list = join(args.all("target-options"))?;
    let plan = read_plan(args)?;
    if asks_for_help(&list) && !has("target-image-opts") {
        output.print(&help_for(format, args.operands.len() > 1, "")?);
        return Ok(0);
    }
    check_arguments(args, &list)?;
    let [sources @ .., target] = args.operands.as_slice() else {
        return Err(Failure::new("Must specify image file name"));
    };
    if sources.is_empty() {
        return Err(Failure::new("Must specify image file name"));
    }
    check_cache(args, "source-cache", "source ")?;
    let mut progress = Progress::new(has("progress") && !has("quiet"), 0, output);
    match convert(args, plan, sources, target, &list, &mut progress, output) {
        Ok(()) => progress.finish(output),
        Err(failure) => {
            output.report(&failure.text);
            progress.end(output);
            return Ok(failure.code);
        }
    }
    Ok(0)
}

fn convert(
    args: &Args,
    mut plan: Plan,
    sources: &[String],
    target: &str,
    list: &str,
    progress: &mut Progress,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let has = |option| args.has(option);
    let format = args.get("target-format").unwrap_or("raw");
    if has("source-snapshot") && sources.len() > 1 {
        return fail("No support for concatenating multiple snapshot");
    }
    let job = Job { sources: open_sources(args, sources, output)?, len: 0 };
    let job = job.measured()?;
    let created = match has("no-create") {
        true => None,
        false => Some(create_target(args, format, list, target, &job)?),
    };
    check_cache(args, "target-cache", "")?;
    let to = open_target(args, format, target, created.as_ref(), output)?;
    if to.len()? < job.len {
        return fail("output file is smaller than input file");
    }
    if plan.compress && creator(to.driver().name()).is_ok_and(|creator| !creator.compresses) {
        return fail("Compression not supported for this file format");
    }
    let bitmaps = match has("bitmaps") {
        true => Some(bitmaps_of(&job, &to, has("skip-broken-bitmaps"))?),
        false => None,
    };
    plan.onto_backing =
        has("backing") || created.as_ref().is_some_and(|c| c.is_given("backing_file"));
    let blank = has("target-is-zero") || created.as_ref().is_some_and(|c| reads_as_zeroes(&to, c));
    plan.fresh = !plan.onto_backing && blank;
    copy(&job, &to, &plan, progress, output)?;
    if let Some(bitmaps) = bitmaps {
        bitmaps.copy(&to, output)?;
    }
    Ok(block_on(to.close())?)
}

/// Whether a new image shows zeroes where nothing has been written.
fn reads_as_zeroes(image: &Node, how: &Chosen) -> bool {
    let places = how.text("preallocation").is_some_and(|mode| mode != "off");
    match image.driver().name() {
        // What was never encrypted reads as noise.
        "luks" => false,
        _ => !(places && image.driver().is_encrypted()),
    }
}

fn bitmaps_of<'a>(job: &'a Job, to: &Node, skip_broken: bool) -> Result<Copying<'a>, Failure> {
    let [source] = job.sources.as_slice() else {
        return fail("Copying bitmaps only possible with single source");
    };
    let compat = to.driver().specific_info().and_then(|info| info.get("compat").cloned());
    if to.driver().bitmaps().is_none() || compat.is_some_and(|compat| compat == "0.10") {
        let format = to.driver().name();
        return fail(format!("Format driver '{format}' does not support bitmaps"));
    }
    Copying::new(source.node(), skip_broken)
}

fn read_plan(args: &Args) -> Result<Plan, Failure> {
    let sparse = match args.get("sparse-size") {
        None => 4096,
        Some(text) => {
            let wrong = "Invalid buffer size for sparse output specified";
            let size = base::options::number::parse_size(text, 1)
                .map_err(|_| Failure::new(format!("{wrong}: '{text}'.")))?;
            if size % 512 != 0 || size > 16 << 20 {
                return fail(format!(
                    "{wrong}. Valid sizes are multiples of 512 up to 16777216. Select 0 to disable \
                     sparse detection (fully allocates output)."
                ));
            }
            size
        }
    };
    let parallel = match args.get("parallel") {
        None => 8,
        Some(text) => match text.parse() {
            Ok(count @ 1..=16) => count,
            Ok(_) => {
                let text = "Invalid number of coroutines specified. Must be between 1 and 16.";
                return fail(text);
            }
            Err(_) => {
                return fail(format!("Invalid number of coroutines specified: '{text}'."));
            }
        },
    };
    Ok(Plan {
        sparse,
        parallel,
        compress: args.has("compress"),
        in_order: !args.has("oob-writes"),
        salvage: args.has("salvage"),
        quiet: args.has("quiet"),
        rate: rate(args)?,
        fresh: false,
        onto_backing: false,
    })
}

/// `-r`: bytes per second.
pub(super) fn rate(args: &Args) -> Result<Option<u64>, Failure> {
    let parse = |text: &str| match parse_size(text) {
        Ok(rate) => Ok(rate),
        Err(_) => fail(format!("Invalid rate limit specified: '{text}'.")),
    };
    args.get("rate").map(parse).transpose()
}

fn check_arguments(args: &Args, list: &str) -> Result<(), Failure> {
    let has = |option| args.has(option);
    if has("target-image-opts") && !has("no-create") {
        return fail("--target-image-opts requires use of -n flag");
    }
    if has("target-image-opts") && has("target-format") {
        return fail("--image-opts and --format are mutually exclusive");
    }
    if has("skip-broken-bitmaps") && !has("bitmaps") {
        return fail("Use of --skip-broken-bitmaps requires --bitmaps");
    }
    if has("copy-range-offloading") && has("compress") {
        return fail("Cannot enable copy offloading when -c is used");
    }
    if has("copy-range-offloading") && has("sparse-size") {
        return fail("Cannot enable copy offloading when -S is used");
    }
    if has("copy-range-offloading") && has("salvage") {
        return fail("Cannot use copy offloading in salvaging mode");
    }
    if has("target-is-zero") && !has("no-create") {
        return fail("--target-is-zero requires use of -n flag");
    }
    if has("no-create") && !list.is_empty() {
        return fail("-o has no effect when skipping image creation");
    }
    Ok(())
}

fn open_sources(
    args: &Args,
    names: &[String],
    output: &mut Output<'_>,
) -> Result<Vec<Source>, Failure> {
    let image_opts = args.has("image-opts") || args.has("source-image-opts");
    let format = args.get("source-format");
    if image_opts && format.is_some() {
        return fail("--image-opts and --format are mutually exclusive");
    }
    let share = args.has("force-share");
    let access = Access { image_opts, share, ..Access::new(Purpose::Read, &args.objects) };
    let access = access.format(format).cache(args.get("source-cache"));
    let mut sources = Vec::new();
    for name in names {
        let node = access.open(name, output)?;
        if let Some(wanted) = args.get("source-snapshot") {
            snapshot::show(&node, wanted, output)?;
        }
        sources.push(Source::of(node)?);
    }
    Ok(sources)
}

fn create_target(
    args: &Args,
    format: &str,
    list: &str,
    target: &str,
    job: &Job,
) -> Result<Chosen, Failure> {
    let creator: &Creator = match creator(format) {
        Ok(creator) => creator,
        Err(true) => {
            return fail(format!("Format driver '{format}' does not support image creation"));
        }
        Err(false) => return fail(format!("Unknown file format '{format}'")),
    };
    let mut chosen = Chosen::defaults(creator.options);
    chosen.objects = args.objects.clone();
    chosen.apply(list).map_err(|error| Failure::new(error.to_string()))?;
    chosen.set("size", &job.len.to_string())?;
    for (option, key, what) in [
        ("backing", "backing_file", "Backing file"),
        ("backing-format", "backing_fmt", "Backing file format"),
    ] {
        if let Some(value) = args.get(option)
            && chosen.set(key, value).is_err()
        {
            return fail(format!("{what} not supported for file format '{format}'"));
        }
    }
    if chosen.is_given("backing_file") && !chosen.is_given("backing_fmt") {
        return fail("Use of backing file requires explicit backing format");
    }
    if args.has("bitmaps") && format != "qcow2" {
        return fail(format!("Format driver '{format}' does not support bitmaps"));
    }
    if args.has("compress") {
        if chosen.is_on("encryption") || chosen.is_given("encrypt.format") {
            return fail("Compression and encryption not supported at the same time");
        }
        if !creator.compresses {
            return fail("Compression not supported for this file format");
        }
        if chosen.text("preallocation").is_some_and(|mode| mode != "off") {
            return fail("Compression and preallocation not supported at the same time");
        }
    }
    let error = |error| Failure::new(format!("{target}: error while converting {format}: {error}"));
    make(creator, target, &chosen).map_err(error)?;
    Ok(chosen)
}

fn open_target(
    args: &Args,
    format: &str,
    target: &str,
    created: Option<&Chosen>,
    output: &mut Output<'_>,
) -> Result<Arc<Node>, Failure> {
    let cache = args.get("target-cache").or(Some("unsafe"));
    let mut access = Access::new(Purpose::Write, &args.objects).cache(cache);
    access.image_opts = args.has("target-image-opts");
    for key in ["key-secret", "encrypt.key-secret"] {
        let id = created.and_then(|created| created.text(key));
        access.more.extend(id.map(|id| (key, id.to_owned())));
    }
    if !access.image_opts {
        access = access.format(Some(format));
    }
    let node = access.open(target, output)?;
    // What is below it would show.
    let has_backing = args.has("backing") || node.child(Role::Backing).is_some();
    if args.has("target-is-zero") && has_backing {
        let text = "Cannot use --target-is-zero when the destination image has a backing file";
        // QEMU's tool complains and calls it a success.
        return Err(Failure::new(text).with_code(0));
    }
    Ok(node)
}
