//! The bytes of a frame: magic, kind, length, payload, checksum. All integers are little endian.
//!
//! | bytes | what |
//! |---|---|
//! | 2 | magic |
//! | 1 | kind of record |
//! | 2 | length of the payload |
//! | n | payload |
//! | 4 | checksum of kind, length and payload |

use core::fmt;

const MAGIC: [u8; 2] = [0xc5, 0x76];
const HEADER_BYTES: usize = 5;
const CHECKSUM_BYTES: usize = 4;
/// Longest frame; longer texts are cut.
pub const MAX_FRAME_BYTES: usize = 1024;

/// Why bytes are no frame or no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It does not begin as a frame does.
    Magic,
    /// It ends before its frame does.
    CutOff,
    /// The checksum is another.
    Checksum,
    /// No record has this kind.
    Kind(u8),
    /// The payload is not that of its kind.
    Payload(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "no frame begins here"),
            Self::CutOff => write!(f, "the frame is cut off"),
            Self::Checksum => write!(f, "the frame's checksum is wrong"),
            Self::Kind(kind) => write!(f, "unknown record of kind {kind}"),
            Self::Payload(kind) => write!(f, "a record of kind {kind} has a payload of another"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Fills a buffer with one frame. What does not fit is left out, at the end.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8; MAX_FRAME_BYTES],
    end: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut [u8; MAX_FRAME_BYTES], kind: u8) -> Self {
        buffer[..2].copy_from_slice(&MAGIC);
        buffer[2] = kind;
        let end = HEADER_BYTES;
        Self { buffer, end }
    }

    fn room(&self) -> usize {
        MAX_FRAME_BYTES - CHECKSUM_BYTES - self.end
    }

    fn put(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.room());
        self.buffer[self.end..self.end + len].copy_from_slice(&bytes[..len]);
        self.end += len;
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Length and bytes; cut between characters where it would take the room of `after` bytes
    /// that follow.
    pub(crate) fn text(&mut self, text: &str, after: usize) {
        let room = self.room().saturating_sub(2 + after);
        let mut len = text.len().min(room);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let length = u16::try_from(len).unwrap_or(0);
        self.put(&length.to_le_bytes());
        self.put(&text.as_bytes()[..usize::from(length)]);
    }

    pub(crate) fn finish(self) -> &'a [u8] {
        let length = u16::try_from(self.end - HEADER_BYTES).unwrap_or(0);
        self.buffer[3..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&self.buffer[2..self.end]);
        self.buffer[self.end..self.end + CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
        &self.buffer[..self.end + CHECKSUM_BYTES]
    }
}

/// FNV-1a with 32 bits.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Takes the first frame off: its kind, its payload and what follows it.
pub(crate) fn split(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), FrameError> {
    let start = bytes.len().min(2);
    if bytes[..start] != MAGIC[..start] {
        return Err(FrameError::Magic);
    }
    let &[_, _, kind, low, high, ..] = bytes else {
        return Err(FrameError::CutOff);
    };
    let len = usize::from(u16::from_le_bytes([low, high]));
    let rest = &bytes[HEADER_BYTES..];
    let payload = rest.get(..len).ok_or(FrameError::CutOff)?;
    let rest = &rest[len..];
    let (sum, rest) = rest
        .split_first_chunk::<CHECKSUM_BYTES>()
        .ok_or(FrameError::CutOff)?;
    if checksum(&bytes[2..HEADER_BYTES + len]) != u32::from_le_bytes(*sum) {
        return Err(FrameError::Checksum);
    }
    Ok((kind, payload, rest))
}

/// Takes a payload apart.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = usize::from(self.take().map(u16::from_le_bytes)?);
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        core::str::from_utf8(text).ok()
    }
}
