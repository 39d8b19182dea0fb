//! What host and guest must agree on, as types and constants.
//!
//! `SPEC.md` beside this crate is normative; every item here names the clause it implements.
//! The crate is `no_std`, holds no unsafe code and depends on nothing, so that the VMM, the guest
//! shim, a kernel module, bare-metal test guests and fuzzers can all compile it as it is.
#![no_std]
#![forbid(unsafe_code)]

pub mod mark;
pub mod record;
pub mod work;
