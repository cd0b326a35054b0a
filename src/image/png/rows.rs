//! Inflating rows.
//!
//! Pillow inflates one row at a time from pieces of at most 65,536 bytes, never beyond a chunk, and looks at nothing behind
//! the last row. That is slow for short rows, so many rows are inflated at once here; but what depends on the way it
//! calls zlib is kept:
//! - zlib reads on after a full row, up to the next byte of output, the end or an error, if the piece has that. So an
//!   error directly behind the last row (such as a wrong Adler-32) is seen if it lies in the same piece: the last row is
//!   inflated alone, with all of the piece.
//! - The stream may end with a row if that is seen in the piece in which the row was completed. The rows that are missing
//!   are black then. If it ends within a row or is seen to end later, more pixels are waited for.
//! - No more rows are taken from a piece whose bytes have all been read, although zlib may hold some back: they come with
//!   the next piece, without which the file is cut short. So the last byte of each piece is given alone, for one row at a
//!   time. If the bytes before it end with a row, it is first given for no output, so that zlib reads on as it would have.

use super::super::error::ImageError;
use super::feed::Feed;
use super::form::Form;
use super::header::Header;
use super::paint::Painter;
use super::passes::Pass;
use super::refusal;
use super::unfilter::unfilter;
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes that are inflated at once, if a row is not longer.
const BUFFER: u64 = 64 << 10;

/// What [`RowReader`] takes for rows of so many bytes, `Decompress` included.
pub(super) fn memory(row: u64) -> u64 {
    (row + 1).max(BUFFER) + row + (64 << 10)
}

pub(super) struct RowReader<'p> {
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
    /// Bytes that are to be inflated before the last row.
    before_last: u64,
}

impl<'p> RowReader<'p> {
    pub(super) fn new(passes: &'p [Pass], form: Form) -> Self {
        let longest = passes.iter().map(|pass| form.row_bytes(pass.width)).max().unwrap_or(0);
        let total: u64 = passes
            .iter()
            .map(|pass| (form.row_bytes(pass.width) + 1) * u64::from(pass.height))
            .sum();
        let last = passes.last().map_or(0, |pass| form.row_bytes(pass.width) + 1);
        Self {
            passes,
            form,
            inflate: Decompress::new(true),
            buffer: vec![0; (longest + 1).max(BUFFER.min(total)) as usize],
            filled: 0,
            previous: vec![0; longest as usize],
            y: 0,
            before_last: total - last,
        }
    }

    /// Reads all rows, or those that the stream has if it ends with a row.
    pub(super) fn read<'a>(
        &mut self,
        feed: &mut Feed<'a>,
        header: &mut Header<'a>,
        painter: &mut Painter<'_>,
    ) -> Result<(), ImageError> {
        while !self.read_piece(feed.next(header)?, painter)? {}
        Ok(())
    }

    /// Whether that was all.
    fn read_piece(&mut self, piece: &[u8], painter: &mut Painter<'_>) -> Result<bool, ImageError> {
        let mut input = piece;
        // Whether a row was completed in this piece and no byte of the next one has come since.
        let mut at_border = false;
        // Whether zlib has seen the last byte.
        let mut saw_last = false;
        while !input.is_empty() {
            let before_last = usize::try_from(self.before_last).unwrap_or(usize::MAX);
            let (given, room) = match input.len() {
                1 if at_border && !saw_last => (1, 0),
                length if before_last == 0 => (length, self.row_rest()),
                1 => (1, self.row_rest()),
                length => (length - 1, before_last.min(self.buffer.len() - self.filled)),
            };
            saw_last = given == input.len();
            let (read, written, status) = self.inflate(&input[..given], room)?;
            input = &input[read..];
            self.before_last = self.before_last.saturating_sub(written as u64);
            self.filled += written;
            self.take_rows(painter)?;
            at_border = self.filled == 0 && (written > 0 || at_border);
            if self.passes.is_empty() {
                return Ok(true);
            }
            if status == Status::StreamEnd {
                return if at_border {
                    Ok(true)
                } else {
                    Err(refusal("its pixels end too early"))
                };
            }
            if read == 0 && written == 0 && room > 0 {
                return Err(refusal("its pixels cannot be inflated"));
            }
        }
        Ok(false)
    }

    /// How much was read and written.
    fn inflate(&mut self, input: &[u8], room: usize) -> Result<(usize, usize, Status), ImageError> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let output = &mut self.buffer[self.filled..][..room];
        let status = self.inflate.decompress(input, output, FlushDecompress::None);
        let status = status.map_err(|error| refusal(format!("its pixels cannot be inflated: {error}")))?;
        Ok((
            (self.inflate.total_in() - read) as usize,
            (self.inflate.total_out() - written) as usize,
            status,
        ))
    }

    /// Bytes of the row that is being read, its filter's included. None is left when all were read.
    fn row_length(&self) -> Option<usize> {
        self.passes
            .first()
            .map(|pass| self.form.row_bytes(pass.width) as usize + 1)
    }

    /// Bytes that the row lacks. The buffer never holds a complete row between two calls.
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
