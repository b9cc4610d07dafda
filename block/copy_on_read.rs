//! The filter `copy-on-read`: what is read from a backing file is kept in the image above it.

use std::sync::Arc;

use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use crate::node::{Claim, Node, Permissions, Role};
use crate::vector::Vector;
use crate::{Error, Result};

/// The filter.
pub struct CopyOnRead {
    file: Arc<Node>,
    /// Held shared by writes and alone while something is copied, so that no copy undoes a write.
    order: async_lock::RwLock<()>,
}

impl CopyOnRead {
    /// A filter over an image.
    pub fn new(file: Arc<Node>) -> Self {
        Self { file, order: async_lock::RwLock::new(()) }
    }

    /// Copies what the image does not have of a range, in whole clusters.
    async fn copy(&self, at: u64, len: u64) -> Result<()> {
        let unit = self.file.driver().cluster_size().unwrap_or(1 << 16).max(512);
        let end = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(unit));
        let end = end.ok_or_else(|| Error::from_errno(libc::EINVAL))?.min(self.file.len()?);
        let mut at = at - at % unit;
        while at < end {
            let extent = self.file.driver().status(at, end - at).await?;
            // Not more at once than a few requests' worth.
            let part = extent.len.clamp(1, end - at).min(1 << 20);
            if !extent.allocated {
                let buffer = Vector::zeroed(part as usize);
                self.file.read(at, buffer.clone()).await?;
                self.file.event("cor_write").await;
                if buffer.is_zero() {
                    self.file.write_zeroes(at, part, ZeroFlags::default()).await?;
                } else {
                    self.file.write(at, buffer).await?;
                }
            }
            at += part;
        }
        Ok(())
    }

    async fn is_whole(&self, at: u64, len: u64) -> Result<bool> {
        let mut done = 0;
        while done < len {
            let extent = self.file.driver().status(at + done, len - done).await?;
            if !extent.allocated {
                return Ok(false);
            }
            done += extent.len.max(1);
        }
        Ok(true)
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
        Box::pin(async move {
            let len = into.len() as u64;
            if !self.is_whole(at, len).await? {
                let _alone = self.order.write().await;
                self.copy(at, len).await?;
            }
            self.file.read(at, into).await
        })
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let _order = self.order.read().await;
            self.file.write(at, from).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            let _order = self.order.read().await;
            self.file.write_zeroes(at, len, flags).await
        })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move {
            let _order = self.order.read().await;
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
