//! What tests of adapters have in common that show what a VGA can show.

use std::sync::Arc;

use base::clock::Clocks;
use base::device::{Device, Shared};
use proptest::prelude::*;
use ui::{Adapter, Surface};

use super::{Head, Shows};

/// What a driver, or somebody who looks, may do with a VGA.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes an indexed register: one of three ports, index, value.
    Register(u16, u8, u8),
    Attribute(u8, u8),
    Port(u16, u8),
    Color(u8, [u8; 3]),
    Window(u64, u64),
    Look,
}

/// Any of that, with indices below this one.
pub fn step(indices: u8) -> impl Strategy<Value = Step> {
    let ports = prop::sample::select(vec![0x3c4_u16, 0x3ce, 0x3d4]);
    prop_oneof![
        4 => (ports, 0..indices, any::<u8>()).prop_map(|(p, i, v)| Step::Register(p, i, v)),
        2 => (0..64_u8, any::<u8>()).prop_map(|(i, v)| Step::Attribute(i, v)),
        1 => (0x3b0..0x3e0_u16, any::<u8>()).prop_map(|(p, v)| Step::Port(p, v)),
        1 => (any::<u8>(), any::<[u8; 3]>()).prop_map(|(i, c)| Step::Color(i, c)),
        4 => (0..0x20000_u64, any::<u64>()).prop_map(|(at, v)| Step::Window(at, v)),
        2 => Just(Step::Look),
    ]
}

/// Writes a port.
pub fn write<D: Device>(device: &Shared<D>, port: u16, value: u8) {
    device.lock().write(port.into(), 0, 1, value.into());
}

/// Switches the screen on, with the addresses of colour adapters.
pub fn switch_on<D: Device>(device: &Shared<D>) {
    for (port, value) in [(0x3c2, 0x67), (0x3c0, 0x20)] {
        write(device, port, value);
    }
}

/// Somebody's eyes on an adapter.
pub struct Eyes<D> {
    device: Shared<D>,
    window: u32,
    seen: Arc<Head<D>>,
    anew: Arc<Head<D>>,
    surface: Surface,
}

impl<D: Shows> Eyes<D> {
    /// On one whose window is this region.
    pub fn on(device: &Shared<D>, window: u32) -> Self {
        let clocks = Clocks::new();
        let (seen, anew) = (Head::new(device, &clocks), Head::new(device, &clocks));
        Eyes { device: device.clone(), window, seen, anew, surface: Surface::default() }
    }

    /// Takes a step.
    pub fn take(&mut self, step: &Step) {
        let device = &self.device;
        match *step {
            Step::Register(port, index, value) => {
                write(device, port, index);
                device.lock().read(u32::from(port) + 1, 0, 1);
                write(device, port + 1, value);
            }
            Step::Attribute(index, value) => {
                device.lock().read(0x3da, 0, 1);
                write(device, 0x3c0, index);
                write(device, 0x3c0, value);
            }
            Step::Port(port, value) => {
                device.lock().read(port.into(), 0, 1);
                write(device, port, value);
            }
            Step::Color(index, color) => {
                write(device, 0x3c8, index);
                color.into_iter().for_each(|level| write(device, 0x3c9, level));
            }
            Step::Window(at, value) => {
                let device = &mut *device.lock();
                device.read(self.window, at, 8);
                device.write(self.window, at, 8, value);
            }
            Step::Look => {
                self.seen.refresh(&mut self.surface, false);
                self.seen.text();
            }
        }
    }

    /// What was drawn from changes, now and before, is what is drawn anew.
    pub fn compare(mut self) -> Result<(), TestCaseError> {
        let damage = self.seen.refresh(&mut self.surface, false);
        for rect in &damage.rects {
            prop_assert!(self.surface.bounds().contains(rect));
        }
        let mut whole = Surface::new(self.surface.width(), self.surface.height());
        self.anew.refresh(&mut whole, true);
        prop_assert!(self.surface == whole);
        Ok(())
    }
}
