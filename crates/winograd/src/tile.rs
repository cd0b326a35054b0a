//! Winograd's minimal filtering F(4x4, 3x3): 36 products where the direct sum takes 144.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016: the output tile is
//! `At [(G g Gt) * (Bt d B)] A` for a filter g (3x3) and an input tile d (6x6). The matrices here follow Cook and Toom's
//! construction at the points 0, ±√½, ±√2 and infinity instead of the usual 0, ±1, ±2: the rounding of products to
//! 16 bits then disturbs the result less than half as much (scripts/points.py), for the same number of operations.
//!
//! With f(x) = x (x² - ½) (x² - 2) = x⁵ - 2.5 x³ + x:
//! row p of Bt is f(x) / (x - p), row p of G is (1, p, p²) / f'(p), column p of At is (1, p, p², p³).

use crate::simd::Simd;

/// Rows and columns of a tile of output.
pub const TILE: usize = 4;
/// Rows and columns of the tile of input that it depends on.
pub const WINDOW: usize = TILE + 2;
/// Products of a tile.
pub const PRODUCTS: usize = WINDOW * WINDOW;

/// √½
const P: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// √2
const Q: f64 = std::f64::consts::SQRT_2;

/// G, where f'(0) = 1, f'(±P) = 2 P² (P² - Q²) = -1.5 and f'(±Q) = 2 Q² (Q² - P²) = 6.
const G: [[f64; 3]; WINDOW] = [
    [1.0, 0.0, 0.0],
    [1.0 / -1.5, P / -1.5, 0.5 / -1.5],
    [1.0 / -1.5, -P / -1.5, 0.5 / -1.5],
    [1.0 / 6.0, Q / 6.0, 2.0 / 6.0],
    [1.0 / 6.0, -Q / 6.0, 2.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// G g Gt of one filter (3x3, row by row), in f64.
pub fn transform_filter(filter: &[f32]) -> [f64; PRODUCTS] {
    let dot = |g: &[f64; 3], column: [f64; 3]| g[0] * column[0] + g[1] * column[1] + g[2] * column[2];
    let value = |row: usize, column: usize| f64::from(filter[row * 3 + column]);
    let columns: [[f64; WINDOW]; 3] =
        std::array::from_fn(|x| std::array::from_fn(|i| dot(&G[i], [value(0, x), value(1, x), value(2, x)])));
    std::array::from_fn(|k| {
        let (i, j) = (k / WINDOW, k % WINDOW);
        dot(&G[j], [columns[0][i], columns[1][i], columns[2][i]])
    })
}

/// Loads six vectors whose starts lie `step` numbers apart. Unrolled by hand, like [`across`], because an array filled
/// in a loop must be initialised first, which doubles the stores.
///
/// # Safety
/// Each of the six is valid for reading sixteen numbers.
#[inline(always)]
pub unsafe fn load_six<S: Simd>(s: S, from: *const f32, step: usize) -> [S::Floats; WINDOW] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        [
            s.load(from),
            s.load(from.add(step)),
            s.load(from.add(2 * step)),
            s.load(from.add(3 * step)),
            s.load(from.add(4 * step)),
            s.load(from.add(5 * step)),
        ]
    }
}

/// Row `y` of six columns.
#[inline(always)]
pub fn across<T: Copy, const N: usize>(columns: &[[T; N]; WINDOW], y: usize) -> [T; WINDOW] {
    let [a, b, c, d, e, f] = columns;
    [a[y], b[y], c[y], d[y], e[y], f[y]]
}

/// Bt d for one column d (or d B for a row).
#[inline(always)]
pub fn transform_input<S: Simd>(s: S, d: [S::Floats; WINDOW]) -> [S::Floats; WINDOW] {
    let (p, q) = (s.splat(P as f32), s.splat(Q as f32));
    let (half, two, middle) = (s.splat(0.5), s.splat(2.0), s.splat(2.5));
    // Rows ±P are d4 - 2 d2 ± P (d3 - 2 d1), rows ±Q are d4 - ½ d2 ± Q (d3 - ½ d1).
    let (even_p, odd_p) = (s.neg_mul_add(two, d[2], d[4]), s.neg_mul_add(two, d[1], d[3]));
    let (even_q, odd_q) = (s.neg_mul_add(half, d[2], d[4]), s.neg_mul_add(half, d[1], d[3]));
    [
        s.neg_mul_add(middle, d[2], s.add(d[0], d[4])),
        s.mul_add(p, odd_p, even_p),
        s.neg_mul_add(p, odd_p, even_p),
        s.mul_add(q, odd_q, even_q),
        s.neg_mul_add(q, odd_q, even_q),
        s.neg_mul_add(middle, d[3], s.add(d[1], d[5])),
    ]
}

/// At m for one column m (or m A for a row).
#[inline(always)]
pub fn transform_output<S: Simd>(s: S, m: [S::Floats; WINDOW]) -> [S::Floats; TILE] {
    let (p, q) = (s.splat(P as f32), s.splat(Q as f32));
    let (p3, q3) = (s.splat((P * 0.5) as f32), s.splat((Q * 2.0) as f32));
    let (half, two) = (s.splat(0.5), s.splat(2.0));
    let (even_p, odd_p) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (even_q, odd_q) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(m[0], s.add(even_p, even_q)),
        s.mul_add(p, odd_p, s.mul(q, odd_q)),
        s.mul_add(half, even_p, s.mul(two, even_q)),
        s.mul_add(p3, odd_p, s.mul_add(q3, odd_q, m[5])),
    ]
}
