//! From a file name to a graph: probing the format, opening what backs an image.

use std::future::Future;
use std::sync::Arc;

use base::options::json;
use serde_json::Value;

use crate::driver::Preallocation;
use crate::engine::HostIo;
use crate::file::HostFile;
use crate::node::{Child, Claim, Node, Role};
use crate::qcow2::{Header, MAGIC, Purpose, Qcow2};
use crate::raw::Raw;
use crate::{Error, Result};

/// Backing files below each other at most: more is an accident or an attack.
const MAX_DEPTH: usize = 200;

/// Formats that can be opened, for help texts.
pub const FORMATS: [&str; 3] = ["file", "qcow2", "raw"];

/// How to open an image.
#[derive(Clone)]
pub struct OpenOptions {
    /// The format, or to look at the image.
    pub format: Option<String>,
    /// What for.
    pub purpose: Purpose,
    /// Other programs may be writing (`-U`).
    pub force_share: bool,
    /// Without what backs it.
    pub no_backing: bool,
    /// Who does the I/O.
    pub io: Arc<dyn HostIo>,
}

/// An open image and what was said while it was opened.
pub struct Opened {
    /// The top of the graph.
    pub node: Arc<Node>,
    /// Warnings, for the operator.
    pub warnings: Vec<String>,
}

/// What an image is by its first bytes.
pub fn probe(first: &[u8]) -> &'static str {
    if first.starts_with(&MAGIC) { "qcow2" } else { "raw" }
}

/// Opens an image and what backs it.
pub async fn open(name: &str, options: &OpenOptions) -> Result<Opened> {
    let mut warnings = Vec::new();
    let node = open_at(name, options, 0, &mut warnings).await?;
    Ok(Opened { node, warnings })
}

/// A file name that may be `json:{...}` or `file:...`.
struct Location {
    filename: String,
    format: Option<String>,
    offset: u64,
    size: Option<u64>,
}

impl Location {
    fn parse(name: &str) -> Result<Self> {
        let Some(text) = name.strip_prefix("json:") else {
            let filename = name.strip_prefix("file:").unwrap_or(name).to_owned();
            return Ok(Self { filename, format: None, offset: 0, size: None });
        };
        let mut tree =
            json::parse(text).map_err(|_| Error::invalid("Could not parse the JSON options"))?;
        let not_object = || Error::invalid("Invalid JSON object given");
        let map = tree.as_object_mut().ok_or_else(not_object)?;
        let text = |value: Value| value.as_str().map(str::to_owned);
        let number = |value: Value| {
            value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
        };
        let mut format = map.remove("driver").and_then(text);
        let offset = map.remove("offset").and_then(number).unwrap_or(0);
        let size = map.remove("size").and_then(number);
        let mut filename = map.remove("file.filename").or_else(|| map.remove("filename"));
        map.remove("file.driver");
        if let Some(Value::Object(mut file)) = map.remove("file") {
            filename = filename.or(file.remove("filename"));
            file.remove("driver");
            if let Some(key) = file.keys().next() {
                return Err(Error::invalid(format!(
                    "Block protocol 'file' doesn't support the option '{key}'"
                )));
            }
        } else if format.as_deref() == Some("file") {
            format = None;
        }
        if let Some(key) = map.keys().next() {
            return Err(Error::invalid(format!("Block format doesn't support the option '{key}'")));
        }
        let missing = || Error::invalid("The 'file' block driver requires a file name");
        Ok(Self { filename: filename.and_then(text).ok_or_else(missing)?, format, offset, size })
    }
}

