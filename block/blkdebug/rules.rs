//! What a test wants to go wrong, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::options::config::parse_config;
use event_listener::Event;
use serde_json::Value;

use crate::options::Options;
use crate::{Error, Result};

/// What happens to an image, by the names that options and `qemu-io` have for it.
pub const EVENTS: [&str; 48] = [
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    ALWAYS,
];

/// The event of rules that hold from the beginning.
const ALWAYS: &str = "none";

/// Kinds of requests, by the names that `iotype` has for them.
pub const KINDS: [&str; 6] = ["read", "write", "write-zeroes", "discard", "flush", "block-status"];

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

#[derive(Clone, Debug)]
struct Fault {
    errno: i32,
    /// A bit for each kind.
    kinds: u8,
    /// Only requests that touch this byte.
    at: Option<u64>,
    once: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Fail(Fault),
    Enter(u32),
    /// The next request that comes by is held, under this tag.
    Hold(String),
}

#[derive(Clone, Debug)]
struct Rule {
    id: u64,
    event: &'static str,
    /// Only in this state; 0 for any.
    state: u32,
    action: Action,
}

/// Opens when a request may go on.
#[derive(Default)]
pub struct Gate {
    open: AtomicBool,
    opened: Event,
}

impl Gate {
    pub async fn pass(&self) {
        while !self.open.load(Ordering::Acquire) {
            // Listening first: what happens after the look is heard.
            let listener = self.opened.listen();
            if !self.open.load(Ordering::Acquire) {
                listener.await;
            }
        }
    }

    fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.opened.notify(usize::MAX);
    }
}

/// All rules, and what they have led to.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Rule>,
    state: u32,
    /// The rules by which requests fail now.
    active: Vec<u64>,
    held: Vec<(String, Arc<Gate>)>,
    /// For the terminal of a tool.
    said: Vec<String>,
    last_id: u64,
}

fn invalid_value(value: &str) -> Error {
    Error::invalid(format!("invalid parameter value: {value}"))
}

fn find(names: &'static [&'static str], name: &str) -> Option<(usize, &'static str)> {
    names.iter().copied().enumerate().find(|(_, known)| *known == name)
}

fn event_of(options: &mut Options) -> Result<&'static str> {
    let name = options.text("event");
    let name = name.ok_or_else(|| Error::invalid("Missing event name for rule"))?;
    find(&EVENTS, &name).map(|(_, event)| event).ok_or_else(|| invalid_value(&name))
}

impl Rules {
    /// The rules of a configuration file and of options, which are taken out.
    pub fn take(config: Option<&str>, options: &mut Options) -> Result<Self> {
        let mut rules = Self { state: 1, ..Self::default() };
        if let Some(name) = config {
            rules.read_config(name)?;
        }
        for section in ["inject-error", "set-state"] {
            let mut all = options.below(section);
            for index in 0.. {
                let rule = all.below(&index.to_string());
                if rule.is_empty() {
                    break;
                }
                rules.add(section, rule)?;
            }
            if let Some(key) = all.first_key() {
                let text = format!("Unused option '{key}' for [{section}]");
                return Err(Error::invalid(text));
            }
        }
        rules.reach(ALWAYS);
        Ok(rules)
    }

    fn read_config(&mut self, name: &str) -> Result<()> {
        let bytes = std::fs::read(name)
            .map_err(|error| Error::from(error).context("Could not read blkdebug config file"))?;
        let sections = parse_config(&String::from_utf8_lossy(&bytes));
        for section in sections.map_err(|error| Error::invalid(error.to_string()))? {
            let known: &[&str] = match section.group.as_str() {
                "inject-error" => {
                    &["event", "state", "iotype", "errno", "sector", "once", "immediately"]
                }
                "set-state" => &["event", "state", "new_state"],
                other => {
                    let text = format!("There is no option group '{other}'");
                    return Err(Error::invalid(text));
                }
            };
            let mut options = Options::default();
            for (key, value) in section.opts.entries {
                if !known.contains(&key.as_str()) {
                    return Err(Error::invalid(format!("Invalid parameter '{key}'")));
                }
                options.set(&key, Value::String(value));
            }
            self.add(&section.group, options)?;
        }
        Ok(())
    }

    fn add(&mut self, section: &str, mut options: Options) -> Result<()> {
        // What is no number is found before all else.
        let state = options.number("state")?.unwrap_or(0) as u32;
        let new_state = options.number("new_state")?.unwrap_or(0) as u32;
        let errno = options.number("errno")?.unwrap_or(libc::EIO.into()) as i32;
        let sector = options.number("sector")?.and_then(|n| u64::try_from(n).ok());
        let event = event_of(&mut options)?;
        let action = if section == "set-state" {
            Action::Enter(new_state)
        } else {
            let kinds = match options.text("iotype") {
                // Who asks where the data is gets an answer, unless a rule says otherwise.
                None => (1 << Kind::BlockStatus as u8) - 1,
                Some(name) => match find(&KINDS, &name) {
                    Some((bit, _)) => 1 << bit,
                    None => return Err(invalid_value(&name)),
                },
            };
            let once = options.flag("once")?.unwrap_or(false);
            // Whether the caller hears it before it waits: here nobody can tell the difference.
            options.flag("immediately")?;
            let at = sector.and_then(|sector| sector.checked_mul(512));
            Action::Fail(Fault { errno, kinds, at, once })
        };
        if let Some(key) = options.first_key() {
            let text = format!("[{section}] section doesn't support the option '{key}'");
            return Err(Error::invalid(text));
        }
        self.push(event, state, action);
        Ok(())
    }

    fn push(&mut self, event: &'static str, state: u32, action: Action) {
        self.last_id += 1;
        self.rules.push(Rule { id: self.last_id, event, state, action });
    }

