//! `vc`: a text console, which displays show. What is written to it is kept for whoever looks later,
//! up to a limit; nobody who looks can slow the writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::link::Link;
use super::vc::VcScreen;
use super::{Backend, CharEvent};
use crate::event_loop::{BottomHalf, LoopHandle};

/// How much of the output is kept.
const KEPT: usize = 128 << 10;
/// How much input may wait for the front end.
const MAX_INPUT: usize = 64 << 10;

/// A text console, which displays show.
pub struct TextConsole {
    link: Arc<Link>,
    output: Mutex<Output>,
    input: Mutex<VecDeque<u8>>,
    deliver: OnceLock<BottomHalf>,
    screen: OnceLock<Arc<dyn VcScreen>>,
}

#[derive(Default)]
struct Output {
    /// The last bytes written.
    kept: VecDeque<u8>,
    /// How many have been written in all.
    written: u64,
    watchers: Vec<Weak<Watcher>>,
}

/// Somebody who looks, and is to be woken once when there is something to do.
struct Watcher {
    waiting: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Watcher {
    fn notify(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

impl Output {
    fn notify(&mut self) {
        self.watchers.retain(|watcher| match watcher.upgrade() {
            Some(watcher) => {
                watcher.notify();
                true
            }
            None => false,
        });
    }

    /// Copies what was written from `at` on, as far as it is kept; says up to where that is.
    fn copy(&self, at: u64, into: &mut Vec<u8>, limit: usize) -> u64 {
        let first = self.written - self.kept.len() as u64;
        let skip = at.saturating_sub(first).min(self.kept.len() as u64) as usize;
        let count = limit.min(self.kept.len() - skip);
        into.extend(self.kept.range(skip..skip + count));
        first + (skip + count) as u64
    }
}

impl TextConsole {
    pub(super) fn new(handle: &LoopHandle, link: &Arc<Link>) -> Arc<Self> {
        let console = Arc::new(TextConsole {
            link: link.clone(),
            output: Mutex::default(),
            input: Mutex::default(),
            deliver: OnceLock::new(),
            screen: OnceLock::new(),
        });
        let me = Arc::downgrade(&console);
        console.deliver.get_or_init(|| {
            handle.bottom_half(move || {
                if let Some(console) = me.upgrade() {
                    console.deliver();
                }
            })
        });
        // It is there whether somebody looks or not.
        link.event(CharEvent::Opened);
        console
    }

    /// From now on this screen shows what is written. To be called once.
    pub(super) fn show_on(&self, screen: Arc<dyn VcScreen>) {
        self.screen.get_or_init(|| screen);
    }

    /// Types; says how much was taken.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        let mut input = self.input.lock();
        let count = bytes.len().min(MAX_INPUT - input.len());
        input.extend(&bytes[..count]);
        drop(input);
        self.accept_input();
        count
    }

    /// Looks at it from now on, first at what is kept. `wake` is called, by whatever thread, when a
    /// view that waits has something to read, or there is room again for what is typed.
    pub fn watch(self: &Arc<Self>, wake: impl Fn() + Send + Sync + 'static) -> TextConsoleView {
        let watcher = Watcher { waiting: AtomicBool::new(false), wake: Box::new(wake) };
        let watcher = Arc::new(watcher);
        self.output.lock().watchers.push(Arc::downgrade(&watcher));
        TextConsoleView { console: self.clone(), watcher, at: 0 }
    }

    /// Whether anything has been written yet.
    pub fn is_written(&self) -> bool {
        self.output.lock().written > 0
    }

    fn deliver(&self) {
        loop {
            let room = self.link.can_receive();
            let bytes: Vec<u8> = {
                let mut input = self.input.lock();
                let count = room.min(input.len());
                input.drain(..count).collect()
            };
            if bytes.is_empty() {
                break;
            }
            self.link.receive(&bytes);
        }
        self.output.lock().notify();
    }
}

impl Backend for TextConsole {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut output = self.output.lock();
        let kept = &bytes[bytes.len().saturating_sub(KEPT)..];
        let surplus = (output.kept.len() + kept.len()).saturating_sub(KEPT);
        output.kept.drain(..surplus);
        output.kept.extend(kept);
        output.written += bytes.len() as u64;
        output.notify();
        drop(output);
        if let Some(screen) = self.screen.get() {
            screen.write(bytes);
        }
        bytes.len()
    }

    fn accept_input(&self) {
        if let Some(deliver) = self.deliver.get()
            && !self.input.lock().is_empty()
        {
            deliver.schedule();
        }
    }

    fn filename(&self) -> String {
        "vc".into()
    }

    fn text_console(self: Arc<Self>) -> Option<Arc<TextConsole>> {
        Some(self)
    }
}

/// Somebody's look at a text console.
pub struct TextConsoleView {
    console: Arc<TextConsole>,
    watcher: Arc<Watcher>,
    at: u64,
}

impl TextConsoleView {
    /// Appends what has been written since, at most so much at a time. Who comes too late misses
    /// what is no longer kept.
    pub fn read(&mut self, into: &mut Vec<u8>, limit: usize) {
        self.at = self.console.output.lock().copy(self.at, into, limit);
    }

