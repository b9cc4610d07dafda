//! What goes over the wires: transactions, requests, replies.

use base::state::State;

/// How fast a device talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speed {
    /// 1.5 Mb/s.
    Low,
    /// 12 Mb/s.
    Full,
    /// 480 Mb/s.
    High,
    /// 5 Gb/s.
    Super,
}

impl Speed {
    /// Megabits a second, as people read it.
    pub fn megabits(self) -> &'static str {
        match self {
            Speed::Low => "1.5",
            Speed::Full => "12",
            Speed::High => "480",
            Speed::Super => "5000",
        }
    }

    /// As messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Speed::Low => "low",
            Speed::Full => "full",
            Speed::High => "high",
            Speed::Super => "super",
        }
    }
}

/// What the host wants at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, State)]
pub enum Token {
    /// To begin a request.
    Setup,
    /// To get data.
    In,
    /// To send data.
    Out,
}

/// A transaction, or several in a row, at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What the host wants.
    pub token: Token,
    /// Number of the endpoint.
    pub endpoint: u8,
    /// What the host sends, or what the device has sent.
    pub data: Vec<u8>,
    /// Most bytes that the host takes.
    pub room: usize,
}

impl Packet {
    /// The host sends.
    pub fn out(endpoint: u8, data: Vec<u8>) -> Self {
        Packet { token: Token::Out, endpoint, data, room: 0 }
    }

    /// The host begins a request.
    pub fn setup(setup: [u8; 8]) -> Self {
        Packet { token: Token::Setup, endpoint: 0, data: setup.to_vec(), room: 0 }
    }

    /// The host takes up to `room` bytes.
    pub fn take(endpoint: u8, room: usize) -> Self {
        Packet { token: Token::In, endpoint, data: Vec::new(), room }
    }

    /// The device sends these bytes.
    pub fn answer(&mut self, bytes: &[u8]) -> Reply {
        if bytes.len() > self.room {
            self.data = bytes[..self.room].to_vec();
            return Reply::Babble;
        }
        self.data = bytes.to_vec();
        Reply::Done
    }
}

/// What a device makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was taken, or data was sent; perhaps less than there was room for.
    Done,
    /// Not now.
    Nak,
    /// That can not be done.
    Stall,
    /// The device has sent more than there was room for.
    Babble,
    /// Nobody answered.
    Silence,
}

/// A request at endpoint 0 (USB 2.0, 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[allow(missing_docs)]
pub struct Setup {
    pub request_type: u8,
    pub request: u8,
    pub value: u16,
    pub index: u16,
    pub length: u16,
}

impl Setup {
    /// Bytes of a request.
    pub const LEN: usize = 8;

    /// Reads a request.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[request_type, request, v0, v1, i0, i1, l0, l1] = bytes else { return None };
        Some(Setup {
            request_type,
            request,
            value: u16::from_le_bytes([v0, v1]),
            index: u16::from_le_bytes([i0, i1]),
            length: u16::from_le_bytes([l0, l1]),
        })
    }

    /// Whether the device sends the data.
    pub fn is_in(&self) -> bool {
        self.request_type & 0x80 != 0
    }

    /// Type and number in one, to be matched on.
    pub fn code(&self) -> u16 {
        u16::from_be_bytes([self.request_type, self.request])
    }
}
