//! USB: devices, the buses they are on, and host controllers.
//!
//! A device is a [`Function`](device::Function), which is what makes it one of its kind, inside a
//! [`UsbDevice`], which answers what all devices answer. It is attached to a port of a [`UsbBus`], of
//! the controller or of a hub. A controller finds devices by address or by port and gives them
//! packets, which they reply to at once; who says `NAK` rings its bell when the answer would be another
//! one.
//!
//! Order of locks: controller, a hub, devices behind it. A bell takes none of them: it arms a timer of
//! the controller.

mod attention;
pub mod bus;
pub mod descriptor;
pub mod device;
pub mod hid;
pub mod hub;
pub mod packet;
pub mod props;
pub mod uhci;
pub mod xhci;

pub use bus::{Newcomer, UsbBus, UsbBuses, UsbError};
pub use device::UsbDevice;
