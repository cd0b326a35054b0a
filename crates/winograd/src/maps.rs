//! Activations between convolutions.

use std::ops::Range;

use crate::buffer::{Buffer, Shared};
use crate::engine::Engine;
use crate::simd::LANES;
use crate::tile::TILE;

/// The channels of a picture.
pub(crate) const COLOURS: usize = 3;

/// Feature maps of some images: count x channels x height x width f32.
///
/// Stored as image, block of 16 channels, row, column, channel in the block (nChw16c), with a border of zeros: one row
/// and one column before, and enough after for whole Winograd tiles and their one row of overlap. Maps of three
/// channels are pictures: their "block" is the three colours, as in interleaved pixels.
///
/// Invariant: the border, and the padding channels of the last block, are zero. Code that writes an image's numbers
/// also clears the border around them (`Images::clear_border`), while they are in a cache.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    data: Buffer<f32>,
    shape: Shape,
}

/// The dimensions of `Maps`, and their layout in memory. Lengths count f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub count: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    /// Channels that lie side by side.
    pub fn lanes(self) -> usize {
        if self.channels == COLOURS { COLOURS } else { LANES }
    }

    /// Blocks of channels.
    pub fn blocks(self) -> usize {
        self.channels.div_ceil(self.lanes())
    }

    /// From a row of a block to the next.
    pub fn row(self) -> usize {
        with_border(self.width) * self.lanes()
    }

    /// From a block of an image to the next.
    pub fn block(self) -> usize {
        with_border(self.height) * self.row()
    }

    /// From an image to the next.
    pub fn image(self) -> usize {
        self.blocks() * self.block()
    }

    /// From an image's block's start to its first number, past one row and one column of border.
    pub fn origin(self) -> usize {
        self.row() + self.lanes()
    }

    /// The index of the number at a row and a column of an image's block; its other lanes follow.
    pub fn at(self, image: usize, block: usize, row: usize, column: usize) -> usize {
        image * self.image() + block * self.block() + self.origin() + row * self.row() + column * self.lanes()
    }

    fn one(self) -> Self {
        Self { count: 1, ..self }
    }
}

/// Adds the border: one before, and one after the last whole tile.
fn with_border(side: usize) -> usize {
    side.next_multiple_of(TILE) + 2
}

impl Maps {
    /// `count` images' maps, all zero.
    pub fn new(count: usize, channels: usize, height: usize, width: usize) -> Self {
        let mut maps = Self::default();
        maps.reset(count, channels, height, width);
        maps
    }

    /// Sets the shape, for a layer to fill; allocates only to grow. All contents are unspecified, the border's
    /// included.
    pub fn reset(&mut self, count: usize, channels: usize, height: usize, width: usize) {
        self.shape = Shape {
            count,
            channels,
            height,
            width,
        };
        self.data.reserve(count * self.shape.image());
    }

