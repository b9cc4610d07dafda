//! Opening images for subcommands.

use std::sync::Arc;

use super::args::Args;
use super::output::Output;
use super::{Failure, Outcome};
use crate::Result;
use crate::engine::{HostIo, Inline, block_on};
use crate::node::Node;
use crate::objects::Objects;
use crate::open::{OpenOptions, open_tree};
use crate::options::Options;
use crate::qcow2::Purpose;

const CACHE_MODES: [&str; 7] =
    ["none", "off", "directsync", "writeback", "writethrough", "unsafe", "auto"];

/// Refuses a cache mode that is none.
pub(super) fn check_cache(args: &Args, option: &str, what: &str) -> Outcome {
    match args.get(option) {
        Some(mode) if !CACHE_MODES.contains(&mode) => {
            Err(Failure::new(format!("Invalid {what}cache option: {mode}")))
        }
        _ => Ok(0),
    }
}

/// How an image is opened.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) format: Option<String>,
    /// The name is a list of options.
    pub(super) image_opts: bool,
    pub(super) purpose: Purpose,
    pub(super) share: bool,
    pub(super) no_backing: bool,
    /// Who does the I/O, if not this thread.
    pub(super) io: Option<Arc<dyn HostIo>>,
    pub(super) objects: Objects,
    /// Nobody looks at the disk itself.
    pub(super) no_io: bool,
    /// The metadata is about to be checked.
    pub(super) checks: bool,
    /// More options of the image.
    pub(super) more: Vec<(&'static str, String)>,
}

impl Access {
    pub(super) fn new(purpose: Purpose, objects: &Objects) -> Self {
        Self {
            format: None,
            image_opts: false,
            purpose,
            share: false,
            no_backing: false,
            io: None,
            objects: objects.clone(),
            no_io: false,
            checks: false,
            more: Vec::new(),
        }
    }

    pub(super) fn format(self, format: Option<&str>) -> Self {
        Self { format: format.map(str::to_owned), ..self }
    }

    pub(super) fn without_backing(self) -> Self {
        Self { no_backing: true, ..self }
    }

    /// With the host's cache as a mode says (`none`, `unsafe`, ...).
    pub(super) fn cache(mut self, mode: Option<&str>) -> Self {
        let key = match mode {
            Some("none" | "off" | "directsync") => "cache.direct",
            Some("unsafe") => "cache.no-flush",
            _ => return self,
        };
        self.more.push((key, "on".into()));
        self
    }

    /// As `-f`, `--image-opts` and `-U` have it.
    pub(super) fn from_args(args: &Args, purpose: Purpose) -> std::result::Result<Self, Failure> {
        let image_opts = args.has("image-opts");
        if image_opts && args.has("format") {
            return Err(Failure::new("--image-opts and --format are mutually exclusive"));
        }
        let share = args.has("force-share");
        let access = Self { image_opts, share, ..Self::new(purpose, &args.objects) };
        Ok(access.format(args.get("format")))
    }

    /// Opens an image; the error is QEMU's.
    pub(super) fn open(&self, name: &str, output: &mut Output<'_>) -> Result<Arc<Node>> {
        self.open_plain(name, output)
            .map_err(|error| error.context(format!("Could not open '{name}'")))
    }

    /// The same, with the error as the image has it.
    pub(super) fn open_plain(&self, name: &str, output: &mut Output<'_>) -> Result<Arc<Node>> {
        let how = OpenOptions {
            format: self.format.clone(),
            purpose: self.purpose,
            force_share: self.share,
            no_backing: self.no_backing,
            no_io: self.no_io,
            checks: self.checks,
            secrets: self.objects.secrets.clone(),
            throttle_groups: self.objects.throttle_groups.clone(),
            io: self.io.clone().unwrap_or_else(|| Arc::new(Inline)),
        };
        let (name, mut tree) = match self.image_opts {
            false => (Some(name), Options::default()),
            true => {
                let (tree, warnings) = Options::from_pairs(name)?;
                warnings.iter().for_each(|text| output.report(&format!("warning: {text}")));
                (None, tree)
            }
        };
        for (key, value) in &self.more {
            if tree.has(key) {
                continue;
            }
            tree.set(key, value.as_str());
        }
        let opened = block_on(open_tree(name, tree, &how, None))?;
        opened.warnings.iter().for_each(|warning| output.note(warning));
        Ok(opened.node)
    }
}
