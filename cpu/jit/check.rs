//! Lock-step (`check=on`): every block is executed by both engines from the same state, and all that
//! they leave behind is compared.
//!
//! The interpreter goes first, instruction by instruction as the translator took the block apart; its
//! stores are noted and taken back. Then the translation runs, apart from all others; jump tables
//! lead to one target only, the one that the interpreter found. What cannot be repeated ends the
//! check before it: system instructions, devices, stores to code. The interpreter executes it alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iced_x86::{CpuidFeature, Instruction, Mnemonic as M, Register};

use super::cache::BlockId;
use super::jump;
use super::translate::{Arrival, LONGEST, Source, Variant, operations};
use super::{Decoded, Ended, Entry, Left, Next, Vcpu};
use crate::core::Fault;
use crate::disassembly::disassemble;
use crate::flags::bit;
use crate::hash::Map;
use crate::interp::decode::{End, Key, ends_block};
use crate::interp::op::{Op, segment};
use crate::mmu::CodePage;
use crate::mmu::trial::Trial;
use crate::state::{CODE, CpuState, Seg, gpr};
use crate::{Cpu, Trap};

/// How often a comparison that fails is repeated: a device may have stored meanwhile.
const ATTEMPTS: usize = 3;
/// Most blocks whose plans are kept.
const MOST_PLANS: usize = 1 << 16;
const MAX_BYTES: usize = 512;

/// An instruction of a block.
struct Step {
    raw: Instruction,
    op: Op,
    end: End,
    /// It does not do the same when it is repeated, or not the same to the last bit in both engines.
    fickle: bool,
}

/// The instructions of a block.
struct Plan {
    steps: Box<[Step]>,
    /// Their bytes, in all, and these with what was looked at behind them.
    len: usize,
    seen: Box<[u8]>,
}

/// What a processor keeps for checks.
pub(super) struct Checker {
    plans: Map<(usize, Key), Arc<Plan>>,
    landing: jump::Table,
}

impl Checker {
    pub fn new() -> Self {
        Checker { plans: Map::default(), landing: jump::Table::new() }
    }
}

/// How the interpreter came out of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// At the next block, or before what cannot be repeated.
    On,
    /// By an exception.
    Fault,
    /// At an instruction that the translator leaves to the interpreter, be there an exception or not.
    Left,
}

/// What the interpreter made of a block.
struct Expected {
    state: CpuState,
    fault: Fault,
    way: Way,
    trial: Trial,
    stored: Vec<Vec<u8>>,
    /// Flags that are undefined.
    undefined: u64,
}

/// How a block was executed by the translator.
enum Ran {
    /// To its end.
    Whole(Way),
    /// To where accesses have to be taken alone.
    ToAlone,
    /// It was left on the way, for a reason that the interpreter did not have.
    Partly,
    /// The host failed.
    Lost,
}

/// How to go on after a block.
pub(super) enum Verdict {
    /// At `state.rip`.
    On,
    /// By the interpreter, at `state.rip`.
    Interpret,
    /// By the exception in `Cpu::fault`.
    Fault,
    /// The engines disagree, or one has failed: `Cpu::failure` tells more.
    Failed,
}

/// RFLAGS bits by iced-x86's numbers.
fn flag_bits(numbers: u32) -> u64 {
    [bit::OF, bit::SF, bit::ZF, bit::AF, bit::CF, bit::PF]
        .into_iter()
        .enumerate()
        .filter(|(number, _)| numbers >> number & 1 != 0)
        .fold(0, |bits, (_, bit)| bits | bit)
}

fn is_fickle(raw: &Instruction) -> bool {
    use CpuidFeature as C;
    let approximate = matches!(
        raw.mnemonic(),
        M::Rcpps
            | M::Rcpss
            | M::Rsqrtps
            | M::Rsqrtss
            | M::Vrcpps
            | M::Vrcpss
            | M::Vrsqrtps
            | M::Vrsqrtss
            | M::F2xm1
            | M::Fsin
            | M::Fcos
            | M::Fsincos
            | M::Fptan
            | M::Fpatan
            | M::Fyl2x
            | M::Fyl2xp1
    );
    let random = |set: &C| matches!(set, C::RDRAND | C::RDSEED);
    // Nobody can tell whether it was taken.
    let to_next = raw.is_jcc_short_or_near() && raw.near_branch_target() == raw.next_ip();
    approximate || to_next || raw.cpuid_features().iter().any(random)
}

