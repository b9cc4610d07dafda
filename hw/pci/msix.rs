//! Message-signalled interrupts by a table in memory: MSI-X (PCI 3.0, 6.8.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::interrupt::{MsiMessage, MsiSink};
use base::memory::{AccessSizes, IoHandler, Region};
use base::state::{State, StateError};
use parking_lot::Mutex;

use super::config::{Bar, BarKind, ConfigSpace};

const ID: u8 = 0x11;
const LEN: usize = 12;

const CONTROL: usize = 2;
const TABLE: usize = 4;
const PENDING: usize = 8;

const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// Vectors that a function may have.
pub const MAX_VECTORS: u16 = 2048;

const ENTRY: u64 = 16;
/// Of an entry's vector control.
const MASKED: u32 = 1;

const PAGE: u64 = 4096;

/// An entry of the table: address, upper address, data, vector control.
type Entry = [u32; 4];

/// The table, and which messages wait behind a mask.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct MsixState {
    table: Vec<Entry>,
    pending: Vec<u64>,
}

impl MsixState {
    fn at_reset(vectors: u16) -> Self {
        MsixState {
            table: vec![[0, 0, 0, MASKED]; vectors.into()],
            pending: vec![0; usize::from(vectors).div_ceil(64)],
        }
    }

    fn is_pending(&self, vector: usize) -> bool {
        self.pending.get(vector / 64).is_some_and(|bits| bits & 1 << (vector % 64) != 0)
    }

    fn set_pending(&mut self, vector: usize, pending: bool) {
        if let Some(bits) = self.pending.get_mut(vector / 64) {
            *bits = *bits & !(1 << (vector % 64)) | u64::from(pending) << (vector % 64);
        }
    }
}

/// A function's capability, its table, and where its messages go. Takes messages from any thread.
pub struct Msix {
    sink: Arc<dyn MsiSink>,
    /// Where the capability is.
    at: usize,
    vectors: u16,
    pending_at: u64,
    enabled: AtomicBool,
    /// Whether all vectors are masked at once.
    masked: AtomicBool,
    st: Mutex<MsixState>,
}

impl Msix {
    /// Adds the capability to a function's configuration space, with the table at the start of BAR
    /// number `bar`, which it does not share. Returns the region of that BAR, too. There are at most
    /// [`MAX_VECTORS`].
    pub fn add(
        config: &mut ConfigSpace,
        name: &str,
        vectors: u16,
        bar: usize,
        sink: Arc<dyn MsiSink>,
    ) -> (Arc<Self>, Region) {
        let at = config.add_capability(ID, LEN);
        let (msix, size) = Self::make(config, vectors, (bar, 0), at, sink);
        config.add_bar(bar, Bar { kind: BarKind::Memory32 { prefetchable: false }, size });
        let region = Region::io(&format!("{name}-msix"), size, msix.clone());
        (msix, region)
    }

    /// Adds the capability at `at`, with the table at `place`, an offset in a BAR that is shared.
    /// Returns the region to be put there, too.
    pub fn add_inside(
        config: &mut ConfigSpace,
        name: &str,
        vectors: u16,
        place: (usize, u32),
        at: usize,
        sink: Arc<dyn MsiSink>,
    ) -> (Arc<Self>, Region) {
        config.add_capability_at(ID, at, LEN);
        let (msix, size) = Self::make(config, vectors, place, at, sink);
        let region = Region::io(&format!("{name}-msix"), size, msix.clone());
        (msix, region)
    }

