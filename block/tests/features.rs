//! What qcow2 and LUKS images can have, in both directions: made here and looked at by QEMU's tools,
//! made by QEMU and used here. Without `qemu-img` and `qemu-io` there is nothing to compare with.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::driver::{BitmapChange, Preallocation, Repair, SnapshotTime, ZeroFlags};
use block::engine::{HostIo, HostOp, Inline, Pool, block_on, spawn};
use block::luks::{self, KeyChange, LuksOptions};
use block::node::Node;
use block::open::{OpenOptions, create_file, open};
use block::qcow2::{self, AmendOptions, CreateOptions, NewEncryption, Purpose, Qcow2, Settings};
use block::secret::{SecretOptions, Secrets};
use block::vector::Vector;

const SIZE: u64 = 4 << 20;
/// One at a time: a child process holds the locks of open files until it executes its program.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

struct Bench {
    dir: tempfile::TempDir,
    _alone: std::sync::MutexGuard<'static, ()>,
}

impl Bench {
    /// `None` without QEMU's tools.
    fn new() -> Option<Self> {
        if !Path::new("/usr/bin/qemu-img").exists() {
            eprintln!("qemu-img is not installed: nothing to compare with");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Some(Self { dir: tempfile::tempdir().unwrap(), _alone: alone })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs one of QEMU's tools; it must succeed.
    fn theirs(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(format!("/usr/bin/{program}"));
        let output = command.current_dir(self.dir.path()).args(args).output().unwrap();
        let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{program} {args:?}: {err}");
        String::from_utf8(out).unwrap()
    }

    fn create(&self, name: &str, options: &CreateOptions) {
        block_on(async {
            let file = create_file(&self.path(name), Arc::new(Inline)).await.unwrap();
            let data = match &options.data_file {
                Some(data) => Some(create_file(&self.path(data), Arc::new(Inline)).await.unwrap()),
                None => None,
            };
            qcow2::create_with_data(&file, data, options).await.unwrap();
        });
    }

    fn open(&self, name: &str, password: Option<&str>) -> Arc<Node> {
        let secrets = Secrets::default();
        let mut name = self.path(name);
        if let Some(password) = password {
            let options = SecretOptions { data: Some(password.into()), ..SecretOptions::default() };
            secrets.add("s", &options).unwrap();
            let format = if name.ends_with("luks") { "luks" } else { "qcow2" };
            let key = if format == "luks" { "key-secret" } else { "encrypt.key-secret" };
            name = format!(
                "json:{{\"driver\":\"{format}\",\"{key}\":\"s\",\"file.filename\":\"{name}\"}}"
            );
        }
        let options = OpenOptions {
            format: None,
            purpose: Purpose::Write,
            force_share: false,
            no_backing: false,
            no_io: false,
            secrets,
            throttle_groups: Default::default(),
            checks: false,
            io: Arc::new(Inline),
        };
        block_on(open(&name, &options)).unwrap().node
    }
}

fn options() -> CreateOptions {
    CreateOptions { size: SIZE, ..CreateOptions::default() }
}

fn fill(node: &Node, at: u64, len: usize, byte: u8) {
    let from = Vector::zeroed(len);
    from.fill(byte);
    block_on(node.write(at, from)).unwrap();
}

fn sound(node: &Node) {
    let report = block_on(node.driver().check(Repair::Nothing)).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
}

fn bytes(node: &Node) -> Vec<u8> {
    block_on(node.read_bytes(0, node.len().unwrap() as usize)).unwrap()
}

/// Writes all over the image and returns what must be there.
fn scribble(node: &Node) -> Vec<u8> {
    let mut model = bytes(node);
    for (at, len, byte) in
        [(1000, 300, 1), (70_000, 200_000, 2), (69_000, 5000, 3), (1 << 20, 512, 4)]
    {
        fill(node, at, len, byte);
        model[at as usize..at as usize + len].fill(byte);
    }
    for (at, len, unmap) in [(80_000_u64, 30_000, true), (150_000, 70_000, false)] {
        block_on(node.write_zeroes(at, len, ZeroFlags { unmap })).unwrap();
        model[at as usize..(at + len) as usize].fill(0);
    }
    fill(node, 85_000, 3000, 5);
    model[85_000..88_000].fill(5);
    assert!(bytes(node) == model);
    model
}

#[test]
fn subclusters_data_files_and_places_ahead_of_time() {
    let Some(bench) = Bench::new() else { return };
    let cases = [
        CreateOptions { extended_l2: true, ..options() },
        CreateOptions { extended_l2: true, cluster_size: 16384, refcount_bits: 1, ..options() },
        CreateOptions { data_file: Some("d.raw".into()), ..options() },
        CreateOptions { data_file: Some("d.raw".into()), data_file_raw: true, ..options() },
        CreateOptions { preallocation: Preallocation::Metadata, ..options() },
        CreateOptions { preallocation: Preallocation::Falloc, ..options() },
        CreateOptions { preallocation: Preallocation::Full, cluster_size: 4096, ..options() },
        CreateOptions { preallocation: Preallocation::Metadata, extended_l2: true, ..options() },
    ];
    for case in cases {
        bench.create("a.qcow2", &case);
        bench.theirs("qemu-img", &["check", "a.qcow2"]);
        let node = bench.open("a.qcow2", None);
        let model = scribble(&node);
        block_on(node.close()).unwrap();
        sound(&node);
        drop(node);
        std::fs::write(bench.path("model"), &model).unwrap();
        bench.theirs("qemu-img", &["check", "a.qcow2"]);
        bench.theirs("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", "a.qcow2", "model"]);
        if case.data_file_raw {
            assert!(std::fs::read(bench.path("d.raw")).unwrap() == model);
        }
        // And on by QEMU, then read here.
        bench.theirs(
            "qemu-io",
            &["-c", "write -P 9 3000 100000", "-c", "write -z 8192 6000", "a.qcow2"],
        );
        let mut model = model;
        model[3000..103_000].fill(9);
        model[8192..14_192].fill(0);
        let node = bench.open("a.qcow2", None);
        assert!(bytes(&node) == model, "{case:?}");
        sound(&node);
    }
}

#[test]
fn encrypted_images_open_on_both_sides() {
    let Some(bench) = Bench::new() else { return };
    let quick = LuksOptions { iter_time: 10, ..LuksOptions::default() };
    let essiv = LuksOptions {
        cipher_alg: "serpent-256".into(),
        cipher_mode: "cbc".into(),
        ivgen_alg: Some("essiv".into()),
        ..quick.clone()
    };
    let password = b"letmein".to_vec();
    for encryption in [
        NewEncryption::Luks(quick.clone(), password.clone()),
        NewEncryption::Luks(essiv, password.clone()),
        NewEncryption::Aes(password.clone()),
    ] {
        bench.create("a.qcow2", &CreateOptions { encryption, ..options() });
        let node = bench.open("a.qcow2", Some("letmein"));
        let model = scribble(&node);
        block_on(node.close()).unwrap();
        sound(&node);
        drop(node);
        std::fs::write(bench.path("model"), &model).unwrap();
        let image = "driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2";
        let secret = "secret,id=s,data=letmein";
        bench.theirs(
            "qemu-img",
            &[
                "compare",
                "--object",
                secret,
                "--image-opts",
                image,
                "driver=raw,file.filename=model",
            ],
        );
        let raw = std::fs::read(bench.path("a.qcow2")).unwrap();
        assert!(!raw.windows(512).any(|sector| sector.iter().all(|&byte| byte == 2)));
    }
    // The format of its own, made by each side.
    bench.theirs(
        "qemu-img",
        &[
            "create",
            "-q",
            "--object",
            "secret,id=s,data=letmein",
            "-f",
            "luks",
            "-o",
            "key-secret=s,iter-time=10",
            "theirs.luks",
            "4M",
        ],
    );
    block_on(async {
        let file = create_file(&bench.path("ours.luks"), Arc::new(Inline)).await.unwrap();
        luks::create(&file, &quick, &password, SIZE, Preallocation::Off).await.unwrap();
    });
    for name in ["theirs.luks", "ours.luks"] {
        let node = bench.open(name, Some("letmein"));
        assert_eq!(node.len().unwrap(), SIZE);
        fill(&node, 0, SIZE as usize, 7);
        let model = scribble(&node);
        drop(node);
        std::fs::write(bench.path("model"), &model).unwrap();
        let image = format!("driver=luks,key-secret=s,file.filename={name}");
        bench.theirs(
            "qemu-img",
            &[
                "compare",
                "--object",
                "secret,id=s,data=letmein",
                "--image-opts",
                &image,
                "driver=raw,file.filename=model",
            ],
        );
    }
}

#[test]
fn keys_come_and_go() {
    let Some(bench) = Bench::new() else { return };
    let quick = LuksOptions { iter_time: 10, ..LuksOptions::default() };
    let encryption = NewEncryption::Luks(quick, b"one".to_vec());
    bench.create("a.qcow2", &CreateOptions { encryption, ..options() });
    let node = bench.open("a.qcow2", Some("one"));
    let image = node.driver().as_qcow2().unwrap();
    let change = |change| {
        let keys = Some(change);
        block_on(image.amend(&AmendOptions { keys, ..AmendOptions::default() }))
    };
    let password = b"two".to_vec();
    let add = KeyChange::Add { password, slot: Some(5), iter_time: 10, force: false };
    change(add).unwrap();
    let gone = KeyChange::RemovePassword { password: b"one".to_vec(), force: false };
    change(gone).unwrap();
    let last = KeyChange::RemoveSlot { slot: 5, password: None, force: false };
    assert!(change(last).unwrap_err().to_string().contains("refusing operation"));
    drop(node);
    let image = "driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2";
    let read = ["-c", "read 0 512", "--image-opts", image];
    bench.theirs("qemu-io", &[&["--object", "secret,id=s,data=two"][..], &read].concat());
}

#[test]
fn snapshots_are_the_same_on_both_sides() {
    let Some(bench) = Bench::new() else { return };
    for case in [
        options(),
        CreateOptions { version: 2, ..options() },
        CreateOptions { cluster_size: 512, refcount_bits: 8, ..options() },
        CreateOptions { extended_l2: true, ..options() },
    ] {
        bench.create("a.qcow2", &case);
        let node = bench.open("a.qcow2", None);
        fill(&node, 0, 300_000, 1);
        let snapshots = node.driver().snapshots().unwrap();
        let first = bytes(&node);
        block_on(snapshots.create("one", SnapshotTime::default())).unwrap();
        fill(&node, 100_000, 300_000, 2);
        let second = bytes(&node);
        block_on(snapshots.create("two", SnapshotTime::default())).unwrap();
        fill(&node, 0, 10, 3);
        sound(&node);
        block_on(snapshots.apply("one")).unwrap();
        assert!(bytes(&node) == first);
        sound(&node);
        fill(&node, 5, 5, 4);
        block_on(node.close()).unwrap();
        sound(&node);
        drop(node);
        bench.theirs("qemu-img", &["check", "a.qcow2"]);
        bench.theirs("qemu-img", &["snapshot", "-a", "two", "a.qcow2"]);
        bench.theirs("qemu-img", &["snapshot", "-c", "three", "a.qcow2"]);
        bench.theirs("qemu-img", &["snapshot", "-d", "one", "a.qcow2"]);
        let node = bench.open("a.qcow2", None);
        assert!(bytes(&node) == second);
        let snapshots = node.driver().snapshots().unwrap();
        let names: Vec<_> =
            block_on(snapshots.list()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["two", "three"]);
        for name in ["two", "three"] {
            block_on(snapshots.delete(name)).unwrap();
        }
        assert!(block_on(snapshots.delete("two")).is_err());
        assert!(bytes(&node) == second);
        block_on(node.close()).unwrap();
        sound(&node);
        drop(node);
        bench.theirs("qemu-img", &["check", "a.qcow2"]);
    }
}

#[test]
fn bitmaps_record_what_is_written() {
    let Some(bench) = Bench::new() else { return };
    bench.create("a.qcow2", &options());
    bench.theirs("qemu-img", &["bitmap", "--add", "-g", "64k", "a.qcow2", "theirs"]);
    let node = bench.open("a.qcow2", None);
    let bitmaps = node.driver().bitmaps().unwrap();
    let add = BitmapChange::Add { granularity: Some(4096), enabled: true };
    block_on(bitmaps.change("ours", add)).unwrap();
    fill(&node, 100_000, 5000, 1);
    block_on(node.close()).unwrap();
    fill(&node, 1 << 20, 1, 1);
    block_on(node.close()).unwrap();
    sound(&node);
    drop(node);
    bench.theirs("qemu-img", &["check", "a.qcow2"]);
    bench.theirs("qemu-io", &["-c", "write 2M 64k", "a.qcow2"]);
    let node = bench.open("a.qcow2", None);
    let bitmaps = node.driver().bitmaps().unwrap();
    let expected = [98_304..106_496, 1 << 20..(1 << 20) + 4096, 2 << 20..(2 << 20) + 65536];
    assert_eq!(bitmaps.dirty("ours").unwrap(), expected);
    let expected = [65_536..131_072, 1 << 20..(1 << 20) + 65536, 2 << 20..(2 << 20) + 65536];
    assert_eq!(bitmaps.dirty("theirs").unwrap(), expected);
    let ranges = bitmaps.dirty("ours").unwrap();
    block_on(bitmaps.change("theirs", BitmapChange::Clear)).unwrap();
    block_on(bitmaps.change("theirs", BitmapChange::Merge(ranges))).unwrap();
    block_on(bitmaps.change("theirs", BitmapChange::Enable(false))).unwrap();
    block_on(bitmaps.change("ours", BitmapChange::Remove)).unwrap();
    block_on(node.close()).unwrap();
    sound(&node);
    drop(node);
    let info = bench.theirs("qemu-img", &["info", "a.qcow2"]);
    assert!(info.contains("name: theirs") && !info.contains("auto"), "{info}");
    bench.theirs("qemu-img", &["bitmap", "--remove", "a.qcow2", "theirs"]);
    bench.theirs("qemu-img", &["check", "a.qcow2"]);
    sound(&bench.open("a.qcow2", None));
}

#[test]
fn images_become_others() {
    let Some(bench) = Bench::new() else { return };
    bench.create("a.qcow2", &CreateOptions { cluster_size: 4096, ..options() });
    let node = bench.open("a.qcow2", None);
    let model = scribble(&node);
    let image = node.driver().as_qcow2().unwrap();
    let amend = |options: AmendOptions| block_on(image.amend(&options));
    for bits in [1, 64, 2, 16] {
        amend(AmendOptions { refcount_bits: Some(bits), ..AmendOptions::default() }).unwrap();
        assert!(bytes(&node) == model);
        sound(&node);
    }
    for (version, lazy_refcounts) in [(2, None), (3, Some(true)), (2, Some(false)), (3, None)] {
        let version = Some(version);
        amend(AmendOptions { version, lazy_refcounts, ..AmendOptions::default() }).unwrap();
        assert!(bytes(&node) == model);
        sound(&node);
        fill(&node, 500_000, 100, 0);
    }
    let backing = Some(("base".to_owned(), Some("raw".to_owned())));
    amend(AmendOptions { backing, ..AmendOptions::default() }).unwrap();
    block_on(node.close()).unwrap();
    drop(node);
    std::fs::write(bench.path("base"), []).unwrap();
    std::fs::write(bench.path("model"), &model).unwrap();
    bench.theirs("qemu-img", &["check", "a.qcow2"]);
    bench.theirs("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", "a.qcow2", "model"]);
    assert!(bench.theirs("qemu-img", &["info", "a.qcow2"]).contains("backing file: base"));
}

