//! The filter `blkdebug`, for tests: it fails requests after chosen events, holds them, and makes the
//! image below look like a device with an alignment and limits.

mod name;
mod rules;

use std::sync::Arc;

use parking_lot::Mutex;

pub use rules::{EVENTS, KINDS};
use rules::{Kind, Rules};

use crate::driver::{Breakpoints, Driver, Extent, Io, Pass, Preallocation, ZeroFlags};
use crate::lock::RwLock;
use crate::node::{Claim, Node, Permissions, Role};
use crate::open::Builder;
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

/// The filter.
pub struct Blkdebug {
    image: Arc<Node>,
    rules: Mutex<Rules>,
    limits: Limits,
    /// Claimed of the image whatever use is made of it, and not let to others.
    take: Permissions,
    unshare: Permissions,
    /// Held alone while the rest of a block is read and written with a part.
    parts: RwLock<()>,
}

/// What requests to the image must be like.
struct Limits {
    align: u64,
    max_transfer: u64,
    zero_unit: u64,
    max_zero: u64,
    discard_unit: u64,
    max_discard: u64,
}

/// What is not said to be less.
const MAX_REQUEST: u64 = i32::MAX as u64;

impl Limits {
    fn take(options: &mut Options) -> Result<Self> {
        let align = options.size("align")?.unwrap_or(0);
        if align >= MAX_REQUEST || align != 0 && !align.is_power_of_two() {
            return Err(Error::invalid(format!("Cannot meet constraints with align {align}")));
        }
        let align = align.max(1);
        let mut take = |key: &str, unit: u64| -> Result<u64> {
            let value = options.size(key)?.unwrap_or(0);
            if value >= MAX_REQUEST || value != 0 && !value.is_multiple_of(unit) {
                return Err(Error::invalid(format!("Cannot meet constraints with {key} {value}")));
            }
            Ok(value)
        };
        let max_transfer = take("max-transfer", align)?;
        let opt_zero = take("opt-write-zero", align)?;
        let zero_unit = opt_zero.max(align);
        let max_zero = take("max-write-zero", zero_unit)?;
        let opt_discard = take("opt-discard", align)?;
        let discard_unit = opt_discard.max(align);
        let max_discard = take("max-discard", discard_unit)?;
        let whole = |limit: u64, unit: u64| match limit {
            0 => MAX_REQUEST - MAX_REQUEST % unit,
            limit => limit,
        };
        Ok(Self {
            align,
            max_transfer: whole(max_transfer, align),
            zero_unit,
            max_zero: whole(max_zero, zero_unit),
            discard_unit,
            max_discard: whole(max_discard, discard_unit),
        })
    }
}

/// Opens the filter and what is below it.
pub async fn open(builder: &mut Builder<'_, '_>) -> Result<(String, Box<dyn Driver>)> {
    let described = builder.options.clone();
    let config = builder.options.text("config").filter(|name| !name.is_empty());
    let rules = Rules::take(config.as_deref(), &mut builder.options)?;
    let name = builder.options.text("x-image");
    let image = builder.open_child("image", Role::Image, name.as_deref()).await?;
    let missing = || Error::invalid("A block device must be specified for \"image\"");
    let image = image.ok_or_else(missing)?;
    let limits = Limits::take(&mut builder.options)?;
    let take = permissions(&mut builder.options, "take-child-perms")?;
    let unshare = permissions(&mut builder.options, "unshare-child-perms")?;
    let name = name::of(&described, config.as_deref(), &image);
    let parts = RwLock::new(());
    let rules = Mutex::new(rules);
    Ok((name, Box::new(Blkdebug { image, rules, limits, take, unshare, parts })))
}

