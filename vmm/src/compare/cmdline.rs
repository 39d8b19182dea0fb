//! The guest kernel's command line, the same for every arm but for what makes the arm.
//!
//! Pure; called by [`super::launch`] for each boot.

use coopvirt_spec::work::Work;

use super::arm::Arm;
use super::setting::{Backing, Log, Setting};

/// What every guest is told. The TSC is called reliable because the clock source watchdog
/// distrusts any clock on a busy host, and a guest that falls back to a slower one is another arm.
const COMMON: [&str; 3] = ["panic=-1", "tsc=reliable", "no_timer_check"];
/// Keeps the kernel's log off the console.
const QUIET: [&str; 2] = ["quiet", "loglevel=3"];

/// The longest time that a guest waits for its free memory to be reported. Linux reports a part of
/// it every two seconds.
const RETURN_WAIT_S: u32 = 40;

/// How much of the works a guest does.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Multiplies operations.
    pub scale: f64,
    /// Length of the works that last, if not by the scale.
    pub seconds: Option<u32>,
    /// Seconds of quiet before the first one.
    pub warm_up: u32,
}

/// Builds the command line of one boot; `tsc_khz` is the host's TSC frequency.
pub fn build(
    arm: &Arm,
    setting: Setting,
    works: &[Work],
    amount: Amount,
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
    words.push(format!("coopvirt.scale={:.3}", amount.scale));
    if let Some(seconds) = amount.seconds {
        words.push(format!("coopvirt.seconds={seconds}"));
    }
    if works.iter().any(|work| *work != Work::Boot) && amount.warm_up > 0 {
        words.push(format!("coopvirt.warm_up_s={}", amount.warm_up));
    }
    if setting.backing == Backing::Returned {
        words.push(format!("coopvirt.return_wait_s={RETURN_WAIT_S}"));
    }
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

    const PLAIN: Amount = Amount {
        scale: 1.0,
        seconds: Some(3),
        warm_up: 8,
    };

    #[test]
    fn a_module_has_its_parameters_and_returned_memory_its_wait() {
        let arm = by_name("coop/only-ipi").unwrap();
        let setting = Setting::returned(Console::Virtio);
        let line = build(arm, setting, &[Work::Refill], PLAIN, None).unwrap();
        assert!(
            line.contains(
                " coopvirt.module=idle=0,timer=0,ipi=1,populate=0,release=0,tick=0,post=0,halt=0 "
            ),
            "{line}"
        );
        let end = "coopvirt.scale=1.000 coopvirt.seconds=3 coopvirt.warm_up_s=8 \
                   coopvirt.return_wait_s=40 coopvirt.console=hvc0";
        assert!(line.ends_with(end), "{line}");
    }

    #[test]
    fn the_arms_words_are_between_the_common_ones_and_the_works() {
        let arm = by_name("kvm+haltpoll").unwrap();
        let line = build(
            arm,
            Setting::quiet(Console::Virtio),
            &[Work::Boot, Work::Pipe],
            Amount {
                scale: 0.5,
                seconds: None,
                warm_up: 0,
            },
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
            PLAIN,
            Some(2_400_000),
        )
        .unwrap();
        assert!(
            line.contains(" console=ttyS0 tsc_early_khz=2400000 "),
            "{line}"
        );
        assert!(!line.contains("quiet"));
        assert!(line.contains(" coopvirt.works=none "), "{line}");
        assert!(build(arm, Setting::BOOT_ONLY[1], &[], PLAIN, None).is_err());
    }
}
