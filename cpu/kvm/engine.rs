//! One processor in the kernel, as an engine.
#![allow(unsafe_code)]
// Unsafe: the fields of the shared page that belong to the last exit are read from a union, and one
// system call is made directly.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use base::backdoor::{Backdoor, CallRegisters};
use base::memory::AddressSpace;
use kvm_bindings::{
    KVM_EXIT_IO_IN, KVM_INTERNAL_ERROR_EMULATION, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, KVM_RUN_X86_SMM, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    kvm_interrupt, kvm_lapic_state,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::errno::Errno;

use super::error::KvmError;
use super::hyperv;
use super::irq::PicLine;
use super::kick::Kick;
use super::state::{self, Fetched};
use super::vm::KvmVm;
use crate::apic::LocalApic;
use crate::bus::{ApicPage, Bus};
use crate::cpuid::Model;
use crate::flags::bit;
use crate::signals::{Signals, request};
use crate::state::CpuState;
use crate::vcpu::{Engine, Exit};

/// What is outside of the kernel that interrupts the processor.
#[derive(Clone)]
pub enum Interrupts {
    /// Nothing: its local APIC and everything behind it is in the kernel.
    Kernel,
    /// The 8259 pair, through LINT0 of the local APIC in the kernel. Only the boot processor has it.
    Pic(Arc<PicLine>),
    /// A local APIC of ours.
    Apic(Arc<LocalApic>),
}

/// The address of the local APIC's page; enabled.
const APIC_BASE: u64 = 0xfee0_0800;
const APIC_BASE_BSP: u64 = 1 << 8;
const APIC_BASE_ENABLED: u64 = 1 << 11;

/// What keeps a processor out of guest code.
enum Obstacle {
    Exit(Exit),
    /// Memory slots are being rearranged.
    Gate,
}

/// A processor of a [`KvmVm`].
pub struct KvmEngine {
    fd: VcpuFd,
    vm: Arc<KvmVm>,
    index: u32,
    model: Arc<Model>,
    bus: Bus,
    signals: Arc<Signals>,
    interrupts: Interrupts,
    kick: Arc<Kick>,
    /// HLT was executed and nothing woke the processor yet; the kernel keeps this itself if it has
    /// the local APIC.
    halted: bool,
    /// Waits for a start-up IPI; likewise.
    waiting_for_startup: bool,
    /// The last exit's access is completed by the next KVM_RUN.
    access_under_way: bool,
    /// Why the processor cannot go on.
    broken: Option<String>,
}

impl KvmEngine {
    /// Processor `index` of a machine, in its power-up state.
    pub fn new(
        vm: &Arc<KvmVm>,
        index: u32,
        model: Arc<Model>,
        bus: Bus,
        signals: Arc<Signals>,
        interrupts: Interrupts,
    ) -> Result<Self, KvmError> {
        let apic_id = model.topology.apic_id(index);
        let mut fd =
            vm.fd.create_vcpu(apic_id.into()).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        hyperv::enable(&vm.fd, &fd, &model.hyperv)?;
        let cpuid = vm.cpuid(&model, index, &fd)?;
        fd.set_cpuid2(&cpuid).map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
        let kick = Kick::new(&mut fd.get_kvm_run().immediate_exit);
        vm.gate.add(kick.clone());
        let kicked = kick.clone();
        signals.set_kick(move || kicked.kick());
        let mut engine = KvmEngine {
            fd,
            vm: vm.clone(),
            index,
            model,
            bus,
            signals,
            interrupts,
            kick,
            halted: false,
            waiting_for_startup: false,
            access_under_way: false,
            broken: None,
        };
        engine.try_reset()?;
        Ok(engine)
    }

    fn is_boot(&self) -> bool {
        self.index == 0
    }

    // State.

    fn fetch(&self) -> Result<Fetched, KvmError> {
        let blank = CpuState::at_reset(self.model.signature());
        let mut fetched = state::fetch(&self.fd, &self.vm.saved_msrs, blank)?;
        if matches!(self.interrupts, Interrupts::Apic(_)) {
            fetched.state.halted = self.halted;
        }
        Ok(fetched)
    }

    fn put(&mut self, mut fetched: Fetched, reset: bool) -> Result<(), KvmError> {
        if let Interrupts::Apic(_) = self.interrupts {
            // The kernel knows of no sleep that only an APIC can end.
            self.halted = std::mem::take(&mut fetched.state.halted);
            let enabled = fetched.state.flags.system() & bit::IF != 0;
            self.fd.get_kvm_run().if_flag = enabled.into();
        }
        fetched.put(&self.fd, &self.vm.saved_msrs, reset)?;
        if reset && !matches!(self.interrupts, Interrupts::Apic(_)) {
            let lapic = lapic_at_reset(self.model.topology.apic_id(self.index), self.is_boot());
            self.fd.set_lapic(&lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))?;
        }
        fetched.put_mp_state(&self.fd)
    }

    fn try_reset(&mut self) -> Result<(), KvmError> {
        self.access_under_way = false;
        self.broken = None;
        let mut fetched = self.fetch()?;
        let known = fetched.state.msr.clone();
        fetched.state = CpuState::at_reset(self.model.signature());
        // Registers that describe the processor rather than its state are what the kernel says.
        fetched.state.msr.misc_enable = known.misc_enable;
        fetched.state.msr.mcg_ctl = known.mcg_ctl;
        let bsp = if self.is_boot() { APIC_BASE_BSP } else { 0 };
        fetched.state.msr.apic_base = APIC_BASE | bsp;
        fetched.forget_events();
        match &self.interrupts {
            Interrupts::Apic(apic) => {
                apic.reset();
                self.waiting_for_startup = !self.is_boot();
            }
            _ if self.is_boot() => fetched.set_mp_state(KVM_MP_STATE_RUNNABLE),
            _ => fetched.set_mp_state(KVM_MP_STATE_UNINITIALIZED),
        }
        self.signals.take(request::AT_RESET);
        self.put(fetched, true)?;
        hyperv::reset(&self.vm.fd, &self.fd, &self.model.hyperv)
    }

    /// Remembers a failure; the processor reports it when it is to run.
    fn note(&mut self, result: Result<(), KvmError>) {
        if let Err(error) = result {
            self.broken.get_or_insert(error.to_string());
        }
    }

    // Requests.

    /// Which requests end the sleep of a processor whose local APIC is ours.
    fn wake_mask(&mut self) -> u32 {
        let always = request::RESET | request::INIT | request::STOP;
        if self.waiting_for_startup {
            return always | request::SIPI;
        }
        let interruptible = self.fd.get_kvm_run().if_flag != 0;
        always | request::NMI | request::SMI | if interruptible { request::INTR } else { 0 }
    }

    /// Serves what is pending. An exit means that guest code is not to be entered now.
    fn serve_requests(&mut self) -> Result<Option<Exit>, KvmError> {
        let pending = self.signals.pending();
        if pending & request::STOP != 0 {
            self.complete_access()?;
            return Ok(Some(Exit::Attention));
        }
        // The kernel follows the memory map by its slots.
        self.signals.take(request::FLUSH_TLB);
        if let Interrupts::Apic(apic) = &self.interrupts {
            let apic = apic.clone();
            self.serve_startup(&apic)?;
            if self.waiting_for_startup {
                return Ok(Some(Exit::Halted { wake: self.wake_mask() }));
            }
        }
        if self.halted {
            let wake = self.wake_mask();
            if self.signals.pending() & wake == 0 {
                return Ok(Some(Exit::Halted { wake }));
            }
            self.halted = false;
        }
        while self.signals.take_nmi() {
            self.fd.nmi().map_err(KvmError::ioctl("KVM_NMI"))?;
        }
        // Without the capability there is no firmware that was told of SMM.
        if self.signals.take(request::SMI) != 0 && self.vm.has_smm() {
            self.fd.smi().map_err(KvmError::ioctl("KVM_SMI"))?;
        }
        self.inject()?;
        Ok(None)
    }

    /// INIT and start-up IPIs of a local APIC of ours.
    fn serve_startup(&mut self, apic: &LocalApic) -> Result<(), KvmError> {
        if self.signals.take(request::INIT) != 0 {
            self.complete_access()?;
            let mut fetched = self.fetch()?;
            fetched.state.init(self.model.signature());
            fetched.forget_events();
            apic.init();
            self.waiting_for_startup = !self.is_boot();
            self.put(fetched, false)?;
        }
        // A start-up IPI counts only while one is waited for.
        let startup = self.signals.take(request::SIPI | request::STARTING);
        if startup & request::SIPI != 0 && self.waiting_for_startup {
            self.waiting_for_startup = false;
            let mut fetched = self.fetch()?;
            fetched.state.start_up(apic.sipi_vector());
            self.put(fetched, false)?;
        }
        Ok(())
    }

    /// Hands the kernel an interrupt from outside if the guest takes one now; otherwise asks to be
    /// told when it would.
    fn inject(&mut self) -> Result<(), KvmError> {
        if let Interrupts::Kernel = self.interrupts {
            return Ok(());
        }
        let waits = self.signals.pending() & request::INTR != 0;
        let run = self.fd.get_kvm_run();
        if waits && run.ready_for_interrupt_injection != 0 && run.if_flag != 0 {
            run.ready_for_interrupt_injection = 0;
            let vector = match &self.interrupts {
                Interrupts::Kernel => None,
                Interrupts::Pic(pic) => pic.acknowledge(),
                Interrupts::Apic(apic) => apic.take_interrupt(),
            };
            if let Some(vector) = vector {
                interrupt(&self.fd, vector)?;
            }
        }
        let more = self.signals.pending() & request::INTR != 0;
        let run = self.fd.get_kvm_run();
        run.request_interrupt_window = more.into();
        if let Interrupts::Apic(apic) = &self.interrupts {
            run.cr8 = apic.tpr().into();
        }
        Ok(())
    }

    // Exits.

    /// Lets the kernel finish the instruction whose access was the last exit, so that the registers
    /// are those between two instructions.
    fn complete_access(&mut self) -> Result<(), KvmError> {
        while std::mem::take(&mut self.access_under_way) {
            self.kick.complete_only();
            // An access of several parts comes back for each.
            match self.enter() {
                Ok(Some(exit)) => {
                    let reason = format!("unexpected {exit:?} while an access is completed");
                    self.broken.get_or_insert(reason);
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the guest's accesses go.
    fn memory(&mut self) -> AddressSpace {
        let in_smm = u32::from(self.fd.get_kvm_run().flags) & KVM_RUN_X86_SMM != 0;
        if in_smm { self.bus.smm.clone() } else { self.bus.memory.clone() }
    }

    /// One stay in guest code, and what it ended with. `None`: go on.
    fn enter(&mut self) -> Result<Option<Exit>, KvmError> {
        let memory = self.memory();
        let apic = match &self.interrupts {
            Interrupts::Apic(apic) => Some(apic.clone()),
            _ => None,
        };
        let passed = self.vm.gate.pass();
        let result = self.fd.run();
        drop(passed);
        self.kick.leave();
        let mut ports = false;
        let exit = match result {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                ports = true;
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.access_under_way = true;
                match apic.as_ref().and_then(|apic| apic_offset(apic, address)) {
                    Some((apic, offset)) => {
                        let value = apic.read(offset, data.len() as u8).to_le_bytes();
                        let part = data.len().min(value.len());
                        data[..part].copy_from_slice(&value[..part]);
                    }
                    None => read(&memory, address, data),
                }
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.access_under_way = true;
                match apic.as_ref().and_then(|apic| apic_offset(apic, address)) {
                    Some((apic, offset)) => {
                        let size = data.len() as u8;
                        apic.write(offset, size, load(data) as u32);
                    }
                    None => write(&memory, address, data),
                }
                None
            }
            Ok(VcpuExit::Hlt) => {
                self.halted = true;
                None
            }
            Ok(VcpuExit::Shutdown) => Some(Exit::Shutdown),
            Ok(VcpuExit::IoapicEoi(vector)) => {
                self.vm.apics().end_of_interrupt(vector);
                None
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Some(Exit::Failed(format!("KVM: entry failed, hardware error {reason:#x}")))
            }
            Ok(VcpuExit::InternalError) => Some(Exit::Failed(self.internal_error())),
            Ok(VcpuExit::Hyperv) => {
                self.access_under_way = true;
                hyperv::answer(self.fd.get_kvm_run());
                None
            }
            // By a register of Hyper-V's.
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Some(Exit::Shutdown),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => Some(Exit::Crashed),
            Ok(VcpuExit::SystemEvent(kind, _)) => {
                Some(Exit::Failed(format!("KVM: unexpected system event {kind}")))
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                Some(Exit::Failed(format!("KVM: memory fault at {gpa:#x}")))
            }
            Ok(
                VcpuExit::Intr
                | VcpuExit::IrqWindowOpen
                | VcpuExit::SetTpr
                | VcpuExit::TprAccess
                | VcpuExit::Nmi,
            ) => None,
            Ok(other) => Some(Exit::Failed(format!("KVM: unknown exit {other:?}"))),
            Err(error)
                if matches!(Errno::from_raw(error.errno()), Errno::EINTR | Errno::EAGAIN) =>
            {
                None
            }
            Err(error) => return Err(KvmError::ioctl("KVM_RUN")(error)),
        };
        if ports {
            self.access_under_way = true;
            self.port_access();
        }
        if let Some(apic) = apic {
            self.follow_apic(&apic);
        }
        Ok(exit)
    }

    /// What the guest did to the registers of its APIC that the kernel executes.
    fn follow_apic(&mut self, apic: &LocalApic) {
        let run = self.fd.get_kvm_run();
        let (cr8, base) = (run.cr8 as u8 & 0xf, run.apic_base);
        if apic.tpr() != cr8 {
            apic.set_tpr(cr8);
        }
        if apic.base() != base {
            apic.set_base(base);
        }
    }

    /// The port access of the last exit: for string instructions, several of them.
    fn port_access(&mut self) {
        let ports = self.bus.ports.clone();
        let run = self.fd.get_kvm_run();
        // SAFETY: the last exit was KVM_EXIT_IO, whose part of the union this is.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (size, count) = (usize::from(io.size), io.count as usize);
        let start = std::ptr::from_mut(run).cast::<u8>();
        // SAFETY: the kernel puts the data into the shared mapping, which begins with `run`, at this
        // offset and in this length; nobody else uses it until the next KVM_RUN.
        let data = unsafe {
            std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), size * count)
        };
        if let Some(backdoor) = self.bus.backdoor(io.port, io.size).filter(|_| count == 1) {
            let answer = call_backdoor(&self.fd, &**backdoor).to_le_bytes();
            data.copy_from_slice(&answer);
            return;
        }
        let port = u64::from(io.port);
        for item in data.chunks_exact_mut(size.max(1)) {
            if u32::from(io.direction) == KVM_EXIT_IO_IN {
                let value = ports.read_uint(port, io.size).to_le_bytes();
                item.copy_from_slice(&value[..item.len()]);
            } else {
                ports.write_uint(port, io.size, load(item));
            }
        }
    }

    fn internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        // SAFETY: the last exit was KVM_EXIT_INTERNAL_ERROR, whose part of the union this is.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let mut text = format!("KVM internal error. Suberror: {}", internal.suberror);
        if internal.suberror == KVM_INTERNAL_ERROR_EMULATION {
            text += "\nemulation failure";
        }
        for (n, data) in internal.data.iter().take(internal.ndata as usize).enumerate() {
            text += &format!("\nextra data[{n}]: {data:#018x}");
        }
        if let Ok(regs) = self.fd.get_regs() {
            text += &format!("\nRIP={:016x} RFL={:08x}", regs.rip, regs.rflags);
        }
        text
    }

    /// Why guest code is not to be entered now.
    fn obstacle(&mut self) -> Result<Option<Obstacle>, KvmError> {
        if let Some(exit) = self.serve_requests()? {
            return Ok(Some(Obstacle::Exit(exit)));
        }
        if let Some(failure) = self.broken.as_deref().or(self.vm.memory().failure()) {
            return Ok(Some(Obstacle::Exit(Exit::Failed(failure.to_owned()))));
        }
        Ok(self.vm.gate.is_closing().then_some(Obstacle::Gate))
    }

    fn run_until_exit(&mut self) -> Result<Exit, KvmError> {
        loop {
            self.kick.enter();
            let obstacle = self.obstacle();
            // Guest code is entered only as somebody who can be kicked.
            if !matches!(obstacle, Ok(None)) {
                self.kick.leave();
            }
            match obstacle? {
                Some(Obstacle::Exit(exit)) => return Ok(exit),
                Some(Obstacle::Gate) => {
                    drop(self.vm.gate.pass());
                    continue;
                }
                None => {}
            }
            // The kernel completes the access first, whatever happens then.
            self.access_under_way = false;
            if let Some(exit) = self.enter()? {
                return Ok(exit);
            }
        }
    }
}

