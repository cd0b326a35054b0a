//! Finds the chunks of a dataset by its index (section VII).

use std::collections::HashSet;

use super::super::chunks::{Chunk, Filters};
use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::image::{Image, defined};
use super::layout::{ChunkedLayout, Index};
use super::object_header::unsigned;
use super::symbol_table::{LEVELS_MAX, NODES_MAX, children};

/// Limit of the chunks of a dataset. A VGG16's largest has 4,500 chunks as h5py chooses them.
const CHUNKS_MAX: usize = 1 << 16;

/// Returns a dataset's chunks in row-major order.
pub(super) fn chunks(
    image: &Image<'_>,
    layout: &ChunkedLayout,
    sizes: &[usize],
    filters: Filters,
) -> Result<Vec<Chunk>> {
    let grid: Vec<usize> = sizes
        .iter()
        .zip(&layout.sizes)
        .map(|(size, chunk)| size.div_ceil(*chunk))
        .collect();
    let count = grid.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    let count = count.filter(|count| *count <= CHUNKS_MAX);
    let count = count.ok_or_else(|| unsupported(format!("has more than {CHUNKS_MAX} chunks")))?;
    image.keep(count * size_of::<Chunk>())?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let address = layout.address.ok_or_else(|| unsupported("was never written"))?;
    let bytes = layout
        .sizes
        .iter()
        .try_fold(layout.item, |bytes, &size| bytes.checked_mul(size));
    let bytes = bytes.ok_or_else(|| damaged("a chunk is too large"))? as u64;
    let plain = |start| Chunk { start, bytes, mask: 0 };
    let is_filtered = filters != Filters::default();
    let found: Vec<Option<Chunk>> = match layout.index {
        Index::Single(filtered) => {
            let (bytes, mask) = filtered.unwrap_or((bytes, 0));
            vec![Some(Chunk {
                start: address,
                bytes,
                mask,
            })]
        }
        Index::Implicit => (0..count as u64)
            .map(|index| Some(plain(address.checked_add(index.checked_mul(bytes)?)?)))
            .collect(),
        Index::FixedArray if is_filtered => fixed_array(image, address, count, filtered_entry)?,
        Index::FixedArray => fixed_array(image, address, count, |entry| defined(unsigned(entry)).map(plain))?,
        Index::BtreeV1 => btree(image, address, layout, &grid)?,
    };
    let found: Option<Vec<Chunk>> = found.into_iter().collect();
    let found = found.filter(|found| found.len() == count);
    let found = found.ok_or_else(|| unsupported("has parts that were never written"))?;
    check(image, &found, (!is_filtered).then_some(bytes))?;
    Ok(found)
}

/// Checks that the chunks are in the file and do not overlap so much that together they are longer. Without filters, each
/// has `bytes` bytes.
fn check(image: &Image<'_>, chunks: &[Chunk], bytes: Option<u64>) -> Result<()> {
    let mut total = 0u64;
    for chunk in chunks {
        total = total.saturating_add(chunk.bytes);
        if !image.contains(chunk.start, chunk.bytes) || bytes.is_some_and(|bytes| chunk.bytes != bytes) {
            return Err(damaged("a chunk is not where its index says"));
        }
    }
    if total > image.length() {
        return Err(damaged("chunks overlap"));
    }
    Ok(())
}

/// Reads the leaves of a B-tree of version 1 (section III.A.1), each of which is a chunk.
fn btree(image: &Image<'_>, root: u64, layout: &ChunkedLayout, grid: &[usize]) -> Result<Vec<Option<Chunk>>> {
    let key_bytes = 8 + 8 * (grid.len() + 1);
    let mut chunks = vec![None; grid.iter().product()];
    let mut seen = HashSet::new();
    let mut nodes = vec![(root, LEVELS_MAX)];
    while let Some((address, levels)) = nodes.pop() {
        if !seen.insert(address) {
            return Err(damaged("an index of chunks leads to the same node twice"));
        }
        let (level, children) = children(image, address, key_bytes, 1)?;
        if level > 0 {
            let levels = levels
                .checked_sub(1)
                .filter(|_| nodes.len() + children.len() <= NODES_MAX);
            let levels = levels.ok_or_else(|| unsupported("has too large an index of chunks"))?;
            nodes.extend(children.into_iter().map(|(_, child)| (child, levels)));
            continue;
        }
        for (key, start) in children {
            // Chunks outside of the dataset remain when it was made smaller.
            if let Some((index, bytes, mask)) = chunk_key(&key, layout, grid) {
                chunks[index] = Some(Chunk {
                    start,
                    bytes: bytes.into(),
                    mask,
                });
            }
        }
    }
    Ok(chunks)
}

