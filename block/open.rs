//! From a file name or a tree of options to a graph: protocols, probing the format, opening what backs an
//! image.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::driver::{Driver, Preallocation};
use crate::engine::{HostIo, Inline, Uring};
use crate::file::{Access, HostFile, HostKind};
use crate::format::{self, FORMATS, PROTOCOLS};
use crate::graph::Graph;
use crate::name;
use crate::node::{self, Child, Claim, DetectZeroes, Manner, Node, Role};
use crate::objects::ThrottleGroups;
use crate::options::{ChildOptions, Options};
use crate::qcow2::{self, CreateOptions, Purpose, Qcow2, Settings};
use crate::secret::Secrets;
use crate::{Error, Result};

/// Backing files below each other at most: more is an accident or an attack.
const MAX_DEPTH: usize = 64;

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
    /// Nobody will read or write the disk: passwords and data files are not needed.
    pub no_io: bool,
    /// Its metadata is about to be checked: that some is wrong is no reason to refuse it.
    pub checks: bool,
    /// Passwords.
    pub secrets: Secrets,
    /// Limits for `throttle`, where no graph has them.
    pub throttle_groups: ThrottleGroups,
    /// Who does the I/O.
    pub io: Arc<dyn HostIo>,
}

impl Default for OpenOptions {
    /// Reading, in place.
    fn default() -> Self {
        Self {
            format: None,
            purpose: Purpose::Read,
            force_share: false,
            no_backing: false,
            no_io: false,
            checks: false,
            secrets: Secrets::default(),
            throttle_groups: ThrottleGroups::default(),
            io: Arc::new(Inline),
        }
    }
}

/// An open image and what was said while it was opened.
pub struct Opened {
    /// The top of the graph.
    pub node: Arc<Node>,
    /// Warnings, for the operator.
    pub warnings: Vec<String>,
}

/// Opens an image and what backs it.
pub async fn open(name: &str, how: &OpenOptions) -> Result<Opened> {
    open_tree(Some(name), Options::default(), how, None).await
}

/// Opens what a name, options, or both describe. In a graph, other nodes can be referred to, and new
/// ones are entered.
pub async fn open_tree(
    name: Option<&str>,
    tree: Options,
    how: &OpenOptions,
    graph: Option<&Graph>,
) -> Result<Opened> {
    let mut around = Around { graph, warnings: Vec::new(), chain: Vec::new() };
    let node = open_node(name, tree, how, Place::Top, 0, &mut around).await?;
    Ok(Opened { node, warnings: around.warnings })
}

/// What is the same for all nodes that are opened together.
struct Around<'a> {
    graph: Option<&'a Graph>,
    warnings: Vec<String>,
    /// Names of the backing files that are being opened, each for the one before it.
    chain: Vec<String>,
}

/// Where a node will be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A disk: its format is looked for.
    Top,
    /// The same, below another.
    Backing,
    /// A file: what is no format is a protocol.
    File,
}

type Opening<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// Boxed, because it opens the children, too.
fn open_node<'a>(
    name: Option<&'a str>,
    mut options: Options,
    how: &'a OpenOptions,
    place: Place,
    depth: usize,
    around: &'a mut Around<'_>,
) -> Opening<'a, Arc<Node>> {
    Box::pin(async move {
        let mut name = name;
        if let Some(text) = name.and_then(|name| name.strip_prefix("json:")) {
            options.fill_from(Options::from_json(text)?);
            if how.no_backing {
                // Said of a part of the graph that is not opened.
                options.child("backing");
            }
            name = None;
        }
        let said = options.text("driver");
        let mut driver = how.format.clone().or(said.filter(|driver| !driver.is_empty()));
        if let Some(driver) = &driver
            && !FORMATS.iter().any(|format| format.name == driver)
            && !PROTOCOLS.contains(&driver.as_str())
        {
            return Err(Error::invalid(format!("Unknown driver '{driver}'")));
        }
        let is_protocol =
            |driver: &Option<String>| driver.as_deref().is_some_and(|d| PROTOCOLS.contains(&d));
        if driver.is_none() && place == Place::File {
            let protocol = match name {
                Some(name) => protocol_of(name)?,
                // A name among the options is taken as it is.
                None => "file",
            };
            driver = Some(protocol.to_owned());
        }
        if let Some(name) = name
            && is_protocol(&driver)
        {
            format::parse_filename(name, driver.as_deref().unwrap_or_default(), &mut options)?;
        }
        let said = options.clone();
        let node_name = options.text("node-name");
        if let (Some(graph), Some(name)) = (around.graph, &node_name) {
            graph.check_name(name)?;
        } else if let Some(name) = &node_name {
            node::check_name(name)?;
        }
        let mut builder = Builder {
            name: name.unwrap_or_default().to_owned(),
            node_name: node_name.unwrap_or_else(node::generated_name),
            manner: Manner { discard: place == Place::File, ..Manner::default() },
            auto_read_only: false,
            guessed: false,
            how: OpenOptions { format: None, ..how.clone() },
            options,
            depth,
            around,
            children: Vec::new(),
            said,
            place: None,
        };
        builder.take_common()?;
        match driver {
            Some(protocol) if PROTOCOLS.contains(&protocol.as_str()) => {
                builder.open_protocol(&protocol).await
            }
            format => builder.open_format(name, format, place).await,
        }
    })
}

