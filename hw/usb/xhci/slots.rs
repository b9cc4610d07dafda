//! Devices as the driver knows them: slots, endpoints, and their contexts in memory (xHCI 1.2, 4.5,
//! 4.8, 6.2).

use base::state::State;

use super::Xhci;
use super::events::code;
use super::ring::{Ring, Trb, flag};

/// Bytes of a context.
pub(super) const CONTEXT: u64 = 32;
/// Endpoints of a slot; number 1 is the one for requests.
pub(super) const ENDPOINTS: usize = 31;

/// States of slots.
mod slot_state {
    pub const DEFAULT: u32 = 1;
    pub const ADDRESSED: u32 = 2;
    pub const CONFIGURED: u32 = 3;
}

/// States of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub(super) enum EndpointState {
    #[default]
    Disabled,
    Running,
    Halted,
    Stopped,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub(super) struct Endpoint {
    pub state: EndpointState,
    pub ring: Ring,
    /// The device had nothing to say: it is asked again when it rings.
    pub waiting: bool,
    /// Bytes that were transferred since the driver's last event of its own.
    pub transferred: u32,
}

/// A slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct Slot {
    enabled: bool,
    /// Where its contexts are.
    contexts: u64,
    /// The interrupter that the driver has chosen.
    pub(super) interrupter: usize,
    pub(super) endpoints: Vec<Endpoint>,
}

impl Slot {
    fn enabled() -> Self {
        let endpoints = vec![Endpoint::default(); ENDPOINTS];
        Slot { enabled: true, endpoints, ..Slot::default() }
    }
}

/// A context as it lies in memory.
type Context = [u32; 8];

/// Why a command was refused: its completion code.
type Refusal = u8;

/// Words of a slot's context.
mod slot_word {
    /// The way from the root port, and how many contexts there are.
    pub const ROUTE: usize = 0;
    pub const PORT: usize = 1;
    pub const INTERRUPTER: usize = 2;
    pub const STATE: usize = 3;
}

impl Xhci {
    fn load(&self, at: u64) -> Result<Context, Refusal> {
        let mut bytes = [0; CONTEXT as usize];
        if !self.wires.dma.read(at, &mut bytes) {
            return Err(code::TRB);
        }
        let (words, _) = bytes.as_chunks::<4>();
        Ok(std::array::from_fn(|n| u32::from_le_bytes(words[n])))
    }

    fn store(&self, at: u64, context: &Context) {
        let bytes = context.map(u32::to_le_bytes);
        self.wires.dma.write(at, bytes.as_flattened());
    }

    /// The slot of a number, which begins at 1.
    fn slot(&mut self, number: usize) -> Result<&mut Slot, Refusal> {
        let slot = number.checked_sub(1).and_then(|n| self.st.slots.get_mut(n));
        slot.filter(|slot| slot.enabled).ok_or(code::SLOT_NOT_ENABLED)
    }

    /// The slot of a number, once it has contexts.
    fn addressed(&mut self, number: usize) -> Result<u64, Refusal> {
        match self.slot(number)?.contexts {
            0 => Err(code::CONTEXT_STATE),
            contexts => Ok(contexts),
        }
    }

    /// An endpoint of a slot; numbers begin at 1.
    pub(super) fn endpoint(&mut self, slot: usize, id: usize) -> Option<&mut Endpoint> {
        let slot = self.slot(slot).ok()?;
        slot.endpoints.get_mut(id.checked_sub(1)?)
    }

    /// Makes an endpoint's context in memory follow.
    pub(super) fn publish(&mut self, slot: usize, id: usize) {
        let Some(&mut Endpoint { state, ring, .. }) = self.endpoint(slot, id) else { return };
        let Ok(contexts) = self.addressed(slot) else { return };
        let at = contexts + CONTEXT * id as u64;
        let Ok(mut context) = self.load(at) else { return };
        context[0] = context[0] & !7 | state as u32;
        let pointer = ring.pointer();
        (context[2], context[3]) = (pointer as u32, (pointer >> 32) as u32);
        self.store(at, &context);
    }

    pub(super) fn enable_slot(&mut self) -> Result<usize, Refusal> {
        let free = self.st.slots.iter().position(|slot| !slot.enabled).ok_or(code::NO_SLOTS)?;
        self.st.slots[free] = Slot::enabled();
        Ok(free + 1)
    }

