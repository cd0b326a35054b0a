//! The message that says a dataset's or an attribute's shape (section IV.A.2.b).

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};

/// Returns the sizes, outermost dimension first: none for a scalar. `None` if there are no elements at all.
pub(super) fn sizes(body: &[u8]) -> Result<Option<Vec<usize>>> {
    let mut cursor = Cursor::new(body, 0);
    let Some([version, rank, _flags, class]) = cursor.array() else {
        return Err(damaged("a dataspace is cut off"));
    };
    let is_null = match version {
        1 => {
            let _reserved = cursor.take(4);
            false
        }
        2 => class == 2,
        _ => return Err(unsupported(format!("has a dataspace of version {version}"))),
    };
    if is_null {
        return Ok(None);
    }
    let sizes = (0..rank).map(|_| usize::try_from(cursor.u64()?).ok());
    let sizes: Option<Vec<_>> = sizes.collect();
    Ok(Some(sizes.ok_or_else(|| damaged("a dataspace is cut off"))?))
}
