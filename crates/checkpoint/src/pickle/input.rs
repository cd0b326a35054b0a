//! What follows an opcode.

use std::ops::Range;

use super::objects::Value;
use super::wrong;
use crate::cursor::Cursor;
use crate::error::CheckpointError;

/// A longer line holds no name that is understood.
const LINE_BYTES_MAX: usize = 200;

/// The pickle's bytes, of which the end is an error.
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

    /// Passes over these bytes and says where they are.
    pub fn skip(&mut self, length: u64) -> Result<Range<u32>, CheckpointError> {
        let length = usize::try_from(length).map_err(|_| ended())?;
        self.field(|input| input.take(length))?;
        let place = |at: usize| u32::try_from(at).map_err(|_| ended());
        let end = self.at();
        Ok(place(end - length)?..place(end)?)
    }

    /// A two's complement integer of this many bytes; a long one is of no use.
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
    wrong("it ends in the middle")
}
