//! A dataset: its shape, its type, and where its elements are.

use std::sync::Arc;

use safetensors::Dtype;

use super::super::chunks::{Chunks, Filters, SHUFFLED_BYTES_MAX};
use super::super::entry::{Encoding, RANK_MAX, Storage, StorageView, TensorEntry, element_count, item_bytes};
use super::super::error::CheckpointError;
use super::super::text::excerpt;
use super::attribute::{Attribute, attributes};
use super::datatype::{Class, Datatype};
use super::error::{Hdf5Error, PACKED_REMEDY, REMEDY, Result, damaged, unsupported};
use super::image::Image;
use super::layout::{ChunkedLayout, Layout};
use super::object_header::{ObjectHeader, kind};
use super::{chunk_index, dataspace, filters};

/// Limit of the bytes of a compressed dataset: twice a VGG16's in f64. It bounds the time that reading takes.
const INFLATED_BYTES_MAX: u64 = 2 << 30;
/// The most bytes that one byte can inflate to (RFC 1951: 258 bytes of 2 bits), and what short streams may add.
const INFLATION_MAX: u64 = 1032;

/// A dataset of an HDF5 file, none of whose elements were read.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The names of the groups and of the dataset, joined by slashes.
    pub path: String,
    /// The sizes, outermost dimension first; none for a scalar.
    pub shape: Vec<usize>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Contiguous(Dtype, Storage),
    Chunked(Dtype, Arc<Chunks>),
    /// Why it is not read, as a clause, and the remedy.
    Unreadable(String),
}

/// How the elements of a dataset are seen as a tensor.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The dataset's sizes, of which some may be divided into several: a Dense layer's 25088 inputs are 7, 7 and 512.
    pub sizes: &'a [usize],
    /// For each dimension, outermost first, its index in `sizes`.
    pub axes: &'a [usize],
    /// The shape of the tensor, whose elements are in the order of `axes`.
    pub shape: &'a [usize],
}

impl Dataset {
    /// Reads the object with this header, unless it is not a dataset.
    pub(super) fn read(image: &Image<'_>, header: &ObjectHeader, path: &str) -> Result<Option<Self>> {
        if header.find(kind::LAYOUT).is_none() {
            return Ok(None);
        }
        let shape = match header.body(kind::DATASPACE).map(|body| dataspace::sizes(body)) {
            Some(Ok(sizes)) => sizes,
            Some(Err(Hdf5Error::Unsupported(_))) | None => None,
            Some(Err(error)) => return Err(error),
        };
        let content = match &shape {
            Some(shape) => content(image, header, shape),
            None => Err(unsupported("has no shape")),
        };
        let content = match content {
            Err(Hdf5Error::Unsupported(reason)) => Content::Unreadable(format!("{reason}; {REMEDY}")),
            Err(Hdf5Error::Packed(reason)) => Content::Unreadable(format!("{reason}; {PACKED_REMEDY}")),
            content => content?,
        };
        let shape = shape.unwrap_or_default();
        image.keep(path.len() + size_of::<Self>() + shape.len() * size_of::<usize>())?;
        Ok(Some(Self {
            path: path.to_owned(),
            shape,
            content,
        }))
    }

    /// The type of the elements, if they are numbers that can be read.
    pub fn dtype(&self) -> Option<Dtype> {
        match &self.content {
            Content::Contiguous(dtype, _) | Content::Chunked(dtype, _) => Some(*dtype),
            Content::Unreadable(_) => None,
        }
    }

    /// Returns the tensor with the dataset's own shape.
    ///
    /// # Errors
    /// As [`Dataset::view`].
    pub fn entry(&self, name: &str) -> std::result::Result<TensorEntry, CheckpointError> {
        let axes: Vec<usize> = (0..self.shape.len()).collect();
        self.view(
            name,
            View {
                sizes: &self.shape,
                axes: &axes,
                shape: &self.shape,
            },
        )
    }

