// SPDX-License-Identifier: GPL-2.0
//! The kernel as a library, in one of two flavours that offer the same names.
//!
//! `rust` is for kernels that were built with Rust: their `kernel` crate. `stock` is for all others,
//! Debian's among them: core and C. Errors, the log and the module's entry differ; no other file of
//! this module knows the flavour, but for the declaration in main.rs.

#[cfg(CONFIG_RUST)]
mod rust;
#[cfg(not(CONFIG_RUST))]
mod stock;

#[cfg(CONFIG_RUST)]
pub(crate) use self::rust::*;
#[cfg(not(CONFIG_RUST))]
pub(crate) use self::stock::*;
