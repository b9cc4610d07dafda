//! `-sandbox on`: system calls that neither the machine nor its back ends need are denied, so that
//! a guest that has broken out finds less to do.
//!
//! What can only be an attack ends the process (SIGSYS), as does QEMU's filter; new processes and
//! priorities, which a back end may ask for in good faith, are refused with an error.

use std::collections::BTreeMap;

use machine::config::{ConfigError, Sandbox, SandboxElevate};
use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Administration of the host, which is never a virtual machine's business.
const ADMINISTRATION: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
];

/// Calls of Linux 2.4 that the bindings do not name, as x86-64 numbers them.
const CREATE_MODULE: c_long = 174;
const GET_KERNEL_SYMS: c_long = 177;
const QUERY_MODULE: c_long = 178;

/// No C library calls these any more.
const OBSOLETE: &[c_long] = &[
    libc::SYS__sysctl,
    libc::SYS_afs_syscall,
    CREATE_MODULE,
    libc::SYS_epoll_ctl_old,
    libc::SYS_epoll_wait_old,
    GET_KERNEL_SYMS,
    libc::SYS_getpmsg,
    libc::SYS_nfsservctl,
    libc::SYS_putpmsg,
    QUERY_MODULE,
    libc::SYS_security,
    libc::SYS_sysfs,
    libc::SYS_tuxcall,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_vserver,
];

/// To become another user.
const ELEVATION: &[c_long] = &[
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
];

/// To start a program, or to divide.
const SPAWN: &[c_long] = &[libc::SYS_execve, libc::SYS_execveat, libc::SYS_fork, libc::SYS_vfork];

/// Where and how eagerly threads run.
const RESOURCES: &[c_long] = &[
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpriority,
];

/// For each call the arguments with which it is denied; no rules mean any.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn always(calls: &[c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn program(denied: Rules, action: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(denied, SeccompAction::Allow, action, TargetArch::x86_64)?.try_into()
}

/// `clone` for anything but a thread.
fn new_process() -> Result<Vec<SeccompRule>, BackendError> {
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, thread, 0)?;
    Ok(vec![SeccompRule::new(vec![condition])?])
}

/// The filters for a set of rules, without elevation if that waits.
fn programs(rules: &Sandbox, elevation_waits: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let mut fatal = always(ADMINISTRATION);
    if rules.deny_obsolete {
        fatal.extend(always(OBSOLETE));
    }
    if rules.elevate != SandboxElevate::Allow && !elevation_waits {
        fatal.extend(always(ELEVATION));
    }
    let mut programs = vec![program(fatal, SeccompAction::KillProcess)?];
    let mut refused = Rules::new();
    if rules.deny_spawn {
        refused.extend(always(SPAWN));
        refused.insert(libc::SYS_clone, new_process()?);
        // The flags of clone3 lie in memory, where a filter cannot look. The C library takes to
        // clone instead.
        let missing = SeccompAction::Errno(libc::ENOSYS as u32);
        programs.push(program(always(&[libc::SYS_clone3]), missing)?);
    }
    if rules.deny_resource_control {
        refused.extend(always(RESOURCES));
    }
    if !refused.is_empty() {
        programs.push(program(refused, SeccompAction::Errno(libc::EPERM as u32))?);
    }
    Ok(programs)
}

fn failed(error: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(format!("failed to install seccomp syscall filter in the kernel: {error}"))
}

/// Confines this thread and those that it starts. If the process is about to become another user,
/// elevation is left to [`forbid_elevation`].
pub fn confine(rules: &Sandbox, becomes_another: bool) -> Result<(), ConfigError> {
    for program in programs(rules, becomes_another).map_err(failed)? {
        seccompiler::apply_filter(&program).map_err(failed)?;
    }
    Ok(())
}

/// Denies to all threads what [`confine`] had to leave open.
pub fn forbid_elevation(rules: &Sandbox) -> Result<(), ConfigError> {
    if rules.elevate == SandboxElevate::Allow {
        return Ok(());
    }
    let program = program(always(ELEVATION), SeccompAction::KillProcess).map_err(failed)?;
    seccompiler::apply_filter_all_threads(&program).map_err(failed)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    /// Runs `act` on a thread of its own, confined.
    fn confined<R: Send + 'static>(rules: Sandbox, act: fn() -> R) -> R {
        let confined = std::thread::spawn(move || {
            confine(&rules, true).unwrap();
            act()
        });
        confined.join().unwrap()
    }

    #[test]
    fn no_new_processes_but_threads() {
        let rules = Sandbox { deny_spawn: true, ..Sandbox::default() };
        let outcome = confined(rules, || {
            let child = std::process::Command::new("/bin/true").status();
            let thread = std::thread::spawn(|| 7).join();
            (child.map_err(|error| error.raw_os_error()), thread.ok())
        });
        assert_eq!(outcome, (Err(Some(libc::EPERM)), Some(7)));
    }

    #[test]
    fn no_resource_control() {
        let stay = || {
            let this = nix::unistd::Pid::from_raw(0);
            let cpus = nix::sched::sched_getaffinity(this).unwrap();
            nix::sched::sched_setaffinity(this, &cpus)
        };
        let rules = Sandbox { deny_resource_control: true, ..Sandbox::default() };
        assert_eq!(confined(rules, stay), Err(Errno::EPERM));
        assert_eq!(confined(Sandbox::default(), stay), Ok(()));
    }
}
