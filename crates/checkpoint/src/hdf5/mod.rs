//! Reads HDF5 files, as Keras writes them with h5py: the container alone, not what Keras means by it.
//!
//! Sections are those of the HDF5 File Format Specification, version 3.0. Checksums are not verified: every field is
//! checked against the file's length, which holds for a forged file as well. Symbolic links, links to other files and
//! datasets in other files are not followed.

mod attribute;
mod btree_v2;
mod chunk_index;
mod dataset;
mod dataspace;
mod datatype;
mod error;
mod filters;
mod fractal_heap;
mod global_heap;
mod image;
mod layout;
mod link;
mod listing;
mod object_header;
mod superblock;
mod symbol_table;

use std::collections::HashSet;

pub(super) use attribute::Attribute;
pub(super) use dataset::{Dataset, View};
pub use listing::Hdf5Listing;

use super::entry::{Storage, TENSORS_MAX};
use super::error::CheckpointError;
use super::source::Source;
use error::{Result, unsupported};
use global_heap::GlobalHeap;
use image::Image;
use object_header::ObjectHeader;

/// Limit of the nested groups. Keras 3 nests one group for each container of layers.
const DEPTH_MAX: usize = 32;
/// Limit of the groups. Keras has one for each layer, and one for its variables.
const GROUPS_MAX: usize = 2 * TENSORS_MAX;
/// Limit of the bytes of a path.
const PATH_BYTES_MAX: usize = 512;

/// The groups, attributes and datasets of an HDF5 file. No dataset was read.
#[derive(Debug, Default)]
pub(super) struct Hdf5 {
    groups: Vec<Group>,
    datasets: Vec<Dataset>,
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    /// The names of the groups that lead to it, joined by slashes. The root's is empty.
    pub path: String,
    /// Attributes of text, by name.
    pub attributes: Vec<(String, Attribute)>,
}

impl Hdf5 {
    /// Reads the structure of the HDF5 file that is in this range of the source, or in what the range inflates to.
    ///
    /// # Errors
    /// [`CheckpointError::Unreadable`] if the file is damaged, or uses a part of HDF5 that Keras does not.
    pub fn open(source: &Source, storage: &Storage) -> std::result::Result<Self, CheckpointError> {
        let image = Image::open(source, storage)?;
        let mut walk = Walk {
            image: &image,
            storage,
            heap: GlobalHeap::default(),
            seen: HashSet::new(),
            file: Self::default(),
        };
        let root = superblock::root(&image)?;
        walk.object(root, String::new(), 0)?;
        Ok(walk.file)
    }

    /// All groups, depth first in the file's order of links; the root is the first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// All datasets, depth first in the file's order of links.
    pub fn datasets(&self) -> &[Dataset] {
        &self.datasets
    }

    /// Returns the attributes of the group with this path; none if there is no such group.
    pub fn attributes(&self, path: &str) -> &[(String, Attribute)] {
        let group = self.groups.iter().find(|group| group.path == path);
        group.map_or(&[], |group| &group.attributes)
    }
}

/// Visits the objects of a file.
struct Walk<'a> {
    image: &'a Image<'a>,
    storage: &'a Storage,
    heap: GlobalHeap,
    /// The addresses of groups that were visited. A second link to a group is not followed, so that cycles end.
    seen: HashSet<u64>,
    file: Hdf5,
}

impl Walk<'_> {
    fn object(&mut self, address: u64, path: String, depth: usize) -> Result<()> {
        if self.seen.contains(&address) {
            return Ok(());
        }
        let header = ObjectHeader::read(self.image, address)?;
        if let Some(dataset) = Dataset::read(self.image, &self.heap, &header, &path, self.storage)? {
            if self.file.datasets.len() == TENSORS_MAX {
                return Err(unsupported(format!("has more than {TENSORS_MAX} datasets")));
            }
            self.file.datasets.push(dataset);
            return Ok(());
        }
        let Some(links) = link::links(self.image, &header)? else {
            // A committed type.
            return Ok(());
        };
        if self.file.groups.len() == GROUPS_MAX || depth == DEPTH_MAX {
            return Err(unsupported("has too many groups, or too deeply nested ones"));
        }
        self.seen.insert(address);
        self.image.keep(path.len() + size_of::<Group>())?;
        let attributes = attribute::attributes(self.image, &self.heap, &header)?;
        drop(header);
        self.file.groups.push(Group {
            path: path.clone(),
            attributes,
        });
        for link in links {
            let separator = if path.is_empty() { "" } else { "/" };
            let path = format!("{path}{separator}{}", link.name);
            if path.len() > PATH_BYTES_MAX {
                return Err(unsupported("has too long a name"));
            }
            self.object(link.header, path, depth + 1)?;
        }
        Ok(())
    }
}
