//! Taps of this host, made and removed by `scripts/tap`; needs root, as the lab has it.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `scripts/tap` with these words.
pub fn script(words: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/tap");
    let mut command = Command::new(path);
    command
        .args(words)
        .output()
        .expect("scripts/tap can be run")
}

/// A tap, removed when dropped. Each has a network of its own, 10.213.N.0/24, with the host at .1.
#[derive(Debug)]
pub struct Tap {
    /// The interface.
    pub name: String,
    /// N.
    pub network: u8,
}

impl Tap {
    /// Makes it by the script, with these further words.
    pub fn up(network: u8, more: &[&str]) -> Self {
        let name = format!("cvtest{network}");
        let cidr = format!("10.213.{network}.1/24");
        let output = script(&[&["up", &name, "--cidr", &cidr], more].concat());
        assert!(output.status.success(), "{output:?}");
        Self { name, network }
    }

    /// The host's address.
    pub fn host(&self) -> String {
        format!("10.213.{}.1", self.network)
    }

    /// The guest's address.
    pub fn guest(&self) -> String {
        format!("10.213.{}.2", self.network)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        script(&["down", &self.name]);
    }
}