impl Plan {
    fn of(source: &Source<'_>) -> Self {
        let step = |(raw, op): (Instruction, Op)| Step {
            end: ends_block(&raw),
            fickle: is_fickle(&raw),
            raw,
            op,
        };
        let steps: Box<[Step]> = operations(source).into_iter().map(step).collect();
        let len: usize = steps.iter().map(|step| step.raw.len()).sum();
        // What comes behind may be why it ends there: an instruction that is not whole.
        let seen = source.bytes.len().min(len + LONGEST);
        Plan { steps, len, seen: source.bytes[..seen].into() }
    }
}

impl Cpu {
    /// Executes blocks in lock-step until something else is to be done.
    pub(super) fn run_checked(&mut self, jit: &mut Vcpu, decoded: &mut Decoded, key: Key) -> Ended {
        loop {
            self.exit_block = false;
            if self.attention() {
                return Ended::End;
            }
            jit.note_generation();
            match self.check_block(jit, key) {
                Verdict::On if self.exit_block => return self.deliver_traps(),
                Verdict::On => {}
                Verdict::Interpret => return self.run_chain(decoded, true),
                Verdict::Fault => return self.take_fault(),
                Verdict::Failed => return Ended::Failed,
            }
        }
    }

    /// The plan for the block at `state.rip`, if it can be checked at all.
    fn plan(&mut self, jit: &mut Vcpu, key: Key) -> Result<Option<Arc<Plan>>, Trap> {
        let rip = self.state.rip;
        let host = self.code_address(rip)?;
        let CodePage::Ram { block, offset, .. } = self.fetch_page(rip)? else { return Ok(None) };
        let start = (rip & 0xfff) as u16;
        let read = |len: usize| {
            let mut bytes = vec![0; len];
            block.read(offset + u64::from(start), &mut bytes);
            bytes
        };
        let plans = &mut jit.checker.plans;
        if let Some(plan) = plans.get(&(host, key))
            && read(plan.seen.len()) == *plan.seen
        {
            return Ok(Some(plan.clone()));
        }
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        let bytes = read(MAX_BYTES.min(4096 - usize::from(start)));
        let source = Source {
            bytes: &bytes,
            origin: start,
            next_page: None,
            start,
            path: &[],
            block: BlockId::default(),
            variant: Self::variant(key, false),
            model: &self.model,
        };
        let plan = Arc::new(Plan::of(&source));
        plans.insert((host, key), plan.clone());
        Ok(Some(plan))
    }

    fn variant(key: Key, alone: bool) -> Variant {
        Variant { key, arrival: Arrival::Slot, alone, apart: true }
    }

