//! A matrix in NumPy's format 1.0 (numpy.lib.format): a header of 128 bytes, then rows of little-endian float32.

use std::io::{self, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::new_file::NewFile;

/// Magic, version, length and dictionary; the format asks for a multiple of 64.
const HEADER_BYTES: usize = 128;
const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// A matrix that is written row by row and appears whole or not at all.
pub(super) struct NpyFile {
    file: NewFile,
    rows: usize,
    columns: usize,
}

impl NpyFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = NewFile::create(path)?;
        // Written at the end, when the number of rows is known.
        file.write_all(&[0; HEADER_BYTES])?;
        Ok(Self {
            file,
            rows: 0,
            columns: 0,
        })
    }

    /// Appends a row, which must be as long as those before.
    pub fn push(&mut self, row: &[f32]) -> io::Result<()> {
        if self.rows > 0 && row.len() != self.columns {
            let reason = format!("a row has {} numbers, those before have {}", row.len(), self.columns);
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
        self.columns = row.len();
        self.rows += 1;
        for value in row {
            self.file.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    }

    /// Makes the matrix durable and gives it its name.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(self.rows, self.columns))?;
        self.file.finish()
    }
}

fn header(rows: usize, columns: usize) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend((HEADER_BYTES as u16 - 10).to_le_bytes());
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    header.extend(dictionary.as_bytes());
    header.resize(HEADER_BYTES - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpys() {
        // What numpy.save writes of a float32 array of 3 rows and 2 columns.
        let mut expected =
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }".to_vec();
        expected.resize(127, b' ');
        expected.push(b'\n');
        assert_eq!(header(3, 2), expected);
        assert_eq!(header(usize::MAX, usize::MAX).len(), HEADER_BYTES);
    }
}
