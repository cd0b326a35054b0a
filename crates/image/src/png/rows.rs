//! Inflates rows.
//!
//! Pillow inflates one row at a time, from pieces of at most 65,536 bytes that are within one chunk, and reads nothing after
//! the last row. The result for a damaged file depends on that:
//! - After a full row zlib continues to the next byte of output, the end or an error, if that is in the same piece. So an
//!   error directly after the last row (such as a wrong Adler-32) is noticed only if it is in the same piece.
//! - The stream may end with a row if its end is noticed in the piece that completed the row; missing rows are then black.
//!   If it ends within a row, or its end is noticed later, the file is refused unless more pixels follow.
//! - Once all bytes of a piece have been read, rows that zlib still holds are returned only with the next piece. Without
//!   one, the file is cut short.
//!
//! That is slow for short rows and short chunks. It has no effect far from the last row, unless the stream ends there. So
//! all but the last rows are inflated ahead, from many pieces to many rows. A stream that ends early is inflated a second
//! time in Pillow's way, which decides whether it is refused.

use flate2::{Decompress, FlushDecompress, Status};

use super::feed::Feed;
use super::form::Form;
use super::header::Header;
use super::paint::Painter;
use super::passes::Pass;
use super::refusal;
use super::unfilter::unfilter;
use crate::error::ImageError;

/// Bytes that are inflated at once, if a row is not longer.
const BUFFER: u64 = 128 << 10;
/// Limit of the bytes that are gathered from short pieces.
const GATHERED: usize = 64 << 10;
/// Bytes before the last rows that are not inflated ahead. zlib may hold the output of one byte: at most 258 for each bit.
const MARGIN: u64 = 4 << 10;

/// Returns the memory of [`read`] for rows of `row` bytes, `Decompress` included.
pub(super) fn memory(row: u64) -> u64 {
    (row + 1).max(BUFFER) + row + GATHERED as u64 + (64 << 10)
}

/// Reads all rows, or those before the end of a stream that may end early.
pub(super) fn read<'a>(
    passes: &[Pass],
    form: Form,
    feed: &mut Feed<'a>,
    header: &mut Header<'a>,
    painter: &mut Painter<'_>,
) -> Result<(), ImageError> {
    let begin = (feed.clone(), header.clone());
    let mut reader = RowReader::new(passes, form);
    if reader.read_ahead(feed, painter)? == End::Open && reader.read_exactly(feed, header, painter)? == End::Full {
        return Ok(());
    }
    drop(reader);
    (*feed, *header) = begin;
    painter.mute();
    match RowReader::new(passes, form).read_exactly(feed, header, painter)? {
        End::Full | End::WithRow => Ok(()),
        End::Open | End::Short => Err(refusal("its pixels end too early")),
    }
}

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Neither the last row nor the end of the stream was reached.
    Open,
    /// All rows were read.
    Full,
    /// The stream ended early, noticed where a row was completed.
    WithRow,
    /// The stream ended early, noticed elsewhere.
    Short,
}

struct RowReader<'p> {
    /// The passes that are not complete; the first is being read.
    passes: &'p [Pass],
    form: Form,
    inflate: Decompress,
    buffer: Vec<u8>,
    /// Inflated bytes in the buffer, which begins with a row.
    filled: usize,
    /// The row before the buffer's first, or zeros.
    previous: Vec<u8>,
    /// Rows of the pass that have been read.
    y: u32,
    /// Bytes left to inflate ahead.
    ahead: u64,
}

impl<'p> RowReader<'p> {
    fn new(passes: &'p [Pass], form: Form) -> Self {
        let longest = passes.iter().map(|pass| form.row_bytes(pass.width)).max().unwrap_or(0);
        let total: u64 = passes
            .iter()
            .map(|pass| (form.row_bytes(pass.width) + 1) * u64::from(pass.height))
            .sum();
        Self {
            passes,
            form,
            inflate: Decompress::new(true),
            buffer: vec![0; (longest + 1).max(BUFFER.min(total)) as usize],
            filled: 0,
            previous: vec![0; longest as usize],
            y: 0,
            ahead: total.saturating_sub(3 * (longest + 1) + MARGIN),
        }
    }

