//! The filter `blkverify`, for tests: an image beside a raw copy. What differs ends the program.

use std::sync::Arc;

use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use crate::node::{Claim, Node, Role};
use crate::open::Builder;
use crate::vector::Vector;
use crate::{Error, Result};

struct Blkverify {
    raw: Arc<Node>,
    test: Arc<Node>,
}

/// Opens the filter and both images.
pub async fn open(builder: &mut Builder<'_, '_>) -> Result<(String, Box<dyn Driver>)> {
    let (raw, test) = (builder.options.text("x-raw"), builder.options.text("x-image"));
    let missing =
        |key: &str| Error::invalid(format!("A block device must be specified for \"{key}\""));
    let raw = builder.open_child("raw", Role::Raw, raw.as_deref()).await?;
    let raw = raw.ok_or_else(|| missing("raw"))?;
    let test = builder.open_image("test", Role::Test, test.as_deref()).await?;
    let test = test.ok_or_else(|| missing("test"))?;
    let name = format!("blkverify:{}:{}", raw.filename(), test.filename());
    Ok((name, Box::new(Blkverify { raw, test })))
}

/// What the filter is for. Going on could only hide where it began.
fn differs(what: &str, at: u64, len: usize, how: String) -> ! {
    base::error_report!("blkverify: {what} offset={at} bytes={len} {how}");
    std::process::exit(1)
}

/// Both requests must end alike.
fn same(what: &str, at: u64, len: usize, raw: Result<()>, test: Result<()>) -> Result<()> {
    let code = |result: &Result<()>| result.as_ref().err().map_or(0, |error| -error.errno());
    if code(&raw) != code(&test) {
        let how = format!("return value mismatch {} != {}", code(&raw), code(&test));
        differs(what, at, len, how);
    }
    test
}

impl Driver for Blkverify {
    fn name(&self) -> &'static str {
        "blkverify"
    }

    fn len(&self) -> Result<u64> {
        self.test.len()
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let copy = Vector::zeroed(into.len());
            let raw = self.raw.driver().read(at, copy.clone()).await;
            let test = self.test.driver().read(at, into.clone()).await;
            same("read", at, into.len(), raw, test)?;
            if let Some(inside) = into.first_difference(&copy) {
                let how = format!("contents mismatch at offset {}", at + inside as u64);
                differs("read", at, into.len(), how);
            }
            Ok(())
        })
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let raw = self.raw.write(at, from.clone()).await;
            let test = self.test.write(at, from.clone()).await;
            same("write", at, from.len(), raw, test)
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            let raw = self.raw.write_zeroes(at, len, flags).await;
            let test = self.test.write_zeroes(at, len, flags).await;
            same("write", at, len as usize, raw, test)
        })
    }

    /// What is discarded may read as anything: nothing could be compared any more.
    fn discard(&self, _: u64, _: u64) -> Io<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The copy need not survive a power cut.
    fn flush(&self) -> Io<'_, ()> {
        self.test.flush()
    }

    fn close(&self) -> Io<'_, ()> {
        self.test.close()
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        self.raw.truncate(len, preallocation)
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        self.raw.driver().status(at, len)
    }

    fn child_claim(&self, _: Role, above: Claim, _: bool) -> Claim {
        above
    }
}
