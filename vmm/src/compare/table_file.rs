//! The CSV file of a comparison: every count of every sample, one line each, for other programs.
//!
//! Long and not wide: causes differ from arm to arm, so columns for them would be empty mostly.
//! Pure but for writing; called by [`super::session`] and `coopvirt report`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::model::{Report, Run, Sample};

/// What a line says, in its columns.
pub const COLUMNS: [&str; 9] = [
    "arm",
    "repetition",
    "setting",
    "work",
    "ops",
    "kind",
    "name",
    "value",
    "per_op",
];

/// Writes the file.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    write_to(BufWriter::new(file), report)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write_to(to: impl Write, report: &Report) -> Result<()> {
    let mut csv = csv::Writer::from_writer(to);
    csv.write_record(COLUMNS)?;
    for run in report.counted_runs() {
        for sample in &run.samples {
            for (kind, name, value) in figures(sample) {
                csv.write_record(line(run, sample, kind, &name, value))?;
            }
        }
    }
    csv.flush()?;
    Ok(())
}

fn line(run: &Run, sample: &Sample, kind: &str, name: &str, value: u64) -> [String; 9] {
    [
        run.arm.clone(),
        run.repetition.to_string(),
        run.setting.name(),
        sample.work.clone(),
        sample.ops.to_string(),
        kind.into(),
        name.into(),
        value.to_string(),
        (value as f64 / sample.ops.max(1) as f64).to_string(),
    ]
}

/// Kind, name and value of all that a sample holds.
fn figures(sample: &Sample) -> Vec<(&'static str, String, u64)> {
    let counts = &sample.counts;
    let mut lines = vec![
        ("exits", "gross".to_string(), counts.total),
        ("exits", "userspace".into(), counts.userspace),
        ("time_ns", "elapsed".into(), sample.elapsed_ns),
        ("time_ns", "cpu".into(), sample.cpu_ns),
    ];
    if let Some(net) = counts.net_if_known() {
        lines.push(("exits", "net".into(), net));
    }
    if let Some(latency) = &sample.latency_ns {
        let points = [("median", latency.median), ("p99", latency.p99)];
        lines.extend(points.map(|(name, ns)| ("latency_ns", name.into(), ns)));
    }
    let maps = [
        ("reason", &counts.by_reason),
        ("cause", &counts.by_cause),
        ("place", &counts.by_place),
        ("thread_ns", &sample.cpu_by_thread_ns),
    ];
    for (kind, map) in maps {
        lines.extend(map.iter().map(|(name, value)| (kind, name.clone(), *value)));
    }
    for (reason, durations) in &counts.durations {
        let buckets = durations.buckets.iter().enumerate();
        let of_bucket = |(index, count): (usize, &u64)| {
            let least_ns = 1u64.checked_shl(u32::try_from(index).ok()?)?;
            (*count > 0).then(|| ("exits_from_ns", format!("{reason} {least_ns}"), *count))
        };
        lines.extend(buckets.filter_map(of_bucket));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::waterfall::tests::moved;

    #[test]
    fn each_count_has_its_line_and_commas_do_no_harm() {
        let mut report = moved();
        let sample = &mut report.runs[0].samples[1];
        sample.counts.by_cause = [("a, \"b\"".to_string(), 30)].into();
        let mut durations = crate::account::durations::Durations::default();
        durations.add(5);
        sample.counts.durations = [("HLT".to_string(), durations)].into();
        let mut bytes = Vec::new();
        write_to(&mut bytes, &report).unwrap();
        let mut read = csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(read.headers().unwrap(), &COLUMNS[..]);
        let lines: Vec<Vec<String>> = read
            .records()
            .map(|line| line.unwrap().iter().map(str::to_string).collect())
            .collect();
        let has = |wanted: [&str; 9]| lines.iter().any(|line| line == &wanted);
        let line = |kind, name, value, per_op| {
            [
                "qemu-pci", "0", "virtio", "pipe", "10", kind, name, value, per_op,
            ]
        };
        assert!(has(line("cause", "a, \"b\"", "30", "3")));
        assert!(has(line("exits_from_ns", "HLT 4", "1", "0.1")));
        assert!(has(line("latency_ns", "p99", "9000", "900")));
    }
}
