//! QED images, for reading, after their specification (docs/interop/qed_spec of QEMU's documentation):
//! two levels of tables, clusters that are there, are not, or are zeroes.

use std::collections::HashMap;
use std::sync::Arc;

use async_lock::Mutex;

use super::bytes::{le32, le64};
use crate::driver::{CheckReport, Driver, Extent, Io, Preallocation, Repair, ZeroFlags};
use crate::format::Opening;
use crate::node::Node;
use crate::open::Builder;
use crate::qcow2::Purpose;
use crate::vector::Vector;
use crate::{Error, Result};

const MAGIC: &[u8] = b"QED\0";
const HEADER: usize = 64;
/// The image has a backing file.
const BACKING_FILE: u64 = 1;
/// It was not closed; its tables can be trusted all the same.
const NEED_CHECK: u64 = 2;
/// The backing file is raw, whatever it looks like.
const BACKING_IS_RAW: u64 = 4;
/// An L2 entry for zeroes.
const ZERO_CLUSTER: u64 = 1;
/// L2 tables in memory, in bytes.
const CACHE: u64 = 8 << 20;

struct Header {
    cluster: u64,
    /// Bytes of a table.
    table: u64,
    features: u64,
    header_clusters: u64,
    l1_at: u64,
    len: u64,
    backing: Option<String>,
}

struct Qed {
    file: Arc<Node>,
    backing: Option<Arc<Node>>,
    header: Header,
    l1: Vec<u64>,
    /// L2 tables by their offset in the file.
    l2: Mutex<HashMap<u64, Arc<[u8]>>>,
}

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    if first.starts_with(MAGIC) && first.len() >= HEADER { 100 } else { 0 }
}

impl Header {
    async fn read(file: &Node) -> Result<Self> {
        let bytes = file.read_bytes(0, HEADER).await?;
        if !bytes.starts_with(MAGIC) {
            return Err(Error::invalid("Image not in QED format"));
        }
        let wrong = || Error::from_errno(libc::EINVAL);
        let features = le64(&bytes, 16);
        if features & !(BACKING_FILE | NEED_CHECK | BACKING_IS_RAW) != 0 {
            return Err(Error::unsupported(format!(
                "Unsupported QED features: {:x}",
                features & !(BACKING_FILE | NEED_CHECK | BACKING_IS_RAW)
            )));
        }
        let (cluster, clusters) = (u64::from(le32(&bytes, 4)), u64::from(le32(&bytes, 8)));
        let header_len = u64::from(le32(&bytes, 12)).saturating_mul(cluster);
        if !cluster.is_power_of_two() || !(4096..=64 << 20).contains(&cluster) {
            return Err(wrong());
        }
        if !clusters.is_power_of_two() || clusters > 16 {
            return Err(wrong());
        }
        let (l1_at, len) = (le64(&bytes, 40), le64(&bytes, 48));
        let table = cluster * clusters;
        let most = (table / 8).saturating_mul(table / 8).saturating_mul(cluster);
        let l1_end = l1_at.checked_add(table).ok_or_else(wrong)?;
        // Tables are in the file, so that a small one takes little memory.
        if len > most || !len.is_multiple_of(512) || l1_at % cluster != 0 || l1_end > file.len()? {
            return Err(wrong());
        }
        let backing = match features & BACKING_FILE {
            0 => None,
            _ => {
                let (at, name_len) = (u64::from(le32(&bytes, 56)), le32(&bytes, 60));
                if name_len > 1023 || at + u64::from(name_len) > header_len {
                    return Err(wrong());
                }
                let name = file.read_bytes(at, name_len as usize).await?;
                Some(String::from_utf8_lossy(&name).into_owned())
            }
        };
        let header_clusters = header_len / cluster;
        Ok(Self { cluster, table, features, header_clusters, l1_at, len, backing })
    }
}

/// Opens an image.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        if builder.purpose() != Purpose::Read {
            let text = "Driver 'qed' can only be used for read-only devices";
            return Err(Error::unsupported(text));
        }
        let header = Header::read(&file).await?;
        let format = (header.features & BACKING_IS_RAW != 0).then_some("raw");
        let backing = builder.open_backing(header.backing.as_deref(), format).await?;
        let bytes = file.read_bytes(header.l1_at, header.table as usize).await?;
        let l1 = bytes.chunks_exact(8).map(|entry| le64(entry, 0)).collect();
        Ok(Box::new(Qed { file, backing, header, l1, l2: Mutex::default() }) as Box<dyn Driver>)
    })
}

/// Where a cluster is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Below,
    Zero,
    At(u64),
}

impl Qed {
    async fn table(&self, at: u64) -> Result<Arc<[u8]>> {
        let mut tables = self.l2.lock().await;
        if let Some(table) = tables.get(&at) {
            return Ok(table.clone());
        }
        let end = at.checked_add(self.header.table);
        let inside = end.is_some_and(|end| self.file.len().is_ok_and(|len| end <= len));
        if !at.is_multiple_of(self.header.cluster) || !inside {
            return Err(Error::from_errno(libc::EIO));
        }
        let bytes = self.file.read_bytes(at, self.header.table as usize).await?;
        if tables.len() as u64 >= (CACHE / self.header.table).max(1) {
            tables.clear();
        }
        let table = Arc::<[u8]>::from(bytes);
        tables.insert(at, table.clone());
        Ok(table)
    }