    /// Reads all rows but the last few, and leaves the feed where reading stopped.
    fn read_ahead(&mut self, feed: &mut Feed<'_>, painter: &mut Painter<'_>) -> Result<End, ImageError> {
        let mut gathered = Vec::new();
        while self.ahead > 0 {
            let mut next = feed.clone();
            // Not an error: Pillow may stop before it reads this chunk.
            let Some(mut input) = next.gather(&mut gathered, GATHERED) else {
                break;
            };
            let before = self.inflate.total_in();
            while self.ahead > 0 && !input.is_empty() {
                let output_bytes = usize::try_from(self.ahead)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len() - self.filled);
                let (read, written, status) = self.inflate(input, output_bytes)?;
                input = &input[read..];
                self.ahead = self.ahead.saturating_sub(written as u64);
                self.take_rows(painter)?;
                if status == Status::StreamEnd {
                    return Ok(End::Short);
                }
            }
            if input.is_empty() {
                *feed = next;
            } else {
                feed.skip(self.inflate.total_in() - before);
            }
        }
        Ok(End::Open)
    }

    /// Reads rows in Pillow's way.
    fn read_exactly<'a>(
        &mut self,
        feed: &mut Feed<'a>,
        header: &mut Header<'a>,
        painter: &mut Painter<'_>,
    ) -> Result<End, ImageError> {
        loop {
            let mut input = feed.next(header)?;
            while !input.is_empty() {
                let (read, _, status) = self.inflate(input, self.row_rest())?;
                input = &input[read..];
                if self.row_rest() > 0 {
                    if status == Status::StreamEnd {
                        return Ok(End::Short);
                    }
                    break;
                }
                self.take_rows(painter)?;
                if self.passes.is_empty() {
                    return Ok(End::Full);
                }
                if status == Status::StreamEnd {
                    return Ok(End::WithRow);
                }
            }
        }
    }

    /// Inflates up to `output_bytes` to the buffer. Returns the bytes read, the bytes written and the status.
    fn inflate(&mut self, input: &[u8], output_bytes: usize) -> Result<(usize, usize, Status), ImageError> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let output = &mut self.buffer[self.filled..][..output_bytes];
        let status = self.inflate.decompress(input, output, FlushDecompress::None);
        let status = status.map_err(|error| refusal(format!("its pixels cannot be inflated: {error}")))?;
        let (read, written) = (self.inflate.total_in() - read, self.inflate.total_out() - written);
        self.filled += written as usize;
        if read == 0 && written == 0 && status != Status::StreamEnd {
            return Err(refusal("its pixels cannot be inflated"));
        }
        Ok((read as usize, written as usize, status))
    }

    /// Returns the bytes of the current row, its filter's included; `None` after the last row.
    fn row_length(&self) -> Option<usize> {
        self.passes
            .first()
            .map(|pass| self.form.row_bytes(pass.width) as usize + 1)
    }

    /// Returns the bytes that the current row lacks.
    fn row_rest(&self) -> usize {
        self.row_length().map_or(0, |length| length.saturating_sub(self.filled))
    }

    /// Paints the complete rows of the buffer.
    fn take_rows(&mut self, painter: &mut Painter<'_>) -> Result<(), ImageError> {
        let mut start = 0;
        while let (Some(length), [pass, others @ ..]) = (self.row_length(), self.passes) {
            if self.filled - start < length {
                break;
            }
            let (before, row) = self.buffer.split_at_mut(start);
            let row = &mut row[..length];
            let above = if self.y == 0 || start == 0 {
                &self.previous
            } else {
                &before[start + 1 - length..]
            };
            unfilter(row, &above[..length - 1], self.form)?;
            painter.paint(pass, self.y, &row[1..]);
            start += length;
            self.y += 1;
            let last = self.y == pass.height;
            if last {
                self.passes = others;
                self.y = 0;
                self.previous.fill(0);
            } else if self.filled - start < length {
                self.previous[..length - 1].copy_from_slice(&row[1..]);
            }
        }
        if start > 0 {
            self.buffer.copy_within(start..self.filled, 0);
            self.filled -= start;
        }
        Ok(())
    }
}
