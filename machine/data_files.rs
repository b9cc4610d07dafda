//! Where firmware images and other data files are found.

use std::path::{Path, PathBuf};

/// Where distributions put them.
const DIRECTORIES: [&str; 5] = [
    "/usr/share/seabios",
    "/usr/share/qemu",
    "/usr/local/share/qemu",
    "/usr/share/OVMF",
    "/usr/lib/ipxe/qemu",
];

/// `-L`'s directories, and those of the distribution after them.
#[derive(Clone, Debug)]
pub struct DataFiles(Vec<String>);

impl DataFiles {
    /// With the operator's own directories.
    pub fn new(own: &[String]) -> Self {
        DataFiles(own.iter().cloned().chain(DIRECTORIES.map(str::to_owned)).collect())
    }

    /// The directories, in order.
    pub fn directories(&self) -> &[String] {
        &self.0
    }

    /// Looks for a data file: as it is named, then in the directories.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let direct = Path::new(name);
        if direct.exists() {
            return Some(direct.into());
        }
        self.0.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
    }
}
