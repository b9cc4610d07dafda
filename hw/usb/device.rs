//! Any device: the requests that all of them answer (USB 2.0, 9.4), and its place on a bus.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::state::State;
use parking_lot::Mutex;

use super::attention::Attention;
use super::bus::PortOwner;
use super::descriptor::{Description, IN, SELF_POWERED};
use super::packet::{Packet, Reply, Setup, Speed, Token};

/// Standard requests, with the type of the request before the number.
mod request {
    pub const GET_DEVICE_STATUS: u16 = 0x8000;
    pub const GET_INTERFACE_STATUS: u16 = 0x8100;
    pub const GET_ENDPOINT_STATUS: u16 = 0x8200;
    pub const CLEAR_DEVICE_FEATURE: u16 = 0x0001;
    pub const CLEAR_ENDPOINT_FEATURE: u16 = 0x0201;
    pub const SET_DEVICE_FEATURE: u16 = 0x0003;
    pub const SET_ENDPOINT_FEATURE: u16 = 0x0203;
    pub const SET_ADDRESS: u16 = 0x0005;
    pub const GET_DESCRIPTOR: u16 = 0x8006;
    pub const GET_CONFIGURATION: u16 = 0x8008;
    pub const SET_CONFIGURATION: u16 = 0x0009;
    pub const GET_INTERFACE: u16 = 0x810a;
    pub const SET_INTERFACE: u16 = 0x010b;
    pub const SET_SELECT: u16 = 0x0030;
    pub const SET_ISOCHRONOUS_DELAY: u16 = 0x0031;
}

/// Features that can be set and cleared.
mod feature {
    pub const ENDPOINT_HALT: u16 = 0;
    pub const REMOTE_WAKEUP: u16 = 1;
    pub const TEST_MODE: u16 = 2;
}

/// Most bytes of a request's data that anybody sends.
const MAX_DATA: usize = 4096;

/// What makes a device one of its kind.
pub trait Function: Send {
    /// What it tells about itself.
    fn description(&self) -> &'static Description;
    /// A request of its class or of its interface. `data` holds what the host sends, or takes what is
    /// to be sent; that is cut to what the host wants.
    fn request(&mut self, setup: &Setup, data: &mut Vec<u8>) -> Reply;
    /// A packet at an endpoint other than 0, once the device is configured.
    fn transfer(&mut self, packet: &mut Packet) -> Reply;
    /// The bus is reset.
    fn reset(&mut self);
    /// It has been taken away; somebody may keep it for a while.
    fn detached(&mut self) {}
    /// The ports that it adds to the bus.
    fn hub(&self) -> Option<&Arc<dyn Downstream>> {
        None
    }
}

/// The ports of a hub.
pub trait Downstream: Send + Sync {
    /// The devices at ports that are enabled.
    fn reachable(&self) -> Vec<Arc<UsbDevice>>;
    /// How many ports there are, and who the bus tells of devices at them.
    fn as_owner(&self) -> (usize, Weak<dyn PortOwner>);
}

/// Tells the controller that a device has something to say. Rung with the device's lock held, and the
/// controller's or not.
#[derive(Clone, Default)]
pub struct Bell(Arc<OnceLock<Attention>>);

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        if let Some(attention) = self.0.get() {
            attention.ring();
        }
    }

    /// Who hears it. To be called once.
    pub(super) fn connect(&self, attention: &Attention) {
        self.0.get_or_init(|| attention.clone());
    }
}

/// Where a request at endpoint 0 has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Stage {
    #[default]
    Idle,
    /// The device sends what is in the buffer.
    Sending,
    /// The device receives.
    Receiving,
    /// The request was refused, or there is none.
    Refused,
}

/// What any device holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct DeviceState {
    address: u8,
    configuration: u8,
    remote_wakeup: bool,
    /// Endpoints that are halted, by number; those towards the host in the upper half.
    halted: u32,
    stage: Stage,
    setup: Setup,
    /// What was sent or received of the data.
    done: usize,
    data: Vec<u8>,
}

/// A device and its place on a bus.
pub struct UsbDevice {
    /// What it tells about itself.
    pub description: &'static Description,
    /// The id that the operator gave it.
    pub id: Option<String>,
    /// Its port, counted from the root: `2.1` is port 1 of a hub at port 2.
    pub port: String,
    /// How fast it talks.
    pub speed: Speed,
    serial: String,
    hub: Option<Arc<dyn Downstream>>,
    /// Nobody answers any more once it has been taken away.
    attached: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    st: DeviceState,
    function: Box<dyn Function>,
}

impl UsbDevice {
    pub(super) fn new(
        function: Box<dyn Function>,
        id: Option<String>,
        port: &str,
        speed: Speed,
        serial: String,
    ) -> Arc<Self> {
        Arc::new(UsbDevice {
            description: function.description(),
            id,
            port: port.into(),
            speed,
            serial,
            hub: function.hub().cloned(),
            attached: AtomicBool::new(true),
            inner: Mutex::new(Inner { st: DeviceState::default(), function }),
        })
    }

    /// Its address on the bus; zero before it was given one.
    pub fn address(&self) -> u8 {
        self.inner.lock().st.address
    }

    /// Gives it an address by other means than a request.
    pub fn set_address(&self, address: u8) {
        self.inner.lock().st.address = address & 0x7f;
    }

    /// This device or one behind it, by address.
    pub fn find(self: &Arc<Self>, address: u8) -> Option<Arc<UsbDevice>> {
        if self.address() == address {
            return Some(self.clone());
        }
        let behind = self.hub.as_ref()?.reachable();
        behind.iter().find_map(|device| device.find(address))
    }

