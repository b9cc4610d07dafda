//! The watchdog of the Intel 6300ESB I/O controller hub (datasheet, chapter "Watchdog Timer", device
//! 29, function 4). It counts down twice: after the first time it may interrupt, which guests
//! switch off, after the second it resets.

use base::clock::{ClockKind, Clocks, SECOND, Timer};
use base::device::{self, Device};
use base::memory::AccessSizes;
use base::props::Props;
use base::request::{Request, RequestSink};
use base::state::State;

use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, ids};

const BAR_SIZE: u64 = 16;
/// The PCI clock, which the counter is driven by.
const CLOCK_HZ: u128 = 33_000_000;

/// Registers in configuration space.
const CONFIG: usize = 0x60;
const CONFIG_MASK: u16 = 0x27;
/// The counter's low bits are left away: 5 of them instead of 15.
const CONFIG_FAST: u16 = 1 << 2;
/// The second stage ends without a reset.
const CONFIG_NO_RESET: u16 = 1 << 5;
const LOCK: usize = 0x68;
const LOCK_MASK: u8 = 7;
/// The register cannot be changed before the next reset.
const LOCK_LOCKED: u8 = 1;
const LOCK_ENABLE: u8 = 1 << 1;
/// After the second stage comes the first again.
const LOCK_FREE_RUNNING: u8 = 1 << 2;

/// Registers in memory.
const PRELOAD_1: u64 = 0;
const PRELOAD_2: u64 = 4;
const RELOAD: u64 = 12;
const PRELOAD_MASK: u32 = 0xf_ffff;
const RELOAD_NOW: u64 = 1 << 8;
const RELOAD_TIMED_OUT: u64 = 1 << 9;
/// What has to be written to the reload register before any other write counts.
const UNLOCKING: [u64; 2] = [0x80, 0x86];

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_6300ESB_WATCHDOG,
    revision: 0,
    class: 0x088000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};

/// Properties of `i6300esb`.
#[derive(Debug, Props)]
pub struct I6300EsbProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct I6300EsbState {
    preload: [u32; 2],
    config: u16,
    lock: u8,
    /// Writes of the unlocking sequence that were seen.
    unlocking: usize,
    /// Which count is under way, and when it ends.
    stage: usize,
    expires: Option<i64>,
    /// A second stage has ended; a reset does not forget it.
    timed_out: bool,
}

impl I6300EsbState {
    fn at_reset(timed_out: bool) -> Self {
        I6300EsbState {
            preload: [PRELOAD_MASK; 2],
            config: 0,
            lock: 0,
            unlocking: 0,
            stage: 0,
            expires: None,
            timed_out,
        }
    }
}

/// The watchdog.
pub struct I6300Esb {
    clocks: Clocks,
    timer: Timer,
    requests: RequestSink,
    st: I6300EsbState,
}

impl I6300Esb {
    /// Plugs the device.
    pub fn plug(
        bus: &PciBus,
        props: &I6300EsbProps,
        clocks: &Clocks,
        requests: RequestSink,
    ) -> Result<(), PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_u16(CONFIG, CONFIG_MASK);
        config.allow_u8(LOCK, LOCK_MASK);
        let kind = BarKind::Memory32 { prefetchable: false };
        config.add_bar(0, Bar { kind, size: BAR_SIZE });
        bus.plug("i6300esb", &props.pci, config, |_| {
            let device = device::share(|me| I6300Esb {
                clocks: clocks.clone(),
                timer: device::timer(me, clocks, ClockKind::Virtual, I6300Esb::expired),
                requests,
                st: I6300EsbState::at_reset(false),
            });
            let region = device::region(&device, 0, "i6300esb", BAR_SIZE, AccessSizes::UP_TO_DWORD);
            (device, vec![(0, region)])
        })?;
        Ok(())
    }

    fn enabled(&self) -> bool {
        self.st.lock & LOCK_ENABLE != 0
    }

    /// Counts down from the beginning of a stage.
    fn begin(&mut self, stage: usize) {
        let shift = if self.st.config & CONFIG_FAST != 0 { 5 } else { 15 };
        let ticks = u128::from(self.st.preload[stage & 1]) << shift;
        // At most 2^35 ticks, which are less than twenty minutes.
        let length = (ticks * SECOND as u128 / CLOCK_HZ) as i64;
        let at = self.clocks.now_virtual() + length;
        (self.st.stage, self.st.expires) = (stage, Some(at));
        self.timer.set(at);
    }

    fn stop(&mut self) {
        self.st.expires = None;
        self.timer.cancel();
    }

    fn expired(&mut self) {
        self.st.expires = None;
        if self.st.stage == 0 {
            self.begin(1);
        } else if self.st.lock & LOCK_FREE_RUNNING != 0 {
            self.begin(0);
        } else if self.st.config & CONFIG_NO_RESET == 0 {
            self.st.timed_out = true;
            self.requests.send(Request::WatchdogExpired);
        }
    }

    /// Whether a write counts; the sequence is good for one.
    fn unlocked(&mut self, at: u64, value: u64) -> bool {
        let seen = std::mem::take(&mut self.st.unlocking);
        if seen == UNLOCKING.len() {
            return true;
        }
        if at == RELOAD && value == UNLOCKING[seen] {
            self.st.unlocking = seen + 1;
        } else if at == RELOAD && value == UNLOCKING[0] {
            self.st.unlocking = 1;
        }
        false
    }
}

