//! Compresses the parts of the web console's page, and lists them for `web/assets.rs`.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::{env, fs};

use flate2::{Compression, GzBuilder};
use sha1::{Digest, Sha1};

/// Where the parts are, and of which names.
const FOLDERS: [&str; 2] = ["web/page", "web/vendor"];
const KINDS: [(&str, &str); 5] = [
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    let mut table = String::from("static ASSETS: &[Asset] = &[\n");
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        let mut files: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let path = file.path();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == ending) else {
                continue;
            };
            let name = file.file_name().to_string_lossy().into_owned();
            let content = fs::read(&path)?;
            // Without a time, so that the same page makes the same program.
            let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
            gzip.write_all(&content)?;
            let compressed = out.join(format!("{name}.gz"));
            fs::write(&compressed, gzip.finish()?)?;
            let digest = Sha1::digest(&content);
            let etag = digest.iter().take(8).fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            writeln!(
                table,
                "    Asset {{ path: \"/{name}\", kind: {kind:?}, etag: \"\\\"{etag}\\\"\", \
                 gzip: include_bytes!({compressed:?}) }},"
            )?;
        }
    }
    table += "];\n";
    fs::write(out.join("assets.rs"), table)?;
    Ok(())
}
