//! Whatever a guest does, pictures come of it, and those drawn from what changed are those drawn anew.

use base::clock::Clocks;
use base::device::{self, Device, Shared};
use proptest::prelude::*;
use ui::{Adapter, Surface};

use super::{Head, Shows, Vga, VgaConfig, VgaRegions, region};
use crate::display::edid::Edid;

const MEMORY: u32 = 1 << 20;

/// What a guest may do.
#[derive(Clone, Debug)]
enum Step {
    /// Writes an indexed register: one of three ports, index, value.
    Register(u16, u8, u8),
    Attribute(u8, u8),
    Port(u16, u8),
    Color(u8, [u8; 3]),
    Vbe(u16, u16),
    Mmio(u64, u32),
    Window(u64, u64),
    /// Writes memory as it lies.
    Memory(u64, u64),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let ports = prop::sample::select(vec![0x3c4_u16, 0x3ce, 0x3d4]);
    let sizes = prop_oneof![Just(0_u16), Just(64), Just(320), any::<u16>()];
    prop_oneof![
        4 => (ports, 0..26_u8, any::<u8>()).prop_map(|(p, i, v)| Step::Register(p, i, v)),
        2 => (0..64_u8, any::<u8>()).prop_map(|(i, v)| Step::Attribute(i, v)),
        1 => (0x3b0..0x3e0_u16, any::<u8>()).prop_map(|(p, v)| Step::Port(p, v)),
        1 => (any::<u8>(), any::<[u8; 3]>()).prop_map(|(i, c)| Step::Color(i, c)),
        1 => (0..12_u16, sizes).prop_map(|(i, v)| Step::Vbe(i, v)),
        1 => (0..0x1000_u64, any::<u32>()).prop_map(|(at, v)| Step::Mmio(at, v)),
        4 => (0..0x20000_u64, any::<u64>()).prop_map(|(at, v)| Step::Window(at, v)),
        4 => (0..u64::from(MEMORY), any::<u64>()).prop_map(|(at, v)| Step::Memory(at, v)),
        2 => Just(Step::Look),
    ]
}

fn vga() -> (Shared<Vga>, VgaRegions) {
    let config =
        VgaConfig { memory: MEMORY, edid: Some(Edid::default()), extended: true, legacy: true };
    let vga = Vga::new(config).unwrap();
    let device = device::share(|_| vga);
    let regions = VgaRegions::of(&device);
    // Colour addresses, and the screen on.
    for (port, value) in [(0x3c2, 0x67), (0x3c0, 0x20)] {
        device.lock().write(port, 0, 1, value);
    }
    (device, regions)
}

fn write(device: &Shared<Vga>, port: u16, value: u8) {
    device.lock().write(port.into(), 0, 1, value.into());
}

fn take(device: &Shared<Vga>, step: &Step) {
    match *step {
        Step::Register(port, index, value) => {
            write(device, port, index);
            write(device, port + 1, value);
        }
        Step::Attribute(index, value) => {
            device.lock().read(0x3da, 0, 1);
            write(device, 0x3c0, index);
            write(device, 0x3c0, value);
        }
        Step::Port(port, value) => write(device, port, value),
        Step::Color(index, color) => {
            write(device, 0x3c8, index);
            color.into_iter().for_each(|level| write(device, 0x3c9, level));
        }
        Step::Vbe(index, value) => {
            let device = &mut *device.lock();
            device.write(region::VBE, 0, 2, index.into());
            device.write(region::VBE, 1, 2, value.into());
        }
        Step::Mmio(at, value) => {
            let device = &mut *device.lock();
            device.read(region::MMIO, at & !3, 4);
            device.write(region::MMIO, at & !3, 4, value.into());
        }
        Step::Window(at, value) => {
            let device = &mut *device.lock();
            device.read(region::WINDOW, at, 8);
            device.write(region::WINDOW, at, 8, value);
        }
        Step::Memory(at, value) => device.lock().memory().write_uint(at, 8, value),
        Step::Look => {}
    }
}

proptest! {
    #[test]
    fn what_changed_is_all_that_changed(steps in prop::collection::vec(step(), 1..60)) {
        let (device, _regions) = vga();
        let clocks = Clocks::new();
        let (seen, anew) = (Head::new(&device, &clocks), Head::new(&device, &clocks));
        let mut surface = Surface::default();
        for step in &steps {
            take(&device, step);
            if matches!(step, Step::Look) {
                seen.refresh(&mut surface, false);
                seen.text();
            }
        }
        let damage = seen.refresh(&mut surface, false);
        for rect in &damage.rects {
            prop_assert_eq!(rect.intersection(&surface.bounds()), *rect);
        }
        let mut whole = Surface::new(surface.width(), surface.height());
        anew.refresh(&mut whole, true);
        prop_assert!(surface == whole);
    }
}

#[test]
fn nothing_is_drawn_when_nothing_changed() {
    let (device, _regions) = vga();
    let head = Head::new(&device, &Clocks::new());
    let mut surface = Surface::default();
    for (index, value) in [(1, 320), (2, 200), (3, 32), (4, 0x41)] {
        take(&device, &Step::Vbe(index, value));
    }
    assert!(head.refresh(&mut surface, false).resized);
    assert!(head.refresh(&mut surface, false).is_empty());
    take(&device, &Step::Memory(320 * 4 * 100, 0x0011_2233_0044_5566));
    let damage = head.refresh(&mut surface, false);
    assert_eq!(surface.row(100)[..2], [0x44_5566, 0x11_2233]);
    // Rows that share a page with it are drawn as well.
    assert!(damage.rects.iter().map(|rect| rect.height).sum::<u32>() <= 5, "{damage:?}");
}
