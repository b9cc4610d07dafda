//! The page in a browser, as a person uses it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::browser::{self, Browser};
use testbed::sectors::{self, ECHO, SERIAL_ECHO};
use testbed::{skip, until};

use crate::{Page, is_ours};

/// Sizes of a desktop and of a telephone.
const DESKTOP: (u32, u32) = (1280, 800);
const PHONE: (u32, u32) = (390, 844);

/// The colours of the guest's screen in the page: how many pixels are lit.
const LIT: &str = "
    const canvas = document.querySelector('#stage canvas');
    if (!canvas || !canvas.width) return null;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let lit = 0;
    for (let at = 0; at < data.length; at += 4) lit += data[at] + data[at + 1] + data[at + 2] > 0;
    return { size: [canvas.width, canvas.height], lit };";

/// A browser, if there is one; else that is said.
fn browser() -> Result<Option<Browser>> {
    if !is_ours() {
        return Ok(None);
    }
    match browser::available() {
        Ok(()) => Browser::start(DESKTOP.0, DESKTOP.1).map(Some),
        Err(reason) => {
            skip(&reason);
            Ok(None)
        }
    }
}

/// Takes a picture for people, if anybody wants one.
fn picture(browser: &mut Browser, name: &str) -> Result<()> {
    let Some(gallery) = browser::gallery() else { return Ok(()) };
    std::fs::create_dir_all(&gallery)?;
    Ok(std::fs::write(gallery.join(format!("{name}.png")), browser.picture()?)?)
}

fn choose(browser: &mut Browser, tab: &str) -> Result<()> {
    browser.run(&format!("document.getElementById('tab-{tab}').click()")).map(drop)
}

/// Waits until a script says yes.
fn until_so(browser: &mut Browser, script: &str) -> Result<()> {
    until(script, || Ok(browser.run(&format!("return {script}"))? == json!(true)))
}

/// Waits until a terminal shows a text.
fn until_printed(browser: &mut Browser, view: &str, text: &str) -> Result<()> {
    let rows = format!("document.querySelector('#view-{view} .xterm-rows')?.textContent");
    // Blanks are not broken.
    let rows = format!("({rows} ?? '').replaceAll('\\u00a0', ' ')");
    until_so(browser, &format!("{rows}.includes({})", json!(text)))
}

/// The screen as the page has it is the one that the machine has.
fn same_pixels(browser: &mut Browser, page: &mut Page) -> Result<bool> {
    let path = page.vm.scratch().join("own.ppm");
    page.vm.qmp().execute_with("screendump", json!({"filename": path}))?;
    let own = std::fs::read(&path)?;
    // Three lines before the pixels: kind, size, depth.
    let head: usize = own.split_inclusive(|byte| *byte == b'\n').take(3).map(<[u8]>::len).sum();
    let lit = own[head..].chunks(3).filter(|pixel| pixel.iter().any(|part| *part > 0)).count();
    let seen = browser.run(LIT)?;
    Ok(seen["lit"] == lit && lit > 0)
}

#[test]
fn a_person_sees_types_and_switches() -> Result<()> {
    let Some(mut browser) = browser()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), ECHO)?;
    let args = ["-drive", &disk, "-drive", "if=ide,media=cdrom,index=2", "-nic", "user"];
    let mut page = Page::serve(":0", &args)?;
    sectors::until_shown(&mut page.vm, ">")?;
    browser.open(&page.url())?;
    until_so(&mut browser, "document.body.dataset.state === 'running'")?;
    // The token is nowhere to be seen.
    ensure!(browser.run("return location.href")? == json!(format!("http://{}/", page.address)));
    ensure!(browser.run("return document.title")? == json!("tested · Rhea"));

    until("the same pixels", || same_pixels(&mut browser, &mut page))?;
    browser.run("document.getElementById('stage').focus()")?;
    browser.press("\u{e007}")?;
    browser.press("hello")?;
    sectors::until_shown(&mut page.vm, ">hello")?;
    until("the same pixels", || same_pixels(&mut browser, &mut page))?;
    picture(&mut browser, "screen")?;
    // The way out.
    browser.run(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown',
            { code: 'KeyG', key: 'g', ctrlKey: true, altKey: true, bubbles: true }))",
    )?;
    ensure!(browser.run("return document.activeElement.id")? == json!("scale"));

    browser.run("document.getElementById('pause').click()")?;
    until_so(&mut browser, "document.getElementById('state').textContent === 'Paused'")?;
    ensure!(page.vm.qmp().execute("query-status")?["status"] == "paused");
    browser.run("document.getElementById('pause').click()")?;
    until_so(&mut browser, "document.body.dataset.state === 'running'")?;

    choose(&mut browser, "monitor")?;
    until_printed(&mut browser, "monitor", "(qemu)")?;
    browser.press("info vers\t\u{e007}")?;
    until_printed(&mut browser, "monitor", "10.0.2")?;

    let medium = directory.path().join("medium.iso");
    std::fs::write(&medium, vec![0; 1 << 20])?;
    choose(&mut browser, "disks")?;
    until_so(&mut browser, "document.querySelectorAll('#disk-list article').length === 2")?;
    let script = format!(
        "const card = [...document.querySelectorAll('#disk-list article')].find(
             (card) => card.textContent.includes('No medium'));
         [...card.querySelectorAll('button')].at(-1).click();
         document.getElementById('medium-file').value = {};
         document.querySelector('#medium-dialog .primary').click();",
        json!(medium.display().to_string())
    );
    browser.run(&script)?;
    until_so(
        &mut browser,
        "document.getElementById('disk-list').textContent.includes('medium.iso')",
    )?;
    let mut complaints = browser.complaints()?;
    // That is about how this test looks at the screen.
    complaints.retain(|complaint| !complaint.contains("getImageData"));
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

