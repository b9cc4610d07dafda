//! The power fails at every write and every barrier, and the disk keeps any part of what was not
//! flushed. After each cut the image must be sound (lost clusters at most), and everything that was
//! acknowledged before a flush must be there. A sample goes before QEMU's own checker, too.

#![allow(clippy::unwrap_used)]

mod disk;
mod others;

use std::path::Path;
use std::process::Command;

use block::driver::{Preallocation, Repair, SnapshotTime, ZeroFlags};
use block::engine::block_on;
use block::node::Node;
use block::qcow2::{self, CreateOptions, Purpose, Qcow2, Settings};
use block::vector::Vector;
use disk::{Dice, Disk};
use proptest::prelude::*;
use std::sync::Arc;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, len: usize },
    Zero { at: usize, len: usize, unmap: bool },
    Discard { at: usize, len: usize },
    Pack { cluster: usize },
    Grow { by: usize },
    Shrink { by: usize },
    Keep,
    Back { which: usize },
    Forget { which: usize },
    Close,
    Flush,
}

#[derive(Clone, Debug)]
struct Story {
    options: CreateOptions,
    backed: bool,
    seed: u64,
    ops: Vec<Op>,
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..400_usize, 1..60_usize);
    prop_oneof![
        8 => range().prop_map(|(at, len)| Op::Write { at, len }),
        3 => (range(), any::<bool>()).prop_map(|((at, len), unmap)| Op::Zero { at, len, unmap }),
        3 => range().prop_map(|(at, len)| Op::Discard { at, len }),
        2 => (0..50_usize).prop_map(|cluster| Op::Pack { cluster }),
        1 => (1..100_usize).prop_map(|by| Op::Grow { by }),
        1 => (1..50_usize).prop_map(|by| Op::Shrink { by }),
        2 => Just(Op::Keep),
        1 => (0..4_usize).prop_map(|which| Op::Back { which }),
        1 => (0..4_usize).prop_map(|which| Op::Forget { which }),
        1 => Just(Op::Close),
        3 => Just(Op::Flush),
    ]
}

fn story() -> impl Strategy<Value = Story> {
    let kind = prop_oneof![
        1 => Just((2, false)), 2 => Just((3, false)), 1 => Just((3, true))
    ];
    let form = (kind, 9..=13_u32, 0..=6_u32, any::<bool>(), any::<bool>());
    let ops = proptest::collection::vec(op(), 1..25);
    (form, any::<u64>(), ops).prop_map(
        |(((version, extended_l2), cluster, refcount, backed, lazy), seed, ops)| Story {
            options: CreateOptions {
                size: 200 * SECTOR as u64,
                version,
                cluster_size: if extended_l2 { 16384 } else { 1 << cluster },
                refcount_bits: if version == 2 { 16 } else { 1 << refcount },
                extended_l2,
                lazy_refcounts: lazy && version == 3,
                ..CreateOptions::default()
            },
            backed,
            seed,
            ops,
        },
    )
}

/// What each sector of the guest's disk may hold: numbers that fill a sector each.
#[derive(Clone)]
struct Model {
    /// The last value is the newest; those before it may come back after a power cut.
    sectors: Vec<Vec<u8>>,
}

impl Model {
    fn set(&mut self, at: usize, len: usize, value: u8) {
        self.sectors[at..at + len].iter_mut().for_each(|sector| sector.push(value));
    }

    fn flush(&mut self) {
        self.sectors.iter_mut().for_each(|sector| drop(sector.drain(..sector.len() - 1)));
    }
}

async fn open(disk: &Disk, backing: Option<&Disk>, purpose: Purpose) -> block::Result<Arc<Node>> {
    let file = disk.node();
    let header = Qcow2::read_header(&file).await?;
    let settings = Settings {
        backing: backing.map(Disk::node),
        pass_discard_request: true,
        ..Settings::new(purpose)
    };
    let image = Qcow2::open(file, header, settings).await?;
    Ok(Node::new(None, "image", purpose == Purpose::Read, Box::new(image), Vec::new()))
}

