//! Options that change what becomes of the process, or of a machine that does not run yet.
//!
//! What can be seen from outside is the same for QEMU: run with `RHEA_BIN` to check.

mod drives;
mod icount;
mod machine;
mod process;
