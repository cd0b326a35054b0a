//! The compressed pixels, in pieces.

use super::chunks::Chunks;
use super::header::{Call, Header};
use super::refusal;
use crate::error::ImageError;

/// The most bytes of a piece. Where a piece ends matters: see [`super::rows`].
const PIECE: u32 = 1 << 16;

#[derive(Clone)]
pub(super) struct Feed<'a> {
    chunks: Chunks<'a>,
    /// Bytes of the chunk that have not been read.
    left: u32,
    /// What is left of a piece of which a part was read.
    rest: &'a [u8],
}

impl<'a> Feed<'a> {
    /// From within a chunk of pixels.
    pub(super) fn new(chunks: Chunks<'a>, left: u32) -> Self {
        Self {
            chunks,
            left,
            rest: &[],
        }
    }

    /// The next piece, never empty and all of one chunk. Checksums are passed over.
    pub(super) fn next(&mut self, header: &mut Header<'a>) -> Result<&'a [u8], ImageError> {
        while self.left == 0 && self.rest.is_empty() {
            self.chunks.skip(4);
            let (name, length) = self.chunks.next()?;
            self.left = match &name {
                b"IDAT" | b"DDAT" => length,
                b"fdAT" => match header.call(name, length, &mut self.chunks)? {
                    Call::Pixels(length) => length,
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

    /// The next piece if it is of IDAT, which has no effect on anything else.
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

    /// Some of the next pieces of IDAT together, or a long one as it is. None if the next piece cannot be read so.
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

    /// Goes on by bytes that [`Self::gather`] gave.
    pub(super) fn pass_over(&mut self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let Some(piece) = self.next_of_idat() else {
                return;
            };
            let passed = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.rest = &piece[passed..];
            left -= passed as u64;
        }
    }

    /// The end of the chunk that the last piece is of.
    pub(super) fn behind(mut self) -> Chunks<'a> {
        self.chunks.skip(self.left);
        self.chunks
    }
}
