//! Nodes of the graph, and who may do what with them.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::backend::{Event, EventSink};
use crate::copy_on_read::Copier;
use crate::dirty::Bitmaps;
use crate::driver::{Breakpoints, Driver, Extent, Io, Packed, Preallocation, VmState, ZeroFlags};
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

/// A set of permissions on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read, and see a guest's view at one moment.
    pub const CONSISTENT_READ: Self = Self(1);
    /// Change the contents.
    pub const WRITE: Self = Self(2);
    /// Write what is already there.
    pub const WRITE_UNCHANGED: Self = Self(4);
    /// Change the length.
    pub const RESIZE: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of the other is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Each permission in it: its number and its name.
    pub fn each(self) -> impl Iterator<Item = (usize, &'static str)> {
        Self::NAMES.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0)
    }

    /// The names, with commas.
    pub fn names(self) -> String {
        self.each().map(|(_, name)| name).collect::<Vec<_>>().join(", ")
    }
}

/// What a parent does with a node, and lets other parents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Needed.
    pub needs: Permissions,
    /// Let to others.
    pub shares: Permissions,
}

impl Claim {
    /// For somebody who only reads: others may write only what is there already.
    pub const READER: Self = Self {
        needs: Permissions::CONSISTENT_READ,
        shares: Permissions::CONSISTENT_READ.with(Permissions::WRITE_UNCHANGED),
    };
    /// For the only writer, who may also change the length.
    pub const WRITER: Self = Self {
        needs: Permissions::CONSISTENT_READ.with(Permissions::WRITE).with(Permissions::RESIZE),
        shares: Permissions::CONSISTENT_READ.with(Permissions::WRITE_UNCHANGED),
    };
    /// For somebody who only holds it.
    pub const HOLDER: Self = Self { needs: Permissions::NONE, shares: Permissions::ALL };
    /// For somebody who looks at an image that is in use.
    pub const ONLOOKER: Self =
        Self { needs: Permissions::CONSISTENT_READ, shares: Permissions::ALL };

    /// For a format that keeps tables in its file, whoever uses the format.
    pub fn tables(read_only: bool) -> Self {
        let changes = Permissions::WRITE.with(Permissions::RESIZE);
        let reads = Permissions::CONSISTENT_READ;
        let needs = if read_only { reads } else { reads.with(changes) };
        Self { needs, shares: Permissions::ALL.without(changes) }
    }

    /// Both claims at once.
    pub const fn with(self, other: Self) -> Self {
        Self { needs: self.needs.with(other.needs), shares: self.shares.and(other.shares) }
    }
}

/// The place of a child under its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The bytes of the image itself.
    File,
    /// What shows where the image has nothing.
    Backing,
    /// The guest's bytes, where the image keeps them apart.
    Data,
    /// A further file with a part of the disk (`extents.0`).
    Extent(usize),
    /// What a filter looks through to.
    Image,
    /// What a filter compares it with (`blkverify`).
    Test,
    /// What it is compared with.
    Raw,
    /// A device, a job, an export, a tool.
    User,
}

impl Role {
    /// The name in `-blockdev`.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::File => "file",
            Self::Backing => "backing",
            Self::Data => "data-file",
            Self::Extent(index) => return Cow::Owned(format!("extents.{index}")),
            Self::Image => "image",
            Self::Test => "test",
            Self::Raw => "raw",
            Self::User => "root",
        })
    }
}

/// Whether writes are looked at for zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are not.
    #[default]
    Off,
    /// Zeroes are written as such.
    On,
    /// And may give up their storage.
    Unmap,
}

impl DetectZeroes {
    /// Takes what is said of it; `discards`: whether the node passes discards on.
    pub(crate) fn take(options: &mut Options, discards: bool) -> Result<Self> {
        match options.text("detect-zeroes").as_deref() {
            None | Some("off") => Ok(Self::Off),
            Some("on") => Ok(Self::On),
            Some("unmap") if discards => Ok(Self::Unmap),
            Some("unmap") => Err(Error::invalid(
                "setting detect-zeroes to unmap is not allowed without setting discard operation \
                 to unmap",
            )),
            Some(other) => Err(Error::invalid(format!("invalid parameter value: {other}"))),
        }
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Unmap => "unmap",
        }
    }
}

