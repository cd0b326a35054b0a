//! The division of maps into tiles.

use crate::maps::Shape;
use crate::tile::TILE;

/// The division of images' maps into tiles of 4 x 4; the last tile of a row or column may extend past the maps.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    count: usize,
    rows: usize,
    columns: usize,
}

/// A tile's image, row of tiles and column of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub image: usize,
    pub row: usize,
    pub column: usize,
}

impl Grid {
    pub fn new(shape: Shape) -> Self {
        Self {
            count: shape.count,
            rows: shape.height.div_ceil(TILE),
            columns: shape.width.div_ceil(TILE),
        }
    }

    /// Tiles of all images.
    pub fn tiles(self) -> usize {
        self.count * self.rows * self.columns
    }

    /// The place of tile number `tile`, counted by image, row and column.
    pub fn place(self, tile: usize) -> Place {
        let (row, column) = (tile / self.columns, tile % self.columns);
        Place {
            image: row / self.rows,
            row: row % self.rows,
            column,
        }
    }
}
