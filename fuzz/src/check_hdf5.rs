//! What holds for any bytes read as an HDF5 file: no panic, bounded memory, and datasets that match their entries.

use bytes::Bytes;
use headswap_checkpoint::{CheckpointError, Hdf5Listing, HostTensor, TensorEntry};

use crate::allocator::measure;

/// Limit of the memory beyond the input and the tensor, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit of the datasets that are read of one input.
const DATASETS_MAX: usize = 64;
/// Limit of the elements of a tensor that is read. Larger ones would only be slow.
const ELEMENTS_MAX: usize = 1 << 20;

/// Opens the bytes and reads their datasets, as they are and with their dimensions reversed. Returns true if the bytes are
/// an HDF5 file.
pub fn check_hdf5(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let (peak, opened) = measure(|| Hdf5Listing::open(bytes.clone()));
    assert!(peak <= BYTES_MAX, "opening {} bytes took {peak}", bytes.len());
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            check_message(&error);
            return false;
        }
    };
    let text_bytes: usize = file.texts().iter().map(|(_, _, text)| text.len()).sum();
    assert!(text_bytes <= BYTES_MAX, "{text_bytes} bytes of text");
    for index in 0..file.dtypes().len().min(DATASETS_MAX) {
        let forward = read(&file, file.tensor(index));
        let reversed = read(&file, file.reversed(index));
        if let (Some(forward), Some(reversed)) = (forward, reversed) {
            check_reversal(&forward, &reversed);
        }
    }
    true
}

fn read(file: &Hdf5Listing, entry: Result<TensorEntry, CheckpointError>) -> Option<HostTensor> {
    let entry = match entry {
        Ok(entry) => entry,
        Err(error) => {
            check_message(&error);
            return None;
        }
    };
    if entry.elements() > ELEMENTS_MAX {
        return None;
    }
    let (peak, read) = measure(|| file.read(&entry));
    let bytes = entry.elements() * size_of::<f32>();
    assert!(peak <= bytes + BYTES_MAX, "{} of {bytes} bytes took {peak}", entry.name);
    match read {
        Ok(tensor) => {
            assert_eq!(tensor.shape, entry.shape);
            assert_eq!(tensor.values.len(), entry.elements());
            Some(tensor)
        }
        Err(error) => {
            check_message(&error);
            None
        }
    }
}

/// Checks that both tensors have the same numbers, in the reverse order of dimensions.
fn check_reversal(forward: &HostTensor, reversed: &HostTensor) {
    let mut index = vec![0; forward.shape.len()];
    for value in &forward.values {
        let place = index
            .iter()
            .zip(&forward.shape)
            .rev()
            .fold(0, |place, (at, size)| place * size + at);
        assert_eq!(
            reversed.values[place].to_bits(),
            value.to_bits(),
            "{:?} {index:?}",
            forward.shape
        );
        for (at, size) in index.iter_mut().zip(&forward.shape).rev() {
            *at += 1;
            if *at < *size {
                break;
            }
            *at = 0;
        }
    }
}

fn check_message(error: &CheckpointError) {
    let message = error.to_string();
    assert!(
        message.len() < 2000 && !message.contains(char::is_control),
        "{message:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_read() {
        let mut seeds = 0;
        for entry in std::fs::read_dir("../tests/fixtures/hdf5").unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "h5") {
                assert!(check_hdf5(&std::fs::read(&path).unwrap()), "{}", path.display());
                seeds += 1;
            }
        }
        assert!(seeds >= 5, "{seeds}");
    }
}
