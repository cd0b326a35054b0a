//! What holds for any bytes: no panic, bounded memory, and tensors that are as their entries say.

use bytes::Bytes;

use crate::allocator::measure;
use headswap_checkpoint::Checkpoint;

/// Beyond the input, which the caller already holds.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Tensors that are read of one input: one that has thousands of the same would only be slow.
const TENSORS_MAX: usize = 64;

/// Opens the bytes and reads their tensors; whether they were a checkpoint.
pub fn check(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let (peak, opened) = measure(|| Checkpoint::from_bytes(bytes.clone()));
    assert!(peak <= BYTES_MAX, "opening {} bytes took {peak}", bytes.len());
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.len() < 2000 && !message.contains(char::is_control),
                "{message:?}"
            );
            return false;
        }
    };
    for entry in checkpoint.tensors().take(TENSORS_MAX) {
        let (peak, read) = measure(|| checkpoint.read(entry));
        let asked = entry.elements() * size_of::<f32>();
        assert!(peak <= asked + BYTES_MAX, "{} of {asked} bytes took {peak}", entry.name);
        if let Ok(tensor) = read {
            assert_eq!(tensor.shape, entry.shape);
            assert_eq!(tensor.values.len(), entry.elements());
            assert!(tensor.values.iter().all(|value| value.is_finite()));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::archive;

    #[test]
    fn the_seeds_are_read() {
        for entry in std::fs::read_dir("../tests/fixtures/checkpoints").unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = std::fs::read(&path).unwrap();
            let (peak, opened) = measure(|| Checkpoint::from_bytes(bytes.clone().into()));
            let said = opened.map(|checkpoint| checkpoint.tensors().count());
            println!("{name}: {said:?}, {peak} bytes");
            let good = check(&bytes);
            assert_eq!(
                good,
                !name.contains("os_system") && !name.contains("whole_model"),
                "{name}"
            );
        }
    }

    /// Larger than a fuzzer makes them: whatever grows most for its bytes, up to each limit.
    #[test]
    fn hostile_files_of_full_size_stay_within_the_bound() {
        const LARGE: usize = 8 * 1024 * 1024 - 16;
        let many = |part: &[u8]| [b"\x80\x02", &part.repeat(LARGE / part.len())[..], b"."].concat();
        let keys: Vec<u8> = (0..LARGE as u32 / 5)
            .flat_map(|key| [&b"r"[..], &key.to_le_bytes()].concat())
            .collect();
        let text = [
            b"X",
            &(LARGE as u32 / 2).to_le_bytes()[..],
            &vec![b'x'; LARGE / 2][..],
            b"q\0",
        ]
        .concat();
        let pickles = [
            many(b"]"),
            many(b"}"),
            many(b"("),
            many(b"N"),
            many(b"K\0\x85"),
            many(b"ctorch\nSize\n"),
            [b"\x80\x02N", &keys[..], b"."].concat(),
            [b"\x80\x02}", &text[..], &b"h\0h\0s".repeat(LARGE / 20), b"."].concat(),
            [&b"\x80\x02]q\0"[..], &b"h\0a".repeat(LARGE / 3), b"."].concat(),
        ];
        for pickle in &pickles {
            check(&archive(pickle));
            let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";
            check(&[&magic[..], pickle].concat());
        }

        let safetensors =
            |header: String| check(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
        let entry = |index: usize, name: usize| {
            format!(r#""{index:0name$}":{{"dtype":"F32","shape":[0,1,2,3,4,5,6,7],"data_offsets":[0,0]}}"#)
        };
        let entries = |count, name| (0..count).map(|index| entry(index, name)).collect::<Vec<_>>().join(",");
        assert!(safetensors(format!("{{{}}}", entries(4096, 500))));
        assert!(!safetensors(format!("{{{}}}", entries(4097, 5))));
        let escaped = r"\n".repeat(2_000_000);
        assert!(safetensors(format!(r#"{{"__metadata__":{{"labels":"{escaped}"}}}}"#)));
        let pairs = |count| {
            (0..count)
                .map(|index| format!(r#""{index:0400}":"{escaped:.500}""#))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert!(safetensors(format!(r#"{{"__metadata__":{{{}}}}}"#, pairs(4096))));
    }
}
