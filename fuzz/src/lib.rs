//! The properties of the readers of weights, pictures and specs that hold for any bytes. The fuzz targets check them, and tests
//! check them on the seeds.

mod allocator;
mod check;
mod check_hdf5;
mod check_head;
mod check_keras;
mod check_picture;
mod check_spec;
mod container;

pub use check::check;
pub use check_hdf5::check_hdf5;
pub use check_head::check_head;
pub use check_keras::check_keras;
pub use check_picture::check_picture;
pub use check_spec::check_spec;
pub use container::archive;
