//! Nodes of the graph, and who may do what with them.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
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
    /// For somebody who looks at an image that is in use.
    pub const ONLOOKER: Self =
        Self { needs: Permissions::CONSISTENT_READ, shares: Permissions::ALL };
}

/// The place of a child under its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The bytes of the image itself.
    File,
    /// What shows where the image has nothing.
    Backing,
    /// A further file with a part of the disk (`extents.0`).
    Extent(usize),
    /// What a filter looks through to.
    Image,
    /// A device, a job, an export, a tool.
    User,
}

impl Role {
    /// The name in `-blockdev`.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::File => "file",
            Self::Backing => "backing",
            Self::Extent(index) => return Cow::Owned(format!("extents.{index}")),
            Self::Image => "image",
            Self::User => "root",
        })
    }
}

struct Parent {
    id: u64,
    name: String,
    role: Role,
    claim: Claim,
}

/// A driver with a name, and the list of those who use it.
pub struct Node {
    name: String,
    filename: String,
    read_only: bool,
    driver: Box<dyn Driver>,
    children: Vec<(Role, Child)>,
    parents: Mutex<Vec<Parent>>,
}

/// A parent's hold on a node. The claim ends when it is dropped.
pub struct Child {
    node: Arc<Node>,
    id: u64,
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
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Node {
    /// A node over a driver. Without a name it gets one as QEMU gives them (`#block123`).
    pub fn new(
        name: Option<String>,
        filename: &str,
        read_only: bool,
        driver: Box<dyn Driver>,
        children: Vec<(Role, Child)>,
    ) -> Arc<Self> {
        let name =
            name.unwrap_or_else(|| format!("#block{:03}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let parents = Mutex::new(Vec::new());
        let filename = filename.to_owned();
        Arc::new(Self { name, filename, read_only, driver, children, parents })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its file.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// Whether it refuses to be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Its driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The child in a role.
    pub fn child(&self, role: Role) -> Option<&Arc<Node>> {
        self.children.iter().find(|(at, _)| *at == role).map(|(_, child)| &child.node)
    }

    /// All children, in the order in which they were attached.
    pub fn children(&self) -> impl Iterator<Item = (Role, &Arc<Node>)> {
        self.children.iter().map(|(role, child)| (*role, &child.node))
    }

    /// Takes a hold on the node, unless that conflicts with somebody else's.
    pub fn attach(self: &Arc<Self>, name: &str, role: Role, claim: Claim) -> Result<Child> {
        if claim.needs.contains(Permissions::WRITE) && self.read_only {
            return Err(Error::new(libc::EACCES, "Block node is read-only"));
        }
        let mut parents = self.parents.lock();
        for other in parents.iter() {
            let refused = claim.needs.without(other.claim.shares);
            let disturbed = other.claim.needs.without(claim.shares);
            for (conflict, verb) in [(refused, "does not allow"), (disturbed, "uses")] {
                if conflict != Permissions::NONE {
                    return Err(Error::new(
                        libc::EPERM,
                        format!(
                            "Conflicts with use by {} as '{}', which {verb} '{}' on {}",
                            other.name,
                            other.role.name(),
                            conflict.names(),
                            self.name
                        ),
                    ));
                }
            }
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        parents.push(Parent { id, name: name.to_owned(), role, claim });
        Ok(Child { node: self.clone(), id })
    }

    fn check(&self, at: u64, len: u64) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.driver.len()? => Ok(()),
            _ => Err(Error::from_errno(libc::EIO)),
        }
    }

    fn check_write(&self) -> Result<()> {
        if self.read_only { Err(Error::from_errno(libc::EPERM)) } else { Ok(()) }
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
            self.driver.write(at, from).await
        })
    }

    /// Writes a cluster, compressed.
    pub fn write_compressed(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.check(at, from.len() as u64)?;
            self.driver.write_compressed(at, from).await
        })
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.driver.write_zeroes(at, len, flags).await
        })
    }

    /// Gives storage back.
    pub fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.check(at, len)?;
            self.driver.discard(at, len).await
        })
    }

    /// What was acknowledged survives a power cut.
    pub fn flush(&self) -> Io<'_, ()> {
        if self.read_only {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.driver.flush()
    }

    /// Sets the length.
    pub fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_write()?;
            self.driver.truncate(len, preallocation).await
        })
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
    use crate::file::HostFile;

    #[test]
    fn a_second_writer_is_refused_until_the_first_has_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let driver = HostFile::open(path, false, false, Arc::new(Inline)).unwrap();
        let node = Node::new(Some("n".into()), path, false, Box::new(driver), Vec::new());
        let first = node.attach("device a", Role::User, Claim::WRITER).unwrap();
        let error = node.attach("device b", Role::User, Claim::WRITER).err().unwrap();
        assert_eq!(
            error.to_string(),
            "Conflicts with use by device a as 'root', which does not allow 'write, resize' on n"
        );
        let error = node.attach("device c", Role::User, Claim::READER).err().unwrap();
        assert!(error.to_string().contains("which uses 'write, resize' on n"), "{error}");
        node.attach("looker", Role::User, Claim::ONLOOKER).unwrap();
        drop(first);
        node.attach("device b", Role::User, Claim::WRITER).unwrap();
    }
}