/// A node that is being opened: what drivers use to reach their options and children.
pub struct Builder<'a, 'b> {
    /// The name it was given; empty with options alone.
    pub name: String,
    /// What is said of it and of its children.
    pub options: Options,
    /// The format was looked for.
    pub guessed: bool,
    node_name: String,
    how: OpenOptions,
    manner: Manner,
    /// A file that can not be written is read.
    auto_read_only: bool,
    depth: usize,
    around: &'a mut Around<'b>,
    children: Vec<(Role, Child)>,
    /// All that was said.
    said: Options,
    /// Its place among the nodes of the graph.
    place: Option<u64>,
}

impl<'graph> Builder<'_, 'graph> {
    /// The graph that the node will be in.
    pub fn graph(&self) -> Option<&'graph Graph> {
        self.around.graph
    }
}

impl Builder<'_, '_> {
    /// What the image is opened for.
    pub fn purpose(&self) -> Purpose {
        self.how.purpose
    }

    /// How files are opened.
    pub fn how(&self) -> &OpenOptions {
        &self.how
    }

    /// The node's name.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Whether the node passes discards on.
    pub fn discards(&self) -> bool {
        self.manner.discard
    }

    /// Keys that every node knows.
    fn take_common(&mut self) -> Result<()> {
        if self.options.flag("read-only")? == Some(true) {
            self.how.purpose = Purpose::Read;
        }
        self.auto_read_only = self.options.flag("auto-read-only")?.unwrap_or(false);
        if let Some(share) = self.options.flag("force-share")? {
            self.how.force_share |= share;
        }
        if self.how.force_share && self.how.purpose != Purpose::Read {
            let text = "force-share=on can only be used with read-only images";
            return Err(Error::invalid(text));
        }
        self.manner.force_share = self.how.force_share;
        self.manner.no_flush = self.options.flag("cache.no-flush")?.unwrap_or(false);
        self.manner.direct = self.options.flag("cache.direct")?.unwrap_or(false);
        // The back end's affair.
        self.options.flag("cache.writeback")?;
        self.manner.discard = match self.options.text("discard").as_deref() {
            None => self.manner.discard || self.around.graph.is_none(),
            Some("ignore" | "off") => false,
            Some("unmap" | "on") => true,
            Some(_) => return Err(Error::invalid("Invalid discard option")),
        };
        self.manner.detect_zeroes = DetectZeroes::take(&mut self.options, self.manner.discard)?;
        Ok(())
    }

    /// What a child inherits unless it says otherwise.
    fn inherit(&self, options: &mut Options) {
        let inherited = [
            ("cache.direct", self.manner.direct),
            ("cache.no-flush", self.manner.no_flush),
            ("auto-read-only", self.auto_read_only),
        ];
        for (key, value) in inherited {
            if value && !options.has(key) {
                options.set(key, value);
            }
        }
    }

    /// In a graph, nodes claim what follows from the use made of them; elsewhere, what they may need.
    fn claim(&self) -> Claim {
        match (self.how.force_share, self.how.purpose) {
            _ if self.around.graph.is_some() => Claim::HOLDER,
            (true, _) => Claim::ONLOOKER,
            (false, Purpose::Read) => Claim::READER,
            (false, _) => Claim::WRITER,
        }
    }

    /// Refuses a backing file that the driver has left where it was.
    fn check_backing(&self) -> Result<()> {
        match self.options.first_key() {
            Some(key) if key == "backing" || key.starts_with("backing.") => {
                Err(Error::invalid("Driver doesn't support backing files"))
            }
            _ => Ok(()),
        }
    }

