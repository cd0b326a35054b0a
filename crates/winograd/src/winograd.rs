//! A convolution by Winograd's minimal filtering.

use std::ops::Range;

use crate::bias::Bias;
use crate::buffer::Shared;
use crate::conv::Precision;
use crate::engine::{Engine, Tables, TablesView, lock};
use crate::filters::Filters;
use crate::grid::Grid;
use crate::groups::Groups;
use crate::input::{Rows, TransformInput, strip_len};
use crate::maps::{Images, Maps};
use crate::multiply::{Float, Integer};
use crate::output::TransformOutput;
use crate::plan::{Plan, Work};
use crate::product::{Product, Store};
use crate::simd::{Isa, LANES, Simd};
use crate::tile::PRODUCTS;

/// A packed 3x3 convolution.
#[derive(Debug)]
pub struct Winograd {
    filters: Filters,
    /// Blocks of input channels.
    blocks: usize,
    /// Blocks of output channels.
    panels: usize,
}

impl Winograd {
    /// Transforms and packs a weight of O x `inputs` x 3 x 3, O at most `panels` x 16.
    pub fn new(weight: &[f32], inputs: usize, panels: usize, precision: Precision) -> Self {
        Self {
            filters: Filters::new(weight, inputs, panels, precision),
            blocks: inputs.div_ceil(LANES),
            panels,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.filters.bytes()
    }

    /// Computes max(conv(input) + bias, 0), pooled if `pool`; `output` must have the result's shape.
    pub fn forward(&self, input: &Maps, bias: &Bias, pool: bool, output: Images<'_>, engine: &mut Engine) {
        let pass = Pass {
            winograd: self,
            bias,
            isa: engine.isa,
            input,
            grid: Grid::new(input.shape()),
            output,
            pool,
        };
        let work = Work {
            tiles: pass.grid.tiles(),
            blocks: self.blocks,
            panels: self.panels,
            bytes: self.filters.number_bytes(),
        };
        match Plan::new(work, engine.pool.threads(), engine.isa.rows()) {
            Plan::Blocks { tiles, panels } => pass.blocks(engine, tiles, panels),
            Plan::Stages { tiles } => pass.stages(engine, tiles),
        }
    }

    /// Makes room for the intermediate results of `tiles` tiles and `panels` blocks of output channels.
    fn reserve(&self, tables: &mut Tables, tiles: usize, panels: usize) {
        let depth = self.blocks * LANES;
        match self.filters {
            Filters::Float(_) => tables.floats.reserve(PRODUCTS * stride::<f32>(tiles * depth)),
            Filters::Integer { .. } => {
                tables.integers.reserve(PRODUCTS * stride::<i16>(tiles * depth));
                tables.scales.reserve(PRODUCTS * tiles);
                tables.strip.reserve(strip_len(self.blocks));
            }
        }
        tables
            .products
            .reserve(PRODUCTS * stride::<f32>(tiles * panels * LANES));
    }
}

/// The distance between products of `len` numbers: one cache line more than `len`, so that the 36 numbers that a
/// transform touches at a time do not compete for the same few sets of L1.
fn stride<T>(len: usize) -> usize {
    len + 64 / size_of::<T>()
}

/// One call of [`Winograd::forward`].
struct Pass<'a> {
    winograd: &'a Winograd,
    bias: &'a Bias,
    isa: Isa,
    input: &'a Maps,
    grid: Grid,
    output: Images<'a>,
    pool: bool,
}

/// Some tiles whose rows are in `tables`.
#[derive(Clone, Copy)]
struct Block<'a> {
    first: usize,
    groups: Groups,
    tables: TablesView<'a>,
}

