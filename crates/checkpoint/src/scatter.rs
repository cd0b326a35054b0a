//! Places elements that are read in the file's order in a tensor whose dimensions are in another order.

use std::io::{self, Read};

use super::entry::Elements;
use super::throttle::Throttle;

/// Elements that are read at once. As f32 they fit into a core's cache, and a block of a Linear with 4096 columns has 64
/// rows, so that 256 bytes of each column are written at once.
const BLOCK_ELEMENTS: usize = 256 * 1024;
/// Rows and columns that are transposed at once: 16 rows of a cache line each.
const TILE: usize = 16;

/// Where the elements of a storage without gaps belong in a tensor.
pub(super) struct Scatter {
    /// The storage's dimensions but the innermost, outermost first: size, and stride in the tensor.
    outer: Vec<(usize, usize)>,
    /// The innermost dimension.
    inner: (usize, usize),
}

impl Scatter {
    /// Returns the order for a tensor with the storage's own.
    pub fn identity(count: usize) -> Self {
        Self {
            outer: Vec::new(),
            inner: (count, 1),
        }
    }

    /// Returns the order for a view of these sizes and strides in the storage, or `None` if the view has gaps or
    /// repetitions.
    pub fn dense(view: &[(usize, usize)]) -> Option<Self> {
        let mut dimensions = Vec::with_capacity(view.len());
        let mut tensor_stride = 1usize;
        for &(size, stride) in view.iter().rev() {
            dimensions.push((stride, size, tensor_stride));
            tensor_stride = tensor_stride.checked_mul(size)?;
        }
        dimensions.sort_unstable();
        let mut expected = 1;
        for &(stride, size, _) in &dimensions {
            (stride == expected).then_some(())?;
            expected *= size;
        }
        let mut outer: Vec<_> = dimensions.iter().rev().map(|&(_, size, to)| (size, to)).collect();
        let inner = outer.pop()?;
        Some(Self { outer, inner })
    }

    /// The elements of the storage's innermost dimension.
    pub fn row_elements(&self) -> usize {
        self.inner.0
    }

    /// Returns where the storage's element `index` belongs.
    fn place(&self, index: usize) -> usize {
        let (mut rest, column) = (index / self.inner.0, index % self.inner.0);
        let mut place = column * self.inner.1;
        for &(size, stride) in self.outer.iter().rev() {
            place += rest % size * stride;
            rest /= size;
        }
        place
    }
}

/// A box of a storage's elements that are stored one after the other.
pub(super) struct Region<'a> {
    /// The storage's sizes, outermost first; at least one.
    pub storage: &'a [usize],
    /// The index of the box's first element, in each dimension.
    pub origin: &'a [usize],
    /// The box's sizes, at least 1 each. It may reach over the storage's edges.
    pub sizes: &'a [usize],
}

impl Region<'_> {
    /// The elements of a row, and those of them that are inside the storage.
    fn columns(&self) -> (usize, usize) {
        match (self.storage.last(), self.origin.last(), self.sizes.last()) {
            (Some(&storage), Some(&origin), Some(&size)) => (size, size.min(storage.saturating_sub(origin))),
            _ => (1, 1),
        }
    }

    /// Returns the index in the storage of a row's first element, or `None` if the row is outside of the storage.
    fn row_start(&self, row: usize) -> Option<usize> {
        let (mut rest, mut start, mut stride) = (row, 0, 1);
        let dimensions = self.storage.iter().zip(self.origin).zip(self.sizes);
        for (dimension, ((&storage, &origin), &size)) in dimensions.rev().enumerate() {
            let mut index = origin;
            if dimension > 0 {
                index += rest % size;
                rest /= size;
            }
            (index < storage).then_some(())?;
            start += index * stride;
            stride *= storage;
        }
        Some(start)
    }
}

/// A tensor that is filled from regions of a storage.
pub(super) struct Filling<'a> {
    scatter: &'a Scatter,
    elements: Elements,
    throttle: &'a Throttle,
    tensor: Vec<f32>,
    bytes: Vec<u8>,
    block: Block,
}

/// Elements in memory.
#[derive(Default)]
struct Block {
    values: Vec<f32>,
    rows: Vec<Row>,
}