impl Engine for KvmEngine {
    fn run(&mut self) -> Exit {
        self.kick.adopt();
        self.run_until_exit().unwrap_or_else(|error| Exit::Failed(error.to_string()))
    }

    fn reset(&mut self) {
        let result = self.try_reset();
        self.note(result);
    }

    fn with_state(&mut self, change: &mut dyn FnMut(&mut CpuState)) {
        let result = self.fetch().and_then(|mut fetched| {
            change(&mut fetched.state);
            self.put(fetched, false)
        });
        self.note(result);
    }
}

impl Drop for KvmEngine {
    fn drop(&mut self) {
        self.kick.retire();
        self.vm.gate.remove(&self.kick);
    }
}

/// The local APIC after RESET, as the kernel exchanges its registers. The boot processor's lets the
/// 8259 through, as firmware of old expects.
fn lapic_at_reset(id: u32, boot: bool) -> kvm_lapic_state {
    const MASKED: u32 = 1 << 16;
    const EXT_INT: u32 = 7 << 8;
    let lint0 = if boot { EXT_INT } else { MASKED };
    let registers = [
        (0x20, id << 24),
        (0x30, 0x0005_0014),
        (0xe0, !0),
        (0xf0, 0xff),
        (0x320, MASKED),
        (0x330, MASKED),
        (0x340, MASKED),
        (0x350, lint0),
        (0x360, MASKED),
        (0x370, MASKED),
    ];
    let mut lapic = kvm_lapic_state::default();
    for (offset, value) in registers {
        for (to, from) in lapic.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
            *to = from as std::ffi::c_char;
        }
    }
    lapic
}

