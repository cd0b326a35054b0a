//! Divides a convolution's work, so that data is still in a cache when it is used again.

use crate::simd::LANES;
use crate::tile::PRODUCTS;

/// Filters of up to this size are read from L3 for each further block of tiles; larger ones would be read from memory.
const FILTERS_BYTES_MAX: usize = 5 << 20;
/// The part of L2 (1 MiB on Zen 4 and 5, 2 MiB on Sapphire Rapids) that a thread may use for the rows of a block of
/// tiles.
const ROWS_BYTES_MAX: usize = 520 << 10;
/// The part of L2 that it may use for the block's products.
const PRODUCTS_BYTES_MAX: usize = 260 << 10;
/// The part of L3 that all threads may use for the rows and products of a stage.
const STAGE_BYTES_MAX: usize = 16 << 20;

/// The order of a convolution's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Each thread takes `tiles` tiles through all steps, `panels` blocks of output channels at a time. Rows and products
    /// stay in its L2.
    Blocks {
        /// Tiles of a block.
        tiles: usize,
        /// Blocks of output channels whose products are kept at a time.
        panels: usize,
    },
    /// All threads take `tiles` tiles through one step after the other. Each computes some of the 36 products, so that
    /// large filters are read from memory once, by one thread.
    Stages {
        /// Tiles of a stage.
        tiles: usize,
    },
}

impl Plan {
    /// A plan for `work` by `threads` threads that multiply `group` tiles at a time.
    pub fn new(work: Work, threads: usize, group: usize) -> Self {
        let row = PRODUCTS * work.blocks * LANES * work.bytes;
        let product = PRODUCTS * LANES * size_of::<f32>();
        if row * work.panels * LANES > FILTERS_BYTES_MAX {
            let stage = (STAGE_BYTES_MAX / (row + product * work.panels)).max(group);
            // Stages of about equal size, since a small one would read all filters for few tiles.
            let stages = work.tiles.div_ceil(stage).max(1);
            return Self::Stages {
                tiles: work.tiles.div_ceil(stages),
            };
        }
        let tiles_max = (ROWS_BYTES_MAX / row / group).clamp(1, 4) * group;
        // The same number of blocks per thread, so that none waits long for another's last block.
        let blocks = work.tiles.div_ceil(tiles_max).next_multiple_of(threads);
        let tiles = work.tiles.div_ceil(blocks).max(1);
        let panels = (PRODUCTS_BYTES_MAX / (product * tiles)).clamp(1, work.panels);
        Self::Blocks { tiles, panels }
    }
}

/// The size of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Tiles of all images.
    pub tiles: usize,
    /// Blocks of input channels.
    pub blocks: usize,
    /// Blocks of output channels.
    pub panels: usize,
    /// Bytes per number, in inputs and filters.
    pub bytes: usize,
}
