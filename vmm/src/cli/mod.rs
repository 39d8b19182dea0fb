//! The command line: arguments, errors, exit statuses. No policy of its own.

mod run;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::compare;

/// Runs Linux guests under KVM and says exactly why they exit.
#[derive(Debug, Parser)]
#[command(name = "coopvirt", version, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a Linux kernel in a virtual machine
    Run(Box<run::Args>),
    /// Run the same works in several arms and peers, and compare why they exit
    Compare(Box<compare::Args>),
    /// Say what this machine can do, and what to do about what it cannot
    Doctor {
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Cause exactly N exits of each kind and check that every counter says N
    Validate(validate::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Doctor { json } => Ok(crate::doctor::run(json)),
        Command::Validate(args) => validate::run(&args),
    };
    result.unwrap_or_else(|error| {
        crate::console::terminal::restore();
        // One line: what was tried, then why it failed.
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        eprintln!("coopvirt: {}", chain.join(": "));
        ExitCode::FAILURE
    })
}
