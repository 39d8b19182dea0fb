//! The built-in experiments: files like any other, known by their names.
//!
//! Read by the command line for `coopvirt compare NAME`, listed by `--list`. Their first lines say
//! what they are for.

use std::process::ExitCode;

use crate::say::say;

/// An experiment that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

macro_rules! built_in {
    ($name:literal) => {
        BuiltIn {
            name: $name,
            text: include_str!(concat!("experiments/", $name, ".toml")),
        }
    };
}

/// All of them, in the order of `--list`.
pub const ALL: [BuiltIn; 8] = [
    built_in!("quick"),
    built_in!("stock"),
    built_in!("coop-levels"),
    built_in!("ablation"),
    built_in!("full"),
    built_in!("aa"),
    built_in!("aa-short"),
    built_in!("budget"),
];

/// The one with this name.
pub fn by_name(name: &str) -> Option<BuiltIn> {
    ALL.into_iter().find(|known| known.name == name)
}

impl BuiltIn {
    /// What it is for: its first line.
    pub fn about(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches(['#', ' '])
    }
}

/// Prints all with what they are for.
pub fn list() -> anyhow::Result<ExitCode> {
    let each = ALL.map(|known| format!("{:12} {}\n", known.name, known.about()));
    say(&format!(
        "{}`coopvirt compare NAME --print-experiment` shows one as a file to start from.\n",
        each.concat()
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_says_what_it_is_for() {
        for (index, known) in ALL.iter().enumerate() {
            let first = ALL.iter().position(|other| other.name == known.name);
            assert_eq!(first, Some(index));
            assert!(known.text.starts_with("# "), "{}", known.name);
            assert!(known.about().len() > 20, "{}", known.name);
        }
        assert!(by_name("fast").is_none());
    }
}
