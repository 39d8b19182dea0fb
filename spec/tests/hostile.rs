//! The hostile guest of the fuzzer as ordinary tests: kept inputs, then others for some seconds.
//!
//! `COOPVIRT_FUZZ_SECONDS` says how long (3 otherwise), `COOPVIRT_FUZZ_SEED` with which scripts: a
//! run that failed has printed its seed. The script that failed is kept beside the others, so that
//! it is run first from then on.

#[path = "support/fuzz.rs"]
mod fuzz;
#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/machine.rs"]
mod machine;
mod support;

use std::panic::catch_unwind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuzz::{fuzz, read_kept, Plan};
use support::path;

/// How long scripts are made up if nobody says so.
const SECONDS: u64 = 3;

fn number_from(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

// [TRUST-4]: no value and no order of writes makes the host panic or work without bound.
#[test]
fn trust_4_kept_inputs_do_no_harm() {
    let inputs = read_kept(&path("fuzz/corpus/hostile"));
    assert!(!inputs.is_empty(), "the corpus is empty");
    for (path, input) in inputs {
        eprintln!("{}", path.display());
        hostile::run(&input);
    }
}

#[test]
fn trust_4_made_up_inputs_do_no_harm() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let plan = Plan {
        seed: number_from("COOPVIRT_FUZZ_SEED").unwrap_or(now),
        time: Duration::from_secs(number_from("COOPVIRT_FUZZ_SECONDS").unwrap_or(SECONDS)),
        keep_in: path("fuzz/corpus/hostile"),
    };
    let kept = read_kept(&plan.keep_in);
    let kept: Vec<_> = kept.into_iter().map(|(_, input)| input).collect();
    eprintln!("COOPVIRT_FUZZ_SEED={}", plan.seed);
    let count = fuzz(&plan, &kept, hostile::run);
    eprintln!("{count} scripts in {} s did no harm", plan.time.as_secs());
    assert!(count > 0 || plan.time.is_zero());
}

/// What is found is kept, byte for byte, and the same seed finds it again.
#[test]
fn an_input_that_does_harm_is_kept() {
    let folder = std::env::temp_dir().join(format!("coopvirt-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("cannot make a folder");
    let plan = Plan {
        seed: 7,
        time: Duration::from_secs(60),
        keep_in: folder.clone(),
    };
    let harm = |script: &[u8]| assert!(!script.windows(2).any(|pair| pair == [16, 254]));
    let run = || catch_unwind(|| fuzz(&plan, &[vec![3; 40]], harm));
    assert!(run().is_err() && run().is_err());
    let found = read_kept(&folder);
    std::fs::remove_dir_all(&folder).expect("our own folder");
    assert_eq!(found.len(), 1);
    assert!(catch_unwind(|| harm(&found[0].1)).is_err());
}