/// How a node treats requests, as the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Discards are passed on (`discard=unmap`); else they are dropped.
    pub discard: bool,
    /// Whether writes are looked at for zeroes.
    pub detect_zeroes: DetectZeroes,
    /// Flushes are dropped (`cache.no-flush`).
    pub no_flush: bool,
    /// The host's cache is passed by (`cache.direct`).
    pub direct: bool,
    /// Others may do with its files what they like (`force-share`).
    pub force_share: bool,
    /// What is read from backing files is kept (`copy-on-read`).
    pub copy_on_read: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            discard: true,
            detect_zeroes: DetectZeroes::Off,
            no_flush: false,
            direct: false,
            force_share: false,
            copy_on_read: false,
        }
    }
}

struct Parent {
    id: u64,
    name: String,
    role: Role,
    /// What the parent wants for itself, and what follows from the use made of it.
    claim: Claim,
}

impl Parent {
    fn describe(&self, node: &Node) -> String {
        format!("{} (uses node '{}' as '{}' child)", self.name, node.name, self.role.name())
    }
}

/// A driver with a name, and the list of those who use it.
pub struct Node {
    name: String,
    filename: RwLock<String>,
    read_only: AtomicBool,
    manner: RwLock<Manner>,
    driver: Box<dyn Driver>,
    /// All but what backs it: they stay as long as the node.
    children: Vec<(Role, Arc<Child>)>,
    backing: RwLock<Option<Arc<Child>>>,
    /// What was said of it when it was opened.
    said: OnceLock<Options>,
    parents: Mutex<Vec<Parent>>,
    threshold: Threshold,
    copier: Copier,
    pub(crate) bitmaps: Bitmaps,
    /// How often its content has changed, and how much of that is known to last.
    changes: AtomicU64,
    lasting: AtomicU64,
    /// The node is at least so long: what is inside needs no system call to be told so.
    known_len: AtomicU64,
}

/// The offset that writes stay below, else somebody is told, once.
#[derive(Default)]
struct Threshold {
    /// 0: there is none.
    offset: AtomicU64,
    events: OnceLock<Arc<dyn EventSink>>,
}

/// A parent's hold on a node. The claim ends when it is dropped.
pub struct Child {
    node: Arc<Node>,
    id: u64,
    /// What the parent wants, whatever use is made of it.
    base: Mutex<Claim>,
}

impl std::ops::Deref for Child {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.node.parents.lock().retain(|parent| parent.id != self.id);
        // To need less is always granted.
        let _ = self.node.update();
    }
}

impl Child {
    /// Exchanges the claim; returns the one before.
    fn exchange(&self, claim: Claim) -> Option<Claim> {
        let mut parents = self.node.parents.lock();
        let parent = parents.iter_mut().find(|parent| parent.id == self.id)?;
        Some(std::mem::replace(&mut parent.claim, claim))
    }

    /// Claims this at least, whatever use is made of the parent.
    pub fn require(&mut self, base: Claim) -> Result<()> {
        *self.base.get_mut() = base;
        self.change(base)
    }

    /// The parent, which may keep tables here, is written from now on, or no longer.
    fn follow(&self, writable: bool) {
        let mut base = self.base.lock();
        if *base == Claim::tables(writable) {
            *base = Claim::tables(!writable);
        }
    }

    /// Claims something else. If that conflicts with somebody else's use, all stays as it was.
    pub fn change(&self, claim: Claim) -> Result<()> {
        let before = self.exchange(claim);
        let result = self.node.update();
        if let (Err(_), Some(before)) = (&result, before) {
            self.exchange(before);
            // It was granted before.
            let _ = self.node.update();
        }
        result
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Bytes that a node's name may have.
const MAX_NAME: usize = 31;

/// Refuses what is no name for a node.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if base::options::check_id(name).is_err() {
        return Err(Error::invalid(format!("Invalid node-name: '{name}'")));
    }
    if name.len() > MAX_NAME {
        return Err(Error::invalid("Node name too long"));
    }
    Ok(())
}

