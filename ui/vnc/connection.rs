//! A client's thread: it moves bytes, encodes pictures and paces keys. However slow the client is,
//! nobody else waits for it: the screen's thread only takes note here of what has changed, and there
//! is never more than one update under way.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::trace_event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use rustls::ServerConfig;

use super::session::{Need, News, Session};
use super::tiles::Tiles;
use crate::wire::{Wire, WireError};
use crate::{Attachment, Console, Cursor, Rect, Surface, Viewer, text};

/// How long a client may take to get in.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(60);
/// What is shown where there is no display adapter.
pub const BLANK: (u32, u32) = (640, 480);

/// What others want a client's thread to know.
pub struct Inbox {
    wake: EventFd,
    notes: Mutex<Notes>,
    /// The client waits for a picture, and nothing is under way.
    wanting: AtomicBool,
    closing: AtomicBool,
}

#[derive(Default)]
struct Notes {
    tiles: Tiles,
    cursor: Option<Cursor>,
    leds: bool,
    pointer_type: bool,
}

impl Inbox {
    pub fn new() -> io::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Arc::new(Inbox {
            wake: EventFd::from_value_and_flags(0, flags)?,
            notes: Mutex::default(),
            wanting: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }))
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake();
    }

    /// The lights of the guest's keyboard have changed.
    pub fn leds_changed(&self) {
        self.notes.lock().leds = true;
        self.wake();
    }

    /// The guest uses another pointing device.
    pub fn pointer_type_changed(&self) {
        self.notes.lock().pointer_type = true;
        self.wake();
    }

    fn wake(&self) {
        // Fails only when it has been woken too often to count, and wakes all the same.
        let _ = self.wake.write(1);
    }
}

impl Viewer for Inbox {
    fn wants_frame(&self) -> bool {
        self.wanting.load(Ordering::Acquire)
    }

    fn damaged(&self, rects: &[Rect]) {
        let mut notes = self.notes.lock();
        rects.iter().for_each(|rect| notes.tiles.mark(rect));
        drop(notes);
        self.wake();
    }

    fn resized(&self, width: u32, height: u32) {
        self.notes.lock().tiles = Tiles::all(width, height);
        self.wake();
    }

    fn cursor_changed(&self, cursor: &Cursor) {
        self.notes.lock().cursor = Some(cursor.clone());
        self.wake();
    }
}

/// What a connection works with.
pub struct Connection {
    pub wire: Wire,
    pub session: Session,
    pub inbox: Arc<Inbox>,
    pub console: Option<Arc<Console>>,
    /// The screens that the client may choose from, by number.
    pub screens: Box<dyn Fn(usize) -> Option<Arc<Console>> + Send>,
    /// The tie to the one that it sees.
    pub attachment: Option<Attachment>,
    /// For clients that encrypt from within the protocol.
    pub tls: Option<Arc<ServerConfig>>,
    /// Between two keys of the guest's.
    pub key_delay: Duration,
    /// Sends a key to the guest.
    pub key: Box<dyn Fn(base::input::KeyCode, bool) + Send>,
    /// Asks for a frame.
    pub nudge: Box<dyn Fn() + Send>,
    /// The lights of the guest's keyboard.
    pub leds: Box<dyn Fn() -> base::input::Leds + Send>,
}

impl Connection {
    /// Serves the client until one of both has enough; returns what it has typed that the guest has not
    /// got yet.
    pub fn serve(mut self) -> LastStrokes {
        self.attach();
        if let Err(error) = self.run() {
            trace_event!(vnc_client_disconnect, "{error}");
        }
        self.session.leave();
        LastStrokes { session: self.session, delay: self.key_delay, key: self.key }
    }

    fn attach(&mut self) {
        let attach = |console: &Arc<Console>| console.attach(self.inbox.clone());
        self.attachment = self.console.as_ref().map(attach);
    }

    /// Shows the client another screen if it has chosen one that there is.
    fn switch(&mut self) {
        let chosen = self.session.take_choice();
        if let Some(console) = chosen.and_then(|number| (self.screens)(number)) {
            // The guest is to hear that what was held is not any more.
            while let Some((key, down)) = self.session.next_stroke() {
                (self.key)(key, down);
            }
            self.session.show(console.terminal().cloned());
            self.console = Some(console);
            self.attach();
        }
    }

