//! Samples and what is said of them.

use std::fmt;
use std::time::Duration;

use anyhow::{ensure, Result};
use comfy_table::{LineStyle, Table, TableStyle};
use coopvirt::compare::stats::median;

use crate::arm::Arm;
use crate::counts::Reading;

/// Words in columns with a line under the heading only.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Which way the data went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToGuest,
    FromGuest,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::ToGuest => "to the guest",
            Way::FromGuest => "from it",
        }
    }
}

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    arm: Arm,
    way: Way,
    /// Exits but those for the host's interrupts, per MiB.
    exits: f64,
    /// All exits per MiB.
    all_exits: f64,
    /// Milliseconds of CPU time per MiB.
    cpu_ms: f64,
    /// MiB in a second.
    speed: f64,
}

impl Sample {
    pub(crate) fn new(
        arm: Arm,
        way: Way,
        bytes: u64,
        counts: Reading,
        elapsed: Duration,
    ) -> Result<Self> {
        ensure!(bytes > 0, "nothing came through");
        let mib = bytes as f64 / f64::from(1 << 20);
        let net = counts.exits.saturating_sub(counts.irq_exits);
        Ok(Self {
            arm,
            way,
            exits: net as f64 / mib,
            all_exits: counts.exits as f64 / mib,
            cpu_ms: counts.cpu_nanos as f64 / 1e6 / mib,
            speed: mib / elapsed.as_secs_f64(),
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (way, exits) = (self.way.name(), self.exits);
        let (cpu, speed) = (self.cpu_ms, self.speed);
        write!(
            f,
            "{way}: {exits:.2} exits and {cpu:.2} ms of CPU time per MiB, {speed:.2} MiB/s"
        )
    }
}

/// Says what exits there were, those that are at least a fiftieth of one per MiB.
pub(crate) fn print_causes(causes: &[(String, u64)], bytes: u64) {
    let mib = bytes as f64 / f64::from(1 << 20);
    for (name, count) in causes {
        let each = *count as f64 / mib;
        if each >= 0.02 {
            eprintln!("    {each:8.2}  {name}");
        }
    }
}

pub(crate) fn print(arms: &[Arm], samples: &[Sample]) {
    let mut table = Table::new();
    table.load_style(STYLE).set_header([
        "arm",
        "way",
        "n",
        "exits per MiB (range)",
        "with the host's interrupts",
        "CPU ms per MiB (range)",
        "MiB/s",
    ]);
    for way in [Way::ToGuest, Way::FromGuest] {
        for &arm in arms {
            let of = |figure: fn(&Sample) -> f64| -> Vec<f64> {
                let these = samples
                    .iter()
                    .filter(|sample| (sample.arm, sample.way) == (arm, way));
                these.map(figure).collect()
            };
            let exits = of(|sample| sample.exits);
            table.add_row([
                arm.name().to_owned(),
                way.name().to_owned(),
                exits.len().to_string(),
                with_range(&exits),
                one(&of(|sample| sample.all_exits)),
                with_range(&of(|sample| sample.cpu_ms)),
                one(&of(|sample| sample.speed)),
            ]);
        }
    }
    println!("{table}");
}

fn one(values: &[f64]) -> String {
    median(values).map_or_else(|| "-".to_owned(), |middle| format!("{middle:.2}"))
}

fn with_range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} ({least:.2} to {most:.2})", one(values))
}
