//! Tensors that are stored in chunks of one shape, each of which may be compressed, as HDF5 does.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

use super::entry::{Elements, TensorEntry, refused};
use super::error::CheckpointError;
use super::scatter::{Filling, Region, Scatter};
use super::source::Source;
use super::stream::Stream;
use super::throttle::Throttle;

/// Limit of the bytes of a chunk whose bytes are shuffled: it must be in memory as a whole. h5py makes chunks of up to 1 MiB.
pub(super) const SHUFFLED_BYTES_MAX: usize = 4 << 20;

/// The elements of a tensor, in chunks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chunks {
    /// The sizes of the stored tensor, at least one.
    pub sizes: Vec<usize>,
    /// The sizes of a chunk, at least 1 each. Chunks may reach over the tensor's edges.
    pub chunk_sizes: Vec<usize>,
    pub filters: Filters,
    /// Chunks that reach over an edge passed no filter.
    pub edges_are_plain: bool,
    /// All chunks, in row-major order.
    pub table: Vec<Chunk>,
}

/// Where a chunk is in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chunk {
    pub start: u64,
    pub bytes: u64,
    /// The filters that it did not pass, one bit each.
    pub mask: u32,
}

/// What the bytes of a chunk passed, in this order: each with its bit in [`Chunk::mask`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Filters {
    /// The first bytes of all elements come first, then the second ones, and so on.
    pub shuffle: Option<u32>,
    /// Compressed by zlib.
    pub deflate: Option<u32>,
    /// Followed by a checksum of 4 bytes, which is not checked.
    pub checksum: Option<u32>,
}

impl Filters {
    /// Returns the filters that a chunk with this mask passed.
    fn applied(self, mask: u32) -> Self {
        let applied = |filter: Option<u32>| filter.filter(|bit| mask & bit == 0);
        Self {
            shuffle: applied(self.shuffle),
            deflate: applied(self.deflate),
            checksum: applied(self.checksum),
        }
    }
}

impl Chunks {
    /// Returns the values in the order of the entry's view, as f32.
    pub fn read(
        &self,
        entry: &TensorEntry,
        source: &Source,
        elements: Elements,
        throttle: &Throttle,
    ) -> Result<Vec<f32>, CheckpointError> {
        let scatter = match &entry.layout.strides {
            None => Scatter::identity(entry.elements()),
            Some(strides) => Scatter::dense(strides)
                .ok_or_else(|| refused(&entry.name, "is a view with gaps of a tensor in chunks"))?,
        };
        let mut filling = Filling::new(entry.elements(), &scatter, elements, throttle);
        let mut origin = vec![0; self.sizes.len()];
        for chunk in &self.table {
            self.read_chunk(chunk, &origin, source, elements.bytes, &mut filling)
                .map_err(|error| entry.undecodable(error))?;
            self.advance(&mut origin);
        }
        Ok(filling.finish())
    }

    fn read_chunk(
        &self,
        chunk: &Chunk,
        origin: &[usize],
        source: &Source,
        item: usize,
        filling: &mut Filling<'_>,
    ) -> io::Result<()> {
        let region = Region {
            storage: &self.sizes,
            origin,
            sizes: &self.chunk_sizes,
        };
        let is_edge = (self.sizes.iter().zip(origin).zip(&self.chunk_sizes))
            .any(|((&size, &origin), &chunk)| chunk > size - origin);
        let filters = if is_edge && self.edges_are_plain {
            Filters::default()
        } else {
            self.filters.applied(chunk.mask)
        };
        let checksum_bytes = if filters.checksum.is_some() { 4 } else { 0 };
        let end = (chunk.start + chunk.bytes).saturating_sub(checksum_bytes);
        let stored = Stream::plain(source, chunk.start, end);
        let mut decoded: Box<dyn Read + '_> = match filters.deflate {
            Some(_) => Box::new(ZlibDecoder::new(stored)),
            None => Box::new(stored),
        };
        if filters.shuffle.is_none() || item == 1 {
            return filling.read(&region, &mut decoded);
        }
        let mut shuffled = vec![0; self.chunk_sizes.iter().product::<usize>() * item];
        decoded.read_exact(&mut shuffled)?;
        let mut unshuffled = Unshuffled {
            shuffled: &shuffled,
            item,
            at: 0,
        };
        filling.read(&region, &mut unshuffled)
    }

    /// Moves to the next chunk.
    fn advance(&self, origin: &mut [usize]) {
        for (dimension, at) in origin.iter_mut().enumerate().rev() {
            *at += self.chunk_sizes[dimension];
            if *at < self.sizes[dimension] {
                return;
            }
            *at = 0;
        }
    }
}

/// Reads shuffled elements in their order. Every read is of whole elements.
struct Unshuffled<'a> {
    shuffled: &'a [u8],
    item: usize,
    /// The next element.
    at: usize,
}

impl Read for Unshuffled<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.shuffled.len() / self.item;
        let wanted = (out.len() / self.item).min(count - self.at);
        for (byte, plane) in self.shuffled.chunks_exact(count.max(1)).enumerate() {
            let bytes = &plane[self.at..self.at + wanted];
            for (element, byte_of_plane) in out.chunks_exact_mut(self.item).zip(bytes) {
                element[byte] = *byte_of_plane;
            }
        }
        self.at += wanted;
        Ok(wanted * self.item)
    }
}
