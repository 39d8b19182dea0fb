//! Runs the bare-metal guest (`tests/guests/micro`) and judges what it says.
//!
//! Its console carries nothing but records of `micro_protocol`. A run has succeeded only if every
//! test passed, `Done` was said with their number, and the machine ended with `EXIT_DONE`.

use std::fmt;
use std::time::Duration;

use micro_protocol::{decode, Record, EXIT_DONE};

use crate::guest::{Console, Guest, Running};
use crate::lab;
use crate::outcome::Outcome;

/// Longest life: these guests take seconds, even of eight vCPUs under emulation.
const LIMIT: Duration = Duration::from_secs(60);
const MEMORY_MIB: u64 = 32;

/// The bare-metal guest, to be run with some of its tests.
#[derive(Clone, Debug)]
pub struct MicroGuest {
    guest: Guest,
}

impl MicroGuest {
    /// With one vCPU and little memory.
    pub fn new() -> Self {
        let path = lab::path_from("COOPVIRT_MICRO");
        let guest = Guest::with_file(&path)
            .console(Console::Serial)
            .arguments(["--debug-exit"])
            .limit(LIMIT);
        Self { guest }.cpus(1).memory_mib(MEMORY_MIB)
    }

    /// Number of vCPUs, 8 at most.
    pub fn cpus(self, cpus: u32) -> Self {
        let guest = self.guest.cpus(cpus);
        Self { guest }.param("cpus", cpus)
    }

    /// Another time limit than a minute.
    pub fn limit(self, limit: Duration) -> Self {
        let guest = self.guest.limit(limit);
        Self { guest }
    }

    /// Memory size.
    pub fn memory_mib(self, mib: u64) -> Self {
        let guest = self.guest.memory(&format!("{mib}M"));
        Self { guest }.param("memory_mib", mib)
    }

    /// A parameter for its tests. A later one overrides an earlier one.
    pub fn param(self, name: &str, value: impl fmt::Display) -> Self {
        let guest = self.guest.cmdline(&format!("{name}={value}"));
        Self { guest }
    }

    /// Keeps busy threads apart, where there are three CPUs: the first vCPU, the others, the rest.
    #[must_use]
    pub fn pinned(self, cpus: usize) -> Self {
        let has_three = std::thread::available_parallelism().is_ok_and(|count| count.get() >= 3);
        if !has_three {
            return self;
        }
        // As `scripts/lab` isolates them: the first CPU is for everything else.
        let others = std::iter::repeat_n("2", cpus.saturating_sub(1));
        let pins: Vec<_> = std::iter::once("1").chain(others).chain(["0"]).collect();
        self.arguments(["--pin".to_owned(), pins.join(",")])
    }

    /// More arguments for `coopvirt run`.
    pub fn arguments<S: Into<std::ffi::OsString>>(
        self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let guest = self.guest.arguments(arguments);
        Self { guest }
    }

    /// Runs these tests (names separated by commas, `name*` for all that begin so); panics unless
    /// every one of them passed.
    #[track_caller]
    pub fn run(self, tests: &str) -> MicroRun {
        let run = self.run_to_end(tests);
        run.assert_passed();
        run.outcome
            .assert_ended(EXIT_DONE.into(), "the guest ended with code");
        run
    }

    /// Starts these tests, for a caller that looks at the host meanwhile.
    pub fn start(self, tests: &str) -> Running {
        self.param("tests", tests).guest.start()
    }

    /// Runs these tests, whatever comes of them; panics only if what came is no transcript.
    #[track_caller]
    pub fn run_to_end(self, tests: &str) -> MicroRun {
        MicroRun::new(self.param("tests", tests).guest.run())
    }
}

