//! The page and its parts, which `build.rs` has compressed.

use std::io::Read;

use flate2::read::GzDecoder;

/// A part of the page.
pub struct Asset {
    /// Where it is, such as `/style.css`.
    pub path: &'static str,
    /// What it is.
    pub kind: &'static str,
    /// Changes with its content.
    pub etag: &'static str,
    /// Its content, compressed.
    pub gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

impl Asset {
    /// The part of a path.
    pub fn find(path: &str) -> Option<&'static Asset> {
        let path = if path == "/" { "/index.html" } else { path };
        ASSETS.iter().find(|asset| asset.path == path)
    }

    /// Its content, for the few who want it as it is.
    pub fn plain(&self) -> Vec<u8> {
        let mut content = Vec::new();
        // It was compressed by this build and cannot be malformed.
        let _ = GzDecoder::new(self.gzip).read_to_end(&mut content);
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_finds_its_parts() {
        let page = String::from_utf8(Asset::find("/").unwrap().plain()).unwrap();
        let linked = page.split('"').filter(|word| word.starts_with("./"));
        let missing: Vec<&str> = linked.filter(|path| Asset::find(&path[1..]).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(!page.contains("<script>") && !page.contains("style=\""));
        assert!(Asset::find("/../Cargo.toml").is_none());
    }
}