    /// Images.
    pub fn count(&self) -> usize {
        self.shape.count
    }

    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.shape.channels
    }

    /// Rows of a channel.
    pub fn height(&self) -> usize {
        self.shape.height
    }

    /// Columns of a channel.
    pub fn width(&self) -> usize {
        self.shape.width
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// Bytes that `count` images of this size take.
    pub fn bytes_of(&self, count: usize) -> usize {
        count * self.shape.image() * size_of::<f32>()
    }

    /// The maps of some of the images, in the order of `rows`; an image may be taken more than once.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn select_rows(&self, rows: &[usize]) -> Self {
        let Shape {
            channels,
            height,
            width,
            ..
        } = self.shape;
        let mut selected = Self::new(rows.len(), channels, height, width);
        for (to, &from) in rows.iter().enumerate() {
            selected.copy_image(to, self, from);
        }
        selected
    }

    /// Overwrites image `to` with image `from` of `source`.
    ///
    /// # Panics
    /// If there is no such image, or the images' shapes differ.
    pub fn copy_image(&mut self, to: usize, source: &Self, from: usize) {
        assert_eq!(self.shape.one(), source.shape.one(), "images of one shape");
        assert!(to < self.count() && from < source.count(), "an image that exists");
        let len = self.shape.image();
        self.data[to * len..][..len].copy_from_slice(&source.data[from * len..][..len]);
    }

    /// Maps of count x channels x height x width `values`, as PyTorch lays them out.
    ///
    /// # Panics
    /// If the number of `values` differs.
    pub fn from_planes(values: &[f32], [count, channels, height, width]: [usize; 4]) -> Self {
        assert_eq!(
            values.len(),
            count * channels * height * width,
            "as many as the shape says"
        );
        let mut maps = Self::new(count, channels, height, width);
        if !values.is_empty() {
            for (index, row) in values.chunks_exact(width).enumerate() {
                let at = maps.row_start(index);
                let lanes = maps.shape.lanes();
                for (x, &value) in row.iter().enumerate() {
                    maps.data[at + x * lanes] = value;
                }
            }
        }
        maps
    }

    /// Sets the maps to pictures of three channels: `count` of them, of this height and width. `fill` writes the pixels of a
    /// row, which is counted over all pictures.
    pub fn fill_pictures<F>(&mut self, [count, height, width]: [usize; 3], engine: &mut Engine, fill: F)
    where
        F: Fn(usize, &mut [[f32; COLOURS]]) + Sync,
    {
        self.reset(count, COLOURS, height, width);
        let images = self.images(0..count);
        engine.pool.run(count * height, |item, _| {
            let (plane, row) = ((item / height, 0), item % height);
            // SAFETY: the border beside a row belongs to the row's thread.
            unsafe { images.clear_border(plane, row..row + 1, 0..width) };
            let pixels = images.pointer(plane, row, 0, width * COLOURS).cast();
            // SAFETY: `pointer` checked room for a row of three channels; a row is one thread's.
            fill(item, unsafe { std::slice::from_raw_parts_mut(pixels, width) });
        });
    }

    /// Appends count rows of channels x height x width numbers, as PyTorch flattens.
    pub fn flatten(&self, rows: &mut Vec<f32>) {
        let Shape {
            count,
            channels,
            height,
            width,
        } = self.shape;
        rows.reserve(count * channels * height * width);
        let lanes = self.shape.lanes();
        for index in 0..count * channels * height {
            let at = self.row_start(index);
            rows.extend((0..width).map(|x| self.data[at + x * lanes]));
        }
    }

    /// The start of row `index`, counted by image, channel and row.
    fn row_start(&self, index: usize) -> usize {
        let shape = self.shape;
        let (plane, y) = (index / shape.height, index % shape.height);
        let (image, channel) = (plane / shape.channels, plane % shape.channels);
        let (block, lane) = (channel / shape.lanes(), channel % shape.lanes());
        shape.at(image, block, y, 0) + lane
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    /// Some of the images, for writing.
    pub(crate) fn images(&mut self, range: Range<usize>) -> Images<'_> {
        let shape = Shape {
            count: range.len(),
            ..self.shape
        };
        let numbers = range.start * shape.image()..range.end * shape.image();
        Images {
            data: Shared::new(&mut self.data[numbers]),
            shape,
        }
    }
}

/// Images of maps that several threads write, each its own rows and columns and the border beside them.
#[derive(Clone, Copy)]
pub(crate) struct Images<'a> {
    data: Shared<'a, f32>,
    /// The shape of these images alone.
    pub shape: Shape,
}

