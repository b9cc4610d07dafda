//! What guest and machine tell each other through files: vmgenid and vmcoreinfo.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::qtest::QTest;

fn files(test: &mut QTest) -> Result<Vec<String>> {
    test.outw(0x510, 0x19)?;
    let data = |test: &mut QTest, count| test.inbs(std::iter::repeat_n(0x511, count));
    let count = data(test, 4)?[3];
    let mut names = Vec::new();
    for _ in 0..count {
        let entry = data(test, 64)?;
        let name = entry[8..].split(|&byte| byte == 0).next().unwrap_or_default();
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    Ok(names)
}

#[test]
fn devices_bring_their_files() -> Result<()> {
    const FILES: [&str; 3] = ["etc/vmgenid_guid", "etc/vmgenid_addr", "etc/vmcoreinfo"];
    let mut vm = machine(&["-device", "vmgenid,guid=auto", "-device", "vmcoreinfo"])?;
    let names = files(vm.qtest())?;
    for file in FILES {
        ensure!(names.iter().any(|name| name == file), "{file} is not in {names:?}");
    }
    let mut vm = machine(&[])?;
    let names = files(vm.qtest())?;
    ensure!(!names.iter().any(|name| FILES.contains(&name.as_str())), "{names:?}");
    Ok(())
}
