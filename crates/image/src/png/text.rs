//! Checks texts and colour profiles as Pillow does. Their content is not used.

use std::str;

use flate2::{Decompress, FlushDecompress, Status};

use super::refusal;
use crate::error::ImageError;

/// Limit of the bytes that a compressed text or profile inflates to.
const LIMIT: usize = 1 << 20;
const BUFFER: usize = 16 << 10;

/// The memory of inflating a text, `Decompress` included, in bytes.
pub(super) const MEMORY: u64 = (BUFFER + (64 << 10)) as u64;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text<'a> {
    pub key: &'a [u8],
    /// The length of the value.
    pub characters: u64,
}

/// Checks iCCP: a name, the compression method and the profile.
pub(super) fn profile(data: &[u8]) -> Result<(), ImageError> {
    let name_end = data.iter().position(|byte| *byte == 0).map_or(0, |at| at + 1);
    match data.get(name_end..).and_then(<[u8]>::split_first) {
        Some((0, profile)) => inflate(profile).map(drop),
        _ => Err(refusal("the compression method of its chunk iCCP is unknown")),
    }
}

/// Reads tEXt: a key and a value.
pub(super) fn plain(data: &[u8]) -> Option<Text<'_>> {
    let (key, value) = split(data).unwrap_or((data, b""));
    (!key.is_empty()).then_some(Text {
        key,
        characters: value.len() as u64,
    })
}

/// Reads zTXt: a key, the compression method and a value. A value that cannot be inflated counts as empty.
pub(super) fn compressed(data: &[u8]) -> Result<Option<Text<'_>>, ImageError> {
    let (key, value) = split(data).unwrap_or((data, b""));
    let value = match value {
        [] => value,
        [0, value @ ..] => value,
        _ => return Err(refusal("the compression method of its chunk zTXt is unknown")),
    };
    let characters = inflate(value)?.map_or(0, |count| count.bytes);
    Ok((!key.is_empty()).then_some(Text { key, characters }))
}

/// Reads iTXt: a key, two flags, a language, a translated key and a value. A damaged one is ignored.
pub(super) fn international(data: &[u8]) -> Result<Option<Text<'_>>, ImageError> {
    let Some((key, [flag, method, rest @ ..])) = split(data) else {
        return Ok(None);
    };
    let Some((language, rest)) = split(rest) else {
        return Ok(None);
    };
    let Some((translated, value)) = split(rest) else {
        return Ok(None);
    };
    let count = match (flag, method) {
        (0, _) => Some(TextCount::of(value)),
        (_, 0) => inflate(value)?,
        _ => None,
    };
    let valid = str::from_utf8(language).is_ok() && str::from_utf8(translated).is_ok();
    Ok(count.filter(|count| valid && count.is_utf8()).map(|count| Text {
        key,
        characters: count.characters,
    }))
}

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(0, data)?;
    Some((&data[..at], &data[at + 1..]))
}

/// Counts the text that the data inflates to, as far as the data goes. `None` if it is damaged.
fn inflate(data: &[u8]) -> Result<Option<TextCount>, ImageError> {
    let mut inflate = Decompress::new(true);
    let mut buffer = vec![0; BUFFER];
    let mut count = TextCount::default();
    let (mut data, mut left) = (data, LIMIT);
    loop {
        let output_bytes = left.min(BUFFER);
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let Ok(status) = inflate.decompress(data, &mut buffer[..output_bytes], FlushDecompress::None) else {
            return Ok(None);
        };
        let read = (inflate.total_in() - read) as usize;
        let written = (inflate.total_out() - written) as usize;
        data = &data[read..];
        left -= written;
        count.add(&buffer[..written]);
        if status == Status::StreamEnd {
            return Ok(Some(count));
        }
        if left == 0 && !data.is_empty() {
            return Err(refusal("it has a compressed text or profile that is too long"));
        }
        if left == 0 || (data.is_empty() && written < output_bytes) || (read == 0 && written == 0) {
            return Ok(Some(count));
        }
    }
}

/// Counts the characters of a text in pieces, and checks that it is UTF-8.
#[derive(Debug, Default)]
struct TextCount {
    bytes: u64,
    characters: u64,
    /// True if the text is not UTF-8.
    broken: bool,
    /// The first bytes of an incomplete character.
    begun: Vec<u8>,
}

impl TextCount {
    fn of(text: &[u8]) -> Self {
        let mut count = Self::default();
        count.add(text);
        count
    }

    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.characters += piece.iter().filter(|byte| **byte & 0xC0 != 0x80).count() as u64;
        let mut piece = piece;
        while !self.begun.is_empty() && !self.broken {
            let Some((first, rest)) = piece.split_first() else {
                return;
            };
            piece = rest;
            self.begun.push(*first);
            match str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) => self.broken |= error.error_len().is_some(),
            }
        }
        if let Err(error) = str::from_utf8(piece) {
            self.broken |= error.error_len().is_some();
            if !self.broken {
                self.begun.extend_from_slice(&piece[error.valid_up_to()..]);
            }
        }
    }

    fn is_utf8(&self) -> bool {
        !self.broken && self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_is_checked_across_pieces() {
        let text = "a\u{e4}\u{4e16}\u{1f600}".as_bytes();
        for at in 0..=text.len() {
            for to in at..=text.len() {
                let mut count = TextCount::default();
                for piece in [&text[..at], &text[at..to], &text[to..]] {
                    count.add(piece);
                }
                assert_eq!((count.is_utf8(), count.characters), (true, 4), "split at {at} and {to}");
            }
        }
        assert!(!TextCount::of(&text[..text.len() - 1]).is_utf8());
        assert!(!TextCount::of(b"\xED\xA0\x80").is_utf8());
        assert!(!TextCount::of(b"\xFF").is_utf8());
    }

    #[test]
    fn a_damaged_text_counts_as_empty() {
        assert_eq!(
            compressed(b"key\0\0abc"),
            Ok(Some(Text {
                key: b"key",
                characters: 0
            }))
        );
        assert_eq!(
            compressed(b"key\0"),
            Ok(Some(Text {
                key: b"key",
                characters: 0
            }))
        );
        assert_eq!(international(b"key\0\x01\0\0\0abc"), Ok(None));
        assert!(compressed(b"key\0\x01abc").is_err());
    }

    #[test]
    fn a_profile_needs_its_method() {
        assert_eq!(profile(b"name\0\0abc"), Ok(()));
        assert!(profile(b"name\0\x01abc").is_err());
        assert!(profile(b"name\0").is_err());
        assert!(profile(b"").is_err());
    }
}
