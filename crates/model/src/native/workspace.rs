//! The engine, and memory that batches reuse.

use headswap_spec::{IMAGENET_MEAN, IMAGENET_STD, PICTURE_SIDE};
use winograd::{Engine, Maps, Normalisation};

use super::rows::{Rows, Vectors};
use crate::host_linear::{HeadProduct, HostLinear};

/// The engine, and its memory.
pub(super) struct Workspace {
    pub engine: Engine,
    pub normalisation: Normalisation,
    linear: HostLinear,
    /// An image's maps, a convolution's result, and the maps of a group.
    pub maps: [Maps; 3],
    spare_pictures: Vec<Vec<usize>>,
    spare_maps: Vec<Maps>,
    spare_vectors: Vec<Vec<f32>>,
}

impl Workspace {
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            normalisation: Normalisation::new(PICTURE_SIDE, IMAGENET_MEAN, IMAGENET_STD),
            linear: HostLinear::default(),
            maps: Default::default(),
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

    /// Concatenates these vectors.
    pub fn join(&mut self, parts: &mut Vec<Rows>) -> Vectors {
        let count = parts.iter().map(Rows::count).sum();
        let mut joint = self.vectors(count, parts.first().map_or(0, |part| part.as_vectors().width));
        for part in parts.drain(..) {
            joint.numbers.extend_from_slice(&part.as_vectors().numbers);
            self.recycle(part);
        }
        joint
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

/// Takes out the smallest spare that is large enough, or else the largest, so that few ever grow; makes a new one if
/// there is none.
fn best_fit<T: Default>(spares: &mut Vec<T>, need: usize, size: impl Fn(&T) -> usize) -> T {
    let lack = |spare: &T| (size(spare) < need, size(spare).abs_diff(need));
    let best = (0..spares.len()).min_by_key(|&index| lack(&spares[index]));
    best.map_or_else(T::default, |index| spares.swap_remove(index))
}
