//! What comes to a processor while it runs a guest, from another processor: interrupts, NMI and INIT, each
//! intercepted or not (APM vol. 2, 15.13).

use crate::cpu::{flag, wrmsr};
use crate::smp::{self, finished, give, send, start_up, taken, wait};
use crate::svm::{Pages, VM_HSAVE_PA, at, begins, code, ends, enter, get, guest, intercept};
use crate::svm::{prepare, set, turn_on};
use core::arch::naked_asm;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Set by guests once they run.
#[unsafe(no_mangle)]
static SVM_GUEST_RUNS: AtomicU32 = AtomicU32::new(0);

static mut OTHER_HOST_SAVE: Pages<4096> = Pages([0; 4096]);

guest!(spins, "mov dword ptr [rip + SVM_GUEST_RUNS], 1", "2: pause", "jmp 2b");
guest!(halts, "mov dword ptr [rip + SVM_GUEST_RUNS], 1", "hlt");

const INIT: u64 = 0x63;
const VECTOR: u32 = 0x71;

pub fn run() {
    if !begins() {
        return;
    }
    if smp::begins() {
        let up = start_up();
        check!(up, "the second processor");
        if up {
            events();
            resets();
        }
    }
    ends();
}

/// On the second processor: runs the guest that the first has prepared.
fn enter_guest() {
    turn_on();
    wrmsr(VM_HSAVE_PA, addr_of!(OTHER_HOST_SAVE) as u64);
    enter();
}

/// Has the second processor run `guest`, and sends it `command` meanwhile.
fn disturb(guest: extern "C" fn(), intercepted: Option<u64>, command: u32) -> u32 {
    SVM_GUEST_RUNS.store(0, SeqCst);
    prepare(guest);
    set(at::RFLAGS, 2 | flag::IF);
    if let Some(code) = intercepted {
        intercept(code);
    }
    let job = give(enter_guest);
    check!(wait(|| SVM_GUEST_RUNS.load(SeqCst) != 0), "a guest runs");
    send(1, command);
    job
}

fn events() {
    let table: [(extern "C" fn(), u64, u32, usize, &str); 4] = [
        (spins, code::INTR, VECTOR, 0, "an interrupt"),
        (halts, code::INTR, VECTOR, 0, "an interrupt that finds it halted"),
        (spins, code::NMI, 4 << 8, 1, "an NMI"),
        (halts, code::NMI, 4 << 8, 1, "an NMI that finds it halted"),
    ];
    for (guest, intercepted, command, kind, name) in table {
        let before = taken();
        let job = disturb(guest, Some(intercepted), command);
        check!(finished(job), "{name} ends it");
        check_eq!(get(at::CODE), intercepted, "{name}: the exit code");
        check!(wait(|| taken()[kind] == before[kind] + 1), "{name}: it is the host's");
    }
    // Halted, and woken up by what it takes itself.
    for (command, kind, name) in [(VECTOR, 0, "an interrupt"), (4 << 8, 1, "an NMI")] {
        let before = taken();
        let job = disturb(halts, None, command);
        check!(finished(job), "{name} of its own wakes it up");
        check_eq!(get(at::CODE), code::VMMCALL, "{name} of its own: it goes on");
        check_eq!(taken()[kind], before[kind] + 1, "{name} of its own: after it was taken");
    }
}

fn resets() {
    disturb(spins, Some(INIT), 5 << 8);
    check!(wait(|| get(at::CODE) != 0), "INIT ends a guest");
    check_eq!(get(at::CODE), INIT, "by its own exit code");
    check!(start_up(), "then it resets the processor");
    disturb(spins, None, 5 << 8);
    check!(start_up(), "INIT that is not intercepted does so at once");
    check_eq!(get(at::CODE), 0, "without an exit");
    let job = disturb(halts, Some(code::HLT), 0x20);
    check!(finished(job), "guests run again");
    check_eq!(get(at::CODE), code::HLT, "as if nothing had been");
}
