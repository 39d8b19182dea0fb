//! `coopvirt run --config FILE`: the options of `run`, said by a TOML file.
//!
//! A key is the long name of an option and its value is what would stand behind it, so every option
//! has a key by itself. The file's settings go in front of the command line's own words as options
//! do; one that the command line gives too is left out, so the command line wins. Called by `main`
//! before the arguments are parsed for good; it must never decide what a value means: that is the
//! option's own parser, which also checks each setting alone so that a refusal can name its line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::de::{DeTable, DeValue};
use toml::Spanned;

/// Options whose values begin with a path: relative ones are relative to the file.
const PATHS: [&str; 7] = [
    "kernel",
    "initrd",
    "disk",
    "vhost-user-blk",
    "fs",
    "exits",
    "control",
];
/// Options that a file cannot hold: they say what to do with it.
const NOT_IN_FILE: [&str; 4] = ["config", "print-config", "help", "version"];
/// A file of options is short; what is longer is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a file of options is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigFileError {
    #[error("could not read {path:?}; check the path given to --config")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is larger than any file of options; check the path given to --config")]
    TooLarge { path: PathBuf },
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
    let Some(("run", given)) = matches.subcommand() else {
        return Ok(argv);
    };
    let Some(path) = given.get_one::<PathBuf>("config") else {
        return Ok(argv);
    };
    let run = run_options(command);
    let text = read(path)?;
    let settings = parse(&run, path, &text)?;
    let is_given = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let from_file = settings
        .into_iter()
        .filter(|setting| !is_given(&setting.id))
        .flat_map(|setting| setting.words);
    // The program has no options of its own: `run` is the second word.
    let (head, own) = argv.split_at(2);
    Ok(head
        .iter()
        .cloned()
        .chain(from_file)
        .chain(own.iter().cloned())
        .collect())
}

/// What `matches` (of `run`) mean, as a file for `--config`: defaults too, paths from the root.
pub(super) fn print(command: &Command, matches: &ArgMatches) -> Result<String, ConfigFileError> {
    let mut text = String::new();
    for (key, arg) in keys(&run_options(command)) {
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
                let value = value
                    .to_str()
                    .ok_or_else(|| ConfigFileError::NotText(key.clone()))?;
                Ok(literal(&absolute(&key, value)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let value = match arg.get_action() {
            ArgAction::Append => format!("[{}]", values.join(", ")),
            _ => values.join(","),
        };
        text.push_str(&format!("{key} = {value}\n"));
    }
    Ok(text)
}

/// The options of `run`, with none required, for parsing a part of them.
fn run_options(command: &Command) -> Command {
    command
        .find_subcommand("run")
        .expect("the program has it")
        .clone()
        .mut_args(|arg| arg.required(false))
        .no_binary_name(true)
}

/// What a file can say: key and option, in the order of the help.
fn keys(run: &Command) -> Vec<(String, Arg)> {
    run.get_arguments()
        .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.clone())))
        .filter(|(key, _)| !NOT_IN_FILE.contains(&key.as_str()))
        .collect()
}

fn read(path: &Path) -> Result<String, ConfigFileError> {
    let failed = |source| ConfigFileError::Read {
        path: path.to_owned(),
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
        });
    }
    Ok(text)
}

fn parse(run: &Command, path: &Path, text: &str) -> Result<Vec<Setting>, ConfigFileError> {
    let refuse = |at: usize, what: String| ConfigFileError::Line {
        path: path.to_owned(),
        line: line_of(text, at),
        what,
    };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        refuse(at, error.message().replace('\n', ", "))
    })?;
    let known = keys(run);
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // In the file's order, so that the first mistake is the one that is told.
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut settings = Vec::new();
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let Some((_, arg)) = known.iter().find(|(known, _)| known == name) else {
            return Err(refuse(key.span().start, unknown(name, &known)));
        };
        let words = words(name, arg, value, folder)
            .map_err(|what| refuse(value.span().start, format!("{name}: {what}")))?;
        run.clone()
            .try_get_matches_from(&words)
            .map_err(|error| refuse(value.span().start, super::one_line(&error)))?;
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

fn unknown(name: &str, known: &[(String, Arg)]) -> String {
    let distance = |key: &str| strsim::damerau_levenshtein(name, key);
    let nearest = known.iter().min_by_key(|(key, _)| distance(key));
    let nearest = nearest.map_or("", |(key, _)| key);
    format!("unknown key {name:?}; the nearest known one is {nearest:?} (keys are the long options of run)")
}

/// The words that say the same on a command line.
fn words(
    key: &str,
    arg: &Arg,
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
) -> Result<Vec<OsString>, String> {
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
            .map(|item| scalar(item.get_ref()))
            .collect::<Result<Vec<_>, _>>()?,
        value => vec![scalar(value)?],
    };
    let is_list = arg
        .get_value_names()
        .is_some_and(|names| names.iter().any(|name| name.as_str() == "LIST"));
    let texts = match arg.get_action() {
        ArgAction::Append => texts,
        _ if texts.is_empty() => texts,
        _ if is_list => vec![texts.join(",")],
        _ if texts.len() == 1 => texts,
        _ => return Err("takes one value, not a list".into()),
    };
    let word = |text: String| {
        let mut word = OsString::from(format!("--{key}="));
        if PATHS.contains(&key) {
            word.push(folder.join(text));
        } else {
            word.push(text);
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
        DeValue::Boolean(_) => Err("expected text or a number, not true or false".into()),
        DeValue::Table(_) => Err("expected text or a number, not a table".into()),
        _ => Err("expected text, a number or a list of them".into()),
    }
}

/// A value as the file's reader takes it from any folder.
fn absolute(key: &str, value: &str) -> String {
    if !PATHS.contains(&key) {
        return value.to_owned();
    }
    // Only fails for an empty path or without a current folder; then it stays as it was given.
    std::path::absolute(value)
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| value.to_owned())
}

/// A TOML value: a number where the text is one.
fn literal(text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => text.to_owned(),
        _ => toml::Value::String(text.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod tests;