    /// Fills the capability in; returns the size of the table with what belongs to it, too.
    fn make(
        config: &mut ConfigSpace,
        vectors: u16,
        (bar, offset): (usize, u32),
        at: usize,
        sink: Arc<dyn MsiSink>,
    ) -> (Arc<Self>, u64) {
        let vectors = vectors.clamp(1, MAX_VECTORS);
        let table = ENTRY * u64::from(vectors);
        let pending_at = table.max(PAGE / 2);
        let size = (pending_at + 8 * u64::from(vectors).div_ceil(64)).next_power_of_two().max(PAGE);
        config.set_u16(at + CONTROL, vectors - 1);
        config.allow_u16(at + CONTROL, ENABLE | MASK_ALL);
        config.set_u32(at + TABLE, offset | bar as u32);
        config.set_u32(at + PENDING, (offset + pending_at as u32) | bar as u32);
        let msix = Arc::new(Msix {
            sink,
            at,
            vectors,
            pending_at,
            enabled: AtomicBool::new(false),
            masked: AtomicBool::new(false),
            st: Mutex::new(MsixState::at_reset(vectors)),
        });
        (msix, size)
    }

    /// To be called whenever the configuration space has been written.
    pub fn follow(&self, config: &ConfigSpace) {
        let control = config.u16(self.at + CONTROL);
        self.enabled.store(control & ENABLE != 0, Ordering::Release);
        self.masked.store(control & MASK_ALL != 0, Ordering::Release);
        let mut st = self.st.lock();
        for vector in 0..usize::from(self.vectors) {
            self.send_pending(&mut st, vector);
        }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Whether the guest has chosen these messages over the INTx pin.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Sends a vector's message, now or when it is no longer masked.
    pub fn notify(&self, vector: u16) {
        if self.enabled() && vector < self.vectors {
            let mut st = self.st.lock();
            st.set_pending(vector.into(), true);
            self.send_pending(&mut st, vector.into());
        }
    }

    /// Sends a message that waits, if it need not wait any longer. Under the table's lock, so that
    /// what the guest has masked is not sent afterwards.
    fn send_pending(&self, st: &mut MsixState, vector: usize) {
        if !self.enabled() || self.masked.load(Ordering::Acquire) || !st.is_pending(vector) {
            return;
        }
        if let Some(&[low, high, data, control]) = st.table.get(vector)
            && control & MASKED == 0
        {
            st.set_pending(vector, false);
            let address = u64::from(high) << 32 | u64::from(low);
            self.sink.send(MsiMessage { address, data });
        }
    }

    /// Back to the state after power-up. The capability's own registers are the configuration
    /// space's.
    pub fn reset(&self) {
        self.enabled.store(false, Ordering::Release);
        self.masked.store(false, Ordering::Release);
        *self.st.lock() = MsixState::at_reset(self.vectors);
    }

    /// The table as it is.
    pub fn state(&self) -> MsixState {
        self.st.lock().clone()
    }

    /// Puts a saved table back.
    pub fn restore(&self, state: MsixState) -> Result<(), StateError> {
        let expected = MsixState::at_reset(self.vectors);
        let lengths = |state: &MsixState| (state.table.len(), state.pending.len());
        if lengths(&state) != lengths(&expected) {
            return Err(StateError::invalid("another number of vectors"));
        }
        *self.st.lock() = state;
        Ok(())
    }
}

/// The entry and the field in it at an offset.
fn place(offset: u64) -> (usize, usize) {
    ((offset / ENTRY) as usize, (offset % ENTRY / 4) as usize)
}

impl IoHandler for Msix {
    fn read(&self, offset: u64, _: u8) -> u64 {
        let st = self.st.lock();
        if offset < ENTRY * u64::from(self.vectors) {
            let (vector, field) = place(offset);
            return st.table.get(vector).map_or(0, |entry| entry[field]).into();
        }
        let Some(at) = offset.checked_sub(self.pending_at) else { return 0 };
        let bits = st.pending.get((at / 8) as usize).copied().unwrap_or(0);
        bits >> (8 * (at & 4)) & u64::from(u32::MAX)
    }

