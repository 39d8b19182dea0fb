//! The command line: arguments, errors, exit statuses. No policy of its own.

mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Linux guests under KVM and says exactly why they exit.
#[derive(Debug, Parser)]
#[command(name = "coopvirt", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a Linux kernel in a virtual machine
    Run(Box<run::Args>),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => run::run(*args),
    };
    result.unwrap_or_else(|error| {
        crate::console::terminal::restore();
        // One line: what was tried, then why it failed.
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        eprintln!("coopvirt: {}", chain.join(": "));
        ExitCode::FAILURE
    })
}