impl Pass<'_> {
    fn blocks(&self, engine: &mut Engine, tiles: usize, panels: usize) {
        let total = self.grid.tiles();
        let workers = &engine.scratch.workers;
        workers
            .iter()
            .for_each(|tables| self.winograd.reserve(&mut lock(tables), tiles, panels));
        engine.pool.run(total.div_ceil(tiles), |item, thread| {
            let mut tables = lock(&workers[thread]);
            let first = item * tiles;
            let block = Block {
                first,
                groups: Groups::new(tiles.min(total - first), self.isa.rows()),
                tables: tables.view(),
            };
            self.transform_input(block, 0..block.groups.rows(), block.tables.strip);
            for start in (0..self.winograd.panels).step_by(panels) {
                let panels = start..self.winograd.panels.min(start + panels);
                for product in 0..PRODUCTS {
                    self.multiply(block, product, panels.clone(), panels.clone());
                }
                self.transform_output(block, 0..block.groups.rows(), panels);
            }
        });
    }

    fn stages(&self, engine: &mut Engine, tiles: usize) {
        let total = self.grid.tiles();
        let panels = self.winograd.panels;
        let Engine { pool, scratch, .. } = engine;
        self.winograd.reserve(&mut scratch.common, tiles, panels);
        // Here threads use only the strip of their own tables.
        scratch
            .workers
            .iter()
            .for_each(|tables| self.winograd.reserve(&mut lock(tables), 0, 0));
        let tables = scratch.common.view();
        for first in (0..total).step_by(tiles) {
            let groups = Groups::new(tiles.min(total - first), self.isa.rows());
            let block = Block { first, groups, tables };
            let rows = groups.rows();
            // Small shares, so that no thread waits long for another's last share.
            let share = rows.div_ceil(4 * pool.threads());
            let range = |item| item * share..rows.min((item + 1) * share);
            pool.run(rows.div_ceil(share), |item, thread| {
                let mut own = lock(&scratch.workers[thread]);
                self.transform_input(block, range(item), own.view().strip);
            });
            let parts = pool.threads().div_ceil(4).min(panels);
            pool.run(PRODUCTS * parts, |item, _| {
                let (product, part) = (item / parts, item % parts);
                let some = part * panels / parts..(part + 1) * panels / parts;
                self.multiply(block, product, some, 0..panels);
            });
            pool.run(rows.div_ceil(share), |item, _| {
                self.transform_output(block, range(item), 0..panels)
            });
        }
    }

    fn transform_input(&self, block: Block<'_>, range: Range<usize>, strip: Shared<'_, f32>) {
        let len = block.groups.rows() * self.winograd.blocks * LANES;
        let (rows, stride) = match self.winograd.filters {
            Filters::Float(_) => (Rows::Float(block.tables.floats), stride::<f32>(len)),
            Filters::Integer { .. } => {
                let rows = Rows::Integer {
                    values: block.tables.integers,
                    scales: block.tables.scales,
                    strip,
                };
                (rows, stride::<i16>(len))
            }
        };
        self.isa.run(TransformInput {
            maps: self.input,
            first: block.first,
            groups: block.groups,
            range,
            rows,
            stride,
        });
    }

    /// Computes `panels` of a product, whose table in the block holds the panels `kept`.
    fn multiply(&self, block: Block<'_>, product: usize, panels: Range<usize>, kept: Range<usize>) {
        let Block { groups, tables, .. } = block;
        let rows = groups.rows();
        let len = rows * self.winograd.blocks * LANES;
        let width = kept.len() * LANES;
        let table = Table {
            to: tables
                .products
                .pointer(product * stride::<f32>(rows * width), rows * width),
            width,
            first: kept.start,
        };
        match &self.winograd.filters {
            Filters::Float(filters) => self.isa.run(Product::<Float, _> {
                // SAFETY: all threads have written their rows, and none writes until the products are computed.
                rows: unsafe { tables.floats.part(product * stride::<f32>(len), len) },
                columns: self.winograd.filters.of(filters, product),
                groups,
                blocks: self.winograd.blocks,
                panels,
                store: table,
            }),
            Filters::Integer { values, scales } => self.isa.run(Product::<Integer, _> {
                // SAFETY: as above.
                rows: unsafe { tables.integers.part(product * stride::<i16>(len), len) },
                columns: self.winograd.filters.of(values, product),
                groups,
                blocks: self.winograd.blocks,
                panels,
                store: Scaled {
                    table,
                    rows: tables.scales.pointer(product * rows, rows),
                    columns: self.winograd.filters.of(scales, product).as_ptr(),
                },
            }),
        }
    }

    fn transform_output(&self, block: Block<'_>, range: Range<usize>, panels: Range<usize>) {
        let rows = block.groups.rows();
        let stride = stride::<f32>(rows * panels.len() * LANES);
        self.isa.run(TransformOutput {
            // SAFETY: all threads have written their products, and none writes until the output is computed.
            products: unsafe { block.tables.products.part(0, PRODUCTS * stride) },
            stride,
            rows,
            range,
            first: block.first,
            panels,
            bias: self.bias,
            grid: self.grid,
            images: self.output,
            pool: self.pool,
        });
    }
}

/// A product's results, by row and channel.
#[derive(Clone, Copy)]
struct Table {
    to: *mut f32,
    width: usize,
    /// The first panel of a row.
    first: usize,
}

impl Store for Table {
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, row: usize, panel: usize, value: S::Floats) {
        // SAFETY: `multiply` made `to` valid for all rows of `width` numbers; the caller vouches for row and panel.
        unsafe { s.store(self.to.add(row * self.width + (panel - self.first) * LANES), value) };
    }
}

/// A table of integer results, each multiplied by its row's and its column's scale when stored.
#[derive(Clone, Copy)]
struct Scaled {
    table: Table,
    rows: *const f32,
    columns: *const f32,
}

impl Store for Scaled {
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, row: usize, panel: usize, value: S::Floats) {
        // SAFETY: there is a scale for each row and for each column of each panel; the caller vouches for both.
        unsafe {
            let scale = s.mul(s.splat(*self.rows.add(row)), s.load(self.columns.add(panel * LANES)));
            self.table.store(s, row, panel, s.mul(value, scale));
        }
    }
}
