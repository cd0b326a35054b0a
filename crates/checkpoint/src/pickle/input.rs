//! The arguments that follow an opcode.

use std::ops::Range;

use super::malformed;
use super::objects::Value;
use crate::cursor::Cursor;
use crate::error::CheckpointError;

/// Limit of the bytes kept of a line. No supported name is longer.
const LINE_BYTES_MAX: usize = 200;

/// Reads the pickle's bytes; reading past the end is an error.
pub(super) struct Input<'a>(Cursor<'a>);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8], start: usize) -> Self {
        Self(Cursor::new(bytes, start))
    }

    pub fn at(&self) -> usize {
        self.0.at()
    }

    pub fn field<T>(&mut self, take: impl FnOnce(&mut Cursor<'a>) -> Option<T>) -> Result<T, CheckpointError> {
        take(&mut self.0).ok_or_else(ended)
    }

    /// Skips `length` bytes and returns their range.
    pub fn skip(&mut self, length: u64) -> Result<Range<u32>, CheckpointError> {
        let length = usize::try_from(length).map_err(|_| ended())?;
        self.field(|input| input.take(length))?;
        let end = u32::try_from(self.at()).map_err(|_| ended())?;
        Ok(end - length as u32..end)
    }

    /// Reads a two's complement integer of `length` bytes. One of more than 8 bytes is opaque: tensors have none.
    pub fn long(&mut self, length: usize) -> Result<Value, CheckpointError> {
        let bytes = self.field(|input| input.take(length))?;
        if bytes.len() > 8 {
            return Ok(Value::Opaque);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    pub fn line(&mut self) -> Result<String, CheckpointError> {
        let line = self.field(Cursor::line)?;
        Ok(String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]).into_owned())
    }
}

fn ended() -> CheckpointError {
    malformed("it ends in the middle")
}
