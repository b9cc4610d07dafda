//! Copy on read: what is read from a backing file is kept in the image above it.

use std::sync::Arc;

use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use crate::lock::{ReadGuard, RwLock};
use crate::node::{Claim, Node, Permissions, Role};
use crate::vector::Vector;
use crate::{Error, Result};

/// Keeps what is read in order with what is written.
#[derive(Default)]
pub struct Copier {
    /// Held shared by writes and alone while something is copied, so that no copy undoes a write.
    order: RwLock<()>,
}

impl Copier {
    /// Held by whoever changes the image.
    pub async fn writing(&self) -> ReadGuard<'_, ()> {
        self.order.read().await
    }

    /// Reads, after the image has got what it did not have of the range.
    pub async fn read(&self, image: &Node, at: u64, into: Vector) -> Result<()> {
        let len = into.len() as u64;
        if !is_whole(image.driver(), at, len).await? {
            let _alone = self.order.write().await;
            copy(image, at, len).await?;
        }
        image.driver().read(at, into).await
    }
}

/// Copies what the image does not have of a range, in whole clusters.
async fn copy(image: &Node, at: u64, len: u64) -> Result<()> {
    let driver = image.driver();
    let unit = driver.cluster_size().unwrap_or(1 << 16).max(512);
    let end = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(unit));
    let end = end.ok_or_else(|| Error::from_errno(libc::EINVAL))?.min(driver.len()?);
    let mut at = at - at % unit;
    while at < end {
        let extent = driver.status(at, end - at).await?;
        // Not more at once than a few requests' worth.
        let part = extent.len.clamp(1, end - at).min(1 << 20);
        if !extent.allocated {
            let buffer = Vector::zeroed(part as usize);
            driver.read(at, buffer.clone()).await?;
            image.event("cor_write").await;
            if buffer.is_zero() {
                driver.write_zeroes(at, part, ZeroFlags::default()).await?;
            } else {
                driver.write(at, buffer).await?;
            }
        }
        at += part;
    }
    Ok(())
}

async fn is_whole(driver: &dyn Driver, at: u64, len: u64) -> Result<bool> {
    let mut done = 0;
    while done < len {
        let extent = driver.status(at + done, len - done).await?;
        if !extent.allocated {
            return Ok(false);
        }
        done += extent.len.max(1);
    }
    Ok(true)
}

/// The filter. Without it, a node does the same by its manner.
pub struct CopyOnRead {
    file: Arc<Node>,
    copier: Copier,
}

impl CopyOnRead {
    /// A filter over an image.
    pub fn new(file: Arc<Node>) -> Self {
        Self { file, copier: Copier::default() }
    }
}

impl Driver for CopyOnRead {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(self.copier.read(&self.file, at, into))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let _order = self.copier.writing().await;
            self.file.write(at, from).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            let _order = self.copier.writing().await;
            self.file.write_zeroes(at, len, flags).await
        })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move {
            let _order = self.copier.writing().await;
            self.file.discard(at, len).await
        })
    }

    fn flush(&self) -> Io<'_, ()> {
        self.file.flush()
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        self.file.truncate(len, preallocation)
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        self.file.status(at, len)
    }

    fn cluster_size(&self) -> Option<u64> {
        self.file.driver().cluster_size()
    }

    /// Copying writes what is there already, even if nobody above writes.
    fn child_claim(&self, _: Role, above: Claim, _: bool) -> Claim {
        let copies = Permissions::WRITE_UNCHANGED;
        Claim { needs: above.needs.with(copies), ..above }
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Inline, block_on};
    use crate::open::{OpenOptions, create_file, open};
    use crate::qcow2::{self, CreateOptions, Purpose};

    #[test]
    fn what_was_read_once_needs_no_backing_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let pattern: Vec<u8> = (0..300_000_u32).map(|n| (n / 512) as u8 | 1).collect();
        std::fs::write(path("base"), &pattern).unwrap();
        block_on(async {
            let file = create_file(&path("top"), Arc::new(Inline)).await.unwrap();
            let options = CreateOptions {
                size: 1 << 20,
                backing: Some((path("base"), Some("raw".into()))),
                ..CreateOptions::default()
            };
            qcow2::create(&file, &options).await.unwrap();
        });
        let how = OpenOptions {
            format: Some("qcow2".into()),
            purpose: Purpose::Write,
            force_share: false,
            no_backing: false,
            no_io: false,
            secrets: Default::default(),
            throttle_groups: Default::default(),
            checks: false,
            io: Arc::new(Inline),
        };
        block_on(async {
            let image = open(&path("top"), &how).await.unwrap().node;
            let filter = CopyOnRead::new(image.clone());
            let into = Vector::zeroed(1000);
            filter.read(65_000, into.clone()).await.unwrap();
            assert_eq!(into.to_vec(), pattern[65_000..66_000]);
            filter.write(0, Vector::from(&[9; 512][..])).await.unwrap();
            filter.flush().await.unwrap();
        });
        std::fs::write(path("base"), vec![0; 300_000]).unwrap();
        let image = block_on(open(&path("top"), &how)).unwrap().node;
        let bytes = block_on(image.read_bytes(0, 300_000)).unwrap();
        assert_eq!(bytes[..512], [9; 512]);
        assert_eq!(bytes[512..131_072], pattern[512..131_072]);
        assert!(bytes[131_072..].iter().all(|byte| *byte == 0));
    }
}
