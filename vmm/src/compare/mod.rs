//! `coopvirt compare`: the same works in several arms, interleaved, counted the same way.
//!
//! Data flows one way: [`args`] chooses [`arm`]s and works; [`plan`] makes cells of them;
//! [`session`] builds each cell's command ([`cmdline`], [`ours`], [`qemu`]) and has it run and
//! counted ([`launch`], [`child`], [`traced`], [`pin`]); [`evaluate`] makes a run of the [`model`] from what
//! came back ([`records`]); [`summary`] and [`stats`] make figures of all runs, which [`table`],
//! [`html`] and [`json`] show, with the [`attribution`] of exits and [`waterfall`]s between arms;
//! [`claims`] says which differences are real ([`pairs`]: of any two arms) and [`aa`] whether the
//! instrument can be believed; [`verdict`] holds the figures against the [`limits`], [`budget`]
//! against those of a file. Arms that lack something are [`gaps`]; where exits cannot be traced,
//! counting is [`degraded`]. The options may come from a file ([`experiments`] are built in). Until
//! the end, runs are kept in the [`journal`]. Only `child`, `pin`, `host`, `disk`, `json`,
//! `journal`, `noise`, `budget` and `session` touch the system; all else is pure.

pub mod aa;
pub mod args;
pub mod arm;
pub mod attribution;
pub mod budget;
pub mod child;
pub mod claims;
pub mod cmdline;
pub mod degraded;
pub mod detail;
pub mod disk;
pub mod estimate;
pub mod evaluate;
pub mod experiments;
pub mod gaps;
pub mod host;
pub mod html;
pub mod interrupt;
pub mod journal;
pub mod json;
pub mod launch;
pub mod limits;
pub mod model;
pub mod noise;
pub mod ours;
pub mod pairs;
pub mod pin;
pub mod plan;
pub mod progress;
pub mod qemu;
pub mod records;
pub mod schema;
pub mod session;
pub mod setting;
pub mod stats;
pub mod summary;
pub mod symbols;
pub mod table;
pub mod table_file;
pub mod text;
pub mod traced;
pub mod two;
pub mod verdict;
pub mod waterfall;

pub use args::Args;
pub use session::run;
