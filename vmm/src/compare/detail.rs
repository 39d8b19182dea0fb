//! Figures that only one work has: numbers out of its record, and clocks held against the host's.
//!
//! What a guest says is bounded and cleaned here like everything of a guest's. Pure; called by
//! [`super::evaluate`].

use std::collections::BTreeMap;

use serde_json::Value;

use super::records;
use crate::account::model::Phase;
use crate::account::threads;

/// More figures than this of one work are dropped.
const MAX_FIGURES: usize = 24;

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// The numbers of a record's `detail`; what else it holds is left out.
pub fn numbers(detail: Option<&Value>) -> Figures {
    let members = detail.and_then(Value::as_object).into_iter().flatten();
    members
        .filter_map(|(name, value)| Some((records::clean(name), value.as_f64()?)))
        .take(MAX_FIGURES)
        .collect()
}

/// How far the guest's clocks were off the host's at its marks, `None` if the marks do not fit. The
/// host's time of a mark is that of its exit, which lies somewhere between the guest's readings.
pub fn drift(detail: Option<&Value>, points: &[&Phase]) -> Option<Figures> {
    let marks = detail?.get("marks")?.as_array()?;
    if marks.len() != points.len() || marks.len() < 2 {
        return None;
    }
    let mut readings = Vec::new();
    for (mark, point) in marks.iter().zip(points) {
        let [before, behind, wall] = mark.as_array()?.as_slice() else {
            return None;
        };
        let (before, behind, wall) = (before.as_u64()?, behind.as_u64()?, wall.as_u64()?);
        let width = behind.checked_sub(before)?;
        readings.push(Reading {
            host_ns: i128::from(point.elapsed_ns),
            clock_ns: i128::from(before) + i128::from(width / 2),
            wall_ns: i128::from(wall),
            width_ns: i128::from(width),
        });
    }
    let first = readings.first()?;
    let worst = |clock: fn(&Reading) -> i128| {
        let off = readings
            .iter()
            .map(|r| (clock(r) - clock(first)) - (r.host_ns - first.host_ns));
        off.map(i128::abs).max().unwrap_or(0) as f64 / 1e3
    };
    // The host's time of a mark lies between the guest's readings: what no choice of it explains.
    let early = |r: &Reading| r.clock_ns - r.width_ns / 2 - r.host_ns;
    let late = |r: &Reading| r.clock_ns + (r.width_ns + 1) / 2 - r.host_ns;
    let sure_ns = readings.iter().map(early).max()? - readings.iter().map(late).min()?;
    let last = readings.last()?;
    Some(Figures::from([
        ("drift_sure_us".into(), sure_ns.max(0) as f64 / 1e3),
        ("drift_worst_us".into(), worst(|r| r.clock_ns)),
        ("wall_drift_worst_us".into(), worst(|r| r.wall_ns)),
        (
            "drift_end_us".into(),
            ((last.clock_ns - first.clock_ns) - (last.host_ns - first.host_ns)) as f64 / 1e3,
        ),
        (
            "reading_width_worst_us".into(),
            readings.iter().map(|r| r.width_ns).max().unwrap_or(0) as f64 / 1e3,
        ),
    ]))
}

/// The clocks at one mark.
struct Reading {
    host_ns: i128,
    clock_ns: i128,
    wall_ns: i128,
    width_ns: i128,
}

/// What lies between the first and the last of several point marks of one work.
pub fn between(points: &[&Phase]) -> Option<Phase> {
    let (first, last) = (points.first()?, points.last()?);
    Some(Phase {
        elapsed_ns: last.elapsed_ns.saturating_sub(first.elapsed_ns),
        cpu_ns: last.cpu_ns.saturating_sub(first.cpu_ns),
        cpu_by_thread_ns: threads::difference(&last.cpu_by_thread_ns, &first.cpu_by_thread_ns),
        counts: last.counts.since(&first.counts),
        ..(*last).clone()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::account::model::Counts;

    fn point(elapsed_ns: u64, total: u64) -> Phase {
        Phase {
            elapsed_ns,
            counts: Counts {
                total,
                by_reason: [("HLT".to_string(), total)].into(),
                ..Counts::default()
            },
            ..Phase::default()
        }
    }

    #[test]
    fn only_numbers_are_figures_and_not_too_many() {
        let detail = json!({ "lost": 0, "worst_ns": 1.5, "text": "x", "marks": [1], "a\u{7}b": 2 });
        let figures = numbers(Some(&detail));
        assert_eq!(figures.len(), 3);
        assert_eq!((figures["lost"], figures["a b"]), (0.0, 2.0));
        assert!(numbers(None).is_empty());
        let many: serde_json::Map<_, _> = (0..99).map(|n| (n.to_string(), json!(n))).collect();
        assert_eq!(numbers(Some(&Value::Object(many))).len(), MAX_FIGURES);
    }

    #[test]
    fn drift_is_the_guests_time_less_the_hosts() {
        let points = [point(500, 1), point(1_000_500, 2), point(2_000_500, 3)];
        let points: Vec<&Phase> = points.iter().collect();
        let detail = json!({ "marks": [
            [10_000, 10_200, 7_000_000], [1_013_000, 1_013_200, 8_000_000],
            [2_008_000, 2_008_400, 9_005_000],
        ]});
        let figures = drift(Some(&detail), &points).unwrap();
        assert_eq!(figures["drift_worst_us"], 3.0);
        // At least 12.5 at one mark, at most 7.9 at another.
        assert_eq!(figures["drift_sure_us"], 4.6);
        assert_eq!(figures["drift_end_us"], -1.9);
        assert_eq!(figures["wall_drift_worst_us"], 5.0);
        assert_eq!(figures["reading_width_worst_us"], 0.4);
    }

    #[test]
    fn marks_that_do_not_fit_give_no_drift() {
        let points = [point(0, 1), point(1, 2)];
        let points: Vec<&Phase> = points.iter().collect();
        for marks in [
            json!([[1, 2, 3]]),
            json!([[1, 2, 3], [4, 3, 5]]),
            json!([[1, 2, 3], [4, 5]]),
            json!([[1, 2, 3], "x"]),
            json!(7),
        ] {
            assert_eq!(drift(Some(&json!({ "marks": marks })), &points), None);
        }
        assert_eq!(drift(None, &points), None);
    }

    #[test]
    fn what_lies_between_points_is_the_difference() {
        let points = [point(100, 7), point(300, 10)];
        let phase = between(&points.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((phase.elapsed_ns, phase.counts.total), (200, 3));
        assert_eq!(phase.counts.by_reason["HLT"], 3);
        assert!(between(&[]).is_none());
    }
}
