//! What every driver of the graph can do.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::graph::Graph;
use crate::luks::Volume;
use crate::node::{Claim, Node, Permissions, Role};
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

/// The answer to a request, later.
pub type Io<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What drivers know of a change of options.
pub struct Reopening<'a> {
    /// Whether the node will pass discards on.
    pub discards: bool,
    /// Whether files will be read and written past the host's cache.
    pub direct: bool,
    /// Where other nodes and limits are.
    pub graph: &'a Graph,
}

/// A change that only has to be made.
pub type Change<'a> = Box<dyn FnOnce() -> Io<'a, ()> + Send + 'a>;

/// What is known of a range of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes, from where was asked, are alike. Never 0 inside the node.
    pub len: u64,
    /// The bytes are stored.
    pub data: bool,
    /// They read as zeroes.
    pub zero: bool,
    /// This layer decides what they are, not a backing file.
    pub allocated: bool,
    /// They are stored compressed.
    pub compressed: bool,
    /// Where in the protocol node they are, unchanged.
    pub offset: Option<u64>,
    /// How many backing files down they were found.
    pub depth: u32,
}

/// What a range that is zeroed may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// The storage may be given back.
    pub unmap: bool,
}

/// A cluster for a place that nothing is stored for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packed {
    /// It does not get smaller.
    Plain,
    /// In the format's own way.
    Bytes(Vec<u8>),
}

/// How a node grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing ahead of time.
    #[default]
    Off,
    /// The format's tables, not the data.
    Metadata,
    /// Space is reserved.
    Falloc,
    /// Space is written.
    Full,
}

/// One layer of the graph. Requests are positioned, in bytes of any alignment, and inside `len`, which
/// the node has checked. They may run at the same time; a driver orders what must be ordered.
pub trait Driver: Send + Sync {
    /// The name in `driver=`.
    fn name(&self) -> &'static str;

    /// The length in bytes as it is now.
    fn len(&self) -> Result<u64>;

    /// Whether there is no byte.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads `into.len()` bytes.
    fn read(&self, at: u64, into: Vector) -> Io<'_, ()>;

    /// Writes `from.len()` bytes; `flush` makes them last.
    fn write(&self, at: u64, from: Vector) -> Io<'_, ()>;

    /// Compresses one cluster (shorter only at the end) for [`Self::write_packed`]. That takes long, and
    /// depends on nothing else.
    fn pack(&self, _from: &Vector) -> Result<Packed> {
        Ok(Packed::Plain)
    }

    /// Writes one cluster, which is `packed`, where nothing was.
    fn write_packed(&self, _at: u64, _from: Vector, _packed: Packed) -> Io<'_, ()> {
        Box::pin(std::future::ready(Err(Error::from_errno(libc::ENOTSUP))))
    }

    /// Makes a range read as zeroes.
    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()>;

    /// Gives storage back; what the range reads as afterwards is the driver's.
    fn discard(&self, at: u64, len: u64) -> Io<'_, ()>;

    /// When done, what was acknowledged before survives a power cut.
    fn flush(&self) -> Io<'_, ()>;

    /// Whether a flush may have something to do although nothing was changed since the last one.
    fn keeps_changes(&self) -> bool {
        true
    }

    /// Ends the use of an image that was written: nothing is only in memory, the image is as clean as
    /// it can be. It may be used again.
    fn close(&self) -> Io<'_, ()> {
        self.flush()
    }

    /// Sets the length.
    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()>;

    /// What is known of the range from `at`, of at most `len` bytes. A layer that knows nothing better
    /// has data.
    fn status(&self, at: u64, len: u64) -> Io<'_, Extent>;

    /// The size of what is allocated at once, where there is one.
    fn cluster_size(&self) -> Option<u64> {
        None
    }

    /// The backing file as the image names it: (name, format).
    fn backing_name(&self) -> Option<(String, Option<String>)> {
        None
    }

    /// From now on another node shows where the image has nothing, or none. Nothing is in flight.
    fn set_backing(&self, _node: Option<&Arc<Node>>) -> Result<()> {
        Err(Error::unsupported("The overlay does not support backing images"))
    }

    /// Options that can be changed while the image is open.
    fn changeable(&self) -> &'static [&'static str] {
        &[]
    }

    /// Takes the options that can be changed, and makes ready to change them: those that are not said
    /// become what they are by default. Nothing is in flight when the change is made.
    fn prepare(&self, _options: &mut Options, _around: &Reopening<'_>) -> Result<Change<'_>> {
        Ok(Box::new(|| Box::pin(std::future::ready(Ok(())))))
    }

    /// What the image says of itself, as `ImageInfoSpecific` has it.
    fn specific_info(&self) -> Option<Map<String, Value>> {
        None
    }

    /// The image was not closed properly.
    fn is_dirty(&self) -> bool {
        false
    }

    /// Whether it is known if the image is dirty: of what keeps nothing it is not.
    fn tells_state(&self) -> bool {
        true
    }

    /// What is stored is encrypted.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// The key slots of a LUKS volume, alone or inside the image.
    fn keys(&self) -> Option<&Volume> {
        None
    }

    /// Internal snapshots, if the format has such.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Dirty bitmaps that are stored in the image, if the format has such.
    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// For what only qcow2 can do.
    fn as_qcow2(&self) -> Option<&crate::qcow2::Qcow2> {
        None
    }

    /// Bytes that the host spends on it.
    fn allocated_size(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// What is claimed of the child in a role when `above` is claimed of this node: by default what a
    /// format needs that keeps tables in its file.
    fn child_claim(&self, role: Role, above: Claim, read_only: bool) -> Claim {
        let changes = Permissions::WRITE.with(Permissions::RESIZE);
        match role {
            Role::Backing | Role::Image => {
                let shares = Permissions::CONSISTENT_READ.with(Permissions::WRITE_UNCHANGED);
                let free = above.shares.contains(Permissions::WRITE);
                let needs = above.needs.and(Permissions::CONSISTENT_READ);
                Claim { needs, shares: if free { shares.with(changes) } else { shares } }
            }
            _ => above.with(Claim::tables(read_only)),
        }
    }

    /// Others are told what is done with it from now on: protocols lock their files.
    fn set_claim(&self, _claim: Claim) -> Result<()> {
        Ok(())
    }

    /// What was open for reading is to be written from now on, or the other way round. Files below can
    /// be written when they must.
    fn set_writable(&self, _writable: bool) -> Io<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Where the state of a machine would be stored, behind the disk.
    fn vm_state_offset(&self) -> u64 {
        0
    }

    /// That state, if the format keeps it.
    fn vm_state(&self) -> Option<&dyn VmState> {
        None
    }

    /// What tests do to requests, where a filter for tests is in the graph.
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        None
    }

    /// Checks the metadata.
    fn check(&self, _repair: Repair) -> Io<'_, CheckReport> {
        Box::pin(std::future::ready(Err(Error::from_errno(libc::ENOTSUP))))
    }
}

