//! A client of a Headswap server: connections, and heads on their way to it.

mod connect;
mod error;
mod head_file;
mod labels;
mod progress;
mod upload;

pub use connect::{Admin, Classifier, connect_admin, connect_classifier};
pub use error::{ClientError, describe_status};
pub use head_file::{Differing, GivenSpec, HeadFile};
pub use labels::{Labels, read_labels};
pub use progress::Progress;
pub use upload::upload;
