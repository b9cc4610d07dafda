//! `cargo xtask check`: what can be checked without running the program.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs;
use std::process::Command;

/// Longer source files are split.
const MAX_LINES: usize = 1500;

/// The files that may hold `unsafe`, each with its reason.
const UNSAFE_LIST: &str = "xtask/unsafe-files.txt";

/// Formatting, lints and the rules of this house.
pub fn run() -> Result<()> {
    process::run(&mut process::cargo(&["fmt", "--all", "--check"]))?;
    house_rules()?;
    process::run(&mut process::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn house_rules() -> Result<()> {
    let allowed = fs::read_to_string(process::root().join(UNSAFE_LIST))
        .with_context(|| format!("cannot read {UNSAFE_LIST}"))?;
    let allowed: Vec<&str> = allowed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut complaints = Vec::new();
    for path in source_files()? {
        let text = fs::read_to_string(process::root().join(&path))
            .with_context(|| format!("cannot read {path}"))?;
        complaints.extend(inspect(&path, &text, &allowed));
    }
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    if !complaints.is_empty() {
        bail!("{} house rules broken", complaints.len());
    }
    Ok(())
}

/// Everything wrong with one file. `clippy` sees to SAFETY comments.
fn inspect(path: &str, text: &str, unsafe_allowed: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let rust = path.ends_with(".rs");
    let lines = text.lines().count();
    if rust && lines > MAX_LINES {
        complaints.push(format!("{path}: {lines} lines; split what is above {MAX_LINES}"));
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        // Spelt in two halves, or this file would break its own rule.
        let attribute = concat!("allow(", "unsafe_code)");
        if rust && line.contains(attribute) && !unsafe_allowed.iter().any(|p| path.starts_with(p)) {
            complaints.push(format!("{path}:{number}: not in {UNSAFE_LIST}, so no unsafe here"));
        }
        for place in ["/home", "/root", "/work", "/Users"] {
            if line.contains(&format!("{place}/")) {
                complaints.push(format!("{path}:{number}: a path of one person's machine"));
            }
        }
    }
    complaints
}

/// The text files under version control.
fn source_files() -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(process::root())
        .output()
        .context("cannot run git")?;
    let kinds = [".rs", ".toml", ".md", ".yml"];
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|path| kinds.iter().any(|kind| path.ends_with(kind)))
        .filter(|path| process::root().join(path).exists())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_refused() {
        let text = "//\n".repeat(MAX_LINES + 1);
        assert_eq!(inspect("a.rs", &text, &[]).len(), 1);
        assert!(inspect("a.md", &text, &[]).is_empty());
    }

    #[test]
    fn unsafe_is_kept_to_the_list() {
        let text = concat!("#![allow(", "unsafe_code)]\n");
        assert_eq!(inspect("hw/a.rs", text, &["base/memory/"]).len(), 1);
        assert!(inspect("base/memory/a.rs", text, &["base/memory/"]).is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        let text = ["/home", "/someone/rhea\n"].concat();
        assert_eq!(inspect("a.md", &text, &[]).len(), 1);
    }
}
