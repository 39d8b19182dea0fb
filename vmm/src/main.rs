//! The `coopvirt` command.
fn main() {}