    fn run(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let start = Instant::now();
        let mut next_key = Duration::ZERO;
        let mut blank = Surface::default();
        text::notice(&mut blank, text::NO_ADAPTER);
        let mut news = News { tiles: Tiles::all(BLANK.0, BLANK.1), cursor: None };
        let mut data = Vec::new();
        loop {
            let now = start.elapsed();
            self.strokes(now, &mut next_key);
            self.take_notes(&mut news);
            let idle = self.wire.is_open() && !self.wire.is_sending();
            if idle && self.session.wants_update() {
                let news = std::mem::take(&mut news);
                match &self.console {
                    Some(console) => self.session.update(&console.surface(), news, now),
                    None => self.session.update(&blank, news, now),
                }
            }
            if self.wire.is_open() {
                self.wire.send(self.session.output());
            }
            self.wire.flush()?;
            let waits = self.session.wants_update() && !self.wire.is_sending();
            if waits && !self.inbox.wanting.swap(waits, Ordering::AcqRel) {
                (self.nudge)();
            } else if !waits {
                self.inbox.wanting.store(false, Ordering::Release);
            }
            let mut deadline = self.session.has_strokes().then_some(next_key);
            if waits {
                deadline = earlier(deadline, self.session.next_update());
            }
            if !self.session.is_running() {
                deadline = earlier(deadline, Some(HANDSHAKE_LIMIT));
                if now >= HANDSHAKE_LIMIT {
                    return Err("the handshake took too long".into());
                }
            }
            let readable = self.wait(deadline.map(|deadline| deadline.saturating_sub(now)))?;
            if self.inbox.closing.load(Ordering::Acquire) {
                return Ok(());
            }
            if readable {
                data.clear();
                let received = self.wire.receive(&mut data);
                self.take_in(&data)?;
                self.switch();
                if received.is_err() {
                    // What is to be said may still reach the client.
                    let _ = self.wire.flush();
                }
                received?;
            }
        }
    }

    /// Gives the session what has come.
    fn take_in(&mut self, data: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
        let mut need = self.session.receive(data);
        if let Ok(Need::Tls) = need {
            let config = self.tls.clone().ok_or("no credentials")?;
            self.wire.send(self.session.output());
            self.wire.encrypt(config)?;
            need = self.session.receive(&[]);
        }
        if let Err(fault) = need {
            // The client is told why, if it listens.
            self.wire.send(self.session.output());
            let _ = self.wire.flush();
            return Err(fault.into());
        }
        Ok(())
    }

    /// Sends the guest the keys that are due.
    fn strokes(&mut self, now: Duration, next: &mut Duration) {
        while now >= *next
            && let Some((key, down)) = self.session.next_stroke()
        {
            (self.key)(key, down);
            *next = now + self.key_delay;
        }
    }

    fn take_notes(&mut self, news: &mut News) {
        let mut notes = self.inbox.notes.lock();
        let tiles = &mut notes.tiles;
        if !tiles.is_empty() {
            let none = tiles.emptied();
            let new = std::mem::replace(tiles, none);
            news.tiles.renew(new);
        }
        news.cursor = notes.cursor.take().or(news.cursor.take());
        let (leds, pointer_type) =
            (std::mem::take(&mut notes.leds), std::mem::take(&mut notes.pointer_type));
        drop(notes);
        if leds {
            self.session.leds_changed((self.leds)());
        }
        if pointer_type {
            self.session.pointer_type_changed();
        }
    }

    /// Waits for the client, for others, or for time to pass; says whether the client has sent
    /// something.
    fn wait(&self, limit: Option<Duration>) -> Result<bool, WireError> {
        let mut wanted = PollFlags::POLLIN;
        if self.wire.is_sending() {
            wanted |= PollFlags::POLLOUT;
        }
        let mut fds = [
            PollFd::new(self.wire.as_fd(), wanted),
            PollFd::new(self.inbox.wake.as_fd(), PollFlags::POLLIN),
        ];
        // A little late rather than early, as early means again.
        let limit = limit.map(|limit| limit.as_micros().div_ceil(1000));
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let is =
            |fd: &PollFd<'_>, flags| fd.revents().is_some_and(|events| events.intersects(flags));
        if is(&fds[1], PollFlags::POLLIN) {
            // Fails only if somebody else has read it.
            let _ = self.inbox.wake.read();
        }
        Ok(is(&fds[0], PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

/// What a client has typed that has left: programs hang up as soon as they have said all.
pub struct LastStrokes {
    session: Session,
    delay: Duration,
    key: Box<dyn Fn(base::input::KeyCode, bool) + Send>,
}

impl LastStrokes {
    /// Sends it to the guest, which gets it no faster than before.
    pub fn send(mut self) {
        while let Some((key, down)) = self.session.next_stroke() {
            std::thread::sleep(self.delay);
            (self.key)(key, down);
        }
    }
}

fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}
