//! `-o`: what a new image is like.

use super::{Failure, text};
use crate::format::FORMATS;
use crate::qcow2::{Compression, CreateOptions};

/// A new image, as `-f`, `-o`, `-b` and a size describe it.
pub(super) struct NewImage {
    pub(super) format: String,
    pub(super) options: CreateOptions,
    /// A size was given.
    pub(super) sized: bool,
}

const RAW_HELP: &str = "Supported options:\n  size=<size>            - Virtual disk size\n";
const QCOW2_HELP: &str = "Supported options:
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  cluster_size=<size>    - qcow2 cluster size
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  compression_type=<str> - Compression method used for image cluster compression
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size
";

/// The help for `-o help`, if that is what is asked for.
pub(super) fn help(format: &str, given: &[&str]) -> Option<&'static str> {
    let asked = given.iter().flat_map(|text| text.split(',')).any(base::options::is_help);
    asked.then_some(if format == "qcow2" { QCOW2_HELP } else { RAW_HELP })
}

impl NewImage {
    /// Reads `-o` arguments for `name`, the file that errors speak of.
    pub(super) fn parse(name: &str, format: &str, given: &[&str]) -> Result<Self, Failure> {
        let fail = |text: String| Failure::new(format!("{name}: {text}"));
        if !FORMATS.iter().any(|known| known.name == format) {
            return Err(fail(format!("Unknown file format '{format}'")));
        }
        let mut new =
            Self { format: format.to_owned(), options: CreateOptions::default(), sized: false };
        let mut backing = (None, None);
        for (key, value) in given.iter().flat_map(|text| split(text)) {
            let number = || {
                text::parse(&value)
                    .ok_or_else(|| fail(format!("Parameter '{key}' expects a number")))
            };
            let options = &mut new.options;
            match key.as_str() {
                "size" => {
                    options.size = number()?;
                    new.sized = true;
                }
                _ if format == "raw" => return Err(fail(format!("Invalid parameter '{key}'"))),
                "backing_file" => backing.0 = Some(value),
                "backing_fmt" => backing.1 = Some(value),
                "cluster_size" => options.cluster_size = number()?,
                "refcount_bits" => options.refcount_bits = number()?,
                "compat" => {
                    options.version = match value.as_str() {
                        "0.10" | "v2" => 2,
                        "1.1" | "v3" => 3,
                        _ => {
                            let text = format!("Invalid parameter '{value}'");
                            return Err(fail(text));
                        }
                    };
                }
                "compression_type" => {
                    options.compression = match value.as_str() {
                        "zlib" => Compression::Zlib,
                        "zstd" => Compression::Zstd,
                        _ => {
                            let text = format!("Invalid parameter '{value}'");
                            return Err(fail(text));
                        }
                    };
                }
                "lazy_refcounts" => {
                    options.lazy_refcounts = match value.as_str() {
                        "on" => true,
                        "off" => false,
                        _ => {
                            let text = format!("Parameter '{key}' expects 'on' or 'off'");
                            return Err(fail(text));
                        }
                    };
                }
                _ => return Err(fail(format!("Invalid parameter '{key}'"))),
            }
        }
        if let (Some(file), format) = backing {
            new.options.backing = Some((file, format));
        }
        Ok(new)
    }

    /// The line that says what is made.
    pub(super) fn describe(&self, name: &str, explicit_compat: Option<&str>) -> String {
        let options = &self.options;
        if self.format == "raw" {
            return format!("Formatting '{name}', fmt=raw size={}", options.size);
        }
        let on = |value: bool| if value { "on" } else { "off" };
        let mut text = format!(
            "Formatting '{name}', fmt=qcow2 cluster_size={} extended_l2=off compression_type={} \
             size={}",
            options.cluster_size,
            options.compression.name(),
            options.size
        );
        if let Some(compat) = explicit_compat {
            text += &format!(" compat={compat}");
        }
        if let Some((file, format)) = &options.backing {
            text += &format!(" backing_file={file}");
            if let Some(format) = format {
                text += &format!(" backing_fmt={format}");
            }
        }
        let lazy = on(options.lazy_refcounts);
        text + &format!(" lazy_refcounts={lazy} refcount_bits={}", options.refcount_bits)
    }
}

/// The value of a key in `-o` arguments; the last one counts.
pub(super) fn last<'a>(given: &'a [&'a str], key: &str) -> Option<String> {
    let pairs = given.iter().rev().flat_map(|text| split(text).into_iter().rev());
    let mut pairs = pairs.filter(|(name, _)| name == key);
    pairs.next().map(|(_, value)| value)
}

/// `a=1,b=x,,y` as pairs.
fn split(text: &str) -> Vec<(String, String)> {
    let marked = text.replace(",,", "\0");
    let pairs = marked.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "on"));
            (key.to_owned(), value.replace('\0', ","))
        })
        .collect()
}
