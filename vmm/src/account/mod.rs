//! Exit accounting: what exits happened, why, and whether the counters agree.

pub mod model;
