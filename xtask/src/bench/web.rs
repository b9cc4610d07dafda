//! Rows about the web console, which QEMU has not: how soon its page is there, and how soon it shows
//! what is typed. In Chromium without a window.

use super::machine::Contender;
use super::results::{Measured, Metric, Unit};
use super::viewer::{median, pauses};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::thread;
use std::time::Duration;
use testbed::browser::{self, Browser};
use testbed::sectors::{self, ECHO};
use testbed::{is_reference, until};

/// Times that the page is opened.
const VISITS: u32 = 10;
/// Until the page has nothing left to do.
const SETTLE: Duration = Duration::from_secs(2);

/// When something was first painted, and when the guest's screen was, since somebody went there.
const PAINTS: &str = "
    const painted = performance.getEntriesByName('first-contentful-paint')[0];
    return [painted?.startTime ?? null, window.seen ?? null];";

/// Notes when the guest's screen is there, and from key presses to the frame in which it is another.
/// Frames are only asked for, and pixels read, when something was drawn: a page with a frame always
/// under way has its messages wait for it.
const WATCH: &str = "
    let asked = false;
    const context = CanvasRenderingContext2D.prototype;
    for (const name of ['drawImage', 'putImageData', 'fillRect']) {
        const draw = context[name];
        context[name] = function (...what) {
            if (!asked) requestAnimationFrame(look);
            asked = true;
            return draw.apply(this, what);
        };
    }
    const sum = () => {
        const canvas = document.querySelector('#stage canvas');
        if (!canvas?.width) return 0;
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let sum = 0;
        for (const pixel of new Int32Array(data.buffer)) sum = (Math.imul(sum, 31) + pixel) | 0;
        return sum;
    };
    let before = 0;
    let pressed = null;
    window.times = [];
    addEventListener('keydown', ({ timeStamp }) => { pressed = timeStamp; }, { capture: true });
    const look = () => {
        asked = false;
        const now = sum();
        if (now !== before) {
            window.seen ??= performance.now();
            if (pressed !== null) window.times.push(performance.now() - pressed);
            pressed = null;
            before = now;
        }
    };";

/// Opens the page, and types.
pub fn measure(who: &Contender) -> Result<Measured> {
    if is_reference(&who.program) {
        return Ok(Vec::new());
    }
    if let Err(reason) = browser::available() {
        eprintln!("web: {reason}");
        return Ok(Vec::new());
    }
    let scratch = tempfile::tempdir()?;
    let disk = sectors::disk(scratch.path(), ECHO)?;
    let mut vm = who
        .launch()
        .args(["-m", "64", "-nodefaults", "-vga", "std", "-drive", &disk, "-web", ":0"])
        .qmp()
        .spawn()?;
    sectors::until_shown(&mut vm, ">")?;
    let said = vm.messages();
    let url = said.split_whitespace().find(|word| word.starts_with("http://"));
    let url = url.context("the program did not say where its page is")?;

    let mut browser = Browser::start(1280, 800)?;
    browser.at_start(WATCH)?;
    let (mut paints, mut pictures) = (Vec::new(), Vec::new());
    for _ in 0..VISITS {
        browser.forget()?;
        browser.open("about:blank")?;
        browser.open(url)?;
        let mut times = Value::Null;
        until("the guest's screen", || {
            times = browser.run(PAINTS)?;
            Ok(times[0].is_number() && times[1].is_number())
        })?;
        paints.extend(times[0].as_f64());
        pictures.extend(times[1].as_f64());
    }

    thread::sleep(SETTLE);
    browser.run("document.getElementById('stage').focus()")?;
    browser.press("\u{e007}")?;
    browser.run("window.times = []")?;
    for pause in pauses() {
        thread::sleep(pause);
        browser.press("a")?;
    }
    thread::sleep(SETTLE);
    let times = browser.run("return window.times")?;
    let times: Vec<f64> =
        times.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    ensure!(times.len() == pauses().count(), "{} keys were seen", times.len());

    let metric = |name, what| Metric::new(name, what, Unit::Milliseconds);
    Ok(vec![
        (
            metric("web/paint", "the web console's page: first paint, nothing cached"),
            median(paints),
        ),
        (metric("web/picture", "until the guest's screen is on it"), median(pictures)),
        (metric("web/key", "a key press until the page has drawn its pixels"), median(times)),
    ])
}
