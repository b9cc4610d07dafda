//! Nodes get other options while they are in use (`blockdev-reopen`). All changes are made ready before
//! the first is made.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::backend::{Backend, Hold};
use crate::driver::{Change, Reopening};
use crate::engine::block_on;
use crate::graph::Graph;
use crate::name;
use crate::node::{DetectZeroes, Manner, Node, Role};
use crate::options::{ChildOptions, Options};
use crate::{Error, Result};

/// Options of every node, which have defaults.
const COMMON: [&str; 9] = [
    "node-name",
    "driver",
    "read-only",
    "auto-read-only",
    "force-share",
    "discard",
    "detect-zeroes",
    "cache.direct",
    "cache.no-flush",
];

fn fixed(key: &str) -> Error {
    Error::invalid(format!("Cannot change the option '{key}'"))
}

/// What becomes of a node.
struct Plan {
    node: Arc<Node>,
    /// What only its driver knows.
    options: Options,
    manner: Manner,
    read_only: bool,
    /// What backs it from now on, if that changes.
    backing: Option<Option<Arc<Node>>>,
}

/// What a node has from the one above, unless it says otherwise.
#[derive(Clone, Copy)]
struct Inherited {
    read_only: bool,
    no_flush: bool,
    direct: bool,
}

impl Graph {
    /// Gives nodes, each with its `node-name`, all the options that they are to have.
    pub fn reopen(&self, trees: Vec<Map<String, Value>>) -> Result<()> {
        let mut plans = Vec::new();
        for tree in trees {
            let Some(name) = tree.get("node-name").and_then(Value::as_str) else {
                return Err(Error::invalid("node-name not specified"));
            };
            let missing = || Error::invalid(format!("Failed to find node with node-name='{name}'"));
            let node = self.node(name).ok_or_else(missing)?;
            let top = Inherited { read_only: false, no_flush: false, direct: false };
            self.plan(&node, Options::from_tree(tree), top, &mut plans)?;
        }
        let _quiet: Vec<Hold> = plans.iter().flat_map(|plan| self.hold_above(&plan.node)).collect();
        let mut changes = Vec::new();
        for plan in &plans {
            let Manner { discard: discards, direct, .. } = plan.manner;
            let around = Reopening { discards, direct, graph: self };
            changes.push(prepare(&plan.node, plan.options.clone(), &around)?);
        }
        make(&plans, changes)?;
        for Plan { node, options, .. } in &plans {
            let name = node.driver().name();
            if let Some(file) = node.child(Role::File).filter(|_| name::tells_options(name)) {
                node.set_filename(&name::of_layer(name, &file, options));
            }
        }
        let replaced = plans.iter().filter(|plan| plan.backing.is_some());
        replaced.for_each(|plan| self.rename_above(&plan.node));
        Ok(())
    }

    /// Names of images tell what backs them, where the images do not say so themselves.
    fn rename_above(&self, node: &Node) {
        let mut above = self.nodes();
        let has_backing = |node: &Node| {
            node.child(Role::Backing).is_some() || node.driver().backing_name().is_some()
        };
        above.retain(|other| other.reaches(node) && has_backing(other));
        // From below.
        above.sort_by_key(|node| height(node));
        above.iter().for_each(|node| node.set_filename(&name::with_what_backs(node)));
    }

    /// Nothing is in flight in back ends that reach a node.
    fn hold_above(&self, node: &Node) -> Vec<Hold> {
        let reach = |backend: &&Arc<Backend>| backend.node().is_some_and(|top| top.reaches(node));
        self.backends().iter().filter(reach).map(Backend::hold).collect()
    }

