//! What a guest must say of itself for its figures to be those of the arm.

use crate::compare::records::Platform;

/// A demand on what the guest says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The clock source has this name.
    Clocksource(&'static str),
    /// The APIC driver's name has this in it, in lower case.
    Apic(&'static str),
    /// The APIC driver's name has not.
    NotApic(&'static str),
    /// The idle driver has this name.
    Idle(&'static str),
    /// The idle driver has another name.
    NotIdle(&'static str),
}

impl Expect {
    /// Says what is wrong, if something is.
    pub fn check(self, platform: &Platform) -> Result<(), String> {
        let apic = platform.apic.to_ascii_lowercase();
        // The guest says "driver/governor".
        let idle = platform.idle.split('/').next().unwrap_or_default();
        let (holds, what, is, wanted) = match self {
            Expect::Clocksource(name) => (
                platform.clocksource == name,
                "clocksource",
                &platform.clocksource,
                name,
            ),
            Expect::Apic(part) => (apic.contains(part), "apic driver", &platform.apic, part),
            Expect::NotApic(part) => {
                return match apic.contains(part) {
                    true => Err(format!("the guest's apic driver is '{}'", platform.apic)),
                    false => Ok(()),
                }
            }
            Expect::Idle(name) => (idle == name, "idle driver", &platform.idle, name),
            Expect::NotIdle(name) => {
                return match idle == name {
                    true => Err(format!("the guest's idle driver is '{name}'")),
                    false => Ok(()),
                }
            }
        };
        match holds {
            true => Ok(()),
            false => Err(format!(
                "the guest's {what} is '{is}', this arm needs '{wanted}'"
            )),
        }
    }
}