/// Names like QEMU's: a running number and two random digits, so that nobody relies on them.
pub(crate) fn generated_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish() % 100;
    format!("#block{}{random:02}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Node {
    /// A node over a driver. Without a name it gets one as QEMU gives them (`#block123`).
    pub fn new(
        name: Option<String>,
        filename: &str,
        read_only: bool,
        driver: Box<dyn Driver>,
        children: Vec<(Role, Child)>,
    ) -> Arc<Self> {
        Self::with_manner(name, filename, read_only, Manner::default(), driver, children)
    }

    /// The same, treating requests in its own manner.
    pub fn with_manner(
        name: Option<String>,
        filename: &str,
        read_only: bool,
        manner: Manner,
        driver: Box<dyn Driver>,
        children: Vec<(Role, Child)>,
    ) -> Arc<Self> {
        let name = name.unwrap_or_else(generated_name);
        let parents = Mutex::new(Vec::new());
        let (filename, manner) = (RwLock::new(filename.to_owned()), RwLock::new(manner));
        let read_only = AtomicBool::new(read_only);
        let children = children.into_iter().map(|(role, child)| (role, Arc::new(child)));
        let (mut backing, children): (Vec<_>, _) =
            children.partition(|(role, _)| *role == Role::Backing);
        Arc::new(Self {
            name,
            filename,
            read_only,
            manner,
            driver,
            children,
            backing: RwLock::new(backing.pop().map(|(_, child)| child)),
            said: OnceLock::new(),
            parents,
            threshold: Threshold::default(),
            copier: Copier::default(),
            bitmaps: Bitmaps::default(),
            changes: AtomicU64::new(0),
            lasting: AtomicU64::new(0),
            known_len: AtomicU64::new(0),
        })
    }

    /// How it treats requests.
    pub fn manner(&self) -> Manner {
        *self.manner.read()
    }

    /// Has it treat requests in another manner from now on.
    pub fn set_manner(&self, manner: Manner) {
        *self.manner.write() = manner;
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its file.
    pub fn filename(&self) -> String {
        self.filename.read().clone()
    }

    /// Has it named otherwise from now on: something else backs it.
    pub(crate) fn set_filename(&self, filename: &str) {
        filename.clone_into(&mut self.filename.write());
    }

    /// The name of the file at the bottom, below formats and filters.
    pub fn location(&self) -> String {
        match self.fixed_child(Role::File).or_else(|| self.fixed_child(Role::Image)) {
            Some(below) => below.location(),
            None => self.filename(),
        }
    }

    /// What was said of it when it was opened, if anything was.
    pub(crate) fn said(&self) -> Option<&Options> {
        self.said.get()
    }

    /// Keeps what was said of it.
    pub(crate) fn remember(&self, said: Options) {
        // It is opened once.
        let _ = self.said.set(said);
    }

    /// Whether it refuses to be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// From now on it refuses to be written.
    pub fn set_read_only(&self) {
        self.read_only.store(true, Ordering::Release);
    }

    /// From now on it can be written, or no longer; so can the files below it, but not what backs it.
    pub fn set_writable(&self, writable: bool) -> Io<'_, ()> {
        Box::pin(async move {
            if self.is_read_only() != writable {
                return Ok(());
            }
            if !writable {
                self.set_own_writable(false).await?;
            }
            for (_, child) in &self.children {
                child.set_writable(writable).await?;
            }
            if writable {
                self.set_own_writable(true).await?;
            }
            Ok(())
        })
    }

    /// The same without the files below it.
    pub async fn set_own_writable(&self, writable: bool) -> Result<()> {
        let refused = || Err(Error::new(libc::EACCES, "Block node is read-only"));
        if writable {
            if self.fixed_child(Role::File).is_some_and(|file| file.is_read_only()) {
                return refused();
            }
            self.driver.set_writable(true).await?;
            self.read_only.store(false, Ordering::Release);
            self.holds().iter().for_each(|(_, child)| child.follow(true));
            return self.update().inspect_err(|_| self.set_read_only());
        }
        if self.cumulative()?.needs.contains(Permissions::WRITE) {
            let name = &self.name;
            let text = format!("Read-only block node '{name}' cannot support read-write users");
            return Err(Error::new(libc::EACCES, text));
        }
        self.driver.close().await?;
        self.driver.set_writable(false).await?;
        self.set_read_only();
        self.holds().iter().for_each(|(_, child)| child.follow(false));
        self.update()
    }

    /// Lets somebody write what backs this node, until the result is dropped and
    /// [`Self::reclaim_backing`] called.
    pub fn yield_backing(&self, to: &str) -> Result<Child> {
        let missing = || Error::from_errno(libc::ENOTSUP);
        let child = self.backing.read().clone().ok_or_else(missing)?;
        child.exchange(Claim::HOLDER);
        let writer = child.node.attach(to, Role::User, Claim::WRITER);
        if writer.is_err() {
            self.update()?;
        }
        writer
    }

    /// Ends [`Self::yield_backing`].
    pub fn reclaim_backing(&self) -> Result<()> {
        self.update()
    }

    /// Its driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The child in a role.
    pub fn child(&self, role: Role) -> Option<Arc<Node>> {
        match role {
            Role::Backing => self.backing.read().as_ref().map(|child| child.node.clone()),
            role => self.fixed_child(role).cloned(),
        }
    }

    /// The same for those that stay.
    fn fixed_child(&self, role: Role) -> Option<&Arc<Node>> {
        self.children.iter().find(|(at, _)| *at == role).map(|(_, child)| &child.node)
    }

    /// All children, in the order in which they were attached; what backs it comes last.
    pub fn children(&self) -> Vec<(Role, Arc<Node>)> {
        self.holds().into_iter().map(|(role, child)| (role, child.node.clone())).collect()
    }

    fn holds(&self) -> Vec<(Role, Arc<Child>)> {
        let backing = self.backing.read().clone().map(|child| (Role::Backing, child));
        self.children.iter().cloned().chain(backing).collect()
    }

    /// Whether a node is this one, or below it.
    pub fn reaches(&self, node: &Node) -> bool {
        std::ptr::eq(self, node) || self.children().iter().any(|(_, child)| child.reaches(node))
    }

    /// From now on another node shows where this one has nothing, or none. Nothing may be in flight.
    pub fn set_backing(&self, node: Option<&Arc<Node>>) -> Result<()> {
        let holder = format!("node '{}'", self.name);
        let attach = |node: &Arc<Node>| node.attach(&holder, Role::Backing, Claim::HOLDER);
        let new = node.map(attach).transpose()?.map(Arc::new);
        self.driver.set_backing(node)?;
        let old = std::mem::replace(&mut *self.backing.write(), new);
        let claimed = self.update();
        if claimed.is_err() {
            self.driver.set_backing(old.as_ref().map(|child| &child.node))?;
            let new = std::mem::replace(&mut *self.backing.write(), old);
            drop(new);
            self.update()?;
        }
        claimed
    }

    /// The offset that writes stay below, or 0.
    pub fn write_threshold(&self) -> u64 {
        self.threshold.offset.load(Ordering::Relaxed)
    }

    /// Has the first write that goes beyond an offset told; 0 for none.
    pub fn set_write_threshold(&self, offset: u64, events: &Arc<dyn EventSink>) {
        self.threshold.events.get_or_init(|| events.clone());
        self.threshold.offset.store(offset, Ordering::Relaxed);
    }

    fn watch_threshold(&self, end: u64) {
        let threshold = self.write_threshold();
        if threshold == 0 || end <= threshold {
            return;
        }
        let offset = &self.threshold.offset;
        let mine = offset.compare_exchange(threshold, 0, Ordering::Relaxed, Ordering::Relaxed);
        if let (Ok(_), Some(events)) = (mine, self.threshold.events.get()) {
            let (node, exceeded) = (self.name.clone(), end - threshold);
            events.tell(Event::WriteThreshold { node, exceeded, threshold });
        }
    }

    /// Takes a hold on the node, unless that conflicts with somebody else's. `name` is what messages
    /// call the parent.
    pub fn attach(self: &Arc<Self>, name: &str, role: Role, claim: Claim) -> Result<Child> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.parents.lock().push(Parent { id, name: name.to_owned(), role, claim });
        let child = Child { node: self.clone(), id, base: Mutex::new(claim) };
        // On failure the child is dropped, which takes everything back.
        self.update()?;
        Ok(child)
    }

    /// Whether anybody holds it, other than by a plain reference.
    pub fn is_used(&self) -> bool {
        !self.parents.lock().is_empty()
    }

    /// Who holds it: names and roles.
    pub fn parents(&self) -> Vec<(String, Role)> {
        self.parents.lock().iter().map(|parent| (parent.name.clone(), parent.role)).collect()
    }

    /// What all parents together do and let others do; refused if they exclude each other.
    fn cumulative(&self) -> Result<Claim> {
        let parents = self.parents.lock();
        for (n, newer) in parents.iter().enumerate() {
            for older in &parents[..n] {
                for (user, other) in [(older, newer), (newer, older)] {
                    let conflict = user.claim.needs.without(other.claim.shares);
                    if conflict != Permissions::NONE {
                        let text = format!(
                            "Permission conflict on node '{}': permissions '{}' are both required \
                             by {} and unshared by {}.",
                            self.name,
                            conflict.names(),
                            user.describe(self),
                            other.describe(self),
                        );
                        return Err(Error::new(libc::EPERM, text));
                    }
                }
            }
        }
        Ok(parents.iter().fold(Claim::HOLDER, |all, parent| all.with(parent.claim)))
    }

    /// Passes on what parents claim to the children and to the host. The graph is changed by one thread
    /// at a time.
    fn update(&self) -> Result<()> {
        let mut above = self.cumulative()?;
        if above.needs.contains(Permissions::WRITE) && self.is_read_only() {
            return Err(Error::new(libc::EACCES, "Block node is read-only"));
        }
        if self.manner().force_share {
            above.shares = Permissions::ALL;
        }
        self.driver.set_claim(above)?;
        for (role, child) in self.holds() {
            let below =
                self.driver.child_claim(role, above, self.is_read_only()).with(*child.base.lock());
            let Some(before) = child.exchange(below).filter(|before| *before != below) else {
                continue;
            };
            if let Err(error) = child.node.update() {
                child.exchange(before);
                let _ = child.node.update();
                // The children before this one follow when the parent's claim is taken back.
                return Err(error);
            }
        }
        Ok(())
    }

    fn check(&self, at: u64, len: u64) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.known_len.load(Ordering::Relaxed) => Ok(()),
            Some(end) if end <= self.ask_len()? => Ok(()),
            _ => Err(Error::from_errno(libc::EIO)),
        }
    }

    /// The length may be another one now.
    pub(crate) fn forget_len(&self) {
        self.known_len.store(0, Ordering::Relaxed);
    }

    fn ask_len(&self) -> Result<u64> {
        let len = self.driver.len()?;
        self.known_len.store(len, Ordering::Relaxed);
        Ok(len)
    }

    fn check_write(&self) -> Result<()> {
        if self.is_read_only() { Err(Error::from_errno(libc::EPERM)) } else { Ok(()) }
    }

    /// The length in bytes.
    pub fn len(&self) -> Result<u64> {
        self.driver.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads, inside the node.
    pub fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check(at, into.len() as u64)?;
            if self.manner().copy_on_read && !self.is_read_only() {
                return self.copier.read(self, at, into).await;
            }
            self.driver.read(at, into).await
        })
    }

    /// Reads metadata that must be there, as bytes.
    pub async fn read_bytes(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let into = Vector::zeroed(len);
        self.driver.read(at, into.clone()).await?;
        Ok(into.to_vec())
    }

    /// Writes inside the node. A protocol node grows; others refuse what is beyond their end.
    pub fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.watch_threshold(at.saturating_add(from.len() as u64));
            let Manner { detect_zeroes: detect, discard, .. } = self.manner();
            if detect != DetectZeroes::Off && from.is_zero() {
                let flags = ZeroFlags { unmap: detect == DetectZeroes::Unmap && discard };
                let len = from.len() as u64;
                return self.changed(at, len, self.driver.write_zeroes(at, len, flags)).await;
            }
            self.changed(at, from.len() as u64, self.driver.write(at, from)).await
        })
    }

    /// A request that changes a range, whatever comes of it.
    async fn changed(&self, at: u64, len: u64, request: Io<'_, ()>) -> Result<()> {
        let _order = match self.manner().copy_on_read {
            true => Some(self.copier.writing().await),
            false => None,
        };
        let result = request.await;
        self.bitmaps.note(at..at.saturating_add(len));
        self.changes.fetch_add(1, Ordering::Release);
        result
    }

    /// Writes clusters, compressed.
    pub fn write_compressed(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let unit = self.driver.cluster_size().map_or(from.len(), |size| size as usize);
            let whole = from.len().is_multiple_of(unit.max(1));
            if !whole && at.checked_add(from.len() as u64) != Some(self.len()?) {
                return Err(Error::from_errno(libc::EINVAL));
            }
            for start in (0..from.len()).step_by(unit.max(1)) {
                let part = from.slice(start, unit.min(from.len() - start));
                let packed = self.driver.pack(&part)?;
                self.write_packed(at + start as u64, part, packed).await?;
            }
            Ok(())
        })
    }

    /// Writes one cluster that the driver has packed.
    pub fn write_packed(&self, at: u64, from: Vector, packed: Packed) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.check(at, from.len() as u64)?;
            self.changed(at, from.len() as u64, self.driver.write_packed(at, from, packed)).await
        })
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.watch_threshold(at.saturating_add(len));
            let flags = ZeroFlags { unmap: flags.unmap && self.manner().discard };
            self.changed(at, len, self.driver.write_zeroes(at, len, flags)).await
        })
    }

    /// Gives storage back.
    pub fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.check(at, len)?;
            match self.manner().discard {
                true => self.changed(at, len, self.driver.discard(at, len)).await,
                false => Ok(()),
            }
        })
    }

    /// What was acknowledged survives a power cut.
    pub fn flush(&self) -> Io<'_, ()> {
        if self.is_read_only() || self.manner().no_flush {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            let changes = self.changes.load(Ordering::Acquire);
            let lasting = self.lasting.load(Ordering::Acquire) == changes;
            if lasting && !self.driver.keeps_changes() {
                return Ok(());
            }
            self.driver.flush().await?;
            self.lasting.fetch_max(changes, Ordering::Release);
            Ok(())
        })
    }

    /// Ends the use of an image: nothing stays in memory only.
    pub fn close(&self) -> Io<'_, ()> {
        if self.is_read_only() {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.driver.close()
    }

    /// Sets the length.
    pub fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            let changed = self.changed(len, 0, self.driver.truncate(len, preallocation)).await;
            self.forget_len();
            changed
        })
    }

    /// Something is about to be done to this file: a filter for tests may fail what follows, or hold it.
    pub async fn event(&self, event: &str) {
        if let Some(points) = self.driver.breakpoints() {
            points.reach(event).await;
        }
    }

    /// Where the state of a machine is stored, in this node or the image below it.
    pub fn vm_state(&self) -> Option<&dyn VmState> {
        let below =
            || self.fixed_child(Role::File).or_else(|| self.fixed_child(Role::Image))?.vm_state();
        self.driver.vm_state().or_else(below)
    }

    /// Where requests can be held, in this node or the files below it.
    pub fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        self.driver.breakpoints().or_else(|| self.fixed_child(Role::File)?.breakpoints())
    }

    /// What is known of a range, looking through backing files.
    pub fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(async move {
            let mut extent = self.driver.status(at, len).await?;
            if extent.allocated {
                return Ok(extent);
            }
            let Some(backing) = self.child(Role::Backing) else {
                return Ok(extent);
            };
            let behind = backing.len()?.saturating_sub(at);
            if behind == 0 {
                extent.zero = true;
                return Ok(extent);
            }
            let mut below = backing.status(at, extent.len.min(behind)).await?;
            below.depth += 1;
            Ok(below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Inline;
    use crate::file::{Access, HostFile};

    #[test]
    fn a_second_writer_is_refused_until_the_first_has_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let driver = HostFile::open(path, Access::default(), Arc::new(Inline)).unwrap();
        let node = Node::new(Some("n".into()), path, false, Box::new(driver), Vec::new());
        let first = node.attach("device a", Role::User, Claim::WRITER).unwrap();
        let error = node.attach("device b", Role::User, Claim::WRITER).err().unwrap();
        assert_eq!(
            error.to_string(),
            "Permission conflict on node 'n': permissions 'write, resize' are both required by \
             device a (uses node 'n' as 'root' child) and unshared by device b (uses node 'n' as \
             'root' child)."
        );
        let error = node.attach("device c", Role::User, Claim::READER).err().unwrap();
        assert!(error.to_string().contains("and unshared by device c"), "{error}");
        node.attach("looker", Role::User, Claim::ONLOOKER).unwrap();
        drop(first);
        node.attach("device b", Role::User, Claim::WRITER).unwrap();
    }

    /// A raw node claims of its file what is claimed of itself, and the file is locked accordingly.
    #[test]
    fn claims_reach_the_host() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let open = || {
            let driver = HostFile::open(path, Access::default(), Arc::new(Inline)).unwrap();
            let node = Node::new(None, path, false, Box::new(driver), Vec::new());
            let raw = crate::raw::Raw::new(node.clone(), 0, None).unwrap();
            let child = node.attach("node 'r'", Role::File, Claim::HOLDER).unwrap();
            Node::new(Some("r".into()), path, false, Box::new(raw), vec![(Role::File, child)])
        };
        let (one, two) = (open(), open());
        let writer = one.attach("device a", Role::User, Claim::WRITER).unwrap();
        let error = two.attach("device b", Role::User, Claim::WRITER).err().unwrap();
        let text =
            format!("Failed to get \"write\" lock\nIs another process using the image [{path}]?");
        assert_eq!(error.to_string(), text);
        assert!(two.attach("device b", Role::User, Claim::READER).is_err());
        drop(writer);
        let reader = two.attach("device b", Role::User, Claim::READER).unwrap();
        assert!(one.attach("device a", Role::User, Claim::WRITER).is_err());
        drop(reader);
        one.attach("device a", Role::User, Claim::WRITER).unwrap();
    }
}