    /// Plans for a node, and for the children that were opened with it.
    fn plan(
        &self,
        node: &Arc<Node>,
        mut options: Options,
        above: Inherited,
        plans: &mut Vec<Plan>,
    ) -> Result<()> {
        if options.text("node-name").is_some_and(|name| name != node.name()) {
            return Err(fixed("node-name"));
        }
        if options.text("driver").is_some_and(|driver| driver != node.driver().name()) {
            return Err(fixed("driver"));
        }
        let read_only = options.flag("read-only")?.unwrap_or(above.read_only);
        options.flag("auto-read-only")?;
        let old = node.manner();
        if options.flag("force-share")?.unwrap_or(false) != old.force_share {
            return Err(fixed("force-share"));
        }
        let manner = Manner {
            discard: match options.text("discard").as_deref() {
                // Unlike all else it stays.
                None => old.discard,
                Some(word) => word == "unmap",
            },
            no_flush: options.flag("cache.no-flush")?.unwrap_or(above.no_flush),
            direct: options.flag("cache.direct")?.unwrap_or(above.direct),
            ..old
        };
        let manner =
            Manner { detect_zeroes: DetectZeroes::take(&mut options, manner.discard)?, ..manner };
        let backing = self.plan_backing(node, &mut options, plans)?;
        let below = Inherited { read_only, no_flush: manner.no_flush, direct: manner.direct };
        for (role, child) in node.children().into_iter().filter(|(r, _)| *r != Role::Backing) {
            let key = role.name();
            let is_own = !self.is_owned(&child);
            match options.clone().child(&key) {
                ChildOptions::Inline(_) if is_own => {
                    self.plan(&child, options.below(&key), below, plans)?;
                }
                ChildOptions::Reference(name) if name == child.name() => {
                    options.text(&key);
                }
                ChildOptions::Reference(name) => {
                    self.find_node(&name)?;
                    return Err(fixed(&key));
                }
                ChildOptions::Nothing => drop(self.find_node("")?),
                _ => {}
            }
        }
        plans.push(Plan { node: node.clone(), options, manner, read_only, backing });
        Ok(())
    }

    /// What is to back a node from now on, if that changes.
    fn plan_backing(
        &self,
        node: &Arc<Node>,
        options: &mut Options,
        plans: &mut Vec<Plan>,
    ) -> Result<Option<Option<Arc<Node>>>> {
        let old = node.child(Role::Backing);
        let said = options.clone().child("backing");
        match (said, old) {
            (ChildOptions::Absent, None) if node.driver().backing_name().is_none() => Ok(None),
            (ChildOptions::Absent, _) => {
                Err(Error::invalid(format!("backing is missing for '{}'", node.name())))
            }
            (ChildOptions::Nothing, old) => {
                options.text("backing");
                Ok(old.map(|_| None))
            }
            (ChildOptions::Reference(name), old) => {
                options.text("backing");
                let new = self.find_node(&name)?;
                if old.is_some_and(|old| Arc::ptr_eq(&old, &new)) {
                    return Ok(None);
                }
                if new.reaches(node) {
                    let (below, above) = (new.name(), node.name());
                    return Err(Error::invalid(format!(
                        "Making '{below}' a backing child of '{above}' would create a cycle"
                    )));
                }
                Ok(Some(Some(new)))
            }
            (ChildOptions::Inline(_), Some(old)) if !self.is_owned(&old) => {
                let Manner { no_flush, direct, .. } = node.manner();
                let below = Inherited { read_only: true, no_flush, direct };
                self.plan(&old, options.below("backing"), below, plans)?;
                Ok(None)
            }
            // What is left is refused with the rest.
            (ChildOptions::Inline(_), _) => Ok(None),
        }
    }

    fn find_node(&self, name: &str) -> Result<Arc<Node>> {
        let missing = || Error::invalid(format!("Cannot find device='' nor node-name='{name}'"));
        self.node(name).ok_or_else(missing)
    }
}

/// How many nodes are below each other from here.
fn height(node: &Node) -> usize {
    1 + node.children().iter().map(|(_, child)| height(child)).max().unwrap_or(0)
}

/// Has the driver take its options. What it can not change must be as it was.
fn prepare<'a>(
    node: &'a Arc<Node>,
    mut options: Options,
    around: &Reopening<'_>,
) -> Result<Change<'a>> {
    let driver = node.driver();
    let none = Options::default();
    let said = node.said().unwrap_or(&none);
    let children: Vec<String> =
        node.children().iter().map(|(role, _)| role.name().into_owned()).collect();
    let is_child = |key: &str| {
        let first = key.split('.').next().unwrap_or(key);
        first == "backing" || children.iter().any(|child| child == key || child == first)
    };
    let can_change = |key: &str| driver.changeable().iter().any(|known| is_part(key, known));
    for (key, _) in said.iter() {
        if !COMMON.contains(&key) && !is_child(key) && !can_change(key) && !options.has(key) {
            let text = format!("Option '{key}' cannot be reset to its default value");
            return Err(Error::invalid(text));
        }
    }
    let change = driver.prepare(&mut options, around)?;
    let differs =
        |(key, value): &(&str, &Value)| said.get(key).is_none_or(|old| !alike(old, value));
    // The option itself is named rather than a part of it.
    let depth = |(key, _): &(&str, &Value)| (key.matches('.').count(), (*key).to_owned());
    match options.iter().filter(differs).min_by_key(depth) {
        Some((key, _)) => Err(fixed(key)),
        None => Ok(change),
    }
}

