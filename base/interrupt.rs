//! How interrupts travel between controllers, without anybody naming the other's type.
//!
//! Wires (a device's INTx pin, the 8259's output) are [`irq`](crate::irq) lines. What is here are
//! the messages behind them: the I/O APIC and message-signalled interrupts speak to local APICs by
//! an [`ApicMessage`] over the [`ApicBus`], the processors answer with end-of-interrupt broadcasts
//! ([`EoiListener`]), and the processor that takes an interrupt from the 8259 asks it for the
//! vector ([`IntAck`]).
//!
//! None of the calls here may be made with a lock held that the callee's side also takes while it
//! calls back: an I/O APIC delivers under its own lock, a local APIC broadcasts EOIs under none.

use std::sync::Weak;

/// Destination that means every processor, in any mode and format.
pub const BROADCAST: u32 = u32::MAX;

/// How a destination selects processors (SDM vol. 3, 12.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationMode {
    /// By APIC ID.
    Physical,
    /// By the logical destination registers.
    Logical,
}

/// What an interrupt message makes its receiver do. The numbers are those of the ICR, of LVT
/// entries, of I/O APIC redirection entries, and of MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum DeliveryMode {
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    /// Reserved by the architecture; such messages go nowhere.
    Reserved = 3,
    Nmi = 4,
    Init = 5,
    StartUp = 6,
    ExtInt = 7,
}

impl DeliveryMode {
    /// The mode in the low three bits of `field`.
    pub fn from_bits(field: u32) -> Self {
        match field & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            3 => DeliveryMode::Reserved,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::StartUp,
            _ => DeliveryMode::ExtInt,
        }
    }
}

/// Edge or level triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Trigger {
    Edge,
    /// The receiver reports the end of the interrupt to the I/O APICs.
    Level,
}

/// One interrupt message between APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApicMessage {
    /// APIC ID or logical destination; [`BROADCAST`] for all.
    pub destination: u32,
    /// What `destination` is.
    pub mode: DestinationMode,
    /// What the receiver does.
    pub delivery: DeliveryMode,
    /// Vector; for start-up messages the page number of the entry point.
    pub vector: u8,
    /// Level asserted; only INIT has a de-assert form.
    pub level: bool,
    /// Trigger mode, kept in the receiver's TMR.
    pub trigger: Trigger,
}

impl ApicMessage {
    /// Destination from the 8-bit field of an xAPIC-format message, where FFh means everybody.
    pub fn xapic_destination(field: u8) -> u32 {
        if field == 0xff { BROADCAST } else { u32::from(field) }
    }

    /// What a message-signalled interrupt means (SDM vol. 3, 12.11).
    pub fn from_msi(msi: MsiMessage) -> Self {
        // With the redirection hint set, the lowest-priority mode of the data decides among the
        // logical destinations; the hint itself adds nothing that the delivery mode does not say.
        let logical = msi.address & 1 << 2 != 0;
        let level_triggered = msi.data & 1 << 15 != 0;
        ApicMessage {
            destination: Self::xapic_destination((msi.address >> 12) as u8),
            mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery: DeliveryMode::from_bits(msi.data >> 8),
            vector: msi.data as u8,
            level: !level_triggered || msi.data & 1 << 14 != 0,
            trigger: if level_triggered { Trigger::Level } else { Trigger::Edge },
        }
    }

    /// The message-signalled interrupt that means the same. Destinations beyond 8 bits, which MSI
    /// cannot express, are truncated.
    pub fn to_msi(self) -> MsiMessage {
        let logical = self.mode == DestinationMode::Logical;
        MsiMessage {
            address: MSI_BASE
                | u64::from(self.destination as u8) << 12
                | u64::from(logical) << 2
                | u64::from(self.delivery == DeliveryMode::LowestPriority) << 3,
            data: u32::from(self.vector)
                | u32::from(self.delivery as u8) << 8
                | u32::from(self.level) << 14
                | u32::from(self.trigger == Trigger::Level) << 15,
        }
    }
}

/// Start of the 1 MiB of addresses whose writes are interrupt messages.
pub const MSI_BASE: u64 = 0xfee0_0000;

/// A write that a device makes to signal an interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Address, normally within 1 MiB of [`MSI_BASE`].
    pub address: u64,
    /// Data: vector, delivery mode, level and trigger mode.
    pub data: u32,
}

/// Where message-signalled interrupts go.
pub trait MsiSink: Send + Sync {
    /// Delivers one message.
    fn send(&self, message: MsiMessage);
}

/// What connects the I/O APICs with the local APICs.
pub trait ApicBus: MsiSink {
    /// Delivers one message to whichever processors it selects.
    fn deliver(&self, message: ApicMessage);

    /// From now on `listener` hears the ends of level-triggered interrupts.
    fn subscribe_eoi(&self, listener: Weak<dyn EoiListener>);

    /// An I/O APIC calls this whenever the meaning of input `gsi` changes; `None` when masked.
    /// Interrupt delivery inside the kernel needs to know ahead of time which vectors want an
    /// end-of-interrupt broadcast; everybody else may ignore it.
    fn route_changed(&self, gsi: u32, message: Option<ApicMessage>) {
        let _ = (gsi, message);
    }
}

/// Who wants to know that a level-triggered interrupt was served: I/O APICs.
pub trait EoiListener: Send + Sync {
    /// A processor finished serving `vector`.
    fn end_of_interrupt(&self, vector: u8);
}

/// The interrupt-acknowledge cycle of the 8259 pair.
pub trait IntAck: Send + Sync {
    /// Takes the highest pending interrupt into service and returns its vector; the spurious vector
    /// if there is none any more.
    fn acknowledge(&self) -> u8;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn msi_fields_are_read_where_the_manual_puts_them() {
        let message = ApicMessage::from_msi(MsiMessage { address: 0xfee0_300c, data: 0xc1a5 });
        assert_eq!(
            message,
            ApicMessage {
                destination: 3,
                mode: DestinationMode::Logical,
                delivery: DeliveryMode::LowestPriority,
                vector: 0xa5,
                level: true,
                trigger: Trigger::Level,
            }
        );
        assert_eq!(message.to_msi(), MsiMessage { address: 0xfee0_300c, data: 0xc1a5 });
    }

    #[test]
    fn destination_ff_is_everybody() {
        let message = ApicMessage::from_msi(MsiMessage { address: 0xfeef_f000, data: 0x31 });
        assert_eq!(message.destination, BROADCAST);
        assert!(message.level, "an edge message is always an assertion");
    }

    proptest! {
        #[test]
        fn msi_round_trip(destination in any::<u8>(), data in any::<u32>(), logical in any::<bool>()) {
            let address = MSI_BASE | u64::from(destination) << 12 | u64::from(logical) << 2;
            let message = ApicMessage::from_msi(MsiMessage { address, data });
            prop_assert_eq!(ApicMessage::from_msi(message.to_msi()), message);
        }
    }
}
