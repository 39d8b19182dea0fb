//! An experiment says what the options of `compare` say; its mistakes are told by line.

use clap::{CommandFactory, FromArgMatches};

use super::super::{Cli, Command as CliCommand};
use super::*;
use crate::compare::Args;

/// What `coopvirt compare WORDS...` comes to: the arguments, and the same as a file.
fn parsed(words: &[&str]) -> Result<(Args, String), String> {
    let command = Cli::command();
    let argv = ["coopvirt", "compare"].iter().chain(words);
    let argv = expand(&command, argv.map(OsString::from).collect());
    let argv = argv.map_err(|error| error.to_string())?;
    let matches = command
        .clone()
        .try_get_matches_from(argv)
        .map_err(|error| error.to_string())?;
    let of_compare = matches.subcommand_matches("compare").unwrap();
    let text = print_experiment(&command, of_compare).unwrap();
    let CliCommand::Compare(args) = Cli::from_arg_matches(&matches).unwrap().command else {
        panic!("compare was given");
    };
    Ok((*args, text))
}

fn with_file(text: &str, words: &[&str]) -> Result<(Args, String), String> {
    let file = vmm_sys_util::tempfile::TempFile::new().unwrap();
    std::fs::write(file.as_path(), text).unwrap();
    // A name without a slash would be a built-in one.
    let path = file.as_path().to_str().unwrap();
    parsed(&[&[path], words].concat())
}

const OWN: &str = "\
# An experiment of one's own.
arms = ['kvm', 'wide']
works = ['pipe', 'sleep']
repetitions = 3
scale = 0.5
reference = 'kvm'

[[arm]]
name = 'wide'
base = 'kvm'
cpus = 4
options = ['--halt-poll', '0']

[[arm]]
name = 'timer'
base = 'coop'
features = ['timer']
";

#[test]
fn a_file_says_what_the_options_say() {
    let (args, _) = with_file(OWN, &[]).unwrap();
    let choice = args.choose().unwrap();
    let names: Vec<_> = choice.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["kvm", "wide", "timer"]);
    assert_eq!(choice.arms[1].machine.cpus, Some(4));
    assert_eq!((args.repetitions, args.scale), (3, 0.5));
    assert_eq!(choice.works.len(), 2);
}

#[test]
fn what_is_printed_says_the_same_again() {
    let (_, text) = with_file(OWN, &["--kernel", "/k", "-n", "7", "--aa"]).unwrap();
    assert!(text.contains("repetitions = 7\n"), "{text}");
    assert!(text.contains("[[arm]]\nname = \"timer\"\n"), "{text}");
    assert_eq!(with_file(&text, &[]).unwrap().1, text);
}

#[test]
fn options_win_over_the_file() {
    let (args, _) = with_file(OWN, &["--arms", "hvm", "--reference", "hvm"]).unwrap();
    assert_eq!(args.arms, ["hvm"]);
    let (args, _) = with_file(OWN, &["--works=idle", "--arm", "{name='x',base='hvm'}"]).unwrap();
    assert_eq!((args.works.len(), args.own_arms.len()), (1, 1));
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "kernel = 'k'\n[[arm]]\nname = 'x'\nbase = 'kvm'\ninitrd = 'sub/i'\n";
    let (args, _) = with_file(text, &[]).unwrap();
    let folder = std::env::temp_dir();
    assert!(args.kernel.unwrap().starts_with(&folder));
    assert!(args.own_arms[0]
        .initrd
        .as_ref()
        .unwrap()
        .starts_with(&folder));
}

#[test]
fn mistakes_are_told_by_line() {
    for (text, line, says) in [
        (
            "\nrepetition = 3\n",
            2,
            "nearest known one is \"repetitions\"",
        ),
        ("repetitions = 0\n", 1, "0 is not in 1..=10000"),
        ("cpus = 65\n", 1, "65 is not in 1..=64"),
        ("scale = 'much'\n", 1, "0.001 to 1000"),
        ("json = 'x'\n", 1, "unknown key \"json\""),
        ("resume = true\n", 1, "unknown key \"resume\""),
        (
            "[[arm]]\nname = 'x'\nbsae = 'kvm'\n",
            3,
            "nearest known one is \"base\"",
        ),
        (
            "[[arm]]\nname = 'x'\nbase = 'kvm'\n[[arm]]\nname = 'y'\nbase = 'kwm'\n",
            4,
            "the nearest is \"kvm\"",
        ),
        (
            "[[arm]]\nname = 'x'\nbase = 'coop'\nfeatures = ['tmr']\n",
            1,
            "\"timer\"",
        ),
        (
            "[[arm]]\nname = 'x'\nbase = 'kvm'\ncpus = 1.5\n",
            1,
            "expected text, a number",
        ),
        ("arm = 'kvm'\n", 1, "[[arm]]"),
        ("arm = ['kvm']\n", 1, "an arm is a table"),
        ("works = { a = 1 }\n", 1, "not a table"),
    ] {
        let error = with_file(text, &[]).map(|_| ()).unwrap_err();
        assert!(error.contains(&format!(":{line}: ")), "{text:?}: {error}");
        assert!(error.contains(says), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn every_built_in_experiment_can_be_run() {
    for known in experiments::ALL {
        let (args, text) = parsed(&[known.name]).unwrap();
        let choice = args.choose().unwrap();
        assert!(!choice.arms.is_empty(), "{}", known.name);
        assert_eq!(with_file(&text, &[]).unwrap().1, text, "{}", known.name);
    }
}

#[test]
fn an_experiment_that_does_not_exist_is_told_with_those_that_do() {
    let error = parsed(&["fll"]).map(|_| ()).unwrap_err();
    assert!(
        error.contains("\"fll\"; there are quick, stock,"),
        "{error}"
    );
    let error = parsed(&["/nowhere/x.toml"]).map(|_| ()).unwrap_err();
    assert!(error.contains("/nowhere/x.toml"), "{error}");
}

#[test]
fn an_empty_list_is_no_list_of_everything() {
    for key in ["works", "arms", "arm"] {
        let error = with_file(&format!("repetitions = 1\n{key} = []\n"), &[]).unwrap_err();
        let wanted = format!(":2: {key}: is empty; name something, or leave the key out");
        assert!(error.contains(&wanted), "{error}");
    }
    // The command line wins, but the file has to be right.
    assert!(with_file("works = []\n", &["--works", "pipe"]).is_err());
}
