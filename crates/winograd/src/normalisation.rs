//! torchvision's normalisation of pictures.

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
        assert_eq!(pixels.len() % (self.side * self.side * 3), 0, "whole pictures");
        let (side, [red, green, blue]) = (self.side, &self.table);
        let pixels = pixels.as_chunks::<3>().0;
        maps.fill_pictures([pixels.len() / (side * side), side, side], engine, |row, to| {
            for (to, pixel) in to.iter_mut().zip(&pixels[row * side..][..side]) {
                let [r, g, b] = pixel.map(usize::from);
                *to = [red[r], green[g], blue[b]];
            }
        });
    }
}
