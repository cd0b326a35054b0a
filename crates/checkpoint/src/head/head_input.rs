//! Checks a head's width against where it stands.

use headswap_spec::{Architecture, HeadInput, PartialSpec};

use super::error::HeadFileError;
use super::found::input_width;
use super::network::channels;
use super::part::Part;

/// The side of the map is the picture's, halved by five poolings.
const STRIDE: u32 = 32;

/// Refuses a first layer that does not take what the input has.
///
/// # Errors
/// [`HeadFileError::InputWidth`] with both widths.
pub(super) fn check(
    architecture: Architecture,
    input: HeadInput,
    spec: &PartialSpec,
    first: &Part<'_>,
) -> Result<(), HeadFileError> {
    let channels = channels(architecture);
    let size = spec.preprocessing.and_then(|preprocessing| preprocessing.size().ok());
    let (fits, expected) = match (input_width(architecture, input), size) {
        (Some(width), _) => (width == first.input(), width.to_string()),
        (None, Some([height, width])) => {
            let (rows, columns) = (height / STRIDE, width / STRIDE);
            let expected = channels * rows as usize * columns as usize;
            let arithmetic = format!("{channels} x {rows} x {columns} = {expected} for pictures of {height}x{width}");
            (expected == first.input(), arithmetic)
        }
        (None, None) => {
            let fits = first.input() > 0 && first.input().is_multiple_of(channels);
            (fits, format!("a multiple of {channels}"))
        }
    };
    if fits {
        return Ok(());
    }
    Err(HeadFileError::InputWidth {
        name: first.describe(),
        width: first.input(),
        input: format!("`{}`", input.name()),
        expected,
    })
}

/// The refusal of a head whose input is not known, with what its width may mean.
pub(super) fn unknown(architecture: Architecture, first: &Part<'_>) -> HeadFileError {
    let channels = channels(architecture);
    let width = first.input();
    let meaning = if width == channels {
        "which may be `global_average`, `global_max`, or `flatten` of pictures of 32x32".to_owned()
    } else if width == 2 * channels {
        "which may be `global_max_average`".to_owned()
    } else if width > 0 && width.is_multiple_of(channels) {
        format!(
            "which may be `flatten` or `flatten_hwc` of {} positions of {channels} channels",
            width / channels
        )
    } else {
        format!(
            "which VGG16 has nowhere: it has {} features and {channels} channels",
            architecture.features()
        )
    };
    HeadFileError::Input {
        name: first.describe(),
        width,
        meaning,
    }
}