    /// From now on the next news wakes; says whether there is something to read already.
    pub fn wait(&self) -> bool {
        self.watcher.waiting.store(true, Ordering::Release);
        self.console.output.lock().written > self.at
    }

    /// Types; says how much was taken.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        self.console.type_in(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::tests::{Bed, Client};
    use super::*;

    fn read(view: &mut TextConsoleView) -> Vec<u8> {
        let mut bytes = Vec::new();
        view.read(&mut bytes, usize::MAX);
        bytes
    }

    #[test]
    fn everybody_sees_what_was_written() {
        let bed = Bed::new();
        let device = bed.make("vc,id=t");
        let console = device.text_console().unwrap();
        let client = Client::eager();
        let port = device.attach(client.clone()).unwrap();
        assert!(client.saw(CharEvent::Opened) && !console.is_written());
        assert_eq!(port.write(b"before "), 7);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let mut view = console.watch(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(read(&mut view), b"before ");
        assert!(!view.wait());
        assert_eq!(port.write(b"an"), 2);
        assert_eq!(port.write(b"d"), 1);
        // Once, until it waits again.
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(view.wait());
        assert_eq!(read(&mut view), b"and");
        assert_eq!(read(&mut console.watch(|| {})), b"before and");
    }

    #[test]
    fn who_comes_late_sees_the_end() {
        let bed = Bed::new();
        let device = bed.make("vc,id=t");
        let port = device.attach(Client::eager()).unwrap();
        let mut view = device.text_console().unwrap().watch(|| {});
        let text: Vec<u8> = (0..3 * KEPT).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        assert_eq!(port.write(&text[..100]), 100);
        assert_eq!(read(&mut view), &text[..100]);
        for piece in text[100..].chunks(5000) {
            assert_eq!(port.write(piece), piece.len());
        }
        assert_eq!(read(&mut view), &text[2 * KEPT..]);
        assert_eq!(port.write(&text), text.len());
        assert_eq!(read(&mut view), &text[2 * KEPT..]);
    }

    #[test]
    fn what_is_typed_waits_for_the_front_end() {
        let mut bed = Bed::new();
        let device = bed.make("vc,id=t");
        let client = Client::with_limit(3);
        let port = device.attach(client.clone()).unwrap();
        let view = device.text_console().unwrap().watch(|| {});
        assert_eq!(view.type_in(b"hello"), 5);
        bed.settle();
        assert!(client.has(b"hel"));
        client.limit.store(10, Ordering::Relaxed);
        port.accept_input();
        bed.settle();
        assert!(client.has(b"hello"));
        assert_eq!(view.type_in(&[0; MAX_INPUT + 1]), MAX_INPUT);
        bed.settle();
        // Five of them have found room.
        assert_eq!(view.type_in(b"abcdefgh"), 5);
    }
}
