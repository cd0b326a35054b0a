//! Bytes of a source in order: a range of the file, or what a deflated member of a zip archive inflates to.

use std::io::{self, Read};

use flate2::read::DeflateDecoder;

use super::source::Source;

/// The compressed bytes of a member of a zip archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub start: u64,
    pub bytes: u64,
}

/// Reads from an offset to an end, forwards only. Its memory is bounded whatever the bytes inflate to.
pub(super) enum Stream<'a> {
    Plain(SourceRange<'a>),
    Inflated(Box<DeflateDecoder<SourceRange<'a>>>),
}

impl<'a> Stream<'a> {
    /// Reads a range of the file.
    pub fn plain(source: &'a Source, start: u64, end: u64) -> Self {
        Self::Plain(SourceRange {
            source,
            at: start,
            end: end.min(source.length()),
        })
    }

    /// Reads what a deflated member inflates to, from its start.
    pub fn inflated(source: &'a Source, packed: Packed) -> Self {
        let range = SourceRange {
            source,
            at: packed.start,
            end: packed.start.saturating_add(packed.bytes).min(source.length()),
        };
        Self::Inflated(Box::new(DeflateDecoder::new(range)))
    }

    /// Skips `count` bytes. Fewer are left only if this is an error.
    pub fn skip(&mut self, count: u64) -> io::Result<()> {
        match self {
            Self::Plain(range) if count <= range.end.saturating_sub(range.at) => {
                range.at += count;
                Ok(())
            }
            Self::Plain(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Inflated(decoder) => match io::copy(&mut decoder.take(count), &mut io::sink())? {
                skipped if skipped == count => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(range) => range.read(out),
            Self::Inflated(decoder) => decoder.read(out),
        }
    }
}

/// A range of a source's bytes.
pub(super) struct SourceRange<'a> {
    source: &'a Source,
    at: u64,
    end: u64,
}

impl Read for SourceRange<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.end.saturating_sub(self.at).min(out.len() as u64) as usize;
        self.source.read_into(self.at, &mut out[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Decodes UTF-8 to the bytes whose Latin-1 it is, as protocol 2 of pickle stores bytes.
pub(super) struct Latin1<R>(pub R);

impl<R: Read> Read for Latin1<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < out.len() {
            let mut byte = [0];
            if self.0.read(&mut byte)? == 0 {
                break;
            }
            let [first] = byte;
            out[count] = match first {
                0..0x80 => first,
                0xc2 | 0xc3 => {
                    self.0.read_exact(&mut byte)?;
                    (first << 6) | (byte[0] & 0x3f)
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            count += 1;
        }
        Ok(count)
    }
}
