//! The interface of what takes a decoded picture's rows.

/// A receiver of a picture's rows, from the top. For each row a decoder writes to [`RowSink::row`], then calls
/// [`RowSink::advance`].
pub(super) trait RowSink {
    /// Returns the buffer of the next row, for the decoder to write. It holds an earlier row.
    fn row(&mut self) -> &mut [u8];

    /// Returns true if the result depends on the next row. Other rows need not be written, but `advance` must be called.
    fn wants_row(&self) -> bool;

    /// Processes the row that was written.
    fn advance(&mut self);
}
