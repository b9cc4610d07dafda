//! The formats that can be made, and how.

use std::sync::Arc;

use super::creation::{Chosen, Desc, FILE, number, size, switch, text};
use crate::driver::Preallocation;
use crate::engine::{Inline, block_on};
use crate::formats::{parallels, qcow1, vdi, vhdx, vmdk, vpc};
use crate::luks::{self, LuksOptions};
use crate::node::Node;
use crate::open::{OpenOptions, create_file, full_backing_name, open};
use crate::qcow2::{self, Compression, CreateOptions, NewEncryption};
use crate::{Error, Result};

/// A format that can be made.
pub(super) struct Creator {
    pub(super) name: &'static str,
    pub(super) options: &'static [Desc],
    pub(super) create: fn(&str, &Chosen) -> Result<()>,
    /// Clusters can be stored compressed.
    pub(super) compresses: bool,
}

const SIZE: Desc = size("size", "Virtual disk size");
const BACKING: Desc = text("backing_file", "File name of a base image");
const BACKING_FORMAT: Desc = text("backing_fmt", "Image format of the base image");

const RAW: Creator =
    Creator { name: "raw", options: &[SIZE], create: create_raw, compresses: false };

const HOST_FILE: Creator =
    Creator { name: "file", options: &FILE, create: create_raw, compresses: false };

