//! From options to an open image.

use std::sync::Arc;

use super::header::{Encryption, Header};
use super::overlap::Protected;
use super::{Corruption, OnCorruption, Qcow2, Settings};
use crate::backend::Event;
use crate::format::Opening;
use crate::node::Node;
use crate::open::Builder;
use crate::options::Options;
use crate::{Error, Result};

impl Settings {
    /// Takes options that qcow2 has; `discards`: whether the node passes discards on.
    pub(super) fn take(
        &mut self,
        options: &mut Options,
        header: &Header,
        discards: bool,
    ) -> Result<()> {
        self.lazy_refcounts = options.flag("lazy-refcounts")?;
        if self.lazy_refcounts == Some(true) && header.version < 3 {
            return Err(Error::invalid(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level",
            ));
        }
        self.l2_cache = options.size("l2-cache-size")?;
        self.refcount_cache = options.size("refcount-cache-size")?;
        self.cache = options.size("cache-size")?;
        if let Some(cache) = self.cache {
            if self.l2_cache.is_some() && self.refcount_cache.is_some() {
                return Err(Error::invalid(
                    "cache-size, l2-cache-size and refcount-cache-size may not be set at the same \
                     time",
                ));
            }
            if self.l2_cache.is_some_and(|l2| l2 > cache) {
                return Err(Error::invalid("l2-cache-size may not exceed cache-size"));
            }
            if self.refcount_cache.is_some_and(|refcounts| refcounts > cache) {
                return Err(Error::invalid("refcount-cache-size may not exceed cache-size"));
            }
        }
        if let Some(size) = options.size("l2-cache-entry-size")?
            && !(size.is_power_of_two() && (512..=header.cluster_size()).contains(&size))
        {
            let text = format!(
                "L2 cache entry size must be a power of two between 512 and the cluster size ({})",
                header.cluster_size()
            );
            return Err(Error::invalid(text));
        }
        if options
            .number("cache-clean-interval")?
            .is_some_and(|seconds| seconds > i64::from(u32::MAX))
        {
            return Err(Error::invalid("Cache clean interval too big"));
        }
        self.pass_discard_request = options.flag("pass-discard-request")?.unwrap_or(discards);
        self.pass_discard_snapshot = options.flag("pass-discard-snapshot")?.unwrap_or(true);
        self.pass_discard_other = options.flag("pass-discard-other")?.unwrap_or(false);
        self.discard_no_unref = options.flag("discard-no-unref")?.unwrap_or(false);
        self.protected = Protected::take(options)?;
        Ok(())
    }
}

impl Qcow2 {
    /// Options that can be changed while the image is open.
    pub(crate) const CHANGEABLE: &[&str] = &[
        "lazy-refcounts",
        "pass-discard-request",
        "pass-discard-snapshot",
        "pass-discard-other",
        "discard-no-unref",
        "overlap-check",
        "cache-size",
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
        "cache-clean-interval",
    ];

    /// Takes those of them that are said; the others become what they are by default.
    pub(super) fn prepare_settings(
        &self,
        options: &mut Options,
        discards: bool,
    ) -> Result<Settings> {
        let (header, mut settings) = (self.header(), (*self.settings()).clone());
        settings.take(options, &header, discards)?;
        check_encryption(&header, options.peek("encrypt.format"))?;
        Ok(settings)
    }
}

fn check_encryption(header: &Header, format: Option<&str>) -> Result<()> {
    let has = match header.encryption {
        Encryption::None => None,
        Encryption::Aes => Some("aes"),
        Encryption::Luks { .. } => Some("luks"),
    };
    match (has, format) {
        (_, None) => Ok(()),
        (None, Some(format)) => Err(Error::invalid(format!(
            "No encryption in image header, but options specified format '{format}'"
        ))),
        (Some(has), Some(format)) if has == format => Ok(()),
        (Some(has), Some(format)) => Err(Error::invalid(format!(
            "Header reported '{has}' encryption format but options specify '{format}'"
        ))),
    }
}

/// Opens an image in a file.
pub(crate) fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let header = Qcow2::read_header(&file).await?;
        let mut settings = Settings::new(builder.purpose());
        let discards = builder.discards();
        settings.take(&mut builder.options, &header, discards)?;
        settings.on_corruption = builder.graph().map(|graph| {
            let (events, node) = (graph.events().clone(), builder.node_name().to_owned());
            let tell = move |found: &Corruption| {
                found.announce();
                let found = found.clone();
                events.tell(Event::ImageCorrupted { node: node.clone(), found });
            };
            Arc::new(tell) as OnCorruption
        });
        settings.no_data = builder.how().no_io;
        settings.checks = builder.how().checks;
        check_encryption(&header, builder.options.text("encrypt.format").as_deref())?;
        if let Some(id) = builder.options.text("encrypt.key-secret") {
            settings.password = Some(builder.how().secrets.get(&id)?.to_vec());
        }
        settings.data_file = builder.open_data_file(header.data_file.as_deref()).await?;
        let (name, format) = (header.backing_file.clone(), header.backing_format.clone());
        settings.backing = builder.open_backing(name.as_deref(), format.as_deref()).await?;
        Ok(Box::new(Qcow2::open(file, header, settings).await?) as Box<dyn crate::driver::Driver>)
    })
}
