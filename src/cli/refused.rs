//! Options that QEMU 10.0 knows and this build does not.

use super::table::CliOption;

const DRIVES: &str = "this kind of drive is not available in this build";
const DISPLAYS: &str = "displays are not available in this build";
const AUDIO: &str = "audio is not available in this build";
const MIGRATION: &str = "migration and snapshots are not available in this build";
const NOT_BUILT: &str = "this option is not available in this build";
const OTHER_TARGET: &str = "Option not supported for this target";

const fn drives(name: &'static [&'static str]) -> CliOption {
    CliOption::refused(name, "arg", DRIVES)
}

const fn with_arg(name: &'static [&'static str], why: &'static str) -> CliOption {
    CliOption::refused(name, "arg", why)
}

const fn flag(name: &'static [&'static str], why: &'static str) -> CliOption {
    CliOption::refused(name, "", why)
}

pub(super) const OPTIONS: &[CliOption] = &[
    drives(&["mtdblock"]),
    drives(&["sd"]),
    drives(&["iscsi"]),
    drives(&["fsdev"]),
    drives(&["virtfs"]),
    with_arg(&["spice"], DISPLAYS),
    with_arg(&["audio"], AUDIO),
    with_arg(&["audiodev"], AUDIO),
    with_arg(&["tpmdev"], "TPM devices are not available in this build"),
    with_arg(&["incoming"], MIGRATION),
    with_arg(&["loadvm"], MIGRATION),
    with_arg(&["dump-vmstate"], MIGRATION),
    flag(&["only-migratable"], MIGRATION),
    with_arg(&["gdb"], "the debugger stub is not available in this build"),
    flag(&["s"], "the debugger stub is not available in this build"),
    with_arg(&["acpitable"], NOT_BUILT),
    with_arg(&["compat"], NOT_BUILT),
    with_arg(&["plugin"], NOT_BUILT),
    with_arg(&["seed"], NOT_BUILT),
    flag(&["jitdump"], NOT_BUILT),
    flag(&["enable-sync-profile"], NOT_BUILT),
    flag(&["preconfig"], NOT_BUILT),
    flag(&["win2k-hack"], NOT_BUILT),
    with_arg(&["xen-domid"], NOT_BUILT),
    flag(&["xen-attach"], OTHER_TARGET),
    flag(&["xen-domid-restrict"], OTHER_TARGET),
    with_arg(&["g"], OTHER_TARGET),
    with_arg(&["prom-env"], OTHER_TARGET),
    flag(&["old-param"], OTHER_TARGET),
    flag(&["semihosting"], OTHER_TARGET),
    with_arg(&["semihosting-config"], OTHER_TARGET),
];
