//! `coopvirt report`: shows what comparisons have found, again or side by side.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{ensure, Context};
use clap::Args as ClapArgs;

use crate::compare::model::Report;
use crate::compare::symbols::Symbols;
use crate::compare::{html, json, schema, table, table_file, two};
use crate::say::say;

/// Show the results of `compare` again, or two of them side by side.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
One file gives the tables of `compare` again, and with --html the page. Two files (two hosts, two
commits) are compared arm by arm: what has changed, whether runs could show that by chance, and
where the exits went.

    coopvirt report out/compare.json --html page.html --symbols System.map
    coopvirt report before.json after.json")]
pub(super) struct Args {
    /// What `compare --json` has written: one file, or two to compare
    #[arg(value_name = "FILE", num_args = 1..=2, required_unless_present = "schema")]
    files: Vec<PathBuf>,
    /// Write the page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write every sample as a table, one line for each count
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The guest kernel's System.map: names for the guest's instructions that exit
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    /// Print the JSON Schema of these files
    #[arg(long, conflicts_with_all = ["html", "csv", "symbols", "files"])]
    schema: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.schema {
        say(schema::SCHEMA)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut reports: Vec<Report> = Vec::new();
    for path in &args.files {
        reports.push(json::read(path)?);
    }
    if let Some(map) = &args.symbols {
        let symbols = Symbols::read(map)?;
        reports.iter_mut().for_each(|report| symbols.apply(report));
    }
    match reports.as_slice() {
        [one] => {
            say(&table::render(one))?;
            if let Some(path) = &args.html {
                fs::write(path, html::render(one))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            if let Some(path) = &args.csv {
                table_file::write(path, one)?;
            }
        }
        [a, b] => {
            ensure!(
                args.html.is_none() && args.csv.is_none(),
                "--html and --csv are for one file; leave the other out"
            );
            let name = |index: usize| args.files[index].display().to_string();
            say(&two::render(a, b, [&name(0), &name(1)]))?;
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}
