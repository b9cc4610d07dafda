//! What operators do to drives and disks while a machine runs: trays and media, lengths, overlays.
//! Called on the machine's main thread, with no device locked.

use std::sync::Arc;

use crate::backend::{Backend, Hold};
use crate::driver::{self, Preallocation, SnapshotTime};
use crate::engine::block_on;
use crate::graph::Graph;
use crate::node::{Node, Role};
use crate::open::{create_file, open_tree};
use crate::options::Options;
use crate::qcow2::{self, CreateOptions};
use crate::{Error, Result};

/// What `-sync` snapshots say when they make a file.
pub type Announce<'a> = &'a dyn Fn(&str);

fn fault<T>(text: String) -> Result<T> {
    Err(Error::invalid(text))
}

impl Backend {
    fn is_removable(&self) -> bool {
        // What no device uses can be changed as one likes.
        !self.is_used() || self.drive().is_some_and(|drive| drive.is_removable())
    }

    fn has_tray(&self) -> bool {
        self.drive().is_some_and(|drive| drive.has_tray())
    }

    fn tray_is_shut(&self) -> bool {
        self.drive().is_some_and(|drive| drive.has_tray() && !drive.is_tray_open())
    }

    fn must_be_removable(&self, called: &str) -> Result<()> {
        match self.is_removable() {
            true => Ok(()),
            false => fault(format!("Device '{called}' is not removable")),
        }
    }

    /// Opens the tray. A guest that keeps it shut is asked, and with `force` overruled; `called` is what
    /// the operator calls the drive.
    pub fn open_tray(&self, called: &str, force: bool) -> Result<()> {
        self.must_be_removable(called)?;
        let Some(drive) = self.drive() else { return Ok(()) };
        if !drive.has_tray() {
            return Err(Error::unsupported(format!("Device '{called}' does not have a tray")));
        }
        if drive.is_tray_open() {
            return Ok(());
        }
        let locked = drive.is_locked();
        if locked {
            drive.eject_requested(force);
        }
        if locked && !force {
            return fault(format!(
                "Device '{called}' is locked and force was not specified, wait for tray to open \
                 and try again"
            ));
        }
        self.change_medium(false);
        Ok(())
    }

    /// Shuts the tray, if there is one.
    pub fn close_tray(&self, called: &str) -> Result<()> {
        self.must_be_removable(called)?;
        if self.drive().is_some_and(|drive| drive.has_tray() && drive.is_tray_open()) {
            self.change_medium(true);
        }
        Ok(())
    }

    /// Takes the medium out.
    pub fn remove_medium(self: &Arc<Self>, called: &str) -> Result<()> {
        self.must_be_removable(called)?;
        if self.tray_is_shut() {
            return fault(format!("Tray of device '{called}' is not open"));
        }
        let Some(node) = self.node() else { return Ok(()) };
        {
            let _hold = self.hold();
            block_on(node.flush())?;
            self.set_node(None)?;
        }
        if !self.has_tray() {
            self.change_medium(false);
        }
        Ok(())
    }

    /// Puts a medium in.
    pub fn insert_medium(self: &Arc<Self>, called: &str, node: Arc<Node>) -> Result<()> {
        self.must_be_removable(called)?;
        if self.tray_is_shut() {
            return fault(format!("Tray of device '{called}' is not open"));
        }
        if self.present() {
            return fault(format!("There already is a medium in device '{called}'"));
        }
        {
            let _hold = self.hold();
            self.set_node(Some(node))?;
        }
        if !self.has_tray() {
            self.change_medium(true);
        }
        Ok(())
    }

    /// Opens the tray, takes the medium out, and leaves it open.
    pub fn eject(self: &Arc<Self>, called: &str, force: bool) -> Result<()> {
        match self.open_tray(called, force) {
            // No tray: the medium is just taken out.
            Err(error) if error.errno() == libc::ENOTSUP => {}
            opened => opened?,
        }
        self.remove_medium(called)
    }
}

impl Graph {
    /// Exchanges the medium of a drive for another image.
    pub fn change_medium(
        &self,
        backend: &Arc<Backend>,
        called: &str,
        image: (&str, Option<&str>),
        read_only: Option<bool>,
        force: bool,
    ) -> Result<Vec<String>> {
        let (file, format) = image;
        let mut options = Options::default();
        if read_only.unwrap_or(backend.is_read_only()) {
            options.set("read-only", true);
        }
        if let Some(format) = format {
            options.set("driver", format);
        }
        let opened = block_on(open_tree(Some(file), options, &self.how(), Some(self)))?;
        backend.eject(called, force)?;
        backend.insert_medium(called, opened.node)?;
        backend.close_tray(called)?;
        Ok(opened.warnings)
    }

