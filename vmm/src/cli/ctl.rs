//! `coopvirt ctl`: asks a running machine over its control socket, and prints what it says.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::{presets, CellAlignment, Table};

use crate::config;
use crate::control::client;
use crate::control::metrics::{DeviceMetrics, ExitSource, Metrics};
use crate::control::{ShutDownHow, State};
use crate::coop::{CoopGauges, PollingState};
use crate::machine::RunState;
use crate::say::say;
use crate::virtio::BalloonState;

/// Look at a running machine and steer it, by the socket of `run --control`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The socket that was given to `coopvirt run --control`
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,
    #[command(subcommand)]
    ask: Ask,
    /// Print the machine's answer as it is, in JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Ask {
    /// What the machine is and whether it runs
    State,
    /// Get all vCPUs out of the guest and keep them out
    Pause,
    /// Let them run again
    Resume,
    /// Press the power button, so that the guest shuts itself down
    Shutdown {
        /// End the machine at once instead; the guest is not asked
        #[arg(long)]
        now: bool,
    },
    /// What vCPUs and devices have done so far
    Metrics,
    /// What the guest's balloon holds and what the guest says about its memory
    Balloon {
        /// First have the guest give up so much memory, in whole MiB (a bare number is MiB); 0 gives all
        /// of it back. It takes its time: ask again
        #[arg(value_name = "SIZE", value_parser = balloon_size)]
        target_mib: Option<u64>,
    },
}

impl Ask {
    fn request(self) -> (&'static str, &'static str, String) {
        match self {
            Ask::State => ("GET", "/state", String::new()),
            Ask::Metrics => ("GET", "/metrics.json", String::new()),
            Ask::Balloon { target_mib: None } => ("GET", "/balloon", String::new()),
            Ask::Balloon {
                target_mib: Some(target_mib),
            } => {
                let body = serde_json::json!({ "target_mib": target_mib });
                ("PUT", "/balloon", body.to_string())
            }
            Ask::Pause => ("POST", "/pause", String::new()),
            Ask::Resume => ("POST", "/resume", String::new()),
            Ask::Shutdown { now } => {
                let how = if now {
                    ShutDownHow::Stop
                } else {
                    ShutDownHow::PowerButton
                };
                let body = serde_json::json!({ "how": how });
                ("POST", "/shutdown", body.to_string())
            }
        }
    }
}

/// Asks, and prints the answer.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (method, target, body) = args.ask.request();
    let answer = client::request(&args.socket, method, target, body)?;
    let text = if args.json {
        answer
    } else {
        let understood = match args.ask {
            Ask::Metrics => serde_json::from_str(&answer).map(|metrics| metrics_text(&metrics)),
            Ask::State => serde_json::from_str(&answer).map(|state| state_text(&state)),
            Ask::Balloon { .. } => serde_json::from_str(&answer).map(|state| balloon_text(&state)),
            Ask::Shutdown { now: true } => Ok("the machine is ending\n".into()),
            Ask::Shutdown { now: false } => Ok("the power button is pressed\n".into()),
            Ask::Pause | Ask::Resume => {
                serde_json::from_str(&answer).map(|state: State| format!("{}\n", name(state.state)))
            }
        };
        understood.context("the machine's answer is not understood; is it of another version?")?
    };
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn name(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Ending => "ending",
    }
}

fn state_text(state: &State) -> String {
    let mut table = table(&[]);
    for (what, value) in [
        ("state", name(state.state).to_owned()),
        ("mode", state.mode.clone()),
        ("vCPUs", state.vcpus.to_string()),
        ("memory", format!("{} MiB", state.memory_bytes >> 20)),
        ("process", state.pid.to_string()),
        ("version", state.version.clone()),
    ] {
        table.add_row([what, &value]);
    }
    format!("{table}\n")
}

/// Reads a size of whole MiB, in MiB.
fn balloon_size(text: &str) -> Result<u64, String> {
    let bytes = config::size(text).map_err(|error| error.to_string())?;
    if !bytes.is_multiple_of(1 << 20) {
        return Err("a balloon has whole MiB, such as 64M".into());
    }
    Ok(bytes >> 20)
}

