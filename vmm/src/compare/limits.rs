//! What the cooperative arms are to keep, as data: the limits of each work and those of all works.
//!
//! Read by [`super::verdict`] and nobody else. Exits are net, per operation, medians over runs; "of
//! stock" is against the best stock arm of the same row. The guest has two vCPUs.

use coopvirt_spec::work::Work;

/// One limit of exits per operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At most so many.
    AtMost(f64),
    /// At most so large a share of the best stock arm's.
    OfStock(f64),
}

/// The limits of one work.
#[derive(Debug)]
pub struct Limit {
    /// The work.
    pub work: Work,
    /// Without a polling host thread.
    pub off: &'static [Bound],
    /// With one that polls adaptively.
    pub adaptive: &'static [Bound],
}

use Bound::{AtMost, OfStock};

/// The seven rows.
pub static LIMITS: [Limit; 7] = [
    Limit {
        work: Work::Pipe,
        off: &[OfStock(1.0 / 3.0)],
        adaptive: &[OfStock(1.0 / 5.0), AtMost(0.5)],
    },
    Limit {
        work: Work::Sleep,
        off: &[AtMost(2.2)],
        adaptive: &[AtMost(1.3)],
    },
    Limit {
        work: Work::Busy,
        off: &[AtMost(300.0)],
        adaptive: &[AtMost(300.0)],
    },
    Limit {
        work: Work::Fork,
        off: &[AtMost(3.0)],
        adaptive: &[AtMost(1.5)],
    },
    Limit {
        work: Work::Tlb,
        off: &[OfStock(1.0)],
        adaptive: &[AtMost(1.3)],
    },
    Limit {
        work: Work::Idle,
        off: &[AtMost(40.0)],
        adaptive: &[AtMost(25.0)],
    },
    // One fault of the second stage per page is what memory costs that the host has taken back.
    Limit {
        work: Work::Refill,
        off: &[AtMost(0.01)],
        adaptive: &[AtMost(0.01)],
    },
];

/// The disk reads: together one row of the mean.
pub const READS: [Work; 2] = [Work::Read1, Work::Read32];

/// The arms that are held against the limits.
pub const OFF_ARM: &str = "coop";
/// The same with a polling thread.
pub const ADAPTIVE_ARM: &str = "coop+sidecore";

/// No work may have more exits than the best stock arm.
pub const NEVER_MORE_EXITS: f64 = 1.0;
/// Latency or CPU time above this share of the best stock arm's makes a row a worse one.
pub const WORSE: f64 = 1.05;
/// So many worse rows are allowed.
pub const MAX_WORSE_ROWS: usize = 2;
/// No row may be above this.
pub const NEVER_WORSE: f64 = 1.25;

/// Least geometric mean of stock over cooperative exits, over the seven rows and the reads.
pub const MIN_MEAN: f64 = 5.0;
/// One row counts at most so much in the mean.
pub const MEAN_CAP: f64 = 50.0;
/// Medians of fewer runs than this decide nothing.
pub const MIN_RUNS: usize = 5;