    /// Sets the length of a node and tells the devices over it.
    pub fn resize(&self, node: &Arc<Node>, len: u64) -> Result<()> {
        let users: Vec<_> = self.users(node);
        {
            let _holds: Vec<_> = users.iter().map(Backend::hold).collect();
            block_on(node.truncate(len, Preallocation::Off))?;
        }
        users.iter().filter_map(|backend| backend.drive()).for_each(|drive| drive.resized());
        Ok(())
    }

    /// Takes the image from a drive, whatever device has it, and forgets the drive.
    pub fn remove_drive(&self, backend: &Arc<Backend>) -> Result<()> {
        {
            let _hold = backend.hold();
            if let Some(node) = backend.node() {
                block_on(node.flush())?;
            }
            backend.set_node(None)?;
        }
        backend.forget();
        if !backend.is_used() {
            self.remove_backend(backend);
        }
        Ok(())
    }

    /// Gives what a disk's image has to the one that backs it.
    pub fn commit(&self, node: &Arc<Node>) -> Result<()> {
        let _holds: Vec<_> = self.users(node).iter().map(Backend::hold).collect();
        block_on(crate::commit::commit(node))
    }

    /// Keeps a disk as it is now, inside its image; `called` is what the operator calls it.
    pub fn keep(
        &self,
        node: &Arc<Node>,
        called: &str,
        name: &str,
        time: SnapshotTime,
    ) -> Result<()> {
        let _holds: Vec<_> = self.users(node).iter().map(Backend::hold).collect();
        let Some(snapshots) = node.driver().snapshots() else {
            let format = node.driver().name();
            return Err(Error::unsupported(format!(
                "Block format '{format}' used by device '{called}' does not support internal \
                 snapshots"
            )));
        };
        if name.is_empty() {
            return fault("Name is empty".into());
        }
        if node.is_read_only() {
            return fault(format!("Device '{called}' is read only"));
        }
        block_on(async {
            if snapshots.list().await?.iter().any(|known| known.name == name) {
                let text =
                    format!("Snapshot with name '{name}' already exists on device '{called}'");
                return Err(Error::invalid(text));
            }
            snapshots.create(name, time).await
        })
    }

    /// Forgets a snapshot inside an image: the one of an id, a name, or both. Returns what it was.
    pub fn forget_kept(
        &self,
        node: &Arc<Node>,
        called: &str,
        id: Option<&str>,
        name: Option<&str>,
    ) -> Result<driver::Snapshot> {
        let _holds: Vec<_> = self.users(node).iter().map(Backend::hold).collect();
        if id.is_none() && name.is_none() {
            return fault("Name or id must be provided".into());
        }
        let Some(snapshots) = node.driver().snapshots() else {
            return fault("Failed to get a snapshot list: Operation not supported".into());
        };
        let known = block_on(snapshots.list())?;
        let wanted = |known: &driver::Snapshot| {
            id.is_none_or(|id| id == known.id) && name.is_none_or(|name| name == known.name)
        };
        let Some(found) = known.into_iter().find(wanted) else {
            let (id, name) = (id.unwrap_or("null"), name.unwrap_or("null"));
            return fault(format!(
                "Snapshot with id '{id}' and name '{name}' does not exist on device '{called}'"
            ));
        };
        block_on(snapshots.delete(&found.id))?;
        Ok(found)
    }

    /// The back ends whose medium a node is.
    pub fn users(&self, node: &Arc<Node>) -> Vec<Arc<Backend>> {
        let over =
            |backend: &Arc<Backend>| backend.node().is_some_and(|top| Arc::ptr_eq(&top, node));
        self.backends().into_iter().filter(over).collect()
    }

