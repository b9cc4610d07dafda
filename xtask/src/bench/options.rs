//! The arguments of `cargo xtask bench`.

use super::{machine, workloads};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

pub const HELP: &str = "\
Usage: cargo xtask bench [OPTION...] [ROW...]

Rows: start-none, start-pc, boot, idle, vnc-tight, vnc-zrle, vnc-key, vnc-idle,
web, network-virtio, network-e1000, network-passt, network-frames, image-convert, image-tables,
image-random, disk-virtio, disk-ide; the groups of work in a guest integer, floating, vector, memory,
system, code, smp; or single workloads, as in integer/sieve. Without any, all.

  --repeat N        runs of each (3)
  --accel ARGS      arguments of Rhea's -accel tcg, as in interp=on
  --rhea PROGRAM    instead of the release build
  --qemu PROGRAM    instead of Debian's QEMU 10.0; another build of Rhea will do
  --without WHO     leave out `native` or `qemu`
  --limit MS        time for the rounds of one workload (300)
  --json FILE       write every number there

Images are made where TMPDIR says: TMPDIR=/dev/shm leaves the disk out of the measure.
";

/// The row in which passt takes part for itself.
pub const FRAMES: &str = "network-frames";

/// Groups of workloads, in the order of the table.
pub const GROUPS: [(&str, &str); 7] = [
    ("integer", "integer programs"),
    ("floating", "scalar floating point, conversions, x87"),
    ("vector", "SSE2, AVX2, AES-NI, string instructions, glibc's string functions"),
    ("memory", "memory accesses and page faults"),
    ("system", "system calls, processes, signals, files"),
    ("code", "code that changes"),
    ("smp", "two CPUs"),
];

pub struct Options {
    rows: Vec<String>,
    pub repetitions: u32,
    pub accel: String,
    pub rhea: Option<PathBuf>,
    pub qemu: Option<PathBuf>,
    pub native_takes_part: bool,
    pub qemu_takes_part: bool,
    pub limit: u32,
    pub json: Option<PathBuf>,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            rows: Vec::new(),
            repetitions: 3,
            accel: "tcg".to_owned(),
            rhea: None,
            qemu: None,
            native_takes_part: true,
            qemu_takes_part: true,
            limit: 300,
            json: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with('-') {
                check_row(arg)?;
                options.rows.push(arg.clone());
                continue;
            }
            let value = args.next().with_context(|| format!("{arg} wants a value\n\n{HELP}"))?;
            let number = || value.parse().with_context(|| format!("{arg} {value}: not a number"));
            match arg.as_str() {
                "--repeat" => options.repetitions = number()?,
                "--limit" => options.limit = number()?,
                "--accel" => options.accel = format!("tcg,{value}"),
                "--rhea" => options.rhea = Some(value.into()),
                "--qemu" => options.qemu = Some(value.into()),
                "--json" => options.json = Some(value.into()),
                "--without" => match value.as_str() {
                    "native" => options.native_takes_part = false,
                    "qemu" => options.qemu_takes_part = false,
                    other => bail!("--without {other}: `native` or `qemu`"),
                },
                _ => bail!("unknown option {arg}\n\n{HELP}"),
            }
        }
        Ok(options)
    }

    /// Whether a row that is no group of workloads is to be run.
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| name == row)
    }

    /// The groups and single workloads to be run.
    pub fn workloads(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return GROUPS.map(|(name, _)| name.to_owned()).into();
        }
        self.rows.iter().filter(|row| workloads::group(row).is_some()).cloned().collect()
    }
}

fn check_row(name: &str) -> Result<()> {
    let is_row = name == FRAMES || machine::ROWS.iter().any(|row| row.name == name);
    if workloads::group(name).is_none() && !is_row {
        bail!("no benchmark {name:?}\n\n{HELP}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn rows_are_split_into_machine_rows_and_workloads() {
        let options = parse("boot integer/sieve --accel interp=on smp --repeat 5").unwrap();
        assert!(options.wants("boot") && !options.wants("idle"));
        assert_eq!(options.workloads(), ["integer/sieve", "smp"]);
        assert_eq!((options.accel.as_str(), options.repetitions), ("tcg,interp=on", 5));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in ["boots", "--accel", "--repeat many", "--fast yes", "--without rhea"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