    /// Returns the tensor of this view.
    ///
    /// # Errors
    /// [`CheckpointError::Unreadable`] if the elements are not numbers, or are stored in a way that is not read;
    /// [`CheckpointError::Tensor`] if the view does not fit the dataset or its storage.
    pub fn view(&self, name: &str, view: View<'_>) -> std::result::Result<TensorEntry, CheckpointError> {
        let strides = view.strides(&self.shape);
        let strides = strides.ok_or_else(|| super::super::entry::refused(&self.path, "has another shape"))?;
        let sizes: Vec<usize> = view.axes.iter().map(|&axis| view.sizes[axis]).collect();
        let seen = StorageView {
            offset: 0,
            sizes: &sizes,
            strides: Some(&strides),
        };
        let mut entry = match &self.content {
            Content::Contiguous(dtype, storage) => TensorEntry::new(name, *dtype, seen, *storage)?,
            Content::Chunked(dtype, chunks) => {
                let bytes = element_count(&self.shape).unwrap_or(0) * item_bytes(*dtype).unwrap_or(1);
                let contiguous = Storage {
                    start: chunks.table.iter().map(|chunk| chunk.start).min().unwrap_or(0),
                    bytes: bytes as u64,
                    encoding: Encoding::default(),
                };
                let mut entry = TensorEntry::new(name, *dtype, seen, contiguous)?;
                entry.layout.chunks = Some(Arc::clone(chunks));
                entry
            }
            Content::Unreadable(reason) => {
                return Err(CheckpointError::Unreadable {
                    name: excerpt(&self.path),
                    reason: reason.clone(),
                });
            }
        };
        entry.shape = view.shape.to_vec();
        Ok(entry)
    }
}

impl View<'_> {
    /// Returns the stride of each dimension in a dataset of this shape, or `None` if the view is not of all its elements.
    fn strides(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let mut strides = vec![0; self.sizes.len()];
        let mut stride = 1usize;
        for (at, &size) in strides.iter_mut().zip(self.sizes).rev() {
            *at = stride;
            stride = stride.checked_mul(size)?;
        }
        let mut axes = self.axes.to_vec();
        axes.sort_unstable();
        let is_whole = axes.into_iter().eq(0..self.sizes.len())
            && divides(self.sizes, shape)
            && element_count(self.shape) == Some(stride);
        is_whole.then(|| self.axes.iter().map(|&axis| strides[axis]).collect())
    }
}

/// Returns true if `sizes` are those of `shape`, some divided into several. Sizes of 1 may be left out or added.
fn divides(sizes: &[usize], shape: &[usize]) -> bool {
    let mut sizes = sizes.iter().copied().filter(|&size| size != 1);
    for whole in shape.iter().copied().filter(|&size| size != 1) {
        let mut product = 1usize;
        while product != whole {
            match sizes.next().and_then(|size| product.checked_mul(size)) {
                Some(next) if next <= whole => product = next,
                _ => return false,
            }
        }
    }
    sizes.next().is_none()
}

/// Finds the elements.
fn content(image: &Image<'_>, header: &ObjectHeader, shape: &[usize]) -> Result<Content> {
    let dtype = dtype(image, header)?;
    if shape.len() > RANK_MAX {
        return Err(unsupported("has too many dimensions"));
    }
    if header.find(kind::EXTERNAL_FILES).is_some() {
        return Err(unsupported("is stored in another file"));
    }
    let item = item_bytes(dtype).unwrap_or(1);
    let bytes = element_count(shape).and_then(|count| count.checked_mul(item));
    let bytes = bytes.ok_or_else(|| damaged("a dataset has too many elements"))? as u64;
    let layout = header.find(kind::LAYOUT).filter(|layout| !layout.is_shared);
    let layout = Layout::parse(layout.ok_or_else(|| damaged("a dataset has no layout"))?)?;
    match layout {
        Layout::Contiguous { address: None, .. } if bytes > 0 => Err(unsupported("was never written")),
        Layout::Contiguous { address, bytes: stored } => {
            let address = address.unwrap_or(0);
            if bytes > stored || !image.contains(address, bytes) {
                return Err(damaged("a dataset is longer than its place in the file"));
            }
            Ok(Content::Contiguous(
                dtype,
                Storage {
                    start: image.storage.start + address,
                    bytes,
                    encoding: image.storage.encoding,
                },
            ))
        }
        Layout::Chunked(layout) => {
            if layout.item != item {
                return Err(damaged("a dataset's chunks do not fit its type"));
            }
            let chunks = chunked(image, header, &layout, shape)?;
            Ok(Content::Chunked(
                dtype,
                Arc::new(shifted(chunks, item, &image.storage)?),
            ))
        }
    }
}

