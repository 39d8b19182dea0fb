//! How a guest is booted, beside its arm: on which console, with how much to say on it, and on
//! which memory.
//!
//! Works are measured in one setting; boots also with the kernel's log on either console, because
//! that log is most of what a console costs; `refill`, if asked for, on a host that takes free
//! memory back, in 4 KiB pages. Used by [`super::plan`], [`super::cmdline`] and the
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

/// What the guest's memory is made of on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backing {
    /// Huge pages where the host has them; the host keeps what it has given.
    #[default]
    Huge,
    /// 4 KiB pages, and the host takes free memory back: the guest reports it.
    Returned,
}

/// Console, log and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// The guest's console.
    pub console: Console,
    /// What the kernel prints on it.
    pub log: Log,
    /// What the guest's memory is made of.
    #[serde(default)]
    pub backing: Backing,
}

impl Setting {
    /// The setting in which works are measured.
    pub const fn quiet(console: Console) -> Setting {
        Setting {
            console,
            log: Log::Quiet,
            backing: Backing::Huge,
        }
    }

    /// The setting in which a refill costs what memory costs that the host has taken back.
    pub const fn returned(console: Console) -> Setting {
        Setting {
            backing: Backing::Returned,
            ..Setting::quiet(console)
        }
    }

    /// The settings that only boots are measured in.
    pub const BOOT_ONLY: [Setting; 2] = [
        Setting {
            console: Console::Virtio,
            log: Log::Full,
            backing: Backing::Huge,
        },
        Setting {
            console: Console::Serial,
            log: Log::Full,
            backing: Backing::Huge,
        },
    ];

    /// The name in tables: "virtio", "serial, kernel log".
    pub fn name(self) -> String {
        let mut name = self.console.name().to_string();
        if self.log == Log::Full {
            name += ", kernel log";
        }
        if self.backing == Backing::Returned {
            name += ", memory returned";
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_settings_apart() {
        assert_eq!(Setting::quiet(Console::Virtio).name(), "virtio");
        assert_eq!(Setting::BOOT_ONLY[1].name(), "serial, kernel log");
        assert_eq!(
            Setting::returned(Console::Virtio).name(),
            "virtio, memory returned"
        );
    }
}
