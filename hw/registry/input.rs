//! Keyboards, mice and tablets on virtio.

use base::props::Props;

use super::{Done, Setting, Slots, parse};
use crate::virtio;
use crate::virtio::input::{InputProps, WheelProps};
use crate::virtio::pci::{InterfaceProps, Place, VirtioPciProps};

#[derive(Debug, Props)]
pub(super) struct VirtioKeyboardProps {
    #[prop(flatten)]
    input: InputProps,
    #[prop(flatten)]
    pci: VirtioPciProps,
    #[prop(flatten)]
    interfaces: InterfaceProps,
    #[prop(default = 2)]
    vectors: u32,
}

#[derive(Debug, Props)]
pub(super) struct VirtioPointerProps {
    #[prop(flatten)]
    keyboard: VirtioKeyboardProps,
    #[prop(flatten)]
    wheel: WheelProps,
}

pub(super) fn virtio_keyboard(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-keyboard-pci";
    let props: VirtioKeyboardProps = parse(name, settings)?;
    virtio_input(name, virtio::input::Kind::Keyboard, props, false, slots)
}

pub(super) fn virtio_mouse(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-mouse-pci";
    let props: VirtioPointerProps = parse(name, settings)?;
    let wheel_axis = props.wheel.wheel_axis;
    virtio_input(name, virtio::input::Kind::Mouse, props.keyboard, wheel_axis, slots)
}

pub(super) fn virtio_tablet(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-tablet-pci";
    let props: VirtioPointerProps = parse(name, settings)?;
    let wheel_axis = props.wheel.wheel_axis;
    virtio_input(name, virtio::input::Kind::Tablet, props.keyboard, wheel_axis, slots)
}

fn virtio_input(
    type_name: &'static str,
    kind: virtio::input::Kind,
    props: VirtioKeyboardProps,
    wheel_axis: bool,
    slots: &mut dyn Slots,
) -> Done {
    let VirtioKeyboardProps { input, pci, interfaces, vectors } = props;
    let seat = virtio::input::Seat {
        bus: slots.pci(),
        place: Place {
            type_name,
            interfaces: interfaces.modern(),
            class: 0,
            vectors,
            props: &pci,
            beside: None,
        },
        msi: slots.msi(),
        router: slots.input(),
    };
    virtio::input::plug(seat, kind, &input, wheel_axis)?;
    Ok(())
}
