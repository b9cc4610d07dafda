//! The PIIX3's ISA bridge function: PCI interrupt routing and the reset control register
//! (82371SB datasheet, 2.2.9 and 2.5.7).

use std::sync::Arc;

use base::device::{self, Device, Shared};
use base::irq::{IrqLine, IrqSink};
use base::memory::{AccessSizes, Region};
use base::request::{Request, RequestSink};
use parking_lot::Mutex;

use super::bus::{PciBus, PciError};
use super::config::{ConfigSpace, Identity, reg};
use super::function::PciDevice;
use super::ids;

/// Port of the reset control register.
pub const RESET_PORT: u64 = 0xcf9;

const PIRQRC: usize = 0x60;
const ROUTE_DISABLED: u8 = 0x80;
const RESET_SYSTEM: u8 = 1 << 1;
const RESET_CPU: u8 = 1 << 2;

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_PIIX3_ISA,
    revision: 0,
    class: 0x060100,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};

/// Registers that differ from zero after reset.
const RESET_VALUES: [(usize, u8); 15] = [
    (0x4c, 0x4d),
    (0x4e, 0x03),
    (0x60, ROUTE_DISABLED),
    (0x61, ROUTE_DISABLED),
    (0x62, ROUTE_DISABLED),
    (0x63, ROUTE_DISABLED),
    (0x69, 0x02),
    (0x70, 0x80),
    (0x76, 0x0c),
    (0x77, 0x0c),
    (0x78, 0x02),
    (0xa0, 0x08),
    (0xa8, 0x0f),
    (reg::STATUS + 1, 0x02),
    (reg::HEADER_TYPE, reg::MULTIFUNCTION),
];

/// Routes the four PCI interrupts to ISA interrupts. Shared by the bus, which drives its inputs, and
/// the bridge, whose registers set the routes.
pub struct PirqRouter {
    isa: Vec<IrqLine>,
    state: Mutex<([bool; 4], [u8; 4])>,
}

impl PirqRouter {
    /// A router onto these sixteen ISA interrupts.
    pub fn new(isa: Vec<IrqLine>) -> Arc<Self> {
        Arc::new(PirqRouter { isa, state: Mutex::new(([false; 4], [ROUTE_DISABLED; 4])) })
    }

    /// Lines to the router's inputs.
    pub fn inputs(self: &Arc<Self>) -> Vec<IrqLine> {
        (0..4).map(|n| IrqLine::new(self.clone(), n)).collect()
    }

    fn update(&self, change: impl FnOnce(&mut [bool; 4], &mut [u8; 4])) {
        let mut state = self.state.lock();
        let (levels, routes) = &mut *state;
        let before = Self::outputs(levels, routes);
        change(levels, routes);
        let after = Self::outputs(levels, routes);
        for (n, line) in self.isa.iter().enumerate() {
            if (before ^ after) >> n & 1 != 0 {
                line.set(after >> n & 1 != 0);
            }
        }
    }

    fn outputs(levels: &[bool; 4], routes: &[u8; 4]) -> u16 {
        let active = levels.iter().zip(routes).filter(|&(&level, &route)| level && route < 16);
        active.fold(0, |outputs, (_, &route)| outputs | 1 << route)
    }

    fn set_routes(&self, routes: [u8; 4]) {
        self.update(|_, current| *current = routes);
    }
}

impl IrqSink for PirqRouter {
    fn set_irq(&self, n: u32, level: bool) {
        self.update(|levels, _| {
            if let Some(input) = levels.get_mut(n as usize) {
                *input = level;
            }
        });
    }
}

/// The ISA bridge.
pub struct Piix3 {
    router: Arc<PirqRouter>,
    requests: RequestSink,
    reset_control: u8,
}

impl Piix3 {
    /// Plugs the bridge and returns it with the region of its reset control port.
    pub fn create(
        bus: &PciBus,
        devfn: u8,
        router: Arc<PirqRouter>,
        requests: RequestSink,
    ) -> Result<(Shared<Self>, Region), PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        for (offset, value) in RESET_VALUES {
            config.set_u8(offset, value);
        }
        let bridge = device::share(|_| Piix3 { router, requests, reset_control: 0 });
        bus.plug_chip("PIIX3", devfn, config, |_| (bridge.clone(), Vec::new()))?;
        let port = device::region(&bridge, 0, "piix-reset-control", 1, AccessSizes::BYTE);
        Ok((bridge, port))
    }
}

impl PciDevice for Piix3 {
    fn config_written(&mut self, config: &mut ConfigSpace, _: usize, _: u8) {
        self.router.set_routes(std::array::from_fn(|n| config.u8(PIRQRC + n)));
    }
}

impl Device for Piix3 {
    fn read(&mut self, _: u32, _: u64, _: u8) -> u64 {
        self.reset_control.into()
    }
    fn write(&mut self, _: u32, _: u64, _: u8, value: u64) {
        let value = value as u8;
        if value & RESET_CPU != 0 {
            self.requests.send(Request::Reset);
        } else {
            self.reset_control = value & RESET_SYSTEM;
        }
    }
    fn reset(&mut self) {
        self.reset_control = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::irq::FnSink;

    #[test]
    fn routes_follow_the_registers_while_lines_are_high() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        let sink = Arc::new(FnSink(move |n, level| sink.lock().push((n, level))));
        let isa = (0..16).map(|n| IrqLine::new(sink.clone(), n)).collect();
        let router = PirqRouter::new(isa);
        let inputs = router.inputs();
        inputs[0].raise();
        assert_eq!(*log.lock(), [], "not routed");
        router.set_routes([10, 11, 10, ROUTE_DISABLED]);
        inputs[2].raise();
        inputs[0].lower();
        assert_eq!(*log.lock(), [(10, true)], "the other pin holds it");
        router.set_routes([11, 11, 5, ROUTE_DISABLED]);
        assert_eq!(log.lock()[1..], [(5, true), (10, false)]);
    }
}