/// The state of a machine, kept behind the disk. Snapshots take it with them.
pub trait VmState: Send + Sync {
    /// Reads from an offset in it; what was never written is zeroes.
    fn load(&self, at: u64, into: Vector) -> Io<'_, ()>;

    /// Writes at an offset in it.
    fn save(&self, at: u64, from: Vector) -> Io<'_, ()>;
}

/// Getting past an event, later.
pub type Pass<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Holding requests at events, for tests.
pub trait Breakpoints: Send + Sync {
    /// Something is about to happen to the image above: what follows may fail, or be held here.
    fn reach<'a>(&'a self, event: &'a str) -> Pass<'a>;
    /// Holds the next request that comes to an event, under a tag.
    fn set(&self, event: &str, tag: &str) -> Result<()>;
    /// Lets all requests under a tag go on, and forgets breakpoints for it.
    fn remove(&self, tag: &str) -> Result<()>;
    /// Lets a request go on.
    fn resume(&self, tag: &str) -> Result<()>;
    /// Whether a request is held.
    fn is_suspended(&self, tag: &str) -> bool;
    /// What is to be said of requests that were held, once.
    fn take_said(&self) -> Vec<String>;
}

/// What a check may mend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    Nothing,
    /// Clusters nobody refers to.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// One line for each finding.
    pub messages: Vec<String>,
    /// Wrong references that are still there.
    pub corruptions: u64,
    /// Lost clusters that are still there.
    pub leaks: u64,
    /// What could not be checked.
    pub errors: u64,
    /// It was given up, for this reason.
    pub failure: Option<i32>,
    /// Mended.
    pub corruptions_fixed: u64,
    /// Mended.
    pub leaks_fixed: u64,
    /// Clusters that the image has room for.
    pub total_clusters: u64,
    /// Clusters with data.
    pub allocated_clusters: u64,
    /// Clusters that do not follow the one before them.
    pub fragmented_clusters: u64,
    /// Compressed ones.
    pub compressed_clusters: u64,
    /// The first byte after the last cluster in use.
    pub image_end_offset: u64,
}

/// When a snapshot was made, since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTime {
    /// Whole seconds.
    pub seconds: u64,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// The guest's running time in nanoseconds.
    pub vm_clock: u64,
    /// Instructions that had run, where they were counted.
    pub icount: Option<u64>,
}

/// What is known of an internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique in the image.
    pub id: String,
    /// Chosen by the operator.
    pub name: String,
    /// When it was made.
    pub time: SnapshotTime,
    /// Bytes of saved state of the machine.
    pub vm_state_size: u64,
    /// The disk's length then.
    pub disk_size: u64,
}

/// Internal snapshots of an image. An argument `id_or_name` means an id first.
pub trait Snapshots: Send + Sync {
    /// All of them, oldest first.
    fn list(&self) -> Io<'_, Vec<Snapshot>>;

    /// Keeps the disk as it is now.
    fn create<'a>(&'a self, name: &'a str, time: SnapshotTime) -> Io<'a, ()>;

    /// Brings the disk back to what it was; what it is now is lost.
    fn apply<'a>(&'a self, id_or_name: &'a str) -> Io<'a, ()>;

    /// Forgets one.
    fn delete<'a>(&'a self, id_or_name: &'a str) -> Io<'a, ()>;

    /// From now on reads show the disk as it was then; the image is open for reading.
    fn show<'a>(&'a self, id_or_name: &'a str) -> Io<'a, ()>;
}

/// What is known of a dirty bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// It records writes.
    pub enabled: bool,
    /// Somebody was changing it who has not come back: it is worth nothing.
    pub inconsistent: bool,
}

/// A change of one bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitmapChange {
    /// A new one; the format chooses a granularity if there is none.
    Add {
        /// Bytes that a bit stands for.
        granularity: Option<u64>,
        /// It records writes.
        enabled: bool,
    },
    /// It is no more.
    Remove,
    /// All its bits are cleared.
    Clear,
    /// It records writes, or does not.
    Enable(bool),
    /// These ranges become dirty, too: what another bitmap has.
    Merge(Vec<Range<u64>>),
}

/// Dirty bitmaps in an image. Changes reach it when it is closed.
pub trait Bitmaps: Send + Sync {
    /// All of them.
    fn list(&self) -> Vec<BitmapInfo>;

    /// Changes one.
    fn change<'a>(&'a self, name: &'a str, change: BitmapChange) -> Io<'a, ()>;

    /// What is dirty, in order.
    fn dirty(&self, name: &str) -> Result<Vec<Range<u64>>>;
}