/// Whether a key is an option, or belongs to one with parts.
fn is_part(key: &str, option: &str) -> bool {
    key.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether two values mean the same, be they typed or text.
fn alike(one: &Value, other: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text(one) == text(other)
}

/// Changes what can be refused first, so that it can be taken back.
fn make(plans: &[Plan], changes: Vec<Change<'_>>) -> Result<()> {
    let mut undo: Vec<Box<dyn FnOnce() + '_>> = Vec::new();
    let made = make_refusable(plans, &mut undo);
    if let Err(error) = made {
        undo.into_iter().rev().for_each(|undo| undo());
        return Err(error);
    }
    for (plan, change) in plans.iter().zip(changes) {
        block_on(change())?;
        plan.node.set_manner(plan.manner);
        plan.node.forget_len();
    }
    Ok(())
}

fn make_refusable<'p>(plans: &'p [Plan], undo: &mut Vec<Box<dyn FnOnce() + 'p>>) -> Result<()> {
    for plan in plans {
        let Some(new) = &plan.backing else { continue };
        let old = plan.node.child(Role::Backing);
        plan.node.set_backing(new.as_ref())?;
        // What was there was granted.
        undo.push(Box::new(move || drop(plan.node.set_backing(old.as_ref()))));
    }
    let changes = |plan: &&Plan| plan.read_only != plan.node.is_read_only();
    // Files become writable before what is in them, and stay so as long.
    let (closing, opening): (Vec<_>, Vec<_>) =
        plans.iter().filter(changes).partition(|plan| plan.read_only);
    for plan in opening.into_iter().chain(closing.into_iter().rev()) {
        block_on(plan.node.set_own_writable(!plan.read_only))?;
        let back = plan.read_only;
        undo.push(Box::new(move || drop(block_on(plan.node.set_own_writable(back)))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::*;
    use crate::backend::{DriveInfo, Request, Use};
    use crate::driver::Repair;
    use crate::engine::{Inline, Pool};
    use crate::open::create_file;
    use crate::qcow2::{self, CreateOptions};
    use crate::schema::Form;
    use crate::vector::Vector;

    const SIZE: u64 = 1 << 20;

    struct Bed {
        graph: Arc<Graph>,
        dir: tempfile::TempDir,
    }

    impl Bed {
        /// On a disk, which can be reached past the host's cache.
        fn new() -> Self {
            let graph = Graph::new(Arc::new(Inline)).unwrap();
            Bed { graph, dir: tempfile::tempdir_in("/var/tmp").unwrap() }
        }

        /// An image with a byte everywhere, if it is one, over another image.
        fn image(&self, name: &str, byte: Option<u8>, below: Option<&str>) {
            let path = self.path(name);
            let backing = below.map(|below| (self.path(below), Some("qcow2".to_owned())));
            let options = CreateOptions { size: SIZE, backing, ..CreateOptions::default() };
            block_on(async {
                let file = create_file(&path, Arc::new(Inline)).await.unwrap();
                qcow2::create(&file, &options).await.unwrap();
            });
            if let Some(byte) = byte {
                let node = self
                    .add(json!({"node-name": "fill", "driver": "qcow2", "backing": null,
                    "file": {"driver": "file", "filename": path}}));
                let bytes = vec![byte; SIZE as usize];
                block_on(node.write(0, Vector::from(&bytes[..]))).unwrap();
                block_on(node.close()).unwrap();
                drop(node);
                self.graph.remove_node("fill").unwrap();
            }
        }

        fn path(&self, name: &str) -> String {
            self.dir.path().join(name).to_str().unwrap().to_owned()
        }

        fn options(&self, name: &str, more: Value) -> Map<String, Value> {
            let mut options = json!({"node-name": name, "driver": "qcow2",
                "file": {"driver": "file", "filename": self.path(name)}});
            let all = options.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            all.clone()
        }

        fn add(&self, options: Value) -> Arc<Node> {
            self.graph.add_node(options.as_object().unwrap(), Form::Json).unwrap()
        }

        fn reopen(&self, name: &str, more: Value) -> Result<()> {
            self.graph.reopen(vec![self.options(name, more)])
        }
    }

    fn first(node: &Node) -> u8 {
        block_on(node.read_bytes(0, 1)).unwrap()[0]
    }

    #[test]
    fn another_image_shows_through() {
        let bed = Bed::new();
        bed.image("a", Some(0x11), None);
        bed.image("b", Some(0x22), None);
        bed.image("top", None, Some("a"));
        for name in ["a", "b"] {
            bed.add(bed.options(name, json!({"read-only": true})).into());
        }
        let top = bed.add(bed.options("top", json!({"backing": "a"})).into());
        assert_eq!((first(&top), top.filename()), (0x11, bed.path("top")));
        bed.reopen("top", json!({"backing": "b"})).unwrap();
        assert_eq!(first(&top), 0x22);
        assert!(top.filename().starts_with("json:{\"backing\": {\"driver\": \"qcow2\""));
        bed.graph.remove_node("a").unwrap();
        let error = bed.graph.remove_node("b").unwrap_err().to_string();
        assert_eq!(error, "Node 'b' is busy: node is used as backing hd of 'top'");
        bed.reopen("top", json!({"backing": null})).unwrap();
        assert_eq!(first(&top), 0);
        assert!(top.filename().starts_with("json:{\"backing\": null, "));
        bed.graph.remove_node("b").unwrap();
    }

    #[test]
    fn what_is_refused_leaves_all_as_it_was() {
        let bed = Bed::new();
        bed.image("a", None, None);
        bed.image("top", None, Some("a"));
        let a = bed.add(bed.options("a", json!({})).into());
        let top = bed.add(bed.options("top", json!({"backing": null})).into());
        // The last of them is written by somebody.
        let _writer = a.attach("device", Role::User, crate::node::Claim::WRITER).unwrap();
        let trees = vec![
            bed.options("top", json!({"backing": "a", "discard": "unmap"})),
            bed.options("a", json!({"read-only": true})),
        ];
        let error = bed.graph.reopen(trees).unwrap_err().to_string();
        assert!(error.contains("cannot support read-write users"), "{error}");
        assert!(top.child(Role::Backing).is_none() && !top.manner().discard);
        assert!(!a.is_read_only());
        let error = bed.reopen("top", json!({"backing": "top"})).unwrap_err().to_string();
        assert_eq!(error, "Making 'top' a backing child of 'top' would create a cycle");
    }

    /// A disk is written while the image below it is opened in all ways in turn.
    #[test]
    fn nothing_is_lost_while_options_change() {
        let graph = Graph::new(Arc::new(Pool::new())).unwrap();
        let bed = Bed { graph, ..Bed::new() };
        bed.image("a", None, None);
        let node = bed.add(bed.options("a", json!({})).into());
        let backend = bed.graph.add_backend("d", DriveInfo::default()).unwrap();
        backend.set_node(Some(node.clone())).unwrap();
        let what = Use { path: "d".into(), writes: true, ..Use::default() };
        backend.plug(what, None).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let (backend, over) = (backend.clone(), over.clone());
            move || {
                let mut rounds = 0u8;
                while !over.load(Ordering::Relaxed) || rounds == 0 {
                    rounds = rounds % 200 + 1;
                    for sector in (0..SIZE / 512).step_by(37) {
                        let bytes = [rounds; 512];
                        let (done, wait) = std::sync::mpsc::channel();
                        let from = Vector::from(&bytes[..]);
                        let request = Request::Write { at: sector * 512, from, fua: false };
                        backend.submit(request, Box::new(move |result| drop(done.send(result))));
                        wait.recv().unwrap().unwrap();
                    }
                }
                rounds
            }
        });
        let ways = [
            json!({"lazy-refcounts": true}),
            json!({"cache": {"direct": true}}),
            json!({"l2-cache-size": 65536, "overlap-check": "all"}),
            json!({"lazy-refcounts": true, "cache": {"no-flush": true}}),
            json!({"discard": "unmap", "detect-zeroes": "unmap", "pass-discard-other": true}),
            json!({}),
        ];
        for way in ways.iter().cycle().take(60) {
            bed.reopen("a", way.clone()).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        let rounds = writer.join().unwrap();
        for sector in (0..SIZE / 512).step_by(37) {
            assert_eq!(block_on(node.read_bytes(sector * 512, 512)).unwrap(), [rounds; 512]);
        }
        block_on(node.close()).unwrap();
        let report = block_on(node.driver().check(Repair::Nothing)).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
        assert!(!node.driver().is_dirty());
    }
}
