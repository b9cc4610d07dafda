//! Commands about disks: a dialogue with QEMU 10.0.2, in `disks.jsonl`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::vm::Launch;

/// Without what differs from run to run: generated names, figures of the host's file system, times.
fn settled(mut value: Value) -> Value {
    fn settle(value: &mut Value) {
        match value {
            Value::Object(members) => {
                let moments = ["date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"];
                for key in ["actual-size", "timestamp"].into_iter().chain(moments) {
                    members.remove(key);
                }
                members.values_mut().for_each(settle);
            }
            Value::Array(items) => items.iter_mut().for_each(settle),
            Value::String(text) => {
                let mut parts = text.split("#block");
                let first = parts.next().unwrap_or_default().to_owned();
                let rest = parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
                *text = rest.fold(first, |text, part| text + "#block" + part);
            }
            _ => {}
        }
    }
    settle(&mut value);
    value
}

#[test]
fn answers_are_qemus() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (name, size) in [("v.raw", 1 << 20), ("b.raw", 2 << 20), ("c.raw", 2 << 20)] {
        std::fs::File::create(dir.path().join(name))?.set_len(size)?;
    }
    let devices = [
        "-drive",
        "if=none,id=hd,file=v.raw,format=raw,node-name=hdn",
        "-device",
        "ide-hd,drive=hd,id=d0",
        "-device",
        "ide-cd,id=cd",
    ];
    dialogue(dir.path(), &devices, include_str!("disks.jsonl"))
}

/// Overlays, transactions, secrets, and the human monitor's drives.
#[test]
fn answers_about_overlays_are_qemus() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::File::create(dir.path().join("b.raw"))?.set_len(1 << 20)?;
    for name in ["v.qcow2", "o.qcow2"] {
        image_tool(&["create", "-q", "-f", "qcow2", &in_dir(&dir, name), "1M"])?;
    }
    let devices = [
        "-object",
        "secret,id=sec0,data=abc",
        "-drive",
        "if=none,id=hd,file=v.qcow2,format=qcow2,node-name=hdn",
        "-device",
        "ide-hd,drive=hd,id=d0",
    ];
    dialogue(dir.path(), &devices, include_str!("overlays.jsonl"))
}

/// Dirty bitmaps, snapshots inside images, transactions that fail, and `commit`.
#[test]
fn answers_about_bitmaps_are_qemus() -> Result<()> {
    let dir = tempfile::tempdir()?;
    image_tool(&["create", "-q", "-f", "qcow2", &in_dir(&dir, "base.qcow2"), "1M"])?;
    let top = in_dir(&dir, "v.qcow2");
    image_tool(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", &top])?;
    let devices = [
        "-drive",
        "if=none,id=hd,file=v.qcow2,format=qcow2,node-name=q",
        "-device",
        "ide-hd,drive=hd,id=d0",
        "-blockdev",
        "driver=null-co,node-name=r,size=2097152",
    ];
    dialogue(dir.path(), &devices, include_str!("bitmaps.jsonl"))
}

/// Nodes that get other options, and other nodes below them, while they are open.
#[test]
fn answers_about_reopening_are_qemus() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::File::create(dir.path().join("base.raw"))?.set_len(64 << 20)?;
    image_tool(&["create", "-q", "-f", "qcow2", &in_dir(&dir, "b0"), "3M"])?;
    for (name, below) in [("b1", "b0"), ("b2", "b1")] {
        let name = in_dir(&dir, name);
        image_tool(&["create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", &name])?;
    }
    dialogue(dir.path(), &[], include_str!("reopen.jsonl"))
}

/// Snapshots that every disk has, and those that only some have.
#[test]
fn snapshots_are_listed_as_qemus() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::File::create(dir.path().join("r.raw"))?.set_len(1 << 20)?;
    for name in ["a.qcow2", "b.qcow2"] {
        image_tool(&["create", "-q", "-f", "qcow2", &in_dir(&dir, name), "1M"])?;
    }
    let (raw, a, b) = (
        "if=none,id=r,file=r.raw,format=raw",
        "if=none,id=a,file=a.qcow2,format=qcow2",
        "if=none,id=b,file=b.qcow2,format=qcow2",
    );
    let listed = |drives: &[&str]| -> Result<String> {
        let mut vm = Launch::new(testbed::program())
            .args(["-M", "none", "-display", "none"])
            .args(drives.iter().flat_map(|drive| ["-drive", drive]))
            .in_dir(dir.path())
            .qmp()
            .spawn()?;
        let line = json!({"command-line": "info snapshots"});
        let reply = vm.qmp().execute_with("human-monitor-command", line)?;
        Ok(without_moments(reply.as_str().context("text")?))
    };
    let unable = "no block device can store vmstate for snapshot\r\n";
    ensure!(listed(&[raw])? == unable && listed(&[&format!("{a},readonly=on")])? == unable);
    ensure!(listed(&[raw, a, b])? == "There is no snapshot available.\r\n");
    for (image, name) in [("a", "both"), ("b", "both"), ("b", "one"), ("a", "mine")] {
        let image = in_dir(&dir, &format!("{image}.qcow2"));
        image_tool(&["snapshot", "-c", name, &image])?;
    }
    let head =
        "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\r\n";
    let row = |id: &str, tag: &str| {
        format!("{id:<8}{tag:<22}0 B ....-..-.. ..:..:..  0000:00:00.000          0\r\n")
    };
    let all = "List of snapshots present on all disks:\r\n";
    let some = "\r\nList of partial (non-loadable) snapshots on";
    let [mine, one] = [row("2", "mine"), row("2", "one")];
    let two = listed(&[a, b])?;
    let expected = format!(
        "{all}{head}{}{some} 'a':\r\n{head}{mine}{some} 'b':\r\n{head}{one}",
        row("--", "both")
    );
    ensure!(two == expected, "{two}");
    let beside_raw = listed(&[raw, a])?;
    let expected = format!("{all}None\r\n{some} 'a':\r\n{head}{}{mine}", row("1", "both"));
    ensure!(beside_raw == expected, "{beside_raw}");
    Ok(())
}

