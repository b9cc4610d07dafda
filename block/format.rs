//! The drivers there are: protocols, which reach bytes, and formats, which make disks of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::backend::Helper;
use crate::copy_on_read::CopyOnRead;
use crate::driver::Driver;
use crate::file::HostKind;
use crate::formats::{parallels, qcow1, qed, vdi, vhdx, vmdk, vpc};
use crate::luks::{self, Luks};
use crate::name;
use crate::node::Node;
use crate::null::Null;
use crate::open::Builder;
use crate::options::Options;
use crate::qcow2;
use crate::raw::Raw;
use crate::throttle::{self, Throttle};
use crate::{Error, Result};
use crate::{blkdebug, blkverify, preallocate};

/// What opening a driver comes to.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Driver>>> + 'a>>;

/// A format of images.
pub struct Format {
    /// The name in `driver=`.
    pub name: &'static str,
    /// How sure it is, up to 100, that an image beginning with these bytes is one of its own.
    pub probe: fn(&[u8]) -> u32,
    /// Whether there is more in the file than what the guest sees, so that nobody else may write.
    pub keeps_tables: bool,
    /// Opens an image in a file.
    pub open: for<'a> fn(&'a mut Builder<'_, '_>, Arc<Node>) -> Opening<'a>,
}

/// Protocols, and filters that stand in their place.
pub const PROTOCOLS: [&str; 7] =
    ["blkdebug", "blkverify", "file", "host_cdrom", "host_device", "null-aio", "null-co"];

/// All formats, and filters, which are opened like formats.
pub const FORMATS: [Format; 13] = [
    Format {
        name: "parallels",
        probe: parallels::probe,
        keeps_tables: true,
        open: parallels::open,
    },
    Format { name: "qcow", probe: qcow1::probe, keeps_tables: true, open: qcow1::open },
    Format { name: "qed", probe: qed::probe, keeps_tables: true, open: qed::open },
    Format { name: "vdi", probe: vdi::probe, keeps_tables: true, open: vdi::open },
    Format { name: "vhdx", probe: vhdx::probe, keeps_tables: true, open: vhdx::open },
    Format { name: "vmdk", probe: vmdk::probe, keeps_tables: true, open: vmdk::open },
    Format { name: "vpc", probe: vpc::probe, keeps_tables: true, open: vpc::open },
    Format { name: "copy-on-read", probe: |_| 0, keeps_tables: false, open: open_copy_on_read },
    Format {
        name: "luks",
        probe: |first| magic(first, &luks::MAGIC),
        keeps_tables: false,
        open: open_luks,
    },
    Format { name: "preallocate", probe: |_| 0, keeps_tables: false, open: preallocate::open },
    Format {
        name: "qcow2",
        probe: |first| magic(first, &qcow2::MAGIC),
        keeps_tables: true,
        open: qcow2::open,
    },
    Format { name: "raw", probe: |_| 1, keeps_tables: false, open: open_raw },
    Format { name: "throttle", probe: |_| 0, keeps_tables: false, open: open_throttle },
];

fn magic(first: &[u8], magic: &[u8]) -> u32 {
    if first.starts_with(magic) { 100 } else { 0 }
}

/// The names of all drivers, in alphabetical order.
pub fn driver_names() -> Vec<&'static str> {
    let mut names: Vec<_> = FORMATS.iter().map(|format| format.name).chain(PROTOCOLS).collect();
    names.sort_unstable();
    names
}

/// How many bytes tell what an image is.
pub const PROBED: u64 = 2048;

/// What an image is by its first bytes.
pub fn probe_bytes(first: &[u8]) -> &'static str {
    let mut best = ("raw", 0);
    for format in &FORMATS {
        let score = (format.probe)(first);
        if score > best.1 {
            best = (format.name, score);
        }
    }
    best.0
}

/// What the image in a file is.
pub async fn probe(file: &Node) -> Result<&'static str> {
    Ok(probe_bytes(&file.read_bytes(0, PROBED as usize).await?))
}