/// The image is sound and holds what the model allows.
fn inspect(
    bytes: Vec<u8>,
    backing: Option<&Disk>,
    lazy: bool,
    model: &Model,
) -> Result<(), String> {
    block_on(async {
        // Refcounts may be stale behind the dirty bit: opening the image to write makes them right.
        let purpose = if lazy { Purpose::Write } else { Purpose::Read };
        let node =
            open(&Disk::holding(bytes), backing, purpose).await.map_err(|e| e.to_string())?;
        let report = node.driver().check(Repair::Nothing).await.map_err(|e| e.to_string())?;
        if report.corruptions + report.errors > 0 {
            return Err(report.messages.join("\n"));
        }
        let len = (node.len().unwrap() as usize).min(model.sectors.len() * SECTOR);
        let data = node.read_bytes(0, len).await.map_err(|e| e.to_string())?;
        for (index, (sector, allowed)) in data.chunks(SECTOR).zip(&model.sectors).enumerate() {
            let value = sector[0];
            if sector.iter().any(|&byte| byte != value) || !allowed.contains(&value) {
                return Err(format!("sector {index} begins with {value}, may be {allowed:?}"));
            }
        }
        Ok(())
    })
}

/// QEMU's own checker finds no more than lost clusters.
fn sound_for_qemu(bytes: &[u8], lazy: bool) -> Result<(), String> {
    const QEMU_IMG: &str = "/usr/bin/qemu-img";
    if !Path::new(QEMU_IMG).exists() {
        return Ok(());
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let check = Command::new(QEMU_IMG)
        .args(["check", "-f", "qcow2"])
        .args(lazy.then_some(["-r", "all"]).into_iter().flatten())
        .arg(file.path())
        .output()
        .unwrap();
    match check.status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(format!("{check:?}")),
    }
}

