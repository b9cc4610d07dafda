//! `cargo xtask bench`: Rhea beside QEMU, and both beside the host.
//!
//! Runs alternate between the contenders, so that whatever else the host does
//! falls on all of them; tables show medians, and ratios of medians.

mod disks;
mod frames;
mod machine;
mod network;
mod options;
mod packets;
mod results;
mod viewer;
mod web;
mod workloads;

use crate::process;
use anyhow::{Context, Result, anyhow};
use machine::Contender;
use options::Options;
use results::{Measured, Results, Who};
use std::fs;
use std::path::PathBuf;
use testbed::assets::Assets;

pub use options::HELP;

/// Runs the rows that the arguments name, or all.
pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let bench = Bench::new(&options)?;
    let mut results = Results::default();
    for row in machine::ROWS.iter().filter(|row| options.wants(row.name)) {
        let runs = options.repetitions.max(row.runs);
        bench.alternate(row.name, runs, &mut results, &|contender| {
            (row.measure)(&bench.assets, contender)
        })?;
    }
    if options.wants(options::FRAMES) {
        bench.frames(&mut results)?;
    }
    let names = options.workloads();
    if !names.is_empty() {
        bench.workloads(&names, &mut results)?;
    }

    print!("{}", results.markdown());
    if let Some(path) = &options.json {
        let about = bench.about()?;
        let text = serde_json::to_string_pretty(&results.json(about))?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    results.complaint().map_or(Ok(()), |complaint| Err(anyhow!(complaint)))
}

/// Everything that takes part.
struct Bench<'a> {
    options: &'a Options,
    assets: Assets,
    /// The emulators; QEMU first, since Rhea is held against it.
    emulators: Vec<(Who, Contender)>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let mut emulators = Vec::new();
        if options.qemu_takes_part {
            let program = match &options.qemu {
                Some(path) => path.clone(),
                None => testbed::reference_qemu().map_err(|reason| anyhow!(reason))?,
            };
            emulators.push((Who::Qemu, Contender::new(program, "tcg,thread=multi")));
        }
        let program = match &options.rhea {
            Some(path) => path.clone(),
            None => rhea()?,
        };
        emulators.push((Who::Rhea, Contender::new(program, &options.accel)));
        Ok(Self { options, assets: testbed::assets::get()?, emulators })
    }

    /// Runs one measurement of each emulator in turn, `runs` times.
    fn alternate(
        &self,
        name: &str,
        runs: u32,
        results: &mut Results,
        measure: &dyn Fn(&Contender) -> Result<Measured>,
    ) -> Result<()> {
        for run in 1..=runs {
            for (who, contender) in &self.emulators {
                eprintln!("{name}: {who}, {run} of {runs}");
                let measured =
                    measure(contender).with_context(|| format!("benchmark {name}: {who}"))?;
                for (metric, value) in measured {
                    results.add(metric, *who, value);
                }
            }
        }
        Ok(())
    }

    /// The user-mode networks without a guest, and passt beside them.
    fn frames(&self, results: &mut Results) -> Result<()> {
        let runs = self.options.repetitions.max(3);
        for run in 1..=runs {
            self.alternate(options::FRAMES, 1, results, &frames::by_user)?;
            eprintln!("{}: {}, {run} of {runs}", options::FRAMES, Who::Passt);
            let measured = frames::by_passt()?;
            measured.into_iter().for_each(|(metric, value)| results.add(metric, Who::Passt, value));
        }
        Ok(())
    }

    fn workloads(&self, names: &[String], results: &mut Results) -> Result<()> {
        let limit = self.options.limit;
        let program = workloads::build("workloads")?;
        let scratch = tempfile::tempdir()?;
        let initrd = scratch.path().join("initrd.cpio");
        fs::write(&initrd, testbed::initrd::build_with_program(&self.assets.busybox(), &program)?)?;
        for run in 1..=self.options.repetitions {
            if self.options.native_takes_part {
                eprintln!("workloads: native, {run} of {}", self.options.repetitions);
                for line in workloads::on_the_host(&program, names, limit)? {
                    results.add_workload(&line, Who::Native);
                }
            }
            for (who, contender) in &self.emulators {
                eprintln!("workloads: {who}, {run} of {}", self.options.repetitions);
                let lines = workloads::in_a_guest(contender, &self.assets, &initrd, names, limit)
                    .with_context(|| format!("workloads in {who}"))?;
                lines.iter().for_each(|line| results.add_workload(line, *who));
            }
        }
        Ok(())
    }

    /// What a reader of the numbers needs to know beside them.
    fn about(&self) -> Result<serde_json::Value> {
        let mut about = serde_json::Map::new();
        about.insert("date".into(), process::output("date", &["-u", "+%F"])?.into());
        about.insert("cpu".into(), cpu_model().into());
        about.insert("repetitions".into(), self.options.repetitions.into());
        for (who, contender) in &self.emulators {
            let text = process::output(&contender.program.to_string_lossy(), &["--version"])?;
            let version = text.lines().next().unwrap_or_default();
            about.insert(who.to_string(), format!("{version}, -accel {}", contender.accel).into());
        }
        Ok(about.into())
    }
}

fn rhea() -> Result<PathBuf> {
    match std::env::var_os("RHEA_BIN") {
        Some(path) => Ok(path.into()),
        None => process::release_build(),
    }
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    model.unwrap_or("unknown").to_owned()
}
