//! What `blockdev-create` makes: a file, or a format in a node that is there.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::driver::Preallocation;
use crate::engine::block_on;
use crate::formats::{parallels, qcow1, vdi, vhdx, vmdk, vpc};
use crate::graph::Graph;
use crate::luks::{self, LuksOptions};
use crate::node::{Claim, Node, Role};
use crate::open::{OpenOptions, create_file, full_backing_name, open, open_tree};
use crate::options::Options;
use crate::qcow2::{self, Compression, CreateOptions, NewEncryption};
use crate::{Error, Result};

/// How a node that is being filled is held.
const HOLDER: &str = "job 'create'";

/// The longest that a node can be: whole gigabytes, in 63 bits.
const MAX_LENGTH: u64 = i64::MAX as u64 >> 30 << 30;

/// What is asked for; its types have been checked.
struct Wanted<'a> {
    graph: &'a Graph,
    options: Map<String, Value>,
}

/// Makes what has been checked by [`crate::schema::check_creation`].
pub fn create(graph: &Graph, options: Map<String, Value>) -> Result<()> {
    let wanted = Wanted { graph, options };
    block_on(async {
        match wanted.text("driver").unwrap_or_default() {
            "file" => wanted.file().await,
            "luks" => wanted.luks().await,
            "parallels" => wanted.parallels().await,
            "qcow" => wanted.qcow().await,
            "qcow2" => wanted.qcow2().await,
            "vdi" => wanted.vdi().await,
            "vhdx" => wanted.vhdx().await,
            "vmdk" => wanted.vmdk().await,
            "vpc" => wanted.vpc().await,
            _ => Err(Error::unsupported("Driver does not support blockdev-create")),
        }
    })
}

