//! Memory backends: what guest memory is made of on the host, as `-object memory-backend-ram`,
//! `-file` and `-memfd` describe it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};

use super::host::Binding;
use super::{Advice, Mapping, PAGE_SIZE, RamBlock, RamError};
use crate::options::number::parse_int;
use crate::prop_enum;
use crate::props::{OnOffAuto, PropError, PropName, PropSpec, PropValue, Props, Size, Value};
use crate::report::strerror;

/// Most NUMA nodes of a host.
const MAX_HOST_NODES: u64 = 128;

prop_enum! {
    /// How the host's NUMA nodes are used.
    pub enum HostMemPolicy: "HostMemPolicy", "" {
        /// As for any other memory.
        Default = "default",
        /// These nodes if they have room.
        Preferred = "preferred",
        /// These nodes only.
        Bind = "bind",
        /// These nodes in turn.
        Interleave = "interleave",
    }
}

/// NUMA nodes of the host: `0` or `0-3`; given again, more of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNodes(Vec<u64>);

impl HostNodes {
    /// Adds the nodes of another set.
    pub fn extend(&mut self, other: HostNodes) {
        self.0.extend(other.0);
    }

    fn mask(&self) -> Vec<u64> {
        let mut mask = vec![0; (MAX_HOST_NODES / 64) as usize];
        for node in &self.0 {
            mask[(node / 64) as usize] |= 1 << (node % 64);
        }
        mask
    }
}

impl PropValue for HostNodes {
    const TYPE: &'static str = "int";

    fn from_text(text: &str, prop: &PropName<'_>) -> Result<Self, PropError> {
        let number = |text: &str| parse_int(text).and_then(|number| u64::try_from(number).ok());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (number(first), number(last)) {
            // Nodes that no host has are refused later, in words of their own.
            (Some(first), Some(last)) if first <= last && last - first <= u64::from(u16::MAX) => {
                Ok(HostNodes((first..=last).collect()))
            }
            _ => Err(prop.expects("a uint64 value or range")),
        }
    }

    fn from_json(value: &Value, prop: &PropName<'_>) -> Result<Self, PropError> {
        Vec::<u64>::from_json(value, prop).map(HostNodes)
    }

    fn to_json(&self) -> Value {
        self.0.to_json()
    }

    fn shown_default(&self) -> Option<Value> {
        None
    }
}

/// What all kinds of backends have.
#[derive(Clone, Debug, Props)]
pub struct BackendProps {
    /// Part of a core dump of this process.
    #[prop(help = "Set to 'off' to exclude from core dump")]
    pub dump: Option<bool>,
    /// NUMA nodes of the host.
    #[prop(name = "host-nodes", help = "Binds memory to the list of NUMA host nodes")]
    pub host_nodes: HostNodes,
    /// The host may share equal pages.
    #[prop(help = "Mark memory as mergeable")]
    pub merge: Option<bool>,
    /// How the host's nodes are used.
    #[prop(hide_default, help = "Set the NUMA policy")]
    pub policy: HostMemPolicy,
    /// The host provides all pages at the start.
    #[prop(hide_default, help = "Preallocate memory")]
    pub prealloc: bool,
    /// Threads that do so.
    #[prop(
        name = "prealloc-threads",
        default = 1,
        hide_default,
        help = "Number of CPU threads to use for prealloc"
    )]
    pub prealloc_threads: u32,
    /// The host sets swap space aside.
    #[prop(
        default = true,
        hide_default,
        help = "Reserve swap space (or huge pages) if applicable"
    )]
    pub reserve: bool,
    /// Other processes see what the guest stores.
    #[prop(help = "Mark the memory as private to QEMU or shared")]
    pub share: Option<bool>,
    /// Bytes.
    #[prop(help = "Size of the memory region (ex: 500M)")]
    pub size: Option<Size>,
}

