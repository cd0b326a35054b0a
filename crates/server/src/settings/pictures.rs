//! How pictures are decoded.

use clap::Args;
use headswap_image::{ImageLimits, ImageSettings, JpegScaling};

use super::memory;

/// How pictures are decoded.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pictures")]
pub struct PictureArgs {
    /// Pictures decoded at the same time; 0 means one for each core, or for every second one if the forward pass runs on
    /// them, too
    #[arg(long, env = "HEADSWAP_DECODE_THREADS", default_value_t = 0)]
    pub decode_threads: usize,
    /// Bytes of memory that decoding may take over all pictures; more pictures wait, and one that alone takes more is refused
    /// with RESOURCE_EXHAUSTED. 0 means an eighth of the memory that the process may use, and 320 MiB at least
    #[arg(long, env = "HEADSWAP_DECODE_BYTES_MAX", default_value_t = 0)]
    pub decode_bytes_max: u64,
    /// Pixels of a picture at most, before resizing
    #[arg(long, env = "HEADSWAP_IMAGE_PIXELS_MAX", default_value_t = 64 * 1024 * 1024)]
    pub image_pixels_max: u64,
    /// Whether a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size (DCT scaling), for less time and memory
    #[arg(long, env = "HEADSWAP_JPEG_SCALING", value_enum, default_value = "off")]
    pub jpeg_scaling: JpegScaling,
}

impl PictureArgs {
    /// How many pictures are decoded at the same time on these cores. Where the forward pass runs on them, too, its threads
    /// wait for each other: better that one of them be interrupted at a time than all.
    pub(crate) fn decoders(&self, cores: usize, on_cpu: bool) -> usize {
        match self.decode_threads {
            0 if on_cpu => (cores / 2).max(1),
            0 => cores,
            threads => threads,
        }
    }

    /// The memory that decoding may take in all.
    pub(crate) fn decode_memory(&self) -> u64 {
        match self.decode_bytes_max {
            0 => (memory::available() / 8).max(320 << 20),
            bytes => bytes,
        }
    }

    /// What decoding needs to know.
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

    #[test]
    fn decoders_leave_half_of_the_cores_to_a_forward_pass_on_them() {
        let decoders = |threads: &str, cores, on_cpu| {
            let line = Line::parse_from(["serve", "--decode-threads", threads]);
            line.args.decoders(cores, on_cpu)
        };
        for (cores, beside, among) in [(1, 1, 1), (2, 2, 1), (16, 16, 8)] {
            assert_eq!(
                (decoders("0", cores, false), decoders("0", cores, true)),
                (beside, among)
            );
            assert_eq!((decoders("3", cores, false), decoders("3", cores, true)), (3, 3));
        }
    }
}
