//! The tools beside QEMU's: the same command lines in two directories, and the output (both streams in
//! the order in which a script sees them) and the exit code must be the same. Needs `qemu-img` and
//! `qemu-io` (package qemu-utils); without them these tests say so.

#![allow(clippy::unwrap_used)]

mod beside;

use beside::compare;

#[test]
fn requests_by_hand() {
    compare(include_str!("beside/scripts/requests"));
}

#[test]
fn opening() {
    compare(include_str!("beside/scripts/opening"));
}

#[test]
fn creating() {
    compare(include_str!("beside/scripts/create"));
}

#[test]
fn mistakes() {
    compare(include_str!("beside/scripts/mistakes"));
}

#[test]
fn layers() {
    compare(include_str!("beside/scripts/layers"));
}

#[test]
fn copies() {
    compare(include_str!("beside/scripts/copies"));
}

#[test]
fn snapshots_and_a_tutorial() {
    compare(include_str!("beside/scripts/snapshots"));
}

#[test]
fn amending() {
    compare(include_str!("beside/scripts/amend"));
}

#[test]
fn bitmaps() {
    compare(include_str!("beside/scripts/bitmaps"));
}

#[test]
fn encryption() {
    compare(include_str!("beside/scripts/encryption"));
}

#[test]
fn formats_of_others() {
    compare(include_str!("beside/scripts/foreign"));
}

#[test]
fn tutorials() {
    compare(include_str!("beside/scripts/tutorial"));
}

#[test]
fn filters_for_tests() {
    compare(include_str!("beside/scripts/filters"));
}

#[test]
fn checks_of_other_formats() {
    compare(include_str!("beside/scripts/checks"));
}

#[test]
fn damaged_metadata() {
    compare(include_str!("beside/scripts/damage"));
}

#[test]
fn places_in_files() {
    compare(include_str!("beside/scripts/places"));
}

/// Requests fail at one step of an allocation, once or from then on: both say the same, and both lose the
/// same clusters.
#[test]
fn failing_disks() {
    let events = [
        "l1_update",
        "l1_grow_alloc_table",
        "l1_grow_write_table",
        "l1_grow_activate_table",
        "l2_load",
        "l2_update",
        "l2_alloc_cow_read",
        "l2_alloc_write",
        "cluster_alloc",
        "refblock_load",
        "refblock_update_part",
        "refblock_alloc",
        "refblock_alloc_hookup",
        "refblock_alloc_write",
    ];
    let mut script = String::new();
    for (cluster, len, before) in [
        ("1k", "128k", ""),
        ("1k", "128k", "io -c 'write 0 128k' -c 'write -b 0 128k' t"),
        ("512", "64k", ""),
        ("512", "64k", "img snapshot -c kept t"),
    ] {
        for (event, once, place) in events.iter().flat_map(|event| {
            [("on", ""), ("on", "-b "), ("off", ""), ("off", "-b ")].map(|(o, p)| (event, o, p))
        }) {
            script += &format!(
                "img create -q -f qcow2 -o cluster_size={cluster} t 1G\n{before}\n\
                 io -c 'write {place}0 {len}' --image-opts driver=qcow2,file.driver=blkdebug,\
                 file.image.filename=t,file.inject-error.0.event={event},\
                 file.inject-error.0.once={once}\n~img check t\n"
            );
        }
    }
    compare(&script);
}

#[test]
fn what_one_writes_the_other_reads() {
    beside::exchange(&[
        "qcow",
        "parallels",
        "vdi",
        "vdi -o static=on",
        "vpc",
        "vpc -o subformat=fixed",
        "vmdk",
        "vmdk -o subformat=monolithicFlat",
        "vmdk -o subformat=twoGbMaxExtentSparse",
        "vmdk -o zeroed_grain=on",
        "vhdx",
        "vhdx -o subformat=fixed,block_size=1M",
        "vhdx -o subformat=fixed,block_state_zero=off",
    ]);
}

#[test]
fn qed_is_read() {
    beside::read_alike(
        "img create -q -f raw base 40M
io -f raw -c 'write -P 1 0 30M' base
img create -q -f qed a.qed 100M
io -f qed -c 'write -P 2 100k 300k' -c 'write -z 128k 64k' -c 'write -P 3 90M 1M' a.qed
img create -q -f qed -b base -F raw b.qed
io -f qed -c 'write -P 4 5M 100k' -c 'write -z 10M 1M' b.qed
img create -q -f qed -o cluster_size=4k -b a.qed -F qed c.qed 200M
io -f qed -c 'write -P 5 1k 1k' -c 'write -P 6 150M 10k' c.qed",
        &[
            "info a.qed",
            "check a.qed",
            "check --output=json c.qed",
            "info --backing-chain c.qed",
            "info --output=json b.qed",
            "map --output=json a.qed",
            "map --output=json c.qed",
            "convert -O raw a.qed {}",
            "convert -f qed -O raw b.qed {}",
            "convert -O raw c.qed {}",
            "compare a.qed c.qed",
        ],
    );
}
