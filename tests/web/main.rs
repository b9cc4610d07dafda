//! The web console at a whole program: its protocol, and its page in a browser.

mod browser;
mod client;
mod server;

use anyhow::Result;
use testbed::vm::{Launch, Vm};
use testbed::{program, skip, until};

/// A machine with a page.
struct Page {
    vm: Vm,
    /// Where it is: host and port.
    address: String,
    token: String,
}

impl Page {
    /// A PC with a display, and what else is given.
    fn serve(web: &str, args: &[&str]) -> Result<Page> {
        let vm = Launch::new(program())
            .accel()
            .args(["-M", "pc", "-m", "64", "-nodefaults", "-vga", "std", "-name", "tested"])
            .args(["-web", web])
            .args(args)
            .qmp()
            .spawn()?;
        let mut url = String::new();
        until("the URL", || {
            let messages = vm.messages();
            let line = messages.split_inclusive('\n').find(|line| line.contains("web console at"));
            url = line
                .and_then(|line| Some(line.split("http://").nth(1)?.trim().to_owned()))
                .unwrap_or_default();
            Ok(!url.is_empty() && messages.ends_with('\n'))
        })?;
        let (address, token) = url.split_once("/#token=").unwrap_or_default();
        Ok(Page { address: address.into(), token: token.into(), vm })
    }

    fn url(&self) -> String {
        format!("http://{}/#token={}", self.address, self.token)
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }
}

/// Whether this program has a web console; says so if not.
fn is_ours() -> bool {
    let reference = testbed::is_reference(&program());
    if reference {
        skip("QEMU has no web console");
    }
    !reference
}