    /// Where a guest offset is, and how many bytes from there, of at most `len`, are alike.
    async fn find(&self, at: u64, len: u64) -> Result<(Place, u64)> {
        let Header { cluster, table, .. } = self.header;
        let entries = table / 8;
        let (mut first, mut found) = (None, 0);
        while found < len {
            let here = at + found;
            let (number, inside) = (here / cluster, here % cluster);
            let l2 = self.l1.get((number / entries) as usize).copied().unwrap_or(0);
            let (place, room) = if l2 == 0 {
                let span = entries * cluster;
                (Place::Below, span - here % span)
            } else {
                let entry = le64(&self.table(l2).await?, (number % entries) as usize * 8);
                let place = match entry {
                    0 => Place::Below,
                    ZERO_CLUSTER => Place::Zero,
                    host if host % cluster == 0 && host < self.file.len()? => {
                        Place::At(host + inside)
                    }
                    _ => return Err(Error::from_errno(libc::EINVAL)),
                };
                (place, cluster - inside)
            };
            let follows = match (first.unwrap_or(place), place) {
                (Place::At(start), Place::At(next)) => start + found == next,
                (before, now) => before == now,
            };
            if !follows {
                break;
            }
            first.get_or_insert(place);
            found += room.min(len - found);
        }
        Ok((first.unwrap_or(Place::Below), found))
    }
}

/// Which clusters of the file somebody points to.
struct Uses {
    cluster: u64,
    used: Vec<bool>,
}

impl Uses {
    /// Points to clusters; whether they are in the file and nobody else's.
    fn add(&mut self, at: u64, count: u64) -> bool {
        let first = at / self.cluster;
        let range = usize::try_from(first).ok().zip(usize::try_from(first + count).ok());
        let clusters = range.and_then(|(from, to)| self.used.get_mut(from..to));
        let Some(clusters) = clusters.filter(|_| at.is_multiple_of(self.cluster)) else {
            return false;
        };
        let free = clusters.iter().all(|used| !used);
        clusters.fill(true);
        free
    }
}

impl Qed {
    async fn check_tables(&self) -> Result<CheckReport> {
        let Header { cluster, table, l1_at, len, header_clusters, .. } = self.header;
        let clusters = self.file.len()? / cluster;
        let mut report =
            CheckReport { total_clusters: len.div_ceil(cluster), ..CheckReport::default() };
        let mut uses = Uses { cluster, used: vec![false; clusters as usize] };
        let mut point = |at, count| if uses.add(at, count) { 0 } else { 1 };
        report.corruptions += point(0, header_clusters) + point(l1_at, table / cluster);
        for &l2 in self.l1.iter().filter(|l2| **l2 != 0) {
            let wrong = point(l2, table / cluster);
            report.corruptions += wrong;
            if wrong > 0 {
                continue;
            }
            let mut before = None;
            for entry in self.table(l2).await?.chunks_exact(8) {
                let host = le64(entry, 0);
                if matches!(host, 0 | ZERO_CLUSTER) {
                    continue;
                }
                report.corruptions += point(host, 1);
                report.allocated_clusters += 1;
                let apart = before.is_some_and(|before| host != before + cluster);
                report.fragmented_clusters += u64::from(apart);
                before = Some(host);
            }
        }
        report.leaks = uses.used.iter().filter(|used| !**used).count() as u64;
        Ok(report)
    }
}

fn read_only<'a>() -> Io<'a, ()> {
    Box::pin(std::future::ready(Err(Error::from_errno(libc::EPERM))))
}

impl Driver for Qed {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.header.len)
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let mut done = 0;
            while done < into.len() {
                let here = at + done as u64;
                let (place, len) = self.find(here, (into.len() - done) as u64).await?;
                let part = into.slice(done, len as usize);
                match (place, &self.backing) {
                    (Place::At(host), _) => self.file.driver().read(host, part).await?,
                    (Place::Below, Some(backing)) => {
                        let there = backing.len()?.saturating_sub(here).min(len) as usize;
                        part.slice(there, len as usize).fill(0);
                        if there > 0 {
                            backing.read(here, part.slice(0, there)).await?;
                        }
                    }
                    _ => part.fill(0),
                }
                done += len as usize;
            }
            Ok(())
        })
    }

    fn write(&self, _: u64, _: Vector) -> Io<'_, ()> {
        read_only()
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Io<'_, ()> {
        read_only()
    }

    fn discard(&self, _: u64, _: u64) -> Io<'_, ()> {
        read_only()
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn truncate(&self, _: u64, _: Preallocation) -> Io<'_, ()> {
        read_only()
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(async move {
            let (place, len) = self.find(at, len).await?;
            let extent = Extent { len, allocated: true, ..Extent::default() };
            Ok(match place {
                Place::At(host) => Extent { data: true, offset: Some(host), ..extent },
                Place::Zero => Extent { zero: true, ..extent },
                Place::Below => Extent { allocated: false, zero: self.backing.is_none(), ..extent },
            })
        })
    }

    fn check(&self, _: Repair) -> Io<'_, CheckReport> {
        Box::pin(self.check_tables())
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster)
    }

    fn backing_name(&self) -> Option<(String, Option<String>)> {
        let raw = self.header.features & BACKING_IS_RAW != 0;
        Some((self.header.backing.clone()?, raw.then(|| "raw".to_owned())))
    }

    fn is_dirty(&self) -> bool {
        self.header.features & NEED_CHECK != 0
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}
