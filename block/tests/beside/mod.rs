//! Running our tools and QEMU's with the same arguments.

use std::cell::RefCell;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};

/// The current directory is everybody's, and a child process holds the locks of all open files until it
/// executes its program: one pair at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Two directories: ours and theirs.
struct Pair {
    ours: tempfile::TempDir,
    theirs: tempfile::TempDir,
    home: PathBuf,
    failures: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

/// Both streams of a tool, in the order written.
#[derive(Clone, Default)]
struct Streams(Rc<RefCell<Vec<u8>>>);

impl Write for Streams {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Pair {
    /// Two empty directories; `None`, with the reason printed, without QEMU's tools.
    fn new() -> Option<Self> {
        for tool in ["qemu-img", "qemu-io"] {
            if !Path::new("/usr/bin").join(tool).exists() {
                eprintln!("/usr/bin/{tool} is not installed: nothing to compare with");
                return None;
            }
        }
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let home = std::env::current_dir().unwrap();
        Some(Self { ours, theirs, home, failures: Vec::new(), _alone: alone })
    }

    /// The same file for both.
    fn write(&self, name: &str, bytes: &[u8]) {
        for dir in [&self.ours, &self.theirs] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
    }

    /// Both say the same; `tool` is `img` or `io`. With `wherever`, clusters may be at other places.
    fn same_args(&mut self, tool: &str, args: &[&str], wherever: bool) {
        let (mut ours, mut theirs) = (self.run_ours(tool, args), self.run_theirs(tool, args));
        if wherever {
            (ours.1, theirs.1) = (without_places(&ours.1), without_places(&theirs.1));
        }
        // What an image says of corruption as it meets it goes to the stderr of this process here.
        let heard = |line: &&str| !line.starts_with("qcow2: ") || ours.1.contains(*line);
        theirs.1 = theirs.1.split_inclusive('\n').filter(heard).collect();
        if ours != theirs {
            self.failures.push(format!(
                "qemu-{tool} {args:?}\n--- QEMU ({})\n{}--- here ({})\n{}",
                theirs.0, theirs.1, ours.0, ours.1
            ));
        }
    }

    /// A file that both have made is the same, byte for byte.
    fn same_file(&mut self, name: &str) {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(name)).ok();
        let (ours, theirs) = (read(&self.ours), read(&self.theirs));
        if ours != theirs {
            let differ = |(a, b): (&Vec<u8>, &Vec<u8>)| a.iter().zip(b).position(|(a, b)| a != b);
            let at = ours.as_ref().zip(theirs.as_ref()).and_then(differ);
            let lens = (ours.map(|bytes| bytes.len()), theirs.map(|bytes| bytes.len()));
            self.failures
                .push(format!("qemu-* made {name}: first differs at {at:?}, lengths {lens:?}\n"));
        }
    }

    /// Ours alone.
    fn run_ours(&self, tool: &str, args: &[&str]) -> (i32, String) {
        self.run_in(self.ours.path(), tool, args)
    }

    /// Ours, in a directory.
    fn run_in(&self, dir: &Path, tool: &str, args: &[&str]) -> (i32, String) {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let streams = Streams::default();
        let (mut out, mut err) = (streams.clone(), streams.clone());
        std::env::set_current_dir(dir).unwrap();
        let code = match tool {
            "io" => block::tools::io::run(&args, &mut &b""[..], &mut out, &mut err, false),
            _ => block::tools::run(&args, &mut out, &mut err, false),
        };
        std::env::set_current_dir(&self.home).unwrap();
        let text = String::from_utf8_lossy(&streams.0.borrow()).into_owned();
        (code.into(), normal(&text))
    }

    /// Theirs alone.
    fn run_theirs(&self, tool: &str, args: &[&str]) -> (i32, String) {
        let mut both = tempfile::tempfile().unwrap();
        let child = Command::new(format!("/usr/bin/qemu-{tool}"))
            .args(args)
            .current_dir(self.theirs.path())
            .stdin(Stdio::null())
            .stdout(both.try_clone().unwrap())
            .stderr(both.try_clone().unwrap())
            .status()
            .unwrap();
        let mut bytes = Vec::new();
        both.rewind().unwrap();
        both.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).replace("/usr/bin/qemu-", "qemu-");
        (child.code().unwrap_or(-1), normal(&text))
    }
}

/// Runs a script: command lines (with `~` in front, whatever is about places in files is left out), and templates with `{}` for what the indented lines below say.
pub fn compare(script: &str) {
    let Some(mut pair) = Pair::new() else { return };
    let mut template = "";
    for line in script.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words = match line.strip_prefix("  ") {
            Some(insert) => {
                let fill = |word: String| if word == "{}" { insert.to_owned() } else { word };
                split(template).into_iter().map(fill).collect()
            }
            None => split(line),
        };
        match words[0].as_str() {
            _ if line.contains("{}") && !line.starts_with("  ") => template = line,
            "file" => {
                let text = words.get(2).map_or(String::new(), |text| text.replace("\\n", "\n"));
                pair.write(&words[1], text.as_bytes());
            }
            "show" => pair.same_file(&words[1]),
            tool => {
                let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
                let wherever = tool.starts_with('~');
                pair.same_args(tool.trim_start_matches('~'), &args, wherever);
            }
        }
    }
}

