//! Walking from chunk to chunk.

use super::refusal;
use crate::error::ImageError;

const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";

pub(super) type Name = [u8; 4];

/// A place in the file.
#[derive(Clone)]
pub(super) struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Chunks<'a> {
    pub(super) fn behind_signature(bytes: &'a [u8]) -> Result<Self, ImageError> {
        match bytes.strip_prefix(SIGNATURE) {
            Some(rest) => Ok(Self { rest }),
            None => Err(refusal("it does not begin as a PNG does")),
        }
    }

    /// The name and the length of the chunk that begins here; what follows is its data.
    pub(super) fn next(&mut self) -> Result<(Name, u32), ImageError> {
        let Some((&[a, b, c, d, name @ ..], rest)) = self.rest.split_first_chunk::<8>() else {
            return Err(refusal("it is cut short"));
        };
        if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return Err(refusal(format!("it has a chunk named {}", name.escape_ascii())));
        }
        self.rest = rest;
        Ok((name, u32::from_be_bytes([a, b, c, d])))
    }

    /// Exactly so many bytes.
    pub(super) fn take(&mut self, length: u32) -> Result<&'a [u8], ImageError> {
        let split = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length));
        let (data, rest) = split.ok_or_else(|| refusal("it is cut short within a chunk"))?;
        self.rest = rest;
        Ok(data)
    }

    /// So many bytes, or those that are left.
    pub(super) fn take_up_to(&mut self, length: u32) -> &'a [u8] {
        let length = usize::try_from(length).map_or(self.rest.len(), |length| length.min(self.rest.len()));
        let (data, rest) = self.rest.split_at(length);
        self.rest = rest;
        data
    }

    /// Goes on, to the end of the file at most.
    pub(super) fn skip(&mut self, length: u32) {
        self.take_up_to(length);
    }

    /// Reads the checksum of a chunk.
    pub(super) fn check(&mut self, name: Name, data: &[u8]) -> Result<(), ImageError> {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&name);
        hasher.update(data);
        if self.take_up_to(4) == hasher.finalize().to_be_bytes() {
            Ok(())
        } else {
            Err(refusal(format!(
                "the checksum of its chunk {} is wrong",
                name.escape_ascii()
            )))
        }
    }
}
