//! Proves the instrument exact: a guest that causes N exits of each kind, and what was counted.

pub mod guest;