    async fn open_protocol(mut self, protocol: &str) -> Result<Arc<Node>> {
        let (filename, driver) = format::open_protocol(protocol, &mut self).await?;
        self.check_backing()?;
        if let Some(key) = self.options.first_key() {
            return Err(Error::invalid(format!(
                "Block protocol '{protocol}' doesn't support the option '{key}'"
            )));
        }
        Ok(self.finish(&filename, driver))
    }

    async fn open_format(
        mut self,
        name: Option<&str>,
        format: Option<String>,
        place: Place,
    ) -> Result<Arc<Node>> {
        let file = self.open_child("file", Role::File, name).await?;
        let file_is_read_only = file.as_ref().is_some_and(|file| file.is_read_only());
        if self.auto_read_only && file_is_read_only {
            self.how.purpose = Purpose::Read;
        }
        let file = file.ok_or_else(|| match format {
            None => Error::invalid("Must specify either driver or file"),
            Some(_) => Error::invalid("A block device must be specified for \"file\""),
        })?;
        let format = match format {
            Some(format) => format,
            None => {
                let found = format::probe(&file).await?;
                self.guessed = true;
                if found == "raw" && self.how.purpose != Purpose::Read && place == Place::Top {
                    self.around.warnings.push(raw_warning(name.unwrap_or(&file.filename())));
                }
                found.to_owned()
            }
        };
        if let Some(path) = self.name.strip_prefix("file:") {
            // Without its protocol, a name with a colon must not look like one with a protocol.
            let bare = prefix_of(path).is_none();
            self.name = if bare { path.to_owned() } else { format!("./{path}") };
        }
        if self.name.is_empty() {
            self.name = name::of_layer(&format, &file, &self.options);
        }
        let unknown = || Error::invalid(format!("Unknown driver '{format}'"));
        let found = FORMATS.iter().find(|known| known.name == format).ok_or_else(unknown)?;
        if let Some((_, child)) = self.children.last_mut().filter(|_| found.keeps_tables)
            && self.around.graph.is_some()
        {
            // Opening may change them already.
            child.require(Claim::tables(self.how.purpose == Purpose::Read))?;
        }
        self.place = self.around.graph.map(Graph::reserve);
        let driver = (found.open)(&mut self, file).await?;
        self.check_backing()?;
        if let Some(key) = self.options.first_key() {
            return Err(Error::invalid(format!(
                "Block format '{format}' does not support the option '{key}'"
            )));
        }
        let name = self.name.clone();
        Ok(self.finish(&name, driver))
    }

    fn finish(self, filename: &str, driver: Box<dyn Driver>) -> Arc<Node> {
        let read_only = self.how.purpose == Purpose::Read;
        let node = Node::with_manner(
            Some(self.node_name),
            filename,
            read_only,
            self.manner,
            driver,
            self.children,
        );
        let names_backing = |(key, _): (&str, _)| key == "backing" || key.starts_with("backing.");
        if !self.how.no_backing && self.said.iter().any(names_backing) {
            node.set_filename(&name::with_what_backs(&node));
        }
        node.remember(self.said);
        if let Some(graph) = self.around.graph {
            graph.enter_at(self.place.unwrap_or_else(|| graph.reserve()), &node);
        }
        node
    }

    /// Opens a child that options describe, or that has a name; `None` when there is neither.
    pub async fn open_child(
        &mut self,
        key: &str,
        role: Role,
        name: Option<&str>,
    ) -> Result<Option<Arc<Node>>> {
        self.open_in_place(key, role, name, Place::File).await
    }

    /// The same for a child that is an image itself: its format is looked for.
    pub async fn open_image(
        &mut self,
        key: &str,
        role: Role,
        name: Option<&str>,
    ) -> Result<Option<Arc<Node>>> {
        self.open_in_place(key, role, name, Place::Backing).await
    }

    async fn open_in_place(
        &mut self,
        key: &str,
        role: Role,
        name: Option<&str>,
        place: Place,
    ) -> Result<Option<Arc<Node>>> {
        let (options, name) = match self.options.child(key) {
            ChildOptions::Absent if name.is_none() => return Ok(None),
            ChildOptions::Absent => (Options::default(), name),
            ChildOptions::Nothing => return Ok(None),
            ChildOptions::Reference(node) => {
                let node = self.find(&node)?;
                self.adopt(role, &node, self.claim())?;
                return Ok(Some(node));
            }
            ChildOptions::Inline(options) => (options, name),
        };
        let mut options = options;
        self.inherit(&mut options);
        // A name on top of a name among the options would be one too many.
        let name = name.filter(|_| options.peek("filename").is_none());
        let node = open_node(name, options, &self.how, place, self.depth, self.around).await?;
        self.adopt(role, &node, self.claim())?;
        Ok(Some(node))
    }