    /// Executes the block at `state.rip` in lock-step.
    fn check_block(&mut self, jit: &mut Vcpu, key: Key) -> Verdict {
        let plan = match self.plan(jit, key) {
            Ok(Some(plan)) if !plan.steps.is_empty() => plan,
            Ok(_) => return Verdict::Interpret,
            Err(_) => return Verdict::Fault,
        };
        let counts = jit.translator.clone();
        let before = (self.state.clone(), self.fault);
        let mut differences = Vec::new();
        let mut alone = false;
        for _ in 0..ATTEMPTS {
            let expected = self.interpret(&plan);
            let put_back = |cpu: &mut Self| {
                (cpu.state, cpu.fault) = before.clone();
                cpu.exit_block = false;
            };
            put_back(self);
            let Some(expected) = expected else {
                counts.checked[1].fetch_add(1, Ordering::Relaxed);
                return Verdict::Interpret;
            };
            let mut ran = self.run_apart(jit, key, alone, &plan, &expected);
            if let Ran::ToAlone = ran {
                alone = true;
                expected.trial.take_back();
                put_back(self);
                ran = self.run_apart(jit, key, alone, &plan, &expected);
            }
            match ran {
                Ran::Whole(way) => {
                    differences = self.differences(&expected, way);
                    if differences.is_empty() {
                        counts.checked[0].fetch_add(1, Ordering::Relaxed);
                        return match way {
                            Way::On => Verdict::On,
                            Way::Fault => Verdict::Fault,
                            Way::Left => Verdict::Interpret,
                        };
                    }
                }
                Ran::Lost => return Verdict::Failed,
                Ran::ToAlone | Ran::Partly => {
                    expected.trial.take_back();
                    put_back(self);
                    counts.checked[1].fetch_add(1, Ordering::Relaxed);
                    return Verdict::Interpret;
                }
            }
            expected.trial.take_back();
            put_back(self);
        }
        let rip = before.0.rip;
        let bits = key.code_bits() as u8;
        let (code, _) = disassemble(&plan.seen[..plan.len], rip, bits, plan.steps.len());
        self.failure = Some(format!(
            "the engines disagree about the block at {rip:#x}{}:\n{code}{}",
            if alone { ", accesses alone" } else { "" },
            differences.concat()
        ));
        Verdict::Failed
    }

    /// What the interpreter makes of the block; its stores are taken back. `None` if it could not be
    /// repeated.
    fn interpret(&mut self, plan: &Plan) -> Option<Expected> {
        self.begin_trial();
        let done = self.interpret_steps(plan);
        let trial = *self.trial.take()?;
        let stored = trial.stored();
        trial.take_back();
        let (way, undefined) = done?;
        (!trial.device && !self.exit_block && self.pending_debug == 0).then(|| Expected {
            state: self.state.clone(),
            fault: self.fault,
            way,
            trial,
            stored,
            undefined,
        })
    }

    fn interpret_steps(&mut self, plan: &Plan) -> Option<(Way, u64)> {
        self.state.regs[CODE] = self.state.rip;
        let mut undefined = 0;
        for (number, Step { raw, op, end, fickle }) in plan.steps.iter().enumerate() {
            if *end == End::System {
                if number == 0 {
                    return None;
                }
                self.state.rip = self.this_rip(op);
                return Some((Way::On, undefined));
            }
            if *fickle || flag_bits(raw.rflags_read()) & undefined != 0 {
                return None;
            }
            let written =
                if self.may_do_nothing(raw) { 0 } else { flag_bits(raw.rflags_modified()) };
            match (op.run)(self, op) {
                Ok(()) => {}
                Err(Trap::Exception) => {
                    if op.segment & segment::NUMBER == Seg::Ss as u8 {
                        self.stack_reference_faulted();
                    }
                    self.state.rip = self.this_rip(op);
                    return Some((Way::Fault, undefined));
                }
                Err(Trap::Leave | Trap::Shutdown) => return None,
            }
            undefined &= !written;
            undefined |= flag_bits(raw.rflags_undefined());
            if self.exit_block {
                return None;
            }
            match end {
                End::No => self.state.rip = self.next_rip(op),
                // A repeated one takes a rest after fewer steps here.
                _ if raw.is_string_instruction() && self.state.rip == self.this_rip(op) => {
                    return None;
                }
                _ if self.state.rip != self.next_rip(op) => break,
                _ => {}
            }
        }
        Some((Way::On, undefined))
    }

    /// Whether an instruction that counts by RCX may find the count zero, and so leave all flags as they
    /// are.
    fn may_do_nothing(&self, raw: &Instruction) -> bool {
        let by_cl = [raw.op1_register(), raw.op2_register()].contains(&Register::CL);
        let counts = by_cl || raw.has_rep_prefix() || raw.has_repne_prefix();
        counts && self.state.regs[gpr::RCX] & 31 == 0
    }

