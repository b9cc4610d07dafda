//! Images go back and forth between this crate and QEMU's tools: what one writes, the other finds
//! sound and the same. Needs `qemu-img` and `qemu-io` (package qemu-utils); without them these tests
//! say so and have nothing to compare with.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use block::driver::ZeroFlags;
use block::engine::{HostIo, Inline, Pool, block_on};
use block::open::{OpenOptions, open};
use block::qcow2::Purpose;
use block::vector::Vector;
use proptest::prelude::*;

const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// One test at a time: a child process holds the locks of all open files until it executes its program.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn oracle_is_here() -> bool {
    let here = Path::new(QEMU_IMG).exists();
    if !here {
        eprintln!("{QEMU_IMG} is not installed: nothing to compare with");
    }
    here
}

fn theirs(program: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(program).current_dir(dir).args(args).output().unwrap()
}

/// (exit code, stdout, stderr) of our tool.
fn ours(args: &[&str]) -> (u8, String, String) {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = block::tools::run(&args, &mut out, &mut err, false);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Both tools say the same.
fn same(dir: &Path, args: &[&str]) {
    let output = theirs(QEMU_IMG, dir, args);
    let expected = (
        output.status.code().unwrap() as u8,
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap().replace(QEMU_IMG, "qemu-img"),
    );
    assert_eq!(ours(args), expected, "{args:?}");
}

/// How an image is opened to be written.
fn writing(io: Arc<dyn HostIo>) -> OpenOptions {
    OpenOptions {
        format: Some("qcow2".into()),
        purpose: Purpose::Write,
        force_share: false,
        no_backing: false,
        no_io: false,
        secrets: Default::default(),
        throttle_groups: Default::default(),
        checks: false,
        io,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, len: usize, byte: u8 },
    Zero { at: usize, len: usize, unmap: bool },
    Flush,
    Reopen,
}

fn op(size: usize) -> impl Strategy<Value = Op> {
    let range = (0..size, 1..size / 3);
    prop_oneof![
        6 => (range.clone(), 1..=255_u8).prop_map(move |((at, len), byte)| {
            Op::Write { at, len: len.min(size - at), byte }
        }),
        3 => (range, any::<bool>()).prop_map(move |((at, len), unmap)| {
            Op::Zero { at, len: len.min(size - at), unmap }
        }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Clone, Debug)]
struct Shape {
    options: String,
    size: usize,
    backed: bool,
    pool: bool,
    ops: Vec<Op>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let form = prop_oneof![
        3 => (9..=17_u32, 0..=6_u32).prop_map(|(cluster, refcount)| {
            format!("cluster_size={},refcount_bits={}", 1 << cluster, 1 << refcount)
        }),
        1 => (9..=17_u32).prop_map(|cluster| format!("compat=0.10,cluster_size={}", 1 << cluster)),
    ];
    (form, 1..4000_usize, any::<bool>(), any::<bool>()).prop_flat_map(
        |(options, sectors, backed, pool)| {
            let size = sectors * 512;
            proptest::collection::vec(op(size), 1..25).prop_map(move |ops| Shape {
                options: options.clone(),
                size,
                backed,
                pool,
                ops,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn what_we_write_qemu_reads(shape in shape()) {
        if !oracle_is_here() {
            return Ok(());
        }
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (image, base, model) = (path("a.qcow2"), path("base.raw"), path("model.raw"));
        let mut bytes = vec![0; shape.size];
        let mut create = vec!["create", "-q", "-f", "qcow2", "-o", &shape.options];
        if shape.backed {
            // Shorter than the image.
            let len = shape.size / 2;
            bytes[..len].fill(0xbb);
            std::fs::write(&base, &bytes[..len]).unwrap();
            create.extend(["-b", &base, "-F", "raw"]);
        }
        let size = shape.size.to_string();
        create.extend([image.as_str(), size.as_str()]);
        prop_assert_eq!(ours(&create), (0, String::new(), String::new()));
        let options = writing(if shape.pool { Arc::new(Pool::new()) } else { Arc::new(Inline) });
        let mut node = Some(block_on(open(&image, &options)).unwrap().node);
        for op in &shape.ops {
            let top = node.as_ref().unwrap();
            match *op {
                Op::Write { at, len, byte } => {
                    bytes[at..at + len].fill(byte);
                    let from = Vector::zeroed(len);
                    from.fill(byte);
                    block_on(top.write(at as u64, from)).unwrap();
                }
                Op::Zero { at, len, unmap } => {
                    bytes[at..at + len].fill(0);
                    let zero = top.write_zeroes(at as u64, len as u64, ZeroFlags { unmap });
                    block_on(zero).unwrap();
                }
                Op::Flush => block_on(top.flush()).unwrap(),
                Op::Reopen => {
                    block_on(top.flush()).unwrap();
                    drop(node.take());
                    node = Some(block_on(open(&image, &options)).unwrap().node);
                }
            }
        }
        let top = node.unwrap();
        prop_assert!(block_on(top.read_bytes(0, shape.size)).unwrap() == bytes);
        block_on(top.flush()).unwrap();
        drop(top);
        std::fs::write(&model, &bytes).unwrap();
        let check = theirs(QEMU_IMG, dir.path(), &["check", "-q", &image]);
        prop_assert!(check.status.success(), "{:?}", check);
        let compare = ["compare", "-f", "qcow2", "-F", "raw", &image, &model];
        let compared = theirs(QEMU_IMG, dir.path(), &compare);
        prop_assert!(compared.status.success(), "{:?}", compared);
        same(dir.path(), &compare);
        // Where an image is sparse, QEMU looks for holes inside its clusters.
        let len = std::fs::metadata(&image).unwrap().len().to_string();
        theirs("/usr/bin/fallocate", dir.path(), &["-l", &len, &image]);
        same(dir.path(), &["map", "--output=json", &image]);
        same(dir.path(), &["map", "-f", "qcow2", &image]);
        same(dir.path(), &["info", "--output=json", &image]);
        same(dir.path(), &["check", "--output=json", &image]);
    }

    #[test]
    fn both_write_in_turn(shape in shape(), extended in any::<bool>()) {
        if !oracle_is_here() {
            return Ok(());
        }
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (image, model) = (path("a.qcow2"), path("model.raw"));
        let mut bytes = vec![0; shape.size];
        let size = shape.size.to_string();
        let form = if extended { "extended_l2=on,cluster_size=16k" } else { &shape.options };
        let create = ["create", "-q", "-f", "qcow2", "-o", form, &image, &size];
        prop_assert!(theirs(QEMU_IMG, dir.path(), &create).status.success());
        let options = writing(if shape.pool { Arc::new(Pool::new()) } else { Arc::new(Inline) });
        for (turn, ops) in shape.ops.chunks(3).enumerate() {
            let mut commands = Vec::new();
            let node = (turn % 2 == 0).then(|| block_on(open(&image, &options)).unwrap().node);
            for op in ops {
                match *op {
                    Op::Write { at, len, byte } => {
                        bytes[at..at + len].fill(byte);
                        commands.push(format!("write -P {byte} {at} {len}"));
                        if let Some(node) = &node {
                            let from = Vector::zeroed(len);
                            from.fill(byte);
                            block_on(node.write(at as u64, from)).unwrap();
                        }
                    }
                    Op::Zero { at, len, unmap } => {
                        bytes[at..at + len].fill(0);
                        let how = if unmap { "-u" } else { "" };
                        commands.push(format!("write -z {how} {at} {len}"));
                        if let Some(node) = &node {
                            let zero = node.write_zeroes(at as u64, len as u64, ZeroFlags { unmap });
                            block_on(zero).unwrap();
                        }
                    }
                    Op::Flush | Op::Reopen => {}
                }
            }
            if node.is_none() && !commands.is_empty() {
                let mut io: Vec<&str> = Vec::new();
                commands.iter().for_each(|command| io.extend(["-c", command.as_str()]));
                io.push(&image);
                prop_assert!(theirs("/usr/bin/qemu-io", dir.path(), &io).status.success());
            }
            // Ours goes without a flush: closing is enough.
            drop(node);
            let check = theirs(QEMU_IMG, dir.path(), &["check", &image]);
            prop_assert!(check.status.success(), "{:?}", check);
            same(dir.path(), &["check", &image]);
        }
        std::fs::write(&model, &bytes).unwrap();
        let compare = ["compare", "-f", "qcow2", "-F", "raw", &image, &model];
        let compared = theirs(QEMU_IMG, dir.path(), &compare);
        prop_assert!(compared.status.success(), "{:?}", compared);
        same(dir.path(), &compare);
    }

    #[test]
    fn what_qemu_writes_we_read(shape in shape(), compressed in any::<bool>()) {
        if !oracle_is_here() {
            return Ok(());
        }
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (image, raw, packed) = (path("a.qcow2"), path("a.raw"), path("c.qcow2"));
        let size = shape.size.to_string();
        let create = ["create", "-q", "-f", "qcow2", "-o", &shape.options, &image, &size];
        prop_assert!(theirs(QEMU_IMG, dir.path(), &create).status.success());
        let mut commands = Vec::new();
        for op in &shape.ops {
            match op {
                Op::Write { at, len, byte } => commands.push(format!("write -P {byte} {at} {len}")),
                Op::Zero { at, len, unmap } => {
                    let unmap = if *unmap { "-u" } else { "" };
                    commands.push(format!("write -z {unmap} {at} {len}"));
                }
                Op::Flush | Op::Reopen => commands.push("flush".into()),
            }
        }
        let mut io: Vec<&str> = Vec::new();
        commands.iter().for_each(|command| io.extend(["-c", command.as_str()]));
        io.push(&image);
        prop_assert!(theirs("/usr/bin/qemu-io", dir.path(), &io).status.success());
        same(dir.path(), &["check", &image]);
        same(dir.path(), &["map", "--output=json", &image]);
        same(dir.path(), &["info", &image]);
        let mut pack = vec!["convert", "-O", "qcow2"];
        if compressed {
            pack.push("-c");
        }
        pack.extend([image.as_str(), packed.as_str()]);
        prop_assert_eq!(ours(&pack), (0, String::new(), String::new()));
        let compare = ["compare", &image, &packed];
        let compared = theirs(QEMU_IMG, dir.path(), &compare);
        prop_assert!(compared.status.success(), "{:?}", compared);
        let check = theirs(QEMU_IMG, dir.path(), &["check", &packed]);
        prop_assert!(check.status.success(), "{:?}", check);
        prop_assert!(theirs(QEMU_IMG, dir.path(), &pack).status.success());
        same(dir.path(), &["check", &packed]);
        prop_assert_eq!(ours(&["convert", "-O", "raw", &packed, &raw]).0, 0);
        same(dir.path(), &["compare", "-f", "qcow2", "-F", "raw", &image, &raw]);
    }
}

#[test]
fn mistakes_get_the_same_words() {
    if !oracle_is_here() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.qcow2").to_str().unwrap().to_owned();
    same(dir.path(), &["create", "-f", "qcow2", "-o", "cluster_size=4k", &image, "10M"]);
    same(dir.path(), &["info", "/nosuch"]);
    same(dir.path(), &["info", "-f", "foo", &image]);
    same(dir.path(), &["info"]);
    same(dir.path(), &["foo"]);
    same(dir.path(), &[]);
    same(dir.path(), &["check", "/dev/null"]);
    same(dir.path(), &["resize", &image, "5M"]);
    same(dir.path(), &["resize", &image, "+5M"]);
    same(dir.path(), &["create", "-f", "foo", "x", "1M"]);
    same(dir.path(), &["create", "-f", "qcow2", "-o", "foo=1", "/nosuch/x", "1M"]);
}
