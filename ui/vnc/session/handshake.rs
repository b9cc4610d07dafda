//! How a client gets in: versions, security, and the first messages (RFC 6143, section 7.1 to 7.3;
//! VeNCrypt by the community's description).

use super::{Desk, Fault, Need, Terms};
use crate::vnc::auth;

const GREETING: &[u8; 12] = b"RFB 003.008\n";

const TYPE_NONE: u8 = 1;
const TYPE_PASSWORD: u8 = 2;
const TYPE_VENCRYPT: u8 = 19;

/// Encrypted with a certificate, and nothing more.
const SUBTYPE_X509_NONE: u32 = 260;
/// Encrypted with a certificate, and the password.
const SUBTYPE_X509_PASSWORD: u32 = 261;

/// With a zero at the end, which QEMU counts too.
const REFUSED: &str = "Authentication failed\0";
const NOT_SHARED: &str = "the screen is not shared";

/// What the client is expected to send.
enum Phase {
    Version,
    Security,
    VencryptVersion,
    VencryptSubtype,
    /// Nothing; what follows is encrypted.
    Encrypted,
    Response([u8; auth::CHALLENGE_SIZE]),
    Init,
    Done,
}

/// How far a client has come.
pub(super) struct Handshake {
    phase: Phase,
    /// The last digit of the protocol's version: 3, 7 or 8.
    minor: u8,
}

/// What a step came to.
pub(super) struct Step {
    /// Bytes that were used up.
    pub(super) taken: usize,
    /// What has to happen before the next step.
    pub(super) need: Option<Need>,
}

impl Handshake {
    pub(super) fn greet(out: &mut Vec<u8>) -> Self {
        out.extend(GREETING);
        Handshake { phase: Phase::Version, minor: 8 }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Takes what the client sends next, if it is all there.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        desk: &dyn Desk,
        terms: &Terms,
        out: &mut Vec<u8>,
    ) -> Result<Step, Fault> {
        let length = match self.phase {
            Phase::Version => GREETING.len(),
            Phase::Security | Phase::Init => 1,
            Phase::VencryptVersion => 2,
            Phase::VencryptSubtype => 4,
            Phase::Response(_) => auth::CHALLENGE_SIZE,
            Phase::Encrypted | Phase::Done => 0,
        };
        let Some(said) = input.get(..length) else {
            return Ok(Step { taken: 0, need: Some(Need::Bytes) });
        };
        let need = match self.phase {
            Phase::Version => self.version(said, desk, terms, out)?,
            Phase::Security => self.security(said, desk, terms, out)?,
            Phase::VencryptVersion => self.vencrypt_version(said, terms, out)?,
            Phase::VencryptSubtype => self.vencrypt_subtype(said, terms, out)?,
            Phase::Encrypted => {
                self.begin(terms.password, true, desk, out)?;
                None
            }
            Phase::Response(challenge) => self.response(said, &challenge, desk, out)?,
            Phase::Init => {
                if !desk.enter(said != [0]) {
                    return Err(Fault::Nonsense(NOT_SHARED));
                }
                self.phase = Phase::Done;
                None
            }
            Phase::Done => None,
        };
        Ok(Step { taken: length, need })
    }

    fn version(
        &mut self,
        said: &[u8],
        desk: &dyn Desk,
        terms: &Terms,
        out: &mut Vec<u8>,
    ) -> Result<Option<Need>, Fault> {
        self.minor = match said {
            b"RFB 003.008\n" => 8,
            b"RFB 003.007\n" => 7,
            // Some say 4 or 5 and mean 3.
            b"RFB 003.003\n" | b"RFB 003.004\n" | b"RFB 003.005\n" => 3,
            _ => {
                // No type of security at all.
                out.extend([0; 4]);
                return Err(Fault::Nonsense("unsupported version of the protocol"));
            }
        };
        let offered = match (terms.tls, terms.password) {
            (true, _) => TYPE_VENCRYPT,
            (false, true) => TYPE_PASSWORD,
            (false, false) => TYPE_NONE,
        };
        if self.minor > 3 {
            out.extend([1, offered]);
            self.phase = Phase::Security;
            return Ok(None);
        }
        // The server decides, and cannot decide for what the client does not know.
        if terms.tls {
            out.extend([0; 4]);
            super::push_text("Unsupported auth type for protocol version 3.3", out);
            return Err(Fault::Nonsense("the client cannot encrypt"));
        }
        out.extend(u32::from(offered).to_be_bytes());
        self.begin(terms.password, false, desk, out)?;
        Ok(None)
    }

    fn security(
        &mut self,
        said: &[u8],
        desk: &dyn Desk,
        terms: &Terms,
        out: &mut Vec<u8>,
    ) -> Result<Option<Need>, Fault> {
        match (said, terms.tls, terms.password) {
            ([TYPE_VENCRYPT], true, _) => {
                // Version 0.2.
                out.extend([0, 2]);
                self.phase = Phase::VencryptVersion;
            }
            ([TYPE_PASSWORD], false, true) => self.begin(true, false, desk, out)?,
            ([TYPE_NONE], false, false) => self.begin(false, false, desk, out)?,
            _ => {
                self.refuse(out);
                return Err(Fault::Nonsense("a type of security that was not offered"));
            }
        }
        Ok(None)
    }

    fn vencrypt_version(
        &mut self,
        said: &[u8],
        terms: &Terms,
        out: &mut Vec<u8>,
    ) -> Result<Option<Need>, Fault> {
        if said != [0, 2] {
            out.push(1);
            return Err(Fault::Nonsense("unsupported version of VeNCrypt"));
        }
        out.extend([0, 1]);
        out.extend(subtype(terms).to_be_bytes());
        self.phase = Phase::VencryptSubtype;
        Ok(None)
    }

    fn vencrypt_subtype(
        &mut self,
        said: &[u8],
        terms: &Terms,
        out: &mut Vec<u8>,
    ) -> Result<Option<Need>, Fault> {
        if said != subtype(terms).to_be_bytes() {
            out.push(0);
            return Err(Fault::Nonsense("a type of VeNCrypt that was not offered"));
        }
        out.push(1);
        self.phase = Phase::Encrypted;
        Ok(Some(Need::Tls))
    }

    /// Asks for the password or lets the client in.
    fn begin(
        &mut self,
        password: bool,
        encrypted: bool,
        desk: &dyn Desk,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if password {
            let challenge = desk.challenge().ok_or(Fault::Nonsense("no random numbers"))?;
            out.extend(challenge);
            self.phase = Phase::Response(challenge);
        } else {
            // Without a check older clients are not told that they passed it.
            if self.minor >= 8 || encrypted {
                out.extend([0; 4]);
            }
            self.phase = Phase::Init;
        }
        Ok(())
    }

    fn response(
        &mut self,
        said: &[u8],
        challenge: &[u8; auth::CHALLENGE_SIZE],
        desk: &dyn Desk,
        out: &mut Vec<u8>,
    ) -> Result<Option<Need>, Fault> {
        let response = said.try_into().ok();
        if !response.is_some_and(|response| desk.knows_password(challenge, response)) {
            self.refuse(out);
            return Err(Fault::Nonsense("wrong password"));
        }
        out.extend([0; 4]);
        self.phase = Phase::Init;
        Ok(None)
    }

    fn refuse(&self, out: &mut Vec<u8>) {
        out.extend(1_u32.to_be_bytes());
        if self.minor >= 8 {
            super::push_text(REFUSED, out);
        }
    }
}

fn subtype(terms: &Terms) -> u32 {
    if terms.password { SUBTYPE_X509_PASSWORD } else { SUBTYPE_X509_NONE }
}
