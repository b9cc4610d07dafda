//! The telnet protocol (RFC 854), as far as a terminal needs it: the server asks for character
//! mode and a binary channel, commands are taken out of the input, and a break is understood.

const SE: u8 = 240;
const BREAK: u8 = 243;
const SB: u8 = 250;
const WILL: u8 = 251;
const DO: u8 = 253;
const DONT: u8 = 254;
/// "Interpret as command"; doubled, it is data.
pub(super) const IAC: u8 = 255;

const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;

/// What a server says first.
pub(super) const GREETING: [u8; 12] =
    [IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY];

/// Takes commands out of the input, whatever pieces it comes in.
#[derive(Default)]
pub(super) struct Telnet {
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Data,
    Command,
    /// After WILL, WONT, DO or DONT.
    Option,
    Subnegotiation,
    SubnegotiationCommand,
}

/// What a byte of input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Data(u8),
    Break,
    Nothing,
}

impl Telnet {
    pub(super) fn input(&mut self, byte: u8) -> Input {
        let (state, input) = match (self.state, byte) {
            (State::Data, IAC) => (State::Command, Input::Nothing),
            (State::Data, _) => (State::Data, Input::Data(byte)),
            (State::Command, IAC) => (State::Data, Input::Data(IAC)),
            (State::Command, BREAK) => (State::Data, Input::Break),
            (State::Command, SB) => (State::Subnegotiation, Input::Nothing),
            (State::Command, WILL..=DONT) => (State::Option, Input::Nothing),
            (State::Command | State::Option, _) => (State::Data, Input::Nothing),
            (State::Subnegotiation, IAC) => (State::SubnegotiationCommand, Input::Nothing),
            (State::SubnegotiationCommand, SE) => (State::Data, Input::Nothing),
            (State::Subnegotiation | State::SubnegotiationCommand, _) => {
                (State::Subnegotiation, Input::Nothing)
            }
        };
        self.state = state;
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(bytes: &[u8]) -> Vec<Input> {
        let mut telnet = Telnet::default();
        let inputs = bytes.iter().map(|&byte| telnet.input(byte));
        inputs.filter(|&input| input != Input::Nothing).collect()
    }

    #[test]
    fn commands_are_taken_out() {
        let no_operation = [b'a', IAC, 241, b'b'];
        assert_eq!(inputs(&no_operation), [Input::Data(b'a'), Input::Data(b'b')]);
        let negotiation = [IAC, DO, ECHO, b'x', IAC, WILL, BINARY, IAC, IAC];
        assert_eq!(inputs(&negotiation), [Input::Data(b'x'), Input::Data(IAC)]);
        let subnegotiation = [IAC, SB, 31, IAC, IAC, 80, IAC, SE, b'y'];
        assert_eq!(inputs(&subnegotiation), [Input::Data(b'y')]);
        assert_eq!(inputs(&[b'1', IAC, BREAK]), [Input::Data(b'1'), Input::Break]);
    }
}
