//! Opening a file, and opening it again with other options.

use super::super::args::Args;
use super::super::output::Output;
use crate::engine::block_on;
use crate::node::Manner;
use crate::objects::Objects;
use crate::open::{OpenOptions, Opened, open_tree, snapshot_overlay};
use crate::options::Options;
use crate::qcow2::{Purpose, Qcow2};
use crate::{Error, Result};

/// How a file is to be opened.
#[derive(Clone, Default)]
pub(super) struct Opening {
    pub(super) name: Option<String>,
    pub(super) options: Options,
    pub(super) format: Option<String>,
    pub(super) read_only: bool,
    pub(super) snapshot: bool,
    pub(super) force_share: bool,
    pub(super) copy_on_read: bool,
    pub(super) cache: Option<String>,
    pub(super) aio: Option<String>,
    pub(super) objects: Objects,
}

const CACHE_MODES: [&str; 6] = ["none", "off", "directsync", "writeback", "writethrough", "unsafe"];

fn check_cache(mode: &str) -> Result<()> {
    match CACHE_MODES.contains(&mode) {
        true => Ok(()),
        false => Err(Error::invalid(format!("Invalid cache option: {mode}"))),
    }
}

/// Options that an open image can get, whatever its format.
const CHANGEABLE: [&str; 3] = ["cache.direct", "cache.no-flush", "discard"];

impl Opening {
    pub(super) fn set_cache(&mut self, mode: &str) -> Result<()> {
        check_cache(mode)?;
        self.cache = Some(mode.to_owned());
        Ok(())
    }

    pub(super) fn set_aio(&mut self, mode: &str) -> Result<()> {
        if !["threads", "native", "io_uring"].contains(&mode) {
            return Err(Error::invalid(format!("Invalid aio option: {mode}")));
        }
        self.aio = Some(mode.to_owned());
        Ok(())
    }

    pub(super) fn set_discard(&mut self, mode: &str) -> Result<()> {
        match mode {
            "ignore" | "off" | "unmap" | "on" => Ok(()),
            _ => Err(Error::invalid(format!("Invalid discard option: {mode}"))),
        }
    }

    pub(super) fn add_options(&mut self, text: &str, output: &mut Output<'_>) -> Result<()> {
        let (options, warnings) = Options::from_pairs(text)?;
        warnings.iter().for_each(|text| output.report(&format!("warning: {text}")));
        self.options = options;
        Ok(())
    }

    /// Without a mode, every write is flushed.
    pub(super) fn writes_through(&self) -> bool {
        matches!(self.cache.as_deref(), None | Some("writethrough" | "directsync"))
    }

    pub(super) fn open(&self) -> Result<Opened> {
        let direct = matches!(self.cache.as_deref(), Some("none" | "off" | "directsync"));
        if self.aio.as_deref() == Some("native") && !direct {
            let text = "aio=native was specified, but it requires cache.direct=on, which was not \
                        specified.";
            return Err(Error::invalid(text));
        }
        if self.force_share && !self.read_only {
            let text = "force-share=on can only be used with read-only images";
            return Err(Error::invalid(text));
        }
        if self.copy_on_read && self.read_only {
            return Err(Error::invalid("Can't use copy-on-read on read-only device"));
        }
        let purpose = if self.read_only || self.snapshot { Purpose::Read } else { Purpose::Write };
        let how = OpenOptions {
            format: self.format.clone(),
            purpose,
            force_share: self.force_share,
            secrets: self.objects.secrets.clone(),
            throttle_groups: self.objects.throttle_groups.clone(),
            ..OpenOptions::default()
        };
        let mut options = self.options.clone();
        if direct && !options.has("cache.direct") {
            options.set("cache.direct", true);
        }
        let mut opened = block_on(open_tree(self.name.as_deref(), options, &how, None))?;
        if self.snapshot && !self.read_only {
            opened.node = block_on(snapshot_overlay(opened.node, how.io.clone()))?;
        }
        if self.copy_on_read {
            let manner = opened.node.manner();
            opened.node.set_manner(Manner { copy_on_read: true, ..manner });
        }
        Ok(opened)
    }

    /// The same with changes.
    pub(super) fn changed(&self, change: Reopen) -> Result<Self> {
        let mut changed = self.clone();
        let mut options = change.options;
        let read_only = options.flag("read-only")?;
        if read_only.is_some() && change.writable.is_some() {
            return Err(Error::invalid("Cannot set both -r/-w and 'read-only'"));
        }
        if let Some(writable) = change.writable.or(read_only.map(|only| !only)) {
            changed.read_only = !writable;
        }
        if change.cache.is_some()
            && ["cache.direct", "cache.no-flush"].iter().any(|key| options.has(key))
        {
            return Err(Error::invalid("Cannot set both -c and the cache options"));
        }
        for key in CHANGEABLE.iter().chain(Qcow2::CHANGEABLE) {
            if let Some(value) = options.text(key) {
                changed.options.set(key, value);
            }
        }
        if let Some(key) = options.first_key() {
            return Err(Error::invalid(format!("Cannot change the option '{key}'")));
        }
        if change.cache.is_some() {
            changed.cache = change.cache;
        }
        Ok(changed)
    }
}

/// What `reopen` changes.
#[derive(Default)]
pub(super) struct Reopen {
    pub(super) writable: Option<bool>,
    cache: Option<String>,
    options: Options,
}

impl Reopen {
    pub(super) fn set_cache(&mut self, mode: &str) -> Result<()> {
        check_cache(mode)?;
        self.cache = Some(mode.to_owned());
        Ok(())
    }

    pub(super) fn add_options(&mut self, text: &str, output: &mut Output<'_>) -> Result<()> {
        let (options, warnings) = Options::from_pairs(text)?;
        warnings.iter().for_each(|text| output.report(&format!("warning: {text}")));
        self.options = options;
        Ok(())
    }
}

/// What the program's own arguments open, if anything. The error: what to say, or that the help shall be
/// shown.
pub(super) fn from_args(
    args: &Args,
    output: &mut Output<'_>,
) -> std::result::Result<Option<Opening>, Option<String>> {
    let mut opening = Opening {
        format: args.get("format").map(str::to_owned),
        read_only: args.has("read-only"),
        snapshot: args.has("snapshot"),
        force_share: args.has("force-share"),
        copy_on_read: args.has("copy-on-read"),
        ..Opening::default()
    };
    if args.has("nocache") {
        opening.cache = Some("none".into());
    }
    let said = |result: Result<()>| result.map_err(|error| Some(error.to_string()));
    for (name, value) in args.in_order() {
        match name {
            "cache" => said(opening.set_cache(value))?,
            "aio" => said(opening.set_aio(value))?,
            "native-aio" => said(opening.set_aio("native"))?,
            "discard" => said(opening.set_discard(value))?,
            "nocache" => opening.cache = Some("none".into()),
            _ => {}
        }
    }
    if args.operands.len() > 1 {
        return Err(None);
    }
    if opening.format.is_some() && args.has("image-opts") {
        return Err(Some("--image-opts and -f are mutually exclusive".into()));
    }
    for object in args.all("object") {
        said(opening.objects.define(object))?;
    }
    let Some(name) = args.operands.first() else { return Ok(None) };
    if args.has("image-opts") {
        said(opening.add_options(name, output))?;
    } else {
        opening.name = Some(name.clone());
    }
    Ok(Some(opening))
}
