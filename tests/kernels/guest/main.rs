//! Test kernels for a processor: what they check is told by the processor manuals, not by any one
//! emulator. One image; its command line names the kernel to run.

#![no_std]
#![no_main]
#![allow(unsafe_op_in_unsafe_fn, static_mut_refs, dead_code, missing_docs)]

#[macro_use]
mod tap;
mod boot;
mod cpu;
mod legacy;
#[macro_use]
mod trap;

mod apic;
mod debug;
mod delivery;
mod exceptions;
mod firmware;
mod hyperv;
mod ioapic;
mod keys;
mod mmio;
mod modes64;
mod paging;
mod protected;
mod real;
mod real_code;
mod registers;
mod smm;
mod smp;
mod svm;
mod svm_assists;
mod svm_intercepts;
mod svm_nested;
mod svm_smp;
mod svm_state;
mod svm_virtual;
mod syscalls;
mod tasks;
mod walk;

type Kernel = fn();

/// Every kernel by name.
const KERNELS: &[(&str, Kernel)] = &[
    ("apic", apic::run),
    ("boot", firmware::boot),
    ("control", registers::control),
    ("count", registers::count),
    ("debug", debug::run),
    ("delivery", delivery::run),
    ("exceptions", exceptions::run),
    ("hyperv", hyperv::run),
    ("hypercall", registers::hypercalls),
    ("ioapic", ioapic::run),
    ("la57", modes64::la57),
    ("lam", modes64::lam),
    ("memory", registers::memory),
    ("mmio", mmio::run),
    ("msr", registers::msrs),
    ("paging", paging::run),
    ("pcid", modes64::pcid),
    ("pks", keys::pks),
    ("pku", keys::pku),
    ("protected", protected::run_all),
    ("random", registers::random),
    ("real", real::real_mode),
    ("real_code", real_code::run),
    ("sleep", firmware::sleep),
    ("smap", modes64::smap),
    ("smm", smm::run),
    ("smp", smp::run),
    ("svm", svm::run),
    ("svm_assists", svm_assists::run),
    ("svm_events", svm_state::events),
    ("svm_intercepts", svm_intercepts::run),
    ("svm_nested", svm_nested::run),
    ("svm_smp", svm_smp::run),
    ("svm_state", svm_state::run),
    ("svm_tasks", svm_intercepts::tasks),
    ("svm_virtual", svm_virtual::run),
    ("syscall", syscalls::run),
    ("tasks", tasks::run_all),
    ("tsc", registers::tsc),
    ("umip", modes64::umip),
    ("v86", real::v86_mode),
    ("walk", walk::run),
    ("xsave", registers::xsave),
];

/// The last word of the command line.
fn wanted(information: *const u32) -> &'static str {
    unsafe {
        let text = *information.add(4) as usize as *const u8;
        let mut len = 0;
        while *text.add(len) != 0 {
            len += 1;
        }
        let text = core::slice::from_raw_parts(text, len);
        let text = core::str::from_utf8(text).unwrap_or("");
        text.trim().rsplit(' ').next().unwrap_or("")
    }
}

static mut MAGIC: u32 = 0;
static mut INFORMATION: u64 = 0;

/// What the loader left in EAX.
fn magic() -> u32 {
    unsafe { MAGIC }
}

/// Where the loader's information is.
fn information() -> u64 {
    unsafe { INFORMATION }
}

#[unsafe(no_mangle)]
extern "C" fn rust_main(information: *const u32, magic: u32) -> ! {
    unsafe { (MAGIC, INFORMATION) = (magic, information as u64) };
    let name = wanted(information);
    trap::init();
    legacy::init();
    match KERNELS.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => run(),
        None => {
            for (name, _) in KERNELS {
                say!("# kernel {name}");
            }
        }
    }
    tap::finish()
}