    /// Executes the translation of the block at `state.rip`.
    fn run_apart(
        &mut self,
        jit: &mut Vcpu,
        key: Key,
        alone: bool,
        plan: &Plan,
        expected: &Expected,
    ) -> Ran {
        let rip = self.state.rip;
        let code = match self.find_code(jit, None, Self::variant(key, alone)) {
            Ok(Some(code)) => code,
            _ => return Ran::Partly,
        };
        let target = expected.state.rip;
        jit.checker.landing.set(target, jit.translator.thunks.land);
        self.arm(jit, jit.checker.landing.start());
        jit.processor.frame.checked.set(true);
        jit.processor.frame.apart.set(true);
        let left = self.enter(jit, Entry { code, host_flags: false });
        jit.processor.frame.checked.set(false);
        jit.checker.landing.clear();
        let before = |rip: u64, at: u64| at.wrapping_sub(rip) < plan.len as u64;
        let is_cut = |at: u64| before(rip, at) && (at & 0xfff) as usize + LONGEST > 4096;
        match left {
            Ok(Next::Landed) => {
                self.state.rip = target;
                Ran::Whole(Way::On)
            }
            Ok(Next::Chained(_)) => Ran::ToAlone,
            Ok(Next::Block(_)) if self.state.rip == rip && target != rip => Ran::Partly,
            // It was made when what is there now was not, and what was there was not whole.
            Ok(Next::Block(_)) if self.state.rip != target && is_cut(self.state.rip) => Ran::Partly,
            Ok(Next::Block(_) | Next::Trace(_)) => Ran::Whole(Way::On),
            Ok(Next::Interpret) | Err(Left::Interpret) => {
                let on_the_way = self.state.rip != target && before(rip, self.state.rip);
                if on_the_way { Ran::Partly } else { Ran::Whole(Way::Left) }
            }
            // Though a jump may lead there too.
            Err(Left::End) if before(rip, self.state.rip) => Ran::Partly,
            Err(Left::End) => Ran::Whole(Way::On),
            Err(Left::Fault) => Ran::Whole(Way::Fault),
            Err(Left::Shutdown) => Ran::Partly,
            Err(Left::Lost) => Ran::Lost,
        }
    }

    /// Where the translator has come to something else than expected, a line each.
    fn differences(&self, expected: &Expected, way: Way) -> Vec<String> {
        let (theirs, ours) = (&expected.state, &self.state);
        let mut lines = Vec::new();
        let mut compare = |what: &str, theirs: String, ours: String| {
            if theirs != ours {
                lines.push(format!("{what}: interpreted {theirs}, translated {ours}\n"));
            }
        };
        macro_rules! compare {
            ($($what:literal $field:expr;)*) => {$({
                let field: fn(&CpuState) -> _ = $field;
                if field(theirs) != field(ours) {
                    let show = |state| format!("{:x?}", field(state));
                    compare($what, show(theirs), show(ours));
                }
            })*};
        }
        let faults = |way, fault: Fault| (way == Way::Fault).then_some((fault.vector, fault.error));
        let (their_fault, our_fault) =
            (faults(expected.way, expected.fault), faults(way, self.fault));
        if their_fault != our_fault && way != Way::Left {
            compare("fault", format!("{their_fault:?}"), format!("{our_fault:?}"));
        }
        let flags = |state: &CpuState| state.flags.get() & !expected.undefined;
        if flags(theirs) != flags(ours) {
            let show = |state| format!("{:x}", flags(state));
            compare("flags", show(theirs), show(ours));
        }
        compare! {
            "rip" |state| state.rip;
            "registers" |state| <[u64; 16]>::try_from(&state.regs[..16]).ok();
            "cr2" |state| state.cr2;
            "pkru" |state| state.pkru;
            "mxcsr" |state| state.mxcsr;
            "x87" |state| state.x87;
            "vectors" |state| state.vec;
            "masks" |state| state.opmask;
            "segments" |state| state.seg;
        }
        let stored = expected.trial.stored();
        for (number, (theirs, ours)) in expected.stored.iter().zip(&stored).enumerate() {
            if theirs != ours {
                compare(&format!("store {number}"), format!("{theirs:x?}"), format!("{ours:x?}"));
            }
        }
        lines
    }
}
