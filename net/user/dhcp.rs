//! DHCP and BOOTP (RFC 951, 2131, 2132): addresses for guests. Everything is told to everybody who
//! asks, in a fixed order, whatever was asked for.

use std::net::Ipv4Addr;

use super::config::{Config, Net4};
use super::wire::{Mac, word};

/// The ports.
pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;

/// As many guests get addresses.
const MAX_LEASES: u32 = 16;

/// How long an address is lent, in seconds.
const LEASE_TIME: u32 = 24 * 3600;

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET_LINK: u8 = 1;

/// The message up to the options, and the whole of an answer.
const FIXED: usize = 236;
const ANSWER: usize = 548;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

// Fields of a message.
const TRANSACTION: std::ops::Range<usize> = 4..8;
const CLIENT_ADDRESS: usize = 12;
const YOUR_ADDRESS: usize = 16;
const SERVER_ADDRESS: usize = 20;
const CLIENT_HARDWARE: usize = 28;
const BOOT_FILE: usize = 108;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

// Options.
const PAD: u8 = 0;
const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const NAME_SERVER: u8 = 6;
const HOST_NAME: u8 = 12;
const DOMAIN_NAME: u8 = 15;
const REQUESTED_ADDRESS: u8 = 50;
const TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const MESSAGE: u8 = 56;
const TFTP_SERVER: u8 = 66;
const DOMAIN_SEARCH: u8 = 119;
const END: u8 = 255;

/// Who has which address.
#[derive(Default)]
pub struct Leases(Vec<(Mac, Ipv4Addr)>);

impl Leases {
    fn of(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.0.iter().find(|(owner, _)| *owner == mac).map(|&(_, address)| address)
    }

    fn is_free(&self, address: Ipv4Addr, mac: Mac) -> bool {
        self.0.iter().all(|&(owner, taken)| owner == mac || taken != address)
    }

    /// The address a guest has or gets now.
    fn give(&mut self, net: &Net4, mac: Mac) -> Option<Ipv4Addr> {
        let free = || pool(net).find(|&address| self.is_free(address, mac));
        let address = self.of(mac).or_else(free)?;
        self.set(mac, address);
        Some(address)
    }

    /// The address a guest wants, if it may have it.
    fn take(&mut self, net: &Net4, mac: Mac, wanted: Ipv4Addr) -> Option<Ipv4Addr> {
        let allowed = pool(net).any(|address| address == wanted) && self.is_free(wanted, mac);
        allowed.then(|| self.set(mac, wanted)).map(|()| wanted)
    }

    fn set(&mut self, mac: Mac, address: Ipv4Addr) {
        self.0.retain(|&(owner, _)| owner != mac);
        self.0.push((mac, address));
    }
}

/// The addresses for guests.
fn pool(net: &Net4) -> impl Iterator<Item = Ipv4Addr> {
    let (first, mask) = (u32::from(net.dhcp_start), u32::from(net.mask));
    let ours = [net.host, net.dns];
    (0..MAX_LEASES)
        .map_while(move |step| first.checked_add(step))
        .take_while(move |address| address & mask == first & mask)
        .map(Ipv4Addr::from)
        .filter(move |address| !ours.contains(address))
}

/// What is read of a message.
struct Asked {
    kind: Option<u8>,
    wanted: Option<Ipv4Addr>,
}

fn read_options(options: &[u8]) -> Asked {
    let mut asked = Asked { kind: None, wanted: None };
    let mut rest = options.strip_prefix(&MAGIC[..]).unwrap_or_default();
    while let [code, tail @ ..] = rest {
        match *code {
            PAD => {
                rest = tail;
                continue;
            }
            END => break,
            _ => {}
        }
        let Some((&len, tail)) = tail.split_first() else { break };
        let Some((value, tail)) = tail.split_at_checked(len.into()) else { break };
        match (*code, value) {
            (MESSAGE_TYPE, &[kind, ..]) => asked.kind = Some(kind),
            (REQUESTED_ADDRESS, &[a, b, c, d]) => asked.wanted = Some([a, b, c, d].into()),
            _ => {}
        }
        rest = tail;
    }
    asked
}

