//! `coopvirt run --config FILE` and `coopvirt compare EXPERIMENT`: options, said by a TOML file.
//!
//! A key is the long name of an option and its value is what would stand behind it, so every option
//! has a key by itself. The file's settings go in front of the command line's own words as options
//! do; one that the command line gives too is left out, so the command line wins. Called by `main`
//! before the arguments are parsed for good; it must never decide what a value means: that is the
//! option's own parser, which also checks each setting alone so that a refusal can name its line.

mod arms;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::de::{DeTable, DeValue};
use toml::Spanned;

use crate::compare::{args, experiments};

/// A subcommand whose options a file can say.
struct Subcommand {
    name: &'static str,
    /// Options whose values begin with a path: relative ones are relative to the file.
    paths: &'static [&'static str],
    /// Options whose values may end with a path, and the word before it.
    paths_behind: &'static [(&'static str, &'static str)],
    /// Options that a file cannot hold: they say what to do with it, or where results go.
    not_in_file: &'static [&'static str],
    /// The argument that names the file.
    file: &'static str,
}

const RUN: Subcommand = Subcommand {
    name: "run",
    paths: &[
        "kernel",
        "initrd",
        "disk",
        "vhost-user-blk",
        "fs",
        "exits",
        "control",
    ],
    paths_behind: &[("vsock", ",socket=")],
    not_in_file: &["config", "print-config", "help", "version"],
    file: "config",
};

const COMPARE: Subcommand = Subcommand {
    name: "compare",
    paths: &["kernel", "initrd", "disk", "budget"],
    paths_behind: &[],
    not_in_file: &[
        "list",
        "print-experiment",
        "json",
        "html",
        "resume",
        "update-budget",
        "help",
        "version",
    ],
    file: "experiment",
};

/// The key of a comparison whose values are tables.
const ARM: &str = "arm";
/// A file of options is short; what is longer is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a file of options is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigFileError {
    #[error("could not read {path:?}; check the path given to {option}")]
    Read {
        path: PathBuf,
        option: &'static str,
        source: io::Error,
    },
    #[error("{path:?} is larger than any file of options; check the path given to {option}")]
    TooLarge { path: PathBuf, option: &'static str },
    #[error(
        "no built-in experiment is called {0:?}; there are {1} (a file is named by a path: ./{0})"
    )]
    NoExperiment(String, String),
    #[error("{}:{line}: {what}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        what: String,
    },
    #[error("option --{0} is not text that a TOML file can hold")]
    NotText(String),
}

/// One line of a file: the option, and its words on a command line.
struct Setting {
    id: String,
    words: Vec<OsString>,
}

/// Puts the options of the file that `argv` names behind `run`. `command` is the whole program's.
pub(super) fn expand(
    command: &Command,
    argv: Vec<OsString>,
) -> Result<Vec<OsString>, ConfigFileError> {
    let lenient = command
        .clone()
        .mut_subcommand("run", |run| run.mut_args(|arg| arg.required(false)));
    // What is wrong with the command line itself is said when it is parsed for good.
    let Ok(matches) = lenient.try_get_matches_from(&argv) else {
        return Ok(argv);
    };
    let (of, given, source) = match matches.subcommand() {
        Some(("run", given)) => match given.get_one::<PathBuf>(RUN.file) {
            Some(path) => (&RUN, given, Source::read(path, "--config")?),
            None => return Ok(argv),
        },
        Some(("compare", given)) => match given.get_one::<String>(COMPARE.file) {
            Some(name) => (&COMPARE, given, Source::experiment(name)?),
            None => return Ok(argv),
        },
        _ => return Ok(argv),
    };
    let options = options(command, of);
    let settings = parse(&options, of, &source)?;
    let is_given = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let from_file = settings
        .into_iter()
        .filter(|setting| !is_given(&setting.id))
        .flat_map(|setting| setting.words);
    // The program has no options of its own: the subcommand is the second word.
    let (head, own) = argv.split_at(2);
    Ok(head
        .iter()
        .cloned()
        .chain(from_file)
        .chain(own.iter().cloned())
        .collect())
}

