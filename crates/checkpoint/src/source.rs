//! The bytes of a checkpoint: a file that is read where it is asked for, or memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use super::error::CheckpointError;

/// Small enough to stay in a core's cache between reading and widening.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Where the bytes are. Nothing is read, and no memory taken, beyond the length known when it was opened.
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

    /// Exactly these bytes; of memory, without a copy.
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

    /// The same bytes in blocks, in their order; all but the last have a multiple of 8 bytes.
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

    /// As [`Source::read`]; a source that ends before these bytes do is damaged as `cut` says.
    pub fn read_within(
        &self,
        start: u64,
        length: u64,
        cut: impl FnOnce() -> CheckpointError,
    ) -> Result<Bytes, CheckpointError> {
        match self.read(start, length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(cut()),
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
