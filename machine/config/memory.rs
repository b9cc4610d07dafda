//! `-m`, `-mem-path`, `-mem-prealloc`.

use super::{ConfigError, Tree};

/// The guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes at start; the board's default if absent.
    pub size: Option<u64>,
    /// Slots for more.
    pub slots: u64,
    /// Bytes with all slots filled; as `size` if absent.
    pub max: Option<u64>,
    /// `-machine memory-backend`: the object that is the memory.
    pub backend: Option<String>,
    /// `-mem-path`: the file or directory that backs it.
    pub path: Option<String>,
    /// `-mem-prealloc`
    pub prealloc: bool,
}

impl MemoryConfig {
    /// Reads the object `memory` of `-machine`. `default_size` is the board's, for judging the rest.
    pub fn from_tree(mut tree: Tree, default_size: u64) -> Result<Self, ConfigError> {
        let size = tree.size("size")?.filter(|&size| size != 0);
        let max = tree.size("max-size")?;
        let slots = tree.unsigned("slots")?.unwrap_or(0);
        tree.finish()?;
        let present = size.unwrap_or(default_size);
        match max {
            None if slots > 0 => Err(ConfigError::new("slots specified but no max-size")),
            Some(max) if max < present => Err(ConfigError::new(format!(
                "invalid value of maxmem: maximum memory size ({max:#x}) must be at least the initial memory size ({present:#x})"
            ))),
            _ => Ok(MemoryConfig { size, slots, max, ..MemoryConfig::default() }),
        }
    }
}
