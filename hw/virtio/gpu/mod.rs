//! The graphics adapter (virtio 1.2, 5.7), in two dimensions: heads, pointers, monitors that come and
//! change.

mod protocol;
mod screen;
mod vga;

use std::sync::Arc;

use base::device::{Device, Shared};
use base::event_loop::LoopHandle;
use base::interrupt::MsiSink;
use base::props::{Props, Size};
use parking_lot::Mutex;
use ui::{Adapter, Consoles, Cursor, Damage, SizeWish, Surface};

use super::pci::{
    Beside, InterfaceProps, Kind, Place, Shape, VirtioPci, VirtioPciError, VirtioPciProps, Wiring,
};
use super::{Chain, Model, ToDriver, VirtQueue};
use crate::display::std_vga::VgaError;
use crate::display::vga::Vga;
use crate::pci::PciBus;
use protocol::{HEADER, Header, MAX_SCANOUTS};
use screen::Screen;

pub use vga::plug_vga;

/// There is none of it for legacy drivers.
const KIND: Kind = Kind { id: 16, transitional: 0, class: 0x03_8000, rom: None };
const VGA_KIND: Kind = Kind { class: 0x03_0000, ..KIND };

/// Monitors can be asked what they are (5.7.3).
const FEATURE_EDID: u64 = 1 << 1;
/// Queues: requests, and those about pointers.
const QUEUE_SIZES: [u16; 2] = [64, 16];
/// Longest request that is looked at: one that names all pieces of guest memory that it may.
const MAX_REQUEST: u64 = 1 << 19;

/// Configuration (5.7.4).
mod config {
    pub const EVENTS_CLEAR: usize = 4;
    pub const LEN: usize = 16;
    pub const EVENT_DISPLAY: u32 = 1;
}

/// Properties of the adapter, whatever its transport.
#[derive(Debug, Props)]
pub struct GpuProps {
    /// Monitors can be asked what they are.
    #[prop(default = true)]
    pub edid: bool,
    /// Heads.
    #[prop(default = 1)]
    pub max_outputs: u32,
    /// Memory that resources may take.
    #[prop(default = Size(256 << 20))]
    pub max_hostmem: Size,
    /// The width that the first head's monitor prefers.
    #[prop(default = 1280)]
    pub xres: u32,
    /// Its height.
    #[prop(default = 800)]
    pub yres: u32,
}

/// Properties of `virtio-gpu-pci`.
#[derive(Debug, Props)]
pub struct GpuPciProps {
    /// The adapter.
    #[prop(flatten)]
    pub gpu: GpuProps,
    /// Its transport.
    #[prop(flatten)]
    pub pci: VirtioPciProps,
    /// Its registers.
    #[prop(flatten)]
    pub interfaces: InterfaceProps,
    /// Has no effect: notifications never wait.
    pub ioeventfd: bool,
    /// How many MSI-X vectors there are.
    #[prop(default = 3)]
    pub vectors: u32,
}

impl GpuPciProps {
    fn place<'a>(&'a self, type_name: &'a str, beside: Option<&'a Beside>) -> Place<'a> {
        Place {
            type_name,
            interfaces: self.interfaces.modern(),
            class: 0,
            vectors: self.vectors,
            props: &self.pci,
            beside,
        }
    }
}

/// Why there is no adapter.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// Its place, or its transport.
    #[error(transparent)]
    Pci(#[from] VirtioPciError),
    /// The protocol has no room for so many heads.
    #[error("invalid max_outputs > {MAX_SCANOUTS}")]
    Heads,
    /// Its other half.
    #[error(transparent)]
    Vga(#[from] VgaError),
}

/// What an adapter is plugged into.
pub struct Sockets<'a> {
    /// The bus.
    pub bus: &'a PciBus,
    /// Where messages go.
    pub msi: Arc<dyn MsiSink>,
    /// The thread that serves it.
    pub event_loop: LoopHandle,
    /// Where its heads go.
    pub consoles: &'a Consoles,
    /// What they are called, but for their numbers.
    pub place: ui::Place,
}

/// What the driver has not been told of, or not looked at.
#[derive(Default)]
struct Events(Mutex<u32>);

/// The model.
struct Gpu {
    screen: Arc<Mutex<Screen>>,
    events: Arc<Events>,
    edid: bool,
    heads: u32,
    queues: Vec<Arc<VirtQueue>>,
    /// The adapter that it is until a driver shows something.
    vga: Option<Shared<Vga>>,
}