/// Takes the steps of a story; returns, for each moment, how many disk steps were taken when the model
/// became what it is.
async fn live(story: &Story, disk: &Disk, backing: Option<&Disk>) -> Vec<(usize, Model)> {
    qcow2::create(&disk.node(), &story.options).await.unwrap();
    disk.settle();
    let node = open(disk, backing, Purpose::Write).await.unwrap();
    disk.settle();
    let first = if backing.is_some() { 1 } else { 0 };
    let mut model = Model { sectors: vec![vec![first]; story.options.size as usize / SECTOR] };
    let mut past = vec![(0, model.clone())];
    let mut value = 1_u8;
    let mut kept: Vec<(String, Model)> = Vec::new();
    let snapshots = node.driver().snapshots().unwrap();
    for op in &story.ops {
        let sectors = model.sectors.len();
        let clip = |at: usize, len: usize| (at % sectors, len.min(sectors - at % sectors));
        // A cut during the operation may show its effect.
        match *op {
            Op::Write { at, len } => {
                let (at, len) = clip(at, len);
                value = value % 250 + 2;
                model.set(at, len, value);
                past.push((disk.steps(), model.clone()));
                let from = Vector::zeroed(len * SECTOR);
                from.fill(value);
                node.write((at * SECTOR) as u64, from).await.unwrap();
            }
            Op::Zero { at, len, unmap } => {
                let (at, len) = clip(at, len);
                model.set(at, len, 0);
                past.push((disk.steps(), model.clone()));
                let (at, len) = ((at * SECTOR) as u64, (len * SECTOR) as u64);
                node.write_zeroes(at, len, ZeroFlags { unmap }).await.unwrap();
            }
            Op::Discard { at, len } => {
                let (at, len) = clip(at, len);
                model.set(at, len, 0);
                // Only whole clusters go; parts of clusters stay as they are.
                let (start, bytes) = ((at * SECTOR) as u64, (len * SECTOR) as u64);
                past.push((disk.steps(), model.clone()));
                node.discard(start, bytes).await.unwrap();
                let seen = node.read_bytes(start, len * SECTOR).await.unwrap();
                for (index, sector) in seen.chunks(SECTOR).enumerate() {
                    model.sectors[at + index].push(sector[0]);
                }
            }
            Op::Pack { cluster } => {
                let size = story.options.cluster_size as usize / SECTOR;
                let at = cluster * size % sectors / size * size;
                let len = size.min(sectors - at);
                value = value % 250 + 2;
                model.set(at, len, value);
                past.push((disk.steps(), model.clone()));
                let from = Vector::zeroed(len * SECTOR);
                from.fill(value);
                let place = (at * SECTOR) as u64;
                // Where something is already, only plain data can go.
                if node.write_compressed(place, from.clone()).await.is_err() {
                    node.write(place, from).await.unwrap();
                }
            }
            // A snapshot of version 2 does not know its length.
            Op::Grow { .. } | Op::Shrink { .. }
                if story.options.version == 2 && !kept.is_empty() => {}
            Op::Grow { by } => {
                model.sectors.resize(sectors + by, vec![0]);
                past.push((disk.steps(), model.clone()));
                let len = (model.sectors.len() * SECTOR) as u64;
                node.truncate(len, Preallocation::Off).await.unwrap();
            }
            Op::Shrink { by } => {
                let rest = sectors - by.min(sectors - 1);
                // What is cut off may go before the length does.
                model.sectors[rest..].iter_mut().for_each(|sector| sector.extend([first, 0]));
                past.push((disk.steps(), model.clone()));
                let shrunk = node.truncate((rest * SECTOR) as u64, Preallocation::Off).await;
                if shrunk.is_ok() {
                    model.sectors.truncate(rest);
                } else {
                    let keep = |sector: &mut Vec<u8>| sector.truncate(sector.len() - 2);
                    model.sectors[rest..].iter_mut().for_each(keep);
                }
            }
            Op::Keep => {
                past.push((disk.steps(), model.clone()));
                let name = format!("s{value}-{}", past.len());
                let made = snapshots.create(&name, SnapshotTime::default()).await;
                if made.is_ok() {
                    model.flush();
                    kept.push((name, model.clone()));
                }
            }
            Op::Back { which } if !kept.is_empty() => {
                let (name, old) = &kept[which % kept.len()];
                // Either state, until it is done.
                let both = sectors.max(old.sectors.len());
                let mut during = model.clone();
                during.sectors.resize(both, vec![0]);
                for (sector, old) in during.sectors.iter_mut().zip(&old.sectors) {
                    sector.extend(old);
                }
                past.push((disk.steps(), during));
                snapshots.apply(name).await.unwrap();
                model = old.clone();
            }
            Op::Forget { which } if !kept.is_empty() => {
                let (name, _) = kept.remove(which % kept.len());
                snapshots.delete(&name).await.unwrap();
                model.flush();
            }
            Op::Back { .. } | Op::Forget { .. } => {}
            Op::Close => {
                node.close().await.unwrap();
                model.flush();
            }
            Op::Flush => {
                node.flush().await.unwrap();
                model.flush();
            }
        }
        past.push((disk.steps(), model.clone()));
    }
    past
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_loses_nothing_that_was_flushed(story in story()) {
        let backing = story.backed.then(|| Disk::holding(vec![1; story.options.size as usize]));
        let disk = Disk::default();
        let past = block_on(live(&story, &disk, backing.as_ref()));
        let mut dice = Dice(story.seed);
        let lazy = story.options.lazy_refcounts;
        let mut failure = None;
        let mut sample = Dice(story.seed ^ 0x5eed);
        disk.cuts(&mut dice, |taken, bytes| {
            if failure.is_some() {
                return;
            }
            // The newest model whose operation had begun when this many steps were taken.
            let then = past.partition_point(|(steps, _)| *steps < taken).max(1) - 1;
            let model = &past[then].1;
            let mut verdict = inspect(bytes.clone(), backing.as_ref(), lazy, model);
            if verdict.is_ok() && sample.roll(100) == 0 {
                verdict = sound_for_qemu(&bytes, lazy);
            }
            failure = verdict.err().map(|text| format!("after {taken} steps: {text}"));
        });
        prop_assert!(failure.is_none(), "{}", failure.unwrap());
    }
}
