//! The tap device: a descriptor from which frames for the host are written and read, each behind a
//! virtio header if the device does that.
#![allow(unsafe_code)]
// Unsafe: the device is set up by ioctls, whose argument is a structure or a number.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::fault;
use crate::frame::write_parts;
use crate::offload::VNET_HEADER;
use crate::packets::{Medium, Received};
use crate::{Frame, NetError, Offload, Offloads, Part};

const DEVICE: &str = "/dev/net/tun";
const TUNGETFEATURES: libc::Ioctl = 0x8004_54cf;
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETSNDBUF: libc::Ioctl = 0x4004_54d4;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;

const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;
const TUN_F_TSO_ECN: u64 = 0x08;
const TUN_F_USO4: u64 = 0x20;
const TUN_F_USO6: u64 = 0x40;

/// How many parts of a frame go out by one call.
const PARTS: usize = 64;

pub(super) struct Tap {
    fd: OwnedFd,
    name: String,
    /// Whether frames have a header.
    vnet: bool,
    /// What the kernel takes and gives.
    offloads: Offloads,
}

/// Calls the device with a number, or a pointer to one, as its argument.
fn ioctl_int(fd: &OwnedFd, request: libc::Ioctl, value: &mut libc::c_int) -> io::Result<()> {
    // SAFETY: these requests read or write one int, which lives through the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(value)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ioctl_interface(
    fd: &OwnedFd,
    request: libc::Ioctl,
    interface: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: these requests read and write one ifreq, which lives through the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(interface)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn interface(name: &str) -> Result<libc::ifreq, NetError> {
    // SAFETY: all-zero is a valid ifreq: an empty name, no flags.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= interface.ifr_name.len() {
        return Err(NetError::Failed(format!("interface name '{name}' is too long")));
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(interface)
}

fn name_of(interface: &libc::ifreq) -> String {
    let bytes = interface.ifr_name.iter().map(|byte| *byte as u8);
    let name: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}

fn flags_of(interface: &libc::ifreq) -> i32 {
    // SAFETY: requests for taps use this member of the union; any bits are valid.
    i32::from(unsafe { interface.ifr_ifru.ifru_flags })
}

impl Tap {
    /// Opens an interface by name (`tap%d`: the next free one), with a header if the kernel can.
    pub fn open(name: &str, vnet: bool, several: bool) -> Result<Tap, NetError> {
        let no_device = |error| fault(&format!("could not open {DEVICE}"), &error);
        let fd: OwnedFd =
            OpenOptions::new().read(true).write(true).open(DEVICE).map_err(no_device)?.into();
        base::fd::set_nonblocking(&fd).map_err(no_device)?;
        let mut features = 0;
        ioctl_int(&fd, TUNGETFEATURES, &mut features).map_err(no_device)?;
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if vnet && features & libc::IFF_VNET_HDR != 0 {
            flags |= libc::IFF_VNET_HDR;
        }
        if several {
            if features & libc::IFF_MULTI_QUEUE == 0 {
                return Err(NetError::failed("multiqueue required, but no kernel support"));
            }
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let mut interface = interface(name)?;
        interface.ifr_ifru.ifru_flags = flags as libc::c_short;
        ioctl_interface(&fd, TUNSETIFF, &mut interface)
            .map_err(|error| fault(&format!("could not configure {DEVICE} ({name})"), &error))?;
        Self::set_up(fd, &interface)
    }

    /// A device that was opened elsewhere.
    pub fn of(fd: OwnedFd) -> Result<Tap, NetError> {
        let mut interface = interface("")?;
        ioctl_interface(&fd, TUNGETIFF, &mut interface)
            .map_err(|error| fault("TUNGETIFF ioctl() failed", &error))?;
        Self::set_up(fd, &interface)
    }

    fn set_up(fd: OwnedFd, interface: &libc::ifreq) -> Result<Tap, NetError> {
        let vnet = flags_of(interface) & libc::IFF_VNET_HDR != 0;
        let mut tap = Tap { fd, name: name_of(interface), vnet, offloads: Offloads::default() };
        if vnet {
            ioctl_int(&tap.fd, TUNSETVNETHDRSZ, &mut (VNET_HEADER as libc::c_int))
                .map_err(|error| fault("TUNSETVNETHDRSZ ioctl() failed", &error))?;
            tap.choose_offloads();
        }
        Ok(tap)
    }

    /// What the guest's card cannot take, the cable does.
    fn choose_offloads(&mut self) {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        let set = |bits: u64| {
            // SAFETY: the argument of this request is a number.
            unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETOFFLOAD, bits) == 0 }
        };
        let uso = set(tcp | TUN_F_USO4 | TUN_F_USO6);
        if uso || set(tcp) {
            self.offloads = Offloads { uso, ufo: false, ..Offloads::ALL };
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Limits what the kernel queues; without a limit there is no backpressure. Old kernels cannot.
    pub fn limit_buffer(&self, bytes: Option<u64>) {
        let limit = bytes.filter(|bytes| *bytes > 0).unwrap_or(i32::MAX as u64);
        let mut limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let _ = ioctl_int(&self.fd, TUNSETSNDBUF, &mut limit);
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Medium for Tap {
    fn send(&self, frame: &Frame<'_>) -> io::Result<()> {
        let header = frame.offload.to_vnet();
        let mut parts = [Part::from(&header[..]); PARTS];
        let first = usize::from(self.vnet);
        let count = first + frame.gather(0, frame.len(), &mut parts[first..]);
        if count < PARTS {
            return write_parts(&self.fd, &parts[..count]).map(drop);
        }
        // Perhaps there are more parts; a frame goes whole.
        let bytes = frame.to_vec();
        parts[first] = Part::from(&bytes[..]);
        write_parts(&self.fd, &parts[..first + 1]).map(drop)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let count = nix::unistd::read(&self.fd, buffer)?;
        if !self.vnet {
            return Ok(Received { place: 0..count, offload: Offload::default() });
        }
        let header = buffer.first_chunk::<VNET_HEADER>().filter(|_| count > VNET_HEADER);
        let offload = header.and_then(Offload::from_vnet);
        // What makes no sense is left out.
        Ok(match offload {
            Some(offload) => Received { place: VNET_HEADER..count, offload },
            None => Received { place: 0..0, offload: Offload::default() },
        })
    }

    fn accepts(&self) -> Offloads {
        self.offloads
    }
}
