//! Wraps a pickle in torch.save's zip archive, and a configuration in Keras's, so that a fuzzer need not find the archive's
//! structure first.

/// The size of each of the storages `0` to `9`, which are zeros.
const STORAGE_BYTES: usize = 4096;

/// Returns the archive that torch.save would write for this pickle and ten storages.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    let header = archive.add_content(pickle);
    archive.add_entry("a/data.pkl", header, pickle.len());
    let storage = archive.add_content(&[0; STORAGE_BYTES]);
    for key in 0..10 {
        archive.add_entry(&format!("a/data/{key}"), storage, STORAGE_BYTES);
    }
    archive.finish()
}

/// Returns a `.keras` archive of this configuration and these weights.
pub fn keras_archive(config: &[u8], weights: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for (name, content) in [("config.json", config), ("model.weights.h5", weights)] {
        let header = archive.add_content(content);
        archive.add_entry(name, header, content.len());
    }
    archive.finish()
}

#[derive(Default)]
struct Archive {
    file: Vec<u8>,
    directory: Vec<u8>,
    entries: u16,
}

impl Archive {
    /// Adds a local header and content, and returns the header's offset.
    fn add_content(&mut self, content: &[u8]) -> usize {
        let header = self.file.len();
        self.file.extend(b"PK\x03\x04");
        self.file.extend([0; 26]);
        self.file.extend(content);
        header
    }

    /// Adds an entry of the directory for content of `bytes` bytes.
    fn add_entry(&mut self, name: &str, header: usize, bytes: usize) {
        // Signature, versions, flags, method, time, checksum, sizes, lengths of name, extra field and comment, disk,
        // attributes, offset of the local header.
        let directory = &mut self.directory;
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([(bytes as u32).to_le_bytes(), (bytes as u32).to_le_bytes()].concat());
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend((header as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        self.entries += 1;
    }

    /// Adds the directory and the end record.
    fn finish(self) -> Vec<u8> {
        let mut file = self.file;
        let start = file.len() as u32;
        file.extend(&self.directory);
        file.extend(b"PK\x05\x06\0\0\0\0");
        file.extend([self.entries.to_le_bytes(), self.entries.to_le_bytes()].concat());
        file.extend([(self.directory.len() as u32).to_le_bytes(), start.to_le_bytes()].concat());
        file.extend([0; 2]);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_pickle_is_read_from_the_archive() {
        let file = std::fs::read("../tests/fixtures/checkpoints/zip_linear.pth").unwrap();
        let start = file.windows(2).position(|bytes| bytes == b"\x80\x02").unwrap();
        // The bytes after the end of a pickle are ignored.
        assert!(crate::check(&archive(&file[start..])));
    }
}
