//! The guest kernel's command line, the same for every arm but for what makes the arm.
//!
//! Pure; called by [`super::launch`] for each boot.

use coopvirt_spec::work::Work;

use super::arm::Arm;
use super::setting::{Log, Setting};

/// What every guest is told. The TSC is called reliable because the clock source watchdog
/// distrusts any clock on a busy host, and a guest that falls back to a slower one is another arm.
const COMMON: [&str; 3] = ["panic=-1", "tsc=reliable", "no_timer_check"];
/// Keeps the kernel's log off the console.
const QUIET: [&str; 2] = ["quiet", "loglevel=3"];

/// Builds the command line of one boot; `tsc_khz` is the host's TSC frequency.
pub fn build(
    arm: &Arm,
    setting: Setting,
    works: &[Work],
    scale: f64,
    tsc_khz: Option<u32>,
) -> Result<String, String> {
    let mut words: Vec<String> = COMMON.iter().map(ToString::to_string).collect();
    if setting.log == Log::Quiet {
        words.extend(QUIET.iter().map(ToString::to_string));
    }
    words.push(format!("console={}", setting.console.device()));
    if arm.needs_tsc_khz {
        let khz = tsc_khz.ok_or("the host's TSC frequency is unknown, and this arm needs it")?;
        words.push(format!("tsc_early_khz={khz}"));
    }
    words.extend(arm.cmdline.iter().map(ToString::to_string));
    words.push(format!("coopvirt.works={}", work_list(works)));
    // The guest reads at most three decimals.
    words.push(format!("coopvirt.scale={scale:.3}"));
    words.push(format!("coopvirt.console={}", setting.console.device()));
    Ok(words.join(" "))
}

/// The works that init is to do; when it starts, the boot is over.
fn work_list(works: &[Work]) -> String {
    let names = works
        .iter()
        .filter(|work| **work != Work::Boot)
        .map(|work| work.name());
    match names.collect::<Vec<_>>().join(",") {
        none if none.is_empty() => "none".into(),
        names => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::args::Console;
    use crate::compare::arm::by_name;

    #[test]
    fn the_arms_words_are_between_the_common_ones_and_the_works() {
        let arm = by_name("kvm+haltpoll").unwrap();
        let line = build(
            arm,
            Setting::quiet(Console::Virtio),
            &[Work::Boot, Work::Pipe],
            0.5,
            None,
        )
        .unwrap();
        assert_eq!(
            line,
            "panic=-1 tsc=reliable no_timer_check quiet loglevel=3 console=hvc0 \
             cpuidle_haltpoll.force=1 coopvirt.works=pipe coopvirt.scale=0.500 \
             coopvirt.console=hvc0"
        );
    }

    #[test]
    fn hvm_is_told_the_tsc_frequency_or_is_refused() {
        let arm = by_name("hvm").unwrap();
        let line = build(
            arm,
            Setting::BOOT_ONLY[1],
            &[Work::Boot],
            1.0,
            Some(2_400_000),
        )
        .unwrap();
        assert!(
            line.contains(" console=ttyS0 tsc_early_khz=2400000 "),
            "{line}"
        );
        assert!(!line.contains("quiet"));
        assert!(line.contains(" coopvirt.works=none "), "{line}");
        assert!(build(arm, Setting::BOOT_ONLY[1], &[], 1.0, None).is_err());
    }
}