    /// Opens where the data of an image is that keeps it elsewhere: what options say, or what the
    /// image says.
    pub async fn open_data_file(&mut self, name: Option<&str>) -> Result<Option<Arc<Node>>> {
        let path = name.map(|name| full_backing_name(&self.location(), name));
        if self.how.no_io {
            // Whatever is said of it, nobody will look.
            self.options.child("data-file");
            return Ok(None);
        }
        self.open_child("data-file", Role::Data, path.as_deref()).await
    }

    /// Where the image is: names in it are seen from there.
    fn location(&self) -> String {
        let file = self.children.iter().find(|(role, _)| *role == Role::File);
        file.map_or_else(|| self.name.clone(), |(_, file)| file.location().to_owned())
    }

    fn backing_claim(&self) -> Claim {
        match self.around.graph {
            Some(_) => Claim::HOLDER,
            None if self.how.force_share => Claim::ONLOOKER,
            None => Claim::READER,
        }
    }

    /// A node that is in the graph already.
    fn find(&self, name: &str) -> Result<Arc<Node>> {
        let missing =
            || Error::invalid(format!("Cannot find device='{name}' nor node-name='{name}'"));
        self.around.graph.and_then(|graph| graph.node(name)).ok_or_else(missing)
    }

    fn adopt(&mut self, role: Role, node: &Arc<Node>, claim: Claim) -> Result<()> {
        let holder = format!("node '{}'", self.node_name);
        self.children.push((role, node.attach(&holder, role, claim)?));
        Ok(())
    }

    /// Opens what backs the image: what options say, or what the image says.
    pub async fn open_backing(
        &mut self,
        name: Option<&str>,
        format: Option<&str>,
    ) -> Result<Option<Arc<Node>>> {
        if self.options.peek("backing") == Some("") {
            self.options.child("backing");
            let text = "Use of \"backing\": \"\" is deprecated; use \"backing\": null instead";
            base::warn_report!("{text}");
            return Ok(None);
        }
        if self.how.no_backing {
            return Ok(None);
        }
        let fail = |error: Error| error.context("Could not open backing file");
        let said = self.options.child("backing");
        let (mut options, path) = match (said, name) {
            (ChildOptions::Nothing, _) | (ChildOptions::Absent, None) => return Ok(None),
            (ChildOptions::Reference(node), _) => {
                let node = self.find(&node).map_err(fail)?;
                self.adopt(Role::Backing, &node, self.backing_claim())?;
                return Ok(Some(node));
            }
            (ChildOptions::Absent, Some(name)) => {
                (Options::default(), Some(full_backing_name(&self.location(), name)))
            }
            (ChildOptions::Inline(options), name) => {
                let full = name.map(|name| full_backing_name(&self.location(), name));
                // Who says which file it is does not mean the one the image names.
                let own = options.clone().child("file") != ChildOptions::Absent
                    || options.peek("filename").is_some();
                (options, full.filter(|_| !own))
            }
        };
        if self.depth >= MAX_DEPTH {
            return Err(fail(Error::new(libc::ELOOP, "Too many backing files")));
        }
        if let Some(path) = path.as_ref().filter(|path| self.around.chain.contains(path)) {
            let text = format!("Backing file '{path}' creates an infinite loop.");
            return Err(fail(Error::new(libc::ELOOP, text)));
        }
        if let (None, Some(format)) = (options.peek("driver"), format) {
            options.set("driver", format);
        }
        self.inherit(&mut options);
        let how = OpenOptions { purpose: Purpose::Read, ..self.how.clone() };
        let depth = self.depth + 1;
        self.around.chain.extend(path.clone());
        let opening = open_node(path.as_deref(), options, &how, Place::Backing, depth, self.around);
        let node = opening.await.map_err(fail)?;
        self.around.chain.pop_if(|last| Some(&*last) == path.as_ref());
        self.adopt(Role::Backing, &node, self.backing_claim())?;
        Ok(Some(node))
    }

