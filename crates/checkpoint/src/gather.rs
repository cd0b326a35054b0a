//! Reads elements that are spread over a storage, or encoded.

use std::io::{self, Read};

use bytes::Bytes;

use super::entry::{Elements, Encoding, TensorEntry, extent, refused};
use super::error::CheckpointError;
use super::scatter::{Filling, Region, Scatter};
use super::source::Source;
use super::stream::{Latin1, Stream};
use super::throttle::Throttle;

/// Bytes that are decoded at once: a multiple of every element's size.
const BLOCK_BYTES: usize = 64 * 1024;
/// The elements' range is read at once if it is at most this many times as long as the elements, and this much more.
const SPREAD_RATIO_MAX: usize = 4;
const SPREAD_BYTES_MORE: usize = 1024 * 1024;
/// Bytes that are read at once of a longer range.
const WINDOW_BYTES: u64 = 4096;

/// Returns the elements in row-major order, as f32. `strides` are (size, stride) in elements.
pub(super) fn gather(
    entry: &TensorEntry,
    source: &Source,
    elements: Elements,
    strides: &[(usize, usize)],
    throttle: &Throttle,
) -> Result<Vec<f32>, CheckpointError> {
    match Scatter::dense(strides) {
        Some(scatter) => reorder(entry, source, elements, &scatter, throttle),
        None => pick(entry, source, elements, strides),
    }
}

/// Reads a view without gaps: the storage in its own order, block by block.
fn reorder(
    entry: &TensorEntry,
    source: &Source,
    elements: Elements,
    scatter: &Scatter,
    throttle: &Throttle,
) -> Result<Vec<f32>, CheckpointError> {
    let count = entry.elements();
    let sizes = [count / scatter.row_elements(), scatter.row_elements()];
    let region = Region {
        storage: &sizes,
        origin: &[0, 0],
        sizes: &sizes,
    };
    let encoding = entry.layout.encoding;
    let mut filling = Filling::new(count, scatter, elements, throttle);
    let read = decoded(source, entry.layout.start, encoding, (count * elements.bytes) as u64)
        .and_then(|mut reader| filling.read(&region, &mut reader));
    match read {
        Err(error) if encoding == Encoding::default() => Err(error.into()),
        Err(error) => Err(entry.undecodable(error)),
        Ok(()) => Ok(filling.finish()),
    }
}

/// Reads any view, element by element.
fn pick(
    entry: &TensorEntry,
    source: &Source,
    Elements { bytes: item, widen }: Elements,
    strides: &[(usize, usize)],
) -> Result<Vec<f32>, CheckpointError> {
    let (sizes, steps): (Vec<usize>, Vec<usize>) = strides.iter().copied().unzip();
    let count = entry.elements();
    let length = extent(&sizes, &steps).unwrap_or(0) * item;
    let is_dense = length <= SPREAD_RATIO_MAX * count * item + SPREAD_BYTES_MORE;
    let is_plain = entry.layout.encoding == Encoding::default();
    if !is_dense && !is_plain {
        return Err(refused(
            &entry.name,
            "is a view of a much larger storage that is compressed",
        ));
    }
    let mut spread = Spread {
        source,
        start: entry.layout.start,
        length: length as u64,
        window: Bytes::new(),
        window_start: 0,
    };
    if !is_plain {
        let mut bytes = Vec::with_capacity(length);
        decode_blocks(
            source,
            entry.layout.start,
            entry.layout.encoding,
            length as u64,
            |block| {
                bytes.extend_from_slice(block);
            },
        )
        .map_err(|error| entry.undecodable(error))?;
        spread.window = bytes.into();
    } else if is_dense || matches!(source, Source::Memory(_)) {
        spread.window = source.read(entry.layout.start, length as u64)?;
    }
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; sizes.len()];
    let mut at = 0;
    for _ in 0..count {
        widen(spread.item((at * item) as u64, item)?, &mut values);
        for dimension in (0..sizes.len()).rev() {
            index[dimension] += 1;
            at += steps[dimension];
            if index[dimension] < sizes[dimension] {
                break;
            }
            at -= steps[dimension] * sizes[dimension];
            index[dimension] = 0;
        }
    }
    Ok(values)
}

/// The range that the elements are spread over, of which a window is in memory.
struct Spread<'a> {
    source: &'a Source,
    start: u64,
    length: u64,
    window: Bytes,
    window_start: u64,
}

impl Spread<'_> {
    fn item(&mut self, at: u64, bytes: usize) -> io::Result<&[u8]> {
        let end = at + bytes as u64;
        if at < self.window_start || end > self.window_start + self.window.len() as u64 {
            self.window = self.source.read(self.start + at, WINDOW_BYTES.min(self.length - at))?;
            self.window_start = at;
        }
        let start = (at - self.window_start) as usize;
        Ok(&self.window[start..start + bytes])
    }
}

/// Calls `each` with `bytes` decoded bytes from the offset `start`, in blocks. All but the last have a multiple of 16.
pub(super) fn decode_blocks(
    source: &Source,
    start: u64,
    encoding: Encoding,
    bytes: u64,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut reader = decoded(source, start, encoding, bytes)?;
    let mut block = vec![0; BLOCK_BYTES.min(bytes as usize)];
    let mut left = bytes;
    while left > 0 {
        let block = &mut block[..BLOCK_BYTES.min(left as usize)];
        reader.read_exact(block)?;
        each(block);
        left -= block.len() as u64;
    }
    Ok(())
}

