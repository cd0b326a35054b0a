//! Distributes a decoder's rows to several preparations.

use headswap_spec::Preprocessing;

use super::picture::Shape;
use super::plan::Decoded;
use super::preparation::Preparation;
use super::prepared::Prepared;
use super::resize::ROW_START;
use super::sink::RowSink;

/// Several preparations of one picture.
pub(super) struct Fanout {
    shape: Shape,
    /// The row that the decoder writes, if it does not write to the only preparation.
    row: Vec<u8>,
    preparations: Vec<Preparation>,
}

impl Fanout {
    /// Begins to prepare a picture, which has pixels.
    pub(super) fn new(decoded: Decoded, wanted: &[&Preprocessing]) -> Self {
        let shape = decoded.shape;
        let mut preparations = Vec::with_capacity(wanted.len());
        for preprocessing in wanted {
            preparations.push(Preparation::new(preprocessing, decoded));
        }
        let mut fanout = Self {
            shape,
            row: Vec::new(),
            preparations,
        };
        if !fanout.is_direct() {
            fanout.row = vec![0; ROW_START + shape.width as usize * shape.channels.count()];
        }
        fanout
    }

    /// Returns an upper bound of the memory that the preparations take at any time, in bytes.
    pub(super) fn memory(decoded: Decoded, wanted: &[&Preprocessing]) -> u64 {
        let shape = decoded.shape;
        let mut bytes = ROW_START as u64 + u64::from(shape.width) * shape.channels.count() as u64;
        for preprocessing in wanted {
            let structure = size_of::<Preparation>() + size_of::<Prepared>();
            bytes = bytes.saturating_add(structure as u64);
            bytes = bytes.saturating_add(Preparation::memory(preprocessing, decoded));
        }
        bytes
    }

    /// Returns what the decoder writes to: the only preparation, if it takes the rows as they are.
    pub(super) fn sink(&mut self) -> &mut dyn RowSink {
        if self.is_direct() {
            self.preparations[0].sink()
        } else {
            self
        }
    }

    fn is_direct(&self) -> bool {
        matches!(self.preparations.as_slice(), [only] if only.channels() == self.shape.channels)
    }

    /// Returns the prepared pictures, in the order of what was wanted.
    pub(super) fn finish(self) -> Vec<Prepared> {
        self.preparations.into_iter().map(Preparation::finish).collect()
    }
}

impl RowSink for Fanout {
    fn row(&mut self) -> &mut [u8] {
        &mut self.row[ROW_START..]
    }

    fn wants_row(&self) -> bool {
        self.preparations.iter().any(Preparation::wants_row)
    }

    fn advance(&mut self) {
        let row = &self.row[ROW_START..];
        for preparation in &mut self.preparations {
            let is_same = preparation.channels() == self.shape.channels;
            let sink = preparation.sink();
            if sink.wants_row() {
                if is_same {
                    sink.row().copy_from_slice(row);
                } else {
                    to_grey(row, sink.row());
                }
            }
            sink.advance();
        }
    }
}

/// Writes the grey value of each pixel of four bytes.
fn to_grey(row: &[u8], target: &mut [u8]) {
    for (target, [red, green, blue, _]) in target.iter_mut().zip(row.as_chunks().0) {
        *target = grey([*red, *green, *blue]);
    }
}

/// Returns a pixel's grey value, as Pillow's `convert("L")` computes it.
pub(super) fn grey(rgb: [u8; 3]) -> u8 {
    let [red, green, blue] = rgb.map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_stays_grey() {
        let mut row = Vec::new();
        for level in 0..=255 {
            row.extend([level, level, level, 77]);
        }
        let mut grey = vec![0; 256];
        to_grey(&row, &mut grey);
        assert!(grey.into_iter().eq(0..=255));
    }

    #[test]
    fn green_counts_most() {
        let mut grey = [0; 3];
        to_grey(&[255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0], &mut grey);
        assert_eq!(grey, [76, 150, 29]);
    }
}
