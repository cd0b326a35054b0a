//! A zip archive around a pickle, so that a target need not find the archive's structure first.

/// Storages `0` to `9` of these zero bytes.
const STORAGE_BYTES: usize = 4096;

/// What torch.save would make of this pickle.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    let mut entries = 0u16;
    let mut add = |name: &str, header: usize, bytes: usize| {
        // Signature, versions, flags, method, time, checksum, sizes, lengths of name, extra field and comment, disk,
        // attributes, place of the local header.
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([(bytes as u32).to_le_bytes(), (bytes as u32).to_le_bytes()].concat());
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend((header as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        entries += 1;
    };
    let mut local = |content: &[u8]| {
        let at = file.len();
        file.extend(b"PK\x03\x04");
        file.extend([0; 26]);
        file.extend(content);
        at
    };
    add("a/data.pkl", local(pickle), pickle.len());
    let storage = local(&[0; STORAGE_BYTES]);
    for key in 0..10 {
        add(&format!("a/data/{key}"), storage, STORAGE_BYTES);
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([entries.to_le_bytes(), entries.to_le_bytes()].concat());
    file.extend([(directory.len() as u32).to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_pickle_is_read_through_it() {
        let file = std::fs::read("../tests/fixtures/checkpoints/zip_linear.pth").unwrap();
        let start = file.windows(2).position(|bytes| bytes == b"\x80\x02").unwrap();
        // A pickle ends by itself; what follows does not matter.
        assert!(crate::check(&archive(&file[start..])));
    }
}
