//! `coopvirt top`: what running machines do, now and per second.
//!
//! [`watch`] asks machines over their control sockets, one thread each, and [`rates`] turns two answers
//! into figures per second. [`screen`] draws them, a pure function; [`live`] is the terminal around it,
//! [`csv`] the same figures for programs. Nothing here touches a guest: all it knows is what the
//! machine's own socket says, and a machine that goes away meanwhile is told of.

mod csv;
mod find;
mod live;
mod rates;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod watch;

pub use find::{find, FindError, Found};
pub use live::run as live;
pub use text::{csv, once, prometheus};