/// Dots for the day and the time of each row.
fn without_moments(text: &str) -> String {
    let is_moment = |word: &str| {
        let separator = |at, mark| word.as_bytes().get(at) == Some(&mark);
        (word.len() == 10 && separator(4, b'-') && separator(7, b'-'))
            || (word.len() == 8 && separator(2, b':') && separator(5, b':'))
    };
    let dots = |word: &str| word.replace(|c: char| c.is_ascii_digit(), ".");
    let words = text.split(' ').map(|word| if is_moment(word) { dots(word) } else { word.into() });
    words.collect::<Vec<String>>().join(" ")
}

fn in_dir(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_string_lossy().into_owned()
}

/// `qemu-img`
fn image_tool(args: &[&str]) -> Result<()> {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let code = block::tools::run(&args, &mut std::io::stdout(), &mut std::io::stderr(), false);
    ensure!(code == 0, "qemu-img {args:?}: {code}");
    Ok(())
}

#[test]
fn a_limit_of_the_size_of_files_is_an_error() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tool = testbed::program().with_file_name("qemu-img");
    let script = "ulimit -f 64; exec \"$0\" create -q -f raw x.raw 1M";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(tool)
        .current_dir(dir.path())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.contains("too large"), "{output:?}");
    Ok(())
}

/// What was written to a disk that is to forget it reaches the image by `commit`; so does what an overlay
/// has, whose base is open for reading. Bitmaps that the image keeps are there the next time.
#[test]
fn commit_reaches_what_is_below() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (raw, base) = (in_dir(&dir, "a.raw"), in_dir(&dir, "base.qcow2"));
    std::fs::File::create(&raw)?.set_len(1 << 20)?;
    image_tool(&["create", "-q", "-f", "qcow2", &base, "1M"])?;
    let top = in_dir(&dir, "top.qcow2");
    image_tool(&["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top, "2M"])?;
    let launch = || {
        Launch::new(testbed::program())
            .args(["-M", "none", "-display", "none"])
            .args(["-drive", "if=none,id=a,file=a.raw,format=raw,snapshot=on"])
            .args(["-drive", "if=none,id=b,file=top.qcow2,format=qcow2,node-name=top"])
            .in_dir(dir.path())
            .qmp()
    };
    let mut vm = launch().spawn()?;
    let qmp = vm.qmp();
    let bitmap = json!({"node": "top", "name": "kept", "persistent": true});
    qmp.execute_with("block-dirty-bitmap-add", bitmap)?;
    let mut hmp = |line: &str| -> Result<()> {
        let reply = qmp.execute_with("human-monitor-command", json!({"command-line": line}))?;
        ensure!(reply == "", "{line}: {reply}");
        Ok(())
    };
    hmp("qemu-io a \"write -P 3 4k 4k\"")?;
    hmp("qemu-io b \"write -P 4 1920k 128k\"")?;
    ensure!(std::fs::read(&raw)?.iter().all(|byte| *byte == 0), "it did not wait");
    hmp("commit all")?;
    hmp("commit b")?;
    qmp.execute("quit")?;
    vm.finish()?;
    let bytes = std::fs::read(&raw)?;
    ensure!(bytes[4096..8192] == [3; 4096] && bytes[..4096] == [0; 4096], "a.raw has not got it");
    for image in [&top, &base] {
        image_tool(&["check", "-q", image])?;
    }
    let copy = in_dir(&dir, "copy.raw");
    image_tool(&["convert", "-f", "qcow2", "-O", "raw", &base, &copy])?;
    let bytes = std::fs::read(&copy)?;
    ensure!(bytes.len() == 2 << 20 && bytes[1920 << 10..].iter().all(|byte| *byte == 4), "base");
    let mut vm = launch().spawn()?;
    let nodes = vm.qmp().execute("query-named-block-nodes")?;
    let top = nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == "top");
    let bitmap = json!([{"name": "kept", "granularity": 65536, "count": 131072, "busy": false,
        "recording": true, "persistent": true}]);
    ensure!(top.is_some_and(|node| node["dirty-bitmaps"] == bitmap), "{nodes}");
    Ok(())
}

/// Asks a machine with these devices what QEMU was asked, and compares the answers.
fn dialogue(dir: &Path, devices: &[&str], recorded: &str) -> Result<()> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "pc", "-S", "-nodefaults", "-display", "none"])
        .args(devices.iter().copied())
        .in_dir(dir)
        .qmp()
        .spawn()?;
    let qmp = vm.qmp();
    let mut differences = String::new();
    for line in recorded.lines() {
        let mut case: Value = serde_json::from_str(line)?;
        let request = case["request"].take();
        let mut reply = qmp.call(&request).with_context(|| request.to_string())?;
        if let Some(members) = reply.as_object_mut() {
            members.remove("id");
        }
        let (expected, found) = (settled(case["reply"].take()), settled(reply));
        if expected != found {
            differences += &format!("{request}\n expected: {expected}\n got: {found}\n");
        }
        for event in case["events"].as_array().into_iter().flatten() {
            let name = event["event"].as_str().context("a name")?;
            let found = qmp.wait_event(name).with_context(|| request.to_string())?;
            if found["data"] != event["data"] {
                differences += &format!("{request}\n expected: {event}\n got: {found}\n");
            }
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
