//! Linux with its drivers for each adapter: the console that it draws on them, and an X server.

use crate::Guest;
use anyhow::{Context, Result};
use testbed::modules::Modular;
use testbed::{desktop, modules};

/// Runs a script of the test guest that says `word` when it has drawn all.
fn looks_the_same(what: &str, guest: &Modular, script: &str, word: &str) -> Result<()> {
    let (kernel, initrd) = (guest.kernel.display(), guest.initrd.display());
    for adapter in ["std", "cirrus", "virtio"] {
        let append =
            format!("console=ttyS0 panic=-1 vt.global_cursor_default=0 rhea.run=adapter,{script}");
        let line = format!("-vga {adapter} -m 384 -kernel {kernel} -initrd {initrd} -append");
        let mut args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        args.push(append);
        let guest = Guest { args, says: Some(word), ..Guest::default() };
        guest.looks_the_same(&format!("{what}-{adapter}")).with_context(|| adapter.to_owned())?;
    }
    Ok(())
}

#[test]
fn consoles_are_drawn_by_the_adapters_drivers() -> Result<()> {
    looks_the_same("linux", &modules::display()?, "display", "rhea-display: ")
}

#[test]
fn xorg_draws_windows() -> Result<()> {
    looks_the_same("xorg", &desktop::get()?, "desktop", "rhea-desktop: ready")
}
