//! Where metadata is, so that nothing else is written there. An image whose refcounts lie would
//! otherwise destroy itself.

use std::collections::HashMap;

use super::entry::OFFSET_MASK;
use super::meta::Meta;
use super::snapshot::Snapshot;
use crate::options::Options;
use crate::{Error, Result};

/// What kind of metadata a cluster of the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The header.
    Header,
    /// The L1 table in use.
    ActiveL1,
    /// An L2 table in use.
    ActiveL2,
    /// The refcount table.
    RefTable,
    /// A block of refcounts.
    RefBlock,
    /// The table of snapshots.
    Snapshots,
    /// The L1 table of a snapshot.
    InactiveL1,
    /// An L2 table of a snapshot.
    InactiveL2,
    /// The directory of bitmaps.
    Bitmaps,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Header => "qcow2_header",
            Self::ActiveL1 => "active L1 table",
            Self::ActiveL2 => "active L2 table",
            Self::RefTable => "refcount table",
            Self::RefBlock => "refcount block",
            Self::Snapshots => "snapshot table",
            Self::InactiveL1 => "inactive L1 table",
            Self::InactiveL2 => "inactive L2 table",
            Self::Bitmaps => "bitmap directory",
        }
    }
}

/// Kinds of metadata that writes are kept away from (`overlap-check`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected(u16);

impl Default for Protected {
    fn default() -> Self {
        Self::template("cached").unwrap_or(Self::NOTHING)
    }
}

impl Protected {
    /// None of them.
    pub const NOTHING: Self = Self(0);

    /// The options' names, and what they are of.
    const KINDS: [(&str, Place); 9] = [
        ("main-header", Place::Header),
        ("refcount-table", Place::RefTable),
        ("snapshot-table", Place::Snapshots),
        ("bitmap-directory", Place::Bitmaps),
        ("active-l1", Place::ActiveL1),
        ("active-l2", Place::ActiveL2),
        ("refcount-block", Place::RefBlock),
        ("inactive-l1", Place::InactiveL1),
        ("inactive-l2", Place::InactiveL2),
    ];

    /// What a template stands for: kinds with places that never move, those that are known in memory, or
    /// all.
    fn template(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::NOTHING),
            "constant" => Some(Self(0x00f)),
            "cached" => Some(Self(0x0ff)),
            "all" => Some(Self(0x1ff)),
            _ => None,
        }
    }

    /// What options say: a template, and kinds that differ from it.
    pub(super) fn take(options: &mut Options) -> Result<Self> {
        let short = options.text("overlap-check");
        let long = options.text("overlap-check.template");
        if let (Some(short), Some(long)) = (&short, &long)
            && short != long
        {
            return Err(Error::invalid(format!(
                "Conflicting values for qcow2 options 'overlap-check' ('{short}') and \
                 'overlap-check.template' ('{long}')"
            )));
        }
        let mut protected = Self::default();
        if let Some(name) = short.or(long) {
            protected = Self::template(&name).ok_or_else(|| {
                Error::invalid(format!(
                    "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of \
                     the following: none, constant, cached, all"
                ))
            })?;
        }
        for (bit, (kind, _)) in Self::KINDS.iter().enumerate() {
            match options.flag(&format!("overlap-check.{kind}"))? {
                Some(true) => protected.0 |= 1 << bit,
                Some(false) => protected.0 &= !(1 << bit),
                None => {}
            }
        }
        Ok(protected)
    }

    fn contains(self, place: Place) -> bool {
        let kinds = Self::KINDS.iter().enumerate();
        kinds.filter(|(bit, _)| self.0 & 1 << bit != 0).any(|(_, (_, of))| *of == place)
    }
}

/// Something in the image that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// What, in QEMU's words.
    pub message: String,
    /// Where in the file, if that is known.
    pub offset: Option<u64>,
    /// How many bytes there.
    pub size: Option<u64>,
    /// The image can no longer be used.
    pub fatal: bool,
}

impl Corruption {
    /// Says it on standard error.
    pub fn announce(&self) {
        eprintln!("{}", self.text());
    }

    /// What is said of it, once.
    pub(super) fn text(&self) -> String {
        let text = &self.message;
        match self.fatal {
            true => format!(
                "qcow2: Marking image as corrupt: {text}; further corruption events will be \
                 suppressed"
            ),
            false => format!(
                "qcow2: Image is corrupt: {text}; further non-fatal corruption events will be \
                 suppressed"
            ),
        }
    }
}

