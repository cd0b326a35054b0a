//! VGG16's input pictures, and how torchvision normalises them.

/// Height and width in pixels.
pub const PICTURE_SIDE: usize = 224;
/// Bytes of one picture: `[height, width, 3]`, the channels red, green and blue, one u8 each.
pub const PICTURE_BYTES: usize = PICTURE_SIDE * PICTURE_SIDE * 3;

/// The mean of each channel, red first, for values in 0..=1 (torchvision's `VGG16_Weights.IMAGENET1K_V1.transforms()`).
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// The standard deviation of each channel, as [`IMAGENET_MEAN`].
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
