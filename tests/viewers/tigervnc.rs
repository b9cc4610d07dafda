//! TigerVNC's viewer on an X server without a screen: what it shows, and what is typed into its window.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::sectors::{self, ECHO};
use testbed::{program, python, skip, until};

/// What there has to be; Debian's packages are xvfb and tigervnc-viewer.
const PROGRAMS: [&str; 2] = ["Xvfb", "xtigervncviewer"];

/// Types into the viewer's window, or looks whether the machine's picture is in it.
const SCRIPT: &str = r#"
import sys
from PIL import Image
from Xlib import X, XK, display
from Xlib.ext import xtest

name, action, what = sys.argv[1:4]
x = display.Display(name)
root = x.screen().root
windows = [window for window in root.query_tree().children
           if window.get_attributes().map_state == X.IsViewable]
window = max(windows, key=lambda window: window.get_geometry().width, default=root)

if action == 'type':
    window.set_input_focus(X.RevertToParent, X.CurrentTime)
    for letter in what:
        code = x.keysym_to_keycode(XK.string_to_keysym(letter))
        xtest.fake_input(x, X.KeyPress, code)
        xtest.fake_input(x, X.KeyRelease, code)
        x.sync()
    sys.exit()

own = Image.open(what).convert('RGB')
area = root.get_geometry()
raw = root.get_image(0, 0, area.width, area.height, X.ZPixmap, 0xffffffff)
seen = Image.frombytes('RGB', (area.width, area.height), raw.data, 'raw', 'BGRX')
# No window is far from the corner.
for y in range(min(64, area.height - own.height)):
    for x in range(min(64, area.width - own.width)):
        # Its corner first: that is quick.
        if all(seen.crop((x, y, x + width, y + height)).tobytes()
               == own.crop((0, 0, width, height)).tobytes()
               for width, height in ((32, 16), own.size)):
            print('found')
            sys.exit()
"#;

/// An X server of its own. It ends with this, and so do its clients.
struct Server {
    child: Child,
    display: String,
}

impl Server {
    fn start() -> Result<Self> {
        let mut child = Command::new(PROGRAMS[0])
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "1024x768x24",
                "-nolisten",
                "tcp",
                "-noreset",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let mut server = Server { child, display: String::new() };
        let mut number = String::new();
        BufReader::new(output).read_line(&mut number)?;
        ensure!(!number.is_empty(), "the X server did not start");
        server.display = format!(":{}", number.trim());
        Ok(server)
    }

    fn act(&self, action: &str, what: &str) -> Result<String> {
        python::run_script(SCRIPT, &[&self.display, action, what])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn available() -> Result<(), String> {
    for program in PROGRAMS {
        if Command::new(program).arg("-help").output().is_err() {
            return Err(format!("no {program}"));
        }
    }
    python::has("Xlib, PIL")
}

#[test]
fn it_shows_and_types() -> Result<()> {
    if let Err(reason) = available() {
        skip(&reason);
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), ECHO)?;
    let mut vm = crate::serve(&program(), directory.path(), "", &["-drive", &disk])?;
    sectors::until_shown(&mut vm, ">")?;
    let server = Server::start()?;
    let socket = directory.path().join("vnc");
    let own = directory.path().join("own.png").display().to_string();
    for (encoding, letters, shown) in
        [("Tight", "abc", ">abc"), ("ZRLE", "def", "abcdef"), ("Hextile", "ghi", "abcdefghi")]
    {
        let mut viewer = Command::new(PROGRAMS[1])
            .args(["-display", &server.display, "-NoJPEG", "-geometry", "+0+0"])
            .args(["-PreferredEncoding", encoding])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("HOME", directory.path())
            .spawn()?;
        let mut looks_the_same = || {
            vm.qmp().execute_with("screendump", json!({"filename": own, "format": "png"}))?;
            Ok(server.act("find", &own)?.contains("found"))
        };
        until(&format!("{encoding}: the same picture"), &mut looks_the_same)?;
        server.act("type", letters)?;
        until(&format!("{encoding}: the picture that follows"), &mut looks_the_same)?;
        sectors::until_shown(&mut vm, shown)?;
        viewer.kill()?;
        viewer.wait()?;
    }
    Ok(())
}
