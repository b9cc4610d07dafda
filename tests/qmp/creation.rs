//! `blockdev-create`, in every format: what is made can be used, and what cannot be made is refused in the
//! words of QEMU 10.0.2.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::qmp::Qmp;
use testbed::vm::Launch;

const MIB: u64 = 1 << 20;

/// Runs a job; returns why it failed, or could not begin.
fn create(qmp: &mut Qmp, options: &Value) -> Result<Option<String>> {
    let request = json!({
        "execute": "blockdev-create", "arguments": {"job-id": "j", "options": options}
    });
    let reply = qmp.call(&request)?;
    if let Some(error) = reply.get("error") {
        return Ok(error["desc"].as_str().map(str::to_owned));
    }
    while qmp.wait_event("JOB_STATUS_CHANGE")?["data"]["status"] != "concluded" {}
    let jobs = qmp.execute("query-jobs")?;
    qmp.execute_with("job-dismiss", json!({"id": "j"}))?;
    while qmp.wait_event("JOB_STATUS_CHANGE")?["data"]["status"] != "null" {}
    Ok(jobs[0]["error"].as_str().map(str::to_owned))
}

/// What is asked for in one format, with the file to put it into.
fn wanted(driver: &str, size: u64, more: Value) -> Value {
    let mut options = json!({"driver": driver, "file": "f", "size": size});
    if let (Value::Object(options), Value::Object(more)) = (&mut options, more) {
        options.extend(more);
    }
    options
}

fn machine(dir: &std::path::Path) -> Result<testbed::vm::Vm> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "none", "-display", "none", "-object", "secret,id=sec,data=abc"])
        .in_dir(dir)
        .qmp()
        .spawn()?;
    let qmp = vm.qmp();
    let file = json!({"driver": "file", "filename": "new.img", "size": 0});
    ensure!(create(qmp, &file)?.is_none());
    let node = json!({"driver": "file", "node-name": "f", "filename": "new.img"});
    qmp.execute_with("blockdev-add", node)?;
    Ok(vm)
}

#[test]
fn what_is_made_can_be_used() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut vm = machine(dir.path())?;
    let qmp = vm.qmp();
    let key = json!({"key-secret": "sec"});
    let encrypted = |format: &str| json!({"encrypt": {"format": format, "key-secret": "sec"}});
    for (driver, size, more, secret) in [
        ("qcow2", MIB, json!({}), json!({})),
        ("qcow2", MIB, json!({"version": "v2", "preallocation": "metadata"}), json!({})),
        ("qcow2", MIB, json!({"extended-l2": true, "compression-type": "zstd"}), json!({})),
        ("qcow2", MIB, json!({"refcount-bits": 1, "cluster-size": 4096}), json!({})),
        ("qcow2", MIB, encrypted("luks"), encrypted("luks")),
        ("qcow", MIB, json!({}), json!({})),
        ("luks", MIB, json!({"key-secret": "sec", "iter-time": 10}), key),
        ("vdi", MIB, json!({"preallocation": "metadata"}), json!({})),
        ("vhdx", MIB, json!({"subformat": "fixed", "block-size": MIB}), json!({})),
        ("vpc", MIB, json!({"subformat": "fixed", "force-size": true}), json!({})),
        ("parallels", MIB, json!({"cluster-size": 65536}), json!({})),
        ("vmdk", MIB, json!({"adapter-type": "lsilogic", "zeroed-grain": true}), json!({})),
    ] {
        let options = wanted(driver, size, more);
        let error = create(qmp, &options)?;
        ensure!(error.is_none(), "{options}: {error:?}");
        let mut node = json!({"driver": driver, "node-name": "n", "file": "f"});
        if let (Value::Object(node), Value::Object(secret)) = (&mut node, secret) {
            node.extend(secret);
        }
        qmp.execute_with("blockdev-add", node)?;
        let nodes = qmp.execute_with("query-named-block-nodes", json!({"flat": true}))?;
        ensure!(nodes[0]["image"]["virtual-size"] == size, "{options}: {nodes}");
        qmp.execute_with("blockdev-del", json!({"node-name": "n"}))?;
    }
    // A node that is only there for this.
    let mut inline = wanted("qcow2", MIB, json!({}));
    inline["file"] = json!({"driver": "file", "filename": "new.img"});
    ensure!(create(qmp, &inline)?.is_none());
    Ok(())
}

#[test]
fn refusals_are_qemus() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut vm = machine(dir.path())?;
    let qmp = vm.qmp();
    let mut differences = String::new();
    for (driver, size, more, refusal) in [
        ("qcow2", 1234, json!({}), "Image size must be a multiple of 512 bytes"),
        ("qcow2", 1 << 63, json!({}), "Could not resize image: Image size cannot be negative"),
        ("qcow2", MIB, json!({"foo": 1}), "Parameter 'options.foo' is unexpected"),
        ("qcow2", MIB, json!({"size": "x"}), "Parameter 'options.size' expects uint64"),
        ("qcow2", MIB, json!({"version": "v1"}), "Parameter 'version' does not accept value 'v1'"),
        (
            "qcow2",
            MIB,
            json!({"file": "nosuch"}),
            "Cannot find device='nosuch' nor node-name='nosuch'",
        ),
        (
            "qcow2",
            MIB,
            json!({"backing-file": "x", "preallocation": "full"}),
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        ),
        (
            "qcow2",
            MIB,
            json!({"cluster-size": 1234}),
            "Cluster size must be a power of two between 512 and 2048k",
        ),
        (
            "qcow2",
            MIB,
            json!({"refcount-bits": 7}),
            "Refcount width must be a power of two and may not exceed 64 bits",
        ),
        (
            "qcow2",
            MIB,
            json!({"backing-fmt": "qcow2"}),
            "Backing format cannot be used without backing file",
        ),
        ("qcow2", MIB, json!({"data-file-raw": true}), "data-file-raw requires data-file"),
        (
            "qcow2",
            MIB,
            json!({"encrypt": {"format": "luks"}}),
            "Parameter 'encrypt.key-secret' is required for cipher",
        ),
        ("vdi", MIB, json!({"preallocation": "full"}), "Preallocation mode not supported for vdi"),
        ("vhdx", MIB, json!({"log-size": 1234}), "Log size must be a multiple of 1 MB"),
        ("vhdx", MIB, json!({"log-size": 4_u64 << 30}), "Log size must be smaller than 4 GB"),
        ("vhdx", MIB, json!({"block-size": 1234567}), "Block size must be a multiple of 1 MB"),
        ("vhdx", MIB, json!({"block-size": 512 * MIB}), "Block size must not exceed 268435456"),
        ("vhdx", (64 << 40) + 1, json!({}), "Image size too large; max of 64TB"),
        (
            "vpc",
            128 * MIB,
            json!({}),
            "The requested image size cannot be represented in CHS geometry",
        ),
        ("vpc", 3 << 40, json!({}), "Disk size is too large, max size is 2040 GiB"),
        ("parallels", 1234, json!({}), "Image size must be a multiple of 512 bytes"),
        (
            "parallels",
            MIB,
            json!({"cluster-size": 1234}),
            "Cluster size must be a multiple of 512 bytes",
        ),
        ("raw", MIB, json!({}), ""),
        ("nbd", MIB, json!({}), ""),
    ] {
        let options = wanted(driver, size, more);
        let found = create(qmp, &options)?.unwrap_or_default();
        if found != refusal && !refusal.is_empty() || found.is_empty() {
            differences += &format!("{options}\n expected: {refusal}\n got: {found}\n");
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