    /// Removes a node that the operator made.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let missing = || Error::invalid(format!("Failed to find node with node-name='{name}'"));
        let node = self.node(name).ok_or_else(missing)?;
        if !self.users(&node).is_empty() {
            return fault(format!("Node {name} is in use"));
        }
        if !self.is_owned(&node) {
            return fault(format!("Node {name} is not owned by the monitor"));
        }
        let parents = node.parents();
        if let Some((above, _)) = parents.iter().find(|(_, role)| *role == Role::Backing) {
            let above = above.trim_start_matches("node ");
            return fault(format!("Node '{name}' is busy: node is used as backing hd of {above}"));
        }
        if !parents.is_empty() {
            return fault(format!("Block device {name} is in use"));
        }
        block_on(node.flush())?;
        self.disown(&node);
        Ok(())
    }

    /// Has writes to a disk go to a new file over it.
    pub fn snapshot(&self, node: &Arc<Node>, snapshot: &Snapshot<'_>) -> Result<()> {
        let draft = self.draft_snapshot(node, snapshot)?;
        self.finish_snapshot(draft)
    }

    /// Has writes to a disk go to a node that is there already, and has nothing.
    pub fn snapshot_to(&self, node: &Arc<Node>, overlay: &Arc<Node>) -> Result<()> {
        let draft = self.draft_snapshot_to(node, overlay)?;
        self.finish_snapshot(draft)
    }

    /// Refuses to put something over a node that is not the top of its disk.
    fn check_top(&self, node: &Arc<Node>) -> Result<()> {
        match node.parents().into_iter().find(|(holder, _)| holder.starts_with("node ")) {
            None => Ok(()),
            Some((holder, _)) => {
                let (name, holder) = (node.name(), holder.trim_start_matches("node "));
                fault(format!("Node '{name}' is busy: node is used as backing hd of {holder}"))
            }
        }
    }

    /// Makes an overlay that nobody uses before [`Self::finish_snapshot`]. Dropping it takes it back.
    pub fn draft_snapshot(&self, node: &Arc<Node>, snapshot: &Snapshot<'_>) -> Result<Draft> {
        self.check_top(node)?;
        if let Some(name) = snapshot.node_name {
            if self.node(name).is_some() {
                return fault("New overlay node-name already in use".into());
            }
            self.check_name(name)?;
        }
        if snapshot.create {
            self.create_overlay(node, snapshot)?;
        }
        let holds = self.users(node).iter().map(Backend::hold).collect();
        block_on(node.flush())?;
        let mut options = Options::default();
        options.set("driver", "qcow2");
        options.set("backing", node.name());
        if let Some(name) = snapshot.node_name {
            options.set("node-name", name);
        }
        if node.manner().no_flush {
            options.set("cache.no-flush", true);
        }
        if node.manner().direct {
            options.set("cache.direct", true);
        }
        if node.manner().discard {
            options.set("discard", "unmap");
        }
        let how = self.how();
        let overlay = block_on(open_tree(Some(snapshot.file), options, &how, Some(self)))?.node;
        Ok(Draft { node: node.clone(), overlay, _holds: holds })
    }

    /// The same with a node that is there.
    pub fn draft_snapshot_to(&self, node: &Arc<Node>, overlay: &Arc<Node>) -> Result<Draft> {
        self.check_top(node)?;
        if overlay.is_used() || !self.users(overlay).is_empty() {
            return fault("The overlay is already in use".into());
        }
        if overlay.child(Role::Backing).is_some() {
            return fault("The overlay already has a backing image".into());
        }
        if overlay.driver().name() != "qcow2" {
            return fault("The overlay does not support backing images".into());
        }
        let holds = self.users(node).iter().map(Backend::hold).collect();
        block_on(node.flush())?;
        Ok(Draft { node: node.clone(), overlay: overlay.clone(), _holds: holds })
    }

    /// Puts the overlay where the node was.
    pub fn finish_snapshot(&self, draft: Draft) -> Result<()> {
        let Draft { node, overlay, .. } = &draft;
        let users = self.users(node);
        if overlay.child(Role::Backing).is_none() {
            overlay.set_backing(Some(node))?;
        }
        for user in &users {
            user.set_node(Some(overlay.clone()))?;
        }
        node.set_read_only();
        // The file goes with it, unless the operator made it apart.
        let files = node.children().into_iter().filter(|(role, _)| *role == Role::File);
        files.filter(|(_, file)| !self.is_owned(file)).for_each(|(_, file)| file.set_read_only());
        Ok(())
    }

    fn create_overlay(&self, node: &Arc<Node>, snapshot: &Snapshot<'_>) -> Result<()> {
        let (backing, format) = (node.filename(), node.driver().name());
        let size = node.len()?;
        (snapshot.announce)(&format!(
            "Formatting '{}', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib \
             size={size} backing_file={backing} backing_fmt={format} lazy_refcounts=off \
             refcount_bits=16\n",
            snapshot.file
        ));
        block_on(async {
            let file = create_file(snapshot.file, self.io().clone()).await?;
            let backing = Some((backing.to_owned(), Some(format.to_owned())));
            let options = CreateOptions { size, backing, ..CreateOptions::default() };
            qcow2::create(&file, &options).await
        })
    }
}

/// An overlay that is ready. Until it is dropped, requests to the disk wait.
pub struct Draft {
    node: Arc<Node>,
    overlay: Arc<Node>,
    _holds: Vec<Hold>,
}

