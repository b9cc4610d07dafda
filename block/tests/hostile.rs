//! Images made to do harm: they are refused, or read as well as they can be, in little memory and
//! time, and what they lie about is not destroyed.

#![allow(clippy::unwrap_used)]

#[path = "crash/disk.rs"]
#[allow(dead_code)]
mod disk;

use std::sync::Arc;

use block::driver::{Driver, Repair, ZeroFlags};
use block::engine::{Inline, block_on};
use block::open::{OpenOptions, open};
use block::qcow2::{self, CreateOptions, Purpose, Qcow2, Settings};
use block::vector::Vector;
use disk::Disk;
use parking_lot::Mutex;
use proptest::prelude::*;

const CLUSTER: usize = 4096;

fn image(options: &CreateOptions) -> Vec<u8> {
    let disk = Disk::default();
    block_on(qcow2::create(&disk.node(), options)).unwrap();
    disk.bytes()
}

fn small() -> CreateOptions {
    CreateOptions { size: 1 << 20, cluster_size: CLUSTER as u64, ..CreateOptions::default() }
}

fn put(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.resize(bytes.len().max(at + what.len()), 0);
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn open_image(bytes: Vec<u8>, settings: Settings) -> block::Result<Qcow2> {
    let file = Disk::holding(bytes).node();
    block_on(async {
        let header = Qcow2::read_header(&file).await?;
        Qcow2::open(file, header, settings).await
    })
}

fn refused(bytes: Vec<u8>) -> String {
    open_image(bytes, Settings::new(Purpose::Read)).err().unwrap().to_string()
}

#[test]
fn headers_that_ask_for_too_much_are_refused() {
    let good = image(&small());
    let mut bytes = good.clone();
    put(&mut bytes, 36, &0x1000_0000_u32.to_be_bytes());
    assert_eq!(refused(bytes), "Active L1 table too large");
    let mut bytes = good.clone();
    put(&mut bytes, 112, &[0x12, 0x34, 0x56, 0x78, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(refused(bytes), "Header extension too large");
    let mut bytes = good.clone();
    put(&mut bytes, 60, &1000_u32.to_be_bytes());
    put(&mut bytes, 64, &(1_u64 << 40).to_be_bytes());
    assert!(refused(bytes).contains("Snapshot table is damaged"));
    let mut bytes = good;
    put(&mut bytes, 56, &0xffff_u32.to_be_bytes());
    assert_eq!(refused(bytes), "Reference count table too large");
}

#[test]
fn a_bitmap_that_repeats_one_cluster_is_refused() {
    let disk = Disk::default();
    block_on(qcow2::create(&disk.node(), &small())).unwrap();
    let mut bytes = disk.bytes();
    // A directory of one bitmap, whose table has the same cluster 60,000 times.
    let (directory, table) = (0x10_000, 0x20_000);
    let mut entry = Vec::new();
    entry.extend((table as u64).to_be_bytes());
    entry.extend(60_000_u32.to_be_bytes());
    entry.extend(0_u32.to_be_bytes());
    entry.extend([1, 16, 0, 1, 0, 0, 0, 0, b'x', 0, 0, 0, 0, 0, 0, 0]);
    put(&mut bytes, directory, &entry);
    for index in 0..60_000 {
        put(&mut bytes, table + index * 8, &0x10_000_u64.to_be_bytes());
    }
    let mut extension = 0x2385_2875_u32.to_be_bytes().to_vec();
    extension.extend(24_u32.to_be_bytes());
    extension.extend((1_u64 << 32).to_be_bytes());
    extension.extend((entry.len() as u64).to_be_bytes());
    extension.extend((directory as u64).to_be_bytes());
    put(&mut bytes, 112, &extension);
    put(&mut bytes, 144, &[0; 8]);
    put(&mut bytes, 88, &1_u64.to_be_bytes());
    assert_eq!(refused(bytes), "Broken bitmap table");
}

#[test]
fn metadata_is_not_overwritten() {
    // The refcount block says that the L1 table is free.
    let mut bytes = image(&small());
    put(&mut bytes, 2 * CLUSTER + 6, &[0, 0]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let settings = Settings {
        on_corruption: Some(Arc::new(move |found| tell.lock().push(found.clone()))),
        ..Settings::new(Purpose::Write)
    };
    let disk = Disk::holding(bytes.clone());
    block_on(async {
        let file = disk.node();
        let header = Qcow2::read_header(&file).await.unwrap();
        let image = Qcow2::open(file, header, settings).await.unwrap();
        let error = image.write(0, Vector::zeroed(512)).await.unwrap_err();
        assert_eq!(error.errno(), libc::EIO);
        let again = image.write(0, Vector::zeroed(512)).await.unwrap_err();
        assert_eq!(again.errno(), libc::ENOMEDIUM);
    });
    let told = told.lock();
    assert_eq!(told.len(), 1);
    assert!(told[0].fatal);
    let text = "Preventing invalid write on metadata (overlaps with active L1 table)";
    assert_eq!(told[0].message, text);
    // Marked, and otherwise as it was.
    let after = disk.bytes();
    assert_eq!(after[79], 2);
    assert!(after[CLUSTER..] == bytes[CLUSTER..]);
    let error = open_image(after.clone(), Settings::new(Purpose::Write)).err().unwrap();
    assert_eq!(error.errno(), libc::EACCES);
    let image = open_image(after, Settings::new(Purpose::Repair)).unwrap();
    let report = block_on(image.check(Repair::All)).unwrap();
    assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
    block_on(image.write(0, Vector::zeroed(512))).unwrap();
}

#[test]
fn an_image_that_backs_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2").to_str().unwrap().to_owned();
    let backing = Some(("a.qcow2".to_owned(), Some("qcow2".to_owned())));
    std::fs::write(&path, image(&CreateOptions { backing, ..small() })).unwrap();
    let options = OpenOptions {
        format: Some("qcow2".into()),
        purpose: Purpose::Read,
        force_share: false,
        no_backing: false,
        no_io: false,
        secrets: Default::default(),
        throttle_groups: Default::default(),
        checks: false,
        io: Arc::new(Inline),
    };
    let error = block_on(open(&path, &options)).err().unwrap();
    assert!(error.to_string().contains("creates an infinite loop"), "{error}");
    // A long chain without a loop, on this thread's small stack.
    let name = |index: usize| dir.path().join(format!("{index}.qcow2"));
    for index in 0..100 {
        let backing = Some((format!("{}.qcow2", index + 1), Some("qcow2".to_owned())));
        std::fs::write(name(index), image(&CreateOptions { backing, ..small() })).unwrap();
    }
    std::fs::write(name(100), image(&small())).unwrap();
    let error = block_on(open(name(0).to_str().unwrap(), &options)).err().unwrap();
    assert!(error.to_string().contains("Too many backing files"), "{error}");
    block_on(open(name(50).to_str().unwrap(), &options)).unwrap();
}

#[test]
fn compressed_clusters_stay_inside_their_cluster() {
    let mut bytes = image(&small());
    let l2 = 8 * CLUSTER;
    put(&mut bytes, 3 * CLUSTER, &(l2 as u64 | 1 << 63).to_be_bytes());
    // All sectors that an entry can name, and beyond the end of the file.
    put(&mut bytes, l2, &[0x7f; 8]);
    put(&mut bytes, l2 + CLUSTER - 1, &[0]);
    let image = open_image(bytes, Settings::new(Purpose::Read)).unwrap();
    let error = block_on(image.read(0, Vector::zeroed(CLUSTER))).unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
}

/// Whatever the bytes are: nothing panics and everything ends.
fn survive(bytes: Vec<u8>, purpose: Purpose) {
    let settings =
        Settings { on_corruption: Some(Arc::new(|_| {})), no_data: true, ..Settings::new(purpose) };
    let Ok(image) = open_image(bytes, settings) else { return };
    let _ = block_on(async {
        image.check(Repair::Nothing).await?;
        let len = image.len()?.min(1 << 20);
        let mut at = 0;
        while at < len {
            let _ = image.read(at, Vector::zeroed(4096.min((len - at) as usize))).await;
            at += (image.status(at, len - at).await?.len).max(1);
        }
        if purpose != Purpose::Read {
            for at in [0, len / 2] {
                let _ = image.write(at, Vector::zeroed(512)).await;
                let _ = image.write_zeroes(at, 8192, ZeroFlags { unmap: true }).await;
            }
            let _ = image.check(Repair::All).await;
            let _ = image.close().await;
        }
        block::Result::Ok(())
    });
}

fn busy_image(extended_l2: bool) -> Vec<u8> {
    let cluster_size = if extended_l2 { 16384 } else { CLUSTER as u64 };
    let disk = Disk::default();
    let options = CreateOptions { extended_l2, cluster_size, ..small() };
    block_on(async {
        qcow2::create(&disk.node(), &options).await.unwrap();
        let file = disk.node();
        let header = Qcow2::read_header(&file).await.unwrap();
        let image = Qcow2::open(file, header, Settings::new(Purpose::Write)).await.unwrap();
        image.write(0, Vector::zeroed(100_000)).await.unwrap();
        let packed = Vector::zeroed(cluster_size as usize);
        let bytes = image.pack(&packed).unwrap();
        image.write_packed(1 << 19, packed, bytes).await.unwrap();
        image.create_snapshot("s", Default::default()).await.unwrap();
        image.write(5000, Vector::zeroed(10)).await.unwrap();
        image.close().await.unwrap();
    });
    disk.bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_are_survived(
        extended in any::<bool>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..12),
        writing in any::<bool>(),
    ) {
        let mut bytes = busy_image(extended);
        for (place, value, where_) in damage {
            // The header more often than others, and tables more often than data.
            let range = match where_ {
                0 => 200.min(bytes.len()),
                1 => (8 * CLUSTER).min(bytes.len()),
                _ => bytes.len(),
            };
            bytes[place.index(range)] = value;
        }
        survive(bytes, if writing { Purpose::Repair } else { Purpose::Read });
    }
}
