//! The bytes of a checkpoint: a file that is read on request, or memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use super::error::CheckpointError;

/// Small enough that a block is still in a core's cache when it is converted after reading.
const BLOCK_BYTES: usize = 1024 * 1024;

/// A file or memory. Nothing is read or allocated beyond the length that it had when it was opened.
#[derive(Debug)]
pub(super) enum Source {
    File { file: File, length: u64 },
    Memory(Bytes),
}

impl Source {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self::File { file, length })
    }

    pub fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Returns exactly these bytes; those in memory are not copied.
    pub fn read(&self, start: u64, length: u64) -> io::Result<Bytes> {
        self.check(start, length)?;
        match self {
            Self::File { file, .. } => {
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
            Self::Memory(bytes) => Ok(bytes.slice(start as usize..(start + length) as usize)),
        }
    }

    /// Fills `out` with the bytes from `start` on.
    pub fn read_into(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(start, out.len() as u64)?;
        match self {
            Self::File { file, .. } => file.read_exact_at(out, start),
            Self::Memory(bytes) => {
                out.copy_from_slice(&bytes[start as usize..start as usize + out.len()]);
                Ok(())
            }
        }
    }

    /// Calls `each` with the same bytes in blocks, in order. All blocks but the last have a multiple of 8 bytes.
    pub fn read_blocks(&self, start: u64, length: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.check(start, length)?;
        match self {
            Self::File { file, .. } => {
                let mut block = vec![0; BLOCK_BYTES.min(length as usize)];
                let (mut at, end) = (start, start + length);
                while at < end {
                    let block = &mut block[..BLOCK_BYTES.min((end - at) as usize)];
                    file.read_exact_at(block, at)?;
                    each(block);
                    at += block.len() as u64;
                }
            }
            Self::Memory(bytes) => each(&bytes[start as usize..(start + length) as usize]),
        }
        Ok(())
    }

    /// As [`Source::read`]; returns the error `truncated` if the source ends before these bytes do.
    pub fn read_within(
        &self,
        start: u64,
        length: u64,
        truncated: impl FnOnce() -> CheckpointError,
    ) -> Result<Bytes, CheckpointError> {
        match self.read(start, length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(truncated()),
            read => Ok(read?),
        }
    }

    fn check(&self, start: u64, length: u64) -> io::Result<()> {
        match start.checked_add(length) {
            Some(end) if end <= self.length() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
