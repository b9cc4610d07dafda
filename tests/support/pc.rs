//! Ways to registers of the PC board that take more than one access.

use crate::qtest::QTest;
use anyhow::{Result, ensure};
use std::fmt::LowerHex;

/// Fails unless `seen` is `wanted`, and says what it is about in hexadecimal.
pub fn expect<T: PartialEq + LowerHex>(what: &str, seen: T, wanted: T) -> Result<()> {
    ensure!(seen == wanted, "{what}: {seen:#x} instead of {wanted:#x}");
    Ok(())
}

/// Place of a PCI function on the root bus.
pub const fn devfn(slot: u8, function: u8) -> u8 {
    slot << 3 | function
}

impl QTest {
    /// Waits until everything before has been done, and returns the edges of intercepted lines that
    /// it caused.
    pub fn edges(&mut self) -> Result<Vec<(u32, bool)>> {
        self.endianness()?;
        Ok(self.take_edges())
    }

    /// Reads some byte-wide ports, in order.
    pub fn inbs(&mut self, ports: impl IntoIterator<Item = u16>) -> Result<Vec<u8>> {
        ports.into_iter().map(|port| self.inb(port)).collect()
    }

    /// Writes some bytes to one port.
    pub fn outbs(&mut self, port: u16, values: &[u8]) -> Result<()> {
        values.iter().try_for_each(|&value| self.outb(port, value))
    }

    /// Checks which bits of byte-wide ports keep what is written: port, what it reads as after all
    /// ones, and after all zeros.
    pub fn check_masks(&mut self, masks: &[(u16, u8, u8)]) -> Result<()> {
        for &(port, ones, zeros) in masks {
            self.outb(port, 0xff)?;
            expect(&format!("port {port:#x} after ones"), self.inb(port)?, ones)?;
            self.outb(port, 0)?;
            expect(&format!("port {port:#x} after zeros"), self.inb(port)?, zeros)?;
        }
        Ok(())
    }

    fn pci_select(&mut self, devfn: u8, offset: u8) -> Result<u16> {
        self.outl(0xcf8, 1 << 31 | u32::from(devfn) << 8 | u32::from(offset & 0xfc))?;
        Ok(0xcfc + u16::from(offset & 3))
    }

    /// Reads a byte of a function's configuration space.
    pub fn pci_readb(&mut self, devfn: u8, offset: u8) -> Result<u8> {
        let port = self.pci_select(devfn, offset)?;
        self.inb(port)
    }

    /// Reads a word of a function's configuration space.
    pub fn pci_readw(&mut self, devfn: u8, offset: u8) -> Result<u16> {
        let port = self.pci_select(devfn, offset)?;
        self.inw(port)
    }

    /// Reads a doubleword of a function's configuration space.
    pub fn pci_readl(&mut self, devfn: u8, offset: u8) -> Result<u32> {
        let port = self.pci_select(devfn, offset)?;
        self.inl(port)
    }

    /// Writes a byte of a function's configuration space.
    pub fn pci_writeb(&mut self, devfn: u8, offset: u8, value: u8) -> Result<()> {
        let port = self.pci_select(devfn, offset)?;
        self.outb(port, value)
    }

    /// Writes a word of a function's configuration space.
    pub fn pci_writew(&mut self, devfn: u8, offset: u8, value: u16) -> Result<()> {
        let port = self.pci_select(devfn, offset)?;
        self.outw(port, value)
    }

    /// Writes a doubleword of a function's configuration space.
    pub fn pci_writel(&mut self, devfn: u8, offset: u8, value: u32) -> Result<()> {
        let port = self.pci_select(devfn, offset)?;
        self.outl(port, value)
    }

    /// The first slot of the root bus whose function has this vendor and device, vendor in the low
    /// half.
    pub fn pci_find(&mut self, id: u32) -> Result<u8> {
        for slot in 0..32 {
            if self.pci_readl(devfn(slot, 0), 0)? == id {
                return Ok(devfn(slot, 0));
            }
        }
        anyhow::bail!("there is no PCI function {id:08x}")
    }

    /// Reads a byte of CMOS memory.
    pub fn cmos(&mut self, index: u8) -> Result<u8> {
        self.outb(0x70, index)?;
        self.inb(0x71)
    }

    /// Writes a byte of CMOS memory.
    pub fn set_cmos(&mut self, index: u8, value: u8) -> Result<()> {
        self.outb(0x70, index)?;
        self.outb(0x71, value)
    }
}