impl Default for MicroGuest {
    fn default() -> Self {
        Self::new()
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct MicroRun {
    /// The machine's end.
    pub outcome: Outcome,
    /// What the guest said.
    pub transcript: Transcript,
}

impl MicroRun {
    /// Reads what a guest has said that has ended; panics only if it is no transcript.
    #[track_caller]
    pub fn new(outcome: Outcome) -> Self {
        let transcript = Transcript::parse(&outcome.console_bytes);
        let transcript = transcript.unwrap_or_else(|error| panic!("{error}"));
        Self {
            outcome,
            transcript,
        }
    }

    /// Panics unless every test passed, and the guest came to its end.
    #[track_caller]
    pub fn assert_passed(&self) {
        for test in &self.transcript.tests {
            assert_eq!(test.verdict, Verdict::Passed, "{}", self.transcript);
        }
        let count = u32::try_from(self.transcript.tests.len()).expect("few tests");
        assert!(count > 0, "no test has run");
        assert_eq!(self.transcript.done, Some(count), "{}", self.transcript);
        assert_eq!(self.outcome.status(), i32::from(EXIT_DONE));
    }

    /// A figure that a test measured.
    #[track_caller]
    pub fn value(&self, test: &str, name: &str) -> u64 {
        let tests = self.transcript.tests.iter();
        let mut values = tests
            .filter(|run| run.name == test)
            .flat_map(|run| &run.values);
        let found = values.find(|(value, _)| value == name);
        found.map_or_else(
            || panic!("{test} said no {name}:\n{}", self.transcript),
            |(_, value)| *value,
        )
    }

    /// All figures of this name, in order.
    pub fn values(&self, test: &str, name: &str) -> Vec<u64> {
        let tests = self.transcript.tests.iter();
        let values = tests
            .filter(|run| run.name == test)
            .flat_map(|run| &run.values);
        let found = values.filter(|(value, _)| value == name);
        found.map(|(_, value)| *value).collect()
    }
}

/// What the guest said, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The tests that began.
    pub tests: Vec<TestRun>,
    /// The guest's own count of them, if it came to its end.
    pub done: Option<u32>,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// Its name; empty for what failed before the first test.
    pub name: String,
    /// The clauses of the specification that it shows.
    pub clauses: String,
    /// What it measured.
    pub values: Vec<(String, u64)>,
    /// How it ended.
    pub verdict: Verdict,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Passed,
    /// By a panic, at a place in its source, with a message.
    Failed(String),
    /// It cannot run there, for a reason.
    Skipped(String),
    /// Not at all.
    Unfinished,
}

impl Transcript {
    /// Reads everything that came. What was cut off, is unknown, or comes at a wrong place is an
    /// error: this guest says nothing but records.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut transcript = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (record, after) = decode(rest)
                .map_err(|error| format!("byte {at} of the console: {error}\n{transcript}"))?;
            if transcript.take(record).is_none() {
                return Err(format!("{record:?} at a wrong place\n{transcript}"));
            }
            rest = after;
        }
        Ok(transcript)
    }

    /// Adds a record; `None` if it cannot come here.
    fn take(&mut self, record: Record<'_>) -> Option<()> {
        if self.done.is_some() {
            return None;
        }
        let open = self
            .tests
            .last_mut()
            .filter(|test| test.verdict == Verdict::Unfinished);
        match (record, open) {
            (Record::Begin { name, clauses }, None) => self.tests.push(TestRun {
                name: name.into(),
                clauses: clauses.into(),
                values: Vec::new(),
                verdict: Verdict::Unfinished,
            }),
            (Record::Value { name, value }, Some(test)) => test.values.push((name.into(), value)),
            (Record::Pass, Some(test)) => test.verdict = Verdict::Passed,
            (Record::Skip { reason }, Some(test)) => test.verdict = Verdict::Skipped(reason.into()),
            (Record::Fail { file, line, text }, open) => {
                let verdict = Verdict::Failed(format!("{file}:{line}: {text}"));
                match open {
                    Some(test) => test.verdict = verdict,
                    // Between tests, or before the first: it still belongs into the list.
                    None => self.tests.push(TestRun {
                        name: String::new(),
                        clauses: String::new(),
                        values: Vec::new(),
                        verdict,
                    }),
                }
            }
            (Record::Done { count }, None) => self.done = Some(count),
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for test in &self.tests {
            writeln!(f, "{} {}: {:?}", test.name, test.clauses, test.verdict)?;
            for (name, value) in &test.values {
                writeln!(f, "  {name} = {value}")?;
            }
        }
        match self.done {
            Some(count) => write!(f, "done, {count} tests"),
            None => write!(f, "not done"),
        }
    }
}

#[cfg(test)]
mod tests {
    use micro_protocol::MAX_FRAME_BYTES;

    use super::*;

    const BEGIN: Record<'_> = Record::Begin {
        name: "a",
        clauses: "[B-1]",
    };
    const FAIL: Record<'_> = Record::Fail {
        file: "a.rs",
        line: 3,
        text: "no",
    };

    fn bytes(records: &[Record<'_>]) -> Vec<u8> {
        let mut buffer = [0; MAX_FRAME_BYTES];
        let frames = records
            .iter()
            .map(|record| record.encode(&mut buffer).to_vec());
        frames.collect::<Vec<_>>().concat()
    }

    #[test]
    fn tests_get_their_values_and_verdicts() {
        let value = Record::Value {
            name: "us",
            value: 5,
        };
        let skip = Record::Skip { reason: "why" };
        let done = Record::Done { count: 2 };
        let said = bytes(&[BEGIN, value, Record::Pass, BEGIN, skip, done]);
        let transcript = Transcript::parse(&said).expect("a transcript");
        let verdicts: Vec<_> = transcript.tests.iter().map(|test| &test.verdict).collect();
        assert_eq!(
            verdicts,
            [&Verdict::Passed, &Verdict::Skipped("why".into())]
        );
        assert_eq!(transcript.tests[0].values, [("us".into(), 5)]);
        assert_eq!(transcript.done, Some(2));
    }

    #[test]
    fn a_guest_that_stops_talking_is_not_done() {
        let transcript = Transcript::parse(&bytes(&[BEGIN])).expect("a transcript");
        assert_eq!(transcript.tests[0].verdict, Verdict::Unfinished);
        assert_eq!(transcript.done, None);
        assert_eq!(Transcript::parse(b"").expect("nothing").done, None);
    }

    #[test]
    fn a_failure_counts_inside_and_outside_of_tests() {
        for records in [&[BEGIN, FAIL][..], &[FAIL]] {
            let transcript = Transcript::parse(&bytes(records)).expect("a transcript");
            let failed = Verdict::Failed("a.rs:3: no".into());
            assert_eq!(transcript.tests[0].verdict, failed);
        }
    }

    #[test]
    fn records_at_wrong_places_and_other_bytes_are_refused() {
        let done = Record::Done { count: 0 };
        for records in [
            &[Record::Pass][..],
            &[BEGIN, BEGIN],
            &[BEGIN, done],
            &[done, BEGIN],
            &[done, FAIL],
        ] {
            assert!(Transcript::parse(&bytes(records)).is_err(), "{records:?}");
        }
        let mut said = bytes(&[BEGIN, Record::Pass]);
        said.push(b'\n');
        assert!(Transcript::parse(&said).is_err());
        said.truncate(said.len() - 3);
        assert!(Transcript::parse(&said).is_err());
    }
}
