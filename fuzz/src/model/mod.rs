//! The files under test, where they expect to be.

#[path = "../../../src/model/checkpoint/mod.rs"]
pub mod checkpoint;
#[path = "../../../src/model/digest.rs"]
pub mod digest;
#[path = "../../../src/model/pace.rs"]
pub mod pace;
#[path = "../../../src/model/tensor.rs"]
pub mod tensor;