/// What `matches` of `run` mean, as a file for `--config`: defaults too, paths from the root.
pub(super) fn print(command: &Command, matches: &ArgMatches) -> Result<String, ConfigFileError> {
    print_of(command, matches, &RUN)
}

/// What `matches` of `compare` mean, as an experiment.
pub(super) fn print_experiment(
    command: &Command,
    matches: &ArgMatches,
) -> Result<String, ConfigFileError> {
    print_of(command, matches, &COMPARE)
}

fn print_of(
    command: &Command,
    matches: &ArgMatches,
    of: &Subcommand,
) -> Result<String, ConfigFileError> {
    let (mut text, mut tables) = (String::new(), String::new());
    for (key, arg) in keys(&options(command, of), of) {
        let id = arg.get_id().as_str();
        if !arg.get_action().takes_values() {
            if matches.get_flag(id) {
                text.push_str(&format!("{key} = true\n"));
            }
            continue;
        }
        let Some(values) = matches.get_raw(id) else {
            continue;
        };
        let values = values
            .map(|value| {
                let value = value.to_str();
                value.ok_or_else(|| ConfigFileError::NotText(key.clone()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if key == ARM {
            tables.extend(values.into_iter().map(arms::table));
            continue;
        }
        let values: Vec<String> = values
            .into_iter()
            .map(|value| literal(&absolute(of, &key, value)))
            .collect();
        let value = match arg.get_action() {
            ArgAction::Append => format!("[{}]", values.join(", ")),
            _ => values.join(","),
        };
        text.push_str(&format!("{key} = {value}\n"));
    }
    Ok(text + &tables)
}

/// The options of a subcommand, with none required, for parsing a part of them.
fn options(command: &Command, of: &Subcommand) -> Command {
    command
        .find_subcommand(of.name)
        .expect("the program has it")
        .clone()
        .mut_args(|arg| arg.required(false))
        .no_binary_name(true)
}

/// What a file can say: key and option, in the order of the help.
fn keys(options: &Command, of: &Subcommand) -> Vec<(String, Arg)> {
    options
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.clone())))
        .filter(|(key, _)| !of.not_in_file.contains(&key.as_str()))
        .collect()
}

/// The text of a file and where it comes from.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn read(path: &Path, option: &'static str) -> Result<Source, ConfigFileError> {
        let failed = |source| ConfigFileError::Read {
            path: path.to_owned(),
            option,
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigFileError::TooLarge {
                path: path.to_owned(),
                option,
            });
        }
        Ok(Source {
            path: path.to_owned(),
            text,
        })
    }

    /// A name is a built-in experiment's, whatever is called so in this folder.
    fn experiment(name: &str) -> Result<Source, ConfigFileError> {
        if let Some(found) = experiments::by_name(name) {
            return Ok(Source {
                path: format!("{name}.toml").into(),
                text: found.text.into(),
            });
        }
        if name.contains('/') || name.ends_with(".toml") {
            return Source::read(Path::new(name), "compare");
        }
        let names: Vec<&str> = experiments::ALL.iter().map(|known| known.name).collect();
        Err(ConfigFileError::NoExperiment(name.into(), names.join(", ")))
    }
}

fn parse(
    options: &Command,
    of: &Subcommand,
    source: &Source,
) -> Result<Vec<Setting>, ConfigFileError> {
    let text = source.text.as_str();
    let refuse = |at: usize, what: String| ConfigFileError::Line {
        path: source.path.clone(),
        line: line_of(text, at),
        what,
    };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        refuse(at, error.message().replace('\n', ", "))
    })?;
    let known = keys(options, of);
    let folder = source.path.parent().unwrap_or(Path::new(""));
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // In the file's order, so that the first mistake is the one that is told.
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut settings = Vec::new();
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let Some((_, arg)) = known.iter().find(|(known, _)| known == name) else {
            let keys: Vec<&str> = known.iter().map(|(key, _)| key.as_str()).collect();
            let what = format!("the long options of {}", of.name);
            return Err(refuse(key.span().start, unknown(name, &keys, &what)));
        };
        if name == ARM {
            arms::check(value).map_err(|(at, what)| refuse(at, what))?;
        }
        let words = words(of, arg, value, folder)
            .map_err(|what| refuse(value.span().start, format!("{name}: {what}")))?;
        // Each alone: of several tables the one that is wrong has its own line.
        for (index, word) in words.iter().enumerate() {
            let at = item(value, index).map_or(value.span().start, |item| item.span().start);
            options
                .clone()
                .try_get_matches_from([word])
                .map_err(|error| refuse(at, super::one_line(&error)))?;
        }
        settings.push(Setting {
            id: arg.get_id().to_string(),
            words,
        });
    }
    Ok(settings)
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn unknown(name: &str, known: &[&str], what: &str) -> String {
    let near = args::nearest(name, known.iter().copied());
    format!("unknown key {name:?}; the nearest known one is {near:?} (keys are {what})")
}

