//! The engine, and memory that batches reuse.

use headswap_image::Prepared;
use winograd::{Engine, Maps};

use super::rows::{Rows, Vectors};
use crate::backend::InputRow;
use crate::host_linear::{HeadProduct, HostLinear};

/// The engine, and its memory.
pub(super) struct Workspace {
    pub engine: Engine,
    linear: HostLinear,
    /// An image's maps, a convolution's result, and the maps of a group.
    pub maps: [Maps; 3],
    /// The maps of one picture as PyTorch flattens them.
    pub flat: Vec<f32>,
    spare_pictures: Vec<Vec<usize>>,
    spare_maps: Vec<Maps>,
    spare_vectors: Vec<Vec<f32>>,
}

impl Workspace {
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            linear: HostLinear::default(),
            maps: Default::default(),
            flat: Vec::new(),
            spare_pictures: Vec::new(),
            spare_maps: Vec::new(),
            spare_vectors: Vec::new(),
        }
    }

    /// Appends the results of a Linear whose weight is not packed.
    pub fn host_linear<'a, R>(&mut self, product: &HeadProduct<'_, R>, results: &mut Vec<f32>)
    where
        R: Fn(usize) -> &'a [f32] + Sync,
    {
        self.linear.compute(product, results, self.engine.pool());
    }

    /// Pins this thread to the CPU that the engine's threads leave to it, if they are pinned.
    pub fn pin_caller(&mut self) {
        self.engine.pool().pin_caller();
    }

    /// Returns some of the batch's pictures.
    pub fn pictures(&mut self, pictures: impl ExactSizeIterator<Item = usize>) -> Rows {
        let mut list = best_fit(&mut self.spare_pictures, pictures.len(), Vec::capacity);
        list.clear();
        list.extend(pictures);
        Rows::Pictures(list)
    }

    /// Returns empty vectors with room for `count` rows of `width` numbers.
    pub fn vectors(&mut self, count: usize, width: usize) -> Vectors {
        let mut numbers = best_fit(&mut self.spare_vectors, count * width, Vec::capacity);
        numbers.clear();
        numbers.reserve_exact(count * width);
        Vectors { numbers, width }
    }

    /// Returns maps of `count` images of the same size as `maps`.
    pub fn maps_like(&mut self, maps: &Maps, count: usize) -> Maps {
        let need = maps.bytes_of(count);
        let mut new = best_fit(&mut self.spare_maps, need, Maps::bytes);
        new.reset(count, maps.channels(), maps.height(), maps.width());
        new
    }

    /// Takes back the memory of rows that are no longer needed.
    pub fn recycle(&mut self, rows: Rows) {
        match rows {
            Rows::Pictures(pictures) => self.spare_pictures.push(pictures),
            Rows::Maps(maps) => self.spare_maps.push(maps),
            Rows::Vectors(vectors) => self.spare_vectors.push(vectors.numbers),
        }
    }
}

/// Writes the network's input of one row to `maps`.
pub(super) fn normalise(row: InputRow<'_>, maps: &mut Maps, engine: &mut Engine) {
    let channels = row.picture.channels(row.preprocessing);
    let sources = channels.map(|channel| channel.source);
    match row.picture {
        Prepared::Bytes {
            size: [height, width],
            values,
        } => {
            let tables = channels.map(|channel| channel.table());
            let pixels = values.as_chunks::<3>().0;
            maps.fill_pictures([1, *height, *width], engine, |row, to| {
                for (to, pixel) in to.iter_mut().zip(&pixels[row * width..][..*width]) {
                    let [a, b, c] = sources.map(|source| usize::from(pixel[source]));
                    *to = [tables[0][a], tables[1][b], tables[2][c]];
                }
            });
        }
        Prepared::Floats {
            size: [height, width],
            values,
        } => {
            let pixels = values.as_chunks::<3>().0;
            maps.fill_pictures([1, *height, *width], engine, |row, to| {
                for (to, pixel) in to.iter_mut().zip(&pixels[row * width..][..*width]) {
                    *to = channels.map(|channel| channel.apply(pixel[channel.source]));
                }
            });
        }
    }
}

/// Takes out the smallest spare that is large enough, or else the largest, so that few ever grow; makes a new one if
/// there is none.
fn best_fit<T: Default>(spares: &mut Vec<T>, need: usize, size: impl Fn(&T) -> usize) -> T {
    let lack = |spare: &T| (size(spare) < need, size(spare).abs_diff(need));
    let best = (0..spares.len()).min_by_key(|&index| lack(&spares[index]));
    best.map_or_else(T::default, |index| spares.swap_remove(index))
}
