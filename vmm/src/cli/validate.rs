//! `coopvirt validate`: N exits of each kind, and what each counter says.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use comfy_table::{presets, CellAlignment, Table};

use crate::config;
use crate::say::say;
use crate::validate::{self, Options, Validation};

/// Cause exactly N exits of each kind and check that every counter says N.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A bare-metal guest of ours causes N exits of each kind between two marks. The kernel's tracepoints,
KVM's statistics and the VMM's own count are compared with N, and so is what was counted at the
very cause: at this MSR, port, address or hypercall.

Exit status: 0 all exact; 6 some counter is wrong; 1 it could not run; 2 wrong arguments.")]
pub(super) struct Args {
    /// Exits of each kind
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Longest time in seconds
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
    /// Host CPUs for the vCPU and for all other threads, as for `run`
    #[arg(long, value_name = "LIST", default_value = "none", value_parser = config::pin)]
    pin: String,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

const STATUS_INEXACT: u8 = 6;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pin = config::pinned(&args.pin)?;
    let limit = Duration::from_secs(args.timeout);
    let validation = validate::run(&Options {
        count: args.count,
        limit,
        pin,
    })?;
    say(&match args.json {
        true => serde_json::to_string_pretty(&validation)? + "\n",
        false => to_text(&validation),
    })?;
    Ok(if validation.is_exact() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(STATUS_INEXACT)
    })
}

fn to_text(validation: &Validation) -> String {
    let report = &validation.report;
    let mut lines = vec![format!(
        "validation on {}, linux {}",
        report.backend.name, report.kernel
    )];
    if let Some(reason) = &report.not_traced {
        lines.push(format!("not traced: {reason}"));
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let heads = [
        "kind of exit",
        "done",
        "traced",
        "cause",
        "at it",
        "KVM's statistic",
        "returns",
        "expected",
        "",
    ];
    table.set_header(heads);
    let shown = |count: Option<u64>| count.map_or("-".to_string(), |count| count.to_string());
    for kind in &validation.kinds {
        table.add_row([
            kind.name.to_string(),
            kind.done.to_string(),
            shown(kind.traced),
            kind.cause.unwrap_or("not told").to_string(),
            shown(kind.attributed),
            shown(kind.statistic),
            (kind.returned + kind.returned_otherwise).to_string(),
            kind.returns_expected.to_string(),
            if kind.is_exact { "exact" } else { "WRONG" }.to_string(),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if (1..=7).contains(&index) && index != 3 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines.push(table.to_string());
    let empty_phase = shown(validation.empty_phase);
    lines.push(format!("empty phase: {empty_phase} exits"));
    lines.extend(report.identity.lines());
    let exact = validation.kinds.iter().filter(|kind| kind.is_exact).count();
    let all = validation.kinds.len();
    lines.push(format!("{exact} of {all} kinds are exact\n"));
    lines.join("\n")
}
