//! vncdotool, a client that people automate machines with: it types, and takes pictures.

use anyhow::Result;
use serde_json::json;
use testbed::sectors::{self, ECHO};
use testbed::vm::Vm;
use testbed::{modules, program, python, skip};

/// Types, or takes a picture of what is seen and compares it with the machine's own.
const SCRIPT: &str = r#"
import sys
from PIL import Image
from vncdotool import api

address, action, *rest = sys.argv[1:]
client = api.connect(address, timeout=60)
if action == 'type':
    for key in rest:
        client.keyPress(key)
    # QEMU does not read what is left when a client hangs up.
    client.pause(0.5)
elif action == 'shout':
    client.keyDown('shift')
    client.keyPress('1')
    client.keyUp('shift')
else:
    seen, own = rest
    client.captureScreen(seen)
    one, other = Image.open(seen).convert('RGB'), Image.open(own).convert('RGB')
    assert one.size == other.size, (one.size, other.size)
    assert one.tobytes() == other.tobytes(), 'another picture'
client.disconnect()
api.shutdown()
"#;

/// The client at a machine.
struct Client {
    vm: Vm,
    directory: tempfile::TempDir,
}

impl Client {
    fn of(start: impl FnOnce(&std::path::Path) -> Result<Vm>) -> Result<Option<Self>> {
        if let Err(reason) = python::has("vncdotool, PIL") {
            skip(&reason);
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        Ok(Some(Client { vm: start(directory.path())?, directory }))
    }

    fn act(&self, arguments: &[&str]) -> Result<()> {
        let address = self.directory.path().join("vnc").display().to_string();
        python::run_script(SCRIPT, &[&[&*address], arguments].concat()).map(drop)
    }

    /// Types keys, as it names them.
    fn press(&self, keys: &[&str]) -> Result<()> {
        self.act(&[&["type"], keys].concat())
    }

    /// What it sees is what the machine shows.
    fn compare(&mut self) -> Result<()> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let (seen, own) = (path("seen.png"), path("own.png"));
        self.vm.qmp().execute_with("screendump", json!({"filename": own, "format": "png"}))?;
        self.act(&["compare", &seen, &own])
    }
}

#[test]
fn it_types_and_sees() -> Result<()> {
    let client = Client::of(|directory| {
        let disk = sectors::disk(directory, ECHO)?;
        crate::serve(&program(), directory, "", &["-drive", &disk])
    })?;
    let Some(mut client) = client else { return Ok(()) };
    sectors::until_shown(&mut client.vm, ">")?;
    client.press(&["h", "e", "l", "l", "o"])?;
    client.act(&["shout"])?;
    sectors::until_shown(&mut client.vm, ">hello!")?;
    client.compare()
}

/// At the console of a Linux, as a person does.
#[test]
fn it_logs_in() -> Result<()> {
    let guest = modules::display()?;
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let client = Client::of(|directory| {
        // A guest that gets little of a busy host reads no faster than that: its keyboard keeps 16 bytes.
        let append = "quiet vt.global_cursor_default=0 rhea.run=login";
        let args = ["-m", "256", "-kernel", &kernel, "-initrd", &initrd, "-append", append];
        crate::serve(&program(), directory, "key-delay-ms=50", &args)
    })?;
    let Some(mut client) = client else { return Ok(()) };
    sectors::until_shown(&mut client.vm, "rhea login:")?;
    client.press(&["g", "u", "e", "s", "t", "enter"])?;
    sectors::until_shown(&mut client.vm, "Password:")?;
    client.press(&["s", "e", "s", "a", "m", "e", "enter"])?;
    sectors::until_shown(&mut client.vm, "Welcome, guest")?;
    client.press(&["e", "c", "h", "o", "space", "4", "2", "enter"])?;
    // The answer is at the beginning of a line.
    let answer = format!("echo 42{:1$}42", "", 80 - "$ echo 42".len());
    sectors::until_shown(&mut client.vm, &answer)?;
    client.compare()
}
