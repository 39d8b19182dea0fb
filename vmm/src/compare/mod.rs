//! `coopvirt compare`: the same works in several arms, interleaved, counted the same way.
//!
//! Data flows one way: [`args`] chooses [`arm`]s and works; [`plan`] makes cells of them;
//! [`session`] builds each cell's command ([`cmdline`], [`ours`], [`qemu`]) and has it run and
//! counted ([`launch`], [`child`], [`traced`], [`pin`]); [`evaluate`] makes a run of the [`model`] from what
//! came back ([`records`]); [`summary`] and [`stats`] make figures of all runs, which [`table`],
//! [`html`] and [`json`] show, with the [`attribution`] of exits and [`waterfall`]s between arms; [`verdict`] holds them against the [`limits`]. Arms that lack
//! something are [`gaps`]. Only `child`, `pin`, `host`, `disk`, `json` and `session` touch the
//! system; all else is pure.

pub mod args;
pub mod arm;
pub mod attribution;
pub mod child;
pub mod cmdline;
pub mod detail;
pub mod disk;
pub mod evaluate;
pub mod gaps;
pub mod host;
pub mod html;
pub mod interrupt;
pub mod json;
pub mod launch;
pub mod limits;
pub mod model;
pub mod ours;
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
