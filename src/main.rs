//! The `qemu-system-x86_64` program.
fn main() {}