/// Images of each kind, made and written by one, are read and written by the other, and read by the
/// first again.
pub fn exchange(kinds: &[&str]) {
    let Some(pair) = Pair::new() else { return };
    // Both work where QEMU's tools do.
    let ours = |tool: &str, args: &[&str]| pair.run_in(pair.theirs.path(), tool, args);
    let theirs = |tool: &str, args: &[&str]| pair.run_theirs(tool, args);
    for (i, kind) in kinds.iter().enumerate() {
        let format = kind.split(' ').next().unwrap();
        for turn in 0..2 {
            let name = format!("{i}-{turn}.img");
            let make = format!("create -q -f {kind} {name} 20M");
            let make: Vec<&str> = make.split(' ').collect();
            let by = |first: bool, tool: &str, args: &[&str]| {
                let (code, text) =
                    if first == (turn == 0) { ours(tool, args) } else { theirs(tool, args) };
                assert_eq!(code, 0, "{kind}, {turn}, {first}, {args:?}: {text}");
            };
            by(true, "img", &make);
            let io = |commands: &[&str]| {
                let mut args = vec!["-f".to_owned(), format.to_owned()];
                commands.iter().for_each(|&c| args.extend(["-c".to_owned(), c.to_owned()]));
                args.push(name.clone());
                args
            };
            let run = |first: bool, commands: &[&str]| {
                let args = io(commands);
                by(first, "io", &args.iter().map(String::as_str).collect::<Vec<_>>());
            };
            run(true, &["write -P 1 100k 3M", "write -P 2 9M 1k"]);
            run(false, &["read -P 1 100k 3M", "read -P 2 9M 1k", "read -P 0 4M 5M"]);
            run(false, &["write -P 3 8M 3M", "write -P 4 200k 1k", "write -z 1M 64k"]);
            run(
                true,
                &[
                    "read -P 3 8M 3M",
                    "read -P 4 200k 1k",
                    "read -P 0 1M 64k",
                    "read -P 1 100k 100k",
                ],
            );
        }
    }
}

/// What QEMU's tools have made by a script, ours read as theirs do: `commands` are of `qemu-img`, with
/// the name of an output in place of `{}`.
pub fn read_alike(script: &str, commands: &[&str]) {
    let Some(pair) = Pair::new() else { return };
    for line in script.lines() {
        let words = split(line);
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let (code, text) = pair.run_theirs(&words[0], &args);
        assert_eq!(code, 0, "{line}: {text}");
    }
    let dir = pair.theirs.path();
    for command in commands {
        let run = |who: &str| {
            let args: Vec<String> =
                command.split(' ').map(|word| word.replace("{}", who)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let said = match who {
                "ours" => pair.run_in(dir, "img", &args),
                _ => pair.run_theirs("img", &args),
            };
            (said, std::fs::read(dir.join(who)).ok())
        };
        assert!(
            run("ours") == run("theirs"),
            "{command}: {:?}\n{:?}",
            run("ours").0,
            run("theirs").0
        );
    }
}

/// Words as a shell takes them, with single quotes.
fn split(line: &str) -> Vec<String> {
    let mut words: Vec<Option<String>> = vec![None];
    let mut quoted = false;
    for c in line.chars() {
        match (c, words.last_mut()) {
            ('\'', Some(word)) => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            (' ', _) if !quoted => words.push(None),
            (c, Some(word)) => word.get_or_insert_default().push(c),
            (_, None) => {}
        }
    }
    words.into_iter().flatten().collect()
}

impl Drop for Pair {
    fn drop(&mut self) {
        let failures = std::mem::take(&mut self.failures);
        if !std::thread::panicking() {
            assert!(failures.is_empty(), "{} differ:\n\n{}", failures.len(), failures.join("\n"));
        }
    }
}

/// Without what no two runs have in common: times, numbers of nodes, who built it.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let builder = "\nSee <https://qemu.org/contribute/report-a-bug> for how to report bugs.\n\
                   More information on the QEMU project at <https://qemu.org>.\n";
    let text = text.replace(builder, "");
    for line in text.split_inclusive('\n') {
        if let Some(at) = line.find("Run completed in ") {
            out += &line[..at];
            out += "Run completed\n";
            continue;
        }
        match line.find(" ops; ") {
            Some(at) => {
                out += &line[..at];
                out += " ops; TIME\n";
            }
            None => out += line,
        }
    }
    while let Some(at) = out.find("#block") {
        let digits = out[at + 6..].bytes().take_while(u8::is_ascii_digit).count();
        out.replace_range(at..at + 6 + digits, "NODE");
    }
    out
}

/// Without offsets in files, the sizes of files, and dates.
fn without_places(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.find(", \"offset\": ") {
            Some(at) => &line[..at],
            None => line,
        };
        // A moment: the digits of the day and the time.
        let line = match line.find(" 20").filter(|at| line[at + 5..].starts_with('-')) {
            Some(at) => format!("{}{}", &line[..at], line.get(at + 20..).unwrap_or_default()),
            None => line.to_owned(),
        };
        let line = line.as_str();
        let varying = [
            "disk size:",
            "file length:",
            "Image end offset:",
            "\"actual-size\"",
            "\"virtual-size\"",
            "\"date-",
        ];
        if !varying.iter().any(|start| line.trim_start().starts_with(start)) {
            out += line;
            out.push('\n');
        }
    }
    out
}
