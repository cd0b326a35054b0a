//! The heap of links and attributes that are too many for their object's header (section III.G).

use std::ops::ControlFlow;

use bytes::Bytes;

use super::super::cursor::Cursor;
use super::btree_v2::Btree;
use super::error::{Result, damaged, unsupported};
use super::image::{Image, defined};
use super::object_header::unsigned;

/// Limit of the nested indirect blocks.
const LEVELS_MAX: usize = 8;

/// A heap's header.
pub(super) struct FractalHeap {
    /// The index of objects that are too long for the heap.
    huge: Option<u64>,
    /// The blocks of a row.
    width: u64,
    /// The bytes of a block of the first row.
    block_bytes: u64,
    /// The limit of the bytes of a block that holds objects.
    direct_bytes_max: u64,
    /// The bytes of an offset in the heap, and of a length.
    offset_bytes: usize,
    length_bytes: usize,
    root: Option<u64>,
    /// The rows of the root block, or none if it holds objects itself.
    rows: u16,
}

impl FractalHeap {
    pub fn open(image: &Image<'_>, address: u64) -> Result<Self> {
        let header = image.read_up_to(address, 146)?;
        if !header.starts_with(b"FRHP") {
            return Err(damaged("a heap is not where an object says"));
        }
        let (heap, filter_bytes) = Self::parse(&header).ok_or_else(|| damaged("a heap's header is cut off"))?;
        if filter_bytes > 0 {
            return Err(unsupported("has compressed attributes or links"));
        }
        if heap.width == 0 || heap.block_bytes == 0 || heap.offset_bytes > 8 {
            return Err(damaged("a heap's header is impossible"));
        }
        Ok(heap)
    }

    fn parse(header: &[u8]) -> Option<(Self, u16)> {
        let mut cursor = Cursor::new(header, 7);
        let filter_bytes = cursor.u16()?;
        let _flags = cursor.take(1)?;
        let object_bytes_max = cursor.u32()?;
        let _next_huge = cursor.u64()?;
        let huge = defined(cursor.u64()?);
        let _counters = cursor.take(80)?;
        let (width, block_bytes, direct_bytes_max) = (cursor.u16()?, cursor.u64()?, cursor.u64()?);
        let offset_bits = cursor.u16()?;
        let _start_rows = cursor.u16()?;
        let heap = Self {
            huge,
            width: width.into(),
            block_bytes,
            direct_bytes_max,
            offset_bytes: usize::from(offset_bits).div_ceil(8),
            length_bytes: width_of(direct_bytes_max).min(width_of(object_bytes_max.into())),
            root: defined(cursor.u64()?),
            rows: cursor.u16()?,
        };
        Some((heap, filter_bytes))
    }

    /// Returns the object with this ID (section III.G, "heap IDs").
    pub fn object(&self, image: &Image<'_>, id: &[u8]) -> Result<Bytes> {
        let Some((flags, rest)) = id.split_first() else {
            return Err(damaged("an object's place in a heap is cut off"));
        };
        match flags >> 4 & 3 {
            0 => self.managed(image, rest),
            1 => self.huge(image, rest),
            2 => {
                let length = usize::from(flags & 0x0f) + 1;
                let object = rest.get(..length);
                let object = object.ok_or_else(|| damaged("an object's place in a heap is cut off"))?;
                Ok(Bytes::copy_from_slice(object))
            }
            _ => Err(damaged("an object's place in a heap is of no known kind")),
        }
    }

    fn managed(&self, image: &Image<'_>, id: &[u8]) -> Result<Bytes> {
        let mut cursor = Cursor::new(id, 0);
        let offset = cursor.take(self.offset_bytes).map(unsigned);
        let length = cursor.take(self.length_bytes).map(unsigned);
        let (Some(mut offset), Some(length), Some(mut block)) = (offset, length, self.root) else {
            return Err(damaged("an object's place in a heap is cut off"));
        };
        let misplaced = || damaged("an object is outside its heap");
        let mut rows = u64::from(self.rows);
        for _ in 0..LEVELS_MAX {
            if rows == 0 {
                let address = block.checked_add(offset).ok_or_else(misplaced)?;
                return image.read(address, length);
            }
            let (row, column, block_bytes, within) = self.find(offset).ok_or_else(misplaced)?;
            if row >= rows {
                return Err(misplaced());
            }
            // Signature, version, the heap's address, and the block's own offset come before the addresses of blocks.
            let entry = 13 + self.offset_bytes as u64 + 8 * (row * self.width + column);
            let entry = block.checked_add(entry).ok_or_else(misplaced)?;
            block = Cursor::new(&image.read(entry, 8)?, 0)
                .u64()
                .and_then(defined)
                .ok_or_else(misplaced)?;
            offset = within;
            rows = if block_bytes <= self.direct_bytes_max {
                0
            } else {
                self.rows_of(block_bytes).ok_or_else(misplaced)?
            };
        }
        Err(unsupported("has too deep a heap"))
    }

    /// Returns the row and the column of the block with this offset, the block's bytes, and the offset in it. The first two
    /// rows have blocks of the same length, and each later row of twice the length.
    fn find(&self, offset: u64) -> Option<(u64, u64, u64, u64)> {
        let (mut start, mut block_bytes) = (0u64, self.block_bytes);
        for row in 0..64 {
            let row_bytes = block_bytes.checked_mul(self.width)?;
            let end = start.checked_add(row_bytes)?;
            if offset < end {
                let within = offset - start;
                return Some((row, within / block_bytes, block_bytes, within % block_bytes));
            }
            start = end;
            if row > 0 {
                block_bytes = block_bytes.checked_mul(2)?;
            }
        }
        None
    }

    /// Returns the rows of an indirect block that stands for these bytes.
    fn rows_of(&self, bytes: u64) -> Option<u64> {
        let first_row = self.block_bytes.checked_mul(self.width)?;
        Some(u64::from(bytes.checked_ilog2()?.checked_sub(first_row.checked_ilog2()?)?) + 1)
    }

    /// Finds an object in the index of those that have a place of their own in the file.
    fn huge(&self, image: &Image<'_>, key: &[u8]) -> Result<Bytes> {
        let misplaced = || damaged("a long attribute is not where its heap says");
        let key = unsigned(key.get(..key.len().min(8)).unwrap_or_default());
        let index = Btree::open(image, self.huge.ok_or_else(misplaced)?)?;
        let mut found = None;
        index.visit(image, &mut |record| {
            let mut cursor = Cursor::new(record, 0);
            let place = (cursor.u64(), cursor.u64());
            if cursor.u64() == Some(key) {
                found = Some(place);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        match found {
            Some((Some(address), Some(length))) => image.read(address, length),
            _ => Err(misplaced()),
        }
    }
}

/// Returns the bytes of a field that holds numbers up to `max`.
pub(super) fn width_of(max: u64) -> usize {
    max.checked_ilog2().unwrap_or(0) as usize / 8 + 1
}
