//! Asks machines again and again, each on a thread of its own, so that one that hangs holds up nobody.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime};

use super::find::Found;
use super::rates::Rates;
use crate::control::client::{self, ClientError};
use crate::control::metrics::Metrics;
use crate::control::State;

/// What a machine said, or that it did not.
#[derive(Debug)]
pub(super) struct News {
    pub(super) path: PathBuf,
    pub(super) said: Result<Sample, Trouble>,
}

/// A machine's counters at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) time: SystemTime,
    pub(super) metrics: Metrics,
}

/// Why there are no counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody listens any more. Nothing more comes of this machine.
    Gone,
    /// It does not answer, or not as it should; it is asked again.
    Odd(String),
}

/// A machine with what is known of it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) path: PathBuf,
    pub(super) state: State,
    pub(super) sample: Option<Sample>,
    pub(super) rates: Option<Rates>,
    pub(super) trouble: Option<Trouble>,
}

impl Watched {
    pub(super) fn new(found: Found) -> Self {
        Self {
            path: found.path,
            state: found.state,
            sample: None,
            rates: None,
            trouble: None,
        }
    }

    /// Takes news. What was known before stays on the screen if there is trouble.
    pub(super) fn take(&mut self, said: Result<Sample, Trouble>) {
        let sample = match said {
            Ok(sample) => sample,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return;
            }
        };
        self.trouble = None;
        if let Some(before) = self.sample.take() {
            let between = sample.at.saturating_duration_since(before.at);
            self.rates = Some(Rates::new(&before.metrics, &sample.metrics, between));
        }
        self.sample = Some(sample);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.trouble == Some(Trouble::Gone)
    }
}

/// Starts asking a machine. Ends when it is gone, or nobody listens.
pub(super) fn start(path: PathBuf, every: Duration, news: Sender<News>) -> std::io::Result<()> {
    let work = move || {
        let mut next = Instant::now();
        loop {
            let said = ask(&path);
            let is_gone = matches!(said, Err(Trouble::Gone));
            let path = path.clone();
            if news.send(News { path, said }).is_err() || is_gone {
                return;
            }
            next += every;
            let now = Instant::now();
            // One that was late is not asked twice for it.
            next = next.max(now);
            std::thread::sleep(next - now);
        }
    };
    Builder::new().name("watch".into()).spawn(work).map(drop)
}

/// Asks once.
pub(super) fn ask(path: &Path) -> Result<Sample, Trouble> {
    let answer = client::request(path, "GET", "/metrics.json", String::new());
    let answer = answer.map_err(|error| match error {
        ClientError::Connect { .. } => Trouble::Gone,
        error => Trouble::Odd(error.to_string()),
    })?;
    let (at, time) = (Instant::now(), SystemTime::now());
    match serde_json::from_str(&answer) {
        Ok(metrics) => Ok(Sample { at, time, metrics }),
        Err(error) => Err(Trouble::Odd(format!(
            "its answer is not understood (another version?): {error}"
        ))),
    }
}
