//! The commands of the human monitor.

use std::sync::Arc;

use crate::target::Target;

/// Executes a line and returns what is printed, each line ending in CR LF.
pub(crate) fn execute(target: &Arc<Target>, line: &str) -> String {
    let _ = (target, line);
    String::new()
}
