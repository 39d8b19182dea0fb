//! Init of a measured guest: does the works that the kernel command line names.
fn main() {}