impl Device for I6300Esb {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> u64 {
        match offset {
            RELOAD if self.st.timed_out => RELOAD_TIMED_OUT,
            _ => 0,
        }
    }

    fn write(&mut self, _: u32, offset: u64, _: u8, value: u64) {
        if !self.unlocked(offset, value) {
            return;
        }
        match offset {
            PRELOAD_1 => self.st.preload[0] = value as u32 & PRELOAD_MASK,
            PRELOAD_2 => self.st.preload[1] = value as u32 & PRELOAD_MASK,
            RELOAD => {
                if value & RELOAD_TIMED_OUT != 0 {
                    self.st.timed_out = false;
                }
                if value & RELOAD_NOW != 0 && self.enabled() {
                    self.begin(0);
                }
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.stop();
        self.st = I6300EsbState::at_reset(self.st.timed_out);
    }
}

impl PciDevice for I6300Esb {
    fn config_written(&mut self, config: &mut ConfigSpace, _: usize, _: u8) {
        self.st.config = config.u16(CONFIG);
        if self.st.lock & LOCK_LOCKED != 0 {
            return config.set_u8(LOCK, self.st.lock);
        }
        let was_enabled = self.enabled();
        self.st.lock = config.u8(LOCK);
        match (was_enabled, self.enabled()) {
            (false, true) => self.begin(0),
            (true, false) => self.stop(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Bed {
        clocks: Clocks,
        device: I6300Esb,
        config: ConfigSpace,
        fired: Arc<AtomicU32>,
    }

    fn bed() -> Bed {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let fired = Arc::<AtomicU32>::default();
        let counter = fired.clone();
        let requests = RequestSink::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_u16(CONFIG, CONFIG_MASK);
        config.allow_u8(LOCK, LOCK_MASK);
        let device = I6300Esb {
            timer: clocks.timer(ClockKind::Virtual, || ()),
            clocks: clocks.clone(),
            requests,
            st: I6300EsbState::at_reset(false),
        };
        Bed { clocks, device, config, fired }
    }

    impl Bed {
        fn configure(&mut self, at: usize, size: u8, value: u32) {
            self.config.write(at, size, value);
            self.device.config_written(&mut self.config, at, size);
        }

        fn write(&mut self, at: u64, value: u64) {
            UNLOCKING.iter().for_each(|unlock| self.device.write(0, RELOAD, 2, *unlock));
            self.device.write(0, at, 4, value);
        }

        /// Runs to the end of the present stage.
        fn expire(&mut self) {
            let at = self.device.st.expires.expect("the timer runs");
            self.clocks.step_to(at);
            self.device.expired();
        }

        fn fired(&self) -> u32 {
            self.fired.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn two_stages_of_their_lengths() {
        let mut bed = bed();
        bed.write(PRELOAD_1, 1 << 10);
        bed.write(PRELOAD_2, 1 << 11);
        bed.configure(LOCK, 1, LOCK_ENABLE.into());
        bed.expire();
        // 2^25 ticks of the PCI clock.
        assert_eq!(bed.clocks.now_virtual(), (1 << 25) * SECOND / 33_000_000);
        assert_eq!((bed.fired(), bed.device.st.stage), (0, 1));
        bed.expire();
        assert_eq!(bed.fired(), 1);
        assert_eq!(bed.device.read(0, RELOAD, 2), RELOAD_TIMED_OUT);
        bed.device.reset();
        assert_eq!(bed.device.read(0, RELOAD, 2), RELOAD_TIMED_OUT, "the next start is told");
        bed.write(RELOAD, RELOAD_TIMED_OUT);
        assert_eq!(bed.device.read(0, RELOAD, 2), 0);
    }

    #[test]
    fn only_unlocked_writes_count() {
        let mut bed = bed();
        bed.device.write(0, PRELOAD_1, 4, 5);
        assert_eq!(bed.device.st.preload[0], PRELOAD_MASK);
        bed.write(PRELOAD_1, 5);
        bed.device.write(0, PRELOAD_1, 4, 6);
        assert_eq!(bed.device.st.preload[0], 5);
    }

    #[test]
    fn a_sign_of_life_starts_over() {
        let mut bed = bed();
        bed.configure(LOCK, 1, LOCK_ENABLE.into());
        bed.expire();
        bed.write(RELOAD, RELOAD_NOW);
        assert_eq!(bed.device.st.stage, 0);
        bed.configure(LOCK, 1, 0);
        assert_eq!(bed.device.st.expires, None);
    }

    /// As observed on QEMU 10.0.
    #[test]
    fn a_locked_register_stays() {
        let mut bed = bed();
        for (value, shown) in [(4, 4), (0xff, 7), (0, 7)] {
            bed.configure(LOCK, 1, value);
            assert_eq!(bed.config.u8(LOCK), shown);
        }
    }

    #[test]
    fn without_reset_or_free_running_nothing_fires() {
        let mut bed = bed();
        bed.configure(CONFIG, 2, CONFIG_NO_RESET.into());
        bed.configure(LOCK, 1, LOCK_ENABLE.into());
        bed.expire();
        bed.expire();
        assert_eq!((bed.fired(), bed.device.st.expires), (0, None));
        bed.device.reset();
        bed.configure(LOCK, 1, 0);
        bed.configure(LOCK, 1, (LOCK_ENABLE | LOCK_FREE_RUNNING).into());
        bed.expire();
        bed.expire();
        assert_eq!((bed.fired(), bed.device.st.stage), (0, 0));
    }
}
