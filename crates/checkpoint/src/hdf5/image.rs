//! The bytes of an HDF5 file, within limits on what is read and kept of its metadata.

use std::cell::Cell;
use std::io::Read as _;

use bytes::Bytes;

use super::super::entry::Storage;
use super::super::source::Source;
use super::super::zip::content;
use super::error::{Hdf5Error, Result, damaged, unsupported};
use super::global_heap::GlobalHeap;

/// Limit of the bytes of metadata that are read, each as often as it is read. It bounds the time that structures take
/// which overlap or point to each other. A VGG16 of Keras has 100 kB.
const READ_BYTES_MAX: u64 = 64 << 20;
/// What a read counts beyond its bytes.
const READ_COST: u64 = 512;
/// Limit of the memory for names, attributes and lists of chunks.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// Limit of the bytes of one structure.
const STRUCTURE_BYTES_MAX: u64 = 2 << 20;
/// Limit of the bytes that a deflated member of a zip archive inflates to. Metadata is read in any order, so the member is
/// in memory while its metadata is read.
const INFLATED_BYTES_MAX: u64 = 64 << 20;
/// It inflates to at most this many times its own bytes, or to 8 MiB. Weights inflate to little more than they are.
const INFLATION_MAX: u64 = 4;
const INFLATED_BYTES_FREE: u64 = 8 << 20;

/// The address of what does not exist (section I.C).
const UNDEFINED: u64 = u64::MAX;

/// An HDF5 file in a source. Addresses count from the file's start.
pub(super) struct Image<'a> {
    content: Content<'a>,
    length: u64,
    /// Where the file is in the source.
    pub storage: Storage,
    /// The texts of variable length.
    pub heap: GlobalHeap,
    read_left: Cell<u64>,
    kept_left: Cell<usize>,
}

enum Content<'a> {
    Plain { source: &'a Source, start: u64 },
    Inflated(Bytes),
}

impl<'a> Image<'a> {
    /// Opens the file that is in this range of the source, or in what the range inflates to.
    pub fn open(source: &'a Source, storage: &Storage) -> Result<Self> {
        let packed = storage.encoding.packed.map_or(0, |packed| packed.bytes);
        let inflated_max = INFLATED_BYTES_MAX.min(INFLATED_BYTES_FREE.max(packed.saturating_mul(INFLATION_MAX)));
        let content = if storage.encoding.packed.is_none() {
            Content::Plain {
                source,
                start: storage.start,
            }
        } else if storage.bytes <= inflated_max {
            let mut bytes = Vec::with_capacity(storage.bytes as usize);
            content(source, storage).take(storage.bytes).read_to_end(&mut bytes)?;
            Content::Inflated(bytes.into())
        } else {
            return Err(Hdf5Error::Packed("is too large for a compressed archive"));
        };
        let length = match &content {
            Content::Plain { .. } => storage.bytes,
            Content::Inflated(bytes) => bytes.len() as u64,
        };
        Ok(Self {
            content,
            length,
            storage: *storage,
            heap: GlobalHeap::default(),
            read_left: Cell::new(READ_BYTES_MAX),
            kept_left: Cell::new(KEPT_BYTES_MAX),
        })
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns true if this range is in the file.
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address.checked_add(bytes).is_some_and(|end| end <= self.length)
    }

    /// Returns exactly these bytes of metadata.
    pub fn read(&self, address: u64, bytes: u64) -> Result<Bytes> {
        if !self.contains(address, bytes) {
            return Err(damaged("it ends before an object to which it points"));
        }
        if bytes > STRUCTURE_BYTES_MAX {
            return Err(unsupported(format!("has a structure of {bytes} bytes")));
        }
        let left = self.read_left.get().checked_sub(bytes + READ_COST);
        self.read_left
            .set(left.ok_or_else(|| unsupported("has too many objects, or objects that are read too often"))?);
        match &self.content {
            Content::Plain { source, start } => Ok(source.read(start + address, bytes)?),
            Content::Inflated(all) => Ok(all.slice(address as usize..(address + bytes) as usize)),
        }
    }

    /// Returns these bytes of metadata, or those before the end of the file.
    pub fn read_up_to(&self, address: u64, bytes: u64) -> Result<Bytes> {
        self.read(address, bytes.min(self.length.saturating_sub(address)))
    }

    /// Counts memory that is kept until the file is closed.
    pub fn keep(&self, bytes: usize) -> Result<()> {
        let left = self.kept_left.get().checked_sub(bytes);
        self.kept_left
            .set(left.ok_or_else(|| unsupported("has too many objects, or too long names and attributes"))?);
        Ok(())
    }
}

/// Returns the address unless it is that of what does not exist.
pub(super) fn defined(address: u64) -> Option<u64> {
    (address != UNDEFINED).then_some(address)
}
