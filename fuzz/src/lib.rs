//! The properties of the readers of weights and pictures that hold for any bytes. The fuzz targets check them, and tests
//! check them on the seeds.

mod allocator;
mod check;
mod check_picture;
mod container;

pub use check::check;
pub use check_picture::check_picture;
pub use container::archive;
