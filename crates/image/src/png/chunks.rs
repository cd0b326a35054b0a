//! Reads a file chunk by chunk.

use super::refusal;
use crate::error::ImageError;

const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";

pub(super) type Name = [u8; 4];

/// The rest of the file.
#[derive(Clone)]
pub(super) struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Chunks<'a> {
    pub(super) fn after_signature(bytes: &'a [u8]) -> Result<Self, ImageError> {
        match bytes.strip_prefix(SIGNATURE) {
            Some(rest) => Ok(Self { rest }),
            None => Err(refusal("it does not begin with PNG's signature")),
        }
    }

    /// Returns the name and the length of the next chunk, whose data follows.
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

    /// Returns exactly `length` bytes.
    pub(super) fn take(&mut self, length: u32) -> Result<&'a [u8], ImageError> {
        let split = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length));
        let (data, rest) = split.ok_or_else(|| refusal("it is cut short within a chunk"))?;
        self.rest = rest;
        Ok(data)
    }

    /// Returns `length` bytes, or those that are left.
    pub(super) fn take_up_to(&mut self, length: u32) -> &'a [u8] {
        let length = usize::try_from(length).map_or(self.rest.len(), |length| length.min(self.rest.len()));
        let (data, rest) = self.rest.split_at(length);
        self.rest = rest;
        data
    }

    /// Skips `length` bytes, or those that are left.
    pub(super) fn skip(&mut self, length: u32) {
        self.take_up_to(length);
    }

    /// Reads and verifies the checksum of a chunk.
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
