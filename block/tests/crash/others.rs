//! The same for the formats of other programs, opened as they are in a machine.

use std::sync::{Arc, LazyLock};

use block::driver::{Repair, ZeroFlags};
use block::engine::{Inline, block_on};
use block::formats::{parallels, qcow1, vdi, vhdx, vmdk, vpc};
use block::graph::Graph;
use block::node::Node;
use block::open::open_tree;
use block::options::Options;
use block::qcow2::Purpose;
use block::vector::Vector;
use proptest::prelude::*;

use super::disk::{Dice, Disk};
use super::{Model, SECTOR};

/// The disk: some blocks of the largest kind.
const SECTORS: usize = (4 << 20) / SECTOR;
/// Operations touch a place in each of these, so that there are blocks side by side.
const STRIDE: usize = (64 << 10) / SECTOR;

static GRAPH: LazyLock<Arc<Graph>> = LazyLock::new(|| Graph::new(Arc::new(Inline)).unwrap());

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, len: usize },
    Zero { at: usize, len: usize },
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..SECTORS / STRIDE, 0..STRIDE, 1..40_usize);
    let range = move || range().prop_map(|(block, inside, len)| (block * STRIDE + inside, len));
    prop_oneof![
        6 => range().prop_map(|(at, len)| Op::Write { at, len }),
        2 => range().prop_map(|(at, len)| Op::Zero { at, len }),
        3 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

async fn create(format: &str, file: &Arc<Node>) {
    let size = (SECTORS * SECTOR) as u64;
    match format {
        "vdi" => vdi::create(file, size, Default::default(), false).await.unwrap(),
        "parallels" => parallels::create(file, size, 1 << 16).await.unwrap(),
        "vpc" => vpc::create(file, size, false, true).await.unwrap(),
        "qcow" => qcow1::create(file, size, None, false).await.unwrap(),
        "vhdx" => {
            let options = vhdx::CreateOptions {
                size,
                log_size: 1 << 20,
                block_size: 1 << 20,
                fixed: false,
                zero_blocks: true,
            };
            vhdx::create(file, &options).await.unwrap();
        }
        _ => {
            let options = vmdk::CreateOptions {
                size,
                subformat: "monolithicSparse".into(),
                adapter: "ide".into(),
                hardware: "4".into(),
                tools: "2147483647".into(),
                zero_grains: false,
                parent: None,
            };
            let parts = options.parts("disk.vmdk");
            options.write(&parts, std::slice::from_ref(file)).await.unwrap();
        }
    }
}

async fn open(format: &str, disk: &Disk, purpose: Purpose) -> block::Result<Arc<Node>> {
    let file = disk.node();
    GRAPH.enter(&file);
    let mut options = Options::default();
    options.set("driver", format);
    options.set("file", file.name());
    let how = block::open::OpenOptions { purpose, ..GRAPH.how() };
    Ok(open_tree(None, options, &how, Some(&GRAPH)).await?.node)
}

/// Takes the steps of a story; as for qcow2.
async fn live(format: &str, ops: &[Op], disk: &Disk) -> Vec<(usize, Model)> {
    let mut node = open(format, disk, Purpose::Write).await.unwrap();
    disk.settle();
    let mut model = Model { sectors: vec![vec![0]; SECTORS] };
    let mut past = vec![(0, model.clone())];
    let mut value = 1_u8;
    for op in ops {
        match *op {
            Op::Write { at, len } => {
                let len = len.min(SECTORS - at);
                value = value % 250 + 2;
                model.set(at, len, value);
                past.push((disk.steps(), model.clone()));
                let from = Vector::zeroed(len * SECTOR);
                from.fill(value);
                node.write((at * SECTOR) as u64, from).await.unwrap();
            }
            Op::Zero { at, len } => {
                let len = len.min(SECTORS - at);
                model.set(at, len, 0);
                past.push((disk.steps(), model.clone()));
                let (at, len) = ((at * SECTOR) as u64, (len * SECTOR) as u64);
                node.write_zeroes(at, len, ZeroFlags::default()).await.unwrap();
            }
            Op::Flush => {
                node.flush().await.unwrap();
                model.flush();
            }
            Op::Reopen => {
                node.close().await.unwrap();
                drop(node);
                node = open(format, disk, Purpose::Write).await.unwrap();
                model.flush();
            }
        }
        past.push((disk.steps(), model.clone()));
    }
    past
}

fn inspect(format: &str, bytes: Vec<u8>, model: &Model) -> Result<(), String> {
    block_on(async {
        // What a log holds is done when the image is opened to be written.
        let disk = Disk::holding(bytes);
        let node = open(format, &disk, Purpose::Write).await.map_err(|e| e.to_string())?;
        let report = node.driver().check(Repair::Nothing).await.map_err(|e| e.to_string())?;
        // The number of blocks in a VDI's header comes behind their table.
        let wrong = |line: &&String| !line.contains("allocated blocks mismatch");
        if report.messages.iter().any(|line| wrong(&line)) || report.failure.is_some() {
            return Err(report.messages.join("\n"));
        }
        let data = node.read_bytes(0, SECTORS * SECTOR).await.map_err(|e| e.to_string())?;
        for (index, (sector, allowed)) in data.chunks(SECTOR).zip(&model.sectors).enumerate() {
            let value = sector[0];
            if sector.iter().any(|&byte| byte != value) || !allowed.contains(&value) {
                return Err(format!("sector {index} begins with {value}, may be {allowed:?}"));
            }
        }
        Ok(())
    })
}

fn survives(format: &str, ops: &[Op], seed: u64) -> Result<(), String> {
    let disk = Disk::default();
    block_on(create(format, &disk.node()));
    disk.settle();
    let past = block_on(live(format, ops, &disk));
    let mut failure = None;
    disk.cuts(&mut Dice(seed), |taken, bytes| {
        if failure.is_some() {
            return;
        }
        let then = past.partition_point(|(steps, _)| *steps < taken).max(1) - 1;
        let verdict = inspect(format, bytes, &past[then].1);
        failure = verdict.err().map(|text| format!("{format}, after {taken} steps: {text}"));
    });
    failure.map_or(Ok(()), Err)
}

proptest! {
    // Each moment copies the disk several times.
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn other_formats_lose_nothing_that_was_flushed(
        ops in proptest::collection::vec(op(), 1..10), seed in any::<u64>()
    ) {
        for format in ["vhdx", "vdi", "vmdk"] {
            let verdict = survives(format, &ops, seed);
            prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
        }
    }
}

/// Whatever the bytes are: nothing panics and everything ends.
fn survive(format: &str, bytes: Vec<u8>, purpose: Purpose) {
    let _ = block_on(async {
        let node = open(format, &Disk::holding(bytes), purpose).await?;
        let _ = node.driver().check(Repair::Nothing).await;
        let len = node.len()?.min(4 << 20);
        for at in (0..len).step_by(1 << 18) {
            let _ = node.read(at, Vector::zeroed(4096.min((len - at) as usize))).await;
            let _ = node.driver().status(at, len - at).await?;
        }
        if purpose != Purpose::Read {
            for at in [0, len / 2] {
                let _ = node.write(at, Vector::zeroed(512)).await;
                let _ = node.write_zeroes(at, 8192, ZeroFlags { unmap: true }).await;
            }
            let _ = node.close().await;
        }
        block::Result::Ok(())
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_of_other_formats_are_survived(
        damage in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![Just(0xff), any::<u8>()], 0..4_u8, 1..9_usize), 1..12
        ),
        writing in any::<bool>(),
    ) {
        for format in ["vhdx", "vdi", "vmdk", "parallels", "vpc", "qcow"] {
            let disk = Disk::default();
            block_on(async {
                create(format, &disk.node()).await;
                let node = open(format, &disk, Purpose::Write).await.unwrap();
                node.write(100_000, Vector::zeroed(200_000)).await.unwrap();
                node.close().await.unwrap();
            });
            let mut bytes = disk.bytes();
            for (place, value, where_, run) in &damage {
                // Headers and tables more often than data; those of VHDX begin at 2 MiB.
                let (start, len) = match (format, where_) {
                    ("vhdx", 0 | 1) => (2 << 20, 64),
                    ("vhdx", 2) => (3 << 20, 65_600),
                    (_, 0) => (0, 200),
                    (_, 1 | 2) => (0, 4096),
                    _ => (0, bytes.len()),
                };
                let inside = place.index(len.min(bytes.len() - start));
                // Whole fields at times: sums of them shall not overflow.
                let end = bytes.len().min(start + inside + run);
                bytes[start + inside..end].fill(*value);
            }
            let purpose = if writing { Purpose::Write } else { Purpose::Read };
            survive(format, bytes, purpose);
        }
    }
}