/// The clusters of the file that hold metadata, by their number.
#[derive(Default)]
pub struct Places(HashMap<u64, Place>);

impl Places {
    /// Claims a range.
    pub fn add(&mut self, bits: u32, at: u64, len: u64, place: Place) {
        if len > 0 {
            (at >> bits..=(at + len - 1) >> bits).for_each(|cluster| {
                self.0.insert(cluster, place);
            });
        }
    }

    /// A cluster is free for other use.
    pub fn remove(&mut self, cluster: u64) {
        self.0.remove(&cluster);
    }

    /// What of a kind is in a range.
    fn find(
        &self,
        bits: u32,
        at: u64,
        len: u64,
        is_meant: impl Fn(Place) -> bool,
    ) -> Option<Place> {
        let clusters = at >> bits..=at.saturating_add(len.max(1) - 1) >> bits;
        let mut found = clusters.filter_map(|cluster| self.0.get(&cluster).copied());
        found.find(|place| is_meant(*place))
    }
}

impl Meta {
    /// Finds the metadata anew, that of snapshots too: their L2 tables are found nowhere in memory, and
    /// only remembered where they are to be protected.
    pub(super) async fn survey_all(&mut self) -> Result<()> {
        self.inactive.clear();
        if self.protected.contains(Place::InactiveL2) {
            let sound = |one: &&Snapshot| one.l1_fault(&self.header).is_none();
            let snapshots: Vec<Snapshot> = self.snapshots.iter().filter(sound).cloned().collect();
            for snapshot in snapshots {
                let tables = snapshot.l1(self).await?.into_iter().map(|entry| entry & OFFSET_MASK);
                let bits = self.header.cluster_bits;
                self.inactive.extend(tables.filter(|&at| at != 0).map(|at| at >> bits));
            }
        }
        self.survey();
        Ok(())
    }

    /// An L2 table is no longer in use here; perhaps a snapshot has it.
    pub(super) fn leave_table(&mut self, at: u64) {
        let bits = self.header.cluster_bits;
        self.places.remove(at >> bits);
        if self.inactive.contains(&(at >> bits)) {
            self.places.add(bits, at, 1, Place::InactiveL2);
        }
    }

    /// Finds the metadata anew.
    pub(super) fn survey(&mut self) {
        if self.protected == Protected::NOTHING {
            return;
        }
        let (bits, header) = (self.header.cluster_bits, &self.header);
        let cluster = header.cluster_size();
        let mut places = Places::default();
        for snapshot in self.snapshots.iter().filter(|one| one.l1_fault(header).is_none()) {
            let len = u64::from(snapshot.l1_size) * 8;
            places.add(bits, snapshot.l1_offset, len, Place::InactiveL1);
        }
        let blocks = self.reftable.iter().map(|entry| (entry & OFFSET_MASK, Place::RefBlock));
        let tables = self.l1.iter().map(|entry| (entry & OFFSET_MASK, Place::ActiveL2));
        for (at, place) in blocks.chain(tables).filter(|(at, _)| *at != 0) {
            places.add(bits, at, cluster, place);
        }
        for &table in &self.inactive {
            places.add(bits, table << bits, 1, Place::InactiveL2);
        }
        if let Some(bitmaps) = header.bitmaps {
            places.add(bits, bitmaps.at, bitmaps.len, Place::Bitmaps);
        }
        places.add(bits, header.snapshots_offset, self.snapshot_bytes, Place::Snapshots);
        let reftable = u64::from(header.reftable_clusters) << bits;
        places.add(bits, header.reftable_offset, reftable, Place::RefTable);
        places.add(bits, header.l1_offset, self.l1.len() as u64 * 8, Place::ActiveL1);
        places.add(bits, 0, 1, Place::Header);
        self.places = places;
    }

    /// Whether a range may be written that has no metadata in it, except `own`.
    pub(super) fn may_write(&self, at: u64, len: u64, own: Option<Place>) -> Result<()> {
        let is_foreign = |place| Some(place) != own && self.protected.contains(place);
        match self.places.find(self.header.cluster_bits, at, len, is_foreign) {
            None => Ok(()),
            Some(place) => Err(self.damage(
                &format!("Preventing invalid write on metadata (overlaps with {})", place.name()),
                Some((at, len)),
                true,
            )),
        }
    }
}