/// Boxed, because backing files are opened by it, too.
fn open_at<'a>(
    name: &'a str,
    options: &'a OpenOptions,
    depth: usize,
    warnings: &'a mut Vec<String>,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Arc<Node>>> + 'a>> {
    Box::pin(async move {
        let at = Location::parse(name)?;
        let format = options.format.clone().or(at.format.clone());
        if let Some(format) = &format
            && !FORMATS.contains(&format.as_str())
        {
            return Err(Error::invalid(format!("Unknown driver '{format}'")));
        }
        let read_only = options.purpose == Purpose::Read;
        let host = HostFile::open(&at.filename, read_only, false, options.io.clone())?;
        let claim = match (options.force_share, read_only) {
            (true, _) => Claim::ONLOOKER,
            (false, true) => Claim::READER,
            (false, false) => Claim::WRITER,
        };
        host.lock(claim).map_err(|error| in_use(&error, &at.filename))?;
        let file = Node::new(None, &at.filename, read_only, Box::new(host), Vec::new());
        if format.as_deref() == Some("file") {
            return Ok(file);
        }
        let format = match format {
            Some(format) => format,
            None => {
                let first = file.read_bytes(0, 512).await?;
                let found = probe(&first);
                if found == "raw" && !read_only {
                    warnings.push(raw_warning(&at.filename));
                }
                found.to_owned()
            }
        };
        let holder = file.name().to_owned();
        let child = file.attach(&holder, Role::File, claim)?;
        if format == "raw" {
            let raw = Raw::new(file, at.offset, at.size)?;
            let children = vec![(Role::File, child)];
            return Ok(Node::new(None, name, read_only, Box::new(raw), children));
        }
        open_qcow2(name, file, child, options, depth, warnings).await
    })
}

async fn open_qcow2(
    name: &str,
    file: Arc<Node>,
    child: Child,
    options: &OpenOptions,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Arc<Node>> {
    let header: Header = Qcow2::read_header(&file).await?;
    let mut children = vec![(Role::File, child)];
    let mut backing = None;
    if let Some(backing_file) = header.backing_file.as_ref().filter(|_| !options.no_backing) {
        let fail = |error: Error| error.context("Could not open backing file");
        if depth >= MAX_DEPTH {
            return Err(fail(Error::new(libc::ELOOP, "Too many backing files")));
        }
        let path = full_backing_name(file.filename(), backing_file);
        let below = OpenOptions {
            format: header.backing_format.clone(),
            purpose: Purpose::Read,
            ..options.clone()
        };
        let node = open_at(&path, &below, depth + 1, warnings).await;
        let node = node
            .map_err(|error| fail(error.context(format!("Could not open '{path}'")).flat(&path)))?;
        let claim = if options.force_share { Claim::ONLOOKER } else { Claim::READER };
        children.push((Role::Backing, node.attach(name, Role::Backing, claim)?));
        backing = Some(node);
    }
    let image = Qcow2::open(file, header, backing, options.purpose).await?;
    let read_only = options.purpose == Purpose::Read;
    Ok(Node::new(None, name, read_only, Box::new(image), children))
}

impl Error {
    /// Without the file's name said twice.
    fn flat(self, path: &str) -> Self {
        let twice = format!("Could not open '{path}': Could not open '{path}'");
        let text = self.to_string().replace(&twice, &format!("Could not open '{path}'"));
        Self::new(self.errno(), text)
    }
}

/// A backing file's name as seen from the image's directory.
pub fn full_backing_name(image: &str, backing: &str) -> String {
    let has_protocol = backing.split('/').next().is_some_and(|first| first.contains(':'));
    match image.rfind('/') {
        Some(end) if !backing.starts_with('/') && !has_protocol => {
            format!("{}{backing}", &image[..=end])
        }
        _ => backing.to_owned(),
    }
}

fn in_use(error: &Error, filename: &str) -> Error {
    let text = format!("{error}\nIs another process using the image [{filename}]?");
    Error::new(error.errno(), text)
}

fn raw_warning(name: &str) -> String {
    format!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on \
         block 0 will be restricted.\n         Specify the 'raw' format explicitly to remove the \
         restrictions."
    )
}

/// An empty file, locked; an old one is emptied.
pub async fn create_file(name: &str, io: Arc<dyn HostIo>) -> Result<Arc<Node>> {
    let host = HostFile::open(name, false, true, io)?;
    host.lock(Claim::WRITER).map_err(|error| in_use(&error, name))?;
    let node = Node::new(None, name, false, Box::new(host), Vec::new());
    node.truncate(0, Preallocation::Off).await?;
    Ok(node)
}