    pub(super) fn disable_slot(&mut self, number: usize) -> Result<(), Refusal> {
        *self.slot(number)? = Slot::default();
        self.functions[number - 1] = None;
        Ok(())
    }

    fn enable_endpoint(
        &mut self,
        slot: usize,
        id: usize,
        context: &Context,
    ) -> Result<(), Refusal> {
        let contexts = self.addressed(slot)?;
        let pointer = u64::from(context[3]) << 32 | u64::from(context[2]);
        let endpoint = self.endpoint(slot, id).ok_or(code::TRB)?;
        *endpoint = Endpoint {
            state: EndpointState::Running,
            ring: Ring::new(pointer),
            ..Endpoint::default()
        };
        let mut context = *context;
        context[0] = context[0] & !7 | EndpointState::Running as u32;
        self.store(contexts + CONTEXT * id as u64, &context);
        Ok(())
    }

    fn disable_endpoint(&mut self, slot: usize, id: usize) {
        if let Some(endpoint) = self.endpoint(slot, id)
            && endpoint.state != EndpointState::Disabled
        {
            *endpoint = Endpoint::default();
            self.publish(slot, id);
        }
    }

    pub(super) fn address_device(&mut self, trb: &Trb) -> Result<(), Refusal> {
        let number = trb.slot();
        self.slot(number)?;
        let input = trb.parameter & !0xf;
        let table = self.st.contexts.checked_add(8 * number as u64).ok_or(code::TRB)?;
        let mut pointer = [0; 8];
        if !self.wires.dma.read(table, &mut pointer) {
            return Err(code::TRB);
        }
        let contexts = u64::from_le_bytes(pointer) & !0x3f;
        let fits = |at: u64| at.checked_add(CONTEXT * (ENDPOINTS as u64 + 2)).is_some();
        let [drop, add, ..] = self.load(input)?;
        if !fits(input) || !fits(contexts) || contexts == 0 || drop & !3 != 0 || add != 3 {
            return Err(code::TRB);
        }
        let mut slot_context = self.load(input + CONTEXT)?;
        let control = self.load(input + 2 * CONTEXT)?;
        let port = (slot_context[slot_word::PORT] >> 16) as usize & 0xff;
        let route = slot_context[slot_word::ROUTE] & 0xf_ffff;
        let path = self.path_of(port, route).ok_or(code::TRB)?;
        let device = self.bus.at_port(&path).ok_or(code::TRANSACTION)?;
        let taken = |(n, other): (usize, &Option<_>)| {
            n + 1 != number
                && other.as_ref().is_some_and(|other| std::sync::Arc::ptr_eq(other, &device))
        };
        if self.functions.iter().enumerate().any(taken) {
            return Err(code::TRB);
        }
        device.reset();
        let state = if trb.has(flag::SPECIAL) {
            slot_state::DEFAULT
        } else {
            device.set_address(number as u8);
            slot_state::ADDRESSED
        };
        self.functions[number - 1] = Some(device);
        let slot = self.slot(number)?;
        slot.contexts = contexts;
        slot.interrupter = (slot_context[slot_word::INTERRUPTER] >> 22) as usize;
        let address = if state == slot_state::ADDRESSED { number as u32 } else { 0 };
        slot_context[slot_word::STATE] = state << 27 | address;
        self.store(contexts, &slot_context);
        self.enable_endpoint(number, 1, &control)
    }

    pub(super) fn configure_endpoint(&mut self, trb: &Trb) -> Result<(), Refusal> {
        let number = trb.slot();
        let contexts = self.addressed(number)?;
        let mut slot_context = self.load(contexts)?;
        if trb.has(flag::SPECIAL) {
            (2..=ENDPOINTS).for_each(|id| self.disable_endpoint(number, id));
            set_slot_state(&mut slot_context, slot_state::ADDRESSED);
            self.store(contexts, &slot_context);
            return Ok(());
        }
        if slot_context[slot_word::STATE] >> 27 < slot_state::ADDRESSED {
            return Err(code::CONTEXT_STATE);
        }
        let input = trb.parameter & !0xf;
        let [drop, add, ..] = self.load(input)?;
        let input_slot = self.load(input + CONTEXT)?;
        if drop & 3 != 0 || add & 3 != 1 {
            return Err(code::TRB);
        }
        for id in 2..=ENDPOINTS {
            if (drop | add) & 1 << id != 0 {
                self.disable_endpoint(number, id);
            }
            if add & 1 << id != 0 {
                let context = self.load(input + CONTEXT * (id as u64 + 1))?;
                self.enable_endpoint(number, id, &context)?;
            }
        }
        let entries = 0x1f << 27;
        slot_context[slot_word::ROUTE] =
            slot_context[slot_word::ROUTE] & !entries | input_slot[slot_word::ROUTE] & entries;
        set_slot_state(&mut slot_context, slot_state::CONFIGURED);
        self.store(contexts, &slot_context);
        Ok(())
    }

