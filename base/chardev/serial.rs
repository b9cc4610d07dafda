//! `serial`: a serial port of the host.
#![allow(unsafe_code)] // Modem lines have no interface but ioctl.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::termios::{
    BaudRate, ControlFlags, SetArg, Termios, cfmakeraw, cfsetspeed, tcgetattr, tcsetattr,
};

use super::link::Link;
use super::registry::Context;
use super::stream::Stream;
use super::{Backend, CharEvent, ChardevError};

nix::ioctl_read_bad!(
    /// Reads the modem lines.
    tiocmget,
    libc::TIOCMGET,
    libc::c_int
);
nix::ioctl_write_ptr_bad!(
    /// Sets the modem lines.
    tiocmset,
    libc::TIOCMSET,
    libc::c_int
);
nix::ioctl_none_bad!(
    /// Starts a break.
    tiocsbrk,
    libc::TIOCSBRK
);
nix::ioctl_none_bad!(
    /// Ends a break.
    tioccbrk,
    libc::TIOCCBRK
);

/// A real serial port behind an emulated one.
pub trait SerialLine {
    /// Sets speed and framing.
    fn set_params(&self, params: SerialParams) -> io::Result<()>;
    /// Starts or ends a break condition.
    fn set_break(&self, on: bool) -> io::Result<()>;
    /// Reads the modem lines.
    fn modem_lines(&self) -> io::Result<ModemLines>;
    /// Drives DTR and RTS; the other lines are inputs.
    fn set_modem_lines(&self, dtr: bool, rts: bool) -> io::Result<()>;
}

/// Speed and framing of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialParams {
    /// Bits per second.
    pub speed: u32,
    /// Parity bit.
    pub parity: Parity,
    /// 5 to 8.
    pub data_bits: u8,
    /// Two stop bits rather than one.
    pub two_stop_bits: bool,
}

/// The parity bit of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// The state of the modem lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Named as on the connector.
pub struct ModemLines {
    pub dtr: bool,
    pub rts: bool,
    pub cts: bool,
    pub dsr: bool,
    pub dcd: bool,
    pub ri: bool,
}

/// Speeds that a host can be asked for.
const SPEEDS: [(u32, BaudRate); 19] = [
    (50, BaudRate::B50),
    (75, BaudRate::B75),
    (110, BaudRate::B110),
    (134, BaudRate::B134),
    (150, BaudRate::B150),
    (200, BaudRate::B200),
    (300, BaudRate::B300),
    (600, BaudRate::B600),
    (1_200, BaudRate::B1200),
    (1_800, BaudRate::B1800),
    (2_400, BaudRate::B2400),
    (4_800, BaudRate::B4800),
    (9_600, BaudRate::B9600),
    (19_200, BaudRate::B19200),
    (38_400, BaudRate::B38400),
    (57_600, BaudRate::B57600),
    (115_200, BaudRate::B115200),
    (230_400, BaudRate::B230400),
    (460_800, BaudRate::B460800),
];

pub(super) struct HostSerial {
    fd: Arc<OwnedFd>,
    stream: Arc<Stream>,
}

impl HostSerial {
    pub(super) fn open(
        context: &Context,
        link: &Arc<Link>,
        path: &str,
    ) -> Result<HostSerial, ChardevError> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = context.fd_sets.open(path, flags);
        let fd =
            Arc::new(opened.map_err(|source| ChardevError::Open { path: path.into(), source })?);
        let stream = Stream::of_fds(&context.handle, link, Some(fd.clone()), Some(fd.clone()));
        let port = HostSerial { fd, stream };
        let params = SerialParams {
            speed: 115_200,
            parity: Parity::None,
            data_bits: 8,
            two_stop_bits: false,
        };
        // Anything that can be opened may stand in for a port; only a port can be set up.
        let _ = port.set_params(params);
        link.event(CharEvent::Opened);
        Ok(port)
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn lines(&self) -> io::Result<libc::c_int> {
        let mut bits = 0;
        // SAFETY: the kernel writes one integer, for which there is room.
        unsafe { tiocmget(self.raw(), &mut bits) }?;
        Ok(bits)
    }
}

fn apply(params: SerialParams, termios: &mut Termios) -> nix::Result<()> {
    cfmakeraw(termios);
    let nearest = SPEEDS.iter().min_by_key(|(speed, _)| speed.abs_diff(params.speed));
    if let Some(&(_, rate)) = nearest {
        cfsetspeed(termios, rate)?;
    }
    let flags = &mut termios.control_flags;
    flags.remove(ControlFlags::CSIZE);
    flags.insert(match params.data_bits {
        5 => ControlFlags::CS5,
        6 => ControlFlags::CS6,
        7 => ControlFlags::CS7,
        _ => ControlFlags::CS8,
    });
    flags.set(ControlFlags::PARENB, params.parity != Parity::None);
    flags.set(ControlFlags::PARODD, params.parity == Parity::Odd);
    flags.set(ControlFlags::CSTOPB, params.two_stop_bits);
    Ok(())
}

impl SerialLine for HostSerial {
    fn set_params(&self, params: SerialParams) -> io::Result<()> {
        let mut termios = tcgetattr(&self.fd)?;
        apply(params, &mut termios)?;
        Ok(tcsetattr(&self.fd, SetArg::TCSANOW, &termios)?)
    }

    fn set_break(&self, on: bool) -> io::Result<()> {
        // SAFETY: these requests take no argument.
        unsafe { if on { tiocsbrk(self.raw()) } else { tioccbrk(self.raw()) } }?;
        Ok(())
    }

    fn modem_lines(&self) -> io::Result<ModemLines> {
        let bits = self.lines()?;
        Ok(ModemLines {
            dtr: bits & libc::TIOCM_DTR != 0,
            rts: bits & libc::TIOCM_RTS != 0,
            cts: bits & libc::TIOCM_CTS != 0,
            dsr: bits & libc::TIOCM_DSR != 0,
            dcd: bits & libc::TIOCM_CAR != 0,
            ri: bits & libc::TIOCM_RNG != 0,
        })
    }

    fn set_modem_lines(&self, dtr: bool, rts: bool) -> io::Result<()> {
        let mut bits = self.lines()? & !(libc::TIOCM_DTR | libc::TIOCM_RTS);
        bits |= if dtr { libc::TIOCM_DTR } else { 0 };
        bits |= if rts { libc::TIOCM_RTS } else { 0 };
        // SAFETY: the kernel reads one integer.
        unsafe { tiocmset(self.raw(), &bits) }?;
        Ok(())
    }
}

impl Backend for HostSerial {
    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn filename(&self) -> String {
        "serial".into()
    }

    fn serial_line(&self) -> Option<&dyn SerialLine> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_becomes_terminal_flags() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut termios = tcgetattr(&pty.slave).unwrap();
        let params =
            SerialParams { speed: 9_500, parity: Parity::Odd, data_bits: 7, two_stop_bits: true };
        apply(params, &mut termios).unwrap();
        assert_eq!(nix::sys::termios::cfgetospeed(&termios), BaudRate::B9600);
        let framing = ControlFlags::CSIZE
            | ControlFlags::PARENB
            | ControlFlags::PARODD
            | ControlFlags::CSTOPB;
        assert_eq!(
            termios.control_flags & framing,
            ControlFlags::CS7 | ControlFlags::PARENB | ControlFlags::PARODD | ControlFlags::CSTOPB
        );
    }
}
