//! New refcounts for an image whose own are lost: blocks and a table at places that nothing points to.

use std::collections::{BTreeMap, BTreeSet};

use super::check::References;
use super::header::MAX_REFTABLE_BYTES;
use super::meta::{Meta, write_u64s};
use super::refcount;
use crate::vector::Vector;
use crate::{Error, Result};

/// Where the new blocks are, by the part of the file that each describes, and the table.
struct Layout {
    blocks: BTreeMap<u64, u64>,
    table: u64,
    table_clusters: u64,
}

/// Finds places, and counts them among the references.
fn lay_out(refs: &mut References, per_block: u64, cluster: u64) -> Result<Layout> {
    let mut layout = Layout { blocks: BTreeMap::new(), table: 0, table_clusters: 0 };
    let mut parts = refs.parts(per_block);
    loop {
        if let Some(part) = parts.pop_first() {
            // In the part that it describes, so that it needs no other block.
            let place = refs.find_free(part * per_block, 1);
            refs.mark(place);
            layout.blocks.insert(part, place);
            parts.insert(place / per_block);
        } else {
            let entries = layout.blocks.last_key_value().map_or(0, |(part, _)| part + 1);
            if entries * 8 > MAX_REFTABLE_BYTES {
                return Err(Error::from_errno(libc::EFBIG));
            }
            let clusters = (entries * 8).div_ceil(cluster);
            if clusters <= layout.table_clusters {
                return Ok(layout);
            }
            (layout.table..layout.table + layout.table_clusters).for_each(|old| refs.unmark(old));
            layout.table = refs.find_free(0, clusters);
            layout.table_clusters = clusters;
            let table = layout.table..layout.table + clusters;
            parts.extend(table.clone().map(|cluster| cluster / per_block).collect::<BTreeSet<_>>());
            table.for_each(|cluster| refs.mark(cluster));
        }
        parts.retain(|part| !layout.blocks.contains_key(part));
    }
}

impl Meta {
    /// Writes refcounts as they have been counted. The old ones are garbage afterwards: what they
    /// themselves took may still be counted.
    pub(super) async fn rebuild_refcounts(&mut self, refs: &mut References) -> Result<()> {
        let (bits, cluster) = (self.header.cluster_bits, self.shape.cluster());
        let (per_block, order) = (self.refs_per_block(), self.header.refcount_order);
        let layout = lay_out(refs, per_block, cluster)?;
        let mut table = vec![0; (layout.table_clusters * cluster / 8) as usize];
        for (&part, &place) in &layout.blocks {
            let mut block = vec![0; cluster as usize];
            for index in 0..per_block {
                let count = refs.get(part * per_block + index).min(self.max_refcount());
                refcount::set(&mut block, order, index, count);
            }
            table[part as usize] = place << bits;
            self.file.write(place << bits, Vector::from(&block[..])).await?;
        }
        write_u64s(&self.file, layout.table << bits, &table).await?;
        self.file.flush().await?;
        self.header.reftable_offset = layout.table << bits;
        self.header.reftable_clusters = layout.table_clusters as u32;
        self.write_header().await?;
        self.refblocks.clear();
        (self.reftable, self.reftable_dirty) = (table, false);
        self.survey();
        Ok(())
    }
}