    fn write(&self, offset: u64, _: u8, value: u64) {
        let mut st = self.st.lock();
        if offset < ENTRY * u64::from(self.vectors) {
            let (vector, field) = place(offset);
            if let Some(entry) = st.table.get_mut(vector) {
                entry[field] = value as u32;
                self.send_pending(&mut st, vector);
            }
        }
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pci::{Identity, reg};

    #[derive(Default)]
    struct Log(Mutex<Vec<MsiMessage>>);

    impl MsiSink for Log {
        fn send(&self, message: MsiMessage) {
            self.0.lock().push(message);
        }
    }

    fn bed(vectors: u16) -> (ConfigSpace, Arc<Msix>, Arc<Log>) {
        let identity = Identity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: 0,
            subsystem: None,
            interrupt_pin: 1,
        };
        let mut config = ConfigSpace::new(&identity);
        config.allow_device_registers();
        let log = Arc::new(Log::default());
        let (msix, _) = Msix::add(&mut config, "t", vectors, 1, log.clone());
        (config, msix, log)
    }

    fn control(config: &mut ConfigSpace, msix: &Msix, value: u16) {
        config.write(0x42, 2, value.into());
        msix.follow(config);
    }

    /// As QEMU 10.0.2 lays it out.
    #[test]
    fn layout() {
        let (mut config, msix, _) = bed(2);
        assert_eq!(config.u32(0x40), 0x0001_0011);
        assert_eq!((config.u32(0x44), config.u32(0x48)), (1, 0x801));
        config.write(reg::BAR0 + 4, 4, !0);
        assert_eq!(config.u32(reg::BAR0 + 4), 0xffff_f000);
        control(&mut config, &msix, 0xffff);
        assert_eq!(config.u16(0x42), 0xc001);
        assert_eq!([0, 4, 8, 12, 28, 44].map(|at| msix.read(at, 4)), [0, 0, 0, 1, 1, 0]);
        let (mut config, _, _) = bed(300);
        assert_eq!(config.u32(0x48), 0x12c1);
        config.write(reg::BAR0 + 4, 4, !0);
        assert_eq!(config.u32(reg::BAR0 + 4), 0xffff_e000);
    }

    #[test]
    fn masked_messages_wait() {
        let (mut config, msix, log) = bed(2);
        let sent = || std::mem::take(&mut *log.0.lock());
        for (at, value) in [(16, 0xfee0_1000), (20, 0), (24, 0x31)] {
            msix.write(at, 4, value);
        }
        let message = MsiMessage { address: 0xfee0_1000, data: 0x31 };
        msix.notify(1);
        assert_eq!(msix.read(0x800, 4), 0, "not even pending while disabled");
        control(&mut config, &msix, ENABLE);
        msix.notify(1);
        msix.notify(7);
        assert!(sent().is_empty());
        assert_eq!(msix.read(0x800, 4), 2);
        msix.write(28, 4, 0);
        assert_eq!(sent(), [message]);
        assert_eq!(msix.read(0x800, 4), 0);
        control(&mut config, &msix, ENABLE | MASK_ALL);
        msix.notify(1);
        msix.notify(1);
        assert!(sent().is_empty());
        control(&mut config, &msix, ENABLE);
        assert_eq!(sent(), [message]);
        msix.reset();
        assert_eq!((msix.read(28, 4), msix.enabled()), (1, false));
    }

    #[test]
    fn a_foreign_table_is_refused() {
        let (_, msix, _) = bed(3);
        let (_, other, _) = bed(4);
        other.write(0, 4, 7);
        assert!(msix.restore(other.state()).is_err());
        let (_, same, _) = bed(4);
        same.restore(other.state()).unwrap();
        assert_eq!(same.read(0, 4), 7);
    }

    proptest! {
        #[test]
        fn any_access_is_survived(
            accesses in prop::collection::vec((any::<bool>(), 0u64..0x1000, any::<u32>()), 1..60)
        ) {
            let (mut config, msix, _) = bed(65);
            for (table, offset, value) in accesses {
                if table {
                    msix.write(offset & !3, 4, value.into());
                    msix.read(offset & !3, 4);
                } else {
                    control(&mut config, &msix, value as u16);
                }
                msix.notify(value as u16);
            }
            msix.reset();
            prop_assert_eq!(msix.state(), MsixState::at_reset(65));
        }
    }
}