impl Images<'_> {
    /// A pointer to the number at a row and a column of an image's block.
    ///
    /// # Panics
    /// If there are not `len` numbers from there.
    pub fn pointer(self, (image, block): (usize, usize), row: usize, column: usize, len: usize) -> *mut f32 {
        self.data.pointer(self.shape.at(image, block, row, column), len)
    }

    /// The same address, which may lie outside the images: only for prefetching.
    pub fn address(self, (image, block): (usize, usize), row: usize, column: usize) -> *const f32 {
        let first = self.data.pointer(0, 0);
        first.wrapping_add(self.shape.at(image, block, row, column))
    }

    /// Zeros the border beside these rows and columns of an image's block, if they are the first or the last ones.
    ///
    /// # Safety
    /// No other thread reads or writes that border meanwhile.
    #[inline(always)]
    pub unsafe fn clear_border(self, plane: (usize, usize), rows: Range<usize>, columns: Range<usize>) {
        let is_inside = |range: &Range<usize>, side| range.start > 0 && range.end < side;
        if !(is_inside(&rows, self.shape.height) && is_inside(&columns, self.shape.width)) {
            // SAFETY: guaranteed by the caller.
            unsafe { self.clear_beside(plane, rows, columns) };
        }
    }

    #[cold]
    unsafe fn clear_beside(self, (image, block): (usize, usize), rows: Range<usize>, columns: Range<usize>) {
        let Self { data, shape } = self;
        let lanes = shape.lanes();
        // From here on, rows and columns are counted from the border's first ones.
        let inner = columns.start + 1..columns.end + 1;
        let start = if columns.start == 0 { 0 } else { inner.start };
        let end = if columns.end == shape.width {
            with_border(shape.width)
        } else {
            inner.end
        };
        let clear = |row: usize, columns: Range<usize>| {
            let at = image * shape.image() + block * shape.block() + row * shape.row() + columns.start * lanes;
            let len = columns.len() * lanes;
            // SAFETY: `pointer` checked that it lies within the images; the caller vouches that no other thread uses it.
            unsafe { std::ptr::write_bytes(data.pointer(at, len), 0, len) };
        };
        if rows.start == 0 {
            clear(0, start..end);
        }
        for row in rows.start + 1..rows.end + 1 {
            clear(row, start..inner.start);
            clear(row, inner.end..end);
        }
        if rows.end == shape.height {
            (rows.end + 1..with_border(shape.height)).for_each(|row| clear(row, start..end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (1..=count).map(|i| i as f32).collect()
    }

    #[test]
    fn planes_survive_the_layout() {
        for shape in [[2, 3, 5, 7], [1, 2, 4, 4], [3, 40, 1, 2]] {
            let values = numbers(shape.iter().product());
            let mut rows = Vec::new();
            Maps::from_planes(&values, shape).flatten(&mut rows);
            assert_eq!(rows, values);
        }
    }

    #[test]
    fn rows_are_selected_in_any_order() {
        let maps = Maps::from_planes(&numbers(3 * 20), [3, 20, 1, 1]);
        let mut rows = Vec::new();
        maps.select_rows(&[2, 0, 2]).flatten(&mut rows);
        let want: Vec<f32> = [2, 0, 2]
            .iter()
            .flat_map(|&i| numbers(60)[i * 20..][..20].to_vec())
            .collect();
        assert_eq!(rows, want);
    }

    #[test]
    fn all_parts_borders_are_the_border() {
        let mut maps = Maps::new(3, 16, 8, 8);
        maps.data.fill(1.0);
        maps.reset(3, 16, 5, 6);
        let images = maps.images(1..3);
        for image in 0..2 {
            for rows in [0..2, 2..5] {
                for columns in [0..1, 1..4, 4..6] {
                    // SAFETY: there is one thread.
                    unsafe { images.clear_border((image, 0), rows.clone(), columns) };
                }
            }
        }
        let (shape, data) = (maps.shape(), maps.data());
        assert!(data[..shape.image()].iter().all(|&number| number == 1.0));
        let sum: f32 = data[shape.image()..3 * shape.image()].iter().sum();
        assert_eq!(sum as usize, 2 * 16 * 5 * 6);
    }
}