impl Wanted<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.options.get(key)?.as_str()
    }

    /// A number; a negative one is a large one, as in C.
    fn number(&self, key: &str) -> Option<u64> {
        let value = self.options.get(key)?;
        value.as_u64().or_else(|| value.as_i64().map(|number| number as u64))
    }

    fn is_on(&self, key: &str) -> bool {
        self.options.get(key) == Some(&Value::Bool(true))
    }

    fn size(&self) -> u64 {
        self.number("size").unwrap_or(0)
    }

    /// The same, of formats that count sectors.
    fn sectors(&self, what: &str) -> Result<u64> {
        match self.size() {
            size if size.is_multiple_of(512) => Ok(size),
            _ => Err(Error::invalid(format!("{what} must be a multiple of 512 bytes"))),
        }
    }

    /// Refuses lengths that no node can have.
    fn check_length(&self, what: &str) -> Result<()> {
        let size = self.size();
        if i64::try_from(size).is_err() {
            return Err(Error::invalid(format!("{what}Image size cannot be negative")));
        }
        if size > MAX_LENGTH {
            let text = format!("{what}offset({size}) exceeds maximum({MAX_LENGTH})");
            return Err(Error::new(libc::EIO, text));
        }
        Ok(())
    }

    fn preallocation(&self) -> Preallocation {
        match self.text("preallocation") {
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            _ => Preallocation::Off,
        }
    }

    /// The password; `before`: what messages call the group that `key-secret` is in.
    fn secret(&self, before: &str) -> Result<Vec<u8>> {
        let missing =
            || Error::invalid(format!("Parameter '{before}key-secret' is required for cipher"));
        let id = self.text("key-secret").ok_or_else(missing)?;
        Ok(self.graph.secrets().get(id)?.to_vec())
    }

    /// The node that a member names or describes.
    async fn node(&self, of: &Value) -> Result<Arc<Node>> {
        match of {
            Value::String(name) => {
                let missing = || {
                    let text = format!("Cannot find device='{name}' nor node-name='{name}'");
                    Error::invalid(text)
                };
                let node = self.graph.node(name).or_else(|| self.graph.backend(name)?.node());
                node.ok_or_else(missing)
            }
            Value::Object(tree) => {
                let options = Options::from_tree(tree.clone());
                let how = self.graph.how();
                Ok(open_tree(None, options, &how, Some(self.graph)).await?.node)
            }
            _ => Err(Error::invalid("A node is its name or its options")),
        }
    }

    /// The file that the image goes into, for as long as that takes.
    async fn target(&self) -> Result<Arc<Node>> {
        self.node(self.options.get("file").unwrap_or(&Value::Null)).await
    }

    async fn file(&self) -> Result<()> {
        let name = self.text("filename").unwrap_or_default();
        if self.number("extent-size-hint").is_some_and(|hint| u32::try_from(hint).is_err()) {
            return Err(Error::invalid("Extent size hint is too large"));
        }
        let file = create_file(name, self.graph.io().clone()).await?;
        file.truncate(self.size(), self.preallocation()).await
    }

    fn luks_options(&self) -> LuksOptions {
        let text = |key: &str| self.text(key).map(str::to_owned);
        let usual = LuksOptions::default();
        LuksOptions {
            cipher_alg: text("cipher-alg").unwrap_or(usual.cipher_alg),
            cipher_mode: text("cipher-mode").unwrap_or(usual.cipher_mode),
            ivgen_alg: text("ivgen-alg"),
            ivgen_hash_alg: text("ivgen-hash-alg"),
            hash_alg: text("hash-alg").unwrap_or(usual.hash_alg),
            iter_time: self.number("iter-time").unwrap_or(usual.iter_time),
        }
    }

    async fn luks(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let password = self.secret("")?;
        let (size, mode) = (self.size(), self.preallocation());
        luks::create(&file, &self.luks_options(), &password, size, mode).await
    }

    async fn parallels(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let cluster = self.number("cluster-size").unwrap_or(1 << 20);
        parallels::check(self.size(), cluster)?;
        let size = self.sectors("Image size")?;
        file.truncate(0, Preallocation::Off).await?;
        parallels::create(&file, size, cluster).await
    }

    async fn qcow(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let encrypt = self.part("encrypt");
        if let Some(encrypt) = &encrypt {
            encrypt.secret("encrypt.")?;
        }
        file.truncate(0, Preallocation::Off).await?;
        let backing = self.text("backing-file");
        qcow1::create(&file, self.size(), backing, encrypt.is_some()).await
    }

    /// Members of their own.
    fn part(&self, key: &str) -> Option<Wanted<'_>> {
        let options = self.options.get(key)?.as_object()?.clone();
        Some(Wanted { graph: self.graph, options })
    }

    async fn qcow2(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let data = match self.options.get("data-file") {
            Some(data) => Some(self.node(data).await?),
            None => None,
        };
        let _data_hold = match &data {
            Some(data) => Some(data.attach(HOLDER, Role::User, Claim::WRITER)?),
            None => None,
        };
        let backing = self.text("backing-file").map(str::to_owned);
        let format = self.text("backing-fmt").map(str::to_owned);
        if backing.is_none() && format.is_some() {
            return Err(Error::invalid("Backing format cannot be used without backing file"));
        }
        let encryption = match self.part("encrypt") {
            None => NewEncryption::None,
            Some(part) => {
                let password = part.secret("encrypt.")?;
                match part.text("format") {
                    Some("aes") => NewEncryption::Aes(password),
                    _ => NewEncryption::Luks(part.luks_options(), password),
                }
            }
        };
        let usual = CreateOptions::default();
        let options = CreateOptions {
            size: self.sectors("Image size")?,
            version: if self.text("version") == Some("v2") { 2 } else { 3 },
            cluster_size: self.number("cluster-size").unwrap_or(usual.cluster_size),
            refcount_bits: self.number("refcount-bits").unwrap_or(usual.refcount_bits),
            compression: match self.text("compression-type") {
                Some("zstd") => Compression::Zstd,
                _ => Compression::Zlib,
            },
            lazy_refcounts: self.is_on("lazy-refcounts"),
            extended_l2: self.is_on("extended-l2"),
            backing: backing.map(|file| (file, format)),
            data_file: data.as_ref().map(|data| data.filename()),
            data_file_raw: self.is_on("data-file-raw"),
            preallocation: self.preallocation(),
            encryption,
        };
        self.check_length("Could not resize image: ")?;
        options.header()?;
        file.truncate(0, Preallocation::Off).await?;
        qcow2::create_with_data(&file, data, &options).await
    }

    async fn vdi(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let mode = self.preallocation();
        if !matches!(mode, Preallocation::Off | Preallocation::Metadata) {
            return Err(Error::invalid("Preallocation mode not supported for vdi"));
        }
        vdi::check(self.size())?;
        file.truncate(0, Preallocation::Off).await?;
        let all = mode == Preallocation::Metadata;
        vdi::create(&file, self.size(), Preallocation::Off, all).await
    }

    async fn vhdx(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let mut options = vhdx::CreateOptions {
            size: self.size(),
            log_size: self.number("log-size").unwrap_or(1 << 20),
            block_size: self.number("block-size").unwrap_or(0),
            fixed: self.text("subformat") == Some("fixed"),
            zero_blocks: self.options.get("block-state-zero") != Some(&Value::Bool(false)),
        };
        options.check_exact()?;
        options.size = options.size.next_multiple_of(512);
        file.truncate(0, Preallocation::Off).await?;
        vhdx::create(&file, &options).await
    }

    async fn vpc(&self) -> Result<()> {
        let file = self.target().await?;
        let _hold = file.attach(HOLDER, Role::User, Claim::WRITER)?;
        let fixed = self.text("subformat") == Some("fixed");
        let exact = self.is_on("force-size");
        let too_large = |_| Error::invalid("Disk size is too large, max size is 2040 GiB");
        let sectors = vpc::sectors_for(self.size(), exact).map_err(too_large)?;
        if !exact && sectors * 512 != self.size() {
            let text = "The requested image size cannot be represented in CHS geometry";
            return Err(Error::invalid(text));
        }
        file.truncate(0, Preallocation::Off).await?;
        vpc::create(&file, self.size(), fixed, exact).await
    }

    async fn vmdk(&self) -> Result<()> {
        let file = self.target().await?;
        let hold = |node: &Arc<Node>| node.attach(HOLDER, Role::User, Claim::WRITER);
        let mut holds = vec![hold(&file)?];
        let subformat = self.text("subformat").unwrap_or("monolithicSparse").to_owned();
        let backing = self.text("backing-file");
        if subformat.ends_with("Flat") && self.is_on("zeroed-grain") {
            return Err(Error::invalid("Flat image can't enable zeroed grain"));
        }
        if subformat.ends_with("Flat") && backing.is_some() {
            return Err(Error::unsupported("Flat image can't have backing file"));
        }
        let parent = match backing {
            None => None,
            Some(backing) => {
                let how = OpenOptions { format: Some("file".into()), ..OpenOptions::default() };
                let path = full_backing_name(&file.filename(), backing);
                Some((backing.to_owned(), vmdk::cid_of(&open(&path, &how).await?.node).await?))
            }
        };
        let text = |key: &str, usual: &str| self.text(key).unwrap_or(usual).to_owned();
        let options = vmdk::CreateOptions {
            size: self.size(),
            subformat,
            adapter: text("adapter-type", "ide"),
            hardware: text("hwversion", "4"),
            tools: text("toolsversion", "2147483647"),
            zero_grains: self.is_on("zeroed-grain"),
            parent,
        };
        self.check_length("")?;
        options.check()?;
        let mut parts = options.parts(&file.filename());
        let mut files = vec![file];
        let none = Vec::new();
        let extents = self.options.get("extents").and_then(Value::as_array).unwrap_or(&none);
        for (index, part) in parts.iter_mut().skip(1).enumerate() {
            let missing = || Error::invalid(format!("Extent [{index}] not specified"));
            let node = self.node(extents.get(index).ok_or_else(missing)?).await?;
            holds.push(hold(&node)?);
            part.name = node.filename();
            files.push(node);
        }
        if extents.len() >= parts.len() {
            return Err(Error::invalid("List contains unused extents"));
        }
        for file in &files {
            file.truncate(0, Preallocation::Off).await?;
        }
        options.write(&parts, &files).await
    }
}
