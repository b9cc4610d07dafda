//! One emulator process under test.

use crate::DEADLINE;
use crate::assets::Assets;
use crate::qmp::Qmp;
use crate::qtest::QTest;
use crate::transcript::Transcript;
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often a process is asked about; short, since start-up times are
/// measured through it.
const POLL: Duration = Duration::from_micros(200);

/// A command line in the making.
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    qmp: bool,
    qtest: bool,
    directory: Option<PathBuf>,
}

impl Launch {
    /// Starts from the bare program.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            qmp: false,
            qtest: false,
            directory: None,
        }
    }

    /// The usual test machine: 512 MiB, everything on standard input and
    /// output, no display adapter, no network.
    pub fn headless(program: impl Into<PathBuf>) -> Self {
        Self::new(program).args(["-m", "512", "-nographic", "-vga", "none", "-nic", "none"])
    }

    /// Appends arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Chooses the accelerator: what `RHEA_ACCEL` names, or the translator.
    pub fn accel(self) -> Self {
        let accel = std::env::var("RHEA_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
        self.args(["-accel", accel.as_str()])
    }

    /// Boots `kernel` with the test guest, which runs `scripts` (see
    /// [`crate::initrd`]).
    pub fn guest(self, kernel: &Path, assets: &Assets, scripts: &str) -> Self {
        self.kernel(kernel, &assets.initrd(), scripts)
    }

    /// The same with an initrd of the caller's, and more words of the kernel
    /// command line after the scripts' names, if any.
    pub fn kernel(self, kernel: &Path, initrd: &Path, scripts: &str) -> Self {
        let append = format!("console=ttyS0 panic=-1 rhea.run={scripts}");
        self.args([OsStr::new("-kernel"), kernel.as_os_str()])
            .args([OsStr::new("-initrd"), initrd.as_os_str()])
            .args(["-append", &append])
    }

    /// Runs it in a directory, against which names of files are read.
    pub fn in_dir(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Attaches a QMP client.
    pub fn qmp(mut self) -> Self {
        self.qmp = true;
        self
    }

    /// Runs the machine without a CPU, driven by a qtest client.
    ///
    /// Distributions build QEMU without that accelerator; there a CPU that
    /// never starts stands in for none, and the clock cannot be stepped.
    pub fn qtest(mut self) -> Self {
        self.qtest = true;
        let no_cpu = if crate::is_reference(&self.program) {
            ["-accel", "tcg", "-S"].as_slice()
        } else {
            &["-accel", "qtest"]
        };
        self.args(no_cpu).args(["-display", "none"])
    }

    /// Starts the process and connects the clients asked for.
    pub fn spawn(self) -> Result<Vm> {
        let scratch = TempDir::new().context("cannot create a scratch directory")?;
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        // We listen and the emulator connects: nothing needs to be polled for.
        let qmp = self.qmp.then(|| listen(&mut command, "-qmp", &scratch)).transpose()?;
        let qtest = self.qtest.then(|| listen(&mut command, "-qtest", &scratch)).transpose()?;
        if self.qtest {
            command.args(["-qtest-log", "none"]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let stdin = child.stdin.take();
        let console = child.stdout.take().map(Transcript::collect).unwrap_or_default();
        let messages = child.stderr.take().map(Transcript::collect).unwrap_or_default();
        let mut vm = Vm { child, stdin, console, messages, qmp: None, qtest: None, scratch };
        if let Some(listener) = qtest {
            vm.qtest = Some(QTest::new(vm.accept(&listener)?));
        }
        if let Some(listener) = qmp {
            let qmp = Qmp::new(vm.accept(&listener)?);
            vm.qmp = Some(qmp.with_context(|| format!("messages: {}", vm.messages()))?);
        }
        Ok(vm)
    }

    /// Runs a command line that is expected to end by itself.
    pub fn run(self) -> Result<Finished> {
        let mut vm = self.spawn()?;
        vm.stdin = None;
        vm.finish()
    }
}

fn listen(command: &mut Command, option: &str, scratch: &TempDir) -> Result<UnixListener> {
    let path = scratch.path().join(option.trim_start_matches('-'));
    let listener = UnixListener::bind(&path).context("cannot create a control socket")?;
    listener.set_nonblocking(true)?;
    command.args([option, &format!("unix:{}", path.display())]);
    Ok(listener)
}

/// A running emulator. Dropping it kills the process.
pub struct Vm {
    child: Child,
    stdin: Option<ChildStdin>,
    console: Transcript,
    messages: Transcript,
    qmp: Option<Qmp>,
    qtest: Option<QTest>,
    scratch: TempDir,
}

/// How a process ended, and everything it printed.
pub struct Finished {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output: the guest's console with `-nographic`.
    pub stdout: String,
    /// Standard error: the emulator's own messages.
    pub stderr: String,
}

impl Vm {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A directory that lives as long as the machine.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The QMP client; ask for it with [`Launch::qmp`].
    pub fn qmp(&mut self) -> &mut Qmp {
        self.qmp.as_mut().expect("started without .qmp()")
    }

    /// The qtest client; ask for it with [`Launch::qtest`].
    pub fn qtest(&mut self) -> &mut QTest {
        self.qtest.as_mut().expect("started without .qtest()")
    }

    /// Waits for `text` on standard output; returns what came with it since
    /// the last match.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        self.expect_within(text, DEADLINE)
    }

    /// The same for what takes its time.
    pub fn expect_within(&mut self, text: &str, time: Duration) -> Result<String> {
        self.console
            .expect(text, time)
            .with_context(|| format!("messages: {}", self.messages.text()))
    }

    /// All of standard output so far.
    pub fn output(&self) -> String {
        self.console.text()
    }

    /// All of standard error so far.
    pub fn messages(&self) -> String {
        self.messages.text()
    }

    /// Types on standard input.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Waits for the process to end by itself.
    pub fn finish(mut self) -> Result<Finished> {
        // A process closes its output when it ends: wait for that, then only
        // for the little that is left.
        let stdout = self.console.to_end(DEADLINE).context("still running")?;
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("still running with its output closed");
            }
            std::thread::sleep(POLL);
        };
        Ok(Finished { status, stdout, stderr: self.messages.to_end(DEADLINE)? })
    }

    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(DEADLINE))?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot accept a control connection"),
            }
            if let Some(status) = self.child.try_wait()? {
                let said = self.messages.to_end(DEADLINE)?;
                bail!("the emulator ended ({status}) before it connected:\n{said}");
            }
            if Instant::now() > deadline {
                bail!("the emulator did not connect:\n{}", self.messages());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only if the process has already gone, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
