//! Joins what a head is fed with what its file's own first layers compute.

use headswap_spec::Preprocessing;

use super::error::HeadFileError;
use crate::Graph;

/// Returns the preprocessing of the pictures that the first convolution gets. A preset that stretches pictures takes the
/// file's size.
///
/// # Errors
/// [`HeadFileError::PictureSize`] if any other preprocessing has another size than the file, and
/// [`HeadFileError::Preprocessing`] if no preprocessing computes both.
pub fn compose_preprocessing(
    fed: &Preprocessing,
    graph: &Graph,
    assumed: &mut Vec<String>,
) -> Result<Preprocessing, HeadFileError> {
    let mut fed = *fed;
    let given = fed.size().map_err(HeadFileError::Preprocessing)?;
    if let Some(size) = graph.size.filter(|size| *size != given) {
        let Some(resized) = fed.preset_for(size) else {
            let text = |[height, width]: [u32; 2]| format!("{height}x{width}");
            return Err(HeadFileError::PictureSize {
                file: text(size),
                given: text(given),
                example: format!("{size:?}"),
            });
        };
        assumed.push(format!(
            "preprocessing: pictures of {}x{}, as the file says",
            size[0], size[1]
        ));
        fed = resized;
    }
    assumed.extend(graph.assumed.iter().cloned());
    fed.followed_by(&graph.transform).map_err(HeadFileError::Preprocessing)
}
