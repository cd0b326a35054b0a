//! One picture, prepared in several ways.

use std::sync::Arc;

use headswap_spec::Preprocessing;

use crate::decode::{ImageSettings, open};
use crate::error::ImageError;
use crate::prepared::Prepared;

/// Decodes a picture and prepares it for each of `wanted`, in their order; those that differ in their normalisation alone share
/// theirs.
///
/// # Errors
/// [`ImageError`] if it is refused.
pub fn prepare_all(
    bytes: &[u8],
    settings: ImageSettings,
    wanted: &[Preprocessing],
) -> Result<Vec<Arc<Prepared>>, ImageError> {
    let picture = open(bytes, settings)?;
    // What is decoded at a part of its size is decoded apart, so that no head's pictures depend on the other heads.
    let mut distinct = distinct_pictures(wanted);
    distinct.sort_by_key(|preprocessing| picture.is_scaled_for(preprocessing));
    let (whole, scaled) =
        distinct.split_at(distinct.partition_point(|preprocessing| !picture.is_scaled_for(preprocessing)));
    let mut prepared = if whole.is_empty() || scaled.is_empty() {
        picture.prepare(&distinct)?
    } else {
        let mut prepared = picture.prepare(whole)?;
        prepared.extend(open(bytes, settings)?.prepare(scaled)?);
        prepared
    };
    let prepared: Vec<Arc<Prepared>> = prepared.drain(..).map(Arc::new).collect();
    let mut of_each = Vec::with_capacity(wanted.len());
    for preprocessing in wanted {
        let found = distinct.iter().position(|other| other.has_same_picture(preprocessing));
        of_each.extend(found.map(|index| Arc::clone(&prepared[index])));
    }
    Ok(of_each)
}

/// Returns an upper bound of the bytes of memory that [`prepare_all`] takes. It reads only the header.
///
/// # Errors
/// [`ImageError`] if the header is refused.
pub fn memory_to_prepare_all(
    bytes: &[u8],
    settings: ImageSettings,
    wanted: &[Preprocessing],
) -> Result<u64, ImageError> {
    // Those that are decoded apart take no more.
    Ok(open(bytes, settings)?.memory_to_prepare(&distinct_pictures(wanted)))
}

/// Returns the preprocessings without those whose pictures differ from an earlier one's in their normalisation alone.
fn distinct_pictures(wanted: &[Preprocessing]) -> Vec<&Preprocessing> {
    let mut distinct: Vec<&Preprocessing> = Vec::with_capacity(wanted.len());
    for preprocessing in wanted {
        if !distinct.iter().any(|other| other.has_same_picture(preprocessing)) {
            distinct.push(preprocessing);
        }
    }
    distinct
}
