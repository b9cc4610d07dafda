//! The formats that can be made, and how.

use std::sync::Arc;

use super::creation::{Chosen, Desc, number, size, switch, text};
use crate::driver::Preallocation;
use crate::engine::{Inline, block_on};
use crate::luks::LuksOptions;
use crate::open::{create_file, full_backing_name};
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

pub(super) const CREATORS: [&Creator; 2] = [&RAW, &QCOW2];

/// Drivers that are there, but make no images.
const OTHERS: [&str; 5] = ["blkdebug", "bochs", "null-aio", "null-co", "qed"];

/// The creator of a format; or whether the name is not even a driver's.
pub(super) fn creator(name: &str) -> std::result::Result<&'static Creator, bool> {
    let name = if name == "file" { "raw" } else { name };
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
    let preallocation = preallocation(chosen)?;
    if preallocation == Preallocation::Metadata {
        let text = "Parameter 'preallocation' does not accept value 'metadata'";
        return Err(Error::invalid(text));
    }
    block_on(async {
        let file = create_file(name, Arc::new(Inline)).await?;
        file.truncate(size, preallocation).await
    })
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
        qcow2::create_with_data(&file, data, &options).await
    })
}

/// How a new qcow2 image is encrypted.
fn encryption(chosen: &Chosen) -> Result<NewEncryption> {
    let format = match chosen.text("encrypt.format") {
        Some(_) if chosen.is_on("encryption") => {
            let text = "Options encryption and encrypt.format are mutually exclusive";
            return Err(Error::invalid(text));
        }
        Some(format) => format,
        None if chosen.is_on("encryption") => "aes",
        None => return Ok(NewEncryption::None),
    };
    if !["aes", "luks"].contains(&format) {
        let text = format!("Unknown encryption format {format}");
        return Err(Error::invalid(text));
    }
    let missing = || Error::invalid("Parameter 'encrypt.key-secret' is required for cipher");
    let id = chosen.text("encrypt.key-secret").ok_or_else(missing)?;
    let password = chosen.secrets.get(id)?.to_vec();
    if format == "aes" {
        return Ok(NewEncryption::Aes(password));
    }
    Ok(NewEncryption::Luks(luks_options(chosen, "encrypt."), password))
}

/// How a LUKS volume is encrypted.
fn luks_options(chosen: &Chosen, prefix: &str) -> LuksOptions {
    let text = |key: &str| chosen.text(&format!("{prefix}{key}")).map(str::to_owned);
    let usual = LuksOptions::default();
    LuksOptions {
        cipher_alg: text("cipher-alg").unwrap_or(usual.cipher_alg),
        cipher_mode: text("cipher-mode").unwrap_or(usual.cipher_mode),
        ivgen_alg: text("ivgen-alg"),
        ivgen_hash_alg: text("ivgen-hash-alg"),
        hash_alg: text("hash-alg").unwrap_or(usual.hash_alg),
        iter_time: chosen.number(&format!("{prefix}iter-time")).unwrap_or(usual.iter_time),
    }
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
