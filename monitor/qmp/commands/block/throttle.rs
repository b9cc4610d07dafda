//! Limits of drives.

use block::throttle::{Group, Kind, Limits};

use super::drive;
use crate::qapi::QmpError;
use crate::qapi_struct;
use crate::qmp::Call;

qapi_struct! {
    /// A drive, and its limits.
    pub(in crate::qmp) struct Throttle {
        "device" device: Option<String>,
        "id" id: Option<String>,
        "bps" bps: i64,
        "bps_rd" bps_rd: i64,
        "bps_wr" bps_wr: i64,
        "iops" iops: i64,
        "iops_rd" iops_rd: i64,
        "iops_wr" iops_wr: i64,
        "bps_max" bps_max: Option<i64>,
        "bps_rd_max" bps_rd_max: Option<i64>,
        "bps_wr_max" bps_wr_max: Option<i64>,
        "iops_max" iops_max: Option<i64>,
        "iops_rd_max" iops_rd_max: Option<i64>,
        "iops_wr_max" iops_wr_max: Option<i64>,
        "bps_max_length" bps_max_length: Option<i64>,
        "bps_rd_max_length" bps_rd_max_length: Option<i64>,
        "bps_wr_max_length" bps_wr_max_length: Option<i64>,
        "iops_max_length" iops_max_length: Option<i64>,
        "iops_rd_max_length" iops_rd_max_length: Option<i64>,
        "iops_wr_max_length" iops_wr_max_length: Option<i64>,
        "iops_size" iops_size: Option<i64>,
        "group" group: Option<String>,
    }
}

impl Throttle {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        // What is negative is too large to be a limit.
        limits.iops_size = self.iops_size.unwrap_or(0) as u64;
        for (kind, rate, burst, length) in [
            (Kind::BpsTotal, self.bps, self.bps_max, self.bps_max_length),
            (Kind::BpsRead, self.bps_rd, self.bps_rd_max, self.bps_rd_max_length),
            (Kind::BpsWrite, self.bps_wr, self.bps_wr_max, self.bps_wr_max_length),
            (Kind::IopsTotal, self.iops, self.iops_max, self.iops_max_length),
            (Kind::IopsRead, self.iops_rd, self.iops_rd_max, self.iops_rd_max_length),
            (Kind::IopsWrite, self.iops_wr, self.iops_wr_max, self.iops_wr_max_length),
        ] {
            let limit = limits.of_mut(kind);
            (limit.rate, limit.burst) = (rate as u64, burst.unwrap_or(0) as u64);
            limit.burst_length = length.unwrap_or(1) as u64;
        }
        limits
    }
}

pub(in crate::qmp) fn block_set_io_throttle(
    call: &Call<'_>,
    throttle: Throttle,
) -> Result<(), QmpError> {
    let graph = call.target.vm.graph();
    let limits = throttle.limits();
    let (called, drive) = drive(graph, throttle.device, throttle.id)?;
    if !drive.present() {
        return Err(QmpError::new(format!("Device '{called}' has no medium")));
    }
    limits.check()?;
    if !limits.is_limited() {
        drive.set_throttle(None);
        return Ok(());
    }
    let present = drive.throttle();
    let name = throttle.group.or_else(|| present.map(|group| group.name().to_owned()));
    let name = name.unwrap_or(called);
    let group = graph.throttle_group(&name).unwrap_or_else(|| Group::new(&name, limits));
    group.set_limits(limits);
    drive.set_throttle(Some(group));
    Ok(())
}
