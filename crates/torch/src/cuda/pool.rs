//! `pool.cu` as Rust sees it.

use tch::{Kind, Tensor};

use super::shim::{Shim, check};
use crate::accelerator::torch_max_pool;
use crate::error::Result;

/// What CUDA's compiler made of `pool.cu`, for the driver to compile further; a C string.
const PTX: &str = concat!(include_str!("pool.ptx"), "\0");

/// The kernel.
pub(super) struct PoolKernel {
    shim: &'static Shim,
    kernel: usize,
}

impl PoolKernel {
    pub fn load(shim: &'static Shim) -> Result<Self> {
        let mut kernel = std::ptr::null_mut();
        // SAFETY: the text ends with a zero, and there is room for one pointer.
        check(unsafe { (shim.kernel_load)(PTX.as_ptr().cast(), &raw mut kernel) })?;
        Ok(Self {
            shim,
            kernel: kernel.expose_provenance(),
        })
    }

    /// 2x2 max pooling of `[N, C, H, W]`, which is not negative, by the kernel if it takes them: 16-bit floats, channels
    /// last, of which there are a multiple of eight. Else by libtorch.
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
        // SAFETY: both tensors are contiguous memory of the device with the sizes that the kernel is told, and aligned as
        // libtorch aligns. The kernel runs in the stream in which they were taken.
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
