//! What came of a guest: status, streams, records. If the test fails, it keeps them as evidence.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use coopvirt_spec::record::find_in_line;
use serde_json::Value;

/// Lines of the console that a failing test prints; the file has all.
const TAIL_LINES: usize = 25;

/// A guest that has ended.
#[derive(Debug)]
pub struct Outcome {
    title: String,
    status: ExitStatus,
    /// Everything that came on the console (standard output).
    pub console: String,
    /// The same, for a guest that says no text.
    pub console_bytes: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    records: Vec<Value>,
}

impl Outcome {
    pub(crate) fn new(
        title: String,
        status: ExitStatus,
        console_bytes: Vec<u8>,
        stderr: &[u8],
    ) -> Self {
        let console = String::from_utf8_lossy(&console_bytes).into_owned();
        let stderr = String::from_utf8_lossy(stderr).into_owned();
        let records = console.lines().filter_map(find_in_line);
        let records = records
            .filter_map(|text| serde_json::from_str(text).ok())
            .collect();
        Self {
            title,
            status,
            console,
            console_bytes,
            stderr,
            records,
        }
    }

    /// The exit status, as a shell counts it.
    pub fn status(&self) -> i32 {
        let by_signal = || 128 + self.status.signal().unwrap_or(0);
        self.status.code().unwrap_or_else(by_signal)
    }

    /// Checks that the guest did all that it was told to, and powered off.
    #[track_caller]
    pub fn assert_powered_off(&self) {
        self.assert_ended(0, "the guest powered off");
        self.done();
    }

    /// Checks exit status and the one line on standard error.
    #[track_caller]
    pub fn assert_ended(&self, status: i32, line: &str) {
        assert_eq!(
            self.status(),
            status,
            "exit status; stderr: {}",
            self.stderr
        );
        let lines: Vec<&str> = self.stderr.lines().collect();
        let [only] = lines[..] else {
            panic!("one line on stderr expected, found:\n{}", self.stderr);
        };
        assert!(
            only.starts_with("coopvirt: ") && only.contains(line),
            "{only}"
        );
    }

    /// The first record of this type.
    #[track_caller]
    pub fn record(&self, kind: &str) -> &Value {
        let found = self.records.iter().find(|record| record["type"] == kind);
        found.unwrap_or_else(|| panic!("no {kind:?} record among {:?}", self.records))
    }

    /// All records of this type, in their order.
    pub fn records<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let records = self.records.iter();
        records.filter(move |record| record["type"] == kind)
    }

    /// What the guest runs on.
    #[track_caller]
    pub fn platform(&self) -> &Value {
        self.record("platform")
    }

    /// Checks that all works were done, and done right; returns their number.
    #[track_caller]
    pub fn done(&self) -> u64 {
        for record in &self.records {
            let is_bad =
                matches!(record["type"].as_str(), Some("error" | "skip")) || record["ok"] == false;
            assert!(!is_bad, "{record}");
        }
        self.record("done")["works"]
            .as_u64()
            .expect("a number of works")
    }

    /// The record of this work.
    #[track_caller]
    pub fn work(&self, work: &str) -> &Value {
        let found = self.records.iter().find(|record| record["work"] == work);
        found.unwrap_or_else(|| panic!("no record of {work:?} among {:?}", self.records))
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let status = self.status;
        let Self {
            title,
            console,
            stderr,
            ..
        } = self;
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        eprintln!(
            "--- {title}\n{status}\n--- end of its console\n{tail}\n--- its stderr\n{stderr}---"
        );
        let text = format!("{title}\n{status}\n--- console\n{console}\n--- stderr\n{stderr}");
        match keep(&text) {
            Ok(path) => eprintln!("kept in {}", path.display()),
            Err(error) => eprintln!("could not be kept: {error}"),
        }
    }
}

/// Writes evidence to `$COOPVIRT_EVIDENCE`, else to `out/evidence` of the current folder.
fn keep(text: &str) -> std::io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = std::env::var_os("COOPVIRT_EVIDENCE");
    let folder = folder.map_or_else(|| PathBuf::from("out/evidence"), PathBuf::from);
    fs::create_dir_all(&folder)?;
    let program = std::env::current_exe()?;
    let program = program
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("{program}-{}-{number}.txt", std::process::id()));
    fs::write(&path, text)?;
    Ok(path)
}
