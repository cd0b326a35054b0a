//! How a convolution's work is cut, so that what is used again is still in a cache.

use crate::simd::LANES;
use crate::tile::PRODUCTS;

/// Filters up to this size come from L3 again for each block of tiles; larger ones would come from memory.
const FILTERS_BYTES_MAX: usize = 5 << 20;
/// What a thread may keep of L2 (1 MiB on Zen 4 and 5, 2 MiB on Sapphire Rapids) for the rows of a block of tiles.
const ROWS_BYTES_MAX: usize = 520 << 10;
/// What it may keep there for the block's products.
const PRODUCTS_BYTES_MAX: usize = 260 << 10;
/// What all threads may keep of L3 for rows and products of a batch of tiles.
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
    /// All threads take `tiles` tiles through one step after the other, each thread some of the 36 products: large filters
    /// are read once from memory, by one thread.
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
            // Stages of about equal size, so that no small one reads all filters for little.
            let stages = work.tiles.div_ceil(stage).max(1);
            return Self::Stages {
                tiles: work.tiles.div_ceil(stages),
            };
        }
        let tiles_max = (ROWS_BYTES_MAX / row / group).clamp(1, 4) * group;
        // As many blocks for each thread, so that none waits long for another's last.
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
    /// Bytes of a number of inputs and filters.
    pub bytes: usize,
}
