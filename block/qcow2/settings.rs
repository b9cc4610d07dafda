//! What the user of an image decides when it is opened.

use std::sync::Arc;

use super::header::{self, Header};
use super::meta::Why;
use super::overlap::{Corruption, Protected};
use crate::node::Node;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Reading.
    #[default]
    Read,
    /// Writing.
    Write,
    /// Repairing: also an image marked corrupt is opened for writing.
    Repair,
}

/// Told of damage that is found in an image.
pub type OnCorruption = Arc<dyn Fn(&Corruption) + Send + Sync>;

/// How to open an image, with QEMU's names for options.
#[derive(Clone)]
pub struct Settings {
    /// What for.
    pub purpose: Purpose,
    /// What shows where the image has nothing.
    pub backing: Option<Arc<Node>>,
    /// `data-file`: where the data is, if the image keeps it elsewhere.
    pub data_file: Option<Arc<Node>>,
    /// The password of an encrypted image (what `encrypt.key-secret` names).
    pub password: Option<Vec<u8>>,
    /// Nobody will read or write data, so that no password is needed.
    pub no_data: bool,
    /// The metadata is about to be checked: that some is wrong is no reason to refuse the image.
    pub checks: bool,
    /// `l2-cache-size`: memory for L2 tables in bytes.
    pub l2_cache: Option<u64>,
    /// `refcount-cache-size`: memory for refcounts in bytes.
    pub refcount_cache: Option<u64>,
    /// `cache-size`: both together.
    pub cache: Option<u64>,
    /// `lazy-refcounts`, or what the image says.
    pub lazy_refcounts: Option<bool>,
    /// `overlap-check`: the metadata that writes are kept away from.
    pub protected: Protected,
    /// `discard-no-unref`: what is discarded keeps its place.
    pub discard_no_unref: bool,
    /// `pass-discard-request`: storage that a guest gives back goes back to the file system.
    pub pass_discard_request: bool,
    /// `pass-discard-snapshot`: so does what a deleted snapshot had.
    pub pass_discard_snapshot: bool,
    /// `pass-discard-other`: so does everything else.
    pub pass_discard_other: bool,
    /// Who is told of damage; else it goes to standard error.
    pub on_corruption: Option<OnCorruption>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            purpose: Purpose::Read,
            backing: None,
            data_file: None,
            password: None,
            no_data: false,
            checks: false,
            l2_cache: None,
            refcount_cache: None,
            cache: None,
            lazy_refcounts: None,
            protected: Protected::default(),
            discard_no_unref: false,
            pass_discard_request: false,
            pass_discard_snapshot: true,
            pass_discard_other: false,
            on_corruption: None,
        }
    }
}

/// L2 tables in memory at most, where nothing else is asked for.
const L2_CACHE: u64 = 32 << 20;
/// Refcount blocks in memory at least.
const MIN_REFCOUNT_BLOCKS: u64 = 4;

impl Settings {
    /// For a purpose.
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose, ..Self::default() }
    }

    /// Whether refcounts are written late.
    pub(super) fn is_lazy(&self, header: &Header) -> bool {
        let said = header.compatible & header::LAZY_REFCOUNTS != 0;
        self.lazy_refcounts.unwrap_or(said) && header.version >= 3
    }

    /// Whether storage goes back to the file system.
    pub(super) fn passes(&self, why: Why) -> bool {
        match why {
            Why::Request => self.pass_discard_request,
            Why::Snapshot => self.pass_discard_snapshot,
            Why::Other => self.pass_discard_other,
        }
    }

    /// L2 tables and refcount blocks in memory: enough for the whole disk, but no more than allowed.
    pub(super) fn limits(&self, header: &Header) -> (usize, usize) {
        let cluster = header.cluster_size();
        let all_l2 = u64::from(header.l1_size).saturating_mul(cluster);
        let refcounts = self.refcount_cache.unwrap_or(MIN_REFCOUNT_BLOCKS * cluster);
        let l2 = match (self.l2_cache, self.cache) {
            (Some(l2), _) => l2,
            (None, Some(both)) => both.saturating_sub(refcounts),
            (None, None) => L2_CACHE.min(all_l2),
        };
        let tables = |bytes: u64, least: u64| (bytes >> header.cluster_bits).max(least) as usize;
        (tables(l2, 2), tables(refcounts, MIN_REFCOUNT_BLOCKS))
    }
}