pub(super) const QCOW2: Creator = Creator {
    name: "qcow2",
    options: &[
        switch(
            "encryption",
            "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        ),
        text("encrypt.format", "Encrypt the image, format choices: 'aes', 'luks'"),
        text("encrypt.key-secret", "ID of secret providing qcow AES key or LUKS passphrase"),
        text("encrypt.cipher-alg", "Name of encryption cipher algorithm"),
        text("encrypt.cipher-mode", "Name of encryption cipher mode"),
        text("encrypt.ivgen-alg", "Name of IV generator algorithm"),
        text("encrypt.ivgen-hash-alg", "Name of IV generator hash algorithm"),
        text("encrypt.hash-alg", "Name of encryption hash algorithm"),
        number("encrypt.iter-time", "Time to spend in PBKDF in milliseconds"),
        size("cluster_size", "qcow2 cluster size").or("65536"),
        switch("extended_l2", "Extended L2 tables").or("off"),
        text("preallocation", "Preallocation mode (allowed values: off, metadata, falloc, full)"),
        text("compression_type", "Compression method used for image cluster compression")
            .or("zlib"),
        SIZE,
        text("compat", "Compatibility level (v2 [0.10] or v3 [1.1])"),
        BACKING,
        BACKING_FORMAT,
        text("data_file", "File name of an external data file"),
        switch("data_file_raw", "The external data file must stay valid as a raw image"),
        switch("lazy_refcounts", "Postpone refcount updates").or("off"),
        number("refcount_bits", "Width of a reference count entry in bits").or("16"),
    ],
    create: create_qcow2,
    compresses: true,
};

const QCOW: Creator = Creator {
    name: "qcow",
    options: &[
        SIZE,
        BACKING,
        text("backing_fmt", "Format of the backing image"),
        switch(
            "encryption",
            "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        ),
        text("encrypt.format", "Encrypt the image, format choices: 'aes'"),
        text("encrypt.key-secret", "ID of the secret that provides the AES encryption key"),
    ],
    create: create_qcow,
    compresses: true,
};

const VMDK: Creator = Creator {
    name: "vmdk",
    options: &[
        SIZE,
        text(
            "adapter_type",
            "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        ),
        BACKING,
        text("backing_fmt", "Must be 'vmdk' if present"),
        switch("compat6", "VMDK version 6 image").or("off"),
        text("hwversion", "VMDK hardware version").or("undefined"),
        text("toolsversion", "VMware guest tools version"),
        text(
            "subformat",
            "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat \
             | twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
        ),
        switch("zeroed_grain", "Enable efficient zero writes using the zeroed-grain GTE feature"),
    ],
    create: create_vmdk,
    compresses: true,
};

const VDI: Creator = Creator {
    name: "vdi",
    options: &[SIZE, switch("static", "VDI static (pre-allocated) image").or("off")],
    create: create_vdi,
    compresses: false,
};

const VHDX: Creator = Creator {
    name: "vhdx",
    options: &[
        SIZE_64T,
        size("log_size", "Log size; min 1MB.").or("1048576"),
        size(
            "block_size",
            "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
        )
        .or("0"),
        text(
            "subformat",
            "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
        ),
        switch(
            "block_state_zero",
            "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set \
             to 'off' when using 'qemu-img convert' with subformat=dynamic.",
        ),
    ],
    create: create_vhdx,
    compresses: false,
};

const SIZE_64T: Desc = size("size", "Virtual disk size; max of 64TB.");

const VPC: Creator = Creator {
    name: "vpc",
    options: &[
        SIZE,
        text(
            "subformat",
            "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        ),
        switch(
            "force_size",
            "Force disk size calculation to use the actual size specified, rather than using the \
             nearest CHS-based calculation",
        ),
    ],
    create: create_vpc,
    compresses: false,
};

const PARALLELS: Creator = Creator {
    name: "parallels",
    options: &[SIZE, size("cluster_size", "Parallels image cluster size").or("1048576")],
    create: create_parallels,
    compresses: false,
};

const LUKS: Creator = Creator {
    name: "luks",
    options: &[
        SIZE,
        text("key-secret", "ID of the secret that provides the keyslot passphrase"),
        text("cipher-alg", "Name of encryption cipher algorithm"),
        text("cipher-mode", "Name of encryption cipher mode"),
        text("ivgen-alg", "Name of IV generator algorithm"),
        text("ivgen-hash-alg", "Name of IV generator hash algorithm"),
        text("hash-alg", "Name of encryption hash algorithm"),
        number("iter-time", "Time to spend in PBKDF in milliseconds"),
        switch("detached-header", "Create a detached LUKS header"),
    ],
    create: create_luks,
    compresses: false,
};

const CREATORS: [&Creator; 10] =
    [&RAW, &HOST_FILE, &QCOW2, &QCOW, &VMDK, &VDI, &VHDX, &VPC, &PARALLELS, &LUKS];

/// Drivers that are there, but make no images.
const OTHERS: [&str; 7] =
    ["blkdebug", "blkverify", "bochs", "preallocate", "null-aio", "null-co", "qed"];

/// The creator of a format; or whether the name is not even a driver's.
pub(super) fn creator(name: &str) -> std::result::Result<&'static Creator, bool> {
    CREATORS.into_iter().find(|creator| creator.name == name).ok_or(OTHERS.contains(&name))
}

const PREALLOCATION: [(&str, Preallocation); 4] = [
    ("off", Preallocation::Off),
    ("metadata", Preallocation::Metadata),
    ("falloc", Preallocation::Falloc),
    ("full", Preallocation::Full),
];

fn preallocation(chosen: &Chosen) -> Result<Preallocation> {
    chosen.choice("preallocation", &PREALLOCATION, Preallocation::Off, "preallocation")
}

fn create_raw(name: &str, chosen: &Chosen) -> Result<()> {
    let size = chosen.number("size").unwrap_or(0).next_multiple_of(512);
    in_file(name, chosen, async |file| file.truncate(size, file_preallocation(chosen)?).await)
}

/// What the protocol is asked to reserve for a file.
fn file_preallocation(chosen: &Chosen) -> Result<Preallocation> {
    let mode = chosen.text("preallocation").unwrap_or("off");
    let invalid = |_| Error::invalid(format!("invalid parameter value: {mode}"));
    preallocation(chosen).map_err(invalid)
}

fn create_qcow2(name: &str, chosen: &Chosen) -> Result<()> {
    let options = qcow2_options(chosen)?;
    // Before the old file is emptied.
    options.header()?;
    block_on(async {
        let data = match &options.data_file {
            Some(data) => {
                Some(create_file(&full_backing_name(name, data), Arc::new(Inline)).await?)
            }
            None => None,
        };
        let file = create_file(name, Arc::new(Inline)).await?;
        or_none(&file, qcow2::create_with_data(&file, data, &options).await)
    })
}

/// An image that could not be made leaves no file; a device stays.
fn or_none(file: &Node, made: Result<()>) -> Result<()> {
    let path = file.filename();
    if made.is_err() && std::fs::metadata(&path).is_ok_and(|found| found.is_file()) {
        // The first error matters more.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn create_luks(name: &str, chosen: &Chosen) -> Result<()> {
    let size = chosen.number("size").unwrap_or(0).next_multiple_of(512);
    block_on(async {
        let file = create_file(name, Arc::new(Inline)).await?;
        or_none(&file, write_luks(&file, chosen, size).await)
    })
}

async fn write_luks(file: &Arc<Node>, chosen: &Chosen, size: u64) -> Result<()> {
    if chosen.is_given("detached-header") {
        return Err(Error::invalid("Parameter 'detached-header' is unexpected"));
    }
    let missing = || Error::invalid("Parameter 'key-secret' is required for cipher");
    let password = chosen.secret("key-secret")?.ok_or_else(missing)?;
    let options = luks_options(chosen, "")?;
    luks::create(file, &options, &password, size, preallocation(chosen)?).await
}

/// How a new qcow2 image is encrypted.
pub(super) fn encryption(chosen: &Chosen) -> Result<NewEncryption> {
    let format = match chosen.text("encrypt.format") {
        Some(_) if chosen.is_on("encryption") => {
            let text = "'encrypt.format' and its alias 'encryption' can't be used at the same time";
            return Err(Error::invalid(text));
        }
        Some(format) => format,
        None if chosen.is_on("encryption") => "aes",
        None if chosen.is_given("encrypt.key-secret") => {
            return Err(Error::invalid("Parameter 'encrypt.format' is missing"));
        }
        None => return Ok(NewEncryption::None),
    };
    if !["aes", "luks"].contains(&format) {
        let text = format!("Parameter 'format' does not accept value '{format}'");
        return Err(Error::invalid(text));
    }
    let missing = || Error::invalid("Parameter 'encrypt.key-secret' is required for cipher");
    let password = chosen.secret("encrypt.key-secret")?.ok_or_else(missing)?;
    if format == "aes" {
        return Ok(NewEncryption::Aes(password));
    }
    Ok(NewEncryption::Luks(luks_options(chosen, "encrypt.")?, password))
}

/// What can be chosen of a LUKS volume.
const LUKS_CHOICES: [(&str, &[&str]); 5] = [
    (
        "cipher-alg",
        &[
            "aes-128",
            "aes-192",
            "aes-256",
            "des",
            "3des",
            "cast5-128",
            "serpent-128",
            "serpent-192",
            "serpent-256",
            "sm4",
            "twofish-128",
            "twofish-192",
            "twofish-256",
        ],
    ),
    ("cipher-mode", &["ecb", "cbc", "xts", "ctr"]),
    ("ivgen-alg", &["plain", "plain64", "essiv"]),
    ("ivgen-hash-alg", &HASHES),
    ("hash-alg", &HASHES),
];
const HASHES: [&str; 8] =
    ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"];

/// How a LUKS volume is encrypted.
pub(super) fn luks_options(chosen: &Chosen, prefix: &str) -> Result<LuksOptions> {
    let text = |key: &str| chosen.text(&format!("{prefix}{key}")).map(str::to_owned);
    for (key, known) in LUKS_CHOICES {
        if let Some(value) = text(key).filter(|value| !known.contains(&value.as_str())) {
            let text = format!("Parameter '{key}' does not accept value '{value}'");
            return Err(Error::invalid(text));
        }
    }
    let usual = LuksOptions::default();
    Ok(LuksOptions {
        cipher_alg: text("cipher-alg").unwrap_or(usual.cipher_alg),
        cipher_mode: text("cipher-mode").unwrap_or(usual.cipher_mode),
        ivgen_alg: text("ivgen-alg"),
        ivgen_hash_alg: text("ivgen-hash-alg"),
        hash_alg: text("hash-alg").unwrap_or(usual.hash_alg),
        iter_time: chosen.number(&format!("{prefix}iter-time")).unwrap_or(usual.iter_time),
    })
}

/// What a new qcow2 image is like.
pub(super) fn qcow2_options(chosen: &Chosen) -> Result<CreateOptions> {
    let number = |key: &str, default| chosen.number(key).unwrap_or(default);
    let backing_file = chosen.text("backing_file").map(str::to_owned);
    let backing_format = chosen.text("backing_fmt").map(str::to_owned);
    if backing_file.is_none() && backing_format.is_some() {
        return Err(Error::invalid("Backing format cannot be used without backing file"));
    }
    let versions = [("0.10", 2), ("v2", 2), ("1.1", 3), ("v3", 3)];
    let compressions = [("zlib", Compression::Zlib), ("zstd", Compression::Zstd)];
    Ok(CreateOptions {
        size: number("size", 0),
        version: chosen.choice("compat", &versions, 3, "version")?,
        cluster_size: number("cluster_size", 65536),
        refcount_bits: number("refcount_bits", 16),
        compression: chosen.choice(
            "compression_type",
            &compressions,
            Compression::Zlib,
            "compression-type",
        )?,
        lazy_refcounts: chosen.is_on("lazy_refcounts"),
        extended_l2: chosen.is_on("extended_l2"),
        backing: backing_file.map(|file| (file, backing_format)),
        data_file: chosen.text("data_file").map(str::to_owned),
        data_file_raw: chosen.is_on("data_file_raw"),
        preallocation: preallocation(chosen)?,
        encryption: encryption(chosen)?,
    })
}

fn create_qcow(name: &str, chosen: &Chosen) -> Result<()> {
    let size = chosen.number("size").unwrap_or(0).next_multiple_of(512);
    let backing = chosen.text("backing_file");
    in_file(name, chosen, async |file| {
        if chosen.text("encrypt.format").is_some_and(|format| format != "aes")
            && !chosen.is_on("encryption")
        {
            return Err(Error::invalid("Unsupported encryption format"));
        }
        let encrypted = !matches!(encryption(chosen)?, NewEncryption::None);
        qcow1::create(file, size, backing, encrypted).await
    })
}

fn create_vdi(name: &str, chosen: &Chosen) -> Result<()> {
    let size = chosen.number("size").unwrap_or(0).next_multiple_of(512);
    let full = chosen.is_on("static");
    in_file(name, chosen, async |file| {
        vdi::create(file, size, file_preallocation(chosen)?, full).await
    })
}

fn create_vhdx(name: &str, chosen: &Chosen) -> Result<()> {
    let kinds = [("dynamic", false), ("fixed", true)];
    in_file(name, chosen, async |file| {
        let options = vhdx::CreateOptions {
            size: chosen.number("size").unwrap_or(0).next_multiple_of(512),
            log_size: chosen.number("log_size").unwrap_or(1 << 20),
            block_size: chosen.number("block_size").unwrap_or(0),
            fixed: chosen.choice("subformat", &kinds, false, "subformat")?,
            zero_blocks: !chosen.is_given("block_state_zero") || chosen.is_on("block_state_zero"),
        };
        options.check()?;
        vhdx::create(file, &options).await
    })
}

fn create_vpc(name: &str, chosen: &Chosen) -> Result<()> {
    let size = chosen.number("size").unwrap_or(0).next_multiple_of(512);
    let kinds = [("dynamic", false), ("fixed", true)];
    let exact = chosen.is_on("force_size");
    in_file(name, chosen, async |file| {
        let fixed = chosen.choice("subformat", &kinds, false, "subformat")?;
        vpc::create(file, size, fixed, exact).await
    })
}

fn create_parallels(name: &str, chosen: &Chosen) -> Result<()> {
    let size = chosen.number("size").unwrap_or(0).next_multiple_of(512);
    let cluster = chosen.number("cluster_size").unwrap_or(1 << 20);
    in_file(name, chosen, async |file| parallels::create(file, size, cluster).await)
}

fn create_vmdk(name: &str, chosen: &Chosen) -> Result<()> {
    let invalid = |value: &str| Error::invalid(format!("invalid parameter value: {value}"));
    let known = |key: &str, names: &[&str]| match chosen.text(key) {
        None => Ok(names[0].to_owned()),
        Some(value) if names.contains(&value) => Ok(value.to_owned()),
        Some(value) => Err(invalid(value)),
    };
    let adapter = known("adapter_type", &["ide", "lsilogic", "buslogic", "legacyESX"])?;
    let subformat = known(
        "subformat",
        &[
            "monolithicSparse",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "streamOptimized",
        ],
    )?;
    let hardware = chosen.text("hwversion").filter(|version| *version != "undefined");
    if subformat.ends_with("Flat") && chosen.is_on("zeroed_grain") {
        return Err(Error::invalid("Flat image can't enable zeroed grain"));
    }
    if chosen.is_on("compat6") && hardware.is_some() {
        return Err(Error::invalid("compat6 cannot be enabled with hwversion set"));
    }
    let hardware = hardware.unwrap_or(if chosen.is_on("compat6") { "6" } else { "4" });
    let parent = match chosen.text("backing_file") {
        None => None,
        Some(_) if subformat.ends_with("Flat") => {
            return Err(Error::unsupported("Flat image can't have backing file"));
        }
        Some(backing) => {
            if chosen.text("backing_fmt").is_some_and(|format| format != "vmdk") {
                return Err(Error::invalid("backing_file must be a vmdk image"));
            }
            let how = OpenOptions { format: Some("file".into()), ..OpenOptions::default() };
            let path = full_backing_name(name, backing);
            let cid = block_on(async { vmdk::cid_of(&open(&path, &how).await?.node).await })?;
            Some((backing.to_owned(), cid))
        }
    };
    let options = vmdk::CreateOptions {
        size: chosen.number("size").unwrap_or(0).next_multiple_of(512),
        subformat,
        adapter,
        hardware: hardware.to_owned(),
        tools: chosen.text("toolsversion").unwrap_or("2147483647").to_owned(),
        zero_grains: chosen.is_on("zeroed_grain"),
        parent,
    };
    options.check()?;
    let parts = options.parts(name);
    block_on(async {
        let mut files = Vec::new();
        for part in &parts {
            files.push(new_file(&part.name, chosen).await?);
        }
        options.write(&parts, &files).await
    })
}

/// Makes an empty file, as the protocol's options have it.
async fn new_file(name: &str, chosen: &Chosen) -> Result<Arc<Node>> {
    let mode = file_preallocation(chosen)?;
    // As the file system's attribute has it.
    if chosen.number("extent_size_hint").is_some_and(|hint| u32::try_from(hint).is_err()) {
        return Err(Error::invalid("Extent size hint is too large"));
    }
    let file = create_file(name, Arc::new(Inline)).await?;
    if mode == Preallocation::Metadata {
        return Err(Error::invalid("Unsupported preallocation mode: metadata"));
    }
    Ok(file)
}

/// Makes an empty file and what is written into it. The file stays if that fails, as QEMU's does.
fn in_file(
    name: &str,
    chosen: &Chosen,
    write: impl AsyncFnOnce(&Arc<Node>) -> Result<()>,
) -> Result<()> {
    block_on(async { write(&new_file(name, chosen).await?).await })
}
