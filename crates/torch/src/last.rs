//! The last Linears of a batch's heads, in few products for any number of heads.

use std::ops::Range;
use std::sync::Arc;

use headswap_checkpoint::HostTensor;
use headswap_model::{BackendError, HeadProduct, HostLinear};
use tch::{Device, Kind, Tensor};
use winograd::Pool;

use super::placement::{PlacedTensor, Placement};
use crate::error::Result;

/// On a GPU, heads of up to this many classes are gathered into one product over all rows. The unused results cost
/// little: 256 rows by 256 heads of 64 classes are 17 GFLOP, half of one picture's. Selecting rows would need
/// host–device synchronisation.
const GATHERED_CLASSES_MAX: usize = 64;

/// A head's last Linear.
pub(super) enum LastLinear {
    /// In host memory, in f32 for any element type of the backbone: it is small, and f32 is exact.
    Host {
        /// `[K, width]`.
        weight: Arc<HostTensor>,
        /// `[K]`.
        bias: Arc<HostTensor>,
    },
    /// In device memory.
    Device {
        /// `[K, width]`.
        weight: PlacedTensor,
        /// `[K]`.
        bias: PlacedTensor,
    },
}

impl LastLinear {
    pub fn place(placement: Placement, weight: &Arc<HostTensor>, bias: &Arc<HostTensor>) -> Result<Self> {
        if placement.device == Device::Cpu {
            let (weight, bias) = (Arc::clone(weight), Arc::clone(bias));
            return Ok(Self::Host { weight, bias });
        }
        Ok(Self::Device {
            weight: placement.place(weight)?,
            bias: placement.place(bias)?,
        })
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Host { weight, bias } => weight.bytes() + bias.bytes(),
            Self::Device { weight, bias } => weight.bytes() + bias.bytes(),
        }
    }
}

/// The logits of a batch's heads, which the device may still be computing.
pub(super) enum LastProducts {
    /// `[rows, classes]` of each head.
    Host(Vec<Vec<f32>>),
    /// On a GPU: the number of heads, and products in f32.
    Device(usize, Vec<Product>),
}

/// A product, `[rows, columns]`, and the parts of it that are heads' logits.
pub(super) struct Product {
    product: Tensor,
    parts: Vec<Part>,
}

struct Part {
    head: usize,
    rows: Vec<usize>,
    classes: Range<usize>,
}

impl LastProducts {
    /// Computes each head's logits of its rows of `features`; on the CPU by `host`.
    pub fn of(features: &Tensor, heads: &[(&LastLinear, &[usize])], host: &mut HostProducts) -> Result<Self> {
        if features.device() == Device::Cpu {
            return Ok(Self::Host(host.compute(features, heads)?));
        }
        Self::on_device(features, heads)
    }

    fn on_device(features: &Tensor, heads: &[(&LastLinear, &[usize])]) -> Result<Self> {
        let mut placed = Vec::with_capacity(heads.len());
        for (last, _) in heads {
            let LastLinear::Device { weight, bias } = last else {
                return Err(BackendError::ForeignHead.into());
            };
            placed.push((weight.handle(), bias.handle()));
        }
        let (gathered, separate): (Vec<usize>, Vec<usize>) =
            (0..heads.len()).partition(|&head| placed[head].1.numel() <= GATHERED_CLASSES_MAX);

        let mut products = Vec::new();
        for head in separate {
            let (weight, bias) = &placed[head];
            let part = Part {
                head,
                rows: heads[head].1.to_vec(),
                classes: 0..bias.numel(),
            };
            products.push(Product::new(features, weight, bias, vec![part])?);
        }
        if !gathered.is_empty() {
            // All rows times the weights of all these heads. Each head's part is its own rows and classes.
            let (mut weights, mut biases, mut parts, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for head in gathered {
                let (weight, bias) = &placed[head];
                let classes = first..first + bias.numel();
                first = classes.end;
                let rows = heads[head].1.to_vec();
                parts.push(Part { head, rows, classes });
                weights.push(weight);
                biases.push(bias);
            }
            let (weights, biases) = (Tensor::f_cat(&weights, 0)?, Tensor::f_cat(&biases, 0)?);
            products.push(Product::new(features, &weights, &biases, parts)?);
        }
        Ok(Self::Device(heads.len(), products))
    }

    /// Waits for the logits and returns them: `[rows, classes]` of each head.
    pub fn read(self) -> Result<Vec<Vec<f32>>> {
        let (heads, products) = match self {
            Self::Host(logits) => return Ok(logits),
            Self::Device(heads, products) => (heads, products),
        };
        let mut logits = vec![Vec::new(); heads];
        for Product { product, parts } in products {
            let columns = product.size()[1] as usize;
            let product = to_host(&product)?;
            for Part { head, rows, classes } in parts {
                for row in rows {
                    let row = &product[row * columns..(row + 1) * columns];
                    logits[head].extend_from_slice(&row[classes.clone()]);
                }
            }
        }
        Ok(logits)
    }
}

impl Product {
    fn new(rows: &Tensor, weight: &Tensor, bias: &Tensor, parts: Vec<Part>) -> Result<Self> {
        let product = rows.f_linear(weight, Some(bias))?.f_to_kind(Kind::Float)?;
        Ok(Self { product, parts })
    }
}

/// Computes last Linears on the CPU, on threads of its own.
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