fn permissions(options: &mut Options, key: &str) -> Result<Permissions> {
    let mut list = options.below(key);
    let mut all = Permissions::NONE;
    for index in 0.. {
        let Some(name) = list.text(&index.to_string()) else { break };
        let one = [
            ("consistent-read", Permissions::CONSISTENT_READ),
            ("write", Permissions::WRITE),
            ("write-unchanged", Permissions::WRITE_UNCHANGED),
            ("resize", Permissions::RESIZE),
        ];
        let found = one.iter().find(|(known, _)| *known == name);
        // QEMU has no name for what it reads here.
        let unknown = || Error::invalid(format!("Parameter 'null' does not accept value '{name}'"));
        all = all.with(found.ok_or_else(unknown)?.1);
    }
    match list.first_key() {
        None => Ok(all),
        Some(index) => Err(Error::invalid(format!("Unexpected key '{key}.{index}'"))),
    }
}

impl Blkdebug {
    async fn event(&self, event: &str) {
        let gates = self.rules.lock().reach(event);
        for gate in gates {
            gate.pass().await;
        }
    }

    fn check(&self, kind: Kind, at: u64, len: u64) -> Result<()> {
        self.rules.lock().check(kind, at, len)
    }

    /// A range, widened to whole blocks.
    fn blocks(&self, at: u64, len: u64) -> Result<(u64, u64)> {
        let align = self.limits.align;
        let end = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(align));
        let end = end.ok_or_else(|| Error::from_errno(libc::EIO))?;
        Ok((at - at % align, end))
    }

    async fn read_blocks(&self, at: u64, into: Vector) -> Result<()> {
        let mut done = 0;
        while done < into.len() as u64 {
            let len = (into.len() as u64 - done).min(self.limits.max_transfer);
            self.check(Kind::Read, at + done, len)?;
            let part = into.slice(done as usize, len as usize);
            self.image.driver().read(at + done, part).await?;
            done += len;
        }
        Ok(())
    }

    async fn write_blocks(&self, at: u64, from: Vector) -> Result<()> {
        self.event("pwritev").await;
        let mut done = 0;
        while done < from.len() as u64 {
            let len = (from.len() as u64 - done).min(self.limits.max_transfer);
            self.check(Kind::Write, at + done, len)?;
            let part = from.slice(done as usize, len as usize);
            self.image.write(at + done, part).await?;
            done += len;
        }
        self.event("pwritev_done").await;
        Ok(())
    }

    /// Writes parts of blocks with what is around them.
    async fn write_parts(&self, at: u64, from: Vector) -> Result<()> {
        let align = self.limits.align;
        let (start, end) = self.blocks(at, from.len() as u64)?;
        let stop = at + from.len() as u64;
        let head = Vector::zeroed((at - start) as usize);
        // What the image does not have behind its end is not written either.
        let end = end.min(self.image.len()?.max(stop));
        let tail = Vector::zeroed((end - stop) as usize);
        if !head.is_empty() {
            self.event("pwritev_rmw_head").await;
            let block = Vector::zeroed(align as usize);
            self.read_blocks(start, block.clone()).await?;
            head.write(0, &block.to_vec()[..head.len()]);
            self.event("pwritev_rmw_after_head").await;
        }
        if !tail.is_empty() {
            self.event("pwritev_rmw_tail").await;
            let block = Vector::zeroed((end - (stop - stop % align)) as usize);
            self.read_blocks(stop - stop % align, block.clone()).await?;
            tail.write(0, &block.to_vec()[(stop % align) as usize..]);
            self.event("pwritev_rmw_after_tail").await;
        }
        self.write_blocks(start, Vector::concat(&[head, from, tail])).await
    }

    /// Zeroes whole blocks: as such where they are large enough, by writing them elsewhere.
    async fn zero_blocks(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let (unit, end) = (self.limits.zero_unit, at + len);
        let first = at.next_multiple_of(unit).min(end);
        let last = (end - end % unit).max(first);
        self.event("pwritev_zero").await;
        for (from, to) in [(at, first), (first, last), (last, end)] {
            let whole = from.is_multiple_of(unit) && to.is_multiple_of(unit);
            let most = if whole { self.limits.max_zero } else { self.limits.max_transfer };
            let mut at = from;
            while at < to {
                // Zeroes that are written are memory.
                let len = (to - at).min(most).min(if whole { u64::MAX } else { 1 << 20 });
                if whole {
                    self.check(Kind::WriteZeroes, at, len)?;
                    self.image.write_zeroes(at, len, flags).await?;
                } else {
                    self.check(Kind::Write, at, len)?;
                    self.image.write(at, Vector::zeroed(len as usize)).await?;
                }
                at += len;
            }
        }
        self.event("pwritev_done").await;
        Ok(())
    }

    async fn write_any(&self, at: u64, from: Vector) -> Result<()> {
        let len = from.len() as u64;
        if self.limits.align == 1 {
            return self.write_blocks(at, from).await;
        }
        if (at | len).is_multiple_of(self.limits.align) {
            let _whole = self.parts.read().await;
            return self.write_blocks(at, from).await;
        }
        let _alone = self.parts.write().await;
        self.write_parts(at, from).await
    }

    async fn zero_any(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let (align, end) = (self.limits.align, at + len);
        let first = at.next_multiple_of(align).min(end);
        let last = (end - end % align).max(first);
        for (from, to) in [(at, first), (last, end)] {
            if from < to {
                self.write_any(from, Vector::zeroed((to - from) as usize)).await?;
            }
        }
        if first == last {
            return Ok(());
        }
        let _whole = self.parts.read().await;
        self.zero_blocks(first, last - first, flags).await
    }

    async fn discard_blocks(&self, at: u64, len: u64) -> Result<()> {
        let (align, unit, end) = (self.limits.align, self.limits.discard_unit, at + len);
        let mut at = at.next_multiple_of(align);
        let last = end - end % align;
        while at < last {
            // Up to where a whole unit begins, then whole units.
            let most = match at % unit {
                0 => self.limits.max_discard,
                inside => unit - inside,
            };
            let len = (last - at).min(most);
            self.check(Kind::Discard, at, len)?;
            self.image.discard(at, len).await?;
            at += len;
        }
        Ok(())
    }
}

