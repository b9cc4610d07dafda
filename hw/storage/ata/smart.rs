//! SMART: a disk that is always well (ATA8-ACS, 7.48; SFF-8035i for the attributes).

use base::state::State;

use super::drive::Drive;
use super::spec::SECTOR;
use super::taskfile::Taskfile;

/// Subcommands.
mod feature {
    pub const READ_DATA: u8 = 0xd0;
    pub const READ_THRESHOLDS: u8 = 0xd1;
    pub const ATTRIBUTE_AUTOSAVE: u8 = 0xd2;
    pub const EXECUTE_OFFLINE: u8 = 0xd4;
    pub const READ_LOG: u8 = 0xd5;
    pub const ENABLE: u8 = 0xd8;
    pub const DISABLE: u8 = 0xd9;
    pub const RETURN_STATUS: u8 = 0xda;
}

/// What the middle and high address registers hold with each subcommand.
const KEY: [u8; 2] = [0x4f, 0xc2];

const ERROR_LOG: u8 = 0x01;
const SELF_TEST_LOG: u8 = 0x06;

/// Self-tests: off-line data collection, the short and the extended one.
const TESTS: [u8; 3] = [0, 1, 2];
/// Descriptors that the log has room for.
const LOGGED_TESTS: usize = 21;
const DESCRIPTOR: usize = 24;
/// Hours of the disk's life at which tests ran.
const POWER_ON_HOURS: [u8; 2] = [0x34, 0x12];

/// An attribute, and how low its value may fall.
struct Attribute {
    /// Number, flags, value, worst value, raw value and what follows it.
    data: [u8; 12],
    threshold: u8,
}

/// Read errors, spin-up, starts, reallocated sectors, hours, power cycles, temperature.
const ATTRIBUTES: [Attribute; 7] = [
    Attribute { data: [0x01, 3, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0], threshold: 0x06 },
    Attribute { data: [0x03, 3, 0, 0x64, 0x64, 0x10, 0, 0, 0, 0, 0, 0], threshold: 0x00 },
    Attribute { data: [0x04, 2, 0, 0x64, 0x64, 0x64, 0, 0, 0, 0, 0, 0], threshold: 0x14 },
    Attribute { data: [0x05, 3, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0], threshold: 0x24 },
    Attribute { data: [0x09, 3, 0, 0x64, 0x64, 0x01, 0, 0, 0, 0, 0, 0], threshold: 0x00 },
    Attribute { data: [0x0c, 3, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0], threshold: 0x00 },
    Attribute { data: [0xbe, 3, 0, 0x45, 0x45, 0x1f, 0, 0x1f, 0x1f, 0, 0, 0], threshold: 0x32 },
];

/// What SMART remembers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct SmartState {
    #[state(reset = true)]
    enabled: bool,
    #[state(reset = true)]
    autosave: bool,
    /// Which tests ran, in a ring.
    tests: Vec<u8>,
    /// Where in the ring the last one is, from 1.
    last_test: usize,
}

/// Makes the sum of all bytes zero.
fn seal(mut data: Vec<u8>) -> Vec<u8> {
    let sum = data.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    if let Some(last) = data.last_mut() {
        *last = last.wrapping_sub(sum);
    }
    data
}

fn attributes(entry: impl Fn(&Attribute) -> [u8; 12]) -> Vec<u8> {
    let mut data = vec![0; SECTOR as usize];
    data[0] = 1;
    for (place, attribute) in data[2..].chunks_exact_mut(12).zip(&ATTRIBUTES) {
        place.copy_from_slice(&entry(attribute));
    }
    data
}

impl SmartState {
    fn data(&self) -> Vec<u8> {
        let mut data = attributes(|attribute| attribute.data);
        let off_line = if self.autosave { 0x82 } else { 0x02 };
        // How off-line collection stands, and that self-tests have passed.
        data[362] = off_line;
        // It takes 288 seconds.
        data[364..366].copy_from_slice(&288u16.to_le_bytes());
        // Off-line collection and self-tests on command; attributes are saved; errors are logged.
        data[367..369].copy_from_slice(&[0x19, 3]);
        data[370] = 1;
        // Minutes until the short, extended and conveyance tests are worth a look.
        data[372..375].copy_from_slice(&[2, 54, 1]);
        seal(data)
    }

    fn thresholds() -> Vec<u8> {
        seal(attributes(|attribute| {
            let mut entry = [0; 12];
            entry[..2].copy_from_slice(&[attribute.data[0], attribute.threshold]);
            entry
        }))
    }

    fn error_log() -> Vec<u8> {
        let mut data = vec![0; SECTOR as usize];
        data[0] = 1;
        seal(data)
    }

    fn self_test_log(&self) -> Vec<u8> {
        let mut data = vec![0; SECTOR as usize];
        data[0] = 1;
        for (place, &test) in data[2..].chunks_exact_mut(DESCRIPTOR).zip(&self.tests) {
            place[0] = test;
            place[2..4].copy_from_slice(&POWER_ON_HOURS);
        }
        data[508] = self.last_test as u8;
        seal(data)
    }

    fn test(&mut self, test: u8) {
        self.last_test = self.last_test % LOGGED_TESTS + 1;
        match self.tests.get_mut(self.last_test - 1) {
            Some(place) => *place = test,
            None => self.tests.push(test),
        }
    }
}

/// The number that subcommands take in the low address register.
fn selector(taskfile: &Taskfile) -> u8 {
    taskfile.address()[0]
}

impl Drive {
    pub(super) fn smart(&mut self) {
        let [_, mid, high] = self.st.taskfile.address();
        let subcommand = self.st.taskfile.features();
        let smart = &mut self.st.smart;
        if [mid, high] != KEY || !smart.enabled && subcommand != feature::ENABLE {
            return self.abort();
        }
        match subcommand {
            feature::ENABLE => smart.enabled = true,
            feature::DISABLE => smart.enabled = false,
            feature::ATTRIBUTE_AUTOSAVE => match self.st.taskfile.count() {
                0x00 => smart.autosave = false,
                0xf1 => smart.autosave = true,
                _ => {}
            },
            // The address registers keep the key: no threshold has been exceeded.
            feature::RETURN_STATUS => {}
            feature::EXECUTE_OFFLINE => {
                let test = selector(&self.st.taskfile);
                if !TESTS.contains(&test) {
                    return self.abort();
                }
                smart.test(test);
            }
            feature::READ_DATA => {
                let data = smart.data();
                return self.answer(data);
            }
            feature::READ_THRESHOLDS => return self.answer(SmartState::thresholds()),
            feature::READ_LOG => {
                let log = match selector(&self.st.taskfile) {
                    ERROR_LOG => SmartState::error_log(),
                    SELF_TEST_LOG => smart.self_test_log(),
                    _ => return self.abort(),
                };
                return self.answer(log);
            }
            _ => return self.abort(),
        }
        self.finish();
    }
}
