//! Moving what an image has to the image that backs it.

use std::sync::Arc;

use crate::driver::{Preallocation, ZeroFlags};
use crate::node::{Node, Role};
use crate::vector::Vector;
use crate::{Error, Result};

/// What moves at a time.
const CHUNK: u64 = 2 << 20;

/// Writes what the layers have at an offset to the base; returns how far that goes.
pub(crate) async fn merge(layers: &[Arc<Node>], base: &Node, at: u64, len: u64) -> Result<u64> {
    let mut len = len;
    for layer in layers {
        let end = layer.len()?;
        if at >= end {
            continue;
        }
        let extent = layer.driver().status(at, len.min(end - at)).await?;
        len = extent.len;
        if !extent.allocated {
            continue;
        }
        if extent.zero {
            base.write_zeroes(at, len, ZeroFlags { unmap: true }).await?;
        } else {
            len = len.min(CHUNK);
            let data = Vector::zeroed(len as usize);
            layer.read(at, data.clone()).await?;
            base.write(at, data).await?;
        }
        break;
    }
    Ok(len)
}

/// Gives everything that an image has to the one that backs it, which is written only meanwhile.
/// Nobody else may change either of them.
pub async fn commit(top: &Arc<Node>) -> Result<()> {
    let base = top.child(Role::Backing).ok_or_else(|| Error::from_errno(libc::ENOTSUP))?;
    let was_read_only = base.is_read_only();
    base.set_writable(true).await?;
    let done = match top.yield_backing("commit") {
        Ok(writer) => {
            let done = move_all(top, &base).await;
            drop(writer);
            done.and(top.reclaim_backing())
        }
        Err(error) => Err(error),
    };
    let closed = match was_read_only {
        true => base.set_writable(false).await,
        false => base.flush().await,
    };
    done.and(closed)
}

async fn move_all(top: &Arc<Node>, base: &Arc<Node>) -> Result<()> {
    let len = top.len()?;
    if base.len()? < len {
        base.truncate(len, Preallocation::Off).await?;
    }
    let mut at = 0;
    while at < len {
        at += merge(std::slice::from_ref(top), base, at, len - at).await?;
    }
    base.flush().await?;
    if let Some(image) = top.driver().as_qcow2() {
        image.make_empty().await?;
    }
    top.flush().await
}
