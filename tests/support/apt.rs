//! Debian's packages, as files: found, downloaded and unpacked without root;
//! nothing is installed.

use crate::assets::{list, run};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// One view of the archive.
pub(crate) struct Apt {
    /// Options for each command; the host's own view needs none.
    options: Vec<String>,
}

impl Apt {
    /// The packages that the host itself would install.
    pub fn host() -> Self {
        Self { options: Vec::new() }
    }

    /// The packages of another architecture, from the host's sources but with
    /// lists of their own in `directory`, so that the host does not change.
    pub fn foreign(architecture: &str, directory: &Path) -> Result<Self> {
        let (state, cache) = (directory.join("state"), directory.join("cache"));
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(cache.join("archives/partial"))?;
        let installed = state.join("status");
        File::create(&installed)?;
        let apt = Self {
            options: vec![
                format!("--option=APT::Architecture={architecture}"),
                format!("--option=APT::Architectures={architecture}"),
                format!("--option=Dir::State={}", state.display()),
                format!("--option=Dir::State::status={}", installed.display()),
                format!("--option=Dir::Cache={}", cache.display()),
            ],
        };
        eprintln!("updating the package lists of {architecture}");
        // One of the sources may not have this architecture; what is missing
        // shows when it is asked for.
        if let Err(error) = run(apt.command("apt-get").args(["-q", "update"])) {
            eprintln!("{error:#}");
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Makes sure that apt knows the packages.
    pub fn ensure_known(&self, package: &str) -> Result<()> {
        let known = self.command("apt-cache").args(["show", package]).output().context(
            "cannot run apt-cache: the guest assets come from Debian packages, so this needs a \
             Debian host, or a cache filled on one (set RHEA_CACHE)",
        )?;
        if known.status.success() && !known.stdout.is_empty() { Ok(()) } else { self.update() }
    }

    fn update(&self) -> Result<()> {
        eprintln!("updating the package lists");
        run(as_root("apt-get")?.args(&self.options).args(["-q", "update"]))
            .map(drop)
            .context("run `apt-get update` as root, then try again")
    }

    /// The package that a kernel metapackage currently stands for.
    pub fn concrete_kernel(&self, metapackage: &str) -> Result<String> {
        let mut command = self.command("apt-cache");
        let output = run(command.args(["depends", "--important", metapackage]))?;
        output
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(|name| name.split_once(':').map_or(name, |(name, _architecture)| name))
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_owned)
            .with_context(|| {
                format!(
                    "{metapackage} names no kernel package: run `apt-get update`, then try again"
                )
            })
    }

    /// All library packages that these packages need, however far down.
    pub fn libraries_of(&self, packages: &[&str]) -> Result<BTreeSet<String>> {
        let mut command = self.command("apt-cache");
        command.args(["depends", "--recurse", "--important", "--no-pre-depends"]).args(packages);
        Ok(run(&mut command)?
            .lines()
            .filter(|line| {
                (line.starts_with("lib") || line.starts_with("zlib")) && !line.contains(':')
            })
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages into the directory `debs` and unpacks them all into
    /// `root`, as far as [`Command`]s without root can.
    pub fn unpack<'a>(
        &self,
        packages: impl Iterator<Item = &'a str>,
        debs: &Path,
        root: &Path,
    ) -> Result<()> {
        for package in packages {
            eprintln!("fetching {package}");
            self.download(package, debs)?;
        }
        for deb in list(debs)? {
            run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))
                .with_context(|| format!("cannot unpack {}", deb.display()))?;
            fs::remove_file(&deb)?;
        }
        Ok(())
    }

    fn download(&self, package: &str, into: &Path) -> Result<()> {
        let attempt =
            || run(self.command("apt-get").args(["-q", "download", package]).current_dir(into));
        if attempt().is_ok() {
            return Ok(());
        }
        // Old lists point at packages that the archive no longer has.
        self.update()?;
        attempt().map(drop).with_context(|| {
            format!(
                "cannot download the Debian package {package}: check that apt's sources name a \
                 Debian mirror (main), run `apt-get update`, then try again"
            )
        })
    }
}

/// A program that only root can use, run through sudo by others.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    let id = Command::new("id").arg("-u").output().context("cannot run id")?;
    Ok(if id.stdout.trim_ascii() == b"0" {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    })
}