/// Properties of `memory-backend-file` besides those of all.
#[derive(Clone, Debug, Props)]
pub struct FileProps {
    /// What all have.
    #[prop(flatten)]
    pub common: BackendProps,
    /// The mapping's alignment.
    #[prop(hide_default)]
    pub align: Size,
    /// The file's content is discarded in the end.
    #[prop(name = "discard-data", hide_default)]
    pub discard_data: bool,
    /// The file, or a directory for one.
    #[prop(name = "mem-path")]
    pub mem_path: Option<String>,
    /// Where in the file the memory starts.
    #[prop(hide_default, help = "Offset into the target file (ex: 1G)")]
    pub offset: Size,
    /// The file is opened for reading only.
    #[prop(hide_default)]
    pub readonly: bool,
    /// The guest cannot store to it.
    #[prop(hide_default, help = "Whether to create Read Only Memory (ROM)")]
    pub rom: OnOffAuto,
}

/// Properties of `memory-backend-memfd` besides those of all.
#[derive(Clone, Debug, Props)]
pub struct MemfdProps {
    /// What all have.
    #[prop(flatten)]
    pub common: BackendProps,
    /// Made of huge pages.
    #[prop(hide_default, help = "Use huge pages")]
    pub hugetlb: bool,
    /// Of this size.
    #[prop(hide_default, help = "Huge pages size (ex: 2M, 1G)")]
    pub hugetlbsize: Size,
    /// Nobody can change the size later.
    #[prop(default = true, hide_default, help = "Seal growing & shrinking")]
    pub seal: bool,
}

/// A backend to be made.
#[derive(Clone, Debug)]
pub enum Backend {
    /// `memory-backend-ram`
    Ram(BackendProps),
    /// `memory-backend-file`
    File(FileProps),
    /// `memory-backend-memfd`
    Memfd(MemfdProps),
}

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BackendError {
    #[error("Parameter '{0}' is missing")]
    Missing(&'static str),
    #[error("property '{property}' of {kind} doesn't take value '{value}'")]
    Value { kind: &'static str, property: &'static str, value: u64 },
    #[error("'prealloc=on' and 'reserve=off' are incompatible")]
    PreallocWithoutReserve,
    #[error("host-nodes must be set for policy {0}")]
    NodesNeeded(&'static str),
    #[error(
        "host-nodes must be empty for policy default, or you should explicitly specify a policy other than default"
    )]
    NodesWithoutPolicy,
    #[error("Invalid host-nodes value: {0}")]
    NodeNumber(u64),
    #[error("cannot bind memory to host NUMA nodes: {}", strerror(.0))]
    Bind(io::Error),
    #[error("preallocating memory failed: {}", strerror(.0))]
    Prealloc(io::Error),
    #[error("can't open backing store {path} for guest RAM: {}", strerror(error))]
    Open { path: String, error: io::Error },
    #[error("unable to create backing store for guest RAM: {}", strerror(.0))]
    Create(io::Error),
    #[error("can't stat backing store for guest RAM: {}", strerror(.0))]
    Stat(io::Error),
    #[error("can't resize backing store for guest RAM: {}", strerror(.0))]
    Grow(io::Error),
    #[error(
        "{name} backing store size {has:#x} is too small for 'size' option {size:#x} plus 'offset' option {offset:#x}"
    )]
    TooSmall { name: String, has: u64, size: u64, offset: u64 },
    #[error("alignment {align:#x} must be multiples of page size {page:#x}")]
    Align { align: u64, page: u64 },
    #[error("memory size {size:#x} must be equal to or larger than page size {page:#x}")]
    Page { size: u64, page: u64 },
    #[error("unable to map backing store for guest RAM: {}", strerror(&io::Error::from(*.0)))]
    MapFile(Errno),
    #[error("property 'rom' = 'on' is not supported with 'readonly' = 'off'")]
    RomNotReadOnly,
    #[error("read-only memory backends are not available in this build: use 'rom' = 'off'")]
    Rom,
    #[error("Hugepage size must be a power of 2")]
    HugePageSize,
    #[error("failed to create memfd: {}", strerror(&io::Error::from(*.0)))]
    Memfd(Errno),
    #[error("failed to resize memfd to {size}: {}", strerror(error))]
    MemfdSize { size: u64, error: io::Error },
    #[error("failed to seal memfd: {}", strerror(&io::Error::from(*.0)))]
    Seal(Errno),
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// What properties are when neither the object nor the operator says.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `-machine mem-merge`
    pub merge: bool,
    /// `-machine dump-guest-core`
    pub dump: bool,
}

