//! Giving up everything that is stored, as after a commit.

use super::Qcow2;
use super::entry::Entry;
use super::meta::Why;
use crate::Result;

impl Qcow2 {
    /// Lets the backing file show everywhere.
    pub async fn make_empty(&self) -> Result<()> {
        let _gate = self.gate.write().await;
        let mut meta = self.meta.write().await;
        self.file.event("empty_image_prepare").await;
        let shape = meta.shape;
        let span = shape.cluster() * shape.entries();
        for l1_index in 0..meta.l1.len() as u64 {
            if meta.l2_offset(l1_index as usize)?.is_none() {
                continue;
            }
            for index in 0..shape.entries() {
                let at = l1_index * span + index * shape.cluster();
                let old = meta.entry(at).await?;
                if old != Entry::default() {
                    meta.set_entry(at, Entry::default()).await?;
                    meta.free_entry(old, Why::Other)?;
                }
            }
            meta.drop_table(l1_index as usize)?;
        }
        meta.settle().await?;
        let unlinked = std::mem::take(&mut meta.unlinked);
        meta.release_these(unlinked, |why| self.settings().passes(why)).await?;
        meta.settle().await?;
        meta.cut_file().await
    }
}
