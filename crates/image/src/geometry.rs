//! The geometry of a preprocessing for a picture of one size: how its sides are resized and cropped, and where the result
//! lies within the zeros of a larger crop.

use headswap_spec::{Preprocessing, Resize};

use super::side::{Side, short_side};

/// How a picture of one size is resized, cropped and padded.
pub(super) struct Geometry {
    /// The width and the height, resized and cropped.
    pub sides: [Side; 2],
    /// Width and height of the prepared picture, in pixels.
    size: [u64; 2],
}

impl Geometry {
    /// `size` is the decoded picture's width and height, neither of them 0. A side of 0 pixels, which no
    /// [`HeadSpec`](headswap_spec::HeadSpec) has, counts as 1.
    pub(super) fn new(preprocessing: &Preprocessing, size: [u32; 2]) -> Self {
        let resized = match preprocessing.resize {
            None => size.map(u64::from),
            Some(Resize::ShortSide(short)) => short_side(short.max(1), size),
            Some(Resize::Stretch([height, width])) => [width, height].map(|side| u64::from(side.max(1))),
        };
        let Some([height, width]) = preprocessing.crop else {
            return Self {
                sides: resized.map(Side::whole),
                size: resized,
            };
        };
        let size = [width, height].map(|side| u64::from(side.max(1)));
        let [columns, rows] = resized;
        Self {
            sides: [Side::middle(columns, size[0]), Side::middle(rows, size[1])],
            size,
        }
    }

    /// Returns true if zeros surround the resized picture.
    fn is_padded(&self) -> bool {
        self.sides[0].len() < self.size[0] || self.sides[1].len() < self.size[1]
    }

    /// Returns height and width of the prepared picture, in pixels.
    pub(super) fn size(&self) -> [usize; 2] {
        let [width, height] = self.size.map(|side| side as usize);
        [height, width]
    }

    /// Returns an upper bound of the memory of [`Geometry::pad`] for values of `bytes` bytes, in bytes.
    pub(super) fn memory(&self, bytes: u64) -> u64 {
        if self.is_padded() {
            self.size[0].saturating_mul(self.size[1]).saturating_mul(3 * bytes)
        } else {
            0
        }
    }

    /// Surrounds the kept part, `[height, width, 3]`, with zeros up to the size of the crop, as torchvision's `CenterCrop`
    /// does: an odd number of missing pixels leaves one more on the right or at the bottom.
    pub(super) fn pad<T: Copy + Default>(&self, kept: Vec<T>) -> Vec<T> {
        if !self.is_padded() {
            return kept;
        }
        let [width, height] = [0, 1].map(|side| self.sides[side].len() as usize);
        let [full_height, full_width] = self.size();
        let (left, top) = ((full_width - width) / 2, (full_height - height) / 2);
        let mut padded = vec![T::default(); full_height * full_width * 3];
        let rows = padded.chunks_exact_mut(full_width * 3).skip(top);
        for (target, row) in rows.zip(kept.chunks_exact(width * 3)) {
            target[left * 3..][..width * 3].copy_from_slice(row);
        }
        padded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headswap_spec::Preset;

    fn geometry(resize: Option<Resize>, crop: Option<[u32; 2]>, size: [u32; 2]) -> Geometry {
        let preprocessing = Preprocessing {
            resize,
            crop,
            ..Preset::Torchvision.preprocessing()
        };
        Geometry::new(&preprocessing, size)
    }

    #[test]
    fn a_smaller_picture_is_surrounded_by_zeros() {
        let geometry = geometry(None, Some([4, 3]), [2, 1]);
        assert_eq!(geometry.size(), [4, 3]);
        let padded = geometry.pad(vec![1, 2, 3, 4, 5, 6]);
        let mut expected = vec![0; 36];
        // The second row from the top, at its left end.
        expected[9..15].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(padded, expected);
    }

    #[test]
    fn one_side_may_be_cropped_and_the_other_padded() {
        let geometry = geometry(None, Some([2, 1]), [3, 1]);
        assert_eq!(geometry.sides[0].kept, 1..2);
        assert_eq!(geometry.pad(vec![7_u8; 3]), [7, 7, 7, 0, 0, 0]);
    }

    #[test]
    fn a_stretch_is_of_height_and_width() {
        let stretched = geometry(Some(Resize::Stretch([32, 64])), None, [10, 20]);
        assert_eq!((stretched.size(), stretched.sides[0].resized), ([32, 64], 64));
        let nothing = geometry(Some(Resize::Stretch([0, 5])), Some([0, 0]), [10, 20]);
        assert_eq!(nothing.size(), [1, 1]);
    }
}
