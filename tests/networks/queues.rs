//! Cards with several queues.

use anyhow::{Result, ensure};
use testbed::vm::Launch;

use crate::private;

const TAP: &str = "ifname=t0,script=no,downscript=no";

fn shown(args: &[&str]) -> Result<String> {
    let machine = Launch::headless(testbed::program()).args(["-S"]).args(args);
    let mut vm = machine.qmp().spawn()?;
    vm.qmp().hmp("info network")
}

/// As QEMU 10.0.2 shows them.
#[test]
fn each_is_shown() -> Result<()> {
    private::run(|| {
        let netdev = format!("tap,id=n,queues=2,{TAP}");
        let args = ["-netdev", &netdev, "-device", "virtio-net-pci,mq=on,netdev=n"];
        let second = ["-device", "virtio-net-pci", "-device", "e1000,id=e"];
        let expected = format!(
            "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\n \
             \\ n: index=0,type=tap,{TAP}\n\
             virtio-net-pci.1: index=1,type=nic,\n \
             \\ n: index=1,type=tap,{TAP}\n\
             virtio-net-pci.2: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\n\
             e: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:58\n"
        );
        let text = shown(&[args, second].concat())?;
        ensure!(text == expected, "{text}");

        let text = shown(&["-netdev", &netdev])?;
        ensure!(text == format!("n: index=0,type=tap,{TAP}\n").repeat(2), "{text}");
        let text = shown(&["-netdev", &netdev, "-device", "e1000,netdev=n,id=c"])?;
        let expected = format!(
            "c: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\n \\ n: index=0,type=tap,{TAP}\n\
             c: index=1,type=nic,\n \\ n: index=1,type=tap,{TAP}\n"
        );
        ensure!(text == expected, "{text}");

        let filter = ["-object", "filter-dump,id=f,netdev=n,file=/dev/null"];
        let args = [&["-netdev", netdev.as_str()][..], &filter].concat();
        let ended = Launch::headless(testbed::program()).args(["-S"]).args(args).run()?;
        let (status, said) = (ended.status, ended.stderr);
        ensure!(!status.success() && said.contains("multiqueue is not supported"), "{said}");
        Ok(())
    })
}