    /// Opens a file of the host for this node; outside a graph it is locked at once.
    pub fn open_host_file(&mut self, kind: HostKind) -> Result<(String, HostFile)> {
        let missing = || {
            let driver = kind.name();
            Error::invalid(format!("The '{driver}' block driver requires a file name"))
        };
        let filename = self.options.text("filename").filter(|name| !name.is_empty());
        let filename = filename.ok_or_else(missing)?;
        for key in ["pr-manager", "x-check-cache-dropped", "drop-cache"] {
            self.options.text(key);
        }
        let aio = self.options.text("aio");
        if aio.as_deref() == Some("native") && !self.manner.direct {
            return Err(Error::invalid(
                "aio=native was specified, but it requires cache.direct=on, which was not \
                 specified.",
            ));
        }
        let io = match aio.as_deref() {
            Some("io_uring") => Arc::new(Uring::new()?),
            // The kernel's older interface has nothing that this one has not.
            Some("native") => match Uring::new() {
                Ok(ring) => Arc::new(ring) as Arc<dyn HostIo>,
                Err(_) => self.how.io.clone(),
            },
            None | Some("threads") => self.how.io.clone(),
            Some(other) => {
                let text = format!("Parameter 'aio' does not accept value '{other}'");
                return Err(Error::invalid(text));
            }
        };
        let read_only = self.how.purpose == Purpose::Read;
        let access = Access { read_only, create: false, direct: self.manner.direct };
        let host = match HostFile::open_as(kind, &filename, access, io.clone()) {
            Err(error)
                if self.auto_read_only
                    && !read_only
                    && [libc::EACCES, libc::EROFS, libc::EPERM].contains(&error.errno()) =>
            {
                self.how.purpose = Purpose::Read;
                HostFile::open_as(kind, &filename, Access { read_only: true, ..access }, io)?
            }
            opened => opened?,
        };
        let host = match self.options.text("locking").as_deref() {
            Some("off") => host.without_locks(),
            _ => host,
        };
        host.lock(self.claim())?;
        Ok((filename, host))
    }
}

/// Whether a name begins with a protocol (`nbd:...`), and which.
fn prefix_of(name: &str) -> Option<&str> {
    let (protocol, _) = name.split_once(':')?;
    (!protocol.contains('/')).then_some(protocol)
}

fn protocol_of(name: &str) -> Result<&str> {
    match prefix_of(name) {
        None => Ok(HostKind::at(name).name()),
        Some(protocol) if PROTOCOLS.contains(&protocol) => Ok(protocol),
        Some(protocol) => Err(Error::invalid(format!("Unknown protocol '{protocol}'"))),
    }
}

/// A backing file's name as seen from the image's directory.
pub fn full_backing_name(image: &str, backing: &str) -> String {
    match image.rfind('/') {
        Some(end) if !backing.starts_with('/') && prefix_of(backing).is_none() => {
            format!("{}{backing}", &image[..=end])
        }
        _ => backing.to_owned(),
    }
}

fn raw_warning(name: &str) -> String {
    format!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on \
         block 0 will be restricted.\n         Specify the 'raw' format explicitly to remove the \
         restrictions."
    )
}

/// A layer over a node that takes what is written, and is gone with the program: nothing of it has to
/// survive.
pub async fn snapshot_overlay(below: Arc<Node>, io: Arc<dyn HostIo>) -> Result<Arc<Node>> {
    let dir = std::env::var("TMPDIR").unwrap_or_else(|_| "/var/tmp".into());
    let file = tempfile::Builder::new().prefix("vl.").tempfile_in(dir)?.into_temp_path();
    let name = file.to_string_lossy().into_owned();
    let file = create_file(&name, io).await?;
    let size = below.len()?;
    qcow2::create(&file, &CreateOptions { size, ..CreateOptions::default() }).await?;
    let header = Qcow2::read_header(&file).await?;
    let no_flush = Manner { no_flush: true, ..Manner::default() };
    file.set_manner(no_flush);
    let described = name::with_backing("qcow2", &file, &below);
    let children = vec![
        (Role::File, file.attach(&name, Role::File, Claim::WRITER)?),
        (Role::Backing, below.attach(&name, Role::Backing, Claim::READER)?),
    ];
    let settings = Settings { backing: Some(below), ..Settings::new(Purpose::Write) };
    let image = Box::new(Qcow2::open(file, header, settings).await?);
    Ok(Node::with_manner(None, &described, false, no_flush, image, children))
}

/// An empty file, locked; an old one is emptied.
pub async fn create_file(name: &str, io: Arc<dyn HostIo>) -> Result<Arc<Node>> {
    if protocol_of(name)? != "file" {
        let protocol = protocol_of(name)?;
        let text = format!("Protocol driver '{protocol}' does not support image creation");
        return Err(Error::unsupported(text));
    }
    let name = name.strip_prefix("file:").unwrap_or(name);
    let host = HostFile::open(name, Access { create: true, ..Access::default() }, io)?;
    host.lock(Claim::WRITER)?;
    let node = Node::new(None, name, false, Box::new(host), Vec::new());
    node.truncate(0, Preallocation::Off).await?;
    Ok(node)
}
