//! What `help` as a value lists, and that trace points it lists tell something.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::vm::Launch;

fn listing(args: &[&str]) -> Result<String> {
    let output = Command::new(testbed::program()).args(args).output()?;
    ensure!(output.status.success(), "{args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Every list has the entries that scripts look for.
#[test]
fn lists_name_what_there_is() -> Result<()> {
    for (args, entries) in [
        (&["-M", "help"][..], &["pc-i440fx-10.0 ", "none "][..]),
        (&["-cpu", "help"], &["  Haswell-v2 ", "  max ", "  qemu64 ", "xsaveopt"]),
        (&["-accel", "help"], &["tcg\n", "kvm\n"]),
        (&["-device", "help"], &["name \"isa-serial\", bus ISA", "name \"pvpanic-pci\", bus PCI"]),
        (&["-object", "help"], &["  memory-backend-ram\n"]),
        (&["-chardev", "help"], &["  socket\n", "  stdio\n", "  ringbuf\n"]),
        (&["-d", "help"], &["int  ", "guest_errors  ", "trace:PATTERN"]),
        (&["-d", "trace:help"], &["pci_cfg_write\n"]),
        (&["-trace", "help"], &["serial_read\n", "memory_region_ops_write\n"]),
        (&["-L", "/own/directory", "-L", "help"], &["/own/directory\n/usr/share/"]),
    ] {
        let text = listing(args)?;
        for entry in entries {
            ensure!(text.contains(entry), "{args:?} lists no {entry:?}:\n{text}");
        }
    }
    Ok(())
}

/// What ours lists of processor models, the reference lists too: same names, same words.
#[test]
fn models_are_the_references() -> Result<()> {
    let reference = match testbed::reference_qemu() {
        Ok(reference) => reference,
        Err(reason) => {
            testbed::skip(&reason);
            return Ok(());
        }
    };
    let output = Command::new(reference).args(["-cpu", "help"]).output()?;
    let theirs = String::from_utf8(output.stdout)?;
    let models = |text: &str| -> Result<String> {
        Ok(text.split_once("\nRecognized").context("no list of flags")?.0.to_owned())
    };
    ensure!(models(&listing(&["-cpu", "help"])?)? == models(&theirs)?);
    Ok(())
}

#[test]
fn traces_go_to_the_log_file() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let log = scratch.path().join("trace.log");
    let log_text = log.display().to_string();
    let mut vm = Launch::headless(testbed::program())
        .accel()
        .args(["-M", "pc", "-S", "-vga", "none", "-nic", "none"])
        .args(["-trace", "pci_cfg_*", "-trace", "runstate_set", "-D", &log_text])
        .qtest()
        .qmp()
        .spawn()?;
    let qtest = vm.qtest();
    qtest.outl(0xcf8, 0x8000_0000)?;
    ensure!(qtest.inl(0xcfc)? == 0x1237_8086);
    // Firmware writes as soon as it runs.
    let before = std::fs::read_to_string(&log)?;
    ensure!(!before.contains("pci_cfg_write"), "nothing was written:\n{before}");
    vm.qmp().execute("cont")?;
    vm.qmp().execute("quit")?;
    vm.finish()?;
    let text = std::fs::read_to_string(&log)?;
    for line in [
        "pci_cfg_read i440FX 00:00.0 @0x0 -> 0x12378086\n",
        "runstate_set current_run_state prelaunch new_state running\n",
    ] {
        ensure!(text.contains(line), "no {line:?} in:\n{text}");
    }
    Ok(())
}

#[test]
fn traces_tell_of_translated_blocks() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let log = scratch.path().join("trace.log");
    let mut vm = Launch::headless(testbed::program())
        .args(["-accel", "tcg", "-M", "pc", "-vga", "none", "-nic", "none"])
        .args(["-trace", "translate_block", "-trace", "exec_tb"])
        .args(["-D".as_ref(), log.as_os_str()])
        .qmp()
        .spawn()?;
    let lines = ["translate_block tb:0x", "exec_tb tb:0x"];
    testbed::until("blocks are traced", || {
        let text = std::fs::read_to_string(&log)?;
        Ok(lines.iter().all(|line| text.contains(line)))
    })?;
    vm.qmp().execute("quit")?;
    vm.finish()?;
    Ok(())
}
