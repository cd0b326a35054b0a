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
        if let Some(dataset) = Dataset::read(self.image, &header, &path)? {
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
        let attributes = attribute::attributes(self.image, &header)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use flate2::write::DeflateEncoder;

    use super::super::entry::Encoding;
    use super::super::stream::Packed;
    use super::super::throttle::Throttle;
    use super::*;

    const BEFORE: &[u8] = b"the bytes of an archive before its member";

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(format!("../../tests/fixtures/hdf5/{name}")).unwrap()
    }

    /// Returns the source and the range of a member of an archive.
    fn member(file: &[u8], is_deflated: bool) -> (Source, Storage) {
        let mut encoding = Encoding::default();
        let mut bytes = BEFORE.to_vec();
        if is_deflated {
            let mut encoder = DeflateEncoder::new(bytes, flate2::Compression::best());
            encoder.write_all(file).unwrap();
            bytes = encoder.finish().unwrap();
            encoding.packed = Some(Packed {
                start: BEFORE.len() as u64,
                bytes: (bytes.len() - BEFORE.len()) as u64,
            });
        } else {
            bytes.extend(file);
        }
        let storage = Storage {
            start: if is_deflated { 0 } else { BEFORE.len() as u64 },
            bytes: file.len() as u64,
            encoding,
        };
        (Source::Memory(bytes.into()), storage)
    }

    /// Returns the last value of each dataset, or the error.
    fn last_values(file: &Hdf5, source: &Source) -> Vec<(String, std::result::Result<f32, String>)> {
        let last_value = |dataset: &Dataset| {
            let tensor = dataset.entry("x")?.read(source, &Throttle::off())?;
            Ok(tensor.values[tensor.values.len() - 1])
        };
        let last_text = |dataset| last_value(dataset).map_err(|error: CheckpointError| error.to_string());
        let datasets = file.datasets().iter();
        datasets
            .map(|dataset| (dataset.path.clone(), last_text(dataset)))
            .collect()
    }

    #[test]
    fn a_file_is_read_inside_of_an_archive() {
        for is_deflated in [false, true] {
            let (source, storage) = member(&fixture("keras2.h5"), is_deflated);
            let file = Hdf5::open(&source, &storage).unwrap();
            let values = last_values(&file, &source);
            let dense = "model_weights/dense_1/dense_1";
            let expected = [
                (format!("{dense}/bias:0"), Ok((3.0 * 7.0 - 127.0) / 64.0)),
                (format!("{dense}/kernel:0"), Ok((23.0 * 7.0 - 127.0) / 64.0)),
            ];
            assert_eq!(values, expected);
            let names = vec!["dense_1/kernel:0".to_owned(), "dense_1/bias:0".to_owned()];
            let attributes = file.attributes("model_weights/dense_1");
            assert_eq!(attributes, [("weight_names".to_owned(), Attribute::Texts(names))]);
            assert!(file.attributes("model_weights/dense_2").is_empty());
            let paths: Vec<&str> = file.groups().iter().map(|group| group.path.as_str()).collect();
            assert_eq!(
                paths,
                [
                    "",
                    "model_weights",
                    "model_weights/dense_1",
                    dense,
                    "model_weights/flatten"
                ]
            );
        }
    }

    #[test]
    fn chunks_are_read_inside_of_an_archive_unless_it_is_compressed() {
        let (source, storage) = member(&fixture("chunks.h5"), false);
        let file = Hdf5::open(&source, &storage).unwrap();
        assert!(last_values(&file, &source).iter().all(|(_, value)| value.is_ok()));
        let (source, storage) = member(&fixture("chunks.h5"), true);
        let file = Hdf5::open(&source, &storage).unwrap();
        for (path, value) in last_values(&file, &source) {
            let expected = "is in chunks inside a compressed archive; unpack that with `unzip` and pack it again with \
                            `zip -0`";
            assert_eq!(value, Err(format!("{path} {expected}")));
        }
    }

    #[test]
    fn a_large_file_is_refused_inside_of_a_compressed_archive() {
        let (source, mut storage) = member(&fixture("keras2.h5"), true);
        storage.bytes = 65 << 20;
        let error = Hdf5::open(&source, &storage).unwrap_err().to_string();
        assert!(
            error.starts_with("the HDF5 file is too large for a compressed archive; unpack"),
            "{error}"
        );
    }
}