    pub(super) fn evaluate_context(&mut self, trb: &Trb) -> Result<(), Refusal> {
        let number = trb.slot();
        let contexts = self.addressed(number)?;
        let input = trb.parameter & !0xf;
        let [drop, add, ..] = self.load(input)?;
        if drop != 0 || add & !3 != 0 {
            return Err(code::TRB);
        }
        if add & 1 != 0 {
            let new = self.load(input + CONTEXT)?;
            let mut context = self.load(contexts)?;
            let (latency, target) = (0xffff, 0x3ff << 22);
            context[slot_word::PORT] =
                context[slot_word::PORT] & !latency | new[slot_word::PORT] & latency;
            context[slot_word::INTERRUPTER] =
                context[slot_word::INTERRUPTER] & !target | new[slot_word::INTERRUPTER] & target;
            self.slot(number)?.interrupter = (new[slot_word::INTERRUPTER] >> 22) as usize;
            self.store(contexts, &context);
        }
        if add & 2 != 0 {
            let new = self.load(input + 2 * CONTEXT)?;
            let mut context = self.load(contexts + CONTEXT)?;
            let max_packet = 0xffff << 16;
            context[1] = context[1] & !max_packet | new[1] & max_packet;
            self.store(contexts + CONTEXT, &context);
        }
        Ok(())
    }

    /// Takes an endpoint from one state to another; it has to be in the first.
    fn change(
        &mut self,
        trb: &Trb,
        from: &[EndpointState],
        change: impl FnOnce(&mut Endpoint),
    ) -> Result<(), Refusal> {
        let (number, id) = (trb.slot(), trb.endpoint());
        self.addressed(number)?;
        let endpoint = self.endpoint(number, id).ok_or(code::TRB)?;
        if endpoint.state == EndpointState::Disabled {
            return Err(code::ENDPOINT_NOT_ENABLED);
        }
        if !from.contains(&endpoint.state) {
            return Err(code::CONTEXT_STATE);
        }
        change(endpoint);
        self.publish(number, id);
        Ok(())
    }

    pub(super) fn reset_endpoint(&mut self, trb: &Trb) -> Result<(), Refusal> {
        self.change(trb, &[EndpointState::Halted], |endpoint| {
            endpoint.state = EndpointState::Stopped;
        })
    }

    pub(super) fn stop_endpoint(&mut self, trb: &Trb) -> Result<(), Refusal> {
        let (slot, id) = (trb.slot(), trb.endpoint());
        if self.endpoint(slot, id).is_some_and(|endpoint| endpoint.waiting) {
            self.report_stopped(slot, id);
        }
        self.change(trb, &[EndpointState::Running], |endpoint| {
            endpoint.state = EndpointState::Stopped;
            endpoint.waiting = false;
        })
    }

    pub(super) fn set_dequeue(&mut self, trb: &Trb) -> Result<(), Refusal> {
        self.change(trb, &[EndpointState::Stopped], |endpoint| {
            endpoint.ring = Ring::new(trb.parameter);
        })
    }

    pub(super) fn reset_device(&mut self, number: usize) -> Result<(), Refusal> {
        let contexts = self.addressed(number)?;
        (2..=ENDPOINTS).for_each(|id| self.disable_endpoint(number, id));
        let mut context = self.load(contexts)?;
        context[slot_word::STATE] = slot_state::DEFAULT << 27;
        self.store(contexts, &context);
        Ok(())
    }
}

fn set_slot_state(context: &mut Context, state: u32) {
    context[slot_word::STATE] = context[slot_word::STATE] & 0x07ff_ffff | state << 27;
}
