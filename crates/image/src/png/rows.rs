//! Inflating rows.
//!
//! Pillow inflates one row at a time from pieces of at most 65,536 bytes, never beyond a chunk, and looks at nothing behind
//! the last row. What a damaged file comes to depends on that:
//! - zlib reads on after a full row, up to the next byte of output, the end or an error, if the piece has that. So an
//!   error directly behind the last row (such as a wrong Adler-32) is seen if it lies in the same piece.
//! - The stream may end with a row if that is seen in the piece in which the row was completed. The rows that are missing
//!   are black then. If it ends within a row or is seen to end later, more pixels are waited for.
//! - No more rows are taken from a piece whose bytes have all been read, although zlib may hold some back: they come with
//!   the next piece, without which the file is cut short.
//!
//! Short rows and short chunks make that slow. But far from the last row none of it matters, unless the stream ends there:
//! so all but the last rows are inflated ahead, from many pieces to many rows, and a stream that turns out to end early is
//! inflated once more in Pillow's way, to learn whether it may.

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
/// Bytes that are put together from short pieces.
const GATHERED: usize = 64 << 10;
/// Bytes before the last rows that are not inflated ahead. zlib may hold back what a byte codes: 258 each bit at most.
const MARGIN: u64 = 4 << 10;

/// What [`read`] takes for rows of so many bytes, `Decompress` included.
pub(super) fn memory(row: u64) -> u64 {
    (row + 1).max(BUFFER) + row + GATHERED as u64 + (64 << 10)
}

/// Reads all rows, or those that the stream has if it may end with them.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not seen.
    Open,
    /// Of the last row.
    Full,
    /// Of the stream before that, seen where a row was completed.
    WithRow,
    /// Of the stream, seen elsewhere.
    Short,
}

struct RowReader<'p> {
    /// Those to come; the first is being read.
    passes: &'p [Pass],
    form: Form,
    inflate: Decompress,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were inflated, from the beginning of a row.
    filled: usize,
    /// The row before the buffer's first, or zeros.
    previous: Vec<u8>,
    /// Rows of the pass that were read.
    y: u32,
    /// Bytes that are to be inflated ahead.
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

    /// Reads all rows but the last few, and leaves the feed where it stopped.
    fn read_ahead(&mut self, feed: &mut Feed<'_>, painter: &mut Painter<'_>) -> Result<End, ImageError> {
        let mut gathered = Vec::new();
        while self.ahead > 0 {
            let mut next = feed.clone();
            // Pillow may not come to read what is wrong here.
            let Some(mut input) = next.gather(&mut gathered, GATHERED) else {
                break;
            };
            let before = self.inflate.total_in();
            while self.ahead > 0 && !input.is_empty() {
                let room = usize::try_from(self.ahead)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len() - self.filled);
                let (read, written, status) = self.inflate(input, room)?;
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
                feed.pass_over(self.inflate.total_in() - before);
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

    /// How much was read and written, and what came of it.
    fn inflate(&mut self, input: &[u8], room: usize) -> Result<(usize, usize, Status), ImageError> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let output = &mut self.buffer[self.filled..][..room];
        let status = self.inflate.decompress(input, output, FlushDecompress::None);
        let status = status.map_err(|error| refusal(format!("its pixels cannot be inflated: {error}")))?;
        let (read, written) = (self.inflate.total_in() - read, self.inflate.total_out() - written);
        self.filled += written as usize;
        if read == 0 && written == 0 && status != Status::StreamEnd {
            return Err(refusal("its pixels cannot be inflated"));
        }
        Ok((read as usize, written as usize, status))
    }

    /// Bytes of the row that is being read, its filter's included. None is left when all were read.
    fn row_length(&self) -> Option<usize> {
        self.passes
            .first()
            .map(|pass| self.form.row_bytes(pass.width) as usize + 1)
    }

    /// Bytes that the row lacks.
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
