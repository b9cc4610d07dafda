//! `qemu-img amend`

use std::cell::RefCell;

use super::access::{Access, check_cache};
use super::args::common::{CACHE, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET};
use super::args::{Args, Command, flag, value};
use super::creation::{Chosen, Desc, asks_for_help, help_lines, join, number, size, switch, text};
use super::formats::creator;
use super::progress::Progress;
use super::{Failure, Outcome, Output};
use crate::engine::block_on;
use crate::luks::{KeyChange, LuksOptions};
use crate::node::Node;
use crate::qcow2::{AmendOptions, Purpose};
use crate::{Error, Result};
use base::options::ParsedOpts;

pub(super) const COMMAND: Command = Command {
    name: "amend",
    about: "Update format-specific options of the image",
    operands: "FILE",
    options: &[
        QUIET,
        PROGRESS,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        value(Some('o'), "options", "OPTIONS", "what shall be different ('-o help' lists it)"),
        flag(None, "force", "also if data may be lost"),
        OBJECT,
    ],
    run,
};

const QCOW2: [Desc; 13] = [
    size("size", "Virtual disk size"),
    text("compat", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    text("backing_file", "File name of a base image"),
    text("backing_fmt", "Image format of the base image"),
    text("data_file", "File name of an external data file"),
    switch("data_file_raw", "The external data file must stay valid as a raw image"),
    switch("lazy_refcounts", "Postpone refcount updates"),
    number("refcount_bits", "Width of a reference count entry in bits"),
    text("encrypt.state", "Select new state of affected keyslots (active/inactive)"),
    text("encrypt.new-secret", NEW_SECRET),
    text("encrypt.old-secret", OLD_SECRET),
    number("encrypt.keyslot", KEY_SLOT),
    number("encrypt.iter-time", ITER_TIME),
];
const LUKS: [Desc; 5] = [
    text("state", "Select new state of affected keyslots (active/inactive)"),
    text("new-secret", NEW_SECRET),
    text("old-secret", OLD_SECRET),
    number("keyslot", KEY_SLOT),
    number("iter-time", ITER_TIME),
];
const NEW_SECRET: &str = "New secret to set in the matching keyslots. Empty string to erase";
const OLD_SECRET: &str = "Select all keyslots that match this password";
const KEY_SLOT: &str = "Select a single keyslot to modify explicitly";
const ITER_TIME: &str = "Time to spend in PBKDF in milliseconds";

/// What can change in images of a format.
fn options_of(format: &str) -> std::result::Result<&'static [Desc], Failure> {
    match format {
        "qcow2" => Ok(&QCOW2),
        "luks" => Ok(&LUKS),
        _ => {
            let text = format!("Format driver '{format}' does not support option amendment");
            Err(Failure::new(text))
        }
    }
}

fn help(format: &str) -> std::result::Result<String, Failure> {
    if !crate::format::driver_names().contains(&format) {
        return Err(Failure::new(format!("Unknown file format '{format}'")));
    }
    let lines = help_lines(options_of(format)?.iter().collect());
    Ok(format!("Amend options for '{format}':\n{lines}"))
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    if !args.has("options") {
        return Err(Failure::usage("Must specify options (-o)"));
    }
    let list = join(args.all("options"))?;
    let wants_help = asks_for_help(&list);
    if let Some(format) = args.get("format").filter(|_| wants_help) {
        output.print(&help(format)?);
        return Ok(0);
    }
    let [name] = args.operands.as_slice() else {
        return Err(Failure::new("Expecting one image file name"));
    };
    check_cache(args, "cache", "")?;
    let shown = args.has("progress") && !args.has("quiet");
    let done = open_and_change(args, name, &list, wants_help, output);
    if shown {
        output.print("\n");
    }
    done
}

fn open_and_change(
    args: &Args,
    name: &str,
    list: &str,
    wants_help: bool,
    output: &mut Output<'_>,
) -> Outcome {
    let access = Access::from_args(args, Purpose::Write)?.cache(args.get("cache"));
    let node = access.open(name, output)?;
    let format = node.driver().name();
    if wants_help {
        output.print(&help(format)?);
        return Ok(0);
    }
    let descs = options_of(format)?;
    let mut chosen = Chosen::only(descs);
    chosen.objects = args.objects.clone();
    refuse_others(format, descs, list)?;
    chosen.apply(list)?;
    let shown = args.has("progress") && !args.has("quiet");
    let mut progress = Progress::new(shown, 0, output);
    let changed = {
        let (progress, output) = (RefCell::new(&mut progress), RefCell::new(&mut *output));
        let watch = |part| progress.borrow_mut().set(part, &mut output.borrow_mut());
        change(&node, &chosen, args.has("force"), &watch)
    };
    progress.set(1.0, output);
    changed?;
    block_on(node.close())?;
    Ok(0)
}