/// Names of the types of backends.
pub const TYPES: [&str; 3] = ["memory-backend-file", "memory-backend-memfd", "memory-backend-ram"];

impl Backend {
    /// A backend of a type, with nothing set; `None` for other types.
    pub fn new(type_name: &str) -> Option<Self> {
        match type_name {
            "memory-backend-ram" => Some(Backend::Ram(BackendProps::default())),
            "memory-backend-file" => Some(Backend::File(FileProps::default())),
            "memory-backend-memfd" => Some(Backend::Memfd(MemfdProps::default())),
            _ => None,
        }
    }

    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Backend::Ram(_) => "memory-backend-ram",
            Backend::File(_) => "memory-backend-file",
            Backend::Memfd(_) => "memory-backend-memfd",
        }
    }

    /// What properties there are of its type.
    pub fn specs(&self) -> &'static [PropSpec] {
        match self {
            Backend::Ram(_) => BackendProps::specs(),
            Backend::File(_) => FileProps::specs(),
            Backend::Memfd(_) => MemfdProps::specs(),
        }
    }

    /// Its properties.
    pub fn props(&mut self) -> &mut dyn Props {
        match self {
            Backend::Ram(props) => props,
            Backend::File(props) => props,
            Backend::Memfd(props) => props,
        }
    }

    /// Those that all kinds have.
    pub fn common(&self) -> &BackendProps {
        match self {
            Backend::Ram(props) => props,
            Backend::File(props) => &props.common,
            Backend::Memfd(props) => &props.common,
        }
    }

    /// Those that all kinds have, to change.
    pub fn common_mut(&mut self) -> &mut BackendProps {
        match self {
            Backend::Ram(props) => props,
            Backend::File(props) => &mut props.common,
            Backend::Memfd(props) => &mut props.common,
        }
    }

    /// Whether everything that must be given is.
    pub fn check(&self) -> Result<(), BackendError> {
        if let Backend::File(props) = self
            && props.mem_path.is_none()
        {
            return Err(BackendError::Missing("mem-path"));
        }
        self.common().size.map(|_| ()).ok_or(BackendError::Missing("size"))
    }

    /// Makes the memory.
    pub fn create(&self, name: &str, defaults: Defaults) -> Result<RamBlock, BackendError> {
        self.check()?;
        let common = self.common();
        let size = common.size.unwrap_or_default().0;
        let refuse =
            |property, value| BackendError::Value { kind: self.type_name(), property, value };
        if size == 0 {
            return Err(refuse("size", 0));
        }
        if common.prealloc_threads == 0 {
            return Err(refuse("prealloc-threads", 0));
        }
        if common.prealloc && !common.reserve {
            return Err(BackendError::PreallocWithoutReserve);
        }
        common.check_nodes()?;
        let mapping = Mapping {
            share: common.share.unwrap_or(matches!(self, Backend::Memfd(_))),
            reserve: common.reserve,
            page_size: PAGE_SIZE,
        };
        let (block, mapping) = match self {
            Backend::Ram(_) => (RamBlock::without_file(name, size, &mapping)?, mapping),
            Backend::File(props) => props.map(name, size, mapping)?,
            Backend::Memfd(props) => props.map(name, size, mapping)?,
        };
        common.settle(&block, &mapping, defaults)?;
        Ok(block)
    }
}

