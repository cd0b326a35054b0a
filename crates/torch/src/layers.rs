//! What comes after the convolutions and has no parameters, or one for each number, by libtorch's operations.

use headswap_model::BackendError;
use headswap_spec::{GeluKind, HeadInput, HeadLayer};
use tch::{Kind, Tensor};

use crate::error::Result;

/// The side of the map that enters `classifier.0`.
const POOLED_SIDE: i64 = 7;
/// PyTorch's smallest divisor of `normalize`.
const LENGTH_MIN: f64 = 1e-12;

/// Returns the vectors that `input` makes of maps, `[rows, channels, height, width]`.
pub(super) fn pool(input: HeadInput, maps: &Tensor) -> Result<Tensor> {
    Ok(match input {
        HeadInput::Flatten => flatten(maps)?,
        HeadInput::FlattenHwc => flatten(&maps.f_permute([0, 2, 3, 1])?)?,
        HeadInput::Adaptive7x7 | HeadInput::Features => {
            if maps.size()[2..] == [POOLED_SIDE; 2] {
                flatten(maps)?
            } else {
                flatten(&maps.f_adaptive_avg_pool2d([POOLED_SIDE; 2])?)?
            }
        }
        HeadInput::GlobalAverage => average(maps)?,
        HeadInput::GlobalMax => maps.f_amax([2, 3], false)?,
        HeadInput::GlobalMaxAverage => Tensor::f_cat(&[maps.f_amax([2, 3], false)?, average(maps)?], 1)?,
    })
}

/// Channels first, as Linears were trained.
fn flatten(maps: &Tensor) -> Result<Tensor> {
    Ok(maps.f_contiguous()?.f_flatten(1, -1)?)
}

fn average(maps: &Tensor) -> Result<Tensor> {
    Ok(maps.f_mean_dim([2i64, 3].as_slice(), false, maps.kind())?)
}

/// Returns rows, `[rows, width]`, after a layer without parameters. It is computed in f32 and rounded once.
pub(super) fn layer(layer: HeadLayer, rows: &Tensor) -> Result<Tensor> {
    let x = rows.f_to_kind(Kind::Float)?;
    let y = match layer {
        HeadLayer::Linear | HeadLayer::BatchNorm(_) | HeadLayer::Affine => {
            return Err(BackendError::Misfit(format!("the layer {} has no parameters", layer.name())).into());
        }
        HeadLayer::Relu => x.f_relu()?,
        HeadLayer::LeakyRelu(slope) => {
            let negative = x.f_clamp_max(0.0)?.f_mul_scalar(number(slope))?;
            x.f_clamp_min(0.0)?.f_add(&negative)?
        }
        HeadLayer::Elu(alpha) => {
            let negative = x.f_clamp_max(0.0)?.f_expm1()?.f_mul_scalar(number(alpha))?;
            x.f_clamp_min(0.0)?.f_add(&negative)?
        }
        HeadLayer::Gelu(Some(GeluKind::Tanh)) => x.f_gelu("tanh")?,
        HeadLayer::Gelu(_) => x.f_gelu("none")?,
        HeadLayer::Silu => x.f_silu()?,
        HeadLayer::Tanh => x.f_tanh()?,
        HeadLayer::Sigmoid => x.f_sigmoid()?,
        HeadLayer::L2Normalise => {
            let squares = x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?;
            x.f_div(&squares.f_sqrt()?.f_clamp_min(LENGTH_MIN)?)?
        }
    };
    Ok(y.f_to_kind(rows.kind())?)
}

fn number(number: Option<f32>) -> f64 {
    f64::from(number.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::to_host;
    use headswap_model::{apply_layer, pool_maps};

    fn check(got: &Tensor, want: &[f32], what: &str) {
        let got = to_host(got).unwrap();
        assert_eq!(got.len(), want.len(), "{what}");
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{what}: {got} {want}");
        }
    }

    #[test]
    fn maps_become_the_vectors_that_the_native_backend_makes() {
        for [height, width] in [[7, 7], [4, 9], [1, 1]] {
            let (rows, channels) = (2, 3);
            let area = channels * height * width;
            let numbers: Vec<f32> = (0..rows * area).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let shape = [rows, channels, height, width].map(|side| side as i64);
            let maps = Tensor::from_slice(&numbers).reshape(shape);
            // Channels last in memory, as convolutions return them.
            let maps = maps.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            for input in HeadInput::ALL {
                let mut want = Vec::new();
                for maps in numbers.chunks_exact(area) {
                    pool_maps(input, maps, [height, width], &mut want);
                }
                check(
                    &pool(input, &maps).unwrap(),
                    &want,
                    &format!("{input:?} of {height}x{width}"),
                );
            }
        }
    }

    #[test]
    fn layers_equal_those_of_the_native_backend() {
        let numbers = [-2.0, 0.0, 1.5, 0.25, -0.5, 3.0, 0.0, 0.0, 0.0];
        for kind in [
            HeadLayer::Relu,
            HeadLayer::LeakyRelu(Some(0.2)),
            HeadLayer::Elu(Some(0.7)),
            HeadLayer::Gelu(Some(GeluKind::Exact)),
            HeadLayer::Gelu(Some(GeluKind::Tanh)),
            HeadLayer::Silu,
            HeadLayer::Tanh,
            HeadLayer::Sigmoid,
            HeadLayer::L2Normalise,
        ] {
            let mut want = numbers;
            apply_layer(kind, &mut want, 3);
            let rows = Tensor::from_slice(&numbers).reshape([3, 3]);
            check(&layer(kind, &rows).unwrap(), &want, kind.name());
            let rounded = layer(kind, &rows.to_kind(Kind::BFloat16)).unwrap();
            assert_eq!(rounded.kind(), Kind::BFloat16);
        }
    }
}