/// The answer to a message, if there is one, and the address that the guest may use from now on.
pub fn answer(
    message: &[u8],
    config: &Config,
    net: &Net4,
    leases: &mut Leases,
) -> Option<(Vec<u8>, Option<Ipv4Addr>)> {
    let fixed = message.get(..FIXED)?;
    if fixed[0] != BOOT_REQUEST || fixed[1] != ETHERNET_LINK || fixed[2] != 6 {
        return None;
    }
    let mac: Mac = fixed[CLIENT_HARDWARE..CLIENT_HARDWARE + 6].try_into().ok()?;
    let asked = read_options(&message[FIXED..]);
    let current = word(fixed, CLIENT_ADDRESS).map(Ipv4Addr::from);
    let (kind, address) = match asked.kind {
        Some(DISCOVER) => (Some(OFFER), leases.give(net, mac)),
        Some(REQUEST) => {
            let wanted = asked.wanted.or(current.filter(|address| !address.is_unspecified()));
            match wanted.and_then(|wanted| leases.take(net, mac, wanted)) {
                Some(address) => (Some(ACK), Some(address)),
                None => (Some(NAK), None),
            }
        }
        // A guest that only speaks BOOTP.
        None => (Some(ACK), leases.give(net, mac)),
        Some(_) => (None, None),
    };
    let kind = kind?;
    if address.is_none() && kind != NAK {
        return None;
    }
    let mut reply = vec![0; FIXED];
    reply[..3].copy_from_slice(&[BOOT_REPLY, ETHERNET_LINK, 6]);
    reply[TRANSACTION].copy_from_slice(&fixed[TRANSACTION]);
    let yours = address.unwrap_or(Ipv4Addr::BROADCAST);
    reply[YOUR_ADDRESS..YOUR_ADDRESS + 4].copy_from_slice(&yours.octets());
    reply[SERVER_ADDRESS..SERVER_ADDRESS + 4].copy_from_slice(&net.host.octets());
    reply[CLIENT_HARDWARE..CLIENT_HARDWARE + 6].copy_from_slice(&mac);
    reply.extend_from_slice(&MAGIC);
    option(&mut reply, MESSAGE_TYPE, &[kind]);
    if kind == NAK {
        option(&mut reply, MESSAGE, b"requested address not available");
    } else {
        option(&mut reply, SERVER_ID, &net.host.octets());
        describe(&mut reply, config, net);
    }
    reply.push(END);
    reply.resize(reply.len().max(ANSWER), 0);
    Some((reply, address))
}

/// Everything a guest is to know.
fn describe(reply: &mut Vec<u8>, config: &Config, net: &Net4) {
    option(reply, SUBNET_MASK, &net.mask.octets());
    if !config.restrict {
        option(reply, ROUTER, &net.host.octets());
        option(reply, NAME_SERVER, &net.dns.octets());
    }
    option(reply, TIME, &LEASE_TIME.to_be_bytes());
    let texts = [
        (HOST_NAME, &config.hostname),
        (DOMAIN_NAME, &config.domain),
        (TFTP_SERVER, &config.tftp_server),
    ];
    for (code, text) in texts {
        if let Some(text) = text {
            option(reply, code, text.as_bytes());
        }
    }
    let search = search_list(&config.search);
    for piece in search.chunks(255) {
        option(reply, DOMAIN_SEARCH, piece);
    }
    if let Some(file) = &config.bootfile {
        reply[BOOT_FILE..BOOT_FILE + file.len()].copy_from_slice(file.as_bytes());
    }
}

fn option(reply: &mut Vec<u8>, code: u8, value: &[u8]) {
    reply.extend_from_slice(&[code, value.len() as u8]);
    reply.extend_from_slice(value);
}

/// Domains in the form of DNS (RFC 1035, 4.1.4; RFC 3397): a tail that occurred before is a pointer
/// to it. Names that DNS cannot hold are left out.
pub fn search_list(domains: &[String]) -> Vec<u8> {
    const POINTER: u16 = 0xc000;
    let mut list = Vec::new();
    let mut tails: Vec<(String, u16)> = Vec::new();
    for domain in domains.iter().filter(|domain| is_domain(domain)) {
        let mut rest = domain.trim_end_matches('.');
        loop {
            if rest.is_empty() {
                list.push(0);
                break;
            }
            if let Some((_, at)) = tails.iter().find(|(tail, _)| tail.eq_ignore_ascii_case(rest)) {
                list.extend_from_slice(&(POINTER | at).to_be_bytes());
                break;
            }
            if let Ok(at) = u16::try_from(list.len())
                && at < POINTER
            {
                tails.push((rest.to_string(), at));
            }
            let (label, tail) = rest.split_once('.').unwrap_or((rest, ""));
            list.push(label.len() as u8);
            list.extend_from_slice(label.as_bytes());
            rest = tail;
        }
    }
    list
}

