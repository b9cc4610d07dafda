//! All character devices of a program, by id.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use nix::fcntl::OFlag;
use parking_lot::Mutex;

use super::file::{Files, Null};
use super::link::Link;
use super::mux::Mux;
use super::pty::Pty;
use super::ringbuf::Ring;
use super::serial::HostSerial;
use super::socket::Socket;
use super::spec::{BackendSpec, ChardevSpec};
use super::stdio::Stdio;
use super::text_console::TextConsole;
use super::udp::Udp;
use super::vc::{VcKeyboard, VcScreens};
use super::{Backend, Chardev, ChardevError, Connection, EscapeActions, Kind};
use crate::event_loop::LoopHandle;
use crate::fdset::FdSets;

/// Ctrl-A.
const DEFAULT_ESCAPE: u8 = 1;

/// What back ends need from their surroundings.
pub(super) struct Context {
    pub(super) handle: LoopHandle,
    pub(super) fd_sets: Arc<FdSets>,
    pub(super) daemonized: bool,
    pub(super) escape: u8,
    pub(super) escape_actions: Arc<dyn EscapeActions>,
    pub(super) screens: Option<Arc<dyn VcScreens>>,
}

/// The character devices.
pub struct Chardevs {
    context: Context,
    devices: Mutex<BTreeMap<String, Arc<Chardev>>>,
}

/// A line of `query-chardev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevInfo {
    /// The id.
    pub label: String,
    /// What is behind it.
    pub filename: String,
    /// Whether a front end uses it.
    pub frontend_open: bool,
}

impl Chardevs {
    /// None yet. All will be served by the loop of `handle`.
    pub fn new(
        handle: LoopHandle,
        fd_sets: Arc<FdSets>,
        escape_actions: Arc<dyn EscapeActions>,
    ) -> Chardevs {
        let (daemonized, escape, screens) = (false, DEFAULT_ESCAPE, None);
        let context = Context { handle, fd_sets, daemonized, escape, escape_actions, screens };
        Chardevs { context, devices: Mutex::default() }
    }

    /// `-echr`: the escape character of devices made from now on.
    pub fn set_escape(&mut self, escape: u8) {
        self.context.escape = escape;
    }

    /// There is somebody to show text consoles made from now on.
    pub fn set_screens(&mut self, screens: Arc<dyn VcScreens>) {
        self.context.screens = Some(screens);
    }

    /// `-daemonize`: stdin and stdout are not to be used.
    pub fn set_daemonized(&mut self) {
        self.context.daemonized = true;
    }

    /// Makes a device.
    pub fn create(&self, spec: &ChardevSpec) -> Result<Arc<Chardev>, ChardevError> {
        let base_label = format!("{}-base", spec.id);
        let label = if spec.mux { &base_label } else { &spec.id };
        {
            let devices = self.devices.lock();
            let taken = |id: &&String| devices.contains_key(*id);
            if let Some(id) = [&spec.id, label].into_iter().find(taken) {
                return Err(ChardevError::Duplicate(id.clone()));
            }
        }
        let base = self.make(label, spec)?;
        self.devices.lock().insert(label.clone(), base.clone());
        if !spec.mux {
            return Ok(base);
        }
        let kind = Kind::Mux(Mux::new(&self.context, &base)?);
        let mux = Arc::new(Chardev { label: spec.id.clone(), backend_name: "mux", kind });
        self.devices.lock().insert(spec.id.clone(), mux.clone());
        Ok(mux)
    }

    fn make(&self, label: &str, spec: &ChardevSpec) -> Result<Arc<Chardev>, ChardevError> {
        let log = match &spec.logfile {
            Some(path) => Some(self.open_log(path, spec.logappend)?),
            None => None,
        };
        let link = Link::new(log);
        let context = &self.context;
        let backend_name = spec.backend.name();
        let backend: Arc<dyn Backend> = match &spec.backend {
            BackendSpec::Null => Arc::new(Null),
            BackendSpec::Vc(size) => {
                let console = TextConsole::new(&context.handle, &link);
                if let Some(screens) = &context.screens {
                    let keyboard = VcKeyboard::new(&console);
                    console.show_on(screens.open(label, *size, keyboard));
                }
                console
            }
            BackendSpec::Stdio { signal } => Arc::new(Stdio::open(context, &link, *signal)?),
            BackendSpec::File { path, append, input_path } => {
                Arc::new(Files::open(context, &link, path, *append, input_path.as_deref())?)
            }
            BackendSpec::Pipe { path } => Arc::new(Files::open_pipe(context, &link, path)?),
            BackendSpec::Pty { path } => Pty::open(context, &link, label, path.as_deref())?,
            BackendSpec::Serial { path } => Arc::new(HostSerial::open(context, &link, path)?),
            BackendSpec::Socket(socket) => Socket::open(context, &link, label, socket)?,
            BackendSpec::Udp(udp) => Arc::new(Udp::open(context, &link, udp)?),
            BackendSpec::Ringbuf { size } => Arc::new(Ring::new(*size)?),
            BackendSpec::Mux { chardev } => {
                let base = self.devices.lock().get(chardev).cloned();
                let base = base.ok_or_else(|| ChardevError::NoMuxBase(chardev.clone()))?;
                let kind = Kind::Mux(Mux::new(context, &base)?);
                return Ok(Arc::new(Chardev { label: label.into(), backend_name, kind }));
            }
        };
        let kind = Kind::Single(Connection { link, backend });
        Ok(Arc::new(Chardev { label: label.into(), backend_name, kind }))
    }

    fn open_log(&self, path: &str, append: bool) -> Result<File, ChardevError> {
        let end = if append { OFlag::O_APPEND } else { OFlag::O_TRUNC };
        let opened = self.context.fd_sets.open(path, OFlag::O_WRONLY | OFlag::O_CREAT | end);
        opened.map(File::from).map_err(|source| ChardevError::Create { path: path.into(), source })
    }

    /// The device with this id.
    pub fn get(&self, id: &str) -> Result<Arc<Chardev>, ChardevError> {
        self.devices.lock().get(id).cloned().ok_or_else(|| ChardevError::NotFound(id.into()))
    }

    /// Removes a device that no front end uses.
    pub fn remove(&self, id: &str) -> Result<(), ChardevError> {
        let mut devices = self.devices.lock();
        let device = devices.get(id).ok_or_else(|| ChardevError::NotFound(id.into()))?;
        if device.in_use() {
            return Err(ChardevError::Busy(id.into()));
        }
        let removed = devices.remove(id);
        drop(devices);
        drop(removed);
        Ok(())
    }

    /// At the end of the program, whoever still uses the devices: sockets lose their files. (The
    /// terminal is given back in any case.)
    pub fn clean_up(&self) {
        for device in self.devices.lock().values() {
            if let Kind::Single(single) = &device.kind {
                single.backend.clean_up();
            }
        }
    }

    /// All devices, by label.
    pub fn all(&self) -> Vec<Arc<Chardev>> {
        self.devices.lock().values().cloned().collect()
    }

    /// What `query-chardev` tells.
    pub fn query(&self) -> Vec<ChardevInfo> {
        let devices = self.all();
        let info = |device: Arc<Chardev>| ChardevInfo {
            label: device.label().into(),
            filename: device.filename(),
            frontend_open: device.frontend_open(),
        };
        devices.into_iter().map(info).collect()
    }
}
