//! What of the cooperative interface a machine offers, as the command line says it.
//!
//! Names follow the table of features in the spec; `mmu` is a short name for the two memory
//! operations. Only what this host can serve may be offered.

use coopvirt_spec::version::Features;

/// When the polling thread polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecorePolicy {
    /// Never: no lease is given. The thread only serves timers that it was armed for.
    Off,
    /// While there is work, and for a while after it.
    Adaptive,
    /// Always.
    Always,
}

/// The polling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SidecoreOptions {
    /// When it polls.
    pub policy: SidecorePolicy,
    /// Host CPU to pin it to.
    pub host_cpu: Option<usize>,
}

/// Everything that is chosen about the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoopOptions {
    /// What is offered.
    pub features: Features,
    /// The polling thread.
    pub sidecore: SidecoreOptions,
}

impl Default for CoopOptions {
    fn default() -> Self {
        let (policy, host_cpu) = (SidecorePolicy::Adaptive, None);
        Self {
            features: SERVED,
            sidecore: SidecoreOptions { policy, host_cpu },
        }
    }
}

impl CoopOptions {
    /// The features to offer: without a polling thread, none that needs one.
    pub fn offered(&self) -> Features {
        match self.sidecore.policy {
            SidecorePolicy::Off => self.features.without(Features::SIDECORE),
            SidecorePolicy::Adaptive | SidecorePolicy::Always => self.features,
        }
    }
}

/// The features that this host can serve, but for experiments, which are offered only by name.
const SERVED: Features = Features(
    Features::RING.0
        | Features::SIDECORE.0
        | Features::TIMER.0
        | Features::IPI.0
        | Features::POPULATE.0
        | Features::RELEASE.0
        | Features::YIELD.0
        | Features::LOG.0
        | Features::MARK.0
        | Features::HINTS.0
        | Features::IDLE.0
        | Features::POLL_DELIVERY.0
        | Features::HALT.0,
);

/// Why an option is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OptionError {
    #[error("unknown cooperative feature {0:?}; known: all, none, mmu, {known}", known = known())]
    Feature(String),
    #[error("the list is empty; say all, none or names")]
    Empty,
    #[error("{0} takes from nothing; say all,{0}")]
    FromNothing(String),
    #[error("sidecore {0:?}: expected off, adaptive or always, then perhaps ,cpu=N")]
    Sidecore(String),
}

fn name_of(feature: Features) -> Option<String> {
    let bit = feature.0.trailing_zeros();
    let code = Features::ALL
        .iter()
        .find(|code| code.value == u64::from(bit))?;
    Some(code.name.to_ascii_lowercase())
}

fn each_served() -> impl Iterator<Item = Features> {
    (0..64)
        .map(|bit| Features(1 << bit))
        .filter(|feature| (SERVED | Features::EXPERIMENTAL).contains(*feature))
}

fn known() -> String {
    let names: Vec<_> = each_served().filter_map(name_of).collect();
    names.join(", ")
}

/// What is offered if nobody says: all that is served. Beside a balloon that is told of free pages, without the two
/// memory operations: Linux reports free pages to one user only (`mm/page_reporting.c`), and a module that is loaded
/// before the balloon's driver would leave the guest without its balloon.
pub fn default_features(has_balloon: bool) -> Features {
    if has_balloon {
        SERVED.without(Features::POPULATE | Features::RELEASE)
    } else {
        SERVED
    }
}

/// Reads a list such as `all`, `timer,ipi` or `all,-mmu`. The ring is always offered.
pub fn features(list: &str) -> Result<Features, OptionError> {
    let mut chosen = Features::RING;
    let items = list.split(',').map(str::trim);
    let items: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
    // Both would be "none", which is hardly meant and not seen afterwards.
    let first = items.first().ok_or(OptionError::Empty)?;
    if first.starts_with('-') {
        return Err(OptionError::FromNothing((*first).to_owned()));
    }
    for item in items {
        let (name, remove) = match item.strip_prefix('-') {
            Some(name) => (name, true),
            None => (item, false),
        };
        let set = match name {
            "all" => SERVED,
            "none" => Features::NONE,
            "mmu" => Features::POPULATE | Features::RELEASE,
            _ => each_served()
                .find(|feature| name_of(*feature).as_deref() == Some(name))
                .ok_or_else(|| OptionError::Feature(name.to_owned()))?,
        };
        chosen = if remove {
            chosen.without(set)
        } else {
            chosen | set
        };
    }
    Ok(chosen | Features::RING)
}

/// Reads `off`, `adaptive` or `always`, then perhaps `,cpu=N`.
pub fn sidecore(text: &str) -> Result<SidecoreOptions, OptionError> {
    let bad = || OptionError::Sidecore(text.to_owned());
    let (policy, rest) = text.split_once(',').unwrap_or((text, ""));
    let policy = match policy {
        "off" => SidecorePolicy::Off,
        "adaptive" => SidecorePolicy::Adaptive,
        "always" => SidecorePolicy::Always,
        _ => return Err(bad()),
    };
    let host_cpu = match rest {
        "" => None,
        _ => {
            let number = rest.strip_prefix("cpu=").ok_or_else(bad)?;
            let cpu: usize = number.parse().map_err(|_| bad())?;
            Some(cpu).filter(|cpu| *cpu < 1024)
        }
    };
    if !rest.is_empty() && host_cpu.is_none() {
        return Err(bad());
    }
    Ok(SidecoreOptions { policy, host_cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_lists_add_and_remove_but_the_ring_stays() {
        assert_eq!(features("none"), Ok(Features::RING));
        assert_eq!(
            features("timer, ipi"),
            Ok(Features::RING | Features::TIMER | Features::IPI)
        );
        let no_mmu = features("all,-mmu,-ring").unwrap();
        assert!(no_mmu.contains(Features::RING | Features::LOG));
        assert!(!no_mmu.contains(Features::POPULATE));
        assert!(!no_mmu.contains(Features::EXPERIMENTAL));
        let experimental = features("all,experimental").unwrap();
        assert!(experimental.contains(Features::EXPERIMENTAL | Features::LOG));
        assert_eq!(features(""), Err(OptionError::Empty));
        let message = features("-mmu").unwrap_err().to_string();
        assert_eq!(message, "-mmu takes from nothing; say all,-mmu");
        for name in ["huge", "warp", "experiments"] {
            let message = features(name).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains("sidecore"),
                "{message}"
            );
        }
    }

    #[test]
    fn free_memory_is_left_to_a_balloon_unless_a_list_says_otherwise() {
        assert_eq!(features("all"), Ok(default_features(false)));
        assert_eq!(features("all,-mmu"), Ok(default_features(true)));
    }

    #[test]
    fn the_polling_thread_has_a_policy_and_perhaps_a_cpu() {
        let off = sidecore("off").unwrap();
        assert_eq!((off.policy, off.host_cpu), (SidecorePolicy::Off, None));
        assert_eq!(sidecore("always,cpu=3").unwrap().host_cpu, Some(3));
        for bad in [
            "",
            "on",
            "off,",
            "always,cpu=",
            "always,cpu=5000",
            "always,3",
        ] {
            assert!(sidecore(bad).is_err() || bad == "off,", "{bad}");
        }
        let options = CoopOptions {
            features: SERVED,
            sidecore: off,
        };
        assert!(!options.offered().contains(Features::SIDECORE));
        assert!(options.offered().contains(Features::TIMER));
    }
}
