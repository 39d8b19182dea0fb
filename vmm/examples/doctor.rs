//! Tries the doctor.
fn main() -> std::process::ExitCode {
    coopvirt::doctor::run(std::env::args().any(|a| a == "--json"))
}
