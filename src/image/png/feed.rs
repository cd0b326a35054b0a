//! The compressed pixels, in pieces.

use super::super::error::ImageError;
use super::chunks::Chunks;
use super::header::{Call, Header};
use super::refusal;

/// The most bytes of a piece. Where a piece ends matters: see [`super::rows`].
const PIECE: u32 = 1 << 16;

pub(super) struct Feed<'a> {
    chunks: Chunks<'a>,
    /// Bytes of the chunk that have not been read.
    left: u32,
}

impl<'a> Feed<'a> {
    /// From within a chunk of pixels.
    pub(super) fn new(chunks: Chunks<'a>, left: u32) -> Self {
        Self { chunks, left }
    }

    /// The next piece, never empty and all of one chunk. Checksums are passed over.
    pub(super) fn next(&mut self, header: &mut Header<'a>) -> Result<&'a [u8], ImageError> {
        while self.left == 0 {
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
        let length = self.left.min(PIECE);
        self.left -= length;
        match self.chunks.take_up_to(length) {
            [] => Err(refusal("it is cut short")),
            piece => Ok(piece),
        }
    }

    /// The end of the chunk that the last piece is of.
    pub(super) fn behind(mut self) -> Chunks<'a> {
        self.chunks.skip(self.left);
        self.chunks
    }
}
