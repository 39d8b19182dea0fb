//! The command line: arguments, errors, exit statuses. No policy of its own.

mod arena;
mod config_file;
mod ctl;
mod doors;
mod hypercalls;
mod report;
mod report_file;
mod run;
mod top;
mod validate;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::compare;
use crate::config::ConfigError;
use crate::descriptors;
use crate::say::{finish, say};

/// The exit status of a command line, or a file of options, that cannot be understood or carried out
/// by anybody.
const WRONG_ARGUMENTS: u8 = 2;

/// Runs Linux guests under KVM and says exactly why they exit.
#[derive(Debug, Parser)]
#[command(
    name = "coopvirt",
    version,
    arg_required_else_help = true,
    args_override_self = true
)]
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
    /// Show results of compare again, or two of them side by side
    Report(report::Args),
    /// Look at a running machine and steer it, by the socket of run --control
    Ctl(ctl::Args),
    /// Say what this machine can do, and what to do about what it cannot
    Doctor {
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Measure what each way out of a guest costs on this host
    Doors(doors::Args),
    /// List what a guest can ask of the host in coop mode
    Hypercalls {
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Watch running machines: exits per second by reason and cause, what cooperation spares
    Top(top::Args),
    /// Cause exactly N exits of each kind and check that every counter says N
    Validate(validate::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    arena::share();
    descriptors::raise();
    let command = Cli::command();
    let argv = std::env::args_os().collect();
    let argv = config_file::expand(&command, argv).unwrap_or_else(|error| {
        complain!("coopvirt: {}", chain(&error.into()));
        std::process::exit(WRONG_ARGUMENTS.into())
    });
    let parsed = command.clone().try_get_matches_from(argv);
    let matches = parsed.unwrap_or_else(|error| refuse(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| refuse(&error));
    let result = match cli.command {
        Command::Run(args) if args.print_config => print_config(&command, &matches),
        Command::Run(args) => run::run(&args),
        Command::Compare(args) if args.list => compare::experiments::list(),
        Command::Compare(args) if args.print_experiment => print_experiment(&command, &matches),
        Command::Ctl(args) => ctl::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Doctor { json } => crate::doctor::run(json),
        Command::Doors(args) => doors::run(&args),
        Command::Hypercalls { json } => hypercalls::run(json),
        Command::Top(args) => top::run(&args),
        Command::Validate(args) => validate::run(&args),
    };
    let code = result.unwrap_or_else(|error| {
        crate::console::terminal::restore();
        complain!("coopvirt: {}", chain(&error));
        status(&error)
    });
    finish();
    code
}

/// What parsers cannot see, such as two options that do not fit, is wrong all the same.
fn status(error: &anyhow::Error) -> ExitCode {
    match error.is::<ConfigError>() {
        true => ExitCode::from(WRONG_ARGUMENTS),
        false => ExitCode::FAILURE,
    }
}

/// One line: what was tried, then why it failed, and what to do about a limit. Names of files and answers of other programs can be
/// in it, and do nothing to a terminal.
fn chain(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    let chain: Vec<String> = causes.chain(descriptors::remedy(&**error)).collect();
    let mut line = String::new();
    for character in chain.join(": ").chars() {
        match character {
            '\n' => line.push(' '),
            _ if character.is_control() => line.extend(character.escape_default()),
            _ => line.push(character),
        }
    }
    line
}

fn print_config(command: &clap::Command, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let run = matches.subcommand_matches("run");
    let text = config_file::print(command, run.expect("run was parsed"))?;
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn print_experiment(command: &clap::Command, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let compare = matches.subcommand_matches("compare");
    let compare = compare.expect("compare was parsed");
    say(&config_file::print_experiment(command, compare)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Says in one line what is wrong with the arguments, as for every other error; help and version
/// come as clap prints them.
fn refuse(error: &clap::Error) -> ! {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    complain!("coopvirt: {} (see --help)", one_line(error));
    std::process::exit(error.exit_code());
}

/// Clap's paragraphs without usage and its pointer to help.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .iter()
        .filter_map(|part| text.find(part))
        .min();
    let text = text.get(..end.unwrap_or(text.len())).unwrap_or(&text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_cannot_steer_a_terminal() {
        let error = anyhow::anyhow!("refused: \x1b]0;x\x07 and\nmore").context("could not ask");
        let line = chain(&error);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.starts_with("could not ask: refused: ") && line.ends_with(" and more"));
    }

    #[test]
    fn wrong_arguments_become_one_line() {
        let error = Cli::try_parse_from(["coopvirt", "run", "--kernal", "x"]).unwrap_err();
        let line = one_line(&error);
        assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
        assert!(line.starts_with("unexpected argument '--kernal'"), "{line}");
    }
}
