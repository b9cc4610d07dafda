//! The image as a driver of the graph.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::Qcow2;
use super::header::{self, Encryption};

use crate::driver::{
    BitmapChange, BitmapInfo, Bitmaps, Change, CheckReport, Driver, Extent, Io, Packed,
    Preallocation, Reopening, Repair, Snapshot, SnapshotTime, Snapshots, VmState, ZeroFlags,
};
use crate::luks::Volume;
use crate::node::Node;
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

impl Driver for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.size())
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            let _gate = self.gate.read().await;
            match self.read_mapped(at, into).await {
                Ok(()) => Ok(()),
                failed => self.judge(failed).await,
            }
        })
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            self.check_range(at, from.len() as u64)?;
            let _gate = self.gate.read().await;
            self.note_change(at, from.len() as u64).await?;
            match self.write_sectors(at, from).await {
                Ok(()) => Ok(()),
                failed => self.judge(failed).await,
            }
        })
    }

    fn pack(&self, from: &Vector) -> Result<Packed> {
        self.compressed(from)
    }

    fn write_packed(&self, at: u64, from: Vector, packed: Packed) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            self.check_range(at, from.len() as u64)?;
            self.note_change(at, from.len() as u64).await?;
            let done = self.store_packed(at, from, packed).await;
            self.judge(done).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            self.check_range(at, len)?;
            let _gate = self.gate.read().await;
            self.note_change(at, len).await?;
            let done = self.zero_range(at, len, flags).await;
            self.judge(done).await
        })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            self.check_range(at, len)?;
            let _gate = self.gate.read().await;
            self.note_change(at, len).await?;
            let done = match self.discard_range(at, len).await {
                // Discarding is a hint.
                Err(error) if error.errno() == libc::ENOTSUP => Ok(()),
                done => done,
            };
            self.judge(done).await
        })
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(async move {
            let done = self.flush_all().await;
            self.judge(done).await
        })
    }

    fn close(&self) -> Io<'_, ()> {
        Box::pin(self.settle())
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            let done = self.resize(len, preallocation).await;
            self.judge(done).await
        })
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(async move {
            self.check_alive()?;
            let _gate = self.gate.read().await;
            let found = self.find_extent(at, len).await;
            self.judge(found).await
        })
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.shape.cluster())
    }

    fn backing_name(&self) -> Option<(String, Option<String>)> {
        let header = self.header();
        Some((header.backing_file.clone()?, header.backing_format.clone()))
    }

    fn changeable(&self) -> &'static [&'static str] {
        Self::CHANGEABLE
    }

    fn prepare(&self, options: &mut Options, around: &Reopening<'_>) -> Result<Change<'_>> {
        let settings = self.prepare_settings(options, around.discards)?;
        Ok(Box::new(move || Box::pin(self.change_settings(settings))))
    }

    fn set_backing(&self, node: Option<&Arc<Node>>) -> Result<()> {
        *self.backing.write() = node.cloned();
        Ok(())
    }

    fn specific_info(&self) -> Option<Map<String, Value>> {
        let header = self.header();
        let mut info = Map::new();
        let compat = if header.version == 2 { "0.10" } else { "1.1" };
        info.insert("compat".into(), json!(compat));
        info.insert("compression-type".into(), json!(header.compression.name()));
        if header.version == 3 {
            let lazy = header.compatible & header::LAZY_REFCOUNTS != 0;
            info.insert("lazy-refcounts".into(), json!(lazy));
        }
        let bitmaps = self.bitmaps.info();
        if !bitmaps.is_empty() {
            info.insert("bitmaps".into(), bitmaps.into());
        }
        info.insert("refcount-bits".into(), json!(1 << header.refcount_order));
        if let Some(name) = header.data_file.as_ref().filter(|_| header.has_data_file()) {
            info.insert("data-file".into(), json!(name));
        }
        if header.has_data_file() {
            info.insert("data-file-raw".into(), json!(header.is_data_file_raw()));
        }
        match (header.encryption, &self.volume) {
            (Encryption::Aes, _) => drop(info.insert("encrypt".into(), json!({"format": "aes"}))),
            (Encryption::Luks { .. }, Some(volume)) => {
                info.insert("encrypt".into(), volume.info(Some("luks")).into());
            }
            _ => {}
        }
        if header.version == 3 {
            info.insert("corrupt".into(), json!(header.is_corrupt()));
            info.insert("extended-l2".into(), json!(header.has_extended_l2()));
        }
        Some(info)
    }

    fn is_dirty(&self) -> bool {
        self.header().incompatible & header::DIRTY != 0
    }

    fn is_encrypted(&self) -> bool {
        self.header().encryption != Encryption::None
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }

    fn set_writable(&self, writable: bool) -> Io<'_, ()> {
        Box::pin(async move {
            match writable {
                true => self.begin_writing().await,
                false => {
                    self.writable.store(false, Ordering::Release);
                    Ok(())
                }
            }
        })
    }

    fn vm_state_offset(&self) -> u64 {
        let shape = self.shape();
        self.header().l1_entries_for(self.size()) * shape.entries() << shape.cluster_bits
    }

    fn vm_state(&self) -> Option<&dyn VmState> {
        Some(self)
    }

    fn check(&self, repair: Repair) -> Io<'_, CheckReport> {
        Box::pin(async move {
            if repair != Repair::Nothing && !self.is_writable() {
                return Err(Error::from_errno(libc::EACCES));
            }
            let _gate = self.gate.write().await;
            self.check_metadata(repair).await
        })
    }

    fn keys(&self) -> Option<&Volume> {
        self.volume.as_ref()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        Some(self)
    }

    fn as_qcow2(&self) -> Option<&Qcow2> {
        Some(self)
    }
}

impl Bitmaps for Qcow2 {
    fn list(&self) -> Vec<BitmapInfo> {
        self.bitmaps.list()
    }

    fn change<'a>(&'a self, name: &'a str, change: BitmapChange) -> Io<'a, ()> {
        Box::pin(async move {
            if !self.is_writable() {
                return Err(Error::from_errno(libc::EACCES));
            }
            self.change_bitmap(name, change).await
        })
    }

    fn dirty(&self, name: &str) -> Result<Vec<Range<u64>>> {
        self.bitmaps.dirty(name, self.size())
    }
}

impl VmState for Qcow2 {
    fn load(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            let at = self.vm_state_at(at, into.len())?;
            let _gate = self.gate.read().await;
            self.file.event("vmstate_load").await;
            let done = self.read_mapped(at, into).await;
            self.judge(done).await
        })
    }

    fn save(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.check_alive()?;
            let at = self.vm_state_at(at, from.len())?;
            let _gate = self.gate.read().await;
            self.file.event("vmstate_save").await;
            let done = self.write_sectors(at, from).await;
            self.judge(done).await
        })
    }
}

impl Snapshots for Qcow2 {
    fn list(&self) -> Io<'_, Vec<Snapshot>> {
        Box::pin(async move { Ok(self.all_snapshots().await) })
    }

    fn create<'a>(&'a self, name: &'a str, time: SnapshotTime) -> Io<'a, ()> {
        Box::pin(self.create_snapshot(name, time))
    }

    fn apply<'a>(&'a self, id_or_name: &'a str) -> Io<'a, ()> {
        Box::pin(self.apply_snapshot(id_or_name))
    }

    fn delete<'a>(&'a self, id_or_name: &'a str) -> Io<'a, ()> {
        Box::pin(self.delete_snapshot(id_or_name))
    }
    fn show<'a>(&'a self, id_or_name: &'a str) -> Io<'a, ()> {
        Box::pin(self.show_snapshot(id_or_name))
    }
}
