//! Walks protobuf's wire format over a file, without reading what it skips.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use bytes::Bytes;

use crate::CheckpointError;
use crate::source::Source;

use super::refusal::damaged;

/// Bytes that are read at once. The headers of most nodes fit.
const WINDOW_BYTES: u64 = 16 * 1024;
/// Limit of the bytes that are kept of a file: names, numbers and their records. A VGG16 takes about 40 kB.
const KEPT_BYTES_MAX: usize = 3 * 1024 * 1024;
/// What the record of a kept value takes besides its bytes.
const RECORD_BYTES: usize = 64;

/// A range of the file's bytes, of which each message and each tensor is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub start: u64,
    pub bytes: u64,
}

/// A field's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Varint(u64),
    Fixed64,
    Fixed32(u32),
    /// A text, a message, or packed numbers.
    Bytes(Range),
}

/// The file, a window of which is in memory, and what may still be kept of it.
pub(super) struct Wire<'a> {
    pub source: &'a Source,
    window: Bytes,
    window_start: u64,
    kept: usize,
}

/// A position within a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    at: u64,
    end: u64,
}

impl Range {
    pub fn fields(self) -> Fields {
        Fields {
            at: self.start,
            end: self.start + self.bytes,
        }
    }
}

impl Value {
    /// The range of a text or a message.
    pub fn range(self) -> Result<Range, CheckpointError> {
        match self {
            Self::Bytes(range) => Ok(range),
            _ => Err(damaged("a field is not of its type")),
        }
    }

    pub fn int(self) -> Result<i64, CheckpointError> {
        match self {
            Self::Varint(value) => Ok(value as i64),
            _ => Err(damaged("a field is not of its type")),
        }
    }
}

impl<'a> Wire<'a> {
    pub fn new(source: &'a Source) -> Self {
        Self {
            source,
            window: Bytes::new(),
            window_start: 0,
            kept: 0,
        }
    }

    /// Returns the next field's number and value, or `None` at the end of the message.
    pub fn next(&mut self, fields: &mut Fields) -> Result<Option<(u64, Value)>, CheckpointError> {
        if fields.at == fields.end {
            return Ok(None);
        }
        let tag = self.varint(fields)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(fields)?),
            1 => {
                self.array::<8>(fields)?;
                Value::Fixed64
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array(fields)?)),
            2 => {
                let bytes = self.varint(fields)?;
                if bytes > fields.end - fields.at {
                    return Err(damaged("a field reaches beyond its message"));
                }
                let start = fields.at;
                fields.at += bytes;
                Value::Bytes(Range { start, bytes })
            }
            _ => return Err(damaged("a field has a type that ONNX does not use")),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// Returns the next number of a packed field, or `None` at its end.
    pub fn packed_int(&mut self, fields: &mut Fields) -> Result<Option<i64>, CheckpointError> {
        match fields.at == fields.end {
            true => Ok(None),
            false => Ok(Some(self.varint(fields)? as i64)),
        }
    }

    /// Returns a text of at most `bytes_max` bytes; what is not UTF-8 in it is replaced.
    pub fn text(&mut self, value: Value, bytes_max: usize) -> Result<String, CheckpointError> {
        let range = value.range()?;
        if range.bytes > bytes_max as u64 {
            return Err(damaged("a name is too long"));
        }
        let bytes = self.source.read(range.start, range.bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.keep(text.len())?;
        Ok(text)
    }

    /// Counts a value that is kept.
    pub fn keep(&mut self, bytes: usize) -> Result<(), CheckpointError> {
        self.kept += bytes + RECORD_BYTES;
        match self.kept > KEPT_BYTES_MAX {
            true => Err(damaged("its graph is too large")),
            false => Ok(()),
        }
    }

    fn varint(&mut self, fields: &mut Fields) -> Result<u64, CheckpointError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array(fields)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number is too long"))
    }

    fn array<const N: usize>(&mut self, fields: &mut Fields) -> Result<[u8; N], CheckpointError> {
        let bytes = N as u64;
        if fields.end - fields.at < bytes {
            return Err(damaged("it is cut off"));
        }
        let is_within =
            fields.at >= self.window_start && fields.at + bytes <= self.window_start + self.window.len() as u64;
        if !is_within {
            let left = self.source.length() - fields.at;
            self.window = self.source.read(fields.at, WINDOW_BYTES.min(left))?;
            self.window_start = fields.at;
        }
        let from = (fields.at - self.window_start) as usize;
        fields.at += bytes;
        let read = self.window[from..from + N].try_into();
        read.map_err(|_| damaged("it is cut off"))
    }
}