/// A row's first element.
struct Row {
    /// The index in the block's values.
    from: usize,
    /// The index in the storage.
    start: usize,
    /// The index in the tensor.
    to: usize,
}

impl<'a> Filling<'a> {
    pub fn new(count: usize, scatter: &'a Scatter, elements: Elements, throttle: &'a Throttle) -> Self {
        Self {
            scatter,
            elements,
            throttle,
            tensor: vec![0.0; count],
            bytes: Vec::new(),
            block: Block::default(),
        }
    }

    /// Returns the tensor's elements; those that are in no region are zeros.
    pub fn finish(self) -> Vec<f32> {
        self.tensor
    }

    /// Reads a region and places its elements.
    pub fn read(&mut self, region: &Region<'_>, reader: &mut dyn Read) -> io::Result<()> {
        let (row_elements, columns) = region.columns();
        let rows = region.sizes.iter().product::<usize>() / row_elements;
        // Blocks are several rows, or a part of one.
        let block_rows = (BLOCK_ELEMENTS / row_elements).max(1).min(rows);
        let block_columns = row_elements.min(BLOCK_ELEMENTS);
        for first_row in (0..rows).step_by(block_rows) {
            let rows = first_row..(first_row + block_rows).min(rows);
            for first_column in (0..row_elements).step_by(block_columns) {
                let stored_columns = block_columns.min(row_elements - first_column);
                self.read_block(rows.len() * stored_columns, reader)?;
                self.block.rows.clear();
                for (index, row) in rows.clone().enumerate() {
                    let from = index * stored_columns;
                    let start = region.row_start(row).map(|start| start + first_column);
                    self.block.rows.extend(start.map(|start| Row { from, start, to: 0 }));
                }
                self.copy_rows(stored_columns.min(columns.saturating_sub(first_column)));
                self.throttle.pause();
            }
        }
        Ok(())
    }

    fn read_block(&mut self, count: usize, reader: &mut dyn Read) -> io::Result<()> {
        self.bytes.resize(count * self.elements.bytes, 0);
        reader.read_exact(&mut self.bytes)?;
        self.block.values.clear();
        (self.elements.widen)(&self.bytes, &mut self.block.values);
        self.throttle.pause();
        Ok(())
    }

    /// Places the first `columns` elements of each row of the block.
    fn copy_rows(&mut self, columns: usize) {
        let Block { values, rows } = &mut self.block;
        let (size, stride) = self.scatter.inner;
        let mut left = columns;
        while left > 0 {
            // Up to the edge of the innermost dimension, the elements of a row stay `stride` apart.
            let until_edge = rows.iter().map(|row| size - row.start % size).min();
            let width = until_edge.unwrap_or(left).min(left);
            for row in rows.iter_mut() {
                row.to = self.scatter.place(row.start);
            }
            if stride == 1 {
                for row in rows.iter() {
                    self.tensor[row.to..row.to + width].copy_from_slice(&values[row.from..row.from + width]);
                }
            } else {
                transpose(values, rows, width, stride, &mut self.tensor);
            }
            for row in rows.iter_mut() {
                row.from += width;
                row.start += width;
            }
            left -= width;
        }
    }
}

/// Copies rows so that the elements of each are `stride` apart. It goes by tiles, so that each cache line is read once, and
/// written once where rows become neighbours.
fn transpose(values: &[f32], rows: &[Row], columns: usize, stride: usize, tensor: &mut [f32]) {
    let mut tile = [[0.0; TILE]; TILE];
    for first_column in (0..columns).step_by(TILE) {
        let columns = TILE.min(columns - first_column);
        for rows in rows.chunks(TILE) {
            for (index, row) in rows.iter().enumerate() {
                let from = row.from + first_column;
                for (column, value) in tile.iter_mut().zip(&values[from..from + columns]) {
                    column[index] = *value;
                }
            }
            let are_neighbours = rows.is_sorted_by(|a, b| a.to + 1 == b.to);
            for (column, tile) in tile[..columns].iter().enumerate() {
                let offset = (first_column + column) * stride;
                if are_neighbours {
                    let to = rows[0].to + offset;
                    tensor[to..to + rows.len()].copy_from_slice(&tile[..rows.len()]);
                } else {
                    for (row, value) in rows.iter().zip(tile) {
                        tensor[row.to + offset] = *value;
                    }
                }
            }
        }
    }
}