    /// It has been taken away.
    pub(super) fn detach(&self) {
        self.attached.store(false, Ordering::Release);
        self.inner.lock().function.detached();
    }

    /// The bus is reset.
    pub fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.st = DeviceState::default();
        inner.function.reset();
    }

    /// Does a packet.
    pub fn handle(&self, packet: &mut Packet) -> Reply {
        if !self.attached.load(Ordering::Acquire) {
            return Reply::Silence;
        }
        let mut inner = self.inner.lock();
        if packet.endpoint == 0 {
            return inner.control(self, packet);
        }
        if inner.st.configuration == 0 {
            return Reply::Stall;
        }
        let bit = halt_bit(packet.endpoint | if packet.token == Token::In { IN } else { 0 });
        if inner.st.halted & bit != 0 {
            return Reply::Stall;
        }
        let reply = inner.function.transfer(packet);
        if reply == Reply::Stall {
            inner.st.halted |= bit;
        }
        reply
    }
}

fn halt_bit(address: u8) -> u32 {
    1 << (u32::from(address & 0xf) | u32::from(address & IN) >> 3)
}

impl Inner {
    /// A stage of a request (USB 2.0, 8.5.3).
    fn control(&mut self, device: &UsbDevice, packet: &mut Packet) -> Reply {
        match (packet.token, self.st.stage) {
            (Token::Setup, _) => self.begin(device, packet),
            (Token::In, Stage::Sending) => {
                let left = self.st.data.get(self.st.done..).unwrap_or_default();
                packet.data = left[..left.len().min(packet.room)].to_vec();
                self.st.done += packet.data.len();
                Reply::Done
            }
            // The host has enough.
            (Token::Out, Stage::Sending) => {
                self.st.stage = Stage::Idle;
                Reply::Done
            }
            (Token::Out, Stage::Receiving) => {
                let room = usize::from(self.st.setup.length) - self.st.data.len();
                if packet.data.len() > room {
                    self.st.stage = Stage::Refused;
                    return Reply::Stall;
                }
                self.st.data.extend(&packet.data);
                Reply::Done
            }
            (Token::In, Stage::Receiving) => {
                packet.data.clear();
                if self.st.data.len() < self.st.setup.length.into() {
                    self.st.stage = Stage::Refused;
                    return Reply::Stall;
                }
                let reply = self.request(device);
                self.st.stage = if reply == Reply::Done { Stage::Idle } else { Stage::Refused };
                reply
            }
            _ => Reply::Stall,
        }
    }

    fn begin(&mut self, device: &UsbDevice, packet: &Packet) -> Reply {
        let Some(setup) = Setup::parse(&packet.data) else { return Reply::Stall };
        self.st.setup = setup;
        self.st.data.clear();
        self.st.done = 0;
        if !setup.is_in() {
            let fits = usize::from(setup.length) <= MAX_DATA;
            self.st.stage = if fits { Stage::Receiving } else { Stage::Refused };
            return Reply::Done;
        }
        // What is refused is refused when data are asked for.
        let reply = self.request(device);
        self.st.data.truncate(setup.length.into());
        self.st.stage = if reply == Reply::Done { Stage::Sending } else { Stage::Refused };
        Reply::Done
    }

    fn request(&mut self, device: &UsbDevice) -> Reply {
        let Inner { st, function } = self;
        let DeviceState { setup, data, .. } = st;
        let description = function.description();
        let address = setup.index as u8;
        match setup.code() {
            request::SET_ADDRESS => st.address = setup.value as u8 & 0x7f,
            request::GET_DESCRIPTOR => {
                let [index, kind] = setup.value.to_le_bytes();
                match description.descriptor(kind, index, device.speed, &device.serial) {
                    Some(descriptor) => *data = descriptor,
                    None => return Reply::Stall,
                }
            }
            request::GET_CONFIGURATION => *data = vec![st.configuration],
            request::SET_CONFIGURATION if setup.value <= 1 => {
                st.configuration = setup.value as u8;
                st.halted = 0;
            }
            request::GET_DEVICE_STATUS => {
                let attributes = description.at(device.speed).map(|at| at.configuration.attributes);
                let powered = attributes.unwrap_or(0) & SELF_POWERED != 0;
                *data = vec![u8::from(powered) | u8::from(st.remote_wakeup) << 1, 0];
            }
            request::GET_INTERFACE_STATUS => *data = vec![0, 0],
            request::GET_ENDPOINT_STATUS => {
                *data = vec![u8::from(st.halted & halt_bit(address) != 0), 0];
            }
            request::SET_DEVICE_FEATURE if setup.value == feature::REMOTE_WAKEUP => {
                st.remote_wakeup = true;
            }
            request::SET_DEVICE_FEATURE if setup.value == feature::TEST_MODE => {}
            request::CLEAR_DEVICE_FEATURE if setup.value == feature::REMOTE_WAKEUP => {
                st.remote_wakeup = false;
            }
            request::SET_ENDPOINT_FEATURE if setup.value == feature::ENDPOINT_HALT => {
                st.halted |= halt_bit(address);
            }
            request::CLEAR_ENDPOINT_FEATURE if setup.value == feature::ENDPOINT_HALT => {
                st.halted &= !halt_bit(address);
            }
            request::GET_INTERFACE if setup.index == 0 => *data = vec![0],
            request::SET_INTERFACE if (setup.value, setup.index) == (0, 0) => {}
            request::SET_SELECT | request::SET_ISOCHRONOUS_DELAY
                if device.speed == Speed::Super => {}
            _ => {
                let mut bytes = std::mem::take(data);
                let reply = function.request(&setup.clone(), &mut bytes);
                self.st.data = bytes;
                return reply;
            }
        }
        Reply::Done
    }
}
