//! The JSON file of a comparison: written whole after each run, read again by `--resume`.
//!
//! Called by [`super::session`].

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

use super::model::{Params, Report, FORMAT};
use super::summary::{self, Group};

/// The file: the report, and for other programs the figures that the table shows. Only the report
/// is read again.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a Report,
    summary: Vec<Group>,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
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
    let no_comparison = || format!("{} is no comparison", path.display());
    // The version first: of another one, the rest may mean something else.
    let version: Version = serde_json::from_str(&text).with_context(no_comparison)?;
    ensure!(
        version.format == FORMAT,
        "{} has format {}, this program reads {FORMAT}; measure again, or use the program that wrote it",
        path.display(),
        version.format
    );
    serde_json::from_str(&text).with_context(no_comparison)
}

/// The runs of `old` go on in `new`: only where both measure the same thing on the same host.
pub fn resume(old: Report, new: &mut Report) -> Result<()> {
    let comparable = |params: &Params| Params {
        repetitions: 0,
        kernel: String::new(),
        initrd: String::new(),
        ..params.clone()
    };
    ensure!(
        comparable(&old.params) == comparable(&new.params),
        "the earlier comparison had other parameters: {:?} is not {:?}",
        comparable(&old.params),
        comparable(&new.params)
    );
    ensure!(
        old.host == new.host,
        "the earlier comparison ran on another host: {:?} is not {:?}",
        old.host,
        new.host
    );
    ensure!(
        old.program == new.program,
        "the earlier comparison was made by another revision"
    );
    new.runs = old.runs;
    Ok(())
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
        assert!(resume(report(), &mut other).is_err());
        let mut other = Report {
            runs: Vec::new(),
            ..report()
        };
        other.host.kernel = "7.0".into();
        assert!(resume(report(), &mut other).is_err());
    }
}
