//! `cargo xtask web`: what the web console's page takes from others, fetched from npm and bundled
//! anew. The lock file says what exactly, so that the same files come out wherever this runs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process;

/// Where the results are, and the lock file.
const VENDOR: &str = "ui/web/vendor";

/// Each bundle, and the module that it is made of.
const BUNDLES: [(&str, &str, &str); 3] = [
    ("novnc.js", "js", "export { default as RFB } from '@novnc/novnc';"),
    (
        "xterm.js",
        "js",
        "export { Terminal } from '@xterm/xterm'; export { FitAddon } from '@xterm/addon-fit';",
    ),
    ("xterm.css", "css", "@import '@xterm/xterm/css/xterm.css';"),
];

/// Each package that ends up in them, and its licence's texts.
const PACKAGES: [(&str, &[&str]); 3] = [
    ("@novnc/novnc", &["LICENSE.txt", "docs/LICENSE.MPL-2.0", "vendor/pako/LICENSE"]),
    ("@xterm/xterm", &["LICENSE"]),
    ("@xterm/addon-fit", &["LICENSE"]),
];

const PREFACE: &str = "\
The web console of Rhea is Rhea's own work (MIT OR Apache-2.0), and has these packages of the npm
registry in it, bundled and minified, but otherwise as they are. Their sources are the packages of
these names and versions; `cargo xtask web` fetches them and bundles them again.
";

/// Makes the bundles and the list of licences.
pub fn run() -> Result<()> {
    let vendor = process::root().join(VENDOR);
    let build = process::target().join("web");
    fs::create_dir_all(&build)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(vendor.join(name), build.join(name)).with_context(|| format!("no {name}"))?;
    }
    process::run(
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&build),
    )?;
    for (name, loader, module) in BUNDLES {
        put(&vendor.join(name), &bundle(&build, loader, module)?)?;
    }
    put(&vendor.join("licences.txt"), licences(&build)?.as_bytes())
}

/// Writes a file if it is to have another content; says which it was.
fn put(path: &Path, content: &[u8]) -> Result<()> {
    let same = fs::read(path).is_ok_and(|old| old == content);
    println!("{} {}", path.display(), if same { "is as it was" } else { "has changed" });
    if !same {
        fs::write(path, content)?;
    }
    Ok(())
}

fn bundle(build: &Path, loader: &str, module: &str) -> Result<Vec<u8>> {
    let mut command = Command::new(build.join("node_modules/.bin/esbuild"));
    command
        .args(["--bundle", "--minify", "--target=es2022", "--legal-comments=eof"])
        .args([&format!("--loader={loader}"), "--log-level=warning"])
        .args((loader == "js").then_some("--format=esm"))
        .current_dir(build)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run esbuild")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(module.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "esbuild failed");
    Ok(output.stdout)
}

fn licences(build: &Path) -> Result<String> {
    let mut text = PREFACE.to_owned();
    for (package, files) in PACKAGES {
        let directory = build.join("node_modules").join(package);
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let about: Value = serde_json::from_str(&read("package.json")?)?;
        let (Some(version), Some(licence)) = (about["version"].as_str(), about["license"].as_str())
        else {
            bail!("{package} has no version or no licence");
        };
        text += &format!("\n{}\n{package} {version}: {licence}\n", "=".repeat(72));
        for name in files {
            text += &format!("\n{}\n{name}\n\n{}\n", "-".repeat(72), read(name)?.trim_end());
        }
    }
    Ok(text)
}
