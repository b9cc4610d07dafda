//! qcow2 images and LUKS volumes of any content: opened, checked, read, written and mended.
#![no_main]

use std::sync::Arc;

use block::driver::{Driver, Repair, ZeroFlags};
use block::engine::block_on;
use block::luks::Luks;
use block::node::Node;
use block::qcow2::{Purpose, Qcow2, Settings};
use block::vector::Vector;
use libfuzzer_sys::fuzz_target;
use rhea_fuzz::Memory;

/// What is read of a disk at most.
const LOOK: u64 = 1 << 20;

async fn look(image: &dyn Driver) -> block::Result<()> {
    let len = image.len()?.min(LOOK);
    let mut at = 0;
    while at < len {
        let _ = image.read(at, Vector::zeroed(4096.min((len - at) as usize))).await;
        at += image.status(at, len - at).await?.len.max(1);
    }
    Ok(())
}

async fn qcow2(bytes: &[u8], purpose: Purpose) -> block::Result<()> {
    let file = Node::new(None, "disk", false, Box::new(Memory::holding(bytes)), Vec::new());
    let header = Qcow2::read_header(&file).await?;
    let settings =
        Settings { on_corruption: Some(Arc::new(|_| {})), no_data: true, ..Settings::new(purpose) };
    let image = Qcow2::open(file, header, settings).await?;
    let _ = image.check(Repair::Nothing).await;
    let _ = look(&image).await;
    if purpose != Purpose::Read {
        let middle = image.len()? / 2;
        for at in [0, middle] {
            let _ = image.write(at, Vector::zeroed(512)).await;
            let _ = image.write_zeroes(at, 8192, ZeroFlags { unmap: true }).await;
            let _ = image.discard(at, 65536).await;
        }
        let _ = image.check(Repair::All).await;
        image.close().await?;
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else { return };
    let _ = block_on(async {
        match how % 3 {
            0 => qcow2(bytes, Purpose::Read).await,
            1 => qcow2(bytes, Purpose::Repair).await,
            _ => {
                let disk = Box::new(Memory::holding(bytes));
                let file = Node::new(None, "disk", false, disk, Vec::new());
                look(&Luks::open(file, None).await?).await
            }
        }
    });
});
