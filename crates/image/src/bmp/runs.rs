//! Expands the run-length compressions of BMP as Pillow does.

/// Expands the runs in `bytes` from `at` on, of nibbles or of bytes, to `pixels`: zeroed rows of `width` bytes, in the
/// order of the file. Returns true if the runs reach the last pixel.
pub(super) fn expand(bytes: &[u8], at: usize, has_nibbles: bool, width: usize, pixels: &mut [u8]) -> bool {
    let mut runs = Runs {
        bytes,
        at,
        has_nibbles,
        width,
        pixels,
        filled: 0,
        x: 0,
    };
    while runs.filled < runs.pixels.len() {
        if runs.next().is_none() {
            return false;
        }
    }
    true
}

struct Runs<'a> {
    bytes: &'a [u8],
    at: usize,
    has_nibbles: bool,
    width: usize,
    pixels: &'a mut [u8],
    /// Pixels that have been written.
    filled: usize,
    /// Pillow's column. After an absolute run that continues in the next row, it is beyond the row until the end of line.
    x: usize,
}

impl Runs<'_> {
    /// Expands one run or escape; `None` at the end of the bitmap or of the file.
    fn next(&mut self) -> Option<()> {
        let &[count, value] = self.take(2) else { return None };
        match (count, value) {
            (0, 0) => {
                self.skip(self.filled.next_multiple_of(self.width) - self.filled);
                self.x = 0;
            }
            (0, 1) => return None,
            (0, 2) => {
                let &[right, up] = self.take(2) else { return None };
                self.skip(usize::from(right) + usize::from(up) * self.width);
                self.x = self.filled % self.width;
            }
            (0, count) => self.copy(count.into()),
            (count, value) => {
                // A run ends with its row.
                let count = usize::from(count).min(self.width.saturating_sub(self.x));
                let values = if self.has_nibbles {
                    [value >> 4, value & 15]
                } else {
                    [value; 2]
                };
                for i in 0..count {
                    self.push(values[i % 2]);
                }
                self.x += count;
            }
        }
        Some(())
    }

    /// Copies `count` pixels.
    fn copy(&mut self, count: usize) {
        let wanted = count.min(self.pixels.len() - self.filled);
        let end = self.filled + wanted;
        for &byte in self.take(if self.has_nibbles { wanted.div_ceil(2) } else { wanted }) {
            if self.has_nibbles {
                self.push(byte >> 4);
                if self.filled < end {
                    self.push(byte & 15);
                }
            } else {
                self.push(byte);
            }
        }
        self.x += count;
        // Like Pillow: aligned to words of the file, not of the pixels.
        self.at = self.at.next_multiple_of(2);
    }
}

impl<'a> Runs<'a> {
    /// Takes `length` bytes, or those that are left.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = &rest[..length.min(rest.len())];
        self.at += taken.len();
        taken
    }

    /// Leaves `count` pixels 0.
    fn skip(&mut self, count: usize) {
        self.filled = self.pixels.len().min(self.filled + count);
    }

    fn push(&mut self, value: u8) {
        if let Some(pixel) = self.pixels.get_mut(self.filled) {
            *pixel = value;
            self.filled += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of 4 pixels, up to `count` of them.
    fn expanded(bytes: &[u8], has_nibbles: bool, count: usize) -> Option<Vec<u8>> {
        let mut pixels = vec![0; count];
        expand(bytes, 0, has_nibbles, 4, &mut pixels).then_some(pixels)
    }

    #[test]
    fn runs_repeat_a_byte_or_two_nibbles() {
        assert_eq!(expanded(&[3, 7, 1, 8], false, 4).unwrap(), [7, 7, 7, 8]);
        assert_eq!(expanded(&[4, 0x12], true, 4).unwrap(), [1, 2, 1, 2]);
    }

    #[test]
    fn a_run_ends_with_its_row() {
        // A second run before the end of line writes nothing.
        assert_eq!(
            expanded(&[9, 7, 9, 6, 0, 0, 4, 5], false, 8).unwrap(),
            [7, 7, 7, 7, 5, 5, 5, 5]
        );
    }

    #[test]
    fn an_end_of_line_fills_the_row_if_it_has_begun() {
        assert_eq!(expanded(&[0, 0, 1, 7, 0, 0], false, 4).unwrap(), [7, 0, 0, 0]);
    }

    #[test]
    fn absolute_runs_are_aligned_and_go_on_in_the_next_row() {
        let bytes = [0, 5, 1, 2, 3, 4, 5, 99, 2, 7, 0, 0];
        assert_eq!(expanded(&bytes, false, 8).unwrap(), [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(expanded(&[0, 3, 0x12, 0x34, 1, 0x50], true, 4).unwrap(), [1, 2, 3, 5]);
    }

    #[test]
    fn a_delta_leaves_0() {
        assert_eq!(
            expanded(&[1, 7, 0, 2, 1, 1, 9, 8], false, 8).unwrap(),
            [7, 0, 0, 0, 0, 0, 8, 8]
        );
        assert_eq!(expanded(&[0, 2, 255, 255], false, 8).unwrap(), [0; 8]);
    }

    #[test]
    fn too_few_pixels_are_none() {
        assert_eq!(expanded(&[3, 7, 0, 1, 1, 7], false, 4), None);
        assert_eq!(expanded(&[3, 7, 1], false, 4), None);
        assert_eq!(expanded(&[0, 4, 1, 2, 3], false, 4), None);
    }
}
