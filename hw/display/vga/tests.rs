//! Whatever a guest does, pictures come of it, and those drawn from what changed are those drawn anew.

use base::clock::Clocks;
use base::device::{self, Device, Shared};
use proptest::prelude::*;
use ui::{Adapter, Surface};

use super::testing::{self, Eyes};
use super::{Head, Shows, Vga, VgaConfig, VgaRegions, region};
use crate::display::edid::Edid;

const MEMORY: u32 = 1 << 20;

/// What a guest may do.
#[derive(Clone, Debug)]
enum Step {
    Vga(testing::Step),
    Vbe(u16, u16),
    Mmio(u64, u32),
    /// Writes memory as it lies.
    Memory(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![Just(0_u16), Just(64), Just(320), any::<u16>()];
    prop_oneof![
        14 => testing::step(26).prop_map(Step::Vga),
        1 => (0..12_u16, sizes).prop_map(|(i, v)| Step::Vbe(i, v)),
        1 => (0..0x1000_u64, any::<u32>()).prop_map(|(at, v)| Step::Mmio(at, v)),
        4 => (0..u64::from(MEMORY), any::<u64>()).prop_map(|(at, v)| Step::Memory(at, v)),
    ]
}

fn vga() -> (Shared<Vga>, VgaRegions) {
    let config =
        VgaConfig { memory: MEMORY, edid: Some(Edid::default()), extended: true, legacy: true };
    let vga = Vga::new(config).unwrap();
    let device = device::share(|_| vga);
    let regions = VgaRegions::of(&device);
    testing::switch_on(&device);
    (device, regions)
}

fn extend(device: &Shared<Vga>, index: u16, value: u16) {
    let device = &mut *device.lock();
    device.write(region::VBE, 0, 2, index.into());
    device.write(region::VBE, 1, 2, value.into());
}

fn store(device: &Shared<Vga>, at: u64, value: u64) {
    device.lock().memory().write_uint(at, 8, value);
}

proptest! {
    #[test]
    fn what_changed_is_all_that_changed(steps in prop::collection::vec(step(), 1..60)) {
        let (device, _regions) = vga();
        let mut eyes = Eyes::on(&device, region::WINDOW);
        for step in steps {
            match step {
                Step::Vga(step) => eyes.take(&step),
                Step::Vbe(index, value) => extend(&device, index, value),
                Step::Mmio(at, value) => {
                    let device = &mut *device.lock();
                    device.read(region::MMIO, at & !3, 4);
                    device.write(region::MMIO, at & !3, 4, value.into());
                }
                Step::Memory(at, value) => store(&device, at, value),
            }
        }
        eyes.compare()?;
    }
}

#[test]
fn nothing_is_drawn_when_nothing_changed() {
    let (device, _regions) = vga();
    let head = Head::new(&device, &Clocks::new());
    let mut surface = Surface::default();
    for (index, value) in [(1, 320), (2, 200), (3, 32), (4, 0x41)] {
        extend(&device, index, value);
    }
    assert!(head.refresh(&mut surface, false).resized);
    assert!(head.refresh(&mut surface, false).is_empty());
    store(&device, 320 * 4 * 100, 0x0011_2233_0044_5566);
    let damage = head.refresh(&mut surface, false);
    assert_eq!(surface.row(100)[..2], [0x44_5566, 0x11_2233]);
    // Rows that share a page with it are drawn as well.
    assert!(damage.rects.iter().map(|rect| rect.height).sum::<u32>() <= 5, "{damage:?}");
}
