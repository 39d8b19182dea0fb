//! The JSON file of a comparison: written whole at its end, read again by `--resume`.
//!
//! Called by [`super::session`]; what there is before the end is in the [`super::journal`].

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::{Params, Report, FORMAT};
use super::pairs::{self, Pair};
use super::summary::{self, Group};

/// The file: the report, and for other programs the figures that the table shows. Only the report
/// is read again.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a Report,
    summary: Vec<Group>,
    pairs: Vec<Pair>,
}

/// Replaces the file, so that a reader and an interrupted program never leave half of it.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    let mut name = path
        .file_name()
        .context("the JSON file has no name")?
        .to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    let shown = Shown {
        report,
        summary: summary::groups(report),
        pairs: pairs::of(report),
    };
    let mut text = serde_json::to_string_pretty(&shown).context("cannot write JSON")?;
    text.push('\n');
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// Reads the file of an earlier comparison.
pub fn read(path: &Path) -> Result<Report> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, path)
}

/// The report in this text of this file.
pub fn parse(text: &str, path: &Path) -> Result<Report> {
    /// Looked at first: a file of another format may lack what a report has.
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let no_comparison = || format!("{} is no comparison", path.display());
    let head: Head = serde_json::from_str(text).with_context(no_comparison)?;
    ensure!(
        head.format == FORMAT,
        "{} has format {}, this program reads {FORMAT}; measure again, or use the program that \
         wrote it",
        path.display(),
        head.format
    );
    serde_json::from_str(text).with_context(no_comparison)
}

/// The runs of `old` go on in `new`: only where both measure the same thing on the same host.
pub fn resume(old: Report, new: &mut Report) -> Result<()> {
    let comparable = |params: &Params| Params {
        repetitions: 0,
        kernel: String::new(),
        initrd: String::new(),
        ..params.clone()
    };
    let what = [
        (
            differences(&comparable(&old.params), &comparable(&new.params)),
            "was another experiment",
        ),
        (differences(&old.host, &new.host), "ran on another host"),
        (
            differences(&old.program, &new.program),
            "was made by another program",
        ),
    ];
    for (differences, what) in what {
        ensure!(
            differences.is_empty(),
            "cannot resume: the earlier comparison {what}: {}; leave out --resume to start anew",
            differences.join(", ")
        );
    }
    new.runs = old.runs;
    Ok(())
}

/// "cpus was 2, is 4": the members that differ.
fn differences(old: &impl Serialize, new: &impl Serialize) -> Vec<String> {
    let members = |value: serde_json::Result<Value>| match value {
        Ok(Value::Object(members)) => members,
        _ => Default::default(),
    };
    let (old, new) = (
        members(serde_json::to_value(old)),
        members(serde_json::to_value(new)),
    );
    new.iter()
        .filter(|(name, value)| old.get(*name) != Some(value))
        .map(|(name, value)| {
            format!(
                "{name} was {}, is {value}",
                old.get(name).unwrap_or(&Value::Null)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::disk::TempFolder;
    use crate::compare::summary::tests::report;

    #[test]
    fn a_report_survives_the_file() {
        let folder = TempFolder::new().unwrap();
        let path = folder.path().join("report.json");
        write(&path, &report()).unwrap();
        write(&path, &report()).unwrap();
        assert_eq!(read(&path).unwrap(), report());
        assert!(fs::read_to_string(&path).unwrap().contains("\"gross\""));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, "{}").unwrap();
        assert!(read(&path).is_err());
        let later = Report {
            format: FORMAT + 1,
            ..report()
        };
        write(&path, &later).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("has format"));
        // It says so too where nothing else is as it was.
        fs::write(&path, "{\"format\": 9}").unwrap();
        assert!(read(&path)
            .unwrap_err()
            .to_string()
            .contains("has format 9"));
    }

    #[test]
    fn only_the_same_measurement_is_resumed() {
        let mut new = Report {
            runs: Vec::new(),
            ..report()
        };
        new.params.repetitions += 5;
        resume(report(), &mut new).unwrap();
        assert_eq!(new.runs, report().runs);
        let mut other = Report {
            runs: Vec::new(),
            ..report()
        };
        other.params.cpus += 1;
        let error = resume(report(), &mut other).unwrap_err().to_string();
        let (was, is) = (report().params.cpus, other.params.cpus);
        assert!(
            error.contains(&format!(
                "another experiment: cpus was {was}, is {is}; leave out"
            )),
            "{error}"
        );
        let mut other = Report {
            runs: Vec::new(),
            ..report()
        };
        other.host.kernel = "7.0".into();
        assert!(resume(report(), &mut other).is_err());
    }
}
