//! `coopvirt doors`: what each way out of a guest costs on this host.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use comfy_table::{presets, CellAlignment, Table};

use crate::account::backend::Backend;
use crate::accounting::host_kernel;
use crate::compare::stats;
use crate::config;
use crate::doors::levels::{self, Cost, Level, MIN_ROUNDS};
use crate::doors::{self, DoorsReport, Options, Row};
use crate::say::say;

/// Measure what each way out of a guest costs on this host.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A bare-metal guest of ours goes through each door again and again. Exits are counted in a traced run
of N iterations, interrupts of the host left out; times are taken in an untraced run, in 200 blocks
whose length grows until they fill the duration, by the guest's TSC, less the empty loop. Median and
p99 are over blocks.")]
pub(super) struct Args {
    /// Iterations of each door for the counts
    #[arg(long, short = 'n', value_name = "N", default_value_t = 500,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Shortest measuring time of each door, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..=600_000))]
    duration: u64,
    /// Longest time of one run of the guest in seconds; there are four
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
    /// Host CPUs for the vCPU and for all other threads, as for `run`
    #[arg(long, value_name = "LIST", default_value = "none", value_parser = config::pin)]
    pin: String,
    /// Measure what measuring itself costs instead: time each door so many rounds with nobody looking,
    /// with KVM's statistics read 100 times a second, and with tracepoints counting every exit
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(i64::from(MIN_ROUNDS)..=1000))]
    levels: Option<u32>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pin = config::pinned(&args.pin)?;
    let options = Options {
        count: args.count,
        duration: Duration::from_millis(args.duration),
        limit: Duration::from_secs(args.timeout),
        pin,
    };
    if let Some(rounds) = args.levels {
        return run_levels(&options, rounds, args.json);
    }
    let report = doors::run(&options)?;
    say(&match args.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => to_text(&report),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Seed of the levels' order.
const SEED: u64 = 1;

fn run_levels(options: &Options, rounds: u32, json: bool) -> anyhow::Result<ExitCode> {
    let rows = levels::run(options, rounds, SEED, |round, level| {
        complain!("[{round}/{rounds}] {}", level.name());
    })?;
    if json {
        say(&(serde_json::to_string_pretty(&rows)? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = format!(
        "what measuring costs an exit, {}, linux {}; {rounds} rounds, levels in random order (seed {SEED})\n\
         share of the time of one operation with nobody looking [95 % interval]; \"noise\": not told from chance",
        Backend::probe().name,
        host_kernel()
    );
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let [nothing, statistics, tracepoints] = Level::ALL.map(Level::name);
    table.set_header(["door", "batch", nothing, statistics, tracepoints]);
    for row in &rows {
        let [nothing, ..] = &row.rounds_ns;
        let [statistics, tracepoints] = row.costs.map(cost);
        table.add_row([
            row.name.into(),
            row.batch.to_string(),
            stats::median(nothing).map_or("-".into(), microseconds),
            statistics,
            tracepoints,
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    say(&format!("{head}\n{table}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn cost(cost: Cost) -> String {
    let interval = cost.percent_interval.map_or(String::new(), |(low, high)| {
        format!(" [{low:+.1} - {high:+.1}]")
    });
    let noise = if cost.is_claimed { "" } else { ", noise" };
    format!("{:+.1} %{interval}{noise}", cost.percent)
}

fn to_text(report: &DoorsReport) -> String {
    let mut lines = vec![format!(
        "doors on {}, linux {}; per operation",
        report.backend.name, report.kernel
    )];
    if report.backend.emulated {
        lines.push(
            "warning: the CPU is emulated: exits hold, times say nothing about hardware".into(),
        );
    }
    if let Some(reason) = &report.not_traced {
        lines.push(format!("exits not traced: {reason}"));
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["door", "batch", "exits", "userspace", "median", "p99"]);
    report.rows.iter().for_each(|row| {
        table.add_row(cells(row));
    });
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    lines.push(table.to_string());
    lines.extend(report.rows.iter().filter_map(starved));
    lines.join("\n") + "\n"
}

/// Says of a polled door how often it found no lease while it was timed, if it did.
fn starved(row: &Row) -> Option<String> {
    let rings = row.timed_userspace_exits? * f64::from(row.batch);
    let is_polled = row.name == doors::table::POLLED;
    (is_polled && rings > 0.001).then(|| {
        format!(
            "{}, batch {}: {:.1} % of the timed batches found no lease and rang: the polling thread \
             had not renewed it in time",
            row.name,
            row.batch,
            rings * 100.0
        )
    })
}

fn cells(row: &Row) -> [String; 6] {
    let count = |n: Option<f64>| n.map_or("-".into(), |n| format!("{n:.3}"));
    let time = |ns: Option<f64>| ns.map_or("-".into(), microseconds);
    let name = match &row.not_measured {
        Some(reason) => format!("{}: {reason}", row.name),
        None => row.name.into(),
    };
    [
        name,
        row.batch.to_string(),
        count(row.exits),
        count(row.userspace_exits),
        time(row.time.map(|time| time.median_ns)),
        time(row.time.map(|time| time.p99_ns)),
    ]
}

fn microseconds(ns: f64) -> String {
    format!("{:.3} µs", ns / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_was_not_measured_says_why() {
        let row = Row {
            name: "ring",
            batch: 64,
            not_measured: Some("the ring holds 32".into()),
            exits: None,
            userspace_exits: Some(0.03125),
            time: None,
            timed_userspace_exits: None,
        };
        let expected = ["ring: the ring holds 32", "64", "-", "0.031", "-", "-"];
        assert_eq!(cells(&row), expected);
        assert_eq!(starved(&row), None);
        let polled = Row {
            name: doors::table::POLLED,
            timed_userspace_exits: Some(0.0078125),
            ..row
        };
        assert!(starved(&polled).is_some_and(|line| line.contains("batch 64: 50.0 %")));
        assert_eq!(microseconds(1234.5), "1.234 µs");
    }
}
