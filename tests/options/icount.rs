//! Who may count instructions, in QEMU's words.

use anyhow::{Result, ensure};
use testbed::vm::Launch;

const REFUSED: [(&[&str], &str); 4] = [
    (
        &["-icount", "3", "-accel", "tcg,thread=multi"],
        "-accel tcg,thread=multi: No MTTCG when icount is enabled",
    ),
    (&["-icount", "shift=11"], "-icount shift=11: icount: Invalid shift value"),
    (&["-icount", "align=on"], "-icount align=on: Please specify shift option when using align"),
    (
        &["-icount", "shift=3,align=on,sleep=off"],
        "-icount shift=3,align=on,sleep=off: align=on and sleep=off are incompatible",
    ),
];

#[test]
fn what_cannot_be_counted_is_told() -> Result<()> {
    for (args, message) in REFUSED {
        refuses(args, message)?;
    }
    // Where there is one.
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        let message = "-icount is not allowed with hardware virtualization";
        refuses(&["-icount", "3", "-accel", "kvm"], message)?;
        refuses(&["-icount", "auto", "-machine", "accel=kvm:tcg"], message)?;
    }
    Ok(())
}

fn refuses(args: &[&str], message: &str) -> Result<()> {
    let machine = Launch::new(testbed::program()).args(["-display", "none", "-nodefaults", "-S"]);
    let ended = machine.args(args).run()?;
    let expected = format!("qemu-system-x86_64: {message}\n");
    ensure!(ended.stderr == expected, "{args:?}: {}", ended.stderr);
    ensure!(ended.status.code() == Some(1), "{args:?}: {}", ended.status);
    Ok(())
}
