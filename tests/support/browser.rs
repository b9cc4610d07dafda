//! A browser without a window, driven by the WebDriver protocol: Debian's Chromium and its driver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::apt::as_root;

/// Debian's packages; the fonts are what pages are written in.
const PACKAGES: [&str; 3] = ["chromium", "chromium-driver", "fonts-dejavu-core"];
const PROGRAMS: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/chromedriver"];

/// What keeps it from looking for other hosts, and lets it run as root.
const SWITCHES: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// How WebDriver calls the member that holds an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Whether there is one; else the reason.
pub fn available() -> Result<(), String> {
    match PROGRAMS.iter().find(|path| !Path::new(path).exists()) {
        None => Ok(()),
        Some(path) => Err(format!("no {path} (`cargo xtask browser` installs it)")),
    }
}

/// Installs one.
pub fn install() -> Result<()> {
    if available().is_ok() {
        return Ok(());
    }
    for arguments in [&["update"][..], &[&["install", "--yes"], &PACKAGES[..]].concat()] {
        let mut command = as_root("apt-get")?;
        let status = command.arg("--quiet").args(arguments).status()?;
        ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    }
    Ok(())
}

/// A browser with one page. It ends with this.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one, with a window of this size.
    pub fn start(width: u32, height: u32) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut driver = Command::new(PROGRAMS[1])
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the browser's driver")?;
        let port = port_of(&mut driver);
        let mut browser =
            Browser { driver, port: port?, session: String::new(), _profile: profile };
        let directory = format!("--user-data-dir={}", browser._profile.path().display());
        let size = format!("--window-size={width},{height}");
        let switches: Vec<&str> = SWITCHES.into_iter().chain([&*directory, &*size]).collect();
        let options = json!({"args": switches, "binary": PROGRAMS[0]});
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let session = browser.call("POST", "/session", &wanted)?;
        let session = session["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{session}");
        browser.screen(width, height, false)?;
        Ok(browser)
    }

    /// Makes the page this large, and the colours light or dark.
    pub fn screen(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)?;
        let value = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.devtools("Emulation.setEmulatedMedia", &media)
    }

    fn devtools(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let path = format!("{}/goog/cdp/execute", self.session);
        self.call("POST", &path, &json!({"cmd": command, "params": arguments})).map(drop)
    }

    /// Has a script run in each page as soon as there is one.
    pub fn at_start(&mut self, script: &str) -> Result<()> {
        let script = format!("addEventListener('DOMContentLoaded', () => {{ {script} }})");
        let command = "Page.addScriptToEvaluateOnNewDocument";
        self.devtools(command, &json!({"source": script}))
    }

    /// Forgets what it has seen of pages so far.
    pub fn forget(&mut self) -> Result<()> {
        self.devtools("Network.clearBrowserCache", &json!({}))
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let path = format!("{}/url", self.session);
        self.call("POST", &path, &json!({"url": url})).map(drop)
    }

    /// Runs a function's body in the page, which may await something; returns its result.
    pub fn run(&mut self, script: &str) -> Result<Value> {
        let path = format!("{}/execute/sync", self.session);
        let script = format!("return (async () => {{ {script} }})()");
        self.call("POST", &path, &json!({"script": script, "args": []}))
    }

    /// Types into an element.
    pub fn type_in(&mut self, selector: &str, text: &str) -> Result<()> {
        let path = format!("{}/element", self.session);
        let found = json!({"using": "css selector", "value": selector});
        let found = self.call("POST", &path, &found)?;
        let element = found[ELEMENT].as_str().context("no element")?;
        let path = format!("{}/element/{element}/value", self.session);
        self.call("POST", &path, &json!({"text": text})).map(drop)
    }

    /// Presses keys, wherever the focus is.
    pub fn press(&mut self, text: &str) -> Result<()> {
        let stroke = |character: char| {
            ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": character.to_string()}))
        };
        let strokes: Vec<Value> = text.chars().flat_map(stroke).collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": strokes});
        let path = format!("{}/actions", self.session);
        self.call("POST", &path, &json!({"actions": [keyboard]})).map(drop)
    }

    /// A picture of the page, as PNG.
    pub fn picture(&mut self) -> Result<Vec<u8>> {
        let path = format!("{}/screenshot", self.session);
        let picture = self.call("GET", &path, &Value::Null)?;
        Ok(STANDARD.decode(picture.as_str().context("no picture")?)?)
    }

    /// What the page has complained about.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        let path = format!("{}/se/log", self.session);
        let log = self.call("POST", &path, &json!({"type": "browser"}))?;
        let lines = log.as_array().cloned().unwrap_or_default();
        Ok(lines.iter().map(|line| line["message"].to_string()).collect())
    }

    /// Asks the driver.
    fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(said) = line.strip_prefix("content-length:") {
                length = said.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let value = answer["value"].clone();
        if value["error"].is_string() {
            bail!("{path}: {}", value["message"]);
        }
        Ok(value)
    }
}

fn port_of(driver: &mut Child) -> Result<u16> {
    let output = driver.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some((_, port)) = line.split_once("successfully on port ") {
            return Ok(port.trim_end_matches('.').parse()?);
        }
    }
    bail!("the browser's driver did not start")
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Takes the browser with it; both fail only if they have gone.
        let path = self.session.clone();
        let _ = self.call("DELETE", &path, &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Where pictures for people go, if anybody wants them: `RHEA_PICTURES`.
pub fn gallery() -> Option<PathBuf> {
    std::env::var_os("RHEA_PICTURES").map(PathBuf::from)
}
