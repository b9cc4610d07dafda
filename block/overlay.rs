//! Temporary overlays: what is written is gone with the program (`snapshot=on`).

use std::fs::remove_file;
use std::sync::Arc;

use crate::graph::Graph;
use crate::node::Node;
use crate::open::{OpenOptions, create_file, open_tree};
use crate::options::Options;
use crate::qcow2::{self, CreateOptions};
use crate::{Error, Result};

/// An empty file without a place to stay: the caller removes its name.
fn temporary_file() -> Result<String> {
    let dir = std::env::var("TMPDIR").unwrap_or_else(|_| "/var/tmp".into());
    let template = format!("{dir}/vl.XXXXXX");
    let (_file, path) = nix::unistd::mkstemp(template.as_str())
        .map_err(|errno| Error::from(errno).context("Could not get temporary filename"))?;
    Ok(path.to_string_lossy().into_owned())
}

/// An overlay over a node of a graph, in a file that has no name any more.
pub async fn temporary(below: &Arc<Node>, how: &OpenOptions, graph: &Graph) -> Result<Arc<Node>> {
    let path = temporary_file()?;
    let opened = open_over(below, &path, how, graph).await;
    let removed = remove_file(&path);
    let node = opened?;
    removed?;
    Ok(node)
}

async fn open_over(
    below: &Arc<Node>,
    path: &str,
    how: &OpenOptions,
    graph: &Graph,
) -> Result<Arc<Node>> {
    let file = create_file(path, how.io.clone()).await?;
    let create = CreateOptions { size: below.len()?, ..CreateOptions::default() };
    qcow2::create(&file, &create).await?;
    drop(file);
    let mut options = Options::default();
    for (key, value) in [
        ("driver", "qcow2"),
        ("file.driver", "file"),
        ("file.filename", path),
        ("backing", below.name()),
    ] {
        options.set(key, value);
    }
    options.set("cache.no-flush", true);
    options.set("discard", "unmap");
    Ok(open_tree(None, options, how, Some(graph)).await?.node)
}
