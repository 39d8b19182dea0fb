//! The journal of a comparison: a line for what is compared, then one for each run as it ends.
//!
//! A comparison that was killed at any moment goes on from it; the report's own file is written at
//! the end, and the journal removed. Called by [`super::session`].

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::json;
use super::model::{Report, Run};

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// Where the journal of a report's file lies.
pub fn path_of(report: &Path) -> PathBuf {
    let mut name = report.as_os_str().to_os_string();
    name.push(".journal");
    name.into()
}

impl Journal {
    /// Begins anew with a report and the runs that it has. An older journal stays until this one is
    /// whole.
    pub fn create(path: PathBuf, report: &Report) -> Result<Journal> {
        let mut new = path.as_os_str().to_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut text = line(&Report {
            runs: Vec::new(),
            ..report.clone()
        })?;
        for run in &report.runs {
            text += &line(run)?;
        }
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("cannot replace {}", path.display()))?;
        let file = File::options().append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Journal { path, file })
    }

    /// Notes a run, on the disk when this returns.
    pub fn note(&mut self, run: &Run) -> Result<()> {
        let line = line(run)?;
        let written = self.file.write_all(line.as_bytes());
        written
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The report is written: the journal has done its duty.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

fn line(value: &impl serde::Serialize) -> Result<String> {
    let mut line = serde_json::to_string(value).context("cannot write JSON")?;
    line.push('\n');
    Ok(line)
}

/// Reads a journal. Its last line may have been cut off when the program was killed: then that run
/// is done again.
pub fn read(path: &Path) -> Result<Report> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let mut report = json::parse(lines.next().unwrap_or_default(), path)?;
    for (number, line) in lines.enumerate() {
        let run = serde_json::from_str(line);
        report.runs.push(
            run.with_context(|| format!("{}:{}: this is no run", path.display(), number + 2))?,
        );
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::disk::TempFolder;
    use crate::compare::summary::tests::report;

    #[test]
    fn every_run_survives_and_a_line_that_was_cut_off_is_forgotten() {
        let folder = TempFolder::new().unwrap();
        let path = path_of(&folder.path().join("report.json"));
        assert!(path.ends_with("report.json.journal"));
        let whole = report();
        let mut begun = report();
        let rest = begun.runs.split_off(2);
        let mut journal = Journal::create(path.clone(), &begun).unwrap();
        for run in &rest {
            journal.note(run).unwrap();
        }
        assert_eq!(read(&path).unwrap(), whole);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 10]).unwrap();
        let mut short = report();
        short.runs.pop();
        assert_eq!(read(&path).unwrap(), short);
        journal.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = TempFolder::new().unwrap();
        let path = folder.path().join("j");
        drop(Journal::create(path.clone(), &report()).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let broken: String = text
            .lines()
            .take(2)
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&path, broken + "{}\n").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("j:3: this is no run"), "{error}");
        fs::write(&path, "").unwrap();
        assert!(read(&path).is_err());
    }
}
