//! The human monitor on a terminal.

use anyhow::{Result, ensure};
use testbed::vm::{Launch, Vm};

fn at_prompt(args: &[&str]) -> Result<Vm> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "none", "-S", "-nodefaults", "-display", "none"])
        .args(args)
        .spawn()?;
    vm.expect("monitor - type 'help' for more information\n(qemu) ")?;
    Ok(vm)
}

#[test]
fn a_person_types_commands_and_leaves() -> Result<()> {
    let mut vm = at_prompt(&["-monitor", "stdio"])?;
    vm.send("info status\r")?;
    vm.expect("VM status: paused (prelaunch)\n(qemu) ")?;
    vm.send("con\t\r")?;
    vm.expect("(qemu) ")?;
    vm.send("info status\r")?;
    vm.expect("VM status: running\n(qemu) ")?;
    vm.send("nonsense\r")?;
    vm.expect("unknown command: 'nonsense'\n(qemu) ")?;
    vm.send("quit\r")?;
    ensure!(vm.finish()?.status.success());
    Ok(())
}

/// What scripts read that feed commands to a monitor: each command as it is typed, what it prints,
/// and no prompt after the last one.
#[test]
fn the_terminal_shows_what_qemu_shows() -> Result<()> {
    let shown = |program| -> Result<String> {
        let args = ["-M", "none", "-S", "-nodefaults", "-display", "none", "-monitor", "stdio"];
        let mut vm = Launch::new(program).args(args).spawn()?;
        vm.send("info status\nnonsense\nprint 1+1\x1b[D0\nquit\nhelp\n")?;
        Ok(vm.finish()?.stdout)
    };
    let ours = shown(testbed::program())?;
    ensure!(
        ours.ends_with(
            "(qemu) q\x1b[K\x1b[Dqu\x1b[K\x1b[D\x1b[Dqui\x1b[K\x1b[D\x1b[D\x1b[Dquit\x1b[K\n"
        ),
        "{ours:?}"
    );
    match testbed::reference_qemu() {
        Ok(qemu) => {
            let theirs = shown(qemu)?;
            ensure!(ours == theirs, "{ours:?}\n{theirs:?}");
        }
        Err(reason) => testbed::skip(&reason),
    }
    Ok(())
}

#[test]
fn the_same_commands_serve_programs() -> Result<()> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "16", "-S", "-nodefaults", "-display", "none"])
        .qmp()
        .spawn()?;
    let qmp = vm.qmp();
    ensure!(qmp.hmp("o/b 0x70 0x0e")?.is_empty());
    // The first two bytes that a processor executes: a far jump.
    ensure!(qmp.hmp("xp/1xb 0xfffffff0")?.ends_with(": 0xea\n"));
    ensure!(qmp.hmp("print 6 * (3 + 4)")? == "0x2a\n");
    // `RIP`, or `EIP` on 32 bits.
    let registers = qmp.hmp("info registers")?;
    ensure!(registers.contains("IP=0000") && registers.contains("fff0"), "{registers}");
    ensure!(qmp.hmp("x/1xb $pc")?.ends_with(": 0xea\n"));
    ensure!(qmp.hmp("info mtree")?.contains("(prio 0, i/o): system\n"));
    ensure!(qmp.hmp("info mtree -f")?.contains("(prio 0, rom): pc.bios\n"));
    ensure!(qmp.hmp("info pic")?.starts_with("ioapic0: ver=0x20 id=0x00 sel=0x00\n"));
    ensure!(qmp.hmp("info lapic")?.starts_with("dumping local APIC state for CPU 0 \n\nLVT0\t "));
    ensure!(qmp.hmp("info tlb")? == "PG disabled\n");
    ensure!(qmp.hmp("gva2gpa 0x1234")? == "gpa: 0x1234\n");
    ensure!(qmp.hmp("info qtree")?.contains("          dev: mc146818rtc, id \"\"\n"));
    ensure!(qmp.hmp("info qom-tree")?.contains("  /unattached (container)\n"));
    ensure!(qmp.hmp("cpu 1")? == "invalid CPU index\n");
    ensure!(qmp.hmp("stop now")?.contains("extraneous characters at the end of line"));
    Ok(())
}

#[test]
fn a_shared_terminal_shows_the_monitor_when_it_is_asked_for() -> Result<()> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "16", "-S", "-nographic", "-vga", "none", "-nic", "none"])
        .spawn()?;
    vm.send("\u{1}c")?;
    let shown = vm.expect("(qemu) ")?;
    ensure!(
        shown == "QEMU 10.0.2 monitor - type 'help' for more information\n(qemu) ",
        "{shown:?}"
    );
    vm.send("\u{1}c\u{1}cinfo status\r")?;
    vm.expect("\n(qemu) ")?;
    vm.expect("VM status: paused (prelaunch)\n(qemu) ")?;
    vm.send("\u{1}x")?;
    ensure!(vm.finish()?.status.success());
    Ok(())
}

#[test]
fn all_but_the_first_processor_wait_to_be_started() -> Result<()> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "16", "-smp", "2", "-S", "-nodefaults", "-display", "none"])
        .qmp()
        .spawn()?;
    let registers = vm.qmp().hmp("info registers -a")?;
    let lines = |what: &str| registers.lines().filter(|line| line.contains(what)).count();
    ensure!((lines("HLT=0"), lines("HLT=1")) == (1, 1), "{registers}");
    ensure!(lines("FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80") == 2, "{registers}");
    Ok(())
}
