//! The arguments that follow an opcode.

use std::io::{BufRead as _, BufReader, Read as _};

use super::malformed;
use super::value::Value;
use crate::entry::NAME_BYTES_MAX;
use crate::error::CheckpointError;
use crate::stream::Stream;

/// Limit of the bytes kept of a line. No supported name is longer.
const LINE_BYTES_MAX: usize = 200;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Text or bytes in a pickle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    /// The offset of the first byte in the stream.
    pub start: u64,
    pub length: u64,
}

/// Reads the pickle's bytes in order; reading past the end is an error.
pub(crate) struct Input<'a> {
    stream: BufReader<Stream<'a>>,
    at: u64,
}

impl<'a> Input<'a> {
    /// Reads pickles from a stream that is at the offset `start`.
    pub fn new(stream: Stream<'a>, start: u64) -> Self {
        Self {
            stream: BufReader::with_capacity(BUFFER_BYTES, stream),
            at: start,
        }
    }

    /// The offset of the next byte.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), CheckpointError> {
        self.stream.read_exact(out).map_err(ended)?;
        self.at += out.len() as u64;
        Ok(())
    }

    pub fn u8(&mut self) -> Result<u8, CheckpointError> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, CheckpointError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads or skips `length` bytes. Appends them to `kept` if they are few enough for a name.
    pub fn blob(&mut self, length: u64, kept: &mut Vec<u8>) -> Result<Blob, CheckpointError> {
        let blob = Blob { start: self.at, length };
        if length <= NAME_BYTES_MAX as u64 {
            let mut bytes = [0; NAME_BYTES_MAX];
            let bytes = &mut bytes[..length as usize];
            self.fill(bytes)?;
            kept.extend_from_slice(bytes);
        } else {
            self.skip(length)?;
        }
        Ok(blob)
    }

    fn skip(&mut self, length: u64) -> Result<(), CheckpointError> {
        let buffered = length.min(self.stream.buffer().len() as u64);
        self.stream.consume(buffered as usize);
        if buffered < length {
            self.stream.get_mut().skip(length - buffered).map_err(ended)?;
        }
        self.at += length;
        Ok(())
    }

    /// Reads a two's complement integer of `length` bytes. One of more than 8 bytes is opaque: tensors have none.
    pub fn long(&mut self, length: u64) -> Result<Value, CheckpointError> {
        if length > 8 {
            self.skip(length)?;
            return Ok(Value::Opaque);
        }
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..length as usize];
        self.fill(bytes)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Reads up to the next line feed, which is dropped.
    pub fn line(&mut self) -> Result<String, CheckpointError> {
        let mut line = Vec::new();
        loop {
            match self.u8()? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte if line.len() < LINE_BYTES_MAX => line.push(byte),
                _ => {}
            }
        }
    }
}

fn ended(_: std::io::Error) -> CheckpointError {
    malformed("it ends in the middle")
}