fn dtype(image: &Image<'_>, header: &ObjectHeader) -> Result<Dtype> {
    let message = header.find(kind::DATATYPE);
    let message = message.ok_or_else(|| damaged("a dataset has no type"))?;
    match Datatype::of_message(image, message)?.class {
        Class::Number(dtype) => Ok(dtype),
        // Keras says so in an attribute.
        Class::Opaque2 => {
            let attributes = attributes(image, header)?;
            let expected = Attribute::Text("bfloat16".into());
            let is_bf16 = attributes
                .iter()
                .any(|(name, value)| name == "dtype" && *value == expected);
            is_bf16
                .then_some(Dtype::BF16)
                .ok_or_else(|| unsupported("holds opaque bytes"))
        }
        Class::BigEndian => Err(unsupported("holds big-endian numbers")),
        Class::FixedText | Class::VariableText => Err(unsupported("holds text")),
        Class::Other(what) => Err(unsupported(format!("holds {what}"))),
    }
}

fn chunked(image: &Image<'_>, header: &ObjectHeader, layout: &ChunkedLayout, shape: &[usize]) -> Result<Chunks> {
    if layout.sizes.len() != shape.len() || shape.is_empty() || layout.sizes.contains(&0) {
        return Err(damaged("a dataset's chunks do not fit its shape"));
    }
    let filters = match header.find(kind::FILTERS) {
        None => Filters::default(),
        Some(message) if message.is_shared => return Err(unsupported("has filters in a table of shared messages")),
        Some(message) => filters::parse(&message.body)?,
    };
    let chunk_bytes = element_count(&layout.sizes).and_then(|count| count.checked_mul(layout.item));
    if filters.shuffle.is_some() && chunk_bytes.is_none_or(|bytes| bytes > SHUFFLED_BYTES_MAX) {
        return Err(unsupported(format!(
            "has shuffled chunks of more than {} MiB",
            SHUFFLED_BYTES_MAX >> 20
        )));
    }
    Ok(Chunks {
        table: chunk_index::chunks(image, layout, shape, filters)?,
        sizes: shape.to_vec(),
        chunk_sizes: layout.sizes.clone(),
        filters,
        edges_are_plain: layout.edges_are_plain,
    })
}

/// Returns the chunks with offsets in the source, after checking that they can be as long as they should. Each is decoded as
/// a whole, even if most of it is outside of the dataset.
fn shifted(mut chunks: Chunks, item: usize, file: &Storage) -> Result<Chunks> {
    if file.encoding.packed.is_some() {
        return Err(Hdf5Error::Packed("is in chunks inside a compressed archive"));
    }
    let stored: u64 = chunks.table.iter().map(|chunk| chunk.bytes).sum();
    let elements = element_count(&chunks.chunk_sizes).and_then(|count| count.checked_mul(chunks.table.len()));
    let bytes = elements
        .and_then(|count| count.checked_mul(item))
        .map(|bytes| bytes as u64);
    if bytes.is_none_or(|bytes| bytes > INFLATED_BYTES_MAX.min(stored.saturating_mul(INFLATION_MAX))) {
        return Err(damaged("a dataset is longer than its chunks can be"));
    }
    for chunk in &mut chunks.table {
        chunk.start += file.start;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_may_divide_and_permute_dimensions() {
        // A Dense layer on 2x3x5 features in Keras's order, as PyTorch flattens them.
        let view = View {
            sizes: &[2, 3, 5, 4],
            axes: &[3, 2, 0, 1],
            shape: &[4, 30],
        };
        assert_eq!(view.strides(&[30, 4]), Some(vec![1, 4, 60, 20]));
        assert_eq!(view.strides(&[4, 30]), None);
        assert_eq!(
            View {
                axes: &[3, 2, 0, 0],
                ..view
            }
            .strides(&[30, 4]),
            None
        );
        assert_eq!(
            View {
                axes: &[3, 2, 0],
                ..view
            }
            .strides(&[30, 4]),
            None
        );
        assert_eq!(
            View {
                shape: &[5, 30],
                ..view
            }
            .strides(&[30, 4]),
            None
        );
    }

    #[test]
    fn sizes_divide_a_shape_in_order() {
        for (sizes, shape, expected) in [
            (&[2, 3, 4][..], &[6, 4][..], true),
            (&[6, 4], &[6, 4], true),
            (&[4, 6], &[6, 4], false),
            (&[6, 2], &[6, 4], false),
            (&[1, 6, 1, 4, 1], &[6, 4], true),
            (&[1, 1], &[1, 1], true),
            (&[6], &[1, 6], true),
            (&[0, 3], &[0, 3], true),
            (&[3, 0], &[0, 3], false),
            (&[], &[], true),
            (&[2], &[], false),
        ] {
            assert_eq!(divides(sizes, shape), expected, "{sizes:?} {shape:?}");
        }
    }
}
