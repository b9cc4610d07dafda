//! `-daemonize`, `-run-with`, `-sandbox`, `-overcommit`, `-pidfile` and `-name`.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use testbed::DEADLINE;

fn run(args: &[&str]) -> Result<Output> {
    Ok(Command::new(testbed::program()).args(["-display", "none"]).args(args).output()?)
}

/// A machine in the background. Dropping it ends it.
struct Daemon {
    scratch: TempDir,
    pid: String,
}

impl Daemon {
    /// Starts one without a board; the parent has ended well when this returns.
    fn start(args: &[&str]) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let pid_file = scratch.path().join("pid");
        let monitor = format!("unix:{},server=on,wait=off", scratch.path().join("mon").display());
        let output = Command::new(testbed::program())
            .args(["-display", "none", "-M", "none", "-daemonize", "-monitor", &monitor])
            .args(["-pidfile".as_ref(), pid_file.as_os_str()])
            .args(args)
            .output()?;
        ensure!(output.status.success(), "{args:?}: {output:?}");
        let text = std::fs::read_to_string(&pid_file)?;
        Ok(Daemon { scratch, pid: text.trim().to_owned() })
    }

    fn proc(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(&self.pid).join(name)
    }

    /// A line of the kernel's status of the process, with blanks between its words.
    fn status(&self, field: &str) -> Result<String> {
        let text = std::fs::read_to_string(self.proc("status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let words = line.with_context(|| format!("no {field}"))?.split_whitespace();
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    fn end(&self) -> Result<()> {
        ensure!(Command::new("kill").arg(&self.pid).status()?.success());
        let deadline = Instant::now() + DEADLINE;
        while self.scratch.path().join("pid").exists() {
            ensure!(Instant::now() < deadline, "the pid file stays");
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = Command::new("kill").args(["-KILL", &self.pid]).output();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[test]
fn a_daemon_lets_go_of_its_surroundings() -> Result<()> {
    let daemon = Daemon::start(&[])?;
    for descriptor in ["fd/0", "fd/1", "fd/2"] {
        ensure!(std::fs::read_link(daemon.proc(descriptor))? == Path::new("/dev/null"));
    }
    ensure!(std::fs::read_link(daemon.proc("cwd"))? == Path::new("/"));
    ensure!(daemon.status("Umask")? == "0027");
    daemon.end()?;
    ensure!(!daemon.scratch.path().join("pid").exists());
    Ok(())
}

#[test]
fn what_a_daemon_logs_stays_readable() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let log = scratch.path().join("log");
    let daemon = Daemon::start(&["-d", "guest_errors", "-D", &log.display().to_string()])?;
    ensure!(std::fs::read_link(daemon.proc("fd/2"))? == log);
    daemon.end()?;
    ensure!(std::fs::read_to_string(&log)?.contains("terminating on signal 15 from pid "));
    Ok(())
}

/// Standard error and status of command lines that fail, on QEMU 10.0.2.
#[test]
fn failures_are_told_by_the_parent() -> Result<()> {
    for (args, message) in [
        (
            &["-daemonize", "-M", "none", "-nographic"][..],
            "-nographic cannot be used with -daemonize",
        ),
        (&["-daemonize", "-monitor", "stdio"], "-monitor stdio: cannot use stdio with -daemonize"),
        (&["-daemonize", "-device", "foo"], "-device foo: 'foo' is not a valid device model name"),
        (
            &["-daemonize", "-pidfile", "/nonexistent/pid"],
            "cannot create PID file: Could not create '/nonexistent/pid': No such file or directory",
        ),
        (&["-M", "none", "-run-with", "chroot=/nonexistent"], "chroot failed"),
        (
            &["-M", "none", "-run-with", "user=nonexistent"],
            "-run-with user=nonexistent: User \"user=nonexistent\" doesn't exist (and is not \
             <uid>:<gid>)",
        ),
    ] {
        let output = run(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said == format!("qemu-system-x86_64: {message}\n"), "{args:?}: {said}");
        ensure!(output.status.code() == Some(1), "{args:?}: {}", output.status);
    }
    Ok(())
}

#[test]
fn a_pid_file_belongs_to_one() -> Result<()> {
    let daemon = Daemon::start(&[])?;
    let pid_file = daemon.scratch.path().join("pid");
    let second = run(&["-M", "none", "-pidfile", &pid_file.display().to_string()])?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(said.contains("cannot create PID file: Cannot lock pid file: "), "{said}");
    ensure!(std::fs::read_to_string(&pid_file)?.trim() == daemon.pid);
    Ok(())
}

#[test]
fn rights_are_given_up() -> Result<()> {
    if !is_root() {
        testbed::skip("only root can become another user");
        return Ok(());
    }
    let daemon = Daemon::start(&["-run-with", "user=65534:65533"])?;
    ensure!(daemon.status("Uid")? == "65534 65534 65534 65534");
    ensure!(daemon.status("Gid")? == "65533 65533 65533 65533");
    ensure!(daemon.status("Groups")? == "65533");
    let root = tempfile::tempdir()?;
    let chroot = format!("chroot={}", root.path().display());
    let daemon = Daemon::start(&["-run-with", &chroot])?;
    ensure!(std::fs::read_link(daemon.proc("root"))? == root.path());
    Ok(())
}

#[test]
fn a_sandbox_filters_every_thread() -> Result<()> {
    let daemon = Daemon::start(&["-sandbox", "on,obsolete=deny,resourcecontrol=deny"])?;
    for thread in std::fs::read_dir(daemon.proc("task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        ensure!(
            status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"),
            "{status}"
        );
    }
    Ok(())
}

#[test]
fn memory_is_locked() -> Result<()> {
    if !is_root() {
        testbed::skip("only root can lock as much memory as it likes");
        return Ok(());
    }
    let daemon = Daemon::start(&["-overcommit", "mem-lock=on"])?;
    ensure!(daemon.status("VmLck")? != "0 kB");
    Ok(())
}

#[test]
fn threads_have_names() -> Result<()> {
    let names = |args: &[&str]| -> Result<Vec<String>> {
        let daemon = Daemon::start(args)?;
        let mut names = Vec::new();
        for thread in std::fs::read_dir(daemon.proc("task"))? {
            names.push(std::fs::read_to_string(thread?.path().join("comm"))?.trim().to_owned());
        }
        Ok(names)
    };
    let paused = ["-M", "pc", "-S", "-smp", "2", "-name"];
    let given = names(&[&paused[..], &["process=own,debug-threads=on"]].concat())?;
    for name in ["own", "CPU 0/TCG", "CPU 1/TCG"] {
        ensure!(given.iter().any(|given| given == name), "{given:?}");
    }
    let given = names(&[&paused[..], &["process=own"]].concat())?;
    if given.iter().any(|name| name != "own") {
        bail!("{given:?}");
    }
    Ok(())
}

#[test]
fn messages_about_what_is_loaded_do_not_name_the_program() -> Result<()> {
    let kernel = testbed::assets::get()?.cloud_kernel();
    let kernel = kernel.to_str().context("a path that is no text")?;
    let program = testbed::program();
    let program = program.to_str().context("a path that is no text")?;
    let missing = "No such file or directory";
    for (args, message) in [
        (&["-kernel", "/nope"][..], format!("qemu: could not open kernel file '/nope': {missing}")),
        (&["-kernel", "/etc/passwd"], "qemu: invalid kernel header".into()),
        (
            &["-kernel", kernel, "-dtb", "/nope"],
            format!("qemu: error reading dtb /nope: {missing}"),
        ),
        (&["-bios", "/nope"], "qemu: could not load PC BIOS '/nope'".into()),
        (
            &["-kernel", program],
            "qemu-system-x86_64: Error loading uncompressed kernel without PVH ELF Note".into(),
        ),
        (
            &["-M", "none", "-kernel", kernel],
            "qemu-system-x86_64: The -kernel parameter is not supported (use the generic 'loader' \
             device instead)."
                .into(),
        ),
    ] {
        let output = run(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.lines().next() == Some(&message), "{args:?}: {said}");
        ensure!(output.status.code() == Some(1), "{args:?}: {}", output.status);
    }
    Ok(())
}
