//! A batch's rows between steps.

use winograd::Maps;

/// Rows between two steps.
pub(super) enum Rows {
    /// Pictures of the batch, by their index.
    Pictures(Vec<usize>),
    /// The output of a convolution.
    Maps(Maps),
    /// The input or output of a Linear.
    Vectors(Vectors),
}

/// Rows of `width` numbers each, one after the other.
#[derive(Default)]
pub(super) struct Vectors {
    pub numbers: Vec<f32>,
    pub width: usize,
}

impl Vectors {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.width.max(1))
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.numbers[index * self.width..][..self.width]
    }
}

impl Rows {
    pub fn count(&self) -> usize {
        match self {
            Self::Pictures(pictures) => pictures.len(),
            Self::Maps(maps) => maps.count(),
            Self::Vectors(vectors) => vectors.rows().len(),
        }
    }

    /// Returns the vectors' numbers; the rows must have passed the convolutions.
    pub fn numbers(&mut self) -> &mut [f32] {
        match self {
            Self::Vectors(vectors) => &mut vectors.numbers,
            Self::Pictures(_) | Self::Maps(_) => unreachable!("layers come after the convolutions"),
        }
    }

    /// Returns the vectors; the rows must have passed the convolutions.
    pub fn as_vectors(&self) -> &Vectors {
        match self {
            Self::Vectors(vectors) => vectors,
            Self::Pictures(_) | Self::Maps(_) => unreachable!("the steps end in vectors"),
        }
    }
}