/// Says of an option that only new images can have that it is one of those.
fn refuse_others(format: &str, descs: &[Desc], list: &str) -> std::result::Result<(), Failure> {
    let knows = |descs: &[Desc], key: &str| descs.iter().any(|desc| desc.name == key);
    let parsed = ParsedOpts::parse(list, None, |_| true).map_err(Error::from)?;
    let unknown = parsed.opts.entries.iter().find(|(key, _)| !knows(descs, key));
    let created = |key: &str| key == "preallocation" || knows_creation(format, key);
    match unknown {
        Some((key, _)) if created(key) => Err(Failure::new(format!(
            "Invalid parameter '{key}'\nThis option is only supported for image creation"
        ))),
        _ => Ok(()),
    }
}

fn knows_creation(format: &str, key: &str) -> bool {
    creator(format).is_ok_and(|creator| creator.options.iter().any(|desc| desc.name == key))
}

fn change(node: &Node, chosen: &Chosen, force: bool, watch: &dyn Fn(f64)) -> Result<()> {
    let Some(image) = node.driver().as_qcow2() else {
        let keys = node.driver().keys().ok_or_else(|| Error::from_errno(libc::ENOTSUP))?;
        let state_missing = || Error::invalid("Parameter 'state' is missing");
        let change = key_change(chosen, "", force)?.ok_or_else(state_missing)?;
        return block_on(keys.change_keys(&change));
    };
    if chosen.is_given("backing_file") || chosen.is_given("backing_fmt") {
        return Err(Error::invalid(
            "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.",
        ));
    }
    let version = match chosen.text("compat") {
        None => None,
        Some("0.10" | "v2") => Some(2),
        Some("1.1" | "v3") => Some(3),
        Some(other) => {
            return Err(Error::invalid(format!("Unknown compatibility level {other}")));
        }
    };
    let switch = |key: &str| chosen.is_given(key).then(|| chosen.is_on(key));
    let options = AmendOptions {
        version,
        lazy_refcounts: switch("lazy_refcounts"),
        refcount_bits: chosen.number("refcount_bits"),
        backing: None,
        data_file: chosen.text("data_file").map(str::to_owned),
        data_file_raw: switch("data_file_raw"),
        size: chosen.number("size"),
        keys: match node.driver().is_encrypted() {
            true => key_change(chosen, "encrypt.", force)?,
            false if QCOW2.iter().any(|d| d.name.contains('.') && chosen.is_given(d.name)) => {
                return Err(Error::invalid(
                    "Can't amend encryption options - encryption not present",
                ));
            }
            false => None,
        },
    };
    block_on(image.amend_watched(&options, watch))
}

/// What is said of key slots, if anything is.
fn key_change(chosen: &Chosen, prefix: &str, force: bool) -> Result<Option<KeyChange>> {
    let key = |name: &str| format!("{prefix}{name}");
    let given = |name: &str| chosen.is_given(&key(name));
    if !["state", "new-secret", "old-secret", "keyslot", "iter-time"].into_iter().any(given) {
        return Ok(None);
    }
    let refuse = |text: &str| Err(Error::invalid(text));
    let slot = chosen.number(&key("keyslot")).map(|slot| slot as usize);
    let old = chosen.secret(&key("old-secret"));
    let change = match chosen.text(&key("state")) {
        None => return refuse("Parameter 'state' is missing"),
        Some("active") => {
            if !given("new-secret") {
                return refuse("'new-secret' is required to activate a keyslot");
            }
            if given("old-secret") {
                return refuse("'old-secret' must not be given when activating keyslots");
            }
            let password = chosen.secret(&key("new-secret"))?.unwrap_or_default();
            let usual = LuksOptions::default().iter_time;
            let iter_time = chosen.number(&key("iter-time")).unwrap_or(usual);
            KeyChange::Add { password, slot, iter_time, force }
        }
        Some("inactive") => {
            if given("new-secret") {
                return refuse("'new-secret' must not be given when erasing keyslots");
            }
            if given("iter-time") {
                return refuse("'iter-time' must not be given when erasing keyslots");
            }
            match (slot, old?) {
                (Some(slot), password) => KeyChange::RemoveSlot { slot, password, force },
                (None, Some(password)) => KeyChange::RemovePassword { password, force },
                (None, None) => {
                    return refuse(
                        "To erase keyslot(s), either explicit keyslot index or the password \
                         currently contained in them must be given",
                    );
                }
            }
        }
        Some(other) => {
            return refuse(&format!("Parameter 'state' does not accept value '{other}'"));
        }
    };
    Ok(Some(change))
}
