//! How one argument becomes one word and back (`[OP-2]`).

/// A type that an argument can have. Each argument has a word of its own.
pub trait ArgWord: Sized {
    /// The word; bits that the type does not have are zero.
    fn to_word(self) -> u64;
    /// The value; `None` if a bit is set that the type does not have.
    fn from_word(word: u64) -> Option<Self>;
}

macro_rules! arg_words {
    ($($kind:ty),+) => {$(
        impl ArgWord for $kind {
            fn to_word(self) -> u64 {
                u64::from(self)
            }
            fn from_word(word: u64) -> Option<Self> {
                <$kind>::try_from(word).ok()
            }
        }
    )+};
}

arg_words!(u8, u32, u64);