    /// An event: returns what the request that came to it has to pass.
    pub fn reach(&mut self, event: &str) -> Vec<Arc<Gate>> {
        let state = self.state;
        let now = |rule: &&Rule| rule.event == event && (rule.state == 0 || rule.state == state);
        let (mut failing, mut holding) = (Vec::new(), Vec::new());
        for rule in self.rules.iter().filter(now) {
            match &rule.action {
                Action::Fail(_) => failing.push(rule.id),
                Action::Enter(next) => self.state = *next,
                Action::Hold(tag) => holding.push((rule.id, tag.clone())),
            }
        }
        // What was active stays so until other errors take its place.
        if !failing.is_empty() {
            self.active = failing;
        }
        let mut gates = Vec::new();
        for (id, tag) in holding {
            self.rules.retain(|rule| rule.id != id);
            self.said.push(format!("blkdebug: Suspended request '{tag}'\n"));
            let gate = Arc::<Gate>::default();
            gates.push(gate.clone());
            self.held.push((tag, gate));
        }
        gates
    }

    /// Whether a request succeeds, so far as rules go.
    pub fn check(&mut self, kind: Kind, at: u64, len: u64) -> Result<()> {
        let mut found = None;
        for id in &self.active {
            let rule = self.rules.iter().find(|rule| rule.id == *id);
            let Some(Action::Fail(fault)) = rule.map(|rule| &rule.action) else { continue };
            let inside = fault.at.is_none_or(|byte| byte >= at && byte - at < len);
            if fault.kinds & (1 << kind as u8) != 0 && inside {
                found = Some((*id, fault.errno, fault.once));
                break;
            }
        }
        match found {
            // It hides the rules behind it, and fails nothing.
            None | Some((_, 0, _)) => Ok(()),
            Some((id, errno, once)) => {
                if once {
                    self.active.retain(|other| *other != id);
                    self.rules.retain(|rule| rule.id != id);
                }
                Err(Error::from_errno(errno))
            }
        }
    }

    /// Holds the next request that comes to an event.
    pub fn hold(&mut self, event: &str, tag: &str) -> Result<()> {
        let found = find(&EVENTS, event).ok_or_else(|| Error::from_errno(libc::ENOENT))?;
        self.push(found.1, 0, Action::Hold(tag.to_owned()));
        Ok(())
    }

    /// Lets one request under a tag go on; whether there was one.
    pub fn resume(&mut self, tag: &str) -> bool {
        let Some(at) = self.held.iter().position(|(held, _)| held == tag) else { return false };
        self.said.push(format!("blkdebug: Resuming request '{tag}'\n"));
        self.held.remove(at).1.open();
        true
    }

    /// Forgets a tag and lets all its requests go on; whether a breakpoint was still waiting for one.
    pub fn forget(&mut self, tag: &str) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| !matches!(&rule.action, Action::Hold(holding) if holding == tag));
        while self.resume(tag) {}
        self.rules.len() < before
    }

    pub fn is_held(&self, tag: &str) -> bool {
        self.held.iter().any(|(held, _)| held == tag)
    }

    pub fn take_said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules> {
        Rules::take(None, &mut Options::from_pairs(text).unwrap().0)
    }

    #[test]
    fn errors_come_after_their_event_and_in_their_state() {
        let mut rules = rules(
            "inject-error.0.event=l2_load,inject-error.0.errno=28,inject-error.0.once=on,\
             inject-error.1.event=pwritev,inject-error.1.state=2,inject-error.1.sector=2,\
             set-state.0.event=read_aio,set-state.0.state=1,set-state.0.new_state=2",
        )
        .unwrap();
        assert_eq!(rules.check(Kind::Read, 0, 512), Ok(()));
        rules.reach("l2_load");
        assert_eq!(rules.check(Kind::BlockStatus, 0, 512), Ok(()));
        assert_eq!(rules.check(Kind::Read, 0, 512).unwrap_err().errno(), libc::ENOSPC);
        assert_eq!(rules.check(Kind::Read, 0, 512), Ok(()));
        rules.reach("pwritev");
        assert_eq!(rules.check(Kind::Write, 1024, 512), Ok(()));
        rules.reach("read_aio");
        rules.reach("pwritev");
        assert_eq!(rules.check(Kind::Write, 512, 512), Ok(()));
        assert_eq!(rules.check(Kind::Write, 0, 1025).unwrap_err().errno(), libc::EIO);
        // It stays active.
        assert!(rules.check(Kind::Write, 1024, 1).is_err());
    }

    #[test]
    fn one_request_is_held_for_each_breakpoint() {
        let mut rules = rules("").unwrap();
        assert_eq!(rules.hold("nothing", "A").unwrap_err().errno(), libc::ENOENT);
        rules.hold("write_aio", "A").unwrap();
        assert_eq!(rules.reach("write_aio").len(), 1);
        assert!(rules.is_held("A") && rules.reach("write_aio").is_empty());
        assert!(rules.resume("A") && !rules.resume("A") && !rules.forget("A"));
        rules.hold("write_aio", "B").unwrap();
        assert!(rules.forget("B") && rules.reach("write_aio").is_empty());
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults_are_qemus() {
        for (text, refusal) in [
            ("inject-error.0.state=1", "Missing event name for rule"),
            ("inject-error.0.event=foo", "invalid parameter value: foo"),
            (
                "inject-error.0.event=read_aio,inject-error.0.foo=1",
                "[inject-error] section doesn't support the option 'foo'",
            ),
            ("inject-error.1.event=read_aio", "Unused option '1.event' for [inject-error]"),
        ] {
            assert_eq!(rules(text).err().unwrap().to_string(), refusal);
        }
    }
}
