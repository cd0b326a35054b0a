//! The message that lists the filters which a dataset's chunks passed (section IV.A.2.l).

use super::super::chunks::Filters;
use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};

/// Returns the filters, if they are those that are read, in the order in which h5py and h5repack apply them.
pub(super) fn parse(body: &[u8]) -> Result<Filters> {
    let ids = ids(body).ok_or_else(|| damaged("a list of filters is cut off"))?;
    let mut filters = Filters::default();
    for (position, id) in ids.into_iter().enumerate() {
        let bit = Some(1 << position.min(31));
        match (id, &filters) {
            (
                2,
                Filters {
                    shuffle: None,
                    deflate: None,
                    checksum: None,
                },
            ) => filters.shuffle = bit,
            (
                1,
                Filters {
                    deflate: None,
                    checksum: None,
                    ..
                },
            ) => filters.deflate = bit,
            (3, Filters { checksum: None, .. }) => filters.checksum = bit,
            (1..=3, _) => return Err(unsupported("passed filters in an unusual order")),
            (4, _) => return Err(unsupported("is compressed with SZIP")),
            (32000, _) => return Err(unsupported("is compressed with LZF")),
            (32001, _) => return Err(unsupported("is compressed with Blosc")),
            (id, _) => return Err(unsupported(format!("is compressed by filter {id}"))),
        }
    }
    Ok(filters)
}

fn ids(body: &[u8]) -> Option<Vec<u16>> {
    let mut cursor = Cursor::new(body, 0);
    let [version, count] = cursor.array()?;
    let _reserved = cursor.take(if version == 1 { 6 } else { 0 })?;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = cursor.u16()?;
        let name_bytes = if version == 1 || id >= 256 { cursor.u16()? } else { 0 };
        let _flags = cursor.u16()?;
        let values = usize::from(cursor.u16()?);
        let name_bytes = usize::from(name_bytes);
        let _name = cursor.take(if version == 1 {
            name_bytes.next_multiple_of(8)
        } else {
            name_bytes
        })?;
        // Version 1 pads an odd number of values.
        let values = if version == 1 {
            values.next_multiple_of(2)
        } else {
            values
        };
        let _values = cursor.take(values * 4)?;
        ids.push(id);
    }
    Some(ids)
}
