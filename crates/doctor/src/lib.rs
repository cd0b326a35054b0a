//! Finds out how the pictures of a fine-tuned VGG16 were prepared, by its answers to pictures of which something is known.
//! Pure: it computes no network.
//!
//! A [`Space`] has the preprocessings that training scripts use, as products of their parts. [`Search`] says which to try next,
//! [`Evidence`] holds the answers and how well they fit, and [`diagnose`] says what follows.

mod evidence;
mod search;
mod space;
mod truth;
mod verdict;

pub use evidence::{AGREES, Evidence, Fit, Logits};
pub use search::{Search, Trial};
pub use space::{Colour, Geometry, Recipe, Space};
pub use truth::{Order, Truth, answers};
pub use verdict::{Candidate, Diagnosis, Verdict, diagnose, half_width, interval};
