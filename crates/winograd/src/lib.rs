//! VGG16's forward pass on a CPU, layer by layer, without a deep-learning library.
//!
//! 3x3 convolutions use Winograd's minimal filtering F(4x4, 3x3), with a quarter of the multiplications; bias, ReLU and
//! 2x2 max pooling are fused. Linears fuse bias and ReLU. Weights are transformed and packed once, and only the packed
//! copy is kept. A layer's [`Bias`] is separate, so that layers may share a weight. Layers multiply in f32, or in
//! 16-bit integers with scales ([`Precision`]).
//!
//! ```
//! use winograd::{Bias, Engine, Maps, Normalisation, PackedConv, PackedLinear, Precision};
//!
//! let mut engine = Engine::new(2);
//! let conv1 = PackedConv::new(&[0.1; 16 * 3 * 9], 16, Precision::Integer);
//! let conv2 = PackedConv::new(&[0.1; 16 * 16 * 9], 16, Precision::Integer);
//! let linear = PackedLinear::new(&vec![0.1; 5 * 16 * 112 * 112], 5, Precision::Integer);
//! let (bias, last_bias) = (Bias::new(&[0.0; 16]), Bias::new(&[0.0; 5]));
//!
//! let (mut a, mut b) = (Maps::default(), Maps::default());
//! let normalisation = Normalisation::new(224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
//! normalisation.apply(&vec![128; 2 * 224 * 224 * 3], &mut a, &mut engine);
//! conv1.forward(&a, &bias, false, &mut b, &mut engine);
//! conv2.forward(&b, &bias, true, &mut a, &mut engine);
//! let (mut rows, mut results) = (Vec::new(), Vec::new());
//! a.select_rows(&[1]).flatten(&mut rows);
//! linear.forward(&rows, &last_bias, false, &mut results, &mut engine);
//! assert_eq!(results.len(), 5);
//! ```
//!
//! # What holds
//! 1. An image's maps and a row's results have the same bits in every batch and for any number of threads: each number
//!    is one sum in a fixed order, and each scale of integers belongs to one tile
//!    (`an_image_is_the_same_in_every_batch`, `a_row_is_the_same_in_every_batch`,
//!    `logits_have_the_same_bits_by_any_number_of_threads`).
//! 2. Integer sums cannot overflow (`integer_sums_do_not_overflow`; arithmetic at `input::LENGTH`).
//! 3. NaN or infinity in the input makes the result non-finite (`what_is_not_finite_reaches_the_result`).
//! 4. Every instruction set (AVX-512 with and without VNNI, AVX2, plain Rust) passes every test; the best that the CPU
//!    has is chosen at run time.
//! 5. After a first pass with the largest batch, only [`Maps::select_rows`] allocates
//!    (`a_second_pass_allocates_nothing`).
//! 6. No packed weight is subnormal (`no_packed_weight_is_subnormal`).
//! 7. A panic in one or more threads reaches the caller once, and the pool stays usable
//!    (`a_panic_reaches_the_caller_once_and_the_next_piece_works`).
//!
//! # Modules
//! `simd` abstracts instruction sets, and every kernel is written once against it; `tile` holds Winograd's matrices;
//! `input`, `product` and `output` are the three steps; `plan` decides the order in which `winograd` runs them.
//! `buffer`, `pool`, `affinity` and `subnormal` depend on none of these, `maps` only on their constants.

mod affinity;
mod bias;
mod buffer;
mod conv;
mod direct;
mod engine;
mod filters;
mod grid;
mod groups;
mod input;
mod linear;
mod maps;
mod multiply;
mod normalisation;
mod output;
mod plan;
mod pool;
mod product;
mod simd;
mod subnormal;
mod tile;
mod winograd;

pub use bias::Bias;
pub use conv::{PackedConv, Precision};
pub use engine::Engine;
pub use linear::PackedLinear;
pub use maps::Maps;
pub use normalisation::Normalisation;
pub use pool::Pool;
pub use simd::Isa;
pub use subnormal::flush_subnormal;
