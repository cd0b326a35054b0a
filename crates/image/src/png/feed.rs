//! Reads the compressed pixels in pieces.

use super::chunks::Chunks;
use super::header::{Chunk, Header};
use super::refusal;
use crate::error::ImageError;

/// Limit of the bytes of a piece. The end of a piece has an effect: see [`super::rows`].
const PIECE: u32 = 1 << 16;

#[derive(Clone)]
pub(super) struct Feed<'a> {
    chunks: Chunks<'a>,
    /// Unread bytes of the chunk.
    left: u32,
    /// The rest of a piece of which a part was read.
    rest: &'a [u8],
}

impl<'a> Feed<'a> {
    /// Begins within a chunk of pixels, `left` bytes before its end.
    pub(super) fn new(chunks: Chunks<'a>, left: u32) -> Self {
        Self {
            chunks,
            left,
            rest: &[],
        }
    }

    /// Returns the next piece. It is not empty, and within one chunk. Checksums are skipped.
    pub(super) fn next(&mut self, header: &mut Header<'a>) -> Result<&'a [u8], ImageError> {
        while self.left == 0 && self.rest.is_empty() {
            self.chunks.skip(4);
            let (name, length) = self.chunks.next()?;
            self.left = match &name {
                b"IDAT" | b"DDAT" => length,
                b"fdAT" => match header.read_chunk(name, length, &mut self.chunks)? {
                    Chunk::Pixels(length) => length,
                    _ => 0,
                },
                _ => return Err(refusal("its pixels end too early")),
            };
        }
        match self.piece() {
            [] => Err(refusal("it is cut short")),
            piece => Ok(piece),
        }
    }

    /// Returns the next piece if it is of IDAT, which does not change the header.
    fn next_of_idat(&mut self) -> Option<&'a [u8]> {
        while self.left == 0 && self.rest.is_empty() {
            self.chunks.skip(4);
            self.left = match self.chunks.next() {
                Ok((name, length)) if name == *b"IDAT" => length,
                _ => return None,
            };
        }
        Some(self.piece()).filter(|piece| !piece.is_empty())
    }

    fn piece(&mut self) -> &'a [u8] {
        if !self.rest.is_empty() {
            return std::mem::take(&mut self.rest);
        }
        let length = self.left.min(PIECE);
        self.left -= length;
        self.chunks.take_up_to(length)
    }

    /// Returns one long piece of IDAT, or several short ones copied to `gathered`, which holds at most `limit` bytes. `None`
    /// if the next piece is not of IDAT.
    pub(super) fn gather<'b>(&mut self, gathered: &'b mut Vec<u8>, limit: usize) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        let first = self.next_of_idat()?;
        if first.len() > limit / 2 {
            return Some(first);
        }
        gathered.clear();
        gathered.reserve_exact(limit);
        gathered.extend_from_slice(first);
        loop {
            let mut next = self.clone();
            match next.next_of_idat() {
                Some(piece) if gathered.len() + piece.len() <= limit => gathered.extend_from_slice(piece),
                _ => return Some(gathered),
            }
            *self = next;
        }
    }

    /// Skips bytes that [`Self::gather`] returned.
    pub(super) fn skip(&mut self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let Some(piece) = self.next_of_idat() else {
                return;
            };
            let skipped = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.rest = &piece[skipped..];
            left -= skipped as u64;
        }
    }

    /// Returns the rest of the file after the data of the last piece's chunk.
    pub(super) fn into_chunks(mut self) -> Chunks<'a> {
        self.chunks.skip(self.left);
        self.chunks
    }
}
