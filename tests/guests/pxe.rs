//! Booting from the user-mode network: iPXE, from the ROM of each card, asks for an address and fetches
//! what it is told to by TFTP.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use testbed::assets;
use testbed::vm::Launch;

use crate::machine;

/// iPXE's ROMs, as the distribution has them.
const ROMS: &str = "/usr/lib/ipxe/qemu";

/// A machine that boots from the network: `script` is what iPXE fetches from a directory and runs.
fn from_network(card: &str, directory: &Path, script: &str) -> Result<Launch> {
    fs::write(directory.join("boot.ipxe"), script)?;
    let network = format!("user,id=n,tftp={},bootfile=boot.ipxe", directory.display());
    let card = format!("{card},netdev=n,bootindex=0");
    Ok(machine().args(["-m", "512", "-netdev", &network, "-device", &card]))
}

fn has_roms() -> bool {
    let there = Path::new(ROMS).exists();
    if !there {
        testbed::skip("the distribution's iPXE is not there");
    }
    there
}

/// iPXE's drivers are not Linux': they ask the cards for other things.
#[test]
fn every_card_fetches_a_script() -> Result<()> {
    if !has_roms() {
        return Ok(());
    }
    for card in ["virtio-net-pci", "e1000", "rtl8139", "ne2k_pci", "pcnet"] {
        let scratch = tempfile::tempdir()?;
        let script = "#!ipxe\necho rhea-pxe: ${net0/mac} has ${net0/ip} by ${net0/gateway}\n\
                      prompt\n";
        let mut vm = from_network(card, scratch.path(), script)?.spawn()?;
        let text = "rhea-pxe: 52:54:00:12:34:56 has 10.0.2.15 by 10.0.2.2";
        vm.expect(text).with_context(|| format!("{card}:\n{}", vm.output()))?;
    }
    Ok(())
}

fn a_kernel_comes_by(card: &str) -> Result<()> {
    if !has_roms() {
        return Ok(());
    }
    let assets = assets::get()?;
    let scratch = tempfile::tempdir()?;
    fs::copy(assets.cloud_kernel(), scratch.path().join("vmlinuz"))?;
    fs::copy(assets.initrd(), scratch.path().join("initrd"))?;
    let script = "#!ipxe\nkernel vmlinuz initrd=initrd console=ttyS0 panic=-1 rhea.run=poweroff\n\
                  initrd initrd\nboot\n";
    let ended = from_network(card, scratch.path(), script)?.run()?;
    ensure!(ended.stdout.contains("rhea-guest: ready"), "{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn a_kernel_comes_by_virtio_net() -> Result<()> {
    a_kernel_comes_by("virtio-net-pci")
}

#[test]
fn a_kernel_comes_by_e1000() -> Result<()> {
    a_kernel_comes_by("e1000")
}