/// Plugs a `virtio-gpu-pci`.
pub fn plug(props: &GpuPciProps, sockets: Sockets<'_>) -> Result<(), GpuError> {
    let place = props.place("virtio-gpu-pci", None);
    let (consoles, name) = (sockets.consoles, sockets.place.clone());
    for (n, head) in (0..).zip(connect(&KIND, &props.gpu, place, sockets, None)?) {
        consoles.add("virtio-gpu-pci", ui::Place { head: n, ..name.clone() }, Arc::new(head));
    }
    Ok(())
}

/// Plugs an adapter with or without a VGA; returns its heads.
fn connect(
    kind: &Kind,
    props: &GpuProps,
    place: Place<'_>,
    sockets: Sockets<'_>,
    vga: Option<Shared<Vga>>,
) -> Result<Vec<Head>, GpuError> {
    let GpuProps { edid, max_outputs, max_hostmem, xres, yres } = *props;
    let heads = max_outputs.max(1) as usize;
    if heads > MAX_SCANOUTS {
        return Err(GpuError::Heads);
    }
    let shape = Shape { queue_sizes: QUEUE_SIZES.into(), config_len: config::LEN };
    let events = Arc::<Events>::default();
    let mut parts = None;
    VirtioPci::plug(sockets.bus, kind, place, &shape, sockets.msi, |wiring| {
        let screen = Screen::new(&wiring.dma, heads, (xres, yres), max_hostmem.0);
        let screen = Arc::new(Mutex::new(screen));
        parts = Some((screen.clone(), wiring.driver.clone()));
        let queues = serve(wiring, &screen, &sockets.event_loop);
        Box::new(Gpu { screen, events: events.clone(), edid, heads: heads as u32, queues, vga })
    })?;
    let head = |(screen, driver): &(Arc<Mutex<Screen>>, Arc<ToDriver>), head| {
        let (screen, driver, events) = (screen.clone(), driver.clone(), events.clone());
        Head { screen, driver, events, head }
    };
    Ok(parts.iter().flat_map(|parts| (0..heads).map(|n| head(parts, n))).collect())
}

/// Has the queues served on a thread.
fn serve(wiring: &Wiring, screen: &Arc<Mutex<Screen>>, thread: &LoopHandle) -> Vec<Arc<VirtQueue>> {
    for queue in &wiring.queues {
        // The queue keeps the bottom half, so that must keep neither.
        let (me, screen) = (Arc::downgrade(queue), Arc::downgrade(screen));
        let serve = thread.bottom_half(move || {
            if let (Some(queue), Some(screen)) = (me.upgrade(), screen.upgrade()) {
                queue.serve(|chain| answer(&queue, chain, &screen));
            }
        });
        queue.on_kick(move || serve.schedule());
    }
    wiring.queues.clone()
}

fn answer(queue: &VirtQueue, chain: Chain, screen: &Mutex<Screen>) {
    let mut header = [0; HEADER];
    if !chain.read(0, &mut header) {
        return queue.refuse("a graphics request without a header");
    }
    let len = chain.readable_len().min(MAX_REQUEST) - HEADER as u64;
    let mut body = vec![0; len as usize];
    chain.read(HEADER as u64, &mut body);
    let answer = screen.lock().answer(&Header::read(&header), &body);
    let room = chain.writable_len().min(answer.len() as u64) as usize;
    chain.write(0, &answer[..room]);
    queue.push(chain, room as u32);
}

impl Model for Gpu {
    fn features(&self, common: u64) -> u64 {
        common | if self.edid { FEATURE_EDID } else { 0 }
    }

    fn config(&self) -> Vec<u8> {
        let words = [*self.events.0.lock(), 0, self.heads, 0];
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn write_config(&mut self, at: usize, bytes: &[u8]) {
        if at == config::EVENTS_CLEAR
            && let Some(word) = bytes.first_chunk()
        {
            *self.events.0.lock() &= !u32::from_le_bytes(*word);
        }
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {
        *self.events.0.lock() = 0;
        self.screen.lock().reset();
    }

    fn power_up(&mut self) {
        if let Some(vga) = &self.vga {
            vga.lock().reset();
        }
    }

    fn unplug(&mut self) {
        self.queues.clear();
    }
}

/// A head, for its console.
struct Head {
    screen: Arc<Mutex<Screen>>,
    driver: Arc<ToDriver>,
    events: Arc<Events>,
    head: usize,
}

impl Adapter for Head {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        self.screen.lock().refresh(self.head, surface, full)
    }

    fn cursor(&self) -> Cursor {
        self.screen.lock().cursor(self.head)
    }

    fn takes_wishes(&self) -> bool {
        true
    }

    fn wish_size(&self, wish: SizeWish) {
        self.screen.lock().wish_size(self.head, wish);
        *self.events.0.lock() |= config::EVENT_DISPLAY;
        self.driver.config_changed();
    }
}
