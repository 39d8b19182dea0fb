//! A hostile guest against the host of the specification: `cargo +nightly fuzz run hostile`.
//!
//! The body is that of the ordinary test `spec/tests/hostile.rs`. Inputs worth keeping go to
//! `corpus/hostile/`, where that test finds them.
#![no_main]

#[path = "../../tests/support/hostile.rs"]
mod hostile;
#[path = "../../tests/support/machine.rs"]
mod machine;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|script: &[u8]| hostile::run(script));
