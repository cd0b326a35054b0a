//! The superblock: where the root group is (section II.A).

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::image::Image;

const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";
/// The longest superblock that is known.
const BYTES_MAX: u64 = 128;

/// Returns the address of the root group's object header.
pub(super) fn root(image: &Image<'_>) -> Result<u64> {
    let bytes = image.read_up_to(0, BYTES_MAX)?;
    let mut cursor = Cursor::new(&bytes, 0);
    if cursor.array() != Some(*SIGNATURE) {
        return Err(damaged("it does not start as HDF5 does"));
    }
    let fields = match cursor.array().unwrap_or_default() {
        [version @ (0 | 1)] => first_versions(cursor, version),
        [2 | 3] => later_versions(cursor),
        [version] => return Err(unsupported(format!("has a superblock of version {version}"))),
    };
    let (widths, base, root) = fields.ok_or_else(|| damaged("its superblock is cut off"))?;
    if widths != [8, 8] {
        return Err(unsupported(format!("has addresses of {} bytes", widths[0])));
    }
    if base != 0 {
        return Err(unsupported("has a user block"));
    }
    Ok(root)
}

/// Returns the widths of offsets and lengths, the base address, and that of the root group.
fn first_versions(mut cursor: Cursor<'_>, version: u8) -> Option<([u8; 2], u64, u64)> {
    let _versions = cursor.take(4)?;
    let widths = cursor.array()?;
    let _ranks_and_flags = cursor.take(if version == 0 { 9 } else { 13 })?;
    let base = cursor.u64()?;
    let _free_space_end_driver = cursor.take(24)?;
    let _name = cursor.u64()?;
    Some((widths, base, cursor.u64()?))
}

fn later_versions(mut cursor: Cursor<'_>) -> Option<([u8; 2], u64, u64)> {
    let widths = cursor.array()?;
    let _flags = cursor.take(1)?;
    let base = cursor.u64()?;
    let _extension_and_end = cursor.take(16)?;
    Some((widths, base, cursor.u64()?))
}