fn balloon_text(state: &BalloonState) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut table = table(&[]);
    let driver = match (state.has_driver, state.deflates_on_oom) {
        (false, _) => "none: the target waits for one",
        (true, true) => "yes; takes memory out before the guest runs out of it",
        (true, false) => "yes; a guest can run out of memory",
    };
    for (what, value) in [
        ("target", mib(state.target_bytes)),
        ("in the balloon", mib(state.actual_bytes)),
        ("driver", driver.into()),
        ("taken back, inflated", mib(state.inflated_bytes)),
        ("taken back, reported", mib(state.reported_bytes)),
        ("pages refused", state.refused_pages.to_string()),
    ] {
        table.add_row([what, &value]);
    }
    let Some(statistics) = &state.statistics else {
        return format!("{table}\n\nthe guest has said nothing about its memory\n");
    };
    let age = Duration::from_millis(statistics.age_ms).as_secs_f64();
    table.add_row(["the guest says", &format!("{age:.1} s ago:")]);
    for (name, value) in &statistics.values {
        let (what, value) = match name.strip_suffix("_bytes") {
            Some(what) => (what, mib(*value)),
            None => (name.as_str(), value.to_string()),
        };
        table.add_row([what.replace('_', " "), value]);
    }
    format!("{table}\n")
}

fn metrics_text(metrics: &Metrics) -> String {
    let mut vcpus = table(&["vCPU", "exits", "counted by", "to userspace"]);
    let mut reasons = table(&["vCPU", "reason", "exits"]);
    for vcpu in &metrics.vcpus {
        let source = match vcpu.source {
            ExitSource::KvmStats => "KVM's statistics",
            ExitSource::Vmm => "the VMM: only those to userspace",
        };
        vcpus.add_row([
            vcpu.vcpu.to_string(),
            vcpu.exits.to_string(),
            source.into(),
            vcpu.returns.to_string(),
        ]);
        let mut rows: Vec<_> = vcpu.exits_by_reason.iter().collect();
        rows.retain(|(_, count)| **count > 0);
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in rows {
            reasons.add_row([vcpu.vcpu.to_string(), reason.clone(), count.to_string()]);
        }
    }
    let mut devices = table(&[
        "device",
        "requests",
        "from guest",
        "to guest",
        "notifies",
        "not needed",
        "by vCPU",
        "polled",
        "interrupts",
        "not wanted",
        "below, half; 99 %",
    ]);
    for device in &metrics.devices {
        let counts = device.counts;
        let mut row = vec![format!("{} {}", device.device, device.index)];
        row.extend(
            [
                counts.requests,
                counts.bytes_from_guest,
                counts.bytes_to_guest,
                counts.notifies,
                counts.notifies_suppressed,
                counts.notifies_served_by_vcpu,
                counts.polled_finds,
                counts.interrupts,
                counts.interrupts_suppressed,
            ]
            .map(|count| count.to_string()),
        );
        row.push(latency_text(device));
        devices.add_row(row);
    }
    let mut threads = table(&["thread", "CPU time"]);
    for (name, nanos) in &metrics.thread_cpu_ns {
        threads.add_row([name, &format!("{:.1?}", Duration::from_nanos(*nanos))]);
    }
    let coop = metrics.coop.as_ref().map_or_else(String::new, coop_text);
    format!("{vcpus}\n\n{reasons}\n\n{devices}\n\n{threads}\n{coop}")
}

fn latency_text(device: &DeviceMetrics) -> String {
    if device.counts.queues_elsewhere > 0 {
        return format!("{} queues served elsewhere", device.counts.queues_elsewhere);
    }
    let below = |percent| {
        let bound = device.latency.as_ref()?.percentile_below_us(percent)?;
        Some(format!("{:?}", Duration::from_micros(bound)))
    };
    match (below(50), below(99)) {
        (Some(half), Some(nearly_all)) => format!("{half}; {nearly_all}"),
        _ => String::new(),
    }
}

fn coop_text(coop: &CoopGauges) -> String {
    let polling = match coop.polling {
        PollingState::Off => "never polls",
        PollingState::Polling => "polls",
        PollingState::Asleep => "sleeps",
    };
    let mut areas = table(&["vCPU", "cooperative counter", "count"]);
    for area in &coop.areas {
        let counts = area.guest.iter().chain(&area.host);
        for (name, count) in counts.filter(|(_, count)| **count > 0) {
            areas.add_row([area.vcpu.to_string(), name.clone(), count.to_string()]);
        }
    }
    format!("\n{areas}\n\nthe polling thread {polling}\n")
}

/// A table without lines; figures, which come behind the first column, stand on the right.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
