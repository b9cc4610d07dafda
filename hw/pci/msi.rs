//! Message-signalled interrupts: the capability with one vector and a 64-bit address (PCI 3.0, 6.8.1).

use std::sync::Arc;

use base::interrupt::{MsiMessage, MsiSink};

use super::config::ConfigSpace;

const ID: u8 = 0x05;
const LEN: usize = 14;

const CONTROL: usize = 2;
const ADDRESS_LOW: usize = 4;
const ADDRESS_HIGH: usize = 8;
const DATA: usize = 12;

const ENABLE: u16 = 1;
const ADDRESS_64: u16 = 1 << 7;

/// A function's capability, and where its messages go.
pub struct Msi {
    sink: Arc<dyn MsiSink>,
    at: usize,
    message: Option<MsiMessage>,
}

impl Msi {
    /// Adds the capability to a function's configuration space.
    pub fn add(config: &mut ConfigSpace, sink: Arc<dyn MsiSink>) -> Self {
        let at = config.add_capability(ID, LEN);
        config.allow_u16(at, 0);
        config.set_u16(at + CONTROL, ADDRESS_64);
        config.allow_u16(at + CONTROL, ENABLE);
        config.allow_u32(at + ADDRESS_LOW, !3);
        config.allow_u32(at + ADDRESS_HIGH, !0);
        config.allow_u16(at + DATA, !0);
        Msi { sink, at, message: None }
    }

    /// To be called whenever the configuration space has been written.
    pub fn follow(&mut self, config: &ConfigSpace) {
        let enabled = config.u16(self.at + CONTROL) & ENABLE != 0;
        let high = u64::from(config.u32(self.at + ADDRESS_HIGH)) << 32;
        self.message = enabled.then(|| MsiMessage {
            address: high | u64::from(config.u32(self.at + ADDRESS_LOW)),
            data: config.u16(self.at + DATA).into(),
        });
    }

    /// Whether the guest has chosen messages over the INTx pin.
    pub fn enabled(&self) -> bool {
        self.message.is_some()
    }

    /// Sends the message, if enabled.
    pub fn send(&self) {
        if let Some(message) = self.message {
            self.sink.send(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::pci::{Identity, reg};

    #[derive(Default)]
    struct Log(Mutex<Vec<MsiMessage>>);

    impl MsiSink for Log {
        fn send(&self, message: MsiMessage) {
            self.0.lock().push(message);
        }
    }

    #[test]
    fn messages_go_out_once_enabled() {
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
        let mut msi = Msi::add(&mut config, log.clone());
        assert_eq!((config.u8(reg::CAPABILITIES), config.u32(0x40)), (0x40, 0x0080_0005));
        config.write(0x44, 4, 0xfee0_1003);
        config.write(0x4c, 2, 0x4031);
        msi.follow(&config);
        msi.send();
        assert!(!msi.enabled() && log.0.lock().is_empty());
        config.write(0x42, 2, 0xffff);
        assert_eq!(config.u16(0x42), 0x0081);
        msi.follow(&config);
        msi.send();
        assert_eq!(*log.0.lock(), [MsiMessage { address: 0xfee0_1000, data: 0x4031 }]);
    }
}
