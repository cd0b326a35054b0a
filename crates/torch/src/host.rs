//! Linears that our own code computes on the CPU, in f32.

use headswap_checkpoint::HostTensor;
use headswap_model::{HeadProduct, HostLinear};
use winograd::Pool;

/// Computes heads' Linears on the CPU, on threads of its own. A result has the same bits in every batch.
pub(super) struct HostProducts {
    linear: HostLinear,
    pool: Pool,
}

impl HostProducts {
    pub fn new(threads: usize) -> Self {
        Self {
            linear: HostLinear::default(),
            pool: Pool::new(threads),
        }
    }

    /// Returns the results of a Linear, `[rows, K]`. `row` returns a row of its input.
    pub fn linear<'a, R>(&mut self, weight: &HostTensor, bias: &[f32], rows: usize, row: R) -> Vec<f32>
    where
        R: Fn(usize) -> &'a [f32] + Sync,
    {
        let product = HeadProduct {
            weight,
            bias,
            rows,
            row,
        };
        let mut results = Vec::new();
        self.linear.compute(&product, &mut results, &mut self.pool);
        results
    }
}
