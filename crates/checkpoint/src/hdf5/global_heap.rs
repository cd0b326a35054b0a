//! The heap of texts of variable length (section III.E).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::image::Image;

/// Limit of the objects of a collection. Their indices have 16 bits.
const OBJECTS_MAX: usize = 1 << 16;

/// The collection that was used last. Texts of one attribute are mostly in the same.
#[derive(Default)]
pub(super) struct GlobalHeap {
    last: RefCell<Option<(u64, Collection)>>,
}

struct Collection {
    bytes: Bytes,
    objects: HashMap<u16, Range<usize>>,
}

impl GlobalHeap {
    /// Returns the text to which 16 bytes refer: its length, the address of its collection, and its index there.
    pub fn text(&self, image: &Image<'_>, reference: &[u8]) -> Result<Bytes> {
        let mut cursor = Cursor::new(reference, 0);
        let (Some(length), Some(address), Some(index)) = (cursor.u32(), cursor.u64(), cursor.u32()) else {
            return Err(damaged("a text is cut off"));
        };
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut last = self.last.borrow_mut();
        let collection = match &mut *last {
            Some((at, collection)) if *at == address => collection,
            other => &mut other.insert((address, Collection::read(image, address)?)).1,
        };
        let range = u16::try_from(index)
            .ok()
            .and_then(|index| collection.objects.get(&index));
        let range = range.ok_or_else(|| damaged("a text is not in its heap"))?;
        let end = range.start + length as usize;
        if end > range.end {
            return Err(damaged("a text is longer than its place in the heap"));
        }
        Ok(collection.bytes.slice(range.start..end))
    }
}

impl Collection {
    fn read(image: &Image<'_>, address: u64) -> Result<Self> {
        let start = image.read(address, 16)?;
        if !start.starts_with(b"GCOL") {
            return Err(damaged("a heap is not where a text says"));
        }
        let bytes = Cursor::new(&start, 8).u64().unwrap_or(0);
        let bytes = image.read(address, bytes)?;
        let mut cursor = Cursor::new(&bytes, 16);
        let mut objects = HashMap::new();
        // Index 0 is the free space at the end.
        while let Some(index) = cursor.u16().filter(|index| *index != 0) {
            let _references = cursor.take(6);
            let start = cursor.at() + 8;
            let length = cursor.u64().and_then(|length| usize::try_from(length).ok());
            let padded = length.and_then(|length| length.checked_next_multiple_of(8));
            let (Some(length), Some(_)) = (length, padded.and_then(|padded| cursor.take(padded))) else {
                break;
            };
            objects.insert(index, start..start + length);
            if objects.len() == OBJECTS_MAX {
                return Err(unsupported("has too many texts"));
            }
        }
        Ok(Self { bytes, objects })
    }
}
