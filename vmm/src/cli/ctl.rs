//! `coopvirt ctl`: asks a running machine over its control socket, and prints what it says.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::{presets, CellAlignment, Table};

use crate::control::client;
use crate::control::metrics::{ExitSource, Metrics};
use crate::control::{ShutDownHow, State};
use crate::machine::RunState;

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
}

impl Ask {
    fn request(self) -> (&'static str, &'static str, String) {
        match self {
            Ask::State => ("GET", "/state", String::new()),
            Ask::Metrics => ("GET", "/metrics.json", String::new()),
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
            Ask::Shutdown { now: true } => Ok("the machine is ending\n".into()),
            Ask::Shutdown { now: false } => Ok("the power button is pressed\n".into()),
            Ask::Pause | Ask::Resume => {
                serde_json::from_str(&answer).map(|state: State| format!("{}\n", name(state.state)))
            }
        };
        understood.context("the machine's answer is not understood; is it of another version?")?
    };
    print!("{text}");
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
        "polled",
        "interrupts",
        "not wanted",
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
                counts.polled_finds,
                counts.interrupts,
                counts.interrupts_suppressed,
            ]
            .map(|count| count.to_string()),
        );
        devices.add_row(row);
    }
    format!("{vcpus}\n\n{reasons}\n\n{devices}\n")
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
