//! A fuzzer for an ordinary test: scripts from a seed, for a bounded time, no tool needed.
//!
//! It knows nothing of coverage, as the real fuzzer does; it changes and joins the inputs that were
//! kept, and makes up others. What makes the body panic is written to a file first.

use std::fs;
use std::panic::{catch_unwind, resume_unwind, RefUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::support::Random;

/// Longest script, in bytes: more than the body's steps use up.
const MAX_BYTES: u64 = 4096;
/// Bytes that mean something in many places: all of one bit, limits, the pages of the machine.
const TELLING: [u8; 12] = [0, 1, 2, 15, 16, 31, 32, 127, 128, 192, 254, 255];

/// How long to fuzz, and with which scripts.
pub(crate) struct Plan {
    /// Decides all scripts, in their order.
    pub(crate) seed: u64,
    /// No script begins later.
    pub(crate) time: Duration,
    /// Where a script goes that makes the body panic.
    pub(crate) keep_in: PathBuf,
}

/// Reads all kept inputs, with their paths, in the order of their names.
pub(crate) fn read_kept(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("cannot read the kept inputs")
        .map(|entry| entry.expect("cannot read the kept inputs").path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let input = fs::read(&path).expect("cannot read an input");
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

/// Runs the body on one script after the other; says on how many. Panics as the body does.
pub(crate) fn fuzz(plan: &Plan, kept: &[Vec<u8>], body: impl Fn(&[u8]) + RefUnwindSafe) -> u64 {
    let end = Instant::now() + plan.time;
    let mut random = Random(plan.seed);
    let mut count = 0;
    while Instant::now() < end {
        let script = script(&mut random, kept);
        if let Err(panic) = catch_unwind(|| body(&script)) {
            let path = keep(&plan.keep_in, &script);
            eprintln!(
                "script {count} of seed {} did harm; kept as {}",
                plan.seed,
                path.display()
            );
            resume_unwind(panic);
        }
        count += 1;
    }
    count
}

fn keep(folder: &Path, script: &[u8]) -> PathBuf {
    // FNV-1a: the same input gets the same name.
    let hash = script.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("crash-{hash:016x}"));
    fs::write(&path, script).expect("cannot keep the input");
    path
}

/// The next script: a kept one changed in some places, or bytes of no meaning.
fn script(random: &mut Random, kept: &[Vec<u8>]) -> Vec<u8> {
    let mut script = Vec::new();
    let parts = random.below(4);
    for _ in 0..parts {
        script.extend_from_slice(piece(random, kept));
    }
    if parts == 0 {
        let len = random.below(MAX_BYTES);
        script.extend((0..len).map(|_| byte(random)));
    }
    for _ in 0..random.below(16) {
        change(random, &mut script);
    }
    script.truncate(usize::try_from(MAX_BYTES).expect("small"));
    script
}

/// A part of a kept script, often all of it.
fn piece<'a>(random: &mut Random, kept: &'a [Vec<u8>]) -> &'a [u8] {
    let Some(whole) = pick(random, kept.len()).map(|index| &kept[index]) else {
        return &[];
    };
    if random.below(2) == 0 {
        return whole;
    }
    let from = pick(random, whole.len()).unwrap_or(0);
    let len = pick(random, whole.len() - from).unwrap_or(0);
    &whole[from..from + len]
}

/// Changes, repeats, takes out or puts in something somewhere.
fn change(random: &mut Random, script: &mut Vec<u8>) {
    let Some(at) = pick(random, script.len()) else {
        script.push(byte(random));
        return;
    };
    match random.below(6) {
        0 => script[at] ^= 1 << random.below(8),
        1 => script[at] = byte(random),
        2 => script.insert(at, byte(random)),
        3 => _ = script.remove(at),
        4 => {
            let word = 1_u64.wrapping_shl(random.number().to_le_bytes()[0].into());
            let word = word.wrapping_sub(random.below(2)).to_le_bytes();
            let end = script.len().min(at + 8);
            script[at..end].copy_from_slice(&word[..end - at]);
        }
        _ => {
            let end = script.len().min(at + 64);
            script.extend_from_within(at..end);
        }
    }
}

fn byte(random: &mut Random) -> u8 {
    match pick(random, 2 * TELLING.len()) {
        Some(index) if index < TELLING.len() => TELLING[index],
        _ => random.number().to_le_bytes()[0],
    }
}

/// An index below `len`, if there is one.
fn pick(random: &mut Random, len: usize) -> Option<usize> {
    let len = u64::try_from(len).ok().filter(|len| *len > 0)?;
    usize::try_from(random.below(len)).ok()
}