#[test]
fn serial_ports_are_terminals_and_come_back() -> Result<()> {
    let Some(mut browser) = browser()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), SERIAL_ECHO)?;
    let page = Page::serve(":0", &["-drive", &disk, "-serial", "vc"])?;
    browser.open(&page.url())?;
    until_so(&mut browser, "document.body.dataset.state === 'running'")?;
    choose(&mut browser, "terminal-serial0")?;
    until_printed(&mut browser, "terminal-serial0", ">")?;
    browser.press("hello")?;
    until_printed(&mut browser, "terminal-serial0", ">hello")?;
    // The page comes again and knows who it is, and what was printed.
    browser.run("location.reload()")?;
    until_printed(&mut browser, "terminal-serial0", ">hello")
}

#[test]
fn strangers_are_asked_for_the_token() -> Result<()> {
    let Some(mut browser) = browser()? else { return Ok(()) };
    let page = Page::serve(":0", &["-S"])?;
    browser.open(&format!("http://{}/#token=wrong", page.address))?;
    until_so(&mut browser, "document.getElementById('login-fault').textContent !== ''")?;
    picture(&mut browser, "token")?;
    browser.type_in("#token", &page.url())?;
    browser.press("\u{e007}")?;
    until_so(&mut browser, "document.body.dataset.state === 'paused'")
}

#[test]
fn every_view_fits_a_desktop_and_a_telephone() -> Result<()> {
    let Some(mut browser) = browser()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), ECHO)?;
    let args = ["-drive", &disk, "-drive", "if=ide,media=cdrom,index=2", "-nic", "user"];
    let args = [&args[..], &["-serial", "vc", "-smp", "2"]].concat();
    let page = Page::serve(":0", &args)?;
    browser.open(&page.url())?;
    until_so(&mut browser, "document.body.dataset.state === 'running'")?;
    for (name, (width, height)) in [("desktop", DESKTOP), ("phone", PHONE)] {
        for dark in [false, true] {
            browser.screen(width, height, dark)?;
            for view in ["screen", "terminal-serial0", "monitor", "disks", "activity"] {
                choose(&mut browser, view)?;
                std::thread::sleep(std::time::Duration::from_millis(200));
                let overhang = browser.run(
                    "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
                )?;
                ensure!(overhang == json!(0), "{name} {view}: {overhang} pixels too wide");
                let colours = if dark { "dark" } else { "light" };
                picture(&mut browser, &format!("{name}-{colours}-{view}"))?;
            }
        }
    }
    // Everything that can be pressed can be reached, and says what it is.
    let nameless = browser.run(
        "return [...document.querySelectorAll('button, select, input, textarea, summary')]
            .filter((one) => !one.closest('.xterm') && !(one.textContent.trim() || one.ariaLabel
                || one.labels?.length)).map((one) => one.outerHTML)",
    )?;
    ensure!(nameless == Value::Array(Vec::new()), "{nameless}");
    Ok(())
}

/// Serves a page that shows a VNC server with noVNC alone.
fn serve_viewer() -> Result<String> {
    const PAGE: &str = "<!doctype html><div id=stage></div><script type=module>
        import { RFB } from './novnc.js';
        window.rfb = new RFB(document.getElementById('stage'), location.hash.slice(1));
        </script>";
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/ui/web/vendor/novnc.js");
    let library = std::fs::read_to_string(library).context("no noVNC")?;
    let answer = move |mut stream: TcpStream| -> Result<()> {
        let mut request = vec![0; 4096];
        let count = stream.read(&mut request)?;
        let wants_library = String::from_utf8_lossy(&request[..count]).contains("novnc.js");
        let (kind, body) =
            if wants_library { ("text/javascript", &*library) } else { ("text/html", PAGE) };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        Ok(stream.write_all((head + body).as_bytes())?)
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who does not listen to the answer does not matter.
            let _ = answer(stream);
        }
    });
    Ok(format!("http://{address}/"))
}

/// noVNC at the server of `-vnc`, as people who have noVNC already use it.
#[test]
fn novnc_shows_a_plain_server() -> Result<()> {
    let Some(mut browser) = browser()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), ECHO)?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let vnc = format!("127.0.0.1:0,to=99,websocket={free}");
    let mut page = Page::serve(":0", &["-drive", &disk, "-vnc", &vnc])?;
    sectors::until_shown(&mut page.vm, ">")?;
    browser.open(&format!("{}#ws://127.0.0.1:{free}", serve_viewer()?))?;
    until("the same pixels", || same_pixels(&mut browser, &mut page))?;
    browser.run("window.rfb.focus()")?;
    browser.press("novnc")?;
    sectors::until_shown(&mut page.vm, ">novnc")?;
    until("the same pixels", || same_pixels(&mut browser, &mut page))
}
