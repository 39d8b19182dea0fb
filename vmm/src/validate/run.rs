//! Runs the validation guest and compares every counter with N.

use std::collections::BTreeMap;
use std::time::Duration;

use coopvirt_spec::mark::{Mark, MarkKind};
use serde::Serialize;

use super::{guest, kinds};
use crate::account::model::{Phase, Trace};
use crate::account::report::ExitReport;
use crate::code_guest::{self, Tracing};
use crate::machine::BuildError;
use crate::mark_log::MarkEntry;
use crate::stop::StopReason;
use crate::vcpu::tally::Kind as Return;

/// What to validate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Exits of each kind.
    pub count: u64,
    /// Longest time for all of it.
    pub limit: Duration,
    /// Host CPUs for the vCPU and for all other threads; empty: no pinning.
    pub pin: Vec<usize>,
}

/// Why nothing could be validated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ValidateError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the validation guest did not finish within {limit:?}; its last mark was {last:?}")]
    Timeout { limit: Duration, last: Option<Mark> },
    #[error("the validation guest ended early: {0}")]
    Ended(StopReason),
}

/// What each counter said of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct KindResult {
    /// Name of the kind.
    pub name: &'static str,
    /// How many exits the guest caused.
    pub done: u64,
    /// What the tracepoint counted under the kind's reason; `None`: not traced.
    pub traced: Option<u64>,
    /// The cause that the tracepoints must tell, if they tell one.
    pub cause: Option<&'static str>,
    /// What was counted under that cause.
    pub attributed: Option<u64>,
    /// What KVM's statistic for the kind said; `None`: it has none.
    pub statistic: Option<u64>,
    /// The VMM's own count of the kind's returns to userspace.
    pub returned: u64,
    /// How many returns there had to be.
    pub returns_expected: u64,
    /// Returns to userspace of other kinds, which must be none.
    pub returned_otherwise: u64,
    /// Whether all that was counted is right.
    pub is_exact: bool,
}

/// The result of a validation.
#[derive(Debug, Serialize)]
pub struct Validation {
    /// One row for each kind.
    pub kinds: Vec<KindResult>,
    /// Exits that the tracer saw in the empty phase, other than interrupts of the host.
    pub empty_phase: Option<u64>,
    /// The report of the whole run, with the accounting identity.
    pub report: ExitReport,
}

impl Validation {
    /// Whether every counter of every kind is exact.
    pub fn is_exact(&self) -> bool {
        self.kinds.iter().all(|kind| kind.is_exact) && self.empty_phase.unwrap_or(0) == 0
    }
}

/// Runs the guest.
pub fn run(options: &Options) -> Result<Validation, ValidateError> {
    let parameters = [options.count, u64::from(code_guest::is_amd())];
    let parameters = parameters.map(u64::to_le_bytes).concat();
    let bytes = guest::memory_bytes(options.count);
    let config = code_guest::machine(guest::code(), parameters, bytes, &options.pin);
    let run = code_guest::run(&config, options.limit, Tracing::On)?;
    let entries = run.entries;
    match run.reason {
        None => {
            let last = entries.last().map(|entry| entry.mark);
            return Err(ValidateError::Timeout {
                limit: options.limit,
                last,
            });
        }
        Some(StopReason::GuestExit(0)) => {}
        Some(reason) => return Err(ValidateError::Ended(reason)),
    }
    let trace = run.trace.as_ref();
    let results = kinds::ALL
        .iter()
        .map(|kind| result(kind, options.count, &entries, trace))
        .collect();
    let empty_phase = find_phase(trace, kinds::EMPTY_WORK);
    let empty_phase = empty_phase.map(|phase| code_guest::own_exits(&phase.counts));
    Ok(Validation {
        kinds: results,
        empty_phase,
        report: run.report,
    })
}

fn find_phase(trace: Option<&Trace>, work: u8) -> Option<&Phase> {
    trace?.phases.iter().find(|phase| phase.work == work)
}

fn result(
    kind: &kinds::Kind,
    count: u64,
    entries: &[MarkEntry],
    trace: Option<&Trace>,
) -> KindResult {
    let traced = trace.map(|_| {
        let by_reason = find_phase(trace, kind.work).map(|phase| &phase.counts.by_reason);
        let of = |reason: &&str| by_reason.and_then(|reasons| reasons.get(*reason)).copied();
        kind.reasons.iter().find_map(of).unwrap_or(0)
    });
    let (cause, attributed) = attribution(kind, trace);
    let at = |mark_kind| {
        entries
            .iter()
            .find(|entry| entry.mark.work == kind.work && entry.mark.kind == mark_kind)
    };
    let (Some(begin), Some(end)) = (at(MarkKind::Begin), at(MarkKind::End)) else {
        return KindResult {
            name: kind.name,
            done: count,
            traced,
            cause,
            attributed,
            statistic: None,
            returned: 0,
            returns_expected: 0,
            returned_otherwise: 0,
            is_exact: false,
        };
    };
    let grown = end.stats.since(&begin.stats);
    let statistic = kind
        .statistic
        .and_then(|name| grown.values.get(name))
        .copied();
    let mut returns = difference(&begin.returns, &end.returns);
    let returned = kind
        .returns
        .and_then(|kind| returns.remove(&kind))
        .unwrap_or(0);
    let returns_expected = if kind.returns.is_some() { count } else { 0 };
    let others = returns.iter().filter(|(kind, _)| !kinds::is_own(**kind));
    let returned_otherwise = others.map(|(_, count)| count).sum();
    let is_exact = traced.is_none_or(|traced| traced == count)
        && attributed.is_none_or(|attributed| attributed == count)
        && statistic.is_none_or(|statistic| statistic == count)
        && returned == returns_expected
        && returned_otherwise == 0;
    KindResult {
        name: kind.name,
        done: count,
        traced,
        cause,
        attributed,
        statistic,
        returned,
        returns_expected,
        returned_otherwise,
        is_exact,
    }
}

/// The cause that must be told (of the vendor whose cause was seen, else of the first), and how many
/// exits have it; no number without a trace.
fn attribution(kind: &kinds::Kind, trace: Option<&Trace>) -> (Option<&'static str>, Option<u64>) {
    let Some(causes) = kind.causes else {
        return (None, None);
    };
    let by_cause = find_phase(trace, kind.work).map(|phase| &phase.counts.by_cause);
    let found = causes.iter().find_map(|cause| {
        let count = by_cause?.get(*cause).copied()?;
        Some((*cause, count))
    });
    match (found, trace) {
        (Some((cause, count)), _) => (Some(cause), Some(count)),
        (None, Some(_)) => (Some(causes[0]), Some(0)),
        (None, None) => (Some(causes[0]), None),
    }
}

fn difference(
    before: &BTreeMap<Return, u64>,
    after: &BTreeMap<Return, u64>,
) -> BTreeMap<Return, u64> {
    let grown = |(kind, count): (&Return, &u64)| {
        let more = count - before.get(kind).copied().unwrap_or(0).min(*count);
        (more > 0).then_some((*kind, more))
    };
    after.iter().filter_map(grown).collect()
}
