//! How pictures are decoded.

use clap::Args;
use headswap_image::{ImageLimits, ImageSettings, JpegScaling};

use super::memory;

/// How pictures are decoded.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pictures")]
pub struct PictureArgs {
    /// Number of concurrent picture decodes. 0 means one for each core, or one for every two cores if the forward pass runs on
    /// them, too
    #[arg(long, env = "HEADSWAP_DECODE_THREADS", default_value_t = 0)]
    pub decode_threads: usize,
    /// Memory for decoding, over all pictures, in bytes. Pictures wait for free memory; one that needs more than the limit is
    /// refused with RESOURCE_EXHAUSTED. 0 means an eighth of the memory that the process may use, at least 320 MiB
    #[arg(long, env = "HEADSWAP_DECODE_BYTES_MAX", default_value_t = 0)]
    pub decode_bytes_max: u64,
    /// Limit on a picture's pixels, before resizing
    #[arg(long, env = "HEADSWAP_IMAGE_PIXELS_MAX", default_value_t = 64 * 1024 * 1024)]
    pub image_pixels_max: u64,
    /// Decode large JPEGs at 1/2, 1/4 or 1/8 of their size (DCT scaling), which saves time and memory
    #[arg(long, env = "HEADSWAP_JPEG_SCALING", value_enum, default_value = "off")]
    pub jpeg_scaling: JpegScaling,
}

impl PictureArgs {
    /// Returns the number of concurrent decodes. If the forward pass runs on the same cores, decoding gets half of them, because
    /// the threads of the forward pass wait for each other.
    pub(crate) fn decoders(&self, cores: usize, on_cpu: bool) -> usize {
        match self.decode_threads {
            0 if on_cpu => (cores / 2).max(1),
            0 => cores,
            threads => threads,
        }
    }

    /// Returns the bytes that all decodes together may use.
    pub(crate) fn decode_memory(&self) -> u64 {
        match self.decode_bytes_max {
            0 => (memory::available() / 8).max(320 << 20),
            bytes => bytes,
        }
    }

    /// Returns the settings of the decoders.
    pub(crate) fn image(&self) -> ImageSettings {
        ImageSettings {
            limits: ImageLimits {
                pixels_max: self.image_pixels_max,
            },
            jpeg_scaling: self.jpeg_scaling,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PictureArgs,
    }

    fn decoders(threads: &str, cores: usize, on_cpu: bool) -> usize {
        let line = Line::parse_from(["serve", "--decode-threads", threads]);
        line.args.decoders(cores, on_cpu)
    }

    #[test]
    fn decoders_leave_half_of_the_cores_to_a_forward_pass_on_them() {
        for (cores, on_gpu, on_cpu) in [(1, 1, 1), (2, 2, 1), (16, 16, 8)] {
            assert_eq!(
                (decoders("0", cores, false), decoders("0", cores, true)),
                (on_gpu, on_cpu)
            );
            assert_eq!((decoders("3", cores, false), decoders("3", cores, true)), (3, 3));
        }
    }
}
