//! The hostile guest of the fuzzer as an ordinary test: kept inputs, and random ones by seed.

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/machine.rs"]
mod machine;
mod support;

use std::fs;

use support::{path, Random};

/// Random scripts; the fuzzer does the rest.
const NR_RANDOM: u64 = 300;

// [TRUST-4]: no value and no order of writes makes the host panic or work without bound.
#[test]
fn trust_4_kept_inputs_do_no_harm() {
    let folder = path("fuzz/corpus/hostile");
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .expect("cannot read the corpus")
        .map(|entry| entry.expect("cannot read the corpus").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "the corpus is empty");
    for input in inputs {
        eprintln!("{}", input.display());
        hostile::run(&fs::read(&input).expect("cannot read an input"));
    }
}

#[test]
fn trust_4_random_inputs_do_no_harm() {
    for seed in 0..NR_RANDOM {
        let mut random = Random(seed);
        let len = random.below(2048);
        let script: Vec<u8> = (0..len).map(|_| random.number().to_le_bytes()[0]).collect();
        eprintln!("seed {seed}");
        hostile::run(&script);
    }
}