/// The value's element with this number, if it is a list.
fn item<'a, 'i>(value: &'a Spanned<DeValue<'i>>, index: usize) -> Option<&'a Spanned<DeValue<'i>>> {
    match value.get_ref() {
        DeValue::Array(array) => array.get(index),
        _ => None,
    }
}

/// The words that say the same on a command line.
fn words(
    of: &Subcommand,
    arg: &Arg,
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
) -> Result<Vec<OsString>, String> {
    let key = arg.get_long().expect("keys are long names");
    if !arg.get_action().takes_values() {
        return match value.get_ref() {
            DeValue::Boolean(true) => Ok(vec![format!("--{key}").into()]),
            DeValue::Boolean(false) => Ok(Vec::new()),
            _ => Err("expected true or false".into()),
        };
    }
    let texts = match value.get_ref() {
        DeValue::Array(array) => array
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::Table(_) if key == ARM => arms::inline(item.get_ref(), folder),
                item => scalar(item),
            })
            .collect::<Result<Vec<_>, _>>()?,
        value => vec![scalar(value)?],
    };
    let is_list = arg
        .get_value_names()
        .is_some_and(|names| names.iter().any(|name| name.as_str() == "LIST"));
    let texts = match arg.get_action() {
        // Nobody has an option with nothing behind it; left out, most mean their default.
        _ if texts.is_empty() && of.name == COMPARE.name => {
            return Err("is empty; name something, or leave the key out for its default".into())
        }
        ArgAction::Append => texts,
        _ if texts.is_empty() => texts,
        _ if is_list => vec![texts.join(",")],
        _ if texts.len() == 1 => texts,
        _ => return Err("takes one value, not a list".into()),
    };
    let word = |text: String| {
        let mut word = OsString::from(format!("--{key}="));
        match split_path(of, key, &text) {
            Some((front, path)) => {
                word.push(front);
                word.push(folder.join(path));
            }
            None => word.push(text),
        }
        word
    };
    Ok(texts.into_iter().map(word).collect())
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("number {number} is too large")),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(_) => Err("expected text or a number, not true or false".into()),
        DeValue::Table(_) => Err("expected text or a number, not a table".into()),
        _ => Err("expected text, a number or a list of them".into()),
    }
}

/// The path in a value, if there is one, and what stands before it.
fn split_path<'t>(of: &Subcommand, key: &str, value: &'t str) -> Option<(&'t str, &'t str)> {
    if of.paths.contains(&key) {
        return Some(("", value));
    }
    let (_, word) = of.paths_behind.iter().find(|(option, _)| *option == key)?;
    let start = value.find(word)? + word.len();
    // An empty one is for the option to refuse.
    Some(value.split_at(start)).filter(|(_, path)| !path.is_empty())
}

/// A value as the file's reader takes it from any folder.
fn absolute(of: &Subcommand, key: &str, value: &str) -> String {
    let Some((front, path)) = split_path(of, key, value) else {
        return value.to_owned();
    };
    // Only fails for an empty path or without a current folder; then it stays as it was given.
    std::path::absolute(path)
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .map_or_else(|| value.to_owned(), |path| format!("{front}{path}"))
}

/// A TOML value: a number where the text is one.
fn literal(text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => text.to_owned(),
        _ => toml::Value::String(text.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod compare_tests;
#[cfg(test)]
mod tests;