/// Where in the page of an APIC of ours an address lies.
fn apic_offset(apic: &Arc<LocalApic>, address: u64) -> Option<(&LocalApic, u32)> {
    let base = apic.base();
    let inside = base & APIC_BASE_ENABLED != 0 && address & !0xfff == base & !0xfff;
    inside.then(|| (&**apic, (address & 0xfff) as u32))
}

fn load(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn read(memory: &AddressSpace, address: u64, data: &mut [u8]) {
    match data.len() {
        size @ (1 | 2 | 4 | 8) => {
            let value = memory.read_uint(address, size as u8).to_le_bytes();
            data.copy_from_slice(&value[..size]);
        }
        _ => memory.read(address, data),
    }
}

fn write(memory: &AddressSpace, address: u64, data: &[u8]) {
    match data.len() {
        size @ (1 | 2 | 4 | 8) => memory.write_uint(address, size as u8, load(data)),
        _ => memory.write(address, data),
    }
}

nix::ioctl_write_ptr!(
    /// KVM_INTERRUPT, which `kvm-ioctls` lacks.
    kvm_interrupt_ioctl, 0xae, 0x86, kvm_interrupt
);

fn interrupt(fd: &VcpuFd, vector: u8) -> Result<(), KvmError> {
    let argument = kvm_interrupt { irq: vector.into() };
    // SAFETY: the descriptor is a processor's, and the kernel only reads the argument.
    match unsafe { kvm_interrupt_ioctl(fd.as_raw_fd(), &argument) } {
        Ok(_) => Ok(()),
        Err(error) => Err(KvmError::Ioctl {
            call: "KVM_INTERRUPT",
            error: std::io::Error::from_raw_os_error(error as i32),
        }),
    }
}

/// An access to the machine's back door; returns the EAX that it answers.
fn call_backdoor(fd: &VcpuFd, backdoor: &dyn Backdoor) -> u32 {
    // A processor whose registers cannot be had fails at its next run.
    let Ok(mut regs) = fd.get_regs() else { return u32::MAX };
    let mut call = CallRegisters {
        eax: regs.rax as u32,
        ecx: regs.rcx as u32,
        edx: regs.rdx as u32,
        ebx: regs.rbx as u32,
        esi: regs.rsi as u32,
        edi: regs.rdi as u32,
    };
    backdoor.call(&mut call);
    (regs.rax, regs.rcx, regs.rdx) = (call.eax.into(), call.ecx.into(), call.edx.into());
    (regs.rbx, regs.rsi, regs.rdi) = (call.ebx.into(), call.esi.into(), call.edi.into());
    match fd.set_regs(&regs) {
        Ok(()) => call.eax,
        Err(_) => u32::MAX,
    }
}
