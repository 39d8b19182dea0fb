//! The policy of free memory, on a model of a guest: what it answers, and that it always comes to rest.

use std::sync::atomic::AtomicU64;

use guest_shim::memory::{Blocks, Free, Switches, Used};

/// Aim at the start: 4, at most 32.
const NR_BLOCKS: usize = 256;
const BOTH: Switches = Switches {
    populate: true,
    release: true,
};

fn words() -> Vec<AtomicU64> {
    let len = Blocks::words(NR_BLOCKS);
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

fn blocks(words: &[AtomicU64], switches: Switches) -> Blocks<'_> {
    Blocks::new(NR_BLOCKS, words, switches).expect("the words that it asked for")
}

fn free(blocks: &Blocks<'_>, which: impl IntoIterator<Item = u64>) -> Vec<Free> {
    which.into_iter().map(|block| blocks.free(block)).collect()
}

fn ahead(blocks: &Blocks<'_>) -> Vec<u64> {
    let next = || blocks.next_ahead().inspect(|&block| blocks.backed(block));
    std::iter::from_fn(next).collect()
}

#[test]
fn at_first_sight_the_reserve_is_filled_and_the_rest_given_back() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    let answers = free(&blocks, 100..110);
    assert_eq!(answers[..4], [Free::Populate; 4]);
    assert_eq!(answers[4..], [Free::Release; 6]);
    let figures = blocks.figures();
    assert_eq!((figures.reserve, figures.released), (4, 6));
    assert!(ahead(&blocks).is_empty());
}

#[test]
fn a_block_that_is_offered_again_unused_is_left_alone() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    free(&blocks, 0..10);
    assert_eq!(free(&blocks, 0..10), [Free::Keep; 10]);
    assert_eq!(blocks.figures().released, 6);
}

#[test]
fn use_of_the_reserve_asks_for_nothing_until_half_of_it_is_gone() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    free(&blocks, 0..10);
    assert_eq!(blocks.used(0), Used::default());
    assert_eq!(blocks.used(1), Used::default());
    // One page of a block is enough; the next ones are none of ours.
    assert_eq!(blocks.used(1), Used::default());
    assert_eq!(blocks.figures().hits, 2);
    let third = blocks.used(2);
    assert!(third.ahead && !third.populate);
    // In the order in which they were given back.
    assert_eq!(ahead(&blocks), [4, 5, 6]);
    assert_eq!(blocks.used(4), Used::default());
}

#[test]
fn a_block_that_is_used_while_it_is_being_backed_is_asked_for() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    free(&blocks, 0..10);
    for block in 0..3 {
        blocks.used(block);
    }
    let block = blocks.next_ahead().expect("a low reserve");
    assert!(blocks.used(block).populate);
    blocks.backed(block);
    let figures = blocks.figures();
    assert_eq!((figures.reserve, figures.ahead, figures.misses), (1, 0, 1));
    let block = blocks.next_ahead().expect("a low reserve");
    blocks.backed(block);
    assert!(!blocks.used(block).populate);
    assert_eq!(blocks.figures().reserve, 1);
}

#[test]
fn use_of_a_block_that_was_given_back_asks_for_the_block_and_raises_the_aim() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    free(&blocks, 0..60);
    for block in 20..40 {
        assert!(blocks.used(block).populate);
        assert!(!blocks.used(block).populate);
    }
    let figures = blocks.figures();
    assert_eq!((figures.misses, figures.aim), (20, 24));
    // What was used is not backed a second time: 4 to 19 are left, then 40 and so on.
    let expected: Vec<u64> = (4..20).chain(40..44).collect();
    assert_eq!(ahead(&blocks), expected);
}

#[test]
fn the_aim_has_a_limit_and_sinks_when_nothing_misses() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    free(&blocks, 0..200);
    for block in 50..150 {
        blocks.used(block);
    }
    assert_eq!(blocks.figures().aim, 32);
    // 64 blocks freed, and none missed: an eighth less. The aim was 32 for those before.
    free(&blocks, 50..113);
    assert_eq!(blocks.figures().aim, 32);
    free(&blocks, 113..114);
    assert_eq!(blocks.figures().aim, 28);
    // A miss begins the count anew.
    free(&blocks, 114..150);
    assert!(blocks.used(149).populate);
    assert_eq!(blocks.figures().aim, 29);
}

#[test]
fn the_aim_never_sinks_below_its_least() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    for _ in 0..50 {
        free(&blocks, 0..4);
        for block in 0..4 {
            blocks.used(block);
        }
        free(&blocks, 0..4);
    }
    assert_eq!(blocks.figures().aim, 4);
}

#[test]
fn without_release_nothing_is_given_back_and_the_unknown_is_watched() {
    let words = words();
    let blocks = blocks(
        &words,
        Switches {
            populate: true,
            release: false,
        },
    );
    let answers = free(&blocks, 0..20);
    assert_eq!(answers[..4], [Free::Populate; 4]);
    assert_eq!(answers[4..], [Free::Keep; 16]);
    assert!(blocks.used(10).populate);
    // Now it is known to be backed, and is not asked for again.
    assert_eq!(blocks.free(10), Free::Keep);
    assert_eq!(blocks.used(10), Used::default());
}

#[test]
fn without_populate_all_that_is_free_is_given_back_each_time() {
    let words = words();
    let blocks = blocks(
        &words,
        Switches {
            populate: false,
            release: true,
        },
    );
    assert_eq!(free(&blocks, 0..20), [Free::Release; 20]);
    assert_eq!(blocks.used(3), Used::default());
    assert_eq!(blocks.free(3), Free::Release);
    assert!(ahead(&blocks).is_empty());
}

#[test]
fn blocks_outside_memory_and_wrong_words_are_no_trouble() {
    let words = words();
    assert!(Blocks::new(NR_BLOCKS + 1, &words, BOTH).is_none());
    assert!(Blocks::new(0, &words[..0], BOTH).is_none());
    let blocks = blocks(&words, BOTH);
    assert_eq!(blocks.free(NR_BLOCKS as u64), Free::Keep);
    assert_eq!(blocks.used(u64::MAX), Used::default());
}

/// A guest that fills, frees and fills again, in any order, for a long time: after each use of a
/// block it is backed or was asked for, and the queue neither overflows nor gives a block twice.
#[test]
fn whatever_a_guest_does_each_used_block_is_backed() {
    let words = words();
    let blocks = blocks(&words, BOTH);
    let mut is_backed = [true; NR_BLOCKS];
    let mut is_free = [true; NR_BLOCKS];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut misses = 0;
    for step in 0..200_000_u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let block = (random >> 8) as usize % NR_BLOCKS;
        // In turns: it takes much into use, then frees much.
        match step / 200 % 2 {
            0 if is_free[block] => {
                let is_released = blocks.free(block as u64) == Free::Release;
                is_backed[block] &= !is_released;
            }
            1 if is_free[block] => {
                is_free[block] = false;
                let used = blocks.used(block as u64);
                misses += u64::from(used.populate);
                assert!(is_backed[block] || used.populate, "block {block}");
                is_backed[block] = true;
                if used.ahead {
                    for block in ahead(&blocks) {
                        is_backed[usize::try_from(block).expect("a block")] = true;
                    }
                }
            }
            0 => is_free[block] = true,
            _ => {}
        }
        let figures = blocks.figures();
        assert!(figures.reserve <= 32 && figures.aim <= 32, "{figures:?}");
    }
    let figures = blocks.figures();
    assert_eq!(figures.misses, misses);
    assert!(figures.hits > 1_000 && figures.ahead > 1_000, "{figures:?}");
}
