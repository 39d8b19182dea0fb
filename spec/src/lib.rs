//! What host and guest must agree on, as types, constants and the algorithms over shared memory.
//!
//! `SPEC.md` beside this crate is normative; every item here names the clause it implements.
//! The crate is `no_std`, holds no unsafe code and depends on nothing, so that the VMM, the guest
//! shim, a kernel module, bare-metal test guests and fuzzers can all compile it as it is.
//!
//! - measurement: [`mark`], [`work`], [`record`], [`stream`];
//! - finding and setting up: [`version`], [`discover`], [`setup`], [`doorbell`];
//! - what is shared: [`page`], [`entry`], [`range`], [`code`], [`counter`];
//! - what can be asked: [`op`];
//! - how it is shared: [`mem`], [`ring`], [`lease`], [`timer`], [`delivery`];
//! - what describes all this to tools: [`describe`].
#![no_std]
#![forbid(unsafe_code)]

pub mod code;
pub mod counter;
pub mod delivery;
pub mod describe;
pub mod discover;
pub mod doorbell;
pub mod entry;
mod header;
pub mod lease;
pub mod mark;
pub mod mem;
pub mod op;
pub mod page;
pub mod range;
pub mod record;

pub mod ring;
pub mod setup;
pub mod stream;
pub mod timer;
mod tripwires;
pub mod version;
pub mod work;
