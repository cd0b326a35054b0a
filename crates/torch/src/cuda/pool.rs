//! The interface to `pool.cu`.

use tch::{Kind, Tensor};

use super::shim::{Shim, check};
use crate::accelerator::torch_max_pool;
use crate::error::Result;

/// The PTX of `pool.cu`, which the driver compiles; a C string.
const PTX: &str = concat!(include_str!("pool.ptx"), "\0");

/// The kernel.
pub(super) struct PoolKernel {
    shim: &'static Shim,
    kernel: usize,
}

impl PoolKernel {
    pub fn load(shim: &'static Shim) -> Result<Self> {
        let mut kernel = std::ptr::null_mut();
        // SAFETY: the text ends with a zero, and the function writes one pointer.
        check(unsafe { (shim.kernel_load)(PTX.as_ptr().cast(), &raw mut kernel) })?;
        Ok(Self {
            shim,
            kernel: kernel.expose_provenance(),
        })
    }

    /// Returns the 2x2 max pooling of `[N, C, H, W]`, which must not be negative. The kernel computes maps of 16-bit floats,
    /// channels last, whose sides are even and whose channels are a multiple of eight; libtorch computes others.
    pub fn run(&self, maps: &Tensor) -> Result<Tensor> {
        let input = maps.f_permute([0, 2, 3, 1])?;
        let &[pictures, height, width, channels] = &input.size()[..] else {
            return torch_max_pool(maps);
        };
        let fits = matches!(maps.kind(), Kind::Half | Kind::BFloat16)
            && input.is_contiguous()
            && (height % 2, width % 2, channels % 8) == (0, 0, 0);
        if !fits {
            return torch_max_pool(maps);
        }
        let (rows, columns) = (pictures * height / 2, width / 2);
        let output = Tensor::f_empty([pictures, height / 2, columns, channels], (maps.kind(), maps.device()))?;
        // SAFETY: both tensors are contiguous device memory of the sizes passed, with libtorch's alignment. The kernel runs
        // in the stream in which they were allocated.
        check(unsafe {
            (self.shim.kernel_run)(
                std::ptr::with_exposed_provenance_mut(self.kernel),
                input.data_ptr(),
                output.data_ptr(),
                rows as u32,
                columns as u32,
                channels as u32,
            )
        })?;
        Ok(output.f_permute([0, 3, 1, 2])?)
    }
}
