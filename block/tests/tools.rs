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
    ]);
}