/// Returns the chunk's index, its bytes and its mask, unless it is outside of the dataset.
fn chunk_key(key: &[u8], layout: &ChunkedLayout, grid: &[usize]) -> Option<(usize, u32, u32)> {
    let mut cursor = Cursor::new(key, 0);
    let (bytes, mask) = (cursor.u32()?, cursor.u32()?);
    let mut index = 0;
    for (size, chunk) in grid.iter().zip(&layout.sizes) {
        let position = usize::try_from(cursor.u64()?).ok()? / chunk;
        (position < *size).then_some(())?;
        index = index * size + position;
    }
    Some((index, bytes, mask))
}

/// Reads a fixed array (section VII.C): one entry for each chunk, in pages with a checksum each if they are many.
fn fixed_array(
    image: &Image<'_>,
    address: u64,
    count: usize,
    parse: impl Fn(&[u8]) -> Option<Chunk>,
) -> Result<Vec<Option<Chunk>>> {
    let misplaced = || damaged("an index of chunks is not where the dataset says");
    let header = image.read(address, 24)?;
    let mut cursor = Cursor::new(&header, 5);
    let (kinds, entries, block) = (cursor.array(), cursor.u64(), cursor.u64());
    let (Some([_client, entry_bytes, page_bits]), Some(entries), Some(block)) = (kinds, entries, block) else {
        return Err(misplaced());
    };
    let is_possible = header.starts_with(b"FAHD") && (8..=32).contains(&entry_bytes) && page_bits < 32;
    if !is_possible || entries < count as u64 || entries > CHUNKS_MAX as u64 {
        return Err(misplaced());
    }
    let (entry_bytes, page) = (u64::from(entry_bytes), 1u64 << page_bits);
    // Signature, version, client and the header's address come first.
    let mut at = block.checked_add(14).ok_or_else(misplaced)?;
    if !image.read(block, 14)?.starts_with(b"FADB") {
        return Err(misplaced());
    }
    let is_paged = entries > page;
    if is_paged {
        // A bit for each page, and a checksum. Pages that were never written are zeros in the file.
        let pages = entries.div_ceil(page);
        let bits = image.read(at, pages.div_ceil(8))?;
        if !(0..pages as usize).all(|page| bits[page / 8] & (0x80 >> (page % 8)) != 0) {
            return Err(unsupported("has parts that were never written"));
        }
        at += pages.div_ceil(8) + 4;
    }
    let mut chunks = Vec::with_capacity(count);
    while chunks.len() < count {
        let entries = page.min(entries - chunks.len() as u64);
        let entries = if is_paged { entries } else { count as u64 };
        let bytes = image.read(at, entries * entry_bytes)?;
        let left = count - chunks.len();
        chunks.extend(bytes.chunks_exact(entry_bytes as usize).take(left).map(&parse));
        at += entries * entry_bytes + 4;
    }
    Ok(chunks)
}

/// Reads an entry of a chunk that may be compressed: its address, its bytes, and its mask of 4 bytes.
fn filtered_entry(entry: &[u8]) -> Option<Chunk> {
    let mut cursor = Cursor::new(entry, 0);
    let start = defined(cursor.u64()?)?;
    let bytes = unsigned(cursor.take(entry.len().checked_sub(12)?)?);
    Some(Chunk {
        start,
        bytes,
        mask: cursor.u32()?,
    })
}
