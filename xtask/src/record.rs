//! `cargo xtask record`: writes tests/golden from the installed QEMU.

use crate::process;
use anyhow::{Context, Result, anyhow};
use std::fs;
use std::path::PathBuf;
use testbed::report::{COMPLETE, Report};
use testbed::vm::{Launch, Vm};

/// Monitor commands whose text is kept for people to read.
const VIEWS: [(&str, &str); 3] = [
    ("info-qtree.txt", "info qtree"),
    ("info-mtree.txt", "info mtree -f"),
    ("info-pci.txt", "info pci"),
];

/// Records every machine of the golden set.
pub fn run() -> Result<()> {
    let qemu = testbed::reference_qemu().map_err(|reason| anyhow!(reason))?;
    let assets = testbed::assets::get()?;
    for (name, cpus) in [("pc-smp1", "1"), ("pc-smp4", "4")] {
        let directory = process::root().join("tests/golden").join(name);
        fs::create_dir_all(&directory)?;
        let boot = |kernel: PathBuf| -> Result<Vm> {
            let mut vm = Launch::headless(&qemu)
                .args(["-M", "pc", "-accel", "tcg", "-smp", cpus])
                .guest(&kernel, &assets, "report")
                .qmp()
                .spawn()?;
            vm.expect(COMPLETE)?;
            Ok(vm)
        };
        let warnings = Report::parse(&boot(assets.generic_kernel())?.output())?.warnings()?;
        let mut vm = boot(assets.cloud_kernel())?;
        let report = Report::parse(&vm.output())?;
        let mut files = report.comparable()?;
        files.insert("warnings.txt".to_owned(), report.warnings()?);
        files.insert("warnings-generic.txt".to_owned(), warnings);
        for (file, command) in VIEWS {
            files.insert(file.to_owned(), vm.qmp().hmp(command)?);
        }
        if let Some(views) = files.get_mut("info-mtree.txt") {
            *views = in_order(views);
        }
        for (file, contents) in files {
            let path = directory.join(file);
            fs::write(&path, contents)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        println!("recorded {}", directory.display());
    }
    Ok(())
}

/// QEMU lists flat views in the order of a hash table that differs from run
/// to run: sorts them, and drops their running numbers.
fn in_order(views: &str) -> String {
    let mut views: Vec<String> = views
        .split("\n\n")
        .map(|view| {
            let lines = view.lines().filter(|line| !line.starts_with("FlatView #"));
            lines.map(|line| format!("{line}\n")).collect()
        })
        .collect();
    views.sort();
    views.join("\n")
}
