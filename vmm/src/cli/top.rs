//! `coopvirt top`: what running machines do, live or for programs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::top;

/// Watch running machines: their exits per second by reason and cause, exits that cooperation spared,
/// what the polling thread does.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Keys: q quits, Tab and arrows show other machines.

What can be known while a machine runs: all exits by KVM's counters, which do not tell every reason;
causes (which MSR, port, address) of exits to userspace; of all exits only if the machine was started
with --exits FILE and may read tracepoints. The screen says which it is.

Example: coopvirt top --csv --every 0.5 >rates.csv")]
pub(super) struct Args {
    /// Control sockets of machines (run --control PATH). Without any, all running machines of yours that
    /// have one
    #[arg(value_name = "SOCKET")]
    sockets: Vec<PathBuf>,
    /// Seconds between two looks, 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = every)]
    every: Duration,
    /// Look for one interval, print it and end
    #[arg(long)]
    once: bool,
    /// Print rows of comma-separated values after each interval until the machines end
    #[arg(long, conflicts_with = "prometheus")]
    csv: bool,
    /// Print all counters once, in the format of Prometheus
    #[arg(long)]
    prometheus: bool,
}

fn every(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
    let seconds = seconds.ok_or("expected seconds from 0.1 to 3600")?;
    Ok(Duration::from_secs_f64(seconds))
}

/// Watches.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let found = top::find(&args.sockets)?;
    if args.prometheus {
        top::prometheus(&found)?;
    } else if args.csv {
        top::csv(found, args.every, args.once)?;
    } else if args.once {
        top::once(found, args.every)?;
    } else if let Some(signal) = top::live(found, args.every, args.sockets.is_empty())? {
        return Ok(ExitCode::from(
            u8::try_from(128 + signal).unwrap_or(u8::MAX),
        ));
    }
    Ok(ExitCode::SUCCESS)
}