/// An overlay to be.
pub struct Snapshot<'a> {
    /// Its file.
    pub file: &'a str,
    /// The name of its node.
    pub node_name: Option<&'a str>,
    /// Whether the file is to be made.
    pub create: bool,
    /// Where to tell that it is made.
    pub announce: Announce<'a>,
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::backend::{Drive, DriveInfo, Request, Use};
    use crate::engine::Pool;
    use crate::schema::Form;
    use crate::vector::Vector;

    fn graph() -> Arc<Graph> {
        Graph::new(Arc::new(Pool::new())).unwrap()
    }

    fn file(graph: &Graph, name: &str, path: &str) -> Arc<Node> {
        let options = json!({"driver": "raw", "node-name": name,
            "file": {"driver": "file", "filename": path}});
        graph.add_node(options.as_object().unwrap(), Form::Json).unwrap()
    }

    /// A drive with a tray.
    #[derive(Default)]
    struct Tray {
        open: Mutex<bool>,
        locked: bool,
    }

    impl Drive for Tray {
        fn is_removable(&self) -> bool {
            true
        }
        fn has_tray(&self) -> bool {
            true
        }
        fn is_tray_open(&self) -> bool {
            *self.open.lock()
        }
        fn is_locked(&self) -> bool {
            self.locked
        }
        fn medium_changed(&self, loaded: bool) {
            *self.open.lock() = !loaded;
        }
    }

    fn text(result: Result<()>) -> String {
        result.map_or_else(|error| error.to_string(), |()| String::new())
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn media_come_and_go_through_an_open_tray() {
        let disc = tempfile::NamedTempFile::new().unwrap();
        disc.as_file().set_len(1 << 20).unwrap();
        let graph = graph();
        let node = file(&graph, "disc", disc.path().to_str().unwrap());
        for locked in [false, true] {
            let drive = graph.add_backend(&format!("cd{locked}"), DriveInfo::default()).unwrap();
            let tray = Arc::new(Tray { locked, ..Tray::default() });
            let listener: Weak<dyn Drive> = Arc::downgrade(&(tray.clone() as Arc<dyn Drive>));
            drive.plug(Use { id: Some("cd".into()), ..Use::default() }, Some(listener)).unwrap();
            assert_eq!(text(drive.remove_medium("cd")), "Tray of device 'cd' is not open");
            let refusal = text(drive.open_tray("cd", false));
            assert_eq!(refusal.starts_with("Device 'cd' is locked and force"), locked, "{refusal}");
            drive.open_tray("cd", true).unwrap();
            drive.insert_medium("cd", node.clone()).unwrap();
            let again = text(drive.insert_medium("cd", node.clone()));
            assert_eq!(again, "There already is a medium in device 'cd'");
            drive.close_tray("cd").unwrap();
            assert_eq!(text(graph.remove_node("disc")), "Node disc is in use");
            assert_eq!(drive.len().unwrap(), 1 << 20);
            drive.eject("cd", true).unwrap();
            assert!(!drive.present() && tray.is_tray_open());
        }
        drop(node);
        assert_eq!(text(graph.remove_node("disc")), "");
        let missing = "Failed to find node with node-name='disc'";
        assert_eq!(text(graph.remove_node("disc")), missing);
    }

    #[test]
    fn an_overlay_takes_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("base"), vec![1; 1 << 20]).unwrap();
        let graph = graph();
        let base = file(&graph, "base", &path("base"));
        let drive = graph.add_backend("hd", DriveInfo::default()).unwrap();
        drive.set_node(Some(base.clone())).unwrap();
        drive.plug(Use { writes: true, ..Use::default() }, None).unwrap();
        let overlay = Snapshot {
            file: &path("top"),
            node_name: Some("top"),
            create: true,
            announce: &|text| assert!(text.starts_with("Formatting '"), "{text}"),
        };
        graph.snapshot(&base, &overlay).unwrap();
        let (send, done) = std::sync::mpsc::channel();
        let request = Request::Write { at: 512, from: Vector::from(&[7; 512][..]), fua: true };
        drive.submit(request, Box::new(move |result| send.send(result).unwrap()));
        done.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
        let top = graph.node("top").unwrap();
        assert_eq!(block_on(top.read_bytes(0, 1024)).unwrap()[512..], [7; 512]);
        assert!(std::fs::read(path("base")).unwrap().iter().all(|byte| *byte == 1));
        assert!(base.is_read_only());
        let refusal = text(graph.snapshot(&base, &overlay));
        assert_eq!(refusal, "Node 'base' is busy: node is used as backing hd of 'top'");
    }
}