/// Counts what is read from the host.
#[derive(Default)]
struct Counting(AtomicUsize);

impl HostIo for Counting {
    fn submit(
        &self,
        file: Arc<std::fs::File>,
        op: HostOp,
    ) -> std::pin::Pin<Box<dyn Future<Output = block::Result<()>> + Send>> {
        if matches!(op, HostOp::Read { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Inline.submit(file, op)
    }
}

#[test]
fn a_small_write_reads_the_rest_of_its_cluster_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let counting = Arc::new(Counting::default());
    let image = block_on(async {
        let base = create_file(&path("base"), counting.clone()).await.unwrap();
        base.truncate(SIZE, Preallocation::Off).await.unwrap();
        fill(&base, 0, SIZE as usize, 7);
        let file = create_file(&path("top"), Arc::new(Inline)).await.unwrap();
        qcow2::create(&file, &options()).await.unwrap();
        let header = Qcow2::read_header(&file).await.unwrap();
        let settings = Settings { backing: Some(base), ..Settings::new(Purpose::Write) };
        let image = Qcow2::open(file, header, settings).await.unwrap();
        Node::new(None, "image", false, Box::new(image), Vec::new())
    });
    // What is larger is not read for nothing.
    for (cluster, len, reads) in [(1, 4096, 1), (2, 16 << 10, 1), (3, 32 << 10, 2)] {
        let (start, before) = (cluster << 16, counting.0.load(Ordering::Relaxed));
        fill(&image, start + 8192, len, 9);
        assert_eq!(counting.0.load(Ordering::Relaxed) - before, reads, "{len} bytes");
        let mut wanted = vec![7; 1 << 16];
        wanted[8192..8192 + len].fill(9);
        assert!(block_on(image.read_bytes(start, 1 << 16)).unwrap() == wanted, "{len} bytes");
    }
}

/// Writers that share clusters, but no bytes, while others flush and take snapshots.
#[test]
fn requests_run_side_by_side() {
    const WRITERS: u64 = 8;
    const STRIPE: u64 = 1536;
    for (round, options) in [
        CreateOptions { cluster_size: 4096, ..options() },
        CreateOptions { extended_l2: true, cluster_size: 16384, ..options() },
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2").to_str().unwrap().to_owned();
        let io = Arc::new(Pool::new());
        let node = block_on(async {
            let file = create_file(&path, io.clone()).await.unwrap();
            qcow2::create(&file, &options).await.unwrap();
            let header = Qcow2::read_header(&file).await.unwrap();
            let settings = Settings { pass_discard_request: true, ..Settings::new(Purpose::Write) };
            let image = Qcow2::open(file, header, settings).await.unwrap();
            Node::new(None, "image", false, Box::new(image), Vec::new())
        });
        let (send, done) = std::sync::mpsc::channel();
        for writer in 0..WRITERS {
            let (node, send) = (node.clone(), send.clone());
            let work = async move {
                let stripes = SIZE / (STRIPE * WRITERS);
                let mut model = vec![0_u8; stripes as usize];
                let mut dice = writer.wrapping_mul(0x9e37_79b9) + round as u64;
                for step in 0..600_u64 {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let index = (dice >> 33) % stripes;
                    let at = (index * WRITERS + writer) * STRIPE;
                    match (dice >> 20) % 8 {
                        0 => {
                            let flags = ZeroFlags { unmap: step % 2 == 0 };
                            node.write_zeroes(at, STRIPE, flags).await?;
                            model[index as usize] = 0;
                        }
                        1..=5 => {
                            let value = (step % 255) as u8 + 1;
                            let from = Vector::zeroed(STRIPE as usize);
                            from.fill(value);
                            node.write(at, from).await?;
                            model[index as usize] = value;
                        }
                        _ => {
                            let seen = node.read_bytes(at, STRIPE as usize).await?;
                            let right = seen.iter().all(|&byte| byte == model[index as usize]);
                            assert!(right, "writer {writer}, stripe {index}");
                        }
                    }
                }
                block::Result::Ok(Some((writer, model)))
            };
            spawn(work, move |result| send.send(result).unwrap());
        }
        {
            let (node, send) = (node.clone(), send.clone());
            let work = async move {
                for step in 0..40 {
                    node.flush().await?;
                    let snapshots = node.driver().snapshots().unwrap();
                    match step % 8 {
                        3 => snapshots.create("s", SnapshotTime::default()).await?,
                        7 => snapshots.delete("s").await?,
                        _ => {}
                    }
                }
                Ok(None)
            };
            spawn(work, move |result| send.send(result).unwrap());
        }
        let results: Vec<_> = (0..=WRITERS).map(|_| done.recv().unwrap().unwrap()).collect();
        let all = bytes(&node);
        for (writer, model) in results.into_iter().flatten() {
            for (index, &value) in (0..).zip(&model) {
                let at = ((index * WRITERS + writer) * STRIPE) as usize;
                assert!(all[at..at + STRIPE as usize].iter().all(|&byte| byte == value));
            }
        }
        block_on(node.close()).unwrap();
        sound(&node);
    }
}

/// Runs `qemu-img` as it is here: its code, and what it says on both streams.
fn ours(args: &[&str]) -> (u8, String) {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = block::tools::run(&args, &mut out, &mut err, false);
    (code, String::from_utf8([err, out].concat()).unwrap())
}

/// Texts as QEMU 10.0.2 has them.
#[test]
fn damaged_records_of_snapshots_are_mended() {
    let Some(bench) = Bench::new() else { return };
    for (extra, code, said, mended) in [
        (
            0_u32,
            2,
            "ERROR snapshot table entry 2 is incomplete\n",
            "Repairing snapshot table entry 2 is incomplete\n",
        ),
        (
            2048,
            1,
            "qemu-img: ERROR failed to read the snapshot table: Too much extra metadata in snapshot \
             table entry 2\nYou can force-remove this extra metadata with qemu-img check -r all\n\
             qemu-img: Check failed: File too large\n",
            "Discarding too much extra metadata in snapshot table entry 2 (2048 > 1024)\n",
        ),
    ] {
        let name = format!("{extra}.qcow2");
        bench.theirs("qemu-img", &["create", "-q", "-f", "qcow2", &name, "1M"]);
        bench.theirs("qemu-io", &["-c", "write -P 1 0 64k", &name]);
        for snapshot in ["one", "two", "three"] {
            bench.theirs("qemu-img", &["snapshot", "-c", snapshot, &name]);
        }
        let path = bench.path(&name);
        let mut bytes = std::fs::read(&path).unwrap();
        let table = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
        // docs/interop/qcow2, "Snapshots": each record is 72 bytes with names as short as these.
        let field = table + 2 * 72 + 36;
        assert_eq!(bytes[field..field + 4], 24_u32.to_be_bytes());
        bytes[field..field + 4].copy_from_slice(&extra.to_be_bytes());
        // The table has all of its cluster.
        bytes.resize(bytes.len().next_multiple_of(65536), 0);
        std::fs::write(&path, bytes).unwrap();
        let (found, text) = ours(&["check", &path]);
        assert!(found == code && text.contains(said), "{found}: {text}");
        let (found, text) = ours(&["check", "-r", "all", &path]);
        assert!(found == 0 && text.starts_with(mended), "{found}: {text}");
        assert!(text.contains("    0 leaked clusters\n    1 corruptions\n"), "{text}");
        bench.theirs("qemu-img", &["check", &name]);
        let listed = bench.theirs("qemu-img", &["snapshot", "-l", &name]);
        assert!(listed.contains(" one ") && listed.contains(" two "), "{listed}");
        assert_eq!(listed.lines().count(), 5, "{listed}");
        bench.theirs("qemu-img", &["snapshot", "-a", "one", &name]);
        bench.theirs("qemu-io", &["-c", "read -P 1 0 64k", &name]);
    }
}

#[test]
fn bitmaps_of_who_has_not_closed_are_inconsistent() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("qemu-img", &["create", "-q", "-f", "qcow2", "b.qcow2", "4M"]);
    bench.theirs("qemu-img", &["bitmap", "--add", "b.qcow2", "on"]);
    bench.theirs("qemu-img", &["bitmap", "--add", "--disable", "b.qcow2", "off"]);
    let inconsistent = || {
        let said = bench.theirs("qemu-img", &["info", "-U", "b.qcow2"]);
        said.matches("in-use").count()
    };
    let node = bench.open("b.qcow2", None);
    assert_eq!(inconsistent(), 2, "while it is open");
    block_on(node.close()).unwrap();
    assert_eq!(inconsistent(), 0, "they are stored");
    fill(&node, 0, 512, 1);
    assert_eq!(inconsistent(), 2, "one has changed again");
    block_on(node.close()).unwrap();
    drop(node);
    bench.theirs("qemu-img", &["check", "b.qcow2"]);
    // Whoever dies leaves them as they are.
    std::mem::forget(bench.open("b.qcow2", None));
    assert_eq!(inconsistent(), 2);
}

