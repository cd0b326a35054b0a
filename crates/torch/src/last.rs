//! The last Linears of a batch's heads, in few products for any number of heads.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use headswap_checkpoint::HostTensor;
use headswap_model::{BackendError, LeafRows};
use tch::{Kind, Tensor};

use super::host::HostProducts;
use super::placement::{PlacedTensor, Placement};
use super::rows::to_host;
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
        if !placement.gpu {
            let (weight, bias) = (Arc::clone(weight), Arc::clone(bias));
            return Ok(Self::Host { weight, bias });
        }
        Ok(Self::Device {
            weight: placement.place(weight)?,
            bias: placement.place(bias)?,
        })
    }

    /// Returns the numbers of a row that it takes.
    pub fn inputs(&self) -> i64 {
        match self {
            Self::Host { weight, .. } => weight.shape.last().map_or(0, |&inputs| inputs as i64),
            Self::Device { weight, .. } => weight.handle().size()[1],
        }
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

/// A head's last Linear, and the rows that it computes.
pub(super) type HeadLeaf<'a> = (&'a LastLinear, &'a LeafRows);

impl LastProducts {
    /// Computes each head's logits of its rows of a leaf, `[rows, width]`; on the CPU by `host`.
    pub fn of(leaves: &[Tensor], heads: &[HeadLeaf<'_>], host: &mut HostProducts) -> Result<Self> {
        if matches!(heads.first(), Some((LastLinear::Host { .. }, _))) {
            return Ok(Self::Host(on_host(leaves, heads, host)?));
        }
        Self::on_device(leaves, heads)
    }

    fn on_device(leaves: &[Tensor], heads: &[HeadLeaf<'_>]) -> Result<Self> {
        let mut by_width: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (head, (_, rows)) in heads.iter().enumerate() {
            by_width.entry(leaves[rows.leaf].size()[1]).or_default().push(head);
        }
        let mut products = Vec::new();
        for same_width in by_width.into_values() {
            let (rows, firsts) = joined(leaves, heads, &same_width)?;
            let mut linears = Vec::with_capacity(same_width.len());
            for head in same_width {
                let (LastLinear::Device { weight, bias }, own) = heads[head] else {
                    return Err(BackendError::ForeignHead.into());
                };
                let first = firsts[&own.leaf];
                linears.push(PlacedLinear {
                    head,
                    weight: weight.handle(),
                    bias: bias.handle(),
                    rows: own.positions.iter().map(|position| first + position).collect(),
                });
            }
            add_products(&rows, linears, &mut products)?;
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

/// A head's last Linear on the device, and its rows of a product.
struct PlacedLinear {
    head: usize,
    weight: Tensor,
    bias: Tensor,
    rows: Vec<usize>,
}

/// Adds the products of rows with the last Linears of some heads.
fn add_products(rows: &Tensor, linears: Vec<PlacedLinear>, products: &mut Vec<Product>) -> Result<()> {
    let (gathered, separate): (Vec<PlacedLinear>, Vec<PlacedLinear>) = linears
        .into_iter()
        .partition(|linear| linear.bias.numel() <= GATHERED_CLASSES_MAX);
    for linear in separate {
        let part = Part {
            head: linear.head,
            rows: linear.rows,
            classes: 0..linear.bias.numel(),
        };
        products.push(Product::new(rows, &linear.weight, &linear.bias, vec![part])?);
    }
    if gathered.is_empty() {
        return Ok(());
    }
    // All rows times the weights of all these heads. Each head's part is its own rows and classes.
    let (mut weights, mut biases, mut parts, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for linear in gathered {
        let classes = first..first + linear.bias.numel();
        first = classes.end;
        parts.push(Part {
            head: linear.head,
            rows: linear.rows,
            classes,
        });
        weights.push(linear.weight);
        biases.push(linear.bias);
    }
    let (weights, biases) = (Tensor::f_cat(&weights, 0)?, Tensor::f_cat(&biases, 0)?);
    products.push(Product::new(rows, &weights, &biases, parts)?);
    Ok(())
}

/// Returns the leaves of some heads in one tensor, and where each leaf begins in it.
fn joined(leaves: &[Tensor], heads: &[HeadLeaf<'_>], some: &[usize]) -> Result<(Tensor, BTreeMap<usize, usize>)> {
    let (mut firsts, mut parts, mut first) = (BTreeMap::new(), Vec::new(), 0);
    for &head in some {
        let leaf = heads[head].1.leaf;
        if let Entry::Vacant(entry) = firsts.entry(leaf) {
            entry.insert(first);
            first += leaves[leaf].size()[0] as usize;
            parts.push(&leaves[leaf]);
        }
    }
    let rows = match parts[..] {
        [one] => one.shallow_clone(),
        _ => Tensor::f_cat(&parts, 0)?,
    };
    Ok((rows, firsts))
}

/// Computes each head's logits on the CPU.
fn on_host(leaves: &[Tensor], heads: &[HeadLeaf<'_>], host: &mut HostProducts) -> Result<Vec<Vec<f32>>> {
    let mut read: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    for (_, rows) in heads {
        if let Entry::Vacant(leaf) = read.entry(rows.leaf) {
            leaf.insert(to_host(&leaves[rows.leaf])?);
        }
    }
    let mut logits = Vec::with_capacity(heads.len());
    for (last, rows) in heads {
        let LastLinear::Host { weight, bias } = last else {
            return Err(BackendError::ForeignHead.into());
        };
        let (numbers, width) = (&read[&rows.leaf], leaves[rows.leaf].size()[1] as usize);
        logits.push(host.linear(weight, &bias.values, rows.positions.len(), |row| {
            &numbers[rows.positions[row] * width..][..width]
        }));
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn host(shape: &[usize], seed: usize) -> Arc<HostTensor> {
        let count = shape.iter().product();
        let values = (0..count)
            .map(|index: usize| ((index * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
            .collect();
        Arc::new(HostTensor::new(shape.to_vec(), values))
    }

    fn on_cpu(tensor: &HostTensor) -> Tensor {
        let shape: Vec<i64> = tensor.shape.iter().map(|&size| size as i64).collect();
        Tensor::from_slice(&tensor.values).reshape(shape)
    }

    fn compute(leaves: &[Tensor], heads: &[LastLinear], rows: &[LeafRows]) -> LastProducts {
        let heads: Vec<HeadLeaf<'_>> = heads.iter().zip(rows).collect();
        LastProducts::of(leaves, &heads, &mut HostProducts::new(1)).unwrap()
    }

    /// Small heads in one product and large ones in their own, over rows that overlap, of leaves of two widths.
    #[test]
    fn gathered_products_equal_those_of_each_head() {
        let device = Placement {
            device: Device::Cpu,
            kind: Kind::Float,
            gpu: true,
        };
        let leaves = [host(&[5, 96], 1), host(&[2, 40], 2), host(&[3, 96], 3)];
        let asked: [(usize, usize, &[usize]); 8] = [
            (3, 0, &[0, 4]),
            (64, 0, &[1, 2, 3]),
            (65, 0, &[0, 1, 2, 3, 4]),
            (7, 1, &[1]),
            (200, 0, &[2]),
            (1, 0, &[2, 3]),
            (5, 2, &[0, 2]),
            (70, 2, &[1]),
        ];
        let (mut placed, mut on_host, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (seed, (classes, leaf, positions)) in asked.into_iter().enumerate() {
            let width = leaves[leaf].shape[1];
            let (weight, bias) = (host(&[classes, width], seed + 2), host(&[classes], seed + 20));
            placed.push(LastLinear::place(device, &weight, &bias).unwrap());
            on_host.push(LastLinear::Host { weight, bias });
            rows.push(LeafRows {
                leaf,
                positions: positions.to_vec(),
            });
        }
        let tensors = leaves.map(|leaf| on_cpu(&leaf));
        let (got, want) = (compute(&tensors, &placed, &rows), compute(&tensors, &on_host, &rows));
        assert!(matches!(&got, LastProducts::Device(8, products) if products.len() == 5));
        for (got, want) in got.read().unwrap().iter().zip(want.read().unwrap()) {
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}