impl BackendProps {
    fn check_nodes(&self) -> Result<(), BackendError> {
        if let Some(&node) = self.host_nodes.0.iter().find(|&&node| node >= MAX_HOST_NODES) {
            return Err(BackendError::NodeNumber(node));
        }
        match (self.policy, self.host_nodes.0.is_empty()) {
            (HostMemPolicy::Default, false) => Err(BackendError::NodesWithoutPolicy),
            (HostMemPolicy::Default, true) | (_, false) => Ok(()),
            (policy, true) => Err(BackendError::NodesNeeded(policy.as_str())),
        }
    }

    /// Tells the host how to treat the memory. Advice may be ignored, binding and preallocation not.
    fn settle(
        &self,
        block: &RamBlock,
        mapping: &Mapping,
        defaults: Defaults,
    ) -> Result<(), BackendError> {
        let advice = [
            (self.merge.unwrap_or(defaults.merge), Advice::Merge),
            (!self.dump.unwrap_or(defaults.dump), Advice::NoDump),
            (!mapping.share, Advice::NoFork),
            (mapping.page_size == PAGE_SIZE, Advice::HugePages),
        ];
        for (_, advice) in advice.into_iter().filter(|(wanted, _)| *wanted) {
            // A kernel without it does as it does.
            let _ = block.advise(advice);
        }
        if self.policy != HostMemPolicy::Default {
            let mode = match self.policy {
                HostMemPolicy::Default => 0,
                HostMemPolicy::Preferred => 1,
                HostMemPolicy::Bind => 2,
                HostMemPolicy::Interleave => 3,
            };
            let nodes = self.host_nodes.mask();
            block.bind(Binding { mode, nodes: &nodes }).map_err(BackendError::Bind)?;
        }
        if self.prealloc {
            block
                .populate(mapping.page_size as usize, self.prealloc_threads as usize)
                .map_err(BackendError::Prealloc)?;
        }
        Ok(())
    }
}

/// Files are mapped: a refusal is worded differently from that of anonymous memory.
fn map_file(
    name: &str,
    size: u64,
    file: &File,
    offset: u64,
    mapping: &Mapping,
) -> Result<RamBlock, BackendError> {
    RamBlock::from_file(name, size, file, offset, mapping).map_err(|error| match error {
        RamError::Map { source, .. } => BackendError::MapFile(source),
        other => other.into(),
    })
}

impl FileProps {
    /// The file, and whether it has just been made.
    fn open(&self, name: &str) -> Result<(File, bool), BackendError> {
        let path = self.mem_path.as_deref().ok_or(BackendError::Missing("mem-path"))?;
        let refuse = |error| BackendError::Open { path: path.into(), error };
        if Path::new(path).is_dir() {
            // A file without a name: nothing is left of it when the machine ends.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_TMPFILE)
                .mode(0o600)
                .open(path)
                .or_else(|_| unnamed(path, name))
                .map_err(BackendError::Create)?;
            return Ok((file, true));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!self.readonly);
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.readonly => {
                let file = options.create_new(true).mode(0o644).open(path).map_err(refuse)?;
                Ok((file, true))
            }
            file => Ok((file.map_err(refuse)?, false)),
        }
    }

    fn map(
        &self,
        name: &str,
        size: u64,
        mut mapping: Mapping,
    ) -> Result<(RamBlock, Mapping), BackendError> {
        match (self.readonly, self.rom) {
            (false, OnOffAuto::On) => return Err(BackendError::RomNotReadOnly),
            (true, OnOffAuto::On | OnOffAuto::Auto) => return Err(BackendError::Rom),
            _ => {}
        }
        let (file, new) = self.open(name)?;
        mapping.page_size = page_size(&file);
        // Stores stay with the guest if the file is not to be written.
        mapping.share &= !self.readonly;
        let (page, align, offset) = (mapping.page_size, self.align.0, self.offset.0);
        if !align.is_multiple_of(page) {
            return Err(BackendError::Align { align, page });
        }
        if size < page {
            return Err(BackendError::Page { size, page });
        }
        let has = file.metadata().map_err(BackendError::Stat)?.len();
        let needed = size.checked_next_multiple_of(page).and_then(|size| size.checked_add(offset));
        let needed = needed.ok_or_else(|| RamError::Size(name.into()))?;
        if new || has == 0 {
            file.set_len(needed).map_err(BackendError::Grow)?;
        } else if has < size.saturating_add(offset) {
            return Err(BackendError::TooSmall { name: name.into(), has, size, offset });
        }
        let mut block = map_file(name, size, &file, offset, &mapping)?;
        if self.discard_data && mapping.share {
            block.discard_at_end();
        }
        Ok((block, mapping))
    }
}