impl Driver for Blkdebug {
    fn name(&self) -> &'static str {
        "blkdebug"
    }

    fn len(&self) -> Result<u64> {
        self.image.len()
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let (start, end) = self.blocks(at, into.len() as u64)?;
            let head = Vector::zeroed((at - start) as usize);
            let tail = Vector::zeroed((end - at) as usize - into.len());
            let whole = Vector::concat(&[head, into, tail]);
            self.read_blocks(start, whole).await
        })
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(self.write_any(at, from))
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(self.zero_any(at, len, flags))
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(self.discard_blocks(at, len))
    }

    fn keeps_changes(&self) -> bool {
        false
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(async move {
            self.check(Kind::Flush, 0, 0)?;
            self.image.flush().await
        })
    }

    fn close(&self) -> Io<'_, ()> {
        self.image.close()
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        self.image.truncate(len, preallocation)
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(async move {
            self.check(Kind::BlockStatus, at, len)?;
            self.image.driver().status(at, len).await
        })
    }

    fn cluster_size(&self) -> Option<u64> {
        self.image.driver().cluster_size()
    }

    fn child_claim(&self, _: Role, above: Claim, _: bool) -> Claim {
        Claim { needs: above.needs.with(self.take), shares: above.shares.without(self.unshare) }
    }

    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        Some(self)
    }
}

impl Breakpoints for Blkdebug {
    fn reach<'a>(&'a self, event: &'a str) -> Pass<'a> {
        Box::pin(self.event(event))
    }

    fn set(&self, event: &str, tag: &str) -> Result<()> {
        self.rules.lock().hold(event, tag)
    }

    fn remove(&self, tag: &str) -> Result<()> {
        match self.rules.lock().forget(tag) {
            true => Ok(()),
            false => Err(Error::from_errno(libc::ENOENT)),
        }
    }

    fn resume(&self, tag: &str) -> Result<()> {
        match self.rules.lock().resume(tag) {
            true => Ok(()),
            false => Err(Error::from_errno(libc::ENOENT)),
        }
    }

    fn is_suspended(&self, tag: &str) -> bool {
        self.rules.lock().is_held(tag)
    }

    fn take_said(&self) -> Vec<String> {
        self.rules.lock().take_said()
    }
}
