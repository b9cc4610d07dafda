//! What the web console needs of the machine: monitors for its visitors, its terminals, its figures.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use base::chardev::Chardev;
use base::event_loop::LoopHandle;
use base::trace_event;
use block::backend::RequestKind;
use net::Side;
use ui::web::{Figures, Host, Monitor, TerminalInfo};

use crate::target::Target;
use crate::{hmp, qmp};

/// Titles of terminals by how their names begin, in the order in which people see them; what has
/// another name comes after the monitor.
const SERIAL: &str = "serial";
const MONITOR: &str = "compat_monitor";
const PARALLEL: &str = "parallel";

/// The machine, as the web console reaches it.
pub struct WebHost {
    target: Arc<Target>,
    main_loop: LoopHandle,
}

impl WebHost {
    /// Monitors will be served by this loop, which is the main loop.
    pub fn new(target: Arc<Target>, main_loop: LoopHandle) -> Self {
        WebHost { target, main_loop }
    }
}

impl Host for WebHost {
    fn terminals(&self) -> Vec<TerminalInfo> {
        let all = self.target.chardevs.all().into_iter();
        let shown = all.filter(|device| {
            let terminal = device.text_console();
            // Hardly anybody prints.
            let is_printer = device.label().starts_with(PARALLEL);
            terminal.is_some_and(|terminal| !is_printer || terminal.is_written())
        });
        let mut shown: Vec<_> = shown.map(|device| described(device.label())).collect();
        shown.sort_by_key(|(rank, _)| *rank);
        shown.into_iter().map(|(_, info)| info).collect()
    }

    fn serve_monitor(&self, kind: Monitor, stream: UnixStream) {
        let (target, main_loop) = (self.target.clone(), self.main_loop.clone());
        // Monitors are used to the main loop's thread.
        self.main_loop.schedule(move || {
            let served = Chardev::paired("web", &main_loop, stream).map(|chardev| match kind {
                Monitor::Control => qmp::serve(&target, &chardev, false),
                Monitor::Prompt => hmp::serve(&target, &chardev, &main_loop),
            });
            if !matches!(served, Ok(Ok(()))) {
                // The visitor sees that the connection ends.
                trace_event!(web_no_monitor, "{kind:?}");
            }
        });
    }

    fn figures(&self) -> Figures {
        let vm = &self.target.vm;
        let threads = vm.vcpus().map(|vcpus| vcpus.thread_ids()).unwrap_or_default();
        let time = |thread| base::thread::cpu_time(thread).unwrap_or_default();
        let drives = vm.graph().backends();
        let shown = drives.iter().filter(|drive| drive.is_used() && drive.node().is_some());
        let cards = vm.networks().nics().list();
        Figures {
            processors: threads.into_iter().map(|id| time(id).as_nanos() as u64).collect(),
            drives: shown
                .map(|drive| {
                    let name = match drive.name() {
                        "" => qmp::block_commands::query::device_of(drive).unwrap_or_default(),
                        name => name.to_owned(),
                    };
                    let bytes = |kind| drive.stats().of(kind).bytes;
                    (name, [bytes(RequestKind::Read), bytes(RequestKind::Write)])
                })
                .collect(),
            cards: cards
                .iter()
                .map(|card| {
                    let bytes = |side| card.cable.bytes_sent(side);
                    (card.name.clone(), [bytes(Side::Host), bytes(Side::Guest)])
                })
                .collect(),
        }
    }
}

/// A terminal as people see it, and its place among the others.
fn described(label: &str) -> (usize, TerminalInfo) {
    // What several front ends share has the name; the terminal is below it.
    let name = label.strip_suffix("-base").unwrap_or(label);
    let numbered = |prefix: &str| name.strip_prefix(prefix)?.parse::<usize>().ok();
    let (rank, title) = if let Some(number) = numbered(SERIAL) {
        (0, format!("Serial {number}"))
    } else if let Some(number) = numbered(MONITOR) {
        (1, if number == 0 { "Monitor".into() } else { format!("Monitor {number}") })
    } else if let Some(number) = numbered(PARALLEL) {
        (3, format!("Parallel {number}"))
    } else {
        (2, name.to_owned())
    };
    (rank, TerminalInfo { id: label.into(), title })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_have_names_that_people_know() {
        for (label, rank, title) in [
            ("serial0", 0, "Serial 0"),
            ("serial1-base", 0, "Serial 1"),
            ("compat_monitor0", 1, "Monitor"),
            ("compat_monitor1", 1, "Monitor 1"),
            ("serial-log", 2, "serial-log"),
            ("parallel0", 3, "Parallel 0"),
        ] {
            let info = TerminalInfo { id: label.into(), title: title.into() };
            assert_eq!(described(label), (rank, info));
        }
    }
}