/// Takes a file name with a protocol apart.
pub fn parse_filename(name: &str, protocol: &str, options: &mut Options) -> Result<()> {
    match protocol {
        "null-co" | "null-aio" => {
            if name.strip_prefix(protocol) != Some("://") {
                return Err(Error::invalid(
                    "The only allowed filename for this driver is 'null-co://'",
                ));
            }
        }
        // Two names, separated by a colon; neither is an image's that is to be opened here.
        "blkdebug" | "blkverify" => {
            let rest = name.strip_prefix(protocol).and_then(|rest| rest.strip_prefix(':'));
            let (first, wanted) = match protocol {
                "blkdebug" => ("config", "both config file and image path"),
                _ => ("x-raw", "raw copy and original image path"),
            };
            // What is none of its names is the image's.
            let Some(rest) = rest else {
                options.set("x-image", name);
                return Ok(());
            };
            let missing = || Error::invalid(format!("{protocol} requires {wanted}"));
            let (other, image) = rest.split_once(':').ok_or_else(missing)?;
            if !other.is_empty() {
                options.set(first, other);
            }
            options.set("x-image", image);
        }
        _ => {
            let path = name.strip_prefix(protocol).and_then(|rest| rest.strip_prefix(':'));
            let path = path.unwrap_or(name);
            options.set("filename", path);
        }
    }
    Ok(())
}

/// Opens a protocol: its file name and its driver.
pub async fn open_protocol(
    protocol: &str,
    builder: &mut Builder<'_, '_>,
) -> Result<(String, Box<dyn Driver>)> {
    match protocol {
        "blkdebug" => blkdebug::open(builder).await,
        "blkverify" => blkverify::open(builder).await,
        "null-co" | "null-aio" => {
            let name = if protocol == "null-co" { "null-co" } else { "null-aio" };
            let described = builder.options.clone();
            let len = builder.options.size("size")?.unwrap_or(1 << 30);
            let read_zeroes = builder.options.flag("read-zeroes")?.unwrap_or(false);
            let latency = builder.options.number("latency-ns")?.unwrap_or(0);
            let latency = u64::try_from(latency)
                .map_err(|_| Error::invalid("latency-ns is invalid"))
                .map(Duration::from_nanos)?;
            let helper = match builder.graph() {
                _ if latency.is_zero() => None,
                Some(graph) => Some(graph.helper().clone()),
                None => Some(Helper::new()?),
            };
            let null = Null::new(name, len, read_zeroes, helper.map(|helper| (helper, latency)));
            Ok((null_name(name, &described), Box::new(null)))
        }
        _ => {
            let (name, host) = builder.open_host_file(HostKind::of(protocol))?;
            Ok((name, Box::new(host)))
        }
    }
}

/// The short name, unless more is to be said.
fn null_name(driver: &str, options: &Options) -> String {
    let said = |key: &str| options.iter().find(|(name, _)| *name == key);
    let pairs = [said("read-zeroes"), Some(("driver", &Value::from(driver))), said("size")];
    if pairs[0].is_none() && pairs[2].is_none() {
        return format!("{driver}://");
    }
    let pairs = pairs.into_iter().flatten();
    name::of_options(&pairs.map(|(key, value)| (key.to_owned(), value.clone())).collect())
}

fn open_copy_on_read<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        if file.is_read_only() {
            return Err(Error::new(libc::EPERM, "Block node is read-only"));
        }
        if let Some(bottom) = builder.options.text("bottom") {
            return Err(Error::invalid(format!("Bottom node '{bottom}' not found")));
        }
        Ok(Box::new(CopyOnRead::new(file)) as Box<dyn Driver>)
    })
}

fn open_throttle<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let groups = builder.how().throttle_groups.clone();
        let graph = builder.graph();
        let group = throttle::take_group(&mut builder.options, |name| match graph {
            Some(graph) => graph.throttle_group(name),
            None => groups.get(name),
        })?;
        let helper = match builder.graph() {
            Some(graph) => graph.helper().clone(),
            None => Helper::new()?,
        };
        Ok(Box::new(Throttle::new(file, group, helper)) as Box<dyn Driver>)
    })
}

fn open_raw<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let offset = builder.options.size("offset")?.unwrap_or(0);
        let size = builder.options.size("size")?;
        let raw = Raw::new(file, offset, size)?;
        let raw = if builder.guessed { raw.guessed() } else { raw };
        Ok(Box::new(raw) as Box<dyn Driver>)
    })
}

fn open_luks<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let password = match builder.options.text("key-secret") {
            Some(id) => Some(builder.how().secrets.get(&id)?),
            None if builder.how().no_io => None,
            None => {
                return Err(Error::invalid("Parameter 'key-secret' is required for cipher"));
            }
        };
        Ok(Box::new(Luks::open(file, password.as_deref()).await?) as Box<dyn Driver>)
    })
}
