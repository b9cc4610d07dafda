//! Linux with its drivers for each adapter, and the console that it draws on them.

use crate::Guest;
use anyhow::{Context, Result};
use testbed::modules;

#[test]
fn consoles_are_drawn_by_the_adapters_drivers() -> Result<()> {
    let guest = modules::display()?;
    let (kernel, initrd) = (guest.kernel.display(), guest.initrd.display());
    for adapter in ["std", "cirrus", "virtio"] {
        let append = "console=ttyS0 panic=-1 vt.global_cursor_default=0 rhea.run=display";
        let line = format!("-vga {adapter} -m 256 -kernel {kernel} -initrd {initrd} -append");
        let mut args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        args.push(append.into());
        let guest = Guest { args, says: Some("rhea-display: "), ..Guest::default() };
        guest.looks_the_same(&format!("linux-{adapter}")).with_context(|| adapter.to_owned())?;
    }
    Ok(())
}
