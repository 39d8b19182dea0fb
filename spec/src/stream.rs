//! The bytes that a guest and its host send each other over a network: each eight of them say where
//! in which stream they belong, so that nothing lost, doubled, swapped or changed passes.

/// Bytes of one word.
pub const WORD_BYTES: usize = 8;

/// A stream from the guest to the host.
pub const FROM_GUEST: u64 = 0x6775_6573_7400_0000;
/// A stream from the host to the guest.
pub const FROM_HOST: u64 = 0x686f_7374_0000_0000;

/// The word at this place of a stream.
pub fn word(stream: u64, index: u64) -> u64 {
    let mixed = (stream ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// Fills a buffer of whole words with the stream from word `first` on.
pub fn fill(buffer: &mut [u8], stream: u64, first: u64) {
    for (bytes, index) in buffer.chunks_exact_mut(WORD_BYTES).zip(first..) {
        bytes.copy_from_slice(&word(stream, index).to_le_bytes());
    }
}

/// The first word of a buffer of whole words that is not the stream's, counted from its beginning.
pub fn first_wrong(buffer: &[u8], stream: u64, first: u64) -> Option<u64> {
    buffer
        .chunks_exact(WORD_BYTES)
        .zip(first..)
        .find(|(bytes, index)| *bytes != word(stream, *index).to_le_bytes())
        .map(|(_, index)| index)
}

/// Where file `number` of a tree begins in its stream.
pub fn file_start(number: u64) -> u64 {
    number << 16
}

/// How many words file `number` of a tree has: 1 to 1024, 4 KiB on average, neighbours unlike.
pub fn file_words(number: u64) -> usize {
    1 + (number.wrapping_mul(389) % 1024) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_moved_word_is_found() {
        let mut buffer = [0; 64];
        fill(&mut buffer, FROM_GUEST, 100);
        assert_eq!(first_wrong(&buffer, FROM_GUEST, 100), None);
        assert_eq!(first_wrong(&buffer, FROM_GUEST, 101), Some(101));
        assert_eq!(first_wrong(&buffer, FROM_HOST, 100), Some(100));
        buffer[17] ^= 1;
        assert_eq!(first_wrong(&buffer, FROM_GUEST, 100), Some(102));
    }
}
