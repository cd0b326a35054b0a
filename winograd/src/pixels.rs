//! Pictures to maps.

use crate::engine::Engine;
use crate::maps::Maps;

/// torchvision's `Normalize` for ImageNet, by colour.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The sides of a picture.
const SIDE: usize = 224;
/// Numbers of a row of a picture.
const ROW: usize = SIDE * 3;

/// (u8 / 255 - mean) / std of pictures of 224 x 224 x 3 u8, RGB interleaved: in f32 and in this order, as torchvision's
/// `ToTensor` and `Normalize` do.
///
/// # Panics
/// If `pixels` are not whole pictures.
pub fn normalise(pixels: &[u8], maps: &mut Maps, engine: &mut Engine) {
    assert_eq!(pixels.len() % (ROW * SIDE), 0, "whole pictures");
    maps.reset(pixels.len() / (ROW * SIDE), 3, SIDE, SIDE);
    let table: [[f32; 256]; 3] =
        std::array::from_fn(|colour| std::array::from_fn(|value| (value as f32 / 255.0 - MEAN[colour]) / STD[colour]));
    let images = maps.images(0..maps.count());
    engine.pool.run(images.shape.count * SIDE, |item, _| {
        let (plane, row) = ((item / SIDE, 0), item % SIDE);
        // SAFETY: the border beside a row is its thread's.
        unsafe { images.clear_border(plane, row..row + 1, 0..SIDE) };
        let to = images.pointer(plane, row, 0, ROW);
        let pixels = pixels[item * ROW..][..ROW].as_chunks::<3>().0;
        for (x, pixel) in pixels.iter().enumerate() {
            for (colour, table) in table.iter().enumerate() {
                // SAFETY: `pointer` checked room for 224 x 3 numbers; a row is one thread's.
                unsafe { *to.add(x * 3 + colour) = table[usize::from(pixel[colour])] };
            }
        }
    });
}
