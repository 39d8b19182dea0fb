//! How a guest is booted, beside its arm: on which console, and with how much to say on it.
//!
//! Works are measured in one setting; boots also with the kernel's log on either console, because
//! that log is most of what a console costs. Used by [`super::plan`], [`super::cmdline`] and the
//! reports.

use serde::{Deserialize, Serialize};

use super::args::Console;

/// Whether the kernel prints its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// Warnings and worse only.
    Quiet,
    /// Everything that a kernel prints by itself.
    Full,
}

/// Console and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// The guest's console.
    pub console: Console,
    /// What the kernel prints on it.
    pub log: Log,
}

impl Setting {
    /// The setting in which works are measured.
    pub const fn quiet(console: Console) -> Setting {
        Setting {
            console,
            log: Log::Quiet,
        }
    }

    /// The settings that only boots are measured in.
    pub const BOOT_ONLY: [Setting; 2] = [
        Setting {
            console: Console::Virtio,
            log: Log::Full,
        },
        Setting {
            console: Console::Serial,
            log: Log::Full,
        },
    ];

    /// The name in tables: "virtio", "serial, kernel log".
    pub fn name(self) -> String {
        match self.log {
            Log::Quiet => self.console.name().into(),
            Log::Full => format!("{}, kernel log", self.console.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_settings_apart() {
        assert_eq!(Setting::quiet(Console::Virtio).name(), "virtio");
        assert_eq!(Setting::BOOT_ONLY[1].name(), "serial, kernel log");
    }
}
