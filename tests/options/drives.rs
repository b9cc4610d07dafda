//! Faults of `-drive` and `-blockdev`: what QEMU 10.0.2 said, in `drives.txt`.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use block::engine::{Inline, block_on};
use block::open::create_file;
use block::qcow2::{self, CreateOptions};

/// What each line of arguments leads to.
fn recorded() -> Vec<(&'static str, String)> {
    let mut cases: Vec<(&str, String)> = Vec::new();
    for line in include_str!("drives.txt").lines() {
        match (line.strip_prefix("$ "), cases.last_mut()) {
            (Some(arguments), _) => cases.push((arguments, String::new())),
            (None, Some((_, text))) => text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    cases
}

/// Words as a shell splits them, as far as the file needs it.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut escaped) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            _ if std::mem::take(&mut escaped) => word.push(c),
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

#[test]
fn faults_are_told_in_qemus_words() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("a.raw"), vec![0; 1 << 20])?;
    std::fs::write(file("b.raw"), vec![0; 2 << 20])?;
    block_on(async {
        let name = file("a.qcow2").to_string_lossy().into_owned();
        let node = create_file(&name, Arc::new(Inline)).await?;
        let options = CreateOptions { size: 64 << 20, ..CreateOptions::default() };
        qcow2::create(&node, &options).await
    })?;
    let cases = recorded();
    ensure!(cases.len() > 100, "the file is there");
    let mut differences = String::new();
    for (line, expected) in cases {
        // What goes on running is not what was recorded.
        let output = Command::new("timeout")
            .arg("60")
            .arg(testbed::program())
            .args(["-display", "none", "-S", "-nodefaults", "-monitor", "none"])
            .args(split(line))
            .current_dir(dir.path())
            .output()
            .with_context(|| line.to_owned())?;
        let said = String::from_utf8_lossy(&output.stderr);
        if said != expected || output.status.code() != Some(1) {
            differences += &format!("{line}\n expected: {expected} got: {said}\n");
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