/// The header cannot be written as a snapshot becomes true, or as tables come home from it, once or from
/// then on: the image is what it was, or has the snapshot, and in either case it is sound.
#[test]
fn a_snapshot_whose_header_cannot_be_written_is_there_or_not() {
    let Some(bench) = Bench::new() else { return };
    let (image, rules) = (bench.path("h.qcow2"), bench.path("rules"));
    for (state, once) in [(1, "on"), (1, "off"), (2, "on"), (2, "off")] {
        let text = format!(
            "[set-state]\nstate = \"1\"\nevent = \"refblock_update\"\nnew_state = \"2\"\n\
             [inject-error]\nstate = \"{state}\"\nevent = \"refblock_update\"\n\
             iotype = \"write\"\nsector = \"0\"\nonce = \"{once}\"\n"
        );
        std::fs::write(&rules, text).unwrap();
        assert_eq!(ours(&["create", "-q", "-f", "qcow2", &image, "64M"]).0, 0);
        bench.theirs("qemu-io", &["-c", "write -P 1 0 200k", &image]);
        let (code, text) = ours(&["snapshot", "-c", "kept", &format!("blkdebug:{rules}:{image}")]);
        assert_eq!(code, if state == 1 { 1 } else { 0 }, "{text}");
        let list = ours(&["snapshot", "-l", &image]).1;
        assert_eq!(list.contains("kept"), state == 2, "{list}");
        for change in ["write -P 2 0 64k", "read -P 1 64k 100k"] {
            bench.theirs("qemu-img", &["check", "-q", &image]);
            bench.theirs("qemu-io", &["-c", change, &image]);
        }
        bench.theirs("qemu-img", &["check", "-q", &image]);
    }
}