    fn compute(&mut self, features: &Tensor, heads: &[(&LastLinear, &[usize])]) -> Result<Vec<Vec<f32>>> {
        let width = features.size()[1] as usize;
        let features = to_host(features)?;
        let mut logits = Vec::with_capacity(heads.len());
        for (last, rows) in heads {
            let LastLinear::Host { weight, bias } = last else {
                return Err(BackendError::ForeignHead.into());
            };
            let mut own = Vec::new();
            let product = HeadProduct {
                weight,
                bias: &bias.values,
                rows: rows.len(),
                row: |row| &features[rows[row] * width..][..width],
            };
            self.linear.compute(&product, &mut own, &mut self.pool);
            logits.push(own);
        }
        Ok(logits)
    }
}

/// Returns these rows of a tensor; without a copy if they are all of its rows. `rows` must be ascending and distinct.
pub(super) fn select(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    if rows.len() as i64 == tensor.size()[0] {
        return Ok(tensor.shallow_clone());
    }
    let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let indices = Tensor::f_from_slice(&indices)?.f_to_device(tensor.device())?;
    Ok(tensor.f_index_select(0, &indices)?)
}

/// Returns a tensor's values in f32, row-major.
pub(super) fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor
        .f_to_kind(Kind::Float)?
        .f_to_device(Device::Cpu)?
        .f_contiguous()?;
    let mut values = vec![0f32; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(shape: &[usize], seed: usize) -> Arc<HostTensor> {
        let count = shape.iter().product();
        let values = (0..count)
            .map(|index: usize| ((index * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
            .collect();
        Arc::new(HostTensor::new(shape.to_vec(), values))
    }

    /// Small heads in one product and large ones in their own, over rows that overlap.
    #[test]
    fn gathered_products_equal_those_of_each_head() {
        let (rows, width) = (5, 96);
        let features = host(&[rows, width], 1);
        let device = Placement {
            device: Device::Cpu,
            kind: Kind::Float,
            folded: true,
        };
        let asked: [(usize, &[usize]); 5] = [
            (3, &[0, 4]),
            (64, &[1, 2, 3]),
            (65, &[0, 1, 2, 3, 4]),
            (200, &[2]),
            (1, &[2, 3]),
        ];
        let heads: Vec<_> = asked
            .iter()
            .enumerate()
            .map(|(seed, (classes, _))| (host(&[*classes, width], seed + 2), host(&[*classes], seed + 20)))
            .collect();
        let placed: Vec<LastLinear> = heads
            .iter()
            .map(|(weight, bias)| LastLinear::Device {
                weight: device.place(weight).unwrap(),
                bias: device.place(bias).unwrap(),
            })
            .collect();
        let batch: Vec<_> = placed.iter().zip(asked).map(|(head, (_, rows))| (head, rows)).collect();
        let tensor = Tensor::from_slice(&features.values).reshape([rows as i64, width as i64]);
        let logits = LastProducts::on_device(&tensor, &batch).unwrap().read().unwrap();
        for (((weight, bias), (_, rows)), logits) in heads.into_iter().zip(asked).zip(logits) {
            let alone = HostProducts::new(1).compute(&tensor, &[(&LastLinear::Host { weight, bias }, rows)]);
            let alone = alone.unwrap();
            assert_eq!(alone[0].len(), logits.len());
            for (got, want) in logits.iter().zip(&alone[0]) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}