/// For file systems without `O_TMPFILE`, hugetlbfs of old kernels among them.
fn unnamed(dir: &str, name: &str) -> io::Result<File> {
    let plain: String = name.chars().map(|c| if c == '/' { '_' } else { c }).collect();
    let path = Path::new(dir).join(format!("qemu_back_mem.{plain}.{}", std::process::id()));
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Size of the pages that a file is mapped by.
fn page_size(file: &File) -> u64 {
    match fstatfs(file) {
        Ok(stat) if stat.filesystem_type() == HUGETLBFS_MAGIC => {
            u64::try_from(stat.block_size()).unwrap_or(PAGE_SIZE)
        }
        _ => PAGE_SIZE,
    }
}

impl MemfdProps {
    fn map(
        &self,
        name: &str,
        size: u64,
        mut mapping: Mapping,
    ) -> Result<(RamBlock, Mapping), BackendError> {
        let huge = self.hugetlbsize.0;
        if huge != 0 && !huge.is_power_of_two() {
            return Err(BackendError::HugePageSize);
        }
        let mut flags = MFdFlags::MFD_CLOEXEC;
        flags.set(MFdFlags::MFD_ALLOW_SEALING, self.seal);
        if self.hugetlb {
            // The size's logarithm is part of the flags; zero stands for the host's default.
            let log = if huge == 0 { 0 } else { huge.trailing_zeros() };
            flags |= MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(log << 26);
        }
        let file: File = memfd_create(format!("memory-backend-memfd-{name}").as_str(), flags)
            .map_err(BackendError::Memfd)?
            .into();
        file.set_len(size).map_err(|error| BackendError::MemfdSize { size, error })?;
        if self.seal {
            let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(BackendError::Seal)?;
        }
        mapping.page_size = page_size(&file);
        Ok((map_file(name, size, &file, 0, &mapping)?, mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::props::PropInput;

    const DEFAULTS: Defaults = Defaults { merge: true, dump: true };

    fn backend(kind: &str, props: &str) -> Result<Backend, String> {
        let mut backend = Backend::new(&format!("memory-backend-{kind}")).unwrap();
        for pair in props.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap();
            let owner = backend.type_name();
            backend
                .props()
                .set(owner, key, PropInput::Text(value))
                .map_err(|error| error.to_string())?;
        }
        Ok(backend)
    }

    fn create(kind: &str, props: &str) -> Result<RamBlock, String> {
        backend(kind, props)?.create("m", DEFAULTS).map_err(|error| error.to_string())
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults() {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("small");
        std::fs::write(&small, [0; 4096]).unwrap();
        let small = format!("size=1M,mem-path={}", small.display());
        for (kind, props, message) in [
            ("ram", "", "Parameter 'size' is missing"),
            ("ram", "size=0", "property 'size' of memory-backend-ram doesn't take value '0'"),
            ("file", "size=1M", "Parameter 'mem-path' is missing"),
            (
                "ram",
                "size=1M,prealloc-threads=0",
                "property 'prealloc-threads' of memory-backend-ram doesn't take value '0'",
            ),
            ("ram", "size=1M,policy=foo", "Parameter 'policy' does not accept value 'foo'"),
            ("ram", "size=1M,policy=bind", "host-nodes must be set for policy bind"),
            (
                "ram",
                "size=1M,host-nodes=0",
                "host-nodes must be empty for policy default, or you should explicitly specify a policy other than default",
            ),
            ("ram", "size=1M,host-nodes=500,policy=bind", "Invalid host-nodes value: 500"),
            (
                "ram",
                "size=1M,reserve=off,prealloc=on",
                "'prealloc=on' and 'reserve=off' are incompatible",
            ),
            ("ram", "size=1000T", "cannot set up guest memory 'm': Cannot allocate memory"),
            ("memfd", "size=2M,hugetlb=on,hugetlbsize=3M", "Hugepage size must be a power of 2"),
            (
                "file",
                "size=1M,mem-path=/nonexistent/a",
                "can't open backing store /nonexistent/a for guest RAM: No such file or directory",
            ),
            (
                "file",
                "size=1M,mem-path=/tmp,rom=on",
                "property 'rom' = 'on' is not supported with 'readonly' = 'off'",
            ),
            (
                "file",
                "size=1M,mem-path=/tmp,align=3",
                "alignment 0x3 must be multiples of page size 0x1000",
            ),
            (
                "file",
                &small,
                "m backing store size 0x1000 is too small for 'size' option 0x100000 plus 'offset' option 0x0",
            ),
        ] {
            assert_eq!(create(kind, props).map(|_| ()), Err(message.into()), "{kind} {props}");
        }
    }

    #[test]
    fn shared_files_keep_what_is_stored_and_private_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let props = format!("size=64k,offset=4k,mem-path={}", path.display());
        let block = create("file", &format!("{props},share=on")).unwrap();
        block.write(0x10, b"stored");
        let block = create("file", &props).unwrap();
        block.write(0x20, b"lost");
        drop(block);
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len(), 0x1_1000);
        assert_eq!(&content[0x1010..0x1016], b"stored");
        assert_eq!(&content[0x1020..0x1024], [0; 4]);
    }

    #[test]
    fn discarded_data_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let props = format!("size=64k,share=on,discard-data=on,mem-path={}", path.display());
        create("file", &props).unwrap().write(0, b"secret");
        assert_eq!(std::fs::read(&path).unwrap(), vec![0; 0x1_0000]);
    }

    #[test]
    fn a_directory_is_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        let block = create("file", &format!("size=64k,mem-path={}", dir.path().display())).unwrap();
        block.write(0, b"x");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_kind_is_zeroed_and_writable() {
        for (kind, props) in [
            ("ram", "size=1M,prealloc=on,prealloc-threads=3"),
            ("ram", "size=5000,share=on,dump=off,merge=off"),
            ("memfd", "size=1M,prealloc=on"),
            ("memfd", "size=1M,seal=off,share=off"),
        ] {
            let block = create(kind, props).unwrap();
            assert_eq!(block.read_uint(block.len() - 8, 8), 0);
            block.write_uint(block.len() - 8, 8, 0x1234);
            assert_eq!(block.read_uint(block.len() - 8, 8), 0x1234, "{kind} {props}");
        }
    }

    #[test]
    fn node_lists() {
        let nodes = |text| backend("ram", &format!("host-nodes={text}"));
        let Ok(Backend::Ram(mut props)) = nodes("1-3") else { panic!("not understood") };
        props.host_nodes.extend(HostNodes(vec![64]));
        assert_eq!(props.host_nodes.mask(), [0b1110, 1]);
        for text in ["", "a", "3-1", "0-99999999"] {
            assert!(nodes(text).is_err(), "{text}");
        }
    }
}