/// Whether DNS can hold a name.
pub fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() < 254 && name.split('.').all(|label| (1..64).contains(&label.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Values, read_text};

    fn config(text: &str) -> Config {
        let mut tree = read_text(text, false).unwrap();
        tree.shift_remove("type");
        Config::new(&Values::from_text(super::super::config::KEYS, &tree).unwrap()).unwrap()
    }

    const GUEST: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn request(mac: Mac, options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; FIXED];
        message[..8].copy_from_slice(&[1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78]);
        message[CLIENT_HARDWARE..CLIENT_HARDWARE + 6].copy_from_slice(&mac);
        message.extend_from_slice(options);
        message
    }

    fn with_magic(options: &[u8]) -> Vec<u8> {
        [&MAGIC[..], options].concat()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// What QEMU 10.0 answers to the same message with the same options, from the magic number on.
    #[test]
    fn an_offer_has_the_usual_content() {
        let config = config(
            "user,bootfile=boot.img,hostname=guest,domainname=dom.example,dnssearch=a.example,\
             dnssearch=b.example,tftp-server-name=tsn",
        );
        let net = config.v4.unwrap();
        let mut leases = Leases::default();
        let message = request(GUEST, &with_magic(&[53, 1, 1, 255]));
        let (reply, address) = answer(&message, &config, &net, &mut leases).unwrap();
        assert_eq!(address, Some([10, 0, 2, 15].into()));
        assert_eq!(reply.len(), 548);
        let mut fixed = hex("0201060012345678 00000000 00000000 0a00020f 0a000202 00000000");
        fixed.extend_from_slice(&GUEST);
        fixed.resize(BOOT_FILE, 0);
        fixed.extend_from_slice(b"boot.img");
        fixed.resize(FIXED, 0);
        assert_eq!(&reply[..FIXED], fixed);
        let options = hex(
            "63825363 350102 36040a000202 0104ffffff00 03040a000202 06040a000203 330400015180 \
             0c056775657374 0f0b646f6d2e6578616d706c65 420374736e \
             770f 0161076578616d706c6500 0162c002 ff",
        );
        assert_eq!(&reply[FIXED..FIXED + options.len()], options);
        assert!(reply[FIXED + options.len()..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_request_for_a_strange_address_is_refused_in_the_usual_words() {
        let config = config("user");
        let net = config.v4.unwrap();
        let mut leases = Leases::default();
        let message = request(GUEST, &with_magic(&[53, 1, 3, 50, 4, 10, 0, 2, 77, 255]));
        let (reply, address) = answer(&message, &config, &net, &mut leases).unwrap();
        assert_eq!(address, None);
        assert_eq!(&reply[YOUR_ADDRESS..YOUR_ADDRESS + 8], hex("ffffffff0a000202"));
        let mut options = hex("63825363 350106 381f");
        options.extend_from_slice(b"requested address not available\xff");
        assert_eq!(&reply[FIXED..FIXED + options.len()], options);
    }

    #[test]
    fn guests_keep_their_addresses() {
        let config = config("user");
        let net = config.v4.unwrap();
        let mut leases = Leases::default();
        let mut ask = |last: u8, options: &[u8]| {
            let message = request([2, 0, 0, 0, 0, last], options);
            answer(&message, &config, &net, &mut leases).and_then(|(_, address)| address)
        };
        let discover = with_magic(&[53, 1, DISCOVER, 255]);
        let first = Ipv4Addr::new(10, 0, 2, 15);
        assert_eq!(ask(1, &discover), Some(first));
        assert_eq!(ask(2, &discover), Some([10, 0, 2, 16].into()));
        assert_eq!(ask(1, &discover), Some(first));
        assert_eq!(ask(3, &[0; 64]), Some([10, 0, 2, 17].into()), "BOOTP");
        let wants = |last| with_magic(&[53, 1, REQUEST, 50, 4, 10, 0, 2, last, 255]);
        assert_eq!(ask(2, &wants(15)), None, "another one has it");
        assert_eq!(ask(2, &wants(20)), Some([10, 0, 2, 20].into()));
        for last in 4..40 {
            ask(last, &discover);
        }
        assert_eq!(ask(99, &discover), None, "all are taken");
        assert_eq!(ask(1, &with_magic(&[53, 1, 8, 255])), None, "inform");
    }

    #[test]
    fn a_restricted_guest_is_told_of_no_way_out() {
        let config = config("user,restrict=on");
        let net = config.v4.unwrap();
        let message = request(GUEST, &with_magic(&[53, 1, 1, 255]));
        let (reply, _) = answer(&message, &config, &net, &mut Leases::default()).unwrap();
        let options = hex("63825363 350102 36040a000202 0104ffffff00 330400015180 ff");
        assert_eq!(&reply[FIXED..FIXED + options.len()], options);
    }

    #[test]
    fn search_lists_are_compressed() {
        let list = ["example.com", "sub.example.com", "test", "", "a..b"].map(str::to_string);
        assert_eq!(search_list(&list), b"\x07example\x03com\x00\x03sub\xc0\x00\x04test\x00");
    }

    #[test]
    fn cut_messages_are_harmless() {
        let config = config("user");
        let net = config.v4.unwrap();
        let whole = request(GUEST, &with_magic(&[53, 1, 3, 50, 4, 10, 0, 2, 15, 255]));
        for len in 0..whole.len() {
            let reply = answer(&whole[..len], &config, &net, &mut Leases::default());
            assert_eq!(reply.is_some(), len >= FIXED);
        }
    }
}
