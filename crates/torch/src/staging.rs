//! The layout of a batch's pictures in the memory that is copied to a GPU.

use std::collections::BTreeMap;

use headswap_image::Prepared;
use headswap_model::InputRow;
use tch::{Kind, Tensor};

use super::input::{Conversion, is_plain};
use super::pictures::{Place, Uploaded};
use crate::error::Result;

/// The bytes of an f32.
const FLOAT: usize = size_of::<f32>();

/// The layout: first the rows' conversions, unless all are plain; then pictures of floats; then pictures of bytes, so that
/// all floats are aligned. Pictures of one size and type are adjacent.
pub(super) struct Layout {
    conversions: Vec<Conversion>,
    stacks: Vec<Stack>,
    places: Vec<Place>,
    /// The bytes of everything.
    pub bytes: usize,
}

/// Pictures of one size and type.
struct Stack {
    is_bytes: bool,
    size: [usize; 2],
    /// Indices into the batch, ascending.
    rows: Vec<usize>,
}

impl Stack {
    fn picture_bytes(&self) -> usize {
        let values = self.size[0] * self.size[1] * 3;
        if self.is_bytes { values } else { values * FLOAT }
    }

    fn bytes(&self) -> usize {
        self.rows.len() * self.picture_bytes()
    }
}

impl Layout {
    pub fn of(rows: &[InputRow<'_>]) -> Self {
        // Floats sort before bytes.
        let mut by_kind: BTreeMap<(bool, [usize; 2]), Vec<usize>> = BTreeMap::new();
        let mut places = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let is_bytes = matches!(row.picture, Prepared::Bytes { .. });
            let stack = by_kind.entry((is_bytes, row.picture.size())).or_default();
            places.push(Place {
                stack: 0,
                position: stack.len(),
                plain: is_plain(*row),
                reversed: false,
            });
            stack.push(index);
        }
        let mut conversions = Vec::new();
        if !places.iter().all(|place| place.plain) {
            conversions.extend(rows.iter().map(|row| Conversion::of(*row)));
        }
        for (place, conversion) in places.iter_mut().zip(&conversions) {
            place.reversed = conversion.reversed;
        }
        let mut stacks = Vec::with_capacity(by_kind.len());
        for ((is_bytes, size), rows) in by_kind {
            for &row in &rows {
                places[row].stack = stacks.len();
            }
            stacks.push(Stack { is_bytes, size, rows });
        }
        let pictures: usize = stacks.iter().map(Stack::bytes).sum();
        Self {
            bytes: conversions.len() * Conversion::NUMBERS * FLOAT + pictures,
            conversions,
            stacks,
            places,
        }
    }

    /// Writes a batch to memory of [`Layout::bytes`] bytes.
    pub fn fill(&self, rows: &[InputRow<'_>], memory: &mut [u8]) {
        let (conversions, mut rest) = memory.split_at_mut(self.conversions.len() * Conversion::NUMBERS * FLOAT);
        copy_floats(
            conversions,
            self.conversions.iter().flat_map(|conversion| conversion.numbers()),
        );
        for stack in &self.stacks {
            for &row in &stack.rows {
                let picture;
                (picture, rest) = rest.split_at_mut(stack.picture_bytes());
                match rows[row].picture {
                    Prepared::Bytes { values, .. } => picture.copy_from_slice(values),
                    Prepared::Floats { values, .. } => copy_floats(picture, values.iter().copied()),
                }
            }
        }
    }

    /// Returns the parts of that memory, of which `memory`, u8, is a copy on the device.
    pub fn split(self, memory: &Tensor) -> Result<Uploaded> {
        let mut start = 0;
        let mut conversions = None;
        if !self.conversions.is_empty() {
            let rows = self.conversions.len();
            let bytes = rows * Conversion::NUMBERS * FLOAT;
            let numbers = memory.f_narrow(0, 0, bytes as i64)?.f_view_dtype(Kind::Float)?;
            conversions = Some(numbers.f_reshape([rows as i64, 3, 3])?);
            start = bytes;
        }
        let mut stacks = Vec::with_capacity(self.stacks.len());
        for stack in &self.stacks {
            let mut values = memory.f_narrow(0, start as i64, stack.bytes() as i64)?;
            if !stack.is_bytes {
                values = values.f_view_dtype(Kind::Float)?;
            }
            let [height, width] = stack.size.map(|side| side as i64);
            stacks.push(values.f_reshape([stack.rows.len() as i64, height, width, 3])?);
            start += stack.bytes();
        }
        Ok(Uploaded {
            stacks,
            places: self.places,
            conversions,
        })
    }
}

fn copy_floats(memory: &mut [u8], floats: impl Iterator<Item = f32>) {
    for (bytes, float) in memory.as_chunks_mut::<FLOAT>().0.iter_mut().zip(floats) {
        *bytes = float.to_ne_bytes();
    }
}
