//! Converts pictures to maps.

use crate::engine::Engine;
use crate::maps::Maps;

/// The normalisation of square pictures: (u8 / 255 - mean) / std for each channel, in f32 and in this order, as torchvision's
/// `ToTensor` and `Normalize` compute it.
#[derive(Clone, Debug)]
pub struct Normalisation {
    side: usize,
    /// What each byte becomes, by channel.
    table: [[f32; 256]; 3],
}

impl Normalisation {
    /// For pictures of `side` x `side` pixels. `mean` and `std` are those of values in 0..=1, red first.
    pub fn new(side: usize, mean: [f32; 3], std: [f32; 3]) -> Self {
        let mut table = [[0.0; 256]; 3];
        for (channel, table) in table.iter_mut().enumerate() {
            for (byte, value) in table.iter_mut().enumerate() {
                *value = (byte as f32 / 255.0 - mean[channel]) / std[channel];
            }
        }
        Self { side, table }
    }

    /// Writes `pixels`, whole pictures one after the other with red, green and blue interleaved, to `maps`.
    ///
    /// # Panics
    /// If `pixels` are not whole pictures.
    pub fn apply(&self, pixels: &[u8], maps: &mut Maps, engine: &mut Engine) {
        let (side, row_bytes) = (self.side, self.side * 3);
        assert_eq!(pixels.len() % (row_bytes * side), 0, "whole pictures");
        maps.reset(pixels.len() / (row_bytes * side), 3, side, side);
        let images = maps.images(0..maps.count());
        engine.pool.run(images.shape.count * side, |item, _| {
            let (plane, row) = ((item / side, 0), item % side);
            // SAFETY: the border beside a row belongs to the row's thread.
            unsafe { images.clear_border(plane, row..row + 1, 0..side) };
            let to = images.pointer(plane, row, 0, row_bytes);
            let pixels = pixels[item * row_bytes..][..row_bytes].as_chunks::<3>().0;
            for (x, pixel) in pixels.iter().enumerate() {
                for (channel, table) in self.table.iter().enumerate() {
                    // SAFETY: `pointer` checked room for a row of three channels; a row is one thread's.
                    unsafe { *to.add(x * 3 + channel) = table[usize::from(pixel[channel])] };
                }
            }
        });
    }
}