/// Returns `bytes` decoded bytes from the offset `start`.
fn decoded(source: &Source, start: u64, encoding: Encoding, bytes: u64) -> io::Result<Box<dyn Read + '_>> {
    let mut stream = match encoding.packed {
        None => Stream::plain(source, 0, source.length()),
        Some(packed) => Stream::inflated(source, packed),
    };
    stream.skip(start)?;
    Ok(match encoding.latin1_bytes {
        None => Box::new(stream.take(bytes)),
        Some(length) => Box::new(Latin1(io::BufReader::new(stream.take(length)))),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use std::io::Write as _;

    use flate2::write::DeflateEncoder;
    use proptest::prelude::*;
    use safetensors::Dtype;

    use super::super::entry::{Storage, StorageView, elements};
    use super::super::stream::Packed;
    use super::*;

    /// Returns the entry of a storage of these sizes whose dimensions are in the order of `axes`.
    fn permuted(sizes: &[usize], axes: &[usize], dtype: Dtype, encoding: Encoding) -> TensorEntry {
        let stride = |axis: usize| sizes[axis + 1..].iter().product::<usize>();
        let strides: Vec<usize> = axes.iter().map(|&axis| stride(axis)).collect();
        let view_sizes: Vec<usize> = axes.iter().map(|&axis| sizes[axis]).collect();
        let view = StorageView {
            offset: 1,
            sizes: &view_sizes,
            strides: Some(&strides),
        };
        let storage = Storage {
            start: 0,
            bytes: ((sizes.iter().product::<usize>() + 1) * dtype.bitsize() / 8) as u64,
            encoding,
        };
        TensorEntry::new("x", dtype, view, storage).unwrap()
    }

    /// Returns one element more than those of the sizes, as stored.
    fn stored(sizes: &[usize], dtype: Dtype) -> Vec<u8> {
        let count = sizes.iter().product::<usize>() + 1;
        let value = |index: usize| (index % 2039) as f32;
        match dtype {
            Dtype::F16 => (0..count)
                .flat_map(|index| half::f16::from_f32(value(index)).to_le_bytes())
                .collect(),
            _ => (0..count).flat_map(|index| value(index).to_le_bytes()).collect(),
        }
    }

    fn pick_all(entry: &TensorEntry, source: &Source) -> Vec<f32> {
        let Some(strides) = &entry.layout.strides else {
            return entry.read(source, &Throttle::off()).unwrap().values;
        };
        let elements = elements(entry.dtype).unwrap();
        pick(entry, source, elements, strides).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_permuted_tensor_is_the_same_read_in_blocks_and_by_element(
            sizes in prop::collection::vec(prop_oneof![1..6_usize, 15..35_usize], 1..5),
            keys in prop::collection::vec(any::<u32>(), 5),
            is_half in any::<bool>(),
            is_deflated in any::<bool>(),
        ) {
            let mut axes: Vec<usize> = (0..sizes.len()).collect();
            axes.sort_by_key(|axis| keys[*axis]);
            let dtype = if is_half { Dtype::F16 } else { Dtype::F32 };
            let plain = stored(&sizes, dtype);
            let expected = pick_all(&permuted(&sizes, &axes, dtype, Encoding::default()), &Source::Memory(plain.clone().into()));
            let mut encoding = Encoding::default();
            let mut bytes = plain;
            if is_deflated {
                let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&bytes).unwrap();
                bytes = encoder.finish().unwrap();
                encoding.packed = Some(Packed { start: 0, bytes: bytes.len() as u64 });
            }
            let entry = permuted(&sizes, &axes, dtype, encoding);
            let read = entry.read(&Source::Memory(bytes.into()), &Throttle::off()).unwrap();
            prop_assert_eq!(read.values, expected);
        }
    }

    #[test]
    fn rows_that_are_longer_than_a_block_are_transposed_in_parts() {
        for sizes in [[3, 300_001], [300_001, 3], [1000, 1000]] {
            let entry = permuted(&sizes, &[1, 0], Dtype::F32, Encoding::default());
            let source = Source::Memory(stored(&sizes, Dtype::F32).into());
            let values = entry.read(&source, &Throttle::off()).unwrap().values;
            assert!(values == pick_all(&entry, &source), "{sizes:?}");
        }
    }

    /// A rate to look at, of a Linear of VGG16 as Keras stores it: `cargo test --release -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn rate_of_a_transposed_linear() {
        let sizes = [25088, 4096];
        let path = std::env::temp_dir().join(format!("headswap-transposed-{}", std::process::id()));
        fs::write(&path, stored(&sizes, Dtype::F32)).unwrap();
        let source = Source::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        for axes in [[0, 1], [1, 0]] {
            let entry = permuted(&sizes, &axes, Dtype::F32, Encoding::default());
            let start = std::time::Instant::now();
            let values = entry.read(&source, &Throttle::off()).unwrap().values;
            let rate = (values.len() * 4) as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!("{axes:?}: {rate:.2} GB/s");
        }
    }

    #[test]
    fn a_view_that_is_spread_over_a_large_file_is_read_through_a_window() {
        let path = std::env::temp_dir().join(format!("headswap-gather-{}", std::process::id()));
        let numbers: Vec<u8> = (0..1 << 20).flat_map(|number| (number as f32).to_le_bytes()).collect();
        fs::write(&path, &numbers).unwrap();
        let on_disk = Source::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let storage = Storage {
            start: 0,
            bytes: numbers.len() as u64,
            encoding: Encoding::default(),
        };
        let view = StorageView {
            offset: 3,
            sizes: &[2, 3, 4],
            strides: Some(&[1, 300_000, 2]),
        };
        let entry = TensorEntry::new("x", Dtype::F32, view, storage).unwrap();
        let in_memory = Source::Memory(numbers.into());
        let read = |source: &Source| entry.read(source, &Throttle::off()).unwrap().values;
        assert_eq!(read(&on_disk), read(&in_memory));
        assert_eq!(read(&on_disk)[..6], [3.0, 5.0, 7.0, 9.0, 300_003.0, 300_005.0]);
    }
}
